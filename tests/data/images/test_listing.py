from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from data.images.listing import Pair, PairingError, list_pairs, list_singles, meta_names
from tests.data.pictures import forbid, write_folder
from utils.errors import InputError


def names(pairs: Sequence[Pair]) -> list[tuple[str, str | None]]:
    return [(Path(gt.label).name, None if lq is None else Path(lq.label).name) for gt, lq in pairs]


def test_folders_pair_by_name(tmp_path: Path) -> None:
    write_folder(tmp_path / "hr", ["b.png", "a.png", "c d.png"])
    write_folder(tmp_path / "lr", ["ax4.png", "bx4.png", "c dx4.png"])
    pairs = list_pairs([tmp_path / "hr"], [tmp_path / "lr"], [], "{}x4")
    assert names(pairs) == [("a.png", "ax4.png"), ("b.png", "bx4.png"), ("c d.png", "c dx4.png")]
    assert [pair.lq.name for pair in pairs if pair.lq] == ["ax4", "bx4", "c dx4"]


def test_low_resolution_files_may_be_of_another_kind(tmp_path: Path) -> None:
    write_folder(tmp_path / "hr", ["a.jpg", "b.png"])
    write_folder(tmp_path / "lr", ["a.png", "b.png", "b.bmp"][:2])
    assert names(list_pairs([tmp_path / "hr"], [tmp_path / "lr"], [], "{}")) == [("a.jpg", "a.png"), ("b.png", "b.png")]


def test_high_resolution_alone(tmp_path: Path) -> None:
    write_folder(tmp_path, ["b.png", "a.png"])
    assert names(list_pairs([tmp_path], [], [], "{}")) == [("a.png", None), ("b.png", None)]


def test_several_folders_keep_their_order(tmp_path: Path) -> None:
    write_folder(tmp_path / "2", ["b.png"])
    write_folder(tmp_path / "1", ["a.png"])
    write_folder(tmp_path / "2lr", ["b.png"])
    write_folder(tmp_path / "1lr", ["a.png"])
    pairs = list_pairs([tmp_path / "2", tmp_path / "1"], [tmp_path / "2lr", tmp_path / "1lr"], [], "{}")
    assert names(pairs) == [("b.png", "b.png"), ("a.png", "a.png")]


def test_what_does_not_pair_is_listed_on_both_sides(tmp_path: Path) -> None:
    write_folder(tmp_path / "hr", [f"{i}.png" for i in range(8)])
    write_folder(tmp_path / "lr", ["0.png", "1x4.png", "surplus.png"])
    with pytest.raises(InputError) as caught:
        list_pairs([tmp_path / "hr"], [tmp_path / "lr"], [], "{}")
    message = str(caught.value)
    assert "do not pair" in message
    assert "(8)" in message
    assert "(3)" in message
    assert "7 high-resolution without low-resolution: 1.png (expected 1.png), 2.png" in message
    assert "5.png (expected 5.png), ..." in message
    assert "6.png" not in message
    assert "2 low-resolution without high-resolution: 1x4.png, surplus.png\n" in message
    assert "filename_tmpl" in message
    assert isinstance(caught.value, PairingError)
    assert caught.value.unpaired == (
        *(f"{tmp_path / 'hr'}/{i}.png: has no partner {i}.png in {tmp_path / 'lr'}" for i in range(1, 8)),
        *(
            f"{tmp_path / 'lr'}/{name}: is no partner of an image in {tmp_path / 'hr'}"
            for name in ("1x4.png", "surplus.png")
        ),
    )


def test_surplus_low_resolution_images_do_not_pair(tmp_path: Path) -> None:
    write_folder(tmp_path / "hr", ["a.png"])
    write_folder(tmp_path / "lr", ["a.png", "b.png"])
    with pytest.raises(InputError, match=r"1 low-resolution without high-resolution: b\.png"):
        list_pairs([tmp_path / "hr"], [tmp_path / "lr"], [], "{}")


@pytest.mark.parametrize("side", ["hr", "lr"])
def test_missing_and_empty_folders_are_named(tmp_path: Path, side: str) -> None:
    other = "lr" if side == "hr" else "hr"
    write_folder(tmp_path / other, ["a.png"])
    with pytest.raises(InputError, match=f"{side} does not exist"):
        list_pairs([tmp_path / "hr"], [tmp_path / "lr"], [], "{}")
    (tmp_path / side).mkdir()
    with pytest.raises(InputError, match=f"{side} holds no images"):
        list_pairs([tmp_path / "hr"], [tmp_path / "lr"], [], "{}")


def test_lists_of_names(tmp_path: Path) -> None:
    meta = tmp_path / "meta.txt"
    meta.write_text(
        "\ufeff0001_s001.png (480,480,3)\n\nsub/a b.png (8,10,3) 1\nplain.png\nword.png 7\ngrey.png  (4, 5)\n"
        "q (480,480,3).png (480,480,3)\n",
        "utf-8",
    )
    names = ["0001_s001.png", "sub/a b.png", "plain.png", "word.png", "grey.png", "q (480,480,3).png"]
    assert meta_names(meta) == names
    meta.write_text("\n")
    with pytest.raises(InputError, match="empty"):
        meta_names(meta)
    with pytest.raises(InputError, match="no such file"):
        meta_names(tmp_path / "gone.txt")


def test_listed_pairs_keep_the_order_of_the_list(tmp_path: Path) -> None:
    write_folder(tmp_path / "hr", ["a.png", "sub/b.png", "unlisted.png"])
    write_folder(tmp_path / "lr", ["ax2.png", "bx2.png"])
    meta = tmp_path / "meta.txt"
    meta.write_text("sub/b.png (24,32,3)\na.png (24,32,3)\n")
    pairs = list_pairs([tmp_path / "hr"], [tmp_path / "lr"], [meta], "{}x2")
    assert names(pairs) == [("b.png", "bx2.png"), ("a.png", "ax2.png")]
    assert [image.name for image in list_singles([tmp_path / "hr"], [meta])] == ["b", "a"]


def test_listed_images_that_do_not_exist_are_named(tmp_path: Path) -> None:
    write_folder(tmp_path / "hr", ["a.png"])
    meta = tmp_path / "meta.txt"
    meta.write_text("a.png\n" + "".join(f"gone{i}.png\n" for i in range(7)))
    with pytest.raises(
        InputError, match=r"meta\.txt lists images that do not exist \(7\): .*gone0\.png.*gone4\.png, \.\.\."
    ):
        list_pairs([tmp_path / "hr"], [], [meta], "{}")


def test_singles_are_sorted(tmp_path: Path) -> None:
    write_folder(tmp_path, ["b.png", "a.png"])
    assert [image.name for image in list_singles([tmp_path], [])] == ["a", "b"]


def test_listed_images_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = write_folder(tmp_path / "hr", ["a.png"])
    (tmp_path / "meta.txt").write_text("a.png\n")
    forbid(monkeypatch, "stat", path)
    with pytest.raises(InputError, match=r"a\.png: the file cannot be read: Permission denied"):
        list_pairs([tmp_path / "hr"], [], [tmp_path / "meta.txt"], "{}")
