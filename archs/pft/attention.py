"""Focused attention as a module, beside it a depthwise convolution of the values. Pixels in rows, [B, H, W, C].

Published attribute names are kept: they are the format of the checkpoints.

Shapes: B images, H W low-resolution pixels, C channels; w side of a window, N = w*w pixels in it, n windows of an
image, h heads of width D = C / h.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archs.layers.conv_ffn import DepthwiseConvolution
from archs.layers.evaluation import projected, serves
from archs.layers.heads import joined_heads, separate_heads
from archs.layers.linear import Linear
from archs.layers.mask import shift_regions
from archs.layers.places import AttentionPlaces, unpadded, window_places
from archs.layers.recompute import recomputed
from archs.layers.swin import WindowParameters
from archs.layers.watched import watched
from archs.layers.window import (
    Pair,
    shifted_merge,
    shifted_partition,
    shifted_places,
    unshifted_places,
    window_merge,
    window_partition,
)
from archs.pft.bands import FocusBands, Surroundings, cut, give_memory_back
from ops import depthwise_gelu, linear_rows
from ops.focused.arguments import FocusState
from ops.focused.attention import focused_attention
from ops.mlp.gelu_depthwise import DEPTHWISE_GELU, GeluDepthwiseCall
from ops.registry import NATIVE
from utils.errors import InputError

SHARED_TABLE_WIDTH = 100
"""Networks of up to so many channels have one bias table for all heads, as published."""


class AttentionSettings(NamedTuple):
    """What focused attention is made of; :class:`ProgressiveFocusedAttention` says what each value means."""

    channels: int
    num_heads: int
    window_size: int
    topk: int
    shift: int
    kernel_size: int
    qkv_bias: bool
    table_per_head: bool | None


def attention_layers(settings: AttentionSettings) -> dict[str, nn.Module]:
    """The layers of focused attention, by their published names and in their order in the checkpoint format."""
    channels, table_per_head = settings.channels, settings.table_per_head
    if table_per_head is None:
        table_per_head = channels > SHARED_TABLE_WIDTH
    return {
        "wqkv": Linear(channels, 3 * channels, bias=settings.qkv_bias),
        "v_LePE": DepthwiseConvolution(channels, settings.kernel_size),
        "attn_win": WindowParameters(channels, settings.num_heads, settings.window_size, table_per_head),
    }


class FocusedAttentionBase(nn.Module):
    """A base class of modules that hold the layers of focused attention among others.

    A class of its own registers :func:`attention_layers` where the checkpoint format has them.

    Args:
        settings: of the attention.

    Raises:
        InputError: the settings contradict each other.
    """

    wqkv: Linear
    v_LePE: DepthwiseConvolution  # noqa: N815 - published
    attn_win: WindowParameters

    def __init__(self, settings: AttentionSettings) -> None:
        super().__init__()
        channels, num_heads, window_size, topk, shift, kernel_size = settings[:6]
        name = type(self).__name__
        if num_heads < 1 or channels < 1 or channels % num_heads:
            raise InputError(f"{name}: {channels} channels cannot be shared evenly by {num_heads} heads")
        if window_size < 1 or not 0 <= shift < window_size:
            raise InputError(f"{name}: a window of {window_size} cannot be shifted by {shift}")
        if topk < 1 or kernel_size < 1 or kernel_size % 2 == 0:
            raise InputError(
                f"{name}: topk must be at least 1 and kernel_size an odd number, got {topk} and {kernel_size}"
            )
        self.num_heads = num_heads
        self.window = (window_size, window_size)
        self.topk = topk
        self.shift = shift

    def initialise_attention(self) -> None:
        """Published initial values; convolutions have the framework's."""
        nn.init.trunc_normal_(self.attn_win.relative_position_bias_table, std=0.02)
        for layer in (self.wqkv, self.attn_win.proj):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def attention_places(self, x: Tensor, *state: object) -> tuple[AttentionPlaces, ...]:
        """Those of the windows; see :class:`archs.contract.AttentionModule`."""
        rows, columns = (unpadded(side, x.device) for side in x.shape[1:3])
        return (window_places(rows, columns, self.window, shift=(self.shift, self.shift)),)

    def attend(self, x: Tensor, state: FocusState | None, norm: nn.Module | None = None) -> tuple[Tensor, FocusState]:
        """Attention inside windows plus the convolution of the values, projected.

        Args:
            x: [B, H, W, C].
            state: of the layer before.
            norm: what x goes through first.

        Returns:
            [B, H, W, C] and the state for the next layer.
        """
        size, shift = (x.shape[1], x.shape[2]), (self.shift, self.shift)

        def project(x: Tensor) -> Tensor:
            # Windows are cut before the projection: afterwards there are three times as many channels to move.
            cut = shifted_partition(x if norm is None else norm(x), self.window, self.shift)
            return cast("Tensor", self.wqkv(cut))

        windows = recomputed(project, x)  # [B*n, N, 3C]
        regions = shift_regions(size, self.window, shift, x.device) if self.shift else None
        q, k, v = separate_heads(windows, self.num_heads)
        out, state = self._focus(q, k, v, state, regions)
        return self.attn_win.proj(self._image(out, size) + self._positional(joined_heads(v), size)), state

    def _positional(self, values: Tensor, size: Pair) -> Tensor:
        """The convolution of the values with GELU, [B*n, N, C] -> [B, H, W, C]; the image need not be kept."""
        conv, B = self.v_LePE.layer, values.shape[0] * values.shape[1] // (size[0] * size[1])
        call = GeluDepthwiseCall(values.device.type, side=conv.weight.shape[-1])
        if DEPTHWISE_GELU.choose(call).name != NATIVE or watched(*self.v_LePE.modules()):
            return recomputed(lambda values: self.v_LePE(self._image(values, size)), values)
        back = unshifted_places(self.window, size, self.shift, B, values.device)
        return depthwise_gelu(values.flatten(0, 1), back, size, conv.weight, cast("Tensor", conv.bias))

    def attend_at_once(self, x: Tensor, state: FocusState | None, norm: nn.LayerNorm) -> tuple[Tensor, FocusState]:
        """X plus what :meth:`attend` returns, by kernels for several steps; for x that they serve.

        Args:
            x: [B, H, W, C].
            state: of the layer before.
            norm: what x goes through first.

        Returns:
            [B, H, W, C] and the state for the next layer.
        """
        B, H, W, C = x.shape
        size, shift, pixels = (H, W), self.shift, x.reshape(-1, C)
        there = shifted_places(self.window, size, shift, B, x.device)
        back = unshifted_places(self.window, size, shift, B, x.device)
        qkv = projected(pixels, self.wqkv, norm, order=there)  # [B*n*N, 3C]
        regions = shift_regions(size, self.window, (shift, shift), x.device) if shift else None
        windows = qkv.view(-1, self.window[0] * self.window[1], 3 * C)
        out, state = self._focus(*separate_heads(windows, self.num_heads), state, regions)
        conv, proj = self.v_LePE.layer, self.attn_win.proj
        local = depthwise_gelu(qkv[:, 2 * C :], back, size, conv.weight, cast("Tensor", conv.bias)).view(-1, C)
        rows = out.reshape(-1, C)
        return linear_rows(rows, proj.weight, proj.bias, order=back, added=local, residual=pixels).view(x.shape), state

    def _focus(
        self, q: Tensor, k: Tensor, v: Tensor, state: FocusState | None, regions: Tensor | None
    ) -> tuple[Tensor, FocusState]:
        """Each [B*n, h, N, D] -> [B*n, N, C] and the new state."""
        table = self.attn_win.relative_position_bias_table
        out, state = focused_attention(
            q, k, v, table, state, window=self.window[0], topk=self.topk, regions=regions
        )  # fmt: skip
        return joined_heads(out), state

    def attend_in_bands(self, x: Tensor, states: FocusBands, norm: nn.Module) -> None:
        """Add to x what :meth:`attend` returns, a few rows of windows at a time.

        Args:
            x: [B, H, W, C], overwritten.
            states: of the layer before, used up; then of this one.
            norm: what x goes through first.
        """
        H, W = x.shape[1:3]
        w, shift = self.window[0], self.shift
        regions = shift_regions((H, W), self.window, (shift, shift), x.device) if shift else None
        bands, in_row = cut(H, W, w), W // w
        # Where shifted windows reach around the border a band has two pieces, at the bottom and at the top.
        edges = {0, H, *((row + shift) % H for band in bands for row in band)}
        radius = self.v_LePE.radius
        at_once = serves(x, self)
        for number, image in enumerate(x):
            around = Surroundings(image, edges, radius)
            for start, stop in bands:
                pieces = [(start + shift, min(stop + shift, H)), (0, max(0, stop + shift - H))]
                pieces = [piece for piece in pieces if piece[0] < piece[1]]
                rows = torch.cat([image[slice(*piece)] for piece in pieces])
                if at_once:
                    qkv = projected(rows.flatten(0, 1), self.wqkv, cast("nn.LayerNorm", norm))
                    qkv = qkv.view(*rows.shape[:2], -1)
                else:
                    qkv = self.wqkv(norm(rows))  # [rows, W, 3C]
                lengths = [end - begin for begin, end in pieces]
                local = torch.cat([
                    self._local(around.above(begin), values, around.below(end), norm)
                    for (begin, end), values in zip(pieces, qkv.chunk(3, -1)[2].split(lengths), strict=True)
                ])  # fmt: skip
                windows = window_partition(qkv.roll(-shift, 1)[None], self.window)
                del qkv
                first = start // w * in_row
                some = None if regions is None else regions[first : stop // w * in_row]
                place = number * (H // w * in_row) + first
                out, state = self._focus(*separate_heads(windows, self.num_heads), states.take(place), some)
                states.put(place, state)
                out = window_merge(out, self.window, (stop - start, W))[0].roll(shift, 1)
                for piece, added in zip(pieces, self.attn_win.proj(out + local).split(lengths), strict=True):
                    image[slice(*piece)] += added
                del local, windows, out, state, added
                give_memory_back(x)

    def _local(self, above: Tensor, values: Tensor, below: Tensor, norm: nn.Module) -> Tensor:
        """The convolution of values [rows, W, C], whose neighbours come from rows of the image above and below."""
        C = values.shape[-1]
        bias = cast("Tensor | None", self.wqkv.bias)
        weight, bias = self.wqkv.weight[2 * C :], None if bias is None else bias[2 * C :]
        beyond = F.linear(norm(torch.cat([above, below])), weight, bias)
        whole = torch.cat([beyond[: len(above)], values, beyond[len(above) :]])
        return cast("Tensor", self.v_LePE(whole[None]))[0, len(above) : len(above) + len(values)]

    def _image(self, windows: Tensor, size: Pair) -> Tensor:
        """[B*n, N, C] -> [B, H, W, C], where the pixels were before windows were cut."""
        return shifted_merge(windows, self.window, size, self.shift)


class ProgressiveFocusedAttention(FocusedAttentionBase):
    """Self-attention in windows that goes on where an earlier layer's has looked: a drop-in for window attention.

    Several of them in a row pass a state along. The first gets None; those with the same ``shift`` form a chain, and
    each attends to what all before it found important. ``topk`` may fall along the chain.

    Args:
        channels: C.
        num_heads: h, a divisor of C.
        window_size: w; the image's sides must be multiples of it.
        topk: keys that each query keeps for this and later modules; w * w or more for all.
        shift: by how many pixels the windows are moved, 0 .. w - 1; usually 0 or w // 2.
        kernel_size: side of the depthwise convolution of the values beside the attention, odd.
        qkv_bias: the projections to queries, keys and values have a bias.
        table_per_head: each head has its own position bias; None for the published rule, more than 100 channels.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        window_size: int = 16,
        topk: int = 64,
        *,
        shift: int = 0,
        kernel_size: int = 7,
        qkv_bias: bool = True,
        table_per_head: bool | None = None,
    ) -> None:
        settings = AttentionSettings(
            channels, num_heads, window_size, topk, shift, kernel_size, qkv_bias, table_per_head
        )  # fmt: skip
        super().__init__(settings)
        for name, layer in attention_layers(settings).items():
            self.add_module(name, layer)
        self.initialise_attention()

    def forward(self, x: Tensor, state: FocusState | None = None) -> tuple[Tensor, FocusState]:
        """[B, H, W, C] and the state of the module before, or None -> [B, H, W, C] and the state for the next."""
        w = self.window[0]
        if x.shape[1] % w or x.shape[2] % w:
            raise InputError(
                f"ProgressiveFocusedAttention: an image of {x.shape[1]} x {x.shape[2]} pixels cannot be cut into "
                f"windows of {w} x {w}; pad it to multiples"
            )
        return self.attend(x, state)
