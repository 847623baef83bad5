"""YAML text with places: what the reader of option files builds on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from config.bases import load
from config.document import Document, parse
from utils.errors import InputError
from utils.scalars import PlainText, plain_value


def parsed(text: str) -> Document:
    return parse(text, "f.yml")


def failure(text: str) -> str:
    with pytest.raises(InputError) as caught:
        parsed(text)
    return str(caught.value)


def test_scalars_stay_as_they_were_written() -> None:
    value = parsed("a: 2e-4\nb: '2e-4'\nc: !!float 2e-4\nd:\ne: ~\nf: !!int 1_000\ng: !!str yes\nh: !!bool yes").value
    assert {key: (type(item), item) for key, item in value.items()} == {
        "a": (PlainText, "2e-4"),
        "b": (str, "2e-4"),
        "c": (float, 2e-4),
        "d": (PlainText, ""),
        "e": (PlainText, "~"),
        "f": (int, 1000),
        "g": (str, "yes"),
        "h": (PlainText, "yes"),
    }


def test_characters_that_json_escapes_in_two_halves_are_read() -> None:
    assert parsed(json.dumps({"a": "𐀀 é"})).value == {"a": "𐀀 é"}


def test_every_key_and_item_knows_its_line() -> None:
    document = parsed("a:\n  b: 1\n  c:\n  - 1\n  - d: 2\n# comment\ne: {f: 1,\n  g: 2}\n")
    lines = {path: place.line for path, place in document.places.items()}
    assert lines == {
        ("a",): 1,
        ("a", "b"): 2,
        ("a", "c"): 3,
        ("a", "c", 0): 4,
        ("a", "c", 1): 5,
        ("a", "c", 1, "d"): 5,
        ("e",): 7,
        ("e", "f"): 7,
        ("e", "g"): 8,
    }
    assert str(document.place(("a", "missing"))) == "f.yml:1"
    assert str(document.place(("missing",))) == "f.yml:1"


def test_a_key_given_twice_is_a_mistake() -> None:
    mistakes = parsed("a:\n  b: 1\n  c: 2\n  b: 3\n").mistakes
    assert [str(mistake) for mistake in mistakes] == ["f.yml:4: a.b: given twice (first in line 2); keep one of them"]


def test_anchors_and_merge_keys_are_resolved_with_their_lines() -> None:
    document = parsed(
        "base: &base {p: 1, q: 2}\n"
        "more: &more\n"
        "  q: 8\n"
        "  r: {s: 9}\n"
        "one:\n"
        "  <<: *base\n"
        "  q: 3\n"
        "two:\n"
        "  <<: [*base, *more]\n"
        "three: *base\n"
    )
    assert document.mistakes == ()
    assert document.value["one"] == {"q": "3", "p": "1"}
    assert document.value["two"] == {"p": "1", "q": "2", "r": {"s": "9"}}
    assert document.value["three"] == document.value["base"]
    assert document.places["two", "r", "s"].line == 4
    assert document.places["one", "q"].line == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a:\n  b: !!python/object/apply:os.system ['true']\n",
            "f.yml:2: a.b: the tag !!python/object/apply:os.system",
        ),
        ("a: !!python/name:os.system\n", "f.yml:1: a: the tag !!python/name:os.system"),
        ("a:\n- !!timestamp 2001-01-01\n", "f.yml:2: a[0]: the tag !!timestamp is not allowed here; known: !!str, "),
        ("a: !own {b: 1}\n", "f.yml:1: a: the tag !own is not allowed here; remove it"),
        ("a: !!float fast\n", "f.yml:1: a: 'fast' is no !!float"),
        ('a: "\\ud83d"\n', r"f.yml:1: a: '\ud83d' is no !!str"),
        ("a: 1\n? [b]\n: 2\n", "f.yml:2: expected a name as key, got a list or a mapping"),
        ("a:\n  <<: 3\n", "f.yml:2: a.<<: expected mappings to merge, as in '<<: *anchor'"),
        ("a: &x [1, *x]\n", "f.yml:1: a[1]: the alias stands inside of what it refers to"),
        ("a: &x {<<: *x}\n", "f.yml:1: a: the alias stands inside of what it refers to"),
    ],
)
def test_keys_and_tags_that_cannot_be_are_mistakes(text: str, message: str) -> None:
    (mistake,) = parsed(text).mistakes
    assert str(mistake).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a:\n\tb: 1\n", "f.yml:2: not valid YAML: while scanning for the next token, found character '\\t'"),
        ("a: 1\nb: c: d\n", "f.yml:2: not valid YAML: mapping values are not allowed here (check the indentation;"),
        ("a: 1\n b: 2\n", "f.yml:2: not valid YAML: mapping values are not allowed here"),
        ("a:\n  b: 1\n c: 2\n", "f.yml:3: not valid YAML: while parsing a block mapping, expected <block end>, "),
        ("a: *b\n", "f.yml:1: not valid YAML: found undefined alias 'b' (the anchor &name has to stand above its use"),
        ("a: 1\n---\nb: 1\n", "f.yml:2: not valid YAML: expected a single document"),
        ('a: 1\nb: "\\UFFFFFFFF"\n', "f.yml:2: not valid YAML: this escape stands for no character"),
        ("a: 1\nb: \x01\n", "f.yml:2: not valid YAML: the character '\\x01'"),
        ("", "f.yml: the file is empty"),
        ("# nothing\n", "f.yml: the file is empty"),
        ("- a\n", "f.yml:1: expected options as 'key: value' lines"),
        ("# text\nhello\n", "f.yml:2: expected options as 'key: value' lines"),
        ("a: " + "[" * 60 + "]" * 60, "f.yml:1: nested too deeply"),
        ("a: " + "[" * 1000, "f.yml:1: nested too deeply"),
    ],
)
def test_text_that_is_no_yaml_is_refused_with_its_line(text: str, message: str) -> None:
    assert failure(text).startswith(message)


def test_aliases_of_aliases_do_not_fill_the_memory() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    assert "more than 20000 entries, counting aliases" in failure("\n".join(lines))


def test_a_large_file_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    (tmp_path / "large.yml").write_text("a: 1\n" * 300_000)
    with pytest.raises(InputError, match="the option file cannot be read: it has 1,500,000 bytes; at most 1,048,576"):
        load(tmp_path / "large.yml")


@pytest.mark.parametrize("text", ["".join(f"k{i}: 1\n" for i in range(40_000)), f"a: [{'1, ' * 50_000}]"])
def test_a_text_of_many_entries_is_refused_before_it_is_read_to_its_end(text: str) -> None:
    assert "more than 20000 entries" in failure(text)


def test_what_is_merged_again_and_again_takes_no_longer() -> None:
    """Each key of a merged mapping once cost a look at all of its keys."""
    document = parsed("x: &x\n" + "".join(f"  k{i}: 1\n" for i in range(4_000)) + "y: {<<: *x}\nz: {<<: [*x, *x]}\n")
    assert document.value["z"] == document.value["x"]
    assert document.place(("z", "k3999")).line == 4001


def test_files_are_read_as_utf_8_and_misspelt_names_are_suggested(tmp_path: Path) -> None:
    (tmp_path / "train_x4.yml").write_bytes("\ufeffa: größe\n".encode())
    assert load(tmp_path / "train_x4.yml").value == {"a": "größe"}
    with pytest.raises(InputError, match=r"train_x5\.yml: no such option file \(did you mean \"train_x4\.yml\"\?\)"):
        load(tmp_path / "train_x5.yml")
    (tmp_path / "t.yml").write_text("a: 1\n")
    for absent in ("missing/train_x5.yml", "nothere.yml", "s.yml"):
        with pytest.raises(InputError, match=r"no such option file$"):
            load(tmp_path / absent)
    with pytest.raises(InputError, match="expected an option file, this is a folder"):
        load(tmp_path)
    (tmp_path / "picture.yml").write_bytes(b"a: 1\n\x89PNG\xff")
    with pytest.raises(InputError, match=r"picture\.yml:2: not a text file in UTF-8"):
        load(tmp_path / "picture.yml")


YAMLISH = st.text(alphabet="ab1.e-: \n\t[]{},&*<!?|>'\"#%@~\\\u2028\x01é", max_size=40)


@given(YAMLISH)
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        document = parsed(text)
    except InputError as error:
        assert str(error).startswith("f.yml:")
    else:
        assert all(path and place.line >= 1 for path, place in document.places.items())


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=5), VALUES, min_size=1, max_size=4))
def test_what_pyyaml_writes_is_what_we_read(value: dict[str, Any]) -> None:
    """Quoted texts stay texts; the meaning of plain ones is left to the types, here to the guess for unknown ones."""
    document = parsed(yaml.safe_dump(value))
    assert document.mistakes == ()
    assert _guess(document.value) == _guess(value)


def _guess(value: Any) -> Any:
    """Both sides with the texts that PyYAML writes plain but that look like numbers to us made comparable."""
    if isinstance(value, dict):
        return {key: _guess(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_guess(item) for item in value]
    return plain_value(PlainText(value)) if isinstance(value, str) else value
