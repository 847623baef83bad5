"""Recipes: stages from option files, weights passed from one to the next, mistakes reported where they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from config.recipe import Recipe, read_recipe
from tests.config.files import GAN, TEST, TRAIN, write
from tests.runs import ROOT
from utils.errors import InputError

RECIPES = sorted((ROOT / "options/recipes").glob("*.yml"))
CHAIN = """\
name: chain
stages:
  first:
    opt: train.yml
    options: {name: one}
  second:
    opt: train.yml
    start_from: first
    options:
      name: two
      train: {total_iter: 7}
  third:
    opt: train.yml
    start_from: second
    weights: best
    options: {name: three}
  other:
    opt: train.yml
    options: {name: four}
"""


def recipe(folder: Path, text: str = CHAIN, overrides: tuple[str, ...] = ()) -> Recipe:
    write(folder, TRAIN, "train.yml")
    return read_recipe(write(folder, text, "recipe.yml"), overrides)


def starts(found: Recipe) -> list[str | None]:
    paths = [stage.options.path.pretrain_network_g for stage in found.stages]
    return [None if path is None else path.as_posix() for path in paths]


def test_each_stage_starts_from_the_weights_of_an_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    found = recipe(tmp_path)
    assert [stage.name for stage in found.stages] == ["first", "second", "third", "other"]
    assert [stage.options.train.total_iter for stage in found.stages] == [5000, 7, 5000, 5000]
    assert starts(found) == [
        "/home/me/w.pth",
        "experiments/one/models/net_g_latest.pth",
        "experiments/two/models/net_g_best.pth",
        "/home/me/w.pth",
    ]


def test_edits_apply_to_all_stages_or_to_one(tmp_path: Path) -> None:
    found = recipe(tmp_path, overrides=("train:optim_g:lr=1", "second:train:optim_g:lr=2", "path:experiments_root=x y"))
    assert [stage.options.train.optim_g.lr for stage in found.stages] == [1, 2, 1, 1]
    assert starts(found)[1] == "x y/one/models/net_g_latest.pth"


def test_only_keeps_stages_and_those_that_they_start_from(tmp_path: Path) -> None:
    found = recipe(tmp_path)
    assert [stage.name for stage in found.only(["third"]).stages] == ["first", "second", "third"]
    assert [stage.name for stage in found.only(["other"]).stages] == ["other"]
    assert [stage.name for stage in found.after("second")] == ["second", "third"]
    with pytest.raises(InputError, match=r'the recipe chain has no stage "secnd" \(did you mean "second"\?\)'):
        found.only(["secnd"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("start_from: first", "start_from: frst", r'recipe\.yml:8: stages\.second\.start_from: .*mean "first"'),
        ("start_from: first", "start_from: third", r"recipe\.yml:8: .*expected an earlier stage"),
        ("start_from: first", "strat_from: first", r'recipe\.yml:8: stages\.second\.strat_from: .*mean "start_from"'),
        ("total_iter: 7", "total_iter: x", r"recipe\.yml:11: train\.total_iter: expected a whole number"),
        ("total_iter: 7", "total_itr: 7", r'recipe\.yml:11: train\.total_itr: unknown key.*mean "total_iter"'),
        (
            "opt: train.yml\n    start_from: first",
            "opt: tain.yml",
            r'recipe\.yml:7: .*opt: .*tain\.yml: no such.*"train',
        ),
        ("    start_from: second\n", "", r"recipe\.yml:14: .*weights: says which weights"),
        ("name: two", "name: one", r'recipe\.yml:6: stages\.second: runs as "one", as the stage first does'),
        ("  other:", "  train:", r'recipe\.yml:17: stages\.train: a stage cannot be called "train"'),
        ("name: chain\n", "", r"recipe\.yml:1: .*name"),
    ],
)
def test_mistakes_of_a_recipe_are_reported_with_their_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in CHAIN
    with pytest.raises(InputError, match=message):
        recipe(tmp_path, CHAIN.replace(old, new, 1))


def test_mistakes_of_a_stage_s_option_file_are_reported_with_that_file(tmp_path: Path) -> None:
    write(tmp_path, TRAIN.replace("gamma", "gama"), "train.yml")
    with pytest.raises(InputError, match=r"train\.yml:\d+: train\.scheduler\.gama"):
        read_recipe(write(tmp_path, CHAIN, "recipe.yml"))


PHOTOS = """\
name: photos
stages:
  pixels:
    opt: train.yml
    options: {name: pixels, scale: 4, network_g: {scale: 4}, train: {ema_decay: 0.9}}
  judged:
    opt: gan.yml
    start_from: pixels
    options: {name: judged}
  longer:
    opt: gan.yml
    start_from: judged
    weights: best
    options: {name: longer, network_d: {skip_connection: true}}
  other:
    opt: gan.yml
    start_from: judged
    options: {name: other, network_d: {num_feat: 8}}
"""


def test_a_discriminator_starts_from_that_of_the_stage_before_if_it_trains_the_same(tmp_path: Path) -> None:
    write(tmp_path, GAN, "gan.yml")
    found = recipe(tmp_path, PHOTOS)
    assert [stage.inherited for stage in found.stages] == [(), ("g",), ("g", "d"), ("g",)]
    assert starts(found)[1:] == [
        "experiments/pixels/models/net_g_latest.pth",
        "experiments/judged/models/net_g_best.pth",
        "experiments/judged/models/net_g_latest.pth",
    ]
    second, third, fourth = (stage.options.path for stage in found.stages[1:])
    assert second.pretrained_g is not None
    assert second.pretrained_g.key is None, "the EMA weights, where there are some"
    assert (second.pretrain_network_d, fourth.pretrain_network_d) == (None, None)
    assert third.pretrained_d is not None
    assert (third.pretrained_d.path.as_posix(), third.pretrained_d.key) == (
        "experiments/judged/models/net_d_latest.pth", "params"
    )  # fmt: skip
    again = recipe(tmp_path, PHOTOS, ("longer:path:pretrain_network_d=null",))
    assert again.stage("longer").options.path.pretrain_network_d is None


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_our_recipes_pass_on_the_weights_that_the_option_files_name(path: Path) -> None:
    """The weights that a stage gets are those that its option file names on its own."""
    found = read_recipe(path)
    assert found.name == path.stem
    for stage in found.stages:
        written = stage.option_file.read_text()
        start = stage.options.path.pretrain_network_g
        if not path.stem.startswith("demo"):
            assert (start is None) == (stage.start_from is None)
            assert start is None or f"pretrain_network_g: {start.as_posix()}\n" in written


@pytest.mark.parametrize(("text", "program"), [(TRAIN, "train.py"), (TEST, "test.py")])
def test_an_option_file_is_no_recipe(tmp_path: Path, text: str, program: str) -> None:
    path = write(tmp_path, text, "run.yml")
    with pytest.raises(InputError, match=rf"run\.yml: this is no recipe, .* python {program} -opt .*run\.yml$"):
        read_recipe(path)


def test_null_drops_a_stage(tmp_path: Path) -> None:
    found = recipe(tmp_path, CHAIN[: CHAIN.index("  other:")] + "  other: ~\n")
    assert [stage.name for stage in found.stages] == ["first", "second", "third"]
