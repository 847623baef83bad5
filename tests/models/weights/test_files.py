"""Weight files: every form is read, what does not fit is explained, nothing from a file runs."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from archs import build_discriminator, build_network
from archs.layers.constants import published_state
from models.weights.files import load_weights, read_checkpoint
from tests.states import Tiny
from utils.errors import InputError

ULTRA = {"type": "PlainUSR_ultra", "n_feat": 8, "im_feat": [8, 4], "scale": 2}


@pytest.mark.shared
@pytest.mark.parametrize("scale", [2, 4])
def test_published_weights_load(shared: Path, scale: int) -> None:
    network = build_network({"type": "PlainUSR_ultra_inference", "n_feat": 16, "im_feat": [16, 8], "scale": scale})
    for key in ("params_ema", None):
        assert not load_weights(network, shared / f"weights/PlainUSRU_Rep_x{scale}.pth", key=key)
    assert all(parameter.is_contiguous() for parameter in network.parameters())


HAT = {
    "type": "HAT",
    "upscale": 2,
    "window_size": 4,
    "embed_dim": 12,
    "depths": [2],
    "num_heads": [2],
    "squeeze_factor": 3,
}
RGT = {"type": "RGT", "upscale": 2, "embed_dim": 48, "depth": [2], "num_heads": [2], "split_size": [4, 8]}


@pytest.mark.parametrize("configuration", [HAT, RGT], ids=["HAT", "RGT"])
def test_published_files_with_masks_and_tables_load_strictly(tmp_path: Path, configuration: dict[str, object]) -> None:
    source, target = build_network(configuration), build_network(configuration)
    published = published_state(source)
    assert len(published) > len(source.state_dict())
    torch.save({"params_ema": published}, tmp_path / "published.pth")
    assert not load_weights(target, tmp_path / "published.pth")
    assert all(torch.equal(value, target.state_dict()[key]) for key, value in source.state_dict().items())


def test_a_table_of_other_arguments_is_refused(tmp_path: Path) -> None:
    network = build_network(HAT)
    published = published_state(network)
    key = next(name for name in published if name not in network.state_dict())
    torch.save({"params": {**published, key: published[key] + 1}}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"other\.pth: .*not what follows from the arguments"):
        load_weights(build_network(HAT), tmp_path / "other.pth")


@pytest.mark.parametrize("form", ["params_ema", "params", "bare", "module", "safetensors"])
def test_every_form_loads(tmp_path: Path, form: str) -> None:
    source, target = build_network(ULTRA), build_network(ULTRA)
    tensors = source.state_dict()
    path = tmp_path / "weights.pth"
    if form == "safetensors":
        from safetensors.torch import save_file

        path = tmp_path / "weights.safetensors"
        save_file(tensors, path)
    elif form == "bare":
        torch.save(tensors, path)
    elif form == "module":
        torch.save({"params": {f"module.{key}": value for key, value in tensors.items()}}, path)
    else:
        torch.save({form: tensors}, path)
    assert not load_weights(target, path)
    assert all(torch.equal(value, target.state_dict()[key]) for key, value in tensors.items())


def test_another_scale_says_what_would_fit(tmp_path: Path) -> None:
    path = tmp_path / "x2.pth"
    torch.save({"params": build_network(ULTRA).state_dict()}, path)
    with pytest.raises(InputError, match=r"(?s)x2\.pth.*tail\.0\.weight.*fits network_g: .*scale: 2"):
        load_weights(build_network({**ULTRA, "scale": 4}), path)


def test_another_form_says_what_would_fit(tmp_path: Path) -> None:
    path = tmp_path / "train_form.pth"
    torch.save({"params": build_network(ULTRA).state_dict()}, path)
    with pytest.raises(InputError, match=r"missing in the file.*not in the network.*type: PlainUSR_ultra\b"):
        load_weights(build_network({**ULTRA, "type": "PlainUSR_ultra_inference"}), path)


def test_a_partial_load_leaves_out_and_reports(tmp_path: Path) -> None:
    source, target = build_network(ULTRA), build_network({**ULTRA, "scale": 4})
    tail = target.state_dict()["tail.0.weight"].clone()
    torch.save({"params": {**source.state_dict(), "extra": torch.zeros(1)}}, tmp_path / "x2.pth")
    report = load_weights(target, tmp_path / "x2.pth", strict=False)
    assert report
    assert set(report.reshaped) == {"tail.0.weight", "tail.0.bias"}
    assert report.surplus == ("extra",)
    assert torch.equal(target.state_dict()["head.weight"], source.state_dict()["head.weight"])
    assert torch.equal(target.state_dict()["tail.0.weight"], tail)


class Attack:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("raise SystemExit('owned')",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"params": Attack()}), "refused"),
        (b"", "not a readable checkpoint|refused"),
        (b"PK\x03\x04 cut off", "not a readable checkpoint|refused"),
        (b"some text", "not a readable checkpoint|refused"),
    ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "file.pth"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_checkpoint(path)
    assert "file.pth" in str(caught.value)


def test_a_file_that_torch_wrote_with_code_is_refused(tmp_path: Path) -> None:
    torch.save({"params": Attack()}, tmp_path / "file.pth")
    with pytest.raises(InputError, match="refused"):
        read_checkpoint(tmp_path / "file.pth")


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    torch.save({"params": {"a": torch.rand(1000)}}, path)
    path.write_bytes(path.read_bytes()[:-800])
    with pytest.raises(InputError, match=r"file\.pth: not a readable checkpoint"):
        read_checkpoint(path)


def test_a_file_without_weights_lists_its_entries(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "optimizers": []}, tmp_path / "8.state")
    with pytest.raises(InputError, match="its entries: epoch, optimizers"):
        load_weights(Tiny(), tmp_path / "8.state")
    with pytest.raises(InputError, match="there is no such file"):
        load_weights(Tiny(), tmp_path / "absent.pth")


UNET = {"type": "UNetDiscriminatorSN", "num_in_ch": 3, "num_feat": 4}


@pytest.mark.parametrize("strict", [True, False])
def test_weights_of_the_other_player_are_named(tmp_path: Path, strict: bool) -> None:
    generator, discriminator = build_network(ULTRA), build_discriminator(UNET)
    torch.save({"params": generator.state_dict(), "params_ema": generator.state_dict()}, tmp_path / "net_g.pth")
    torch.save({"params": discriminator.state_dict()}, tmp_path / "net_d.pth")
    assert not load_weights(discriminator, tmp_path / "net_d.pth", "params")
    assert not load_weights(build_discriminator(UNET), tmp_path / "net_d.pth")
    belongs = (
        r"net_d\.pth: holds a discriminator \(UNetDiscriminatorSN\), not the .* of network_g; .*pretrain_network_d"
    )
    with pytest.raises(InputError, match=belongs):
        load_weights(generator, tmp_path / "net_d.pth", strict=strict)
    belongs = r"net_g\.pth: holds a network .*\(PlainUSR_ultra\), not .*UNetDiscriminatorSN .*path\.pretrain_network_g"
    with pytest.raises(InputError, match=belongs):
        load_weights(discriminator, tmp_path / "net_g.pth", "params", strict)


def test_another_discriminator_s_weights_say_what_they_fit(tmp_path: Path) -> None:
    torch.save({"params": build_discriminator({**UNET, "num_feat": 5}).state_dict()}, tmp_path / "net_d.pth")
    with pytest.raises(InputError, match=r"does not fit UNetDiscriminatorSN: .*fits network_d: .*num_feat: 5"):
        load_weights(build_discriminator(UNET), tmp_path / "net_d.pth", "params")
    old = {name: v for name, v in build_discriminator(UNET).state_dict().items() if not name.endswith("weight_v")}
    torch.save({"params": old}, tmp_path / "old.pth")
    for strict, message in ((True, "8 missing in the file: conv1.weight_v"), (False, "weight_v is missing beside")):
        with pytest.raises(InputError, match=message):
            load_weights(build_discriminator(UNET), tmp_path / "old.pth", "params", strict)
