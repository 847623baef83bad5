"""The outputs of a network's modules as maps of the image, whatever layout the modules have.

Shapes: B images, C channels, h w low-resolution pixels, H W of the image as the network extends it, N = H*W tokens.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from analysis.subjects import forward
from archs.contract import BaseNetwork, image_axis, part_names
from archs.esc.blocks import ConvolutionalAttention
from utils.errors import InputError
from utils.suggest import near_miss
from utils.wording import first_few

Layout = Literal["channels first", "channels last", "tokens"]
Take = Callable[[str, Tensor], None]

_FACTORS = (1, 2, 3, 4, 8, 6, 5, 7, 16)  # of features' sizes to the image's, up or down; the usual ones first


def names_of(network: nn.Module, chosen: Sequence[str]) -> list[str]:
    """Names of modules in depth order, from names, patterns and kinds of parts.

    Args:
        network: the network.
        chosen: "groups", "blocks" or "layers" (:func:`archs.contract.part_names`; groups of a network without are its
            blocks, and so are layers of one that does not say which they are), names as ``named_modules`` has them, or
            such names with ``*`` for a part of any name, such as ``layers.*.blocks.0``.

    Raises:
        InputError: nothing has such a name.
    """
    parts = part_names(network)
    every = [name for name, _ in network.named_modules() if name]
    found: set[str] = set()
    for text in chosen:
        if text in ("groups", "blocks", "layers"):
            known = {"groups": parts.groups, "blocks": parts.blocks, "layers": parts.layers}[text]
            found.update(known or parts.blocks)
            continue
        pattern = re.compile(r"[^.]*".join(map(re.escape, text.split("*"))))
        matches = [name for name in every if pattern.fullmatch(name)]
        if not matches:
            blocks = first_few(list(parts.blocks), 4)
            hint = near_miss(text, every) or f"; its blocks are {blocks}"
            raise InputError(f"{type(network).__name__} has no module {text}{hint}")
        found.update(matches)
    return [name for name in every if name in found]


def each_map(network: nn.Module, x: Tensor, names: Sequence[str], take: Take) -> None:
    """Run a network once and hand over what the named modules make, one after the other, as they make it.

    Args:
        network: the network; it runs in evaluation mode on images padded as its size rule says.
        x: [B, c, h, w]. If it requires a gradient the maps carry the graph, else nothing is recorded.
        names: of modules, each of which runs once in a pass.
        take: called with a name and the map [B, C, h, w], cropped of padding, a view of what the network goes on with.
            It must not be kept without copying: some networks overwrite features.

    Raises:
        InputError: a module does not run, runs several times, or its output is no map of the image, or not finite.
    """
    wanted = (x.shape[-2], x.shape[-1])
    size = (_extended(network, wanted[0]), _extended(network, wanted[1]))
    layouts = _layouts(network, x, names) if _leaves_open(size) else {}

    def hand_over(name: str, output: Tensor) -> None:
        layout = layouts.get(name) or _layout(name, output, len(x), size)
        features = _map(name, output, layout, size, wanted)
        if not bool(features.detach().isfinite().all()):
            raise InputError(
                f"{type(network).__name__}: what {name} makes is not finite (NaN or infinity); the weights are "
                "damaged, or the training that made them had diverged"
            )
        take(name, features)

    _observe(network, names, hand_over, lambda: forward(network, x))


def maps(network: nn.Module, x: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """The maps [B, C, h, w] of several modules by name, copied; arguments and errors as for :func:`each_map`."""
    found: dict[str, Tensor] = {}

    def take(name: str, features: Tensor) -> None:
        found[name] = features.clone()

    each_map(network, x, names, take)
    return {name: found[name] for name in names}


@contextmanager
def called_as_modules(modules: Sequence[nn.Module]) -> Iterator[None]:
    """In this block, code that does the work of one of these modules itself, faster, calls the module instead."""
    bypassed = [module for module in modules if isinstance(module, ConvolutionalAttention) and module.fused]
    for module in bypassed:
        module.fused = False
    try:
        yield
    finally:
        for module in bypassed:
            module.fused = True


def _observe(network: nn.Module, names: Sequence[str], take: Take, run: Callable[[], object]) -> None:
    """Call ``take`` with the first tensor that each named module makes in a run."""
    modules = dict(network.named_modules())
    elsewhere: Mapping[str, str] = network.given_to() if isinstance(network, BaseNetwork) else {}
    seen: set[str] = set()

    def see(name: str, value: Any) -> None:
        output = value[0] if isinstance(value, tuple | list) and value else value
        if name in seen:
            raise InputError(f"{type(network).__name__}: {name} runs several times in a pass; name the modules in it")
        if not isinstance(output, Tensor):
            raise InputError(f"{type(network).__name__}: {name} makes no tensor but a {type(output).__name__}")
        seen.add(name)
        take(name, output)

    with ExitStack() as stack:
        stack.enter_context(called_as_modules([modules[name] for name in names]))
        for name in names:
            if name in elsewhere:
                handle = modules[elsewhere[name]].register_forward_pre_hook(
                    lambda module, args, name=name: see(name, args)
                )
            else:
                handle = modules[name].register_forward_hook(lambda module, args, out, name=name: see(name, out))
            stack.callback(handle.remove)
        run()
    missing = [name for name in names if name not in seen]
    if missing:
        raise InputError(
            f"{type(network).__name__}: {first_few(missing, 3)} is not called as a module in a pass, its work is done "
            "by another one; name the module that holds it"
        )


def _extended(network: nn.Module, length: int) -> int:
    """Rows or columns of an image when the caller and the network have extended it."""
    return image_axis(network, length, torch.device("cpu")).numel()


def _leaves_open(size: tuple[int, int]) -> bool:
    """Whether a width can be taken for a height, and then channels for a width: of square images, for example."""
    return _factor((size[1], size[1]), (size[0], size[0])) is not None


def _layouts(network: nn.Module, x: Tensor, names: Sequence[str]) -> dict[str, Layout]:
    """How outputs lie in memory, found with a small image whose sides cannot be taken for one another.

    Empty for networks that refuse other sizes than that of x: their outputs then have to tell.
    """
    step = _extended(network, 1)
    units = max(2, -(-16 // step))
    size = (units * step, (units + 1) * step)
    image = torch.zeros(1, x.shape[1], *size, dtype=x.dtype, device=x.device)
    found: dict[str, Layout] = {}

    def look(name: str, output: Tensor) -> None:
        found[name] = _layout(name, output, 1, size)

    try:
        with torch.no_grad():
            _observe(network, names, look, lambda: forward(network, image))
    except InputError:
        if getattr(network, "absolute_pos_embed", None) is None:
            raise
        return {}
    return found


def _layout(name: str, output: Tensor, images: int, size: tuple[int, int]) -> Layout:
    """How an output for some images lies in memory; channels come first where both fit."""
    shape = output.shape
    if shape[0] == images and output.ndim == 4:
        if _factor((shape[2], shape[3]), size) is not None:
            return "channels first"
        if _factor((shape[1], shape[2]), size) is not None:
            return "channels last"
    if shape[0] == images and output.ndim == 3 and _factor_of_tokens(shape[1], size) is not None:
        return "tokens"
    raise InputError(
        f"{name} makes a tensor {list(shape)}, which is no map of {images} images of {size[0]} x {size[1]} pixels; "
        "name a module whose output is [B, C, H, W], [B, H, W, C] or [B, N, C]"
    )


def _map(name: str, output: Tensor, layout: Layout, size: tuple[int, int], wanted: tuple[int, int]) -> Tensor:
    """An output as [B, C, h, w]: channels first, cropped to the part that shows the image."""
    if layout == "tokens":
        factor = _factor_of_tokens(output.shape[1], size)
        output = output.transpose(1, 2)
        if factor is not None:
            output = output.unflatten(2, (round(size[0] * factor), round(size[1] * factor)))
    else:
        output = output if layout == "channels first" else output.permute(0, 3, 1, 2)
        factor = _factor((output.shape[2], output.shape[3]), size)
    if factor is None:
        raise InputError(f"{name} makes a tensor {list(output.shape)}, which is no map of the image")
    return output[:, :, : math.ceil(wanted[0] * factor), : math.ceil(wanted[1] * factor)]


def _factor(sides: tuple[int, int], size: tuple[int, int]) -> float | None:
    """By what features are larger than the image, or smaller (below 1); None where they are neither."""
    for factor in _FACTORS:
        if all(side == whole * factor for side, whole in zip(sides, size, strict=True)):
            return float(factor)
        if all(side == -(-whole // factor) for side, whole in zip(sides, size, strict=True)):
            return 1 / factor
    return None


def _factor_of_tokens(count: int, size: tuple[int, int]) -> float | None:
    """The same of rows of tokens."""
    for factor in _FACTORS:
        if count == size[0] * size[1] * factor**2:
            return float(factor)
        if size[0] % factor == size[1] % factor == 0 and count * factor**2 == size[0] * size[1]:
            return 1 / factor
    return None
