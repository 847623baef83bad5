"""docs/losses.md: its examples are read as option files are, and its tables name every loss."""

from __future__ import annotations

import re
from typing import get_args

from config.document import parse
from config.schema import TrainingOptions
from losses import ADVERSARIAL, LOSSES, PERCEPTUAL, vgg_weights
from losses.adversarial import GANKind
from tests.pages import DOCS, text_of
from utils.typed import Report, fields_of, read

PAGE = DOCS / "losses.md"


def test_every_example_is_accepted() -> None:
    examples = re.findall(r"^```yaml\n(train:\n.*?)^```", text_of(PAGE), re.MULTILINE | re.DOTALL)
    assert len(examples) == 2
    more = {
        "total_iter": 10,
        "optim_g": {"type": "Adam", "lr": 1e-4},
        "scheduler": {"type": "MultiStepLR", "milestones": [5]},
    }
    for example in examples:
        content = parse(example, PAGE.name).value
        report = Report()
        read({**more, **content["train"]}, TrainingOptions, report)
        assert not report.problems


def test_tables_name_every_loss_its_keys_and_every_place_for_one() -> None:
    text = text_of(PAGE)
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| ([^|]*) \|$", text, re.MULTILINE))
    for name, kind in LOSSES.items():
        own = set(fields_of(kind)) - {"loss_weight", "weight_schedule"}
        assert set(re.findall(r"`(\w+)`", rows[name])) == own, name
    assert {"GANLoss", "PerceptualLoss"} == {*ADVERSARIAL, *PERCEPTUAL}
    assert set(get_args(GANKind)) <= rows.keys()
    places = [key for key in fields_of(TrainingOptions) if key == "losses" or key.endswith("_opt")]
    assert len(places) == 8
    assert all(re.search(rf"^\| [^|]*`{key}`", text, re.MULTILINE) for key in places)


def test_names_of_weight_files_are_those_that_are_looked_for() -> None:
    named = set(re.findall(r"vgg\w+-[0-9a-f]{8}\.pth", text_of(PAGE)))
    assert named == {vgg_weights.FILES["vgg19"], vgg_weights.FILES["vgg16"]}
