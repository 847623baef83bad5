"""``--force_yml``: values as BasicSR reads them where that makes sense, and never more than an edit of text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import config
from config.document import parse
from config.overrides import apply_overrides
from config.schedulers import CosineAnnealingRestartLR
from tests.config.files import TEST, TRAIN, line_of, mistakes, write
from utils.scalars import PlainText
from utils.typed import INVALID, Report, read


def given_value(text: str) -> Any:
    """What ``key=text`` puts into the document."""
    document = apply_overrides(parse("key: 0", "f.yml"), [f"key={text}"])
    assert document.mistakes == ()
    return document.value["key"]


# BasicSR leaves these as they are; here the field's type reads them, quotes are YAML's and nothing is null.
BETTER = {
    "1e-4": (float, 1e-4),
    "-1": (int, -1),
    "-0.5": (float, -0.5),
    "5e3": (float, 5e3),
    '"quoted"': (str, "quoted"),
    "null": (str | None, None),
    "": (str | None, None),
}
KINDS: dict[str, Any] = {"NoneType": str | None, "bool": bool, "int": int, "float": float, "str": str}


@pytest.mark.shared
def test_edits_give_the_recorded_values_of_basicsr(shared: Path) -> None:
    cases = json.loads((shared / "golden/formats/force_yml_values.json").read_text())["cases"]
    for case in cases:
        value = given_value(case["text"])
        if case["type"] == "list":
            kind, expected = Any, case["value"]
        else:
            kind, expected = BETTER.get(case["text"], (KINDS[case["type"]], case["value"]))
        assert read(value, kind, Report()) == expected, case


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a b # c", "a b # c"),
        ("x=y", "x=y"),
        ("{}x4", "{}x4"),
        ("*star", "*star"),
        ("- dash", "- dash"),
        ("a: b", "a: b"),
        (" spaces ", "spaces"),
        ("[1, [a, 'b c']]", ["1", ["a", "b c"]]),
        ("{a: 1, b: {c: !!float 2}}", {"a": "1", "b": {"c": 2.0}}),
        ("!!str 5", "5"),
    ],
)
def test_edits_are_read_by_the_type_of_their_key(text: str, expected: Any) -> None:
    assert given_value(text) == expected


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train:total_iter", "--force_yml train:total_iter: expected key:key=value"),
        ("=3", "--force_yml : expected key:key=value"),
        ("train::total_iter=3", "--force_yml train::total_iter: expected key:key=value"),
        ("trian:total_iter=3", '--force_yml trian:total_iter: there is no "trian" (did you mean "train"?)'),
        ("train:optimg:lr=3", '--force_yml train:optimg:lr: there is no "optimg" in "train" (did you mean "optim_g"?)'),
        ("zzz:lr=3", '--force_yml zzz:lr: there is no "zzz"; known: name, model_type, scale, num_gpu, manual_seed, '),
        (
            "tile:tile_size=128",
            '--force_yml tile:tile_size: there is no "tile"; known: name, model_type, scale, num_gpu, manual_seed, '
            "datasets, network_g, path, train, val, logger; a new section is given whole: tile={tile_size: ...}",
        ),
        ("name:lr=3", '--force_yml name:lr: "name" holds no keys; give it as a whole: name=...'),
        ("train.total_iter=3", '--force_yml train.total_iter: keys are divided by ":", as in train:total_iter=...'),
        ("train:total_iter=[1", "--force_yml train:total_iter: not valid YAML: while parsing a flow sequence"),
        ("train:total_iter=many", '--force_yml train:total_iter: expected a whole number, got "many"'),
        ("train:total_iters=5", '--force_yml train:total_iters: unknown key (did you mean "total_iter"?)'),
        (
            "train:optim_g={type: Addam}",
            '--force_yml train:optim_g: train.optim_g.type: unknown optimizer "Addam" (did',
        ),
        ("name=!!python/name:os.system", "--force_yml name: the tag !!python/name:os.system is not allowed here"),
        ("train:pixel_opt={a: 1, a: 2}", "--force_yml train:pixel_opt: train.pixel_opt.a: given twice"),
    ],
)
def test_mistakes_of_an_edit_are_reported_with_the_edit(tmp_path: Path, override: str, message: str) -> None:
    assert mistakes(write(tmp_path, TRAIN), [override])[0].startswith(message)


def test_mistakes_of_file_and_edits_are_reported_together(tmp_path: Path) -> None:
    path = write(tmp_path, TRAIN.replace("gamma: 0.5", "gama: 0.5"))
    found = mistakes(path, ["train:optm_g:lr=1", "scale=two", "nam=x"])
    assert [line.split(": ")[0] for line in found] == [
        f"options.yml:{line_of(TRAIN, 'gamma')}",
        "--force_yml nam",
        "--force_yml scale",
        "--force_yml train:optm_g:lr",
    ]


def test_edits_take_effect_in_their_order(tmp_path: Path) -> None:
    read_options = config.read(
        write(tmp_path, TRAIN),
        [
            "manual_seed=42",
            "train:optim_g:lr=1e-3",
            "train:optim_g:lr=!!float 5e-4",
            "train:scheduler={type: CosineAnnealingRestartLR, periods: [5000]}",
            "train:scheduler:eta_min=1e-7",
            "val:suffix=a=b",
            "val:metrics:psnr:crop_border=4",
            "path:pretrain_network_g=~",
        ],
        mode="train",
    )
    assert read_options.manual_seed == 42
    assert read_options.train.optim_g.lr == 5e-4
    assert read_options.train.scheduler == CosineAnnealingRestartLR(periods=(5000,), eta_min=1e-7)
    assert read_options.val is not None
    assert read_options.val.suffix == "a=b"
    assert read_options.path.pretrain_network_g is None


def test_an_edit_can_fix_a_mistake_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, TRAIN.replace("total_iter: 5e3", "total_iter: lots"))
    assert config.read(path, ["train:total_iter=100"], mode="train").train.total_iter == 100


KEYS = st.lists(st.text(alphabet="abcd_", min_size=1, max_size=3), min_size=1, max_size=3)
TEXTS = st.text(alphabet="ab =:,.#&*-?|><~'\"%@`é10", max_size=12)


@settings(deadline=None)
@given(KEYS, TEXTS)
def test_quoted_text_of_an_edit_arrives_unchanged(keys: list[str], text: str) -> None:
    nested = "".join(f"{'  ' * depth}{key}:\n" for depth, key in enumerate(keys[:-1]))
    document = parse(nested + "  " * (len(keys) - 1) + "other: 1\n", "f.yml")
    edited = apply_overrides(document, [f"{':'.join(keys)}={json.dumps(text)}"])
    assert edited.mistakes == ()
    assert edited.get(tuple(keys)) == text
    assert edited.get((*keys[:-1], "other")) == "1"
    assert edited.place(tuple(keys)).source == f"--force_yml {':'.join(keys)}"


@settings(deadline=None)
@given(st.integers() | st.floats(allow_nan=False) | st.booleans())
def test_numbers_of_an_edit_arrive_unchanged(value: float) -> None:
    text = str(value).replace("inf", ".inf")
    assert read(given_value(text), type(value), Report()) == value


@settings(deadline=None)
@given(st.text(max_size=30))
def test_any_text_is_an_edit_or_a_mistake(text: str) -> None:
    document = parse("a: {b: 1}\nc: 2\n", "f.yml")
    edited = apply_overrides(document, [text])
    assert edited.mistakes or edited.value != document.value or text.partition("=")[2].strip() in ("{b: 1}", "2")


def test_no_edit_is_evaluated_as_code() -> None:
    for text in ("[__import__('os')]", "__import__('os').getcwd()", "[1 + 1]"):
        value = given_value(text)
        assert read(value, list[int] if isinstance(value, list) else int, Report()) is INVALID
    assert given_value("[1 + 1]") == [PlainText("1 + 1")]


@pytest.mark.parametrize("key", ["val", "tile", "path", "published", "manual_seed"])
def test_a_home_folder_in_place_of_null_is_the_shells_doing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """Bash takes ``val=~`` for an assignment and puts the home folder there."""
    monkeypatch.setenv("HOME", "/home/me")
    found = mistakes(write(tmp_path, TEST), [f"{key}=/home/me"], mode="test")
    assert found == [
        f"--force_yml {key}: the shell has turned ~ into your home folder, /home/me; for null write {key}=null"
    ]
    assert config.read(write(tmp_path, TEST), ["path:results_root=/home/me"], mode="test").path.results_root == Path(
        "/home/me"
    )


@pytest.mark.parametrize("null", ["~", "null", ""])
def test_an_edit_drops_a_data_set_or_a_metric(tmp_path: Path, null: str) -> None:
    path = write(tmp_path, TEST)
    assert list(config.read(path, [f"datasets:test_2={null}"], mode="test").datasets) == ["test_10"]
    found = config.read(write(tmp_path, TRAIN), [f"datasets:val_10={null}", f"val:metrics:psnr={null}"], mode="train")
    assert list(found.datasets) == ["train", "val_2"]
    assert found.val is not None
    assert found.val.metrics == {}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["datasets:test_3=~"],
            '--force_yml datasets:test_3: there is no "test_3" to leave out; known: test_2, test_10',
        ),
        (
            ["datasets:test_2=~", "datasets:test_10=~"],
            "options.yml:5: datasets: expected at least one data set, as in ",
        ),
    ],
)
def test_what_is_dropped_has_to_be_there(tmp_path: Path, overrides: list[str], message: str) -> None:
    (found,) = mistakes(write(tmp_path, TEST), overrides, mode="test")
    assert found.startswith(message)


def test_data_to_train_on_cannot_be_dropped(tmp_path: Path) -> None:
    (found,) = mistakes(write(tmp_path, TRAIN), ["datasets:train=~"])
    assert found.endswith('datasets: the key "train" is missing; expected the data to train on')
