"""Sizes of networks that are meant: what is larger is a slip of the pen, and would be built for minutes or for ever.

The bounds go by the names that constructors have in common, those of BasicSR included, and lie far beyond any network
for super-resolution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from utils.env import obtainable_memory
from utils.errors import InputError
from utils.typed import number_text

_WIDTHS = (
    *("embed_dim", "dim", "pdim", "n_feat", "im_feat", "attn_feat", "hidden_dim", "hidden_list", "mid_dim"),
    *("in_chans", "out_dim", "num_feat", "num_in_ch", "num_out_ch", "num_grow_ch"),
)
_COUNTS = ("depths", "depth", "n_blocks", "conv_blocks", "num_block", "num_group", "num_conv")
_SCALES = ("scale", "upscale", "upscaling_factor", "scale_max")
_KERNELS = ("kernel_size", "convffn_kernel_size")
_WINDOWS = ("window_size", "split_size", "base_win_size")

LARGEST: Mapping[str, int] = {
    **dict.fromkeys(_WIDTHS, 8192),
    **dict.fromkeys(_COUNTS, 1000),
    **dict.fromkeys(_SCALES, 100),
    **dict.fromkeys(_KERNELS, 255),
    **dict.fromkeys(_WINDOWS, 128),
    **dict.fromkeys(("compress_ratio", "squeeze_factor", "num_heads", "num_tokens", "reducted_dim"), 8192),
    **dict.fromkeys(("mlp_ratio", "exp_ratio", "overlap_ratio", "patch_size", "recursions", "hier_win_ratios"), 64),
    "c_ratio": 1,
    **dict.fromkeys(
        ("img_size", "num_topk", "category_size", "img_range", "qk_scale", "conv_scale", "res_scale"), 65_536
    ),
}
"""Argument -> the largest value, of each of its items where it is a list."""

SMALLEST: Mapping[str, float] = {
    **dict.fromkeys(("in_chans", "num_in_ch", "num_out_ch", "num_feat", "num_grow_ch", "num_block"), 1),
    **dict.fromkeys(("mlp_ratio", "exp_ratio"), 1 / 64),
}
"""Arguments whose networks leave it to torch to say that they are too small."""

RATES = ("drop_rate", "value_drop_rate", "attn_drop_rate", "drop_path_rate")
"""Arguments that are probabilities below 1."""

MOST_ITEMS = 1000  # of a list; together, the items of depths are bounded by this too
MOST_PARAMETERS = 10**9
_ROUGHLY_LARGE = 2**28  # parameters; below, a network is built as quickly as it is counted


def argument_problems(arguments: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The arguments of a constructor that are out of all proportion: key and what is wrong."""
    for key, value in arguments.items():
        numbers = _numbers(value)
        largest = LARGEST.get(key)
        if len(numbers) > MOST_ITEMS:
            yield key, f"expected at most {MOST_ITEMS} numbers, got {len(numbers):,}"
        elif key in RATES and not all(0 <= number < 1 for number in numbers):
            yield key, f"expected a number at least 0 and below 1, got {value}"
        elif largest is not None and any(number > largest for number in numbers):
            yield key, f"expected at most {largest}, got {number_text(max(numbers))}"
        elif key in SMALLEST and any(number < SMALLEST[key] for number in numbers):
            yield key, f"expected at least {SMALLEST[key]:g}, got {number_text(min(numbers))}"
        elif key in _COUNTS and sum(numbers) > MOST_ITEMS:
            yield key, f"expected at most {MOST_ITEMS} blocks in all, got {number_text(sum(numbers))}"


def check_size(
    name: str, target: Callable[..., nn.Module], arguments: Mapping[str, Any], section: str = "network_g"
) -> None:
    """Count the parameters of a network that may be too large, before memory is taken for them.

    Args:
        name: of the network, for the message.
        target: its constructor.
        arguments: of the constructor.
        section: of the option file; discriminators, which have few layers, are counted always.

    Raises:
        InputError: there are more than anybody trains, or than the memory has room for.
    """
    if section == "network_g" and _roughly(arguments) < _ROUGHLY_LARGE:
        return
    with torch.device("meta"):  # shapes without values
        count = sum(parameter.numel() for parameter in target(**arguments).parameters())
    free = obtainable_memory()
    if count > MOST_PARAMETERS or (free is not None and 4 * count > free):
        most = f"at most {MOST_PARAMETERS:,}" if count > MOST_PARAMETERS else f"{free:,} bytes are free"
        raise InputError(
            f"{section} ({name}): {count:,} parameters take {4 * count:,} bytes, too many ({most}); choose smaller "
            "widths or fewer blocks"
        )


def _numbers(value: Any) -> list[float]:
    items = value if isinstance(value, list | tuple) else [value]
    return [item for item in items if isinstance(item, int | float) and not isinstance(item, bool)]


def _roughly(arguments: Mapping[str, Any]) -> float:
    """A number of parameters that a network with such arguments hardly exceeds."""

    def largest(names: tuple[str, ...]) -> float:
        return max((abs(number) for key in names for number in _numbers(arguments.get(key))), default=1)

    width = largest(_WIDTHS)
    blocks = 1.0
    for key in _COUNTS:
        blocks *= max(1, sum(_numbers(arguments.get(key))))
    ratio = largest(("mlp_ratio", "exp_ratio"))
    dense = 405 if "num_grow_ch" in arguments else 0  # 15 convolutions, up to five times as wide at their end
    per_block = (
        width**2 * (16 + dense + 2 * ratio) + width * largest(_KERNELS) ** 2 + largest(_WINDOWS) ** 2 * 4 * width
    )
    ends = width**2 * (9 * largest(_SCALES) ** 2 + largest(_KERNELS) ** 2) + largest(("img_size",)) ** 2 * width
    return blocks * per_block + ends
