"""Layers and groups of PFT. Pixels in rows, [B, H, W, C].

Published attribute names are kept: they are the format of the checkpoints.

Shapes: B images, H W low-resolution pixels, C channels, M hidden channels of the MLP.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, cast

from torch import Tensor, nn

from archs.layers.conv_ffn import ConvFFN
from archs.layers.evaluation import serves
from archs.layers.linear import initialise_linear
from archs.layers.residual import residual_convolution
from archs.pft.attention import AttentionSettings, FocusedAttentionBase, attention_layers
from archs.pft.bands import FocusBands, add_local, in_bands
from ops import FocusState

Connection = Literal["1conv", "3conv"]


class AttentionTransformerLayer(FocusedAttentionBase):
    """Focused attention and an MLP, each with a normalisation before it and a residual connection around both.

    In the paper: a layer; the convolution of the values beside its attention is the positional branch (``v_LePE``).

    Args:
        channels: C.
        num_heads: divisor of C.
        window_size: side of the windows.
        topk: keys that each query keeps.
        shift: by how many pixels the windows are moved.
        kernel_size: of both depthwise convolutions.
        mlp_ratio: M / C.
        qkv_bias: the projections to queries, keys and values have a bias.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        window_size: int,
        topk: int,
        *,
        shift: int,
        kernel_size: int,
        mlp_ratio: float,
        qkv_bias: bool,
    ) -> None:
        settings = AttentionSettings(channels, num_heads, window_size, topk, shift, kernel_size, qkv_bias, None)
        super().__init__(settings)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)
        for name, layer in attention_layers(settings).items():
            self.add_module(name, layer)
        self.convffn = ConvFFN(channels, int(channels * mlp_ratio), kernel_size)
        self.initialise_attention()
        for layer in (self.convffn.fc1, self.convffn.fc2):
            initialise_linear(layer)

    def forward(self, x: Tensor, state: FocusState | FocusBands | None) -> tuple[Tensor, FocusState | FocusBands]:
        """[B, H, W, C] and the state of the layer before with the same shift -> [B, H, W, C] and the new state.

        Nothing is written to, unless the state is given in bands: x and the state are then overwritten, and returned;
        or is disposable.
        """
        if isinstance(state, FocusBands):
            self.attend_in_bands(x, state, self.norm1)
            add_local(x, lambda x: self.convffn(x, self.norm2), x, self.convffn.dwconv.radius)
            return x, state
        if serves(x, self):
            x, state = self.attend_at_once(x, state, self.norm1)
            return self.convffn.at_once(x, self.norm2, residual=True), state
        attended, state = self.attend(x, state, self.norm1)
        x = x + attended
        return x + self.convffn(x, self.norm2), state


class LayerList(nn.Module):
    """The layers of a group in their order, under their published name.

    Args:
        layers: every other one with shifted windows, the first without.
    """

    def __init__(self, layers: Iterable[AttentionTransformerLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)


class ResidualGroup(nn.Module):
    """Layers and a convolution, around which the input passes; :meth:`PFT.body` runs them.

    In the paper: a group of layers with its residual convolution.

    Args:
        channels: C.
        layers: of the group.
        resi_connection: the convolution.
    """

    def __init__(self, channels: int, layers: Iterable[AttentionTransformerLayer], resi_connection: Connection) -> None:
        super().__init__()
        self.residual_group = LayerList(layers)
        self.conv = residual_convolution(channels, resi_connection)

    def add_convolved(self, x: Tensor, y: Tensor) -> Tensor:
        """X + conv(y), all [B, H, W, C]; large images in evaluation overwrite x."""

        def convolved(y: Tensor) -> Tensor:
            return cast("Tensor", self.conv(y.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)

        if not in_bands(x):
            return x + convolved(y)
        add_local(x, convolved, y, 2)  # two convolutions of 3x3 at most
        return x

    @property
    def attention_layers(self) -> list[AttentionTransformerLayer]:
        """The layers."""
        return [cast("AttentionTransformerLayer", layer) for layer in self.residual_group.layers]
