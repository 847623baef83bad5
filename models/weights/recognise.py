"""The network that a weight file belongs to, built and filled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

import archs
from config.values import ONNX, SCALE_KEYS, Pretrained
from models.runtimes.build import open_network
from models.runtimes.onnx_file import is_onnx
from models.weights.entries import HOW_TO_CHOOSE, LISTED, discriminator_in, identified_entry
from models.weights.files import fill, log_loaded, read_checkpoint
from models.weights.keep import PRECISION, metadata_of, names_in
from models.weights.layout import for_inference
from utils.errors import InputError
from utils.tensor_files.kinds import is_safetensors
from utils.typed import Report, fields_of, read
from utils.wording import first_few


def network_from_weights(
    weights: Path,
    option_file: Path | None = None,
    key: str | None = None,
    scale: float | None = None,
    provider: str | None = None,
) -> nn.Module:
    """The network with its weights, in the form in which it runs fastest.

    Args:
        weights: the file.
        option_file: what describes the network, if the weights do not.
        key: entry of the weight file; None: the EMA weights where it has some.
        scale: factor, if it is to be another than the network's own.
        provider: what runs the file, if it is an ONNX file.

    Raises:
        InputError: the files cannot be read, do not fit, do not say which network this is, or it cannot do ``scale``.
    """
    if is_onnx(weights):
        return _network_of_file(weights, option_file, key, scale, provider)
    if provider is not None:
        raise InputError(f"--provider is for ONNX files; {weights} holds weights, which PyTorch runs")
    content = read_checkpoint(weights)
    described = configuration(weights, option_file, key, content)
    if scale is not None:
        described = rescaled(described, scale)
    network = archs.build_network(described)
    log_loaded(fill(network, content, Pretrained(weights, key, strict=True, resize_tables=False)))
    return for_inference(network)


def _network_of_file(
    path: Path, option_file: Path | None, key: str | None, scale: float | None, provider: str | None
) -> nn.Module:
    """The network that an ONNX file is; an option file may say what another program's file does not."""
    if key is not None:
        raise InputError(f"--key {key}: {path} is an ONNX file, which has no entries; leave it out")
    if option_file is not None:
        described = network_of_options(option_file)
        if described["type"] != ONNX:
            raise InputError(f"-opt {option_file}: describes another network than {path}, which is an ONNX file")
        provider, scale = provider or described.get("provider"), scale or described.get("scale")
    return open_network(path, provider, scale, provider_key="--provider", scale_key="--scale")


def configuration(
    weights: Path, option_file: Path | None = None, key: str | None = None, content: Mapping[str, Any] | None = None
) -> Mapping[str, Any]:
    """``network_g``: of the option file if there is one, else as the weight file tells.

    Files of ours carry their options; published ones are recognised by the names and shapes of their tensors.

    Args:
        weights: the file.
        option_file: what describes the network, if the weights do not.
        key: entry of the weight file.
        content: of the weight file, where it was read already.

    Raises:
        InputError: nothing tells.
    """
    if option_file is None:
        return _described(read_checkpoint(weights) if content is None else content, weights, key)
    described = network_of_options(option_file)
    if described["type"] == ONNX:
        raise InputError(f"{option_file}: its network_g is an ONNX file, which describes no network of weights")
    return described


def _described(content: Mapping[str, Any], weights: Path, key: str | None) -> Mapping[str, Any]:
    recorded: Mapping[str, Any] | None = _recorded(content) or _metadata(weights)
    if recorded:
        return recorded
    found = identified_entry(content, key, weights)
    if found is None:
        if name := discriminator_in(content):
            raise InputError(
                f"{weights}: holds a discriminator ({name}), which upscales nothing; the network that was trained "
                "against it is in the file net_g_*.pth beside it"
            )
        raise InputError(
            f"{weights} does not say which network it belongs to; give an option file with -opt. Its entries: "
            f"{first_few(content, LISTED)} (where one of them holds the weights, {HOW_TO_CHOOSE})"
        )
    return found[1]


def rescaled(network: Mapping[str, Any], scale: float) -> Mapping[str, Any]:
    """``network_g`` with another factor.

    Raises:
        InputError: the network is made for one factor only.
    """
    name = str(network["type"])
    fields = fields_of(archs.network_class(name))
    key = next((key for key in SCALE_KEYS if key in fields), None)
    own = None if key is None else network.get(key, fields[key].default)
    if own == scale:
        return network
    if key is None or fields[key].annotation is not float:
        raise InputError(
            f"--scale {scale:g}: this {name} upscales by {own}; only networks such as ESCLTE take any scale"
        )
    return {**network, key: scale}


def network_of_options(path: Path) -> Mapping[str, Any]:
    """``network_g`` of an option file; the rest of it may be about data that is not here."""
    from config.bases import load  # here: most weights say themselves which network they belong to
    from config.network import read_network

    document, report = load(path), Report()
    network = read_network(document, report)
    if network is None:
        raise InputError(f'{path}: has no section "network_g"')
    mistakes = [str(document.mistake(*problem)) for problem in report.problems]
    if mistakes:
        raise InputError("\n".join(mistakes))
    found: Mapping[str, Any] = network.as_mapping()
    return found


def weights_of_options(path: Path) -> tuple[Path, str | None]:
    """The weight file that an option file names, and the entry of it (None: as ever).

    Raises:
        InputError: it names none.
    """
    from config.bases import load  # here: see above

    document, report = load(path), Report()
    named = read(document.get(("path", "pretrain_network_g")), str | None, report, ("path", "pretrain_network_g"))
    key = read(document.get(("path", "param_key_g")), str | None, report, ("path", "param_key_g"))
    mistakes = [str(document.mistake(*problem)) for problem in report.problems]
    if mistakes:
        raise InputError("\n".join(mistakes))
    if named is None:
        raise InputError(f"{path}: names no weights (path.pretrain_network_g); give them with -w")
    return Path(named), key


def _recorded(content: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The ``network_g`` that our ``.pth`` files carry beside their tensors."""
    value: Any = content
    for key in ("focalsr", "options", "network_g"):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else None


def _metadata(weights: Path) -> Mapping[str, Any] | None:
    """The ``network_g`` that our ``.safetensors`` files carry beside their tensors."""
    if not is_safetensors(weights):
        return None
    text = metadata_of(weights).get("network_g")
    try:
        found = None if text is None else json.loads(text)
    except (ValueError, RecursionError):  # another program's
        return None
    return found if isinstance(found, Mapping) else None


def stored_keep(weights: Path) -> tuple[str, ...]:
    """The modules that stay in float32 when the network of a weight file computes in float16; none if it says none.

    ``scripts/range_report.py`` finds and stores them; :mod:`models.precision.keep` explains the list.

    Raises:
        InputError: the file cannot be read.
    """
    if is_safetensors(weights):
        text = metadata_of(weights).get(PRECISION)
        try:
            return names_in(None if text is None else json.loads(text))
        except (ValueError, RecursionError):  # another program's
            return ()
    about = read_checkpoint(weights).get("focalsr")
    return names_in(about.get(PRECISION) if isinstance(about, Mapping) else None)
