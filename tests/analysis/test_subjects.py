"""Networks that are looked at, from weights and option files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from analysis.subjects import forward, open_subjects
from tests.models.export.networks import HAT, TINY, weights_of
from utils.errors import InputError


def test_names_are_given_those_of_runs_or_of_files(tmp_path: Path) -> None:
    run = tmp_path / "my run" / "models"
    run.mkdir(parents=True)
    files = [weights_of(TINY, run / "net_g_latest.pth"), weights_of(TINY, tmp_path / "a.pth")]
    subjects = open_subjects([str(files[0]), f"ours={files[1]}", str(files[1]), str(files[1])])
    assert [subject.name for subject in subjects] == ["my run", "ours", "a (1)", "a (2)"]
    assert [subject.source for subject in subjects] == [files[0], files[1], files[1], files[1]]
    assert subjects[0].scale == 2
    assert subjects[0].described["type"] == "MSRResNet"


def test_a_file_whose_name_has_an_equals_sign_needs_no_other(tmp_path: Path) -> None:
    file = weights_of(TINY, tmp_path / "lr=2e-4.pth")
    assert [subject.name for subject in open_subjects([str(file)])] == ["lr=2e-4"]


def test_networks_are_in_evaluation_mode_without_gradients_of_weights(tmp_path: Path) -> None:
    [subject] = open_subjects([str(weights_of(TINY, tmp_path / "a.pth"))], dtype=torch.float64)
    assert not any(module.training for module in subject.network.modules())
    assert not any(parameter.requires_grad for parameter in subject.network.parameters())
    assert subject.dtype == torch.float64


def test_option_files_name_networks_and_weights(tmp_path: Path) -> None:
    weights = weights_of(TINY, tmp_path / "a.pth")
    options = tmp_path / "of mine.yml"
    options.write_text(
        "scale: 2\nnetwork_g: {type: MSRResNet, num_feat: 4, num_block: 1, upscale: 2}\n"
        f"path: {{pretrain_network_g: '{weights}', param_key_g: params_ema}}\n"
    )
    [subject] = open_subjects([], [options])
    assert (subject.name, subject.source) == ("of mine", weights)
    bare = tmp_path / "bare.yml"
    bare.write_text("scale: 2\nnetwork_g: {type: MSRResNet, num_feat: 4, num_block: 1, upscale: 2}\n")
    with pytest.raises(InputError, match=r"bare\.yml: names no weights"):
        open_subjects([], [bare])
    assert len(open_subjects([str(weights), str(weights)], [bare])) == 2


def test_what_cannot_be_opened_is_refused_in_a_sentence(tmp_path: Path) -> None:
    weights = str(weights_of(TINY, tmp_path / "a.pth"))
    with pytest.raises(InputError, match="name a network: -w FILE"):
        open_subjects([])
    options = tmp_path / "a.yml"
    options.write_text("scale: 2\nnetwork_g: {type: MSRResNet, num_feat: 4, num_block: 1, upscale: 2}\n")
    with pytest.raises(InputError, match=r"2 option files .* cannot describe 3 files"):
        open_subjects([weights] * 3, [options, options])
    onnx = tmp_path / "net.onnx"
    onnx.write_bytes(b"\x08\x08")
    with pytest.raises(InputError, match="an ONNX file has neither gradients nor layers"):
        open_subjects([str(onnx)])


def test_forward_pads_crops_and_hands_gradients_to_the_image(tmp_path: Path) -> None:
    [subject] = open_subjects([str(weights_of(HAT, tmp_path / "a.pth"))], dtype=torch.float64)
    x = torch.rand(2, 3, 5, 7, dtype=torch.float64, requires_grad=True)
    y = forward(subject.network, x)
    assert y.shape == (2, 3, 10, 14)
    [gradient] = torch.autograd.grad(y.sum(), x)
    assert gradient.shape == x.shape
    assert gradient.abs().min() > 0
