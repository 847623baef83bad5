"""The recipe of the demo, shortened: after x2, x4 learns faster than from scratch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.prepare_demo_data import package_folder, prepare
from tests.runs import ROOT, run

pytest.importorskip("skimage")


def score(run: str) -> float:
    """The last PSNR on the held-out photographs."""
    lines = (Path("experiments") / run / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return float([record["scores"]["psnr"] for record in records if record["kind"] == "val"][-1])


@pytest.mark.slow
def test_fine_tuning_beats_training_from_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty iterations of x4 either way, on photographs that neither has seen."""
    monkeypatch.chdir(tmp_path)
    prepare(package_folder(), Path("datasets/demo"))
    edits = ["num_gpu=0", "logger:use_tb_logger=false", "train:ema_decay=0.98", "val:val_freq=400"]
    for stage, length in (("pretrain_x2", 120), ("finetune_x4", 40), ("scratch_x4", 40)):
        edits += [f"{stage}:train:total_iter={length}", f"{stage}:train:scheduler:periods=[{length}]"]
    recipe = str(ROOT / "options/recipes/demo_plainusr.yml")
    done = run(tmp_path, "scripts/run_recipe.py", recipe, "--force_yml", *edits, timeout=600)
    assert done.returncode == 0, done.stderr
    assert score("demo_recipe_x4") > score("demo_recipe_x4_scratch") + 0.3
