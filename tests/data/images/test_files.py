from __future__ import annotations

import io
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data.images.files import (
    Pixels,
    decode_image,
    encode_image,
    image_size,
    is_file,
    list_images,
    opencv_pixels,
    planes,
    read_image,
    to_tensor,
    to_uint8,
    to_unit,
    write_image,
)
from tests.data.pictures import forbid, noise, png_of, write_folder
from utils.errors import InputError

SMOOTH: Pixels = np.asarray(cv2.GaussianBlur(noise(40, 56), (0, 0), 3), dtype=np.uint8)


def encoded(kind: str, **arguments: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(SMOOTH).save(stream, kind, **arguments)
    return stream.getvalue()


FILES = {
    "png": encoded("PNG"),
    "jpeg": encoded("JPEG"),
    "progressive jpeg": encoded("JPEG", progressive=True),
    "jpeg with restarts": encoded("JPEG", restart_marker_blocks=2),
    "bmp": encoded("BMP"),
    "tiff": encoded("TIFF"),
    "tiff lzw": encoded("TIFF", compression="tiff_lzw"),
    "tiff of opencv": cv2.imencode(".tiff", SMOOTH)[1].tobytes(),
    "webp": encoded("WEBP"),
    "webp lossless": encoded("WEBP", lossless=True),
}


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".bmp", ".tif", ".tiff"])
def test_lossless_files_keep_every_pixel(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "deeper" / f"a{suffix}"
    write_image(path, noise(5, 7))
    assert np.array_equal(read_image(path), noise(5, 7))
    assert image_size(path) == (5, 7)
    assert [item.name for item in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp"])
def test_lossy_files_keep_the_picture(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    write_image(path, SMOOTH)
    assert np.abs(read_image(path).astype(int) - SMOOTH).mean() < 3
    assert image_size(path) == SMOOTH.shape[:2]


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "PA"])
def test_kinds_of_pixels_become_rgb(mode: str) -> None:
    kind = "TIFF" if mode == "PA" else "PNG"
    stream = io.BytesIO()
    picture = Image.fromarray(SMOOTH).convert(mode if mode not in ("PA",) else "P")
    picture.save(stream, kind)
    image = decode_image(stream.getvalue(), mode)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    expected = np.asarray(picture.convert("RGB"))
    assert np.abs(image.astype(int) - expected).max() <= 1


def test_cmyk_jpeg_becomes_rgb() -> None:
    stream = io.BytesIO()
    Image.fromarray(SMOOTH).convert("CMYK").save(stream, "JPEG")
    assert decode_image(stream.getvalue(), "cmyk").shape == SMOOTH.shape


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_sixteen_bits_are_reduced(tmp_path: Path, suffix: str) -> None:
    levels = np.random.default_rng(0).integers(0, 65536, (6, 5, 3), dtype=np.uint16)
    path = tmp_path / f"deep{suffix}"
    path.write_bytes(cv2.imencode(suffix, levels)[1].tobytes())
    image = read_image(path)
    assert image.dtype == np.uint8
    assert np.abs(image.astype(float) - levels[..., ::-1] / 257).max() <= 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_orientation_tag_is_applied(tmp_path: Path, kind: str) -> None:
    tags = Image.Exif()
    tags[0x112] = 6
    path = tmp_path / f"turned.{kind.lower()}"
    path.write_bytes(encoded(kind, exif=tags))
    assert read_image(path).shape == (56, 40, 3)
    assert image_size(path) == (56, 40)


@pytest.mark.parametrize("kind", FILES)
def test_whole_files_are_read(kind: str) -> None:
    assert decode_image(FILES[kind], kind).shape == SMOOTH.shape


@pytest.mark.parametrize("kind", FILES)
@given(share=st.floats(0, 0.98))
def test_truncated_files_are_named(kind: str, share: float) -> None:
    cut = FILES[kind][: int(len(FILES[kind]) * share)]
    with pytest.raises(InputError, match=f"^{kind}: the image cannot be read"):
        decode_image(cut, kind)


@pytest.mark.parametrize("kind", ["jpeg", "progressive jpeg", "png"])
def test_files_padded_after_an_interrupted_copy_are_named(kind: str) -> None:
    data = FILES[kind]
    half = len(data) // 2
    with pytest.raises(InputError, match="cannot be read"):
        decode_image(data[:half] + bytes(len(data) - half), kind)


def test_end_mark_of_a_preview_does_not_hide_truncation() -> None:
    preview = FILES["jpeg"]
    segment = b"\xff\xe1" + (len(preview) + 2).to_bytes(2, "big") + preview
    whole = FILES["jpeg"][:2] + segment + FILES["jpeg"][2:]
    assert decode_image(whole, "a").shape == SMOOTH.shape
    with pytest.raises(InputError, match="cut short"):
        decode_image(whole[:-40], "a")


def test_bytes_after_the_end_are_allowed() -> None:
    for kind in ("png", "jpeg"):
        assert decode_image(FILES[kind] + b"appended by a camera", kind).shape == SMOOTH.shape


def test_a_flipped_bit_is_noticed() -> None:
    data = bytearray(FILES["png"])
    data[len(data) // 2] ^= 16
    with pytest.raises(InputError, match=r"a\.png: .*checksum"):
        decode_image(bytes(data), "a.png")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"not an image at all", "of a kind that is not supported"),
        (b"BM", "cut short"),
        (b"\n<!DOCTYPE html><html>", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
    ],
)
def test_other_content_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "odd.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"odd\.png: .*{words}"):
        read_image(path)


def test_unreadable_paths_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.png: there is no such file"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(InputError, match="cannot be read"):
        image_size(tmp_path)


def test_writing_refuses_what_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.gif"):
        write_image(tmp_path / "a.gif", SMOOTH)
    with pytest.raises(ValueError, match="float64"):
        write_image(tmp_path / "a.png", SMOOTH / 255)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_one_channel_can_be_written(tmp_path: Path) -> None:
    write_image(tmp_path / "grey.png", SMOOTH[..., :1])
    assert np.array_equal(read_image(tmp_path / "grey.png"), np.repeat(SMOOTH[..., :1], 3, axis=2))


def test_images_are_listed_in_order(tmp_path: Path) -> None:
    write_folder(tmp_path, ["b.png", "a10.png", "a2.PNG", ".hidden.png", "sub/c.png"])
    (tmp_path / "Thumbs.db").write_bytes(b"")
    assert [path.name for path in list_images(tmp_path)] == ["a10.png", "a2.PNG", "b.png"]


def test_images_are_listed_whatever_they_are_called(tmp_path: Path, log: list[str]) -> None:
    for name, kind in {"a.jfif": "jpeg", "b": "png", "c.dat": "webp", "d.txt": "png", "e.JPE": "jpeg"}.items():
        (tmp_path / name).write_bytes(FILES[kind])
    (tmp_path / "Thumbs.db").write_bytes(b"x")
    assert [path.name for path in list_images(tmp_path)] == ["a.jfif", "b", "c.dat", "e.JPE"]
    assert not log


def test_pictures_that_cannot_be_read_are_left_out_and_reported(tmp_path: Path, log: list[str]) -> None:
    write_folder(tmp_path, ["a.png"])
    for number in range(7):
        (tmp_path / f"{number}.heic").write_bytes(b"")
    (tmp_path / "raw.NEF").write_bytes(FILES["tiff"])
    assert [path.name for path in list_images(tmp_path)] == ["a.png"]
    assert log == [
        f"the folder {tmp_path}: 7 HEIC pictures cannot be read and are left out: 0.heic, 1.heic, 2.heic, 3.heic, "
        "4.heic, ...; save it as PNG first",
        f"the folder {tmp_path}: 1 camera RAW picture cannot be read and is left out: raw.NEF; develop it to a TIFF or "
        "PNG file of 16 bits first",
    ]
    (tmp_path / "a.png").unlink()
    with pytest.raises(InputError, match=r"holds no images that can be read: 7 HEIC pictures .*; 1 camera RAW picture"):
        list_images(tmp_path)


def test_sub_folders_that_hold_the_images_are_named(tmp_path: Path) -> None:
    write_folder(tmp_path, ["x/a.png", "x/b.png", "y/deeper/c.png", ".hidden/d.png"])
    (tmp_path / "z").mkdir()
    (tmp_path / "z/notes.txt").write_text("x")
    where = f"({tmp_path}/x, {tmp_path}/y/deeper)"
    with pytest.raises(InputError, match=re.escape(f"no images, but its sub-folders do {where}; name one of them")):
        list_images(tmp_path)


def test_folders_without_images_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no images"):
        list_images(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match=r"1 other files, such as notes\.txt"):
        list_images(tmp_path)
    with pytest.raises(InputError, match="is a file, not a folder"):
        list_images(tmp_path / "notes.txt")
    with pytest.raises(InputError, match="does not exist"):
        list_images(tmp_path / "nowhere")


def test_eight_bits_survive_the_round_trip() -> None:
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    tensor = to_tensor(levels)
    assert tensor.shape == (3, 16, 16)
    assert tensor.dtype == torch.float32
    assert np.array_equal(tensor.numpy().transpose(1, 2, 0), levels.astype(np.float32) / np.float32(255))
    assert np.array_equal(to_uint8(tensor), levels)
    assert to_unit(planes(levels)).equal(tensor)


def test_rounding_leaves_the_tensor_alone() -> None:
    tensor = torch.tensor([-0.5, 0.5 / 255, 1.5 / 255, 1.7], dtype=torch.float64).view(1, 1, 2, 2)
    before = tensor.clone()
    assert to_uint8(tensor).ravel().tolist() == [0, 0, 2, 255]
    assert tensor.equal(before)
    assert to_uint8(torch.rand(3, 2, 2, requires_grad=True)).shape == (2, 2, 3)
    with pytest.raises(ValueError, match="one image"):
        to_uint8(torch.zeros(2, 3, 4, 4))
    for bad in (torch.nan, torch.inf):
        with pytest.raises(ValueError, match=r"to_uint8: the image \[3, 2, 2\] holds values that are NaN or infinite"):
            to_uint8(torch.full((3, 2, 2), bad))


@pytest.mark.shared
def test_rounding_of_basicsr(shared: Path) -> None:
    golden = json.loads((shared / "golden/formats/tensor2img.json").read_text())
    values = torch.tensor(golden["values"], dtype=torch.float32).view(1, 1, -1)
    assert to_uint8(values).ravel().tolist() == golden["uint8"]


def test_links_to_nowhere_are_named(tmp_path: Path) -> None:
    write_folder(tmp_path, ["a.png"])
    (tmp_path / "b.png").symlink_to("a.png")
    (tmp_path / "gone.txt").symlink_to("nowhere.txt")
    assert [path.name for path in list_images(tmp_path)] == ["a.png", "b.png"]
    (tmp_path / "c.png").symlink_to("nowhere.png")
    (tmp_path / "0.png").symlink_to("0.png")
    with pytest.raises(
        InputError, match=r"2 images of the folder .* 0\.png \(.*\), c\.png \(the link leads nowhere\); mend"
    ):
        list_images(tmp_path)
    assert [path.name for path in list_images(tmp_path, keep_broken=True)] == ["0.png", "a.png", "b.png", "c.png"]
    with pytest.raises(InputError, match=r"c\.png: the link leads nowhere"):
        read_image(tmp_path / "c.png")


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux only")
def test_names_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, ["a.png"])
    (tmp_path / "a.png").rename(tmp_path / os.fsdecode(b"caf\xe9.png"))
    with pytest.raises(InputError, match=r"caf\\udce9\.png': the file name is not UTF-8; rename it"):
        list_images(tmp_path)


@pytest.mark.parametrize("method", ["iterdir", "stat"])
def test_folders_without_permission(tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = write_folder(tmp_path, ["a.png"])
    forbid(monkeypatch, method, tmp_path if method == "iterdir" else path)
    with pytest.raises(InputError, match=rf"the folder {tmp_path} cannot be read: .*Permission denied"):
        list_images(tmp_path)


def test_whether_there_is_a_file(tmp_path: Path) -> None:
    (path,) = write_folder(tmp_path, ["a.png"])
    assert is_file(path)
    for other in (tmp_path, tmp_path / "gone.png", path / "below.png", tmp_path / "zero\0byte.png"):
        assert not is_file(other)
    with pytest.raises(InputError, match="xxx: the file cannot be read: File name too long"):
        is_file(tmp_path / ("x" * 300))


def test_images_with_too_many_pixels_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = png_of(30000, 30000, bits=1)
    expected = "huge: it has 30,000 x 30,000 pixels, .* OPENCV_IO_MAX_IMAGE_PIXELS raises the limit"
    for keep_grey in (False, True):
        with pytest.raises(InputError, match=expected):
            decode_image(image, "huge", keep_grey=keep_grey)
    (tmp_path / "huge.png").write_bytes(image)
    with pytest.raises(InputError, match="30,000 x 30,000"):
        read_image(tmp_path / "huge.png")
    # OpenCV's own limit, for those who allow more.
    with pytest.raises(InputError, match="too many pixels; the environment variable OPENCV_IO_MAX_IMAGE_PIXELS raises"):
        opencv_pixels(png_of(40000, 40000, bits=1), "huge", cv2.IMREAD_COLOR)
    monkeypatch.setenv("OPENCV_IO_MAX_IMAGE_PIXELS", "6")
    assert decode_image(encode_image(".png", np.zeros((2, 3, 3), np.uint8)), "six").shape == (2, 3, 3)
    with pytest.raises(InputError, match="seven: it has 1 x 7 pixels, and no more than 6 are decoded"):
        decode_image(encode_image(".png", np.zeros((7, 1, 3), np.uint8)), "seven")


def test_pictures_that_a_kind_of_file_cannot_hold_are_no_empty_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """As OpenCV answers for BMP files of more than 2 GiB."""
    monkeypatch.setattr(cv2, "imencode", lambda suffix, image, flags: (False, np.zeros(0, np.uint8)))
    with pytest.raises(InputError, match=r"a picture of 5 x 4 pixels cannot be made a \.bmp file; choose \.png"):
        encode_image(".bmp", np.zeros((4, 5, 3), np.uint8))
