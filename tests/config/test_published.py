"""Published scores: complete, plausible, named by our option files, and all of them on the page."""

from __future__ import annotations

from pathlib import Path

import pytest

import config
from config.published import SETS, Score, scores_of, tables, variants
from tests.config.files import TEST, mistakes, write
from tests.runs import ROOT

ROWS = [(variant, scale, scores) for table in tables() for (variant, scale), scores in table.rows.items()]


def test_published_scores_are_as_printed() -> None:
    found = scores_of("PFT-light", 3)
    assert found is not None
    assert "PFT paper" in found[0].source
    assert found[1]["Urban100"] == Score(29.46, 0.8763)
    assert scores_of("HAT-S", 4)[1]["Set5"] == Score(32.92)  # type: ignore[index]
    assert set(scores_of("HAT-ImageNet", 2)[1]) == {"Urban100", "Manga109"}  # type: ignore[index]
    assert scores_of("HAT-S", 2) is None
    assert scores_of("HAT", 2.5) is None
    assert len({(variant, scale) for variant, scale, _ in ROWS}) == len(ROWS)


@pytest.mark.parametrize("name", SETS)
def test_published_scores_fall_with_the_scale(name: str) -> None:
    """A digit lost in copying would show; the two misprints of the ESC paper do."""
    of = {(variant, scale): scores[name] for variant, scale, scores in ROWS if name in scores}
    for (variant, scale), score in of.items():
        smaller = of.get((variant, scale - 1))
        if smaller is None:
            continue
        assert 1 < smaller.psnr - score.psnr < 6, (variant, scale)
        if score.ssim is not None and smaller.ssim is not None and variant != "ESC-FP":
            assert 0.02 < smaller.ssim - score.ssim < 0.12, (variant, scale)


def test_test_files_name_the_variant_whose_scores_are_published() -> None:
    named = set()
    for path in sorted((ROOT / "options").glob("test_*.yml")):
        found = config.read(path, mode="test")
        if found.published is not None:
            assert scores_of(found.published, found.scale) is not None, path.name
            named.add(found.published)
    assert named == set(variants()) - {"RGT+"}


def test_a_misspelt_variant_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    text = TEST.replace("name: tst", "name: tst\npublished: ESC-lite")
    (message,) = mistakes(write(tmp_path, text), mode="test")
    assert message == 'options.yml:2: published: no scores of "ESC-lite" are known (did you mean "ESC-light"?)'
