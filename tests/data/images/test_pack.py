from __future__ import annotations

import json
import multiprocessing
import shutil
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.dataset_options import IoBackend
from data.datasets.paired import PairedImageOptions
from data.images.files import read_image, write_image
from data.images.listing import list_pairs
from data.images.names import Names
from data.images.pack import ALIGNMENT, Pack, PackImage, map_shard, open_pack
from data.prepare.pack_writer import write_pack
from data.samples import SampleKey
from tests.data.pictures import forbid, noise, write_folder
from utils.errors import InputError

NAMES = ["a b.png", "b.c.png", "é 漢字.png", "z.png"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_folder(tmp_path / "hr", NAMES)
    return tmp_path / "hr"


def packed(folder: Path, name: str = "hr.pack") -> Path:
    target = folder.parent / name
    write_pack(folder, target, shard_bytes=5000)
    return target


def test_names_hold_what_they_are_given() -> None:
    texts = ["a", "", "é 漢字", "b" * 300]
    names = Names(texts)
    assert (len(names), list(names), names[-1], names[1:3]) == (4, texts, texts[-1], texts[1:3])
    with pytest.raises(IndexError):
        names[4]


def test_packs_hold_the_pixels(folder: Path) -> None:
    grey = noise(9, 7)[..., :1]
    cv2.imwrite(str(folder / "grey.png"), grey)
    pack = Pack(packed(folder))
    assert list(pack.keys) == [Path(name).stem for name in sorted([*NAMES, "grey.png"])]
    assert len(list(pack.folder.glob("shard-*.bin"))) > 1
    assert all(offset % ALIGNMENT == 0 for offset in pack.entries["offset"])
    for number, key in enumerate(pack.keys):
        image = PackImage(pack.folder, number)
        assert np.array_equal(image.read(), read_image(folder / f"{key}.png"))
        assert (image.name, image.label) == (key, f"{pack.folder}: {key}")
        assert not pack.damaged(number)
    assert pack.pixels(list(pack.keys).index("grey")).shape == (9, 7, 1)


def test_pixels_are_read_only_views(folder: Path) -> None:
    image = PackImage(packed(folder), 0).read()
    assert not image.flags.writeable
    assert image.base is not None


def test_a_damaged_image_is_found_when_it_is_first_read(folder: Path) -> None:
    """What is not looked at is not read: a shard damaged elsewhere serves its good images."""
    target = packed(folder)
    with (target / "shard-00000.bin").open("r+b") as file:
        file.seek(10)
        file.write(b"\1\2\3\4")
    pack = Pack(target)
    assert [pack.damaged(i) for i in range(4)] == [True, False, False, False]
    assert pack.pixels(1).shape == (24, 32, 3)
    for _ in range(2):
        with pytest.raises(
            InputError, match=r"hr\.pack: a b: the pixels are damaged \(checksum\); pack the images again"
        ):
            pack.pixels(0)


def test_any_flipped_byte_of_a_pack_is_found_or_harmless(folder: Path, tmp_path: Path) -> None:
    good = packed(folder)
    pixels = [Pack(good).pixels(i).copy() for i in range(4)]
    rng = np.random.default_rng(0)
    found = 0
    for path in sorted(good.iterdir()):
        content = path.read_bytes()
        for place in rng.integers(0, len(content), 60):
            broken = bytearray(content)
            broken[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(broken)
            try:
                pack = Pack(good)
                assert all(np.array_equal(pack.pixels(i), pixels[i]) for i in range(4)), (path, place)
            except InputError as error:
                assert "hr.pack" in str(error)
                found += 1
        path.write_bytes(content)
    assert found > 250


def with_entries(folder: Path, entries: np.ndarray, keys: str = "a\nb\nc\nd\n") -> Path:
    """A pack whose index, with matching checksums, is another."""
    target = packed(folder)
    np.save(target / "entries.npy", entries)
    (target / "keys.txt").write_text(keys, encoding="utf-8")
    index = target / "index.json"
    sums = {name: zlib.crc32((target / name).read_bytes()) for name in ("entries.npy", "keys.txt")}
    index.write_text(json.dumps({**json.loads(index.read_text()), "crc32": sums}))
    return target


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("offset", 2**64 - 64), ("offset", 7488), ("shard", 9), ("height", 0), ("width", 0), ("height", 2**32 - 1),
        ("width", 320), ("channels", 2), ("channels", 0), ("channels", 2**32 - 1),
    ],
)  # fmt: skip
def test_entries_that_lie_outside_of_their_shard_are_named(folder: Path, column: str, value: int) -> None:
    entries = np.array(Pack(packed(folder, "first.pack")).entries)
    entries[column][3] = value
    with pytest.raises(InputError, match=r"hr\.pack: the index does not fit together; pack the images again"):
        Pack(with_entries(folder, entries))


def test_entries_of_another_form_are_named(folder: Path) -> None:
    entries = np.array(Pack(packed(folder, "first.pack")).entries)
    for other in (entries[None], entries["offset"], entries[:3], np.float64(3)):
        with pytest.raises(InputError, match="the index does not fit together"):
            Pack(with_entries(folder, np.asarray(other)))
        shutil.rmtree(folder.parent / "hr.pack")
    objects = np.array([{"a": 1}] * 4, object)
    with pytest.raises(InputError, match=r"entries\.npy: these are no entries of a pack \(.*object"):
        Pack(with_entries(folder, objects))
    shutil.rmtree(folder.parent / "hr.pack")
    with pytest.raises(InputError, match=r"keys\.txt: a name comes twice"):
        Pack(with_entries(folder, entries, "a\nb\na\nd\n"))


def test_an_index_without_end_is_named(folder: Path) -> None:
    index = packed(folder) / "index.json"
    index.write_text("[" * 200_000)
    with pytest.raises(InputError, match=r"index\.json: the index is damaged"):
        Pack(index.parent)


def read_in_child(folder: Path, connection: multiprocessing.connection.Connection) -> None:
    connection.send(int(PackImage(folder, 1).read().sum()))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_reads_too(folder: Path) -> None:
    target = packed(folder)
    expected = int(PackImage(target, 1).read().sum())
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=read_in_child, args=(target, there))
    process.start()
    assert here.poll(20)
    assert here.recv() == expected
    process.join()


def test_what_is_no_pack_is_named(folder: Path, tmp_path: Path) -> None:
    good = packed(folder)

    def broken(name: str) -> Path:
        copy = tmp_path / f"{name}.pack"
        shutil.copytree(good, copy)
        return copy

    with pytest.raises(InputError, match=r"gone\.pack does not exist"):
        open_pack(tmp_path / "gone.pack")
    (tmp_path / "empty.pack").mkdir()
    with pytest.raises(InputError, match="its packing was not finished"):
        Pack(tmp_path / "empty.pack")
    other = broken("version")
    header = json.loads((other / "index.json").read_text())
    (other / "index.json").write_text(json.dumps({**header, "version": 7}))
    with pytest.raises(InputError, match="a pack of version 7, but 1 is read here; pack the images again"):
        Pack(other)
    (other / "index.json").write_text('{"format": "something"}')
    with pytest.raises(InputError, match="no index of a pack"):
        Pack(other)
    (other / "index.json").write_text("{")
    with pytest.raises(InputError, match="the index is damaged"):
        Pack(other)
    keys = broken("keys")
    (keys / "keys.txt").write_text("other\n")
    with pytest.raises(InputError, match=r"keys\.txt: a part of the pack is damaged \(checksum\)"):
        Pack(keys)
    (keys / "keys.txt").unlink()
    with pytest.raises(InputError, match=r"keys\.txt: a part of the pack cannot be read"):
        Pack(keys)
    short = broken("short")
    with (short / "shard-00000.bin").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(InputError, match=r"shard-00000\.bin is cut short \(100 of "):
        Pack(short)
    (short / "shard-00000.bin").unlink()
    with pytest.raises(InputError, match=r"shard-00000\.bin is missing"):
        Pack(short)


def test_pairs_of_packs(folder: Path, tmp_path: Path) -> None:
    for name in NAMES:
        write_image(tmp_path / "lr" / f"{Path(name).stem}x2.png", noise(12, 16))
    gt, lq = packed(folder), packed(tmp_path / "lr", "lr.pack")
    pairs = list_pairs([gt], [lq], [], "{}x2")
    assert [pair.lq and pair.lq.name for pair in pairs] == [f"{Path(name).stem}x2" for name in sorted(NAMES)]
    with pytest.raises(InputError, match="do not pair"):
        list_pairs([gt], [lq], [], "{}x3")
    with pytest.raises(InputError, match="store both in one way"):
        list_pairs([gt], [tmp_path / "lr"], [], "{}x2")
    listing = tmp_path / "list.txt"
    listing.write_text("z.png (24,32,3)\na b.png (24,32,3)\n")
    assert [pair.gt.name for pair in list_pairs([gt], [lq], [listing], "{}x2")] == ["z", "a b"]
    listing.write_text("nobody.png (24,32,3)\n")
    with pytest.raises(InputError, match=r"lists images that do not exist \(1\): .*hr\.pack: nobody"):
        list_pairs([gt], [], [listing], "{}")


def test_patches_are_those_of_the_files(folder: Path) -> None:
    target = packed(folder)
    files, pack = (
        PairedImageOptions(name="T", dataroot_gt=root, gt_size=8, io_backend=backend).training_set(2, 3)
        for root, backend in ((folder, IoBackend(type="disk")), (target, IoBackend(type="pack")))
    )
    for position in range(12):
        one, two = (dataset.sample(SampleKey(0, position, position % 4)) for dataset in (files, pack))
        assert one.lq.equal(two.lq)
        assert one.gt is not None
        assert two.gt is not None
        assert one.gt.equal(two.gt)


def test_backends_are_told_apart(folder: Path) -> None:
    target = packed(folder)
    with pytest.raises(InputError, match=r"hr\.pack is a pack; set io_backend: \{type: pack\}"):
        PairedImageOptions(name="T", dataroot_gt=target, gt_size=8).training_set(2)
    options = PairedImageOptions(name="T", dataroot_gt=folder, gt_size=8, io_backend=IoBackend(type="pack"))
    with pytest.raises(InputError, match=r"io_backend pack expects folders NAME\.pack"):
        options.training_set(2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": None}, "the index is damaged"),
        ({"images": "4"}, "the index is damaged"),
        ({"shards": {}}, "the index is damaged"),
        ({"shards": ["1", "2"]}, "the index is damaged"),
        ({"shards": None}, "the index is damaged"),
        ({"crc32": {"keys.txt": 1}}, "the index is damaged"),
        ({"crc32": None}, "the index is damaged"),
        ({"images": 7}, "does not fit together"),
        ({"shards": [7488]}, "does not fit together"),
        ({"shards": []}, "does not fit together"),
    ],
)
def test_damaged_indices_are_named(folder: Path, change: dict[str, object], message: str) -> None:
    index = packed(folder) / "index.json"
    header = {**json.loads(index.read_text()), **change}
    index.write_text(json.dumps({key: value for key, value in header.items() if value is not None}))
    with pytest.raises(InputError, match=rf"hr\.pack.*{message}.*pack the images again"):
        Pack(index.parent)


def test_shards_that_are_too_long_are_named(folder: Path) -> None:
    target = packed(folder)
    with (target / "shard-00001.bin").open("ab") as file:
        file.write(b"more")
    with pytest.raises(InputError, match=r"shard-00001\.bin is too long \([\d,]+ instead of [\d,]+ bytes\)"):
        Pack(target)


@pytest.mark.parametrize(
    ("method", "name"), [("stat", "index.json"), ("open", "index.json"), ("stat", "shard-00000.bin")]
)
def test_packs_without_permission(folder: Path, method: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target = packed(folder)
    forbid(monkeypatch, method, target / name)
    with pytest.raises(InputError, match=f"{name}: the file cannot be read: Permission denied"):
        Pack(target)


def test_shards_without_permission(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = packed(folder)

    def refused(path: Path, *arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(np, "memmap", refused)
    with pytest.raises(InputError, match=r"shard-00000\.bin: the file cannot be read: Permission denied"):
        map_shard(target, 0, (target / "shard-00000.bin").stat().st_size)
