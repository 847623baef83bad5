"""Files that are based on other files: what is merged, who wins, and where mistakes are reported."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import config
from config.bases import dump, load, merge, written
from config.document import parse
from tests.config.files import TRAIN, line_of, mistakes, write
from utils.errors import InputError
from utils.scalars import plain_value


def merged(base: str, own: str) -> Any:
    return plain_value(merge(parse(base, "base.yml"), parse(own, "own.yml")).value)


@pytest.mark.parametrize(
    ("base", "own", "expected"),
    [
        ("a: 1", "b: 2", {"a": 1, "b": 2}),
        ("a: 1", "a: 2", {"a": 2}),
        ("a: {b: {c: 1, d: 2}}", "a: {b: {c: 3}}", {"a": {"b": {"c": 3, "d": 2}}}),
        ("a: [1, 2]", "a: [3]", {"a": [3]}),
        ("a: {b: 1}", "a: ~", {"a": None}),
        ("a: ~", "a: {b: 1}", {"a": {"b": 1}}),
        ("a: {type: X, b: 1}", "a: {type: X, c: 2}", {"a": {"type": "X", "b": 1, "c": 2}}),
        ("a: {type: X, b: 1}", "a: {type: 'X', c: 2}", {"a": {"type": "X", "b": 1, "c": 2}}),
        ("a: {type: X, b: 1}", "a: {c: 2}", {"a": {"type": "X", "b": 1, "c": 2}}),
        ("a: {type: X, b: 1}", "a: {type: Y, c: 2}", {"a": {"type": "Y", "c": 2}}),
    ],
)
def test_keys_of_a_file_are_put_over_those_of_its_base(base: str, own: str, expected: dict[str, object]) -> None:
    assert merged(base, own) == expected


def test_paths_start_from_the_including_file_and_the_later_base_wins(tmp_path: Path) -> None:
    (tmp_path / "common").mkdir()
    write(tmp_path / "common", "a: deep\nb: deep\nc: deep\nd: deep", "deep.yml")
    write(tmp_path / "common", "base: deep.yml\nb: one\nc: one\nd: one", "one.yml")
    write(tmp_path / "common", "base: [deep.yml]\nc: two\nd: two", "two.yml")
    top = write(tmp_path, "base:\n- common/one.yml\n- common/two.yml\nd: top")
    document = load(top)
    # two.yml brings the whole of deep.yml with it, over one.yml.
    assert document.value == {"a": "deep", "b": "deep", "c": "two", "d": "top"}
    assert [Path(file).name for file in document.files] == ["options.yml", "two.yml", "deep.yml", "one.yml"]
    assert {key: document.place((key,)).source for key in "ad"} == {
        "a": str(tmp_path / "common/deep.yml"),
        "d": str(top),
    }


def test_a_file_cut_in_two_means_the_same(tmp_path: Path) -> None:
    whole = config.read(write(tmp_path, TRAIN, "whole.yml"), mode="train")
    head, rest = TRAIN.split("\nnetwork_g:")
    write(tmp_path, "network_g:" + rest, "rest.yml")
    cut = config.read(write(tmp_path, "base: rest.yml\n" + head), mode="train")
    assert cut == whole
    assert [Path(file).name for file in cut.files] == ["options.yml", "rest.yml"]
    overridden = config.read(tmp_path / "options.yml", ["train:optim_g:lr=1"], mode="train")
    assert overridden.train.optim_g.lr == 1


def test_mistakes_are_reported_with_the_file_that_holds_them(tmp_path: Path) -> None:
    common = TRAIN.replace("gamma: 0.5", "gama: 0.5").replace("scale: 2\nnum", "num")
    write(tmp_path, common, "common.yml")
    own = "base: common.yml\nscale: two\nlogger:\n  print_frequ: 3\n"
    found = mistakes(write(tmp_path, own))
    assert [message.split(": ")[:2] for message in found] == [
        ["options.yml:2", "scale"],
        ["options.yml:4", "logger.print_frequ"],
        [f"common.yml:{line_of(common, 'gama')}", "train.scheduler.gama"],
    ]


def test_a_mapping_of_another_type_replaces_that_of_the_base(tmp_path: Path) -> None:
    write(tmp_path, TRAIN, "common.yml")
    own = write(tmp_path, "base: common.yml\ntrain:\n  scheduler: {type: LinearLR, gamma: 0.5}\n")
    assert mistakes(own) == ["options.yml:3: train.scheduler.gamma: unknown key of LinearLR; known: "]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: absent.yml", r"options\.yml:1: base: .*absent\.yml: no such option file"),
        ("a: 1\nbase: [other.yml, othr.yml]", r'options\.yml:2: base\[1\]: .*othr\.yml: no .*mean "other\.yml"'),
        ("a: 1\nbase: options.yml", r"options\.yml:2: base: a file cannot be its own base: .* -> .*options\.yml"),
        ("base: {a: 1}", r"options\.yml:1: base: expected the path of an option file, or a list of them"),
        ("base: ~", r"options\.yml:1: base: expected the path"),
        ("base: [[a]]", r"options\.yml:1: base\[0\]: expected the path"),
        ("base: broken.yml", r"broken\.yml:1: not valid YAML"),
        ("base: circle.yml", r"circle\.yml:1: base: a file cannot be its own base: .*options\.yml -> .*circle.* -> "),
    ],
)
def test_bases_that_are_absent_or_circular_are_refused(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, "a: 1", "other.yml")
    write(tmp_path, "a: [1", "broken.yml")
    write(tmp_path, "base: options.yml", "circle.yml")
    with pytest.raises(InputError, match=message):
        load(write(tmp_path, text))


def test_a_file_that_is_named_again_and_again_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """16 levels, each of which names the one below twice: 65,536 ways lead to the file at the end."""
    write(tmp_path, TRAIN, "level0.yml")
    for level in range(1, 17):
        write(tmp_path, f"base: [level{level - 1}.yml, level{level - 1}.yml]", f"level{level}.yml")
    read: list[str] = []

    def counted(path: Path) -> str:
        read.append(path.name)
        return path.read_text()

    monkeypatch.setattr("config.bases.file_text", counted)
    assert load(tmp_path / "level16.yml").value == load(tmp_path / "level0.yml").value
    assert sorted(read[:-1]) == sorted(f"level{level}.yml" for level in range(17))


def test_bases_without_end_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "a: 1", "level0.yml")
    for level in range(1, 150):
        write(tmp_path, f"base: level{level - 1}.yml", f"level{level}.yml")
    with pytest.raises(InputError, match=r"level49\.yml:1: base: more than 100 bases, counting those of bases"):
        load(tmp_path / "level149.yml")
    with pytest.raises(InputError, match=r"options\.yml:1: base\[100\]: more than 100 bases"):
        load(write(tmp_path, f"base: [{', '.join(['level0.yml'] * 101)}]"))


def test_bases_are_bounded_together(tmp_path: Path) -> None:
    for name in "abc":
        write(tmp_path, "".join(f"{name}{i}: 1\n" for i in range(9_000)), f"{name}.yml")
    with pytest.raises(InputError, match="more than 20000 entries with those of its bases"):
        load(write(tmp_path, "base: [a.yml, b.yml, c.yml]"))


@pytest.mark.parametrize(
    "base", ['"a\\0b.yml"', "x" * 6_000, "x" * 256, f'"{"d/" * 3_000}"', "~nobody-of-that-name/x.yml"]
)
def test_bases_that_no_file_can_be_called_are_refused(tmp_path: Path, base: str) -> None:
    with pytest.raises(InputError, match=r"options\.yml:1: base: expected the path of an option file"):
        load(write(tmp_path, f"base: {base}"))


def test_a_base_that_leads_to_itself_or_far_down_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop.yml").symlink_to(tmp_path / "loop.yml")
    with pytest.raises(InputError, match=r"options\.yml:1: base: .*loop\.yml: the option file cannot be read"):
        load(write(tmp_path, "base: loop.yml"))
    below = "/".join(["d" * 253] * 16)  # a path for itself, but not from this folder
    with pytest.raises(InputError, match=r"options\.yml:1: base: .*\(4,\d+ characters\): the option file cannot"):
        load(write(tmp_path, f"base: {below}"))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pipes in folders")
def test_pipes_and_devices_are_no_option_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yml")
    with pytest.raises(
        InputError, match=r"pipe\.yml: the option file cannot be read: it is a pipe, not a regular file"
    ):
        load(tmp_path / "pipe.yml")
    with pytest.raises(InputError, match=r"options\.yml:1: base: .*pipe\.yml: the option file cannot be read: it is a"):
        load(write(tmp_path, "base: pipe.yml"))
    with pytest.raises(InputError, match="/dev/zero: the option file cannot be read: it is a device"):
        load("/dev/zero")


def test_the_text_of_a_merged_file_stands_alone(tmp_path: Path) -> None:
    plain = write(tmp_path, TRAIN, "common.yml")
    assert written(plain) == TRAIN
    own = write(tmp_path, "base: common.yml\nname: own  # of mine\n")
    text = written(own)
    assert text.startswith(f"# merged from {own}, {plain}\n")
    (tmp_path / "elsewhere").mkdir()
    alone = config.read(write(tmp_path / "elsewhere", text), mode="train")
    assert alone == config.read(own, mode="train")


SCALARS = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=5))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(min_size=1, max_size=4).filter(lambda key: key != "<<"), VALUES, min_size=1, max_size=4))
def test_a_dumped_document_reads_back_with_every_value(value: dict[str, object]) -> None:
    text = yaml.dump(value, allow_unicode=True)
    try:
        document = parse(text, "f.yml")
    except InputError:  # characters that YAML has no way to write
        return
    if not document.mistakes:
        assert plain_value(parse(dump(document), "g.yml").value) == plain_value(document.value)


def test_null_drops_a_mapping_of_the_base(tmp_path: Path) -> None:
    write(tmp_path, TRAIN, "base.yml")
    own = write(tmp_path, "base: base.yml\ndatasets: {val_2: ~}\nval: {metrics: {psnr: ~}}\nlogger: ~\npath: null\n")
    found = config.read(own, mode="train")
    assert list(found.datasets) == ["train", "val_10"]
    assert found.val is not None
    assert found.val.metrics == {}
    assert found.logger == config.schema.LoggerOptions()
    assert found.path == config.schema.PathOptions()


def test_a_test_can_be_based_on_a_training(tmp_path: Path) -> None:
    write(tmp_path, TRAIN, "base.yml")
    own = write(tmp_path, "base: base.yml\ntrain: ~\ndatasets: {train: ~, val_2: ~}\n")
    assert list(config.read(own, mode="test").datasets) == ["val_10"]
