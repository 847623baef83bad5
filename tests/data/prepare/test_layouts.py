"""What paths inside of the archives of benchmarks mean."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from data.prepare.layouts import Guess, guess


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("Set5/image_SRF_2/img_001_SRF_2_HR.png", ("Set5", "img_001", False, 2)),
        ("SR_testing_datasets/BSD100/image_SRF_4/img_077_SRF_4_LR.png", ("B100", "img_077", True, 4)),
        ("Urban100/image_SRF_4/img_001_SRF_4_SRCNN.png", None),
        ("Urban100.zip/image_SRF_4/img_001_SRF_4_bicubic.png", None),
        ("benchmark.tar/benchmark/Set5/HR/baby.png", ("Set5", "baby", False, None)),
        ("benchmark.tar/benchmark/Set5/LR_bicubic/X4/babyx4.png", ("Set5", "baby", True, 4)),
        ("benchmark/B100/LR_bicubic/X3/101085x3.png", ("B100", "101085", True, 3)),
        ("benchmark/Manga109/LR_bicubic/X2/ARMS_LRBI_x2.png", ("Manga109", "ARMS", True, 2)),
        ("datasets/Set14/GTmod12/comic.png", ("Set14", "comic", False, None)),
        ("datasets/Set14/LRbicx3/comic.png", ("Set14", "comic", True, 3)),
        ("datasets/urban100/GTmod4/img_002.png", ("Urban100", "img_002", False, None)),
        ("datasets/manga109/LRbicx4/UltraEleven.png", ("Manga109", "UltraEleven", True, 4)),
        ("Set5.zip/Set5/original/baby.png", ("Set5", "baby", False, None)),
        ("TestDataSR/HR/Set5/x2/baby.png", ("Set5", "baby", False, 2)),
        ("TestDataSR/LR/LRBI/Set5/x2/baby.png", ("Set5", "baby", True, 2)),
        ("Test/HR/Set5/x2/baby_HR_x2.png", ("Set5", "baby", False, 2)),
        ("Test/LR/LRBI/Set5/x2/baby_LRBI_x2.png", ("Set5", "baby", True, 2)),
        ("Test/LR/LRBD/Set5/x3/baby_LRBD_x3.png", None),
        ("datasets/benchmark/B100/x3/LR/1.png", ("B100", "1", True, 3)),
        ("BSDS100/37073.jpg", ("B100", "37073", False, None)),
        ("Set5/baby_GT.bmp", ("Set5", "baby", False, None)),
        ("BSDS100/37073.jfif", ("B100", "37073", False, None)),
        ("Urban100_HR.tar.gz/img_010.png", ("Urban100", "img_010", False, None)),
        ("Set5/HR/model_x2.png", ("Set5", "model_x2", False, None)),  # a factor only where the folder says LR
        ("Set5/readme.txt", None),
        ("Set5/.hidden.png", None),
        ("__MACOSX/Set5/HR/baby.png", None),
        ("DIV2K/HR/0801.png", None),
        ("Set5/Set14/x2/HR/a.png", ("Set14", "a", False, 2)),
    ],
)
def test_meaning(path: str, expected: tuple[str, str, bool, int | None] | None) -> None:
    assert guess(PurePosixPath(path)) == (None if expected is None else Guess(*expected))
