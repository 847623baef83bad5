"""The network PFT, and what its weights tell about it.

Shapes: B images, c image channels, H W low-resolution pixels, C channels of the network, s scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from archs.layers.constants import PublishedConstants
from archs.layers.frame import MirroringNetwork, choice_problems, embedding_arguments, residual_kind
from archs.layers.numbering import count_numbered
from archs.layers.position import relative_position_index
from archs.layers.size import SizeRule
from archs.layers.upsample import Upsampler, head_of
from archs.pft.bands import FocusBands, in_bands
from archs.pft.blocks import AttentionTransformerLayer, Connection, ResidualGroup
from ops import FocusState
from utils.errors import InputError

PUBLISHED_TOPK = (*[256] * 2, *[128] * 4, *[64] * 6, *[32] * 6, *[16] * 6)


class PFT(PublishedConstants, MirroringNetwork):
    """Progressive focused transformer.

    Two defaults are not the published ones, with which no network works: num_heads (a list) and upsampler ('').

    Where logits are extreme, results differ from those of the published code, on purpose. It adds 1e-20 to each weight
    in each layer, so that smaller weights become equal: their order is lost, and with it which keys a list keeps last.
    Sums of logits keep it (:func:`ops.focused_attention`). Weights of ordinary size give the same to rounding.

    Args:
        upscale: scale s.
        in_chans: channels c of input and output.
        img_size: side of the padded images; matters to absolute positions alone.
        patch_size: must be 1.
        embed_dim: channels C inside.
        depths: layers of each group.
        num_heads: heads of every layer, a divisor of embed_dim; a list must hold equal numbers.
        num_topk: for each layer of the network, how many keys a query keeps; as many as a window has pixels, or more,
            for all. A number above that of an earlier layer has no effect.
        window_size: side of the windows; images are padded to multiples of it, by mirroring.
        convffn_kernel_size: side of the depthwise convolutions.
        mlp_ratio: hidden channels of the MLPs, divided by embed_dim.
        qkv_bias: the projections to queries, keys and values have a bias.
        norm_layer: kind of the normalisations.
        ape: add learned absolute positions; padded images must then have as many pixels as img_size says.
        patch_norm: normalise the first features.
        use_checkpoint: save memory in training by computing each layer twice.
        img_range: factor on the image inside the network.
        upsampler: how the image is made; '' for a network that restores images without a change of size.
        resi_connection: the convolutions at the end of each group and of the body.
    """

    kernels = (
        "window", "conv3x3", "focus_all", "focus_select", "focus_sparse", "gelu_depthwise", "linear_rows", "maps",
    )  # fmt: skip
    window_size: int

    def __init__(
        self,
        upscale: int = 2,
        in_chans: int = 3,
        img_size: int = 64,
        patch_size: int = 1,
        embed_dim: int = 90,
        depths: Sequence[int] = (6, 6, 6, 6),
        num_heads: int | Sequence[int] = 6,
        num_topk: Sequence[int] = PUBLISHED_TOPK,
        window_size: int = 8,
        convffn_kernel_size: int = 5,
        mlp_ratio: float = 2.0,
        qkv_bias: bool = True,
        norm_layer: Literal["LayerNorm"] = "LayerNorm",
        ape: bool = False,
        patch_norm: bool = True,
        use_checkpoint: bool = False,
        img_range: float = 1.0,
        upsampler: Upsampler = "pixelshuffle",
        resi_connection: Connection = "1conv",
    ) -> None:
        super().__init__()
        heads = _heads(num_heads)
        problems = _problems(depths, heads, num_topk, embed_dim, window_size, convffn_kernel_size, mlp_ratio)
        problems += choice_problems(upscale, patch_size, norm_layer, upsampler, resi_connection, get_args(Connection))
        if problems:
            raise InputError("PFT: " + "; ".join(problems))
        self.use_checkpoint = use_checkpoint
        self.window_size = window_size
        self.size_rule = SizeRule(tile_multiple=window_size)
        self.receptive_radius = None
        self.begin(
            in_chans, embed_dim, upscale, img_range, positions=img_size**2 if ape else None, patch_norm=patch_norm
        )  # fmt: skip
        kept = iter(num_topk)
        self.layers = nn.ModuleList()
        for depth in depths:
            layers = [
                AttentionTransformerLayer(
                    embed_dim, heads, window_size, next(kept), shift=number % 2 * (window_size // 2),
                    kernel_size=convffn_kernel_size, mlp_ratio=mlp_ratio, qkv_bias=qkv_bias,
                )
                for number in range(depth)
            ]  # fmt: skip
            self.layers.append(ResidualGroup(embed_dim, layers, resi_connection))
        self.end(embed_dim, upsampler, resi_connection)

    def published_constants(self) -> Mapping[str, Tensor]:
        """The index table of the position biases."""
        window = (self.window_size, self.window_size)
        return {"relative_position_index_SA": relative_position_index(window, torch.device("cpu"))}

    def focused_layers(self) -> list[AttentionTransformerLayer]:
        """All layers in the order in which num_topk counts them."""
        return [layer for group in self.layers for layer in cast("ResidualGroup", group).attention_layers]

    def given_to(self) -> dict[str, str]:
        """A group's result is what the first layer of the next one is called with, that of the last one the norm."""
        followers = [f"layers.{number}.residual_group.layers.0" for number in range(1, len(self.layers))]
        return {f"layers.{number}": name for number, name in enumerate([*followers, "norm"])}

    def blocks(self, x: Tensor) -> Tensor:
        """All groups, [B, H, W, C] -> [B, H, W, C]."""
        # Of layers with windows as they are, and with shifted ones. The only references to the states are here, so that
        # each is gone when the next one has come.
        states: list[FocusState | FocusBands | None] = [None, None]
        large = in_bands(x)
        if large:
            x = x.clone()  # overwritten, and without a normalisation it is the caller's
            states = [FocusBands(), FocusBands()]
        for group in (cast("ResidualGroup", group) for group in self.layers):
            y = x.clone() if large else x
            for number, layer in enumerate(group.attention_layers):
                y, states[number % 2] = self._run(layer, y, _disposable(states[number % 2]))
            x = group.add_convolved(x, y)
        return x

    def _run(
        self, layer: AttentionTransformerLayer, x: Tensor, state: FocusState | FocusBands | None
    ) -> tuple[Tensor, FocusState | FocusBands]:
        """A layer; with use_checkpoint only its arguments are kept for the backward pass, which runs it again."""
        found: tuple[Tensor, FocusState | FocusBands]
        if self.use_checkpoint and torch.is_grad_enabled():
            found = checkpoint(layer, x, state, use_reentrant=False, preserve_rng_state=False)
        else:
            found = layer(x, state)
        return found

    def features(self, x: Tensor) -> Tensor:
        """The centred image [B, c, H, W] -> what the image is made of, [B, C, H, W]."""
        if in_bands(x.permute(0, 2, 3, 1)):
            # A second convolution costs next to nothing, and features of a large image much memory.
            after: Tensor = self.conv_after_body(self.body(self.conv_first(x)))
            return after + cast("Tensor", self.conv_first(x))
        return super().features(x)


def _disposable(state: FocusState | FocusBands | None) -> FocusState | FocusBands | None:
    """A state of which the network has the only reference, as the layer that it is for is to know."""
    if torch.is_grad_enabled() or not isinstance(state, FocusState):
        return state
    return replace(state, disposable=True)


def _heads(num_heads: int | Sequence[int]) -> int:
    if isinstance(num_heads, int):
        return num_heads
    if not num_heads or len(set(num_heads)) > 1:
        raise InputError(f"PFT: all layers have the same num_heads; give one number instead of {list(num_heads)}")
    return num_heads[0]


def _problems(
    depths: Sequence[int],
    heads: int,
    num_topk: Sequence[int],
    embed_dim: int,
    window_size: int,
    kernel_size: int,
    mlp_ratio: float,
) -> list[str]:
    """What is wrong with the sizes, all of it."""
    problems = []
    if not depths or min(depths) < 1:
        problems.append(f"depths must hold a number of at least 1 for each group, got {list(depths)}")
    elif len(num_topk) < sum(depths):
        problems.append(
            f"num_topk has {len(num_topk)} numbers for {sum(depths)} layers (the sum of depths); give one for each"
        )
    if any(count < 1 for count in num_topk):
        problems.append(f"num_topk must hold numbers of at least 1, got {min(num_topk)}")
    if embed_dim < 1 or heads < 1 or embed_dim % heads:
        problems.append(f"num_heads: {heads} heads cannot share embed_dim {embed_dim} evenly")
    if window_size < 1:
        problems.append(f"window_size must be at least 1, got {window_size}")
    if kernel_size < 1 or kernel_size % 2 == 0:
        problems.append(f"convffn_kernel_size must be an odd number, got {kernel_size}")
    if int(embed_dim * mlp_ratio) < 1:
        problems.append(f"mlp_ratio {mlp_ratio:g} leaves no hidden channel of embed_dim {embed_dim}")
    return problems


def configuration_from_state(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The ``network_g`` mapping of the published PFT that a state dict belongs to, read off its keys and shapes.

    How many keys the layers keep leaves no trace, so only networks of published width and depths are known. What else
    leaves none, ``img_range``, has its default.

    Raises:
        InputError: the keys are not those of a PFT, or of one that has not been published.
    """
    layer = "layers.{}.residual_group.layers.{}."
    try:
        table = state[layer.format(0, 0) + "attn_win.relative_position_bias_table"]
        embed_dim, in_chans = state["conv_first.weight"].shape[:2]
        kernel_size = state[layer.format(0, 0) + "v_LePE.depthwise_conv.0.weight"].shape[-1]
        hidden = state[layer.format(0, 0) + "convffn.fc1.weight"].shape[0]
        groups = count_numbered(state, r"layers\.(\d+)\.residual_group\.")
        depths = [
            count_numbered(state, rf"layers\.{group}\.residual_group\.layers\.(\d+)\.") for group in range(groups)
        ]
        upsampler, upscale = head_of(state, in_chans)
    except KeyError as error:
        raise InputError(f"these weights are not a PFT's: the key {error} is missing") from None
    window = (math.isqrt(table.shape[0]) + 1) // 2
    published = PUBLISHED.get((embed_dim, *depths))
    if published is None:
        raise InputError(
            f"these are a PFT's weights with embed_dim {embed_dim} and depths {depths}; how many keys its layers keep "
            "(num_topk) cannot be told from them; give the network in an option file"
        )
    heads, topk = published
    found: dict[str, Any] = {
        "type": "PFT",
        "upscale": upscale,
        "in_chans": in_chans,
        "embed_dim": embed_dim,
        "depths": depths,
        "num_heads": heads,
        "num_topk": list(topk),
        "window_size": window,
        "convffn_kernel_size": kernel_size,
        "mlp_ratio": hidden / embed_dim,
        "upsampler": upsampler,
        "resi_connection": residual_kind(state),
    }
    if layer.format(0, 0) + "wqkv.bias" not in state:
        found["qkv_bias"] = False
    return found | embedding_arguments(state)


PUBLISHED: Mapping[tuple[int, ...], tuple[int, Sequence[int]]] = {
    (240, 4, 4, 4, 6, 6, 6): (6, (*[1024] * 4, *[256] * 4, *[128] * 4, *[64] * 6, *[32] * 6, *[16] * 6)),
    (52, 2, 4, 6, 6, 6): (4, (*[1024] * 2, *[256] * 4, *[128] * 6, *[64] * 6, *[32] * 6)),
}
"""Width and depths of PFT and PFT-light -> num_heads and num_topk, which their files do not tell."""
