"""Every option file that is shipped passes ``--check``, on small pictures and with a network made shallow."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import pytest
import torch

from archs import build_network
from config import read
from data import AnyScaleOptions
from losses.vgg import shapes_of
from tests.runs import ROOT, picture, run_here

FILES = sorted(
    path
    for path in (ROOT / "options").rglob("*.yml")
    if path.name.startswith(("train_", "test_")) and path.parent.name != "common"  # parts of others
)
TRAIN = [path for path in FILES if path.name.startswith("train_")]
TEST = [path for path in FILES if path.name.startswith("test_")]
# One block in each of two groups: all kinds of layers, a fraction of the time.
_ESC = tuple(
    f"network_g:{edit}" for edit in ("dim=16", "pdim=4", "n_blocks=1", "conv_blocks=1", "window_size=8", "num_heads=2")
)
SHALLOW = {
    **dict.fromkeys(("ESC", "ESCFP", "ESCReal"), _ESC),
    "ESCLTE": (*_ESC, "network_g:hidden_dim=16", "network_g:hidden_list=[16]"),
    "HAT": ("network_g:depths=[2]", "network_g:num_heads=[6]", "network_g:embed_dim=36"),
    "RGT": ("network_g:depth=[4]", "network_g:num_heads=[6]", "network_g:embed_dim=36"),
    "PFT": ("network_g:depths=[2]", "network_g:embed_dim=12", "network_g:num_topk=[64,16]", "network_g:window_size=8"),
    **dict.fromkeys(
        ("HiT_SRF", "HiT_SIR", "HiT_SNG"), ("network_g:depths=[3]", "network_g:num_heads=[2]", "network_g:embed_dim=20")
    ),
    "ATD": ("network_g:depths=[2]", "network_g:num_heads=[2]", "network_g:embed_dim=12", "network_g:num_tokens=8"),
    "SwinIR": ("network_g:depths=[2]", "network_g:num_heads=[6]", "network_g:embed_dim=12"),
    "RRDBNet": ("network_g:num_block=1", "network_g:num_feat=8"),
    "MSRResNet": ("network_g:num_block=1", "network_g:num_feat=8"),
}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT / "options"))


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three pictures; their sides divide by every scale."""
    folder = tmp_path / "HR"
    folder.mkdir()
    for i in range(3):
        cv2.imwrite(str(folder / f"{i}.png"), picture(i, 144, 192))
    monkeypatch.chdir(tmp_path)
    return folder


def stand_in(path: Path, pictures: Path) -> list[str]:
    """Overrides that put small data in the place of the published sets."""
    mode = "train" if path in TRAIN else "test"
    options = read(path, mode=mode)  # type: ignore[call-overload]
    edits = ["num_gpu=0"]
    for key, dataset in options.datasets.items():
        single = dataset.__class__.__qualname__.startswith("Single")
        edits.append(f"datasets:{key}:io_backend:type=disk")
        if single:
            edits.append(f"datasets:{key}:dataroot_lq={pictures}")
            continue
        edits += [f"datasets:{key}:dataroot_gt={pictures}", f"datasets:{key}:meta_info_file=~"]
        if isinstance(dataset, AnyScaleOptions):
            edits.append(f"datasets:{key}:dataroot_lq={{}}")
        if dataset.__class__.__qualname__.startswith("Paired"):
            edits += [f"datasets:{key}:dataroot_lq=~", f"datasets:{key}:filename_tmpl='{{}}'"]
    if mode == "train":
        edits += ["datasets:train:batch_size_per_gpu=1", "datasets:train:num_worker_per_gpu=0"]
        judge = options.network_d
        if isinstance(options.datasets["train"], AnyScaleOptions):
            edits += ["datasets:train:lq_size=16", "datasets:train:sample_q=64"]
        elif judge is None or judge.type != "VGGStyleDiscriminator":  # which takes patches of one size
            edits.append(f"datasets:train:gt_size={16 * options.scale}")
        if judge is not None:
            edits.append("network_d:num_feat=8")
        if options.train.perceptual_opt is not None:
            edits.append(f"train:perceptual_opt:vgg_weights={vgg_stand_in()}")
    return edits + list(SHALLOW.get(options.network_g.type, ()))


def vgg_stand_in() -> Path:
    """A file with the names and shapes of VGG-19's weights, in the current folder; each is one number, repeated."""
    path = Path("vgg19.pth").absolute()
    torch.save({name: torch.full((1,), 2e-4).expand(shape) for name, shape in shapes_of("vgg19").items()}, path)
    return path


def onnx_stand_in(scale: float) -> Path:
    """An ONNX file of a network for this scale, in the current folder."""
    pytest.importorskip("onnxruntime")
    from tests.onnx_graphs import FACTS, repeating_file  # needs the package onnx

    return repeating_file(Path("net.onnx").absolute(), dataclasses.replace(FACTS, scale=scale))


@pytest.mark.parametrize("path", TRAIN, ids=name_of)
def test_training_files_pass_the_check(path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edits = [*stand_in(path, pictures), "path:pretrain_network_g=~"]
    code = run_here("train.py", "-opt", str(path), "--check", "--force_yml", *edits)
    printed = capsys.readouterr().err
    assert code == 0, printed
    assert "the check is passed" in printed


@pytest.mark.parametrize("path", TEST, ids=name_of)
def test_test_files_pass_the_check(path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edits = stand_in(path, pictures)
    options = read(path, edits, mode="test")
    if options.network_g.is_file:
        edits.append(f"network_g:path={onnx_stand_in(options.scale)}")
        code = run_here("test.py", "-opt", str(path), "--check", "--force_yml", *edits)
        assert code == 0, capsys.readouterr().err
        return
    network = build_network(options.network_g.as_mapping())
    torch.save({"params": network.state_dict(), "params_ema": network.state_dict()}, "weights.pth")
    bare = options.path.param_key_g is None
    if bare:
        torch.save(network.state_dict(), "weights.pth")
    edits.append("path:pretrain_network_g=weights.pth")
    code = run_here("test.py", "-opt", str(path), "--check", "--force_yml", *edits)
    printed = capsys.readouterr().err
    assert code == 0, printed
    assert "the check is passed" in printed


@pytest.mark.parametrize(
    "name", ["plainusr_x4", "hat_x4", "rgt_x4", "esc_x4", "pft_x4", "swinir_x4", "atd_x4", "hit_srf_x4", "esc_lte"]
)
def test_demo_files_test_what_they_train(name: str) -> None:
    trained = read(ROOT / f"options/demo/train_{name}.yml", mode="train")
    tested = read(ROOT / f"options/demo/test_{name}.yml", mode="test")
    assert tested.network_g == trained.network_g
    assert str(tested.path.pretrain_network_g) == f"experiments/{trained.name}/models/net_g_latest.pth"


def test_demos_warm_the_ema_up_and_published_trainings_do_not() -> None:
    for path in TRAIN:
        assert read(path, mode="train").train.ema_warmup is (path.parent.name == "demo"), path
