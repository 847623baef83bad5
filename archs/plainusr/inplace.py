"""The folded form in evaluation: one map holds all channels, and each block replaces the first of them.

So nothing is split, joined or copied between the levels, activations and shuffle belong to the convolutions, and two
maps besides the image are all the memory. Modules are not called one by one: where somebody watches them (hooks), and
where the kernels do not serve, the network's own forward runs.

Shapes: B images, H W low-resolution pixels, c channels of a block, s scale.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

from torch import Tensor, nn

from archs.layers.conv import Conv3x3
from archs.layers.pooling import SoftPool2d
from archs.layers.watched import watched
from archs.plainusr.blocks import NEGATIVE_SLOPE, FullResolutionAttention, LocalImportanceAttention, PlainBlock
from ops import IMPORTANCE_GATE, call_of, importance_gate_, pointwise_soft_pool
from ops.registry import NATIVE


def serves(network: nn.Module, x: Tensor) -> bool:
    """Whether a folded network can be evaluated in place: kernels serve, no gradient is wanted, nobody watches."""
    if type(x) is not Tensor or x.ndim != 4 or watched(*network.modules()):
        return False
    parameters = []
    for module in network.modules():
        parameters += [parameter for parameter in module._parameters.values() if parameter is not None]
    return IMPORTANCE_GATE.choose(call_of(x, *parameters)).name == NATIVE


def evaluate(x: Tensor, head: Conv3x3, blocks: Sequence[PlainBlock], tail: Conv3x3, scale: int) -> Tensor:
    """[B, 3, H, W] -> [B, 3, s*H, s*W].

    Args:
        x: for which :func:`serves` is true.
        head: the first convolution.
        blocks: in their order; each is for the first channels.
        tail: the last convolution, whose result is shuffled.
        scale: s.
    """
    B, _, H, W = x.shape
    features = _map(x, head.out_channels)
    head.evaluate(x, out=features)
    convs = max(len(block.convolutions()) for block in blocks)
    memory = [x.new_empty(B * H * W * max(block.channels for block in blocks)) for _ in range(min(2, convs - 1))]
    for block in blocks:
        c = block.channels
        spare = [part[: B * H * W * c].view(B, H, W, c).permute(0, 3, 1, 2) for part in memory]
        _replace(features[:, :c], block, spare)
    return tail.evaluate(features, shuffle=scale)


def _map(x: Tensor, channels: int) -> Tensor:
    """Memory for [B, c, H, W], channels last."""
    B, _, H, W = x.shape
    return x.new_empty(B, H, W, channels).permute(0, 3, 1, 2)


def _replace(features: Tensor, block: PlainBlock, spare: Sequence[Tensor]) -> None:
    """A block's result takes the place of what it is given; spare: maps like it, two for three convolutions."""
    source = features
    *first, last = block.convolutions()
    for conv, target in zip(first, _in_turns(spare), strict=False):
        source = conv.evaluate(source, slope=NEGATIVE_SLOPE, out=target)
    last.evaluate(source, out=features)
    attention = block.attention()
    if isinstance(attention, LocalImportanceAttention):
        reduce, pool = cast("nn.Conv2d", attention.body[0]), cast("SoftPool2d", attention.body[1])
        weight, bias = reduce.weight.flatten(1), cast("Tensor", reduce.bias)
        coarse = pointwise_soft_pool(features, weight, bias, side=pool.kernel_size, step=pool.stride)
        importance_gate_(features, attention.body[2:](coarse))
    elif isinstance(attention, FullResolutionAttention):
        importance_gate_(features, attention.logits().evaluate(features), logits=True)


def _in_turns(spare: Sequence[Tensor]) -> Iterator[Tensor]:
    while True:
        yield from spare
