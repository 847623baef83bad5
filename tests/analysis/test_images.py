"""Pictures for networks: from LR and HR files, crops, colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from analysis.images import Crop, files_of, pillow_downscale, read_picture
from data.images.files import write_image
from data.resizing.matlab import downscale
from utils.errors import InputError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A colour picture of 14 columns and 11 rows."""
    pixels = np.random.default_rng(0).integers(0, 256, (11, 14, 3), dtype=np.uint8)
    write_image(tmp_path / "a b.png", pixels)
    return tmp_path / "a b.png"


def test_an_lr_file_is_the_input(file: Path) -> None:
    picture = read_picture(file, kind="lr", dtype=torch.float64)
    assert picture.name == "a b"
    assert picture.lr.shape == (1, 3, 11, 14)
    assert picture.lr.dtype == torch.float64
    assert picture.hr is None
    grey = read_picture(file, kind="lr", channels=1)
    assert torch.allclose(grey.lr[:, 0].double(), picture.lr.mean(1), atol=1e-7)


def test_the_input_is_made_from_an_hr_file_by_either_rule(file: Path) -> None:
    pixels = np.asarray(Image.open(file))[:9, :12]
    made = {rule: read_picture(file, kind="hr", scale=3, rule=rule) for rule in ("pillow", "matlab")}
    for picture in made.values():
        assert picture.hr is not None
        assert np.array_equal(picture.hr, pixels)
        assert picture.lr.shape == (1, 3, 3, 4)
    levels = {rule: (picture.lr[0].permute(1, 2, 0) * 255).round().byte().numpy() for rule, picture in made.items()}
    assert np.array_equal(
        levels["pillow"], np.asarray(Image.fromarray(pixels).resize((4, 3), Image.Resampling.BICUBIC))
    )
    assert np.array_equal(levels["matlab"], downscale(pixels, 3))
    assert not np.array_equal(levels["pillow"], levels["matlab"])


def test_a_crop_is_taken_before_the_input_is_made(file: Path) -> None:
    whole = np.asarray(Image.open(file))
    picture = read_picture(file, kind="hr", scale=2, rule="pillow", crop=Crop(left=3, top=1, width=8, height=7))
    assert picture.hr is not None
    assert np.array_equal(picture.hr, whole[1:7, 3:11])
    assert picture.lr.shape == (1, 3, 3, 4)
    assert np.array_equal(pillow_downscale(picture.hr, 2).shape, (3, 4, 3))


@pytest.mark.parametrize("crop", [Crop(-1, 0, 4, 4), Crop(0, 0, 15, 4), Crop(0, 8, 4, 4), Crop(0, 0, 0, 4)])
def test_a_crop_outside_is_refused(file: Path, crop: Crop) -> None:
    with pytest.raises(InputError, match=r"--crop .* does not lie in its 14 x 11 pixels"):
        read_picture(file, kind="lr", crop=crop)


def test_other_pictures_are_refused_in_a_sentence(file: Path) -> None:
    with pytest.raises(InputError, match=r"no input for x3\.7 is made"):
        read_picture(file, kind="hr", scale=3.7)
    with pytest.raises(InputError, match="14 x 11 pixels are too few for x12"):
        read_picture(file, kind="hr", scale=12)
    with pytest.raises(InputError, match="a network of 4 channels"):
        read_picture(file, kind="lr", channels=4)


def test_folders_are_listed_in_the_order_of_names(file: Path) -> None:
    second = file.with_name("c.png")
    second.write_bytes(file.read_bytes())
    assert files_of([file.parent, second]) == [file, second, second]
