"""PlainUSR: Chasing Faster ConvNet for Efficient Super-Resolution (Wang et al., ACCV 2024, arXiv 2409.13435)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archs.layers.pooling import SoftPool2d
from archs.layers.size import SizeRule
from utils.errors import InputError

Kernel = tuple[Tensor, Tensor]


class Branches(NamedTuple):
    expand_weight: Tensor
    expand_bias: Tensor
    fea_weight: Tensor
    fea_bias: Tensor
    reduce_weight: Tensor
    reduce_bias: Tensor
    scale_seed: Tensor
    squeeze: Tensor
    excite: Tensor
    mixer_weight: Tensor | None = None
    mixer_bias: Tensor | None = None


def fold_branches(layers: Sequence[Branches], dtype: torch.dtype) -> list[Kernel]:
    def stacked(tensors):
        return torch.stack([t.to(dtype) for t in tensors])

    c, m = layers[0].reduce_weight.shape[:2]
    t = stacked([l.scale_seed.flatten() for l in layers]).unsqueeze(2)
    a = torch.sigmoid(stacked([l.excite for l in layers]) @ F.silu(stacked([l.squeeze for l in layers]) @ t))  # [G,m,1]
    expand = stacked([l.expand_weight.flatten(1) for l in layers])
    reduce = stacked([l.reduce_weight.flatten(1) for l in layers])
    fea = stacked([l.fea_weight.permute(0, 2, 3, 1) for l in layers])
    bias = stacked([l.reduce_bias for l in layers]).unsqueeze(2)  # [G,c,1]
    eye = torch.eye(c, dtype=dtype, device=expand.device)
    skip = eye
    if any(l.mixer_weight is not None for l in layers):
        skip = torch.stack([eye if l.mixer_weight is None else torch.cat([l.mixer_weight.view(1, c).to(dtype), eye[1:]]) for l in layers])
        reduce = skip @ reduce
        off = torch.stack([torch.zeros_like(eye[0]) if l.mixer_bias is None else F.pad(l.mixer_bias.to(dtype), (0, c - 1)) for l in layers])
        bias = skip @ bias + off.unsqueeze(2)
    scaled = reduce * a.mT
    inner = (scaled @ fea.view(-1, m, 9 * m)).view(-1, c, 9, m)
    centre = torch.zeros(9, 1, dtype=dtype, device=expand.device)
    centre[4] = 1
    kernel = torch.addcmul((inner.flatten(1, 2) @ expand).view(-1, c, 9, c), (reduce @ expand + skip).unsqueeze(2), centre)
    bias = bias + scaled @ stacked([l.fea_bias for l in layers]).unsqueeze(2) + (inner.sum(2) + reduce) @ stacked([l.expand_bias for l in layers]).unsqueeze(2)
    return list(zip(kernel.view(-1, c, 3, 3, c).permute(0, 1, 4, 2, 3).unbind(), bias.squeeze(2).unbind()))


class _Matrix(nn.Linear):
    def __init__(self, i, o):
        super().__init__(i, o, bias=False)

    def reset_parameters(self):
        bound = 1 / math.sqrt(self.in_features)
        nn.init.uniform_(self.weight, -bound, bound)


class ScaleGenerator(nn.Module):
    def __init__(self, m, init="live"):
        super().__init__()
        self.tensor = nn.Parameter(torch.empty(1, m, 1, 1))
        self.se = nn.Sequential(nn.Flatten(), _Matrix(m, m // 4), nn.SiLU(), _Matrix(m // 4, m), nn.Sigmoid())
        if init == "published":
            nn.init.constant_(self.tensor, 0.1)
            nn.init.ones_(self.se[1].weight)
            nn.init.ones_(self.se[3].weight)
        else:
            nn.init.normal_(self.tensor)

    def forward(self):
        return self.se(self.tensor)[..., None, None]


class RepMBConv(nn.Module):
    def __init__(self, c, se_init="live"):
        super().__init__()
        m = 2 * c
        self.expand_conv = nn.Conv2d(c, m, 1)
        self.fea_conv = nn.Conv2d(m, m, 3)
        self.reduce_conv = nn.Conv2d(m, c, 1)
        self.se = ScaleGenerator(m, se_init)

    def forward(self, x):
        e = self.expand_conv(F.pad(x, (1, 1, 1, 1)))
        v = self.fea_conv(e) * self.se() + e[..., 1:-1, 1:-1]
        return self.reduce_conv(v) + x

    def branches(self, mixer=None):
        return Branches(
            self.expand_conv.weight, self.expand_conv.bias, self.fea_conv.weight, self.fea_conv.bias,
            self.reduce_conv.weight, self.reduce_conv.bias, self.se.tensor, self.se.se[1].weight, self.se.se[3].weight,
            None if mixer is None else mixer.conv.weight, None if mixer is None else mixer.conv.bias)


class GateMixer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv = nn.Conv2d(c, 1, 1)
        nn.init.constant_(self.conv.weight, 1 / c)
        nn.init.zeros_(self.conv.bias)

    def forward(self, x):
        return torch.cat([self.conv(x), x[:, 1:]], 1)


def gated_product(h, w):
    return h * w * torch.sigmoid(h[:, :1])


class LocalImportanceAttention(nn.Module):
    def __init__(self, channels, hidden):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, hidden, 1), SoftPool2d(7, 3), nn.Conv2d(hidden, hidden, 3, 2, 1),
            nn.Conv2d(hidden, channels, 3, 1, 1), nn.Sigmoid())

    def forward(self, x):
        w = F.interpolate(self.body(x), size=x.shape[-2:], mode="bilinear")
        return gated_product(x, w)


class FullAttention(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, channels, 3, 1, 1), nn.Sigmoid())

    def forward(self, x):
        return gated_product(x, self.body(x))


class Block(nn.Module):
    def __init__(self, width, convs, attention, train_form, se_init):
        super().__init__()
        layers = []
        for i in range(convs):
            if i:
                layers.append(nn.LeakyReLU(0.05, inplace=True))
            layers.append(RepMBConv(width, se_init) if train_form else nn.Conv2d(width, width, 3, 1, 1))
        if attention is not None:
            if train_form:
                layers.append(GateMixer(width))
            layers.append(attention)
        self.body = nn.Sequential(*layers)

    def forward(self, x, kernels=()):
        if not kernels:
            return self.body(x)
        it = iter(kernels)
        for layer in self.body:
            if isinstance(layer, RepMBConv):
                w, b = next(it)
                x = F.conv2d(x, w, b, padding=1)
            elif not isinstance(layer, GateMixer):
                x = layer(x)
        return x

    def branches(self):
        layers = list(self.body)
        out = []
        for i, l in enumerate(layers):
            if isinstance(l, RepMBConv):
                nxt = layers[i + 1] if i + 1 < len(layers) else None
                out.append(l.branches(nxt if isinstance(nxt, GateMixer) else None))
        return out


class Net(nn.Module):
    def __init__(self, family, n_feat, im_feat, attn_feat, scale, train_form=True, fly=True, se_init="live"):
        super().__init__()
        ultra = family == "ultra"
        self.down = ["block1"] if ultra else ["block1", "block2"]
        self.up = ["block2"] if ultra else ["block3", "block4"]
        self.im_feat = im_feat
        self.fly = fly and train_form
        self.head = nn.Conv2d(3, n_feat + 3, 3, 1, 1)
        widths = dict(zip([*self.down, "blockm", *self.up], [*im_feat, *im_feat[-2::-1]]))
        for name in sorted(self.down) + ["blockm"] + self.up:
            c = widths[name]
            att = (FullAttention(c) if name == "blockm" else None) if ultra else LocalImportanceAttention(c, attn_feat)
            setattr(self, name, Block(c, 3 if family == "large" else 2, att, train_form, se_init))
        self.tail = nn.Sequential(nn.Conv2d(n_feat + 3, 3 * scale**2, 3, 1, 1), nn.PixelShuffle(scale))

    def kernels(self):
        names = [*self.down, "blockm", *self.up]
        if not self.fly:
            return {n: () for n in names}
        pd = self.head.weight.dtype
        dtype = torch.promote_types(pd, torch.float32)
        groups = {}
        for n in names:
            for b in getattr(self, n).branches():
                groups.setdefault(b.reduce_weight.shape[0], []).append((n, b))
        out = {n: [] for n in names}
        with torch.autocast(self.head.weight.device.type, enabled=False):
            for g in groups.values():
                for (n, _), (w, b) in zip(g, fold_branches([b for _, b in g], dtype)):
                    out[n].append((w.to(pd), b.to(pd)))
        return out

    def forward(self, x):
        k = self.kernels()
        if not x.is_contiguous(memory_format=torch.channels_last):
            k = {n: [(w.contiguous(), b) for w, b in v] for n, v in k.items()}
        z = self.head(x)
        c0 = self.im_feat[0]
        x, rest = z[:, :c0], [z[:, c0:]]
        for n, c in zip(self.down, self.im_feat[1:]):
            y = getattr(self, n)(x, k[n])
            x = y[:, :c]
            rest.append(y[:, c:])
        x = self.blockm(x, k["blockm"])
        for n in self.up:
            x = getattr(self, n)(torch.cat([x, rest.pop()], 1), k[n])
        return self.tail(torch.cat([x, rest.pop()], 1))
