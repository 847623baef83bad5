"""Settings that trainers keep beside the weights as objects of their own, read without their classes.

``args`` of a checkpoint is often an ``argparse.Namespace``, ``hyper_parameters`` a dictionary of Lightning's or
OmegaConf's, ``save_dir`` a path. torch's weights-only loader refuses all of them, and with them the weights. Here their
names stand for classes of this module, which run nothing and keep only what plain dictionaries and texts can hold.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any


class _Settings:
    """Makes a plain dictionary of what a dictionary's subclass holds; attributes and arguments are passed over."""

    # torch's loader fills and completes an OrderedDict as it would the object itself.
    def __new__(cls, *_arguments: Any) -> OrderedDict[str, Any]:  # type: ignore[misc]
        return OrderedDict()


class _Text:
    """Makes a plain text: of a version, or of the parts of a path."""

    def __new__(cls, *parts: Any) -> str:  # type: ignore[misc]
        return "/".join(map(str, parts)).replace("//", "/")


class _Series:
    """Makes a plain list of what a ``deque`` holds."""

    def __new__(cls, *_arguments: Any) -> list[Any]:  # type: ignore[misc]
        return []


_SETTINGS = (
    "argparse.Namespace",
    "types.SimpleNamespace",
    "collections.defaultdict",
    *("builtins.dict", "builtins.list", "builtins.int", "builtins.float", "builtins.str", "typing.Any"),
    *("builtins.frozenset", "builtins.range", "builtins.slice", "decimal.Decimal", "uuid.UUID"),
    *("datetime.datetime", "datetime.timedelta", "datetime.date", "datetime.time", "datetime.timezone"),
    *("easydict.EasyDict", "addict.addict.Dict", "munch.Munch", "yacs.config.CfgNode"),
    *("mmengine.config.config.ConfigDict", "mmcv.utils.config.ConfigDict"),
    *("pytorch_lightning.utilities.parsing.AttributeDict", "lightning.pytorch.utilities.parsing.AttributeDict"),
    *("lightning_fabric.utilities.data.AttributeDict", "lightning.fabric.utilities.data.AttributeDict"),
    *("omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig"),
    *("omegaconf.base.ContainerMetadata", "omegaconf.base.Metadata"),
    *(f"omegaconf.nodes.{kind}Node" for kind in ("Any", "Boolean", "Bytes", "Float", "Integer", "Path", "String")),
)  # fmt: skip
_TEXTS = (
    "torch.torch_version.TorchVersion",
    *(
        f"{module}.{kind}"
        for module in ("pathlib", "pathlib._local")  # the latter in Python 3.13
        for kind in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path", "PurePath")
    ),
)

ALLOWED: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    *((_Settings, name) for name in _SETTINGS),
    *((_Text, name) for name in _TEXTS),
    (_Series, "collections.deque"),
]
"""For ``torch.serialization.safe_globals``: what runs, and the name in files that it takes the place of."""
