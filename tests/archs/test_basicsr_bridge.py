"""The bridge to BasicSR, with a small package in its place that has the same registry."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import archs
from analysis.attribution import BlurPath, Window, attribute
from analysis.subjects import open_subjects
from config import read
from models import upscale
from models.weights.recognise import network_from_weights
from tests.config.files import write
from utils.errors import InputError

THEIRS = ("basicsr", "torchvision")
PACKAGE = {
    "torchvision/__init__.py": "",
    "torchvision/transforms/__init__.py": "",
    "torchvision/transforms/functional.py": "def rgb_to_grayscale(image): return image[:1]\n",
    "basicsr/__init__.py": "from torchvision.transforms.functional_tensor import rgb_to_grayscale\n",
    "basicsr/utils/__init__.py": "",
    "basicsr/utils/registry.py": """
class Registry:
    def __init__(self):
        self.objects = {}

    def register(self, obj, suffix=None):
        name = obj.__name__ + (f"_{suffix}" if suffix else "")
        assert name not in self.objects, f"{name} is there already"
        self.objects[name] = obj

    def get(self, name):
        return self.objects[name]

    def __contains__(self, name):
        return name in self.objects

    def keys(self):
        return self.objects.keys()


ARCH_REGISTRY = Registry()
""",
    "basicsr/archs/__init__.py": """
from torch import nn
from torch.nn import functional as F
from basicsr.utils.registry import ARCH_REGISTRY


class RRDBNet(nn.Module):
    def __init__(self, num_in_ch, num_out_ch, scale=4, num_feat=64):
        super().__init__()
        self.scale = scale
        self.side = {1: 4, 2: 2}.get(scale, 1)
        self.conv = nn.Conv2d(num_in_ch * self.side**2, num_out_ch * (scale * self.side) ** 2, 3, padding=1)

    def forward(self, x):
        return F.pixel_shuffle(self.conv(F.pixel_unshuffle(x, self.side)), self.scale * self.side)


class Windows(nn.Module):
    def __init__(self, in_chans=1, upscale=3, window_size=5, **kwargs):
        super().__init__()
        self.window = window_size
        self.conv = nn.Conv2d(in_chans, in_chans * upscale**2, 1)
        self.shuffle = nn.PixelShuffle(upscale)

    def forward(self, x):
        assert x.shape[-1] % self.window == 0
        return self.shuffle(self.conv(x))


class HAT(nn.Module):
    pass


ARCH_REGISTRY.register(RRDBNet)
ARCH_REGISTRY.register(Windows, suffix="basicsr")
ARCH_REGISTRY.register(HAT)
""",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Gives the registry of a BasicSR that is not imported yet."""
    for name, text in PACKAGE.items():
        path = tmp_path / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for name in [name for name in sys.modules if name.split(".")[0] in THEIRS]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "archs.basicsr_bridge", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    yield lambda: importlib.import_module("basicsr.utils.registry").ARCH_REGISTRY
    for name in [name for name in sys.modules if name.split(".")[0] in THEIRS or name == "archs.basicsr_bridge"]:
        del sys.modules[name]


def test_ours_there(package: Any) -> None:
    importlib.import_module("archs.basicsr_bridge")
    registry = package()
    assert set(archs.NETWORKS) <= set(registry.keys())
    network = registry.get("PlainUSR_ultra")(n_feat=8, im_feat=[8, 4], scale="2")  # BasicSR hands on what YAML gives
    assert isinstance(network, archs.network_class("PlainUSR_ultra"))
    with pytest.raises(InputError, match="n_feet: unknown key of PlainUSR_ultra"):
        registry.get("PlainUSR_ultra")(n_feet=8)
    assert registry.get("HAT").__module__ == "basicsr.archs"  # what was there under the same name stays


def test_theirs_here(package: Any) -> None:
    for scale in (1, 2, 4):
        network = archs.build_network({"type": "basicsr:RRDBNet", "num_in_ch": 3, "num_out_ch": 3, "scale": scale})
        assert type(network) is package().get("RRDBNet")
        assert upscale(network, torch.rand(2, 3, 5, 7)).shape == (2, 3, 5 * scale, 7 * scale)
    network = archs.build_network({"type": "basicsr:Windows"})  # of one channel, by defaults of its constructor
    assert upscale(network, torch.rand(1, 6, 7)).shape == (1, 18, 21)
    assert set(archs.NETWORKS) <= set(package().keys())


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"type": "basicsr:RRDBNett"}, r'BasicSR has no network "RRDBNett" \(did you mean "RRDBNet"\?\)'),
        ({"type": "basicsr:Nothing"}, r"known: .*RRDBNet"),
        ({"type": "rrdbnet"}, r'^unknown network type "rrdbnet" \(did you mean "RRDBNet"\?\)$'),  # which is ours
        ({"type": "windows"}, r'BasicSR has it: "basicsr:Windows"$'),
        ({"type": "Nothing"}, r"; known: PlainUSR_ultra, "),
        ({"type": "basicsr:RRDBNet", "num_in_ch": 3, "num_out_ch": 3, "nf": 1}, "nf: unknown key of basicsr:RRDBNet"),
        ({"type": "basicsr:RRDBNet", "num_in_ch": 3}, '"num_out_ch" of basicsr:RRDBNet is missing'),
    ],
)
def test_mistakes(package: Any, network: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        archs.build_network(network)


def test_in_option_files_and_checkpoints(package: Any, tmp_path: Path) -> None:
    text = """
name: theirs
model_type: SRModel
scale: 2
datasets:
  test: {name: Set5, type: PairedImageDataset, dataroot_gt: gt, io_backend: {type: disk}}
network_g: {type: "basicsr:RRDBNet", num_in_ch: 3, num_out_ch: 3, scale: 2}
"""
    options = read(write(tmp_path, text), mode="test")
    described = options.network_g.as_mapping()
    network = archs.build_network(described)
    content = {"params": network.state_dict(), "focalsr": {"options": {"network_g": described}}}
    torch.save(content, tmp_path / "net.pth")
    again = network_from_weights(tmp_path / "net.pth")
    x = torch.rand(3, 6, 6)
    assert torch.equal(upscale(again, x), upscale(network, x))


def test_they_are_looked_into(package: Any, tmp_path: Path) -> None:
    options = write(
        tmp_path, 'scale: 3\nnetwork_g: {type: "basicsr:Windows", in_chans: 3, upscale: 3, window_size: 5}\n'
    )
    network = archs.build_network({"type": "basicsr:Windows", "in_chans": 3})
    torch.save({"params": network.state_dict()}, tmp_path / "net.pth")
    [subject] = open_subjects([str(tmp_path / "net.pth")], [options])
    [item] = attribute(subject.network, torch.rand(3, 6, 7), [Window(4, 5, 6)], path=BlurPath(3)).windows
    assert item.map.shape == (6, 7)  # padded to windows of 5 on the way
    assert item.map[1:4, 1:4].any()
    assert not item.map[5].any()


def test_a_torchvision_that_still_has_the_module(package: Any, tmp_path: Path) -> None:
    module = tmp_path / "site/torchvision/transforms/functional_tensor.py"
    module.write_text("def rgb_to_grayscale(image): return 'its own'\n")
    importlib.import_module("archs.basicsr_bridge")
    assert importlib.import_module("basicsr").rgb_to_grayscale(None) == "its own"


@pytest.mark.skipif(importlib.util.find_spec("basicsr") is not None, reason="BasicSR is installed")
def test_without_basicsr() -> None:
    with pytest.raises(ImportError, match=r"BasicSR is not installed; pip install -r requirements-basicsr\.txt"):
        importlib.import_module("archs.basicsr_bridge")
    with pytest.raises(InputError, match=r"networks of BasicSR cannot be used: BasicSR is not installed"):
        archs.build_network({"type": "basicsr:RRDBNet"})
    assert "archs.basicsr_bridge" not in sys.modules
