"""Window attention on ``scaled_dot_product_attention``: the logits never exist as a whole, nor does their gradient.

Shapes as in ops/window/arguments.py. Facts this file is built around (seen in PyTorch 2.13):

- The fused CPU kernel gives no gradient of its mask argument; with a bias that learns, PyTorch silently computes
  everything with plain matrices, even where no gradient is recorded. So the bias is detached in evaluation, and
  ops/window/chunked.py has a backward pass of its own for training.
- It reads a float32 mask beside float64 queries as garbage. The bias is therefore always cast.
- It takes four dimensions, so a mask per window and a bias per head can only be joined per window.
- On CUDA FlashAttention takes no mask at all; cuDNN is reported to misread masks; the memory-efficient kernel takes
  them, for widths that are multiples of 8, and its backward pass writes the bias gradient of every window before it is
  summed. Hence the choice of kernels, the padding and the chunks below.
"""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ops.dialect import dialect
from ops.registry import Backend, exporting, only_on
from ops.window.arguments import WindowArguments, WindowCall, WindowFunction, few_keys, never_held
from ops.window.chunked import in_float32, widen
from ops.window.reference import reference_attention
from ops.window.region_mask import dense_mask
from utils.device_memory import device_memory

# Elements of [windows, h, N, M] in one call where joined bias and mask, or the gradient of the bias, take that shape: a
# 64th of the device's memory in float32, and at least 128 MiB. On an H100 training ESC's windows all at once takes half
# of the time that eight calls take in bfloat16, and 0.8 in float32.
_LEAST_ELEMENTS = 1 << 25
_SHARE_OF_MEMORY = 64
# Windows times heads in one call: the limit of a CUDA grid in its second and third dimension.
_CUDA_GRID = 65535


def sdpa_attention(arguments: WindowArguments) -> Tensor:
    """[W, h, N, E]; the mask gets no gradient."""
    if exporting():
        # Other runtimes would compute the softmax of half precision in half precision.
        if not dialect().attention or arguments.q.dtype.itemsize < 4:
            return reference_attention(arguments)
        # A mask costs [n, h, N, M] there.
        return fused_attention(arguments, width_multiple=1)
    if arguments.q.device.type == "cpu":
        if arguments.q.dtype == torch.float16:
            return in_float32(sdpa_attention, arguments)
        if not len(arguments.q):
            return reference_attention(arguments)  # PyTorch leaves the bias out of the graph
        q, k, v, bias, mask, scale = arguments
        if bias is not None and not torch.is_grad_enabled():
            bias = bias.detach()
        return fused_attention(WindowArguments(q, k, v, bias, mask, scale), width_multiple=1)
    return cuda_attention(arguments)


def _refusal(call: WindowCall) -> str | None:
    if (elsewhere := only_on(call.device, "cpu", "cuda")) is not None:
        return elsewhere
    return never_held(call)


def _drawback(call: WindowCall) -> str | None:
    if call.device == "cpu" and not exporting():
        if call.gradient:
            return "PyTorch has no fused kernel on the CPU for a bias that learns, and stores the logits"
        if call.masked:
            return "it joins mask and bias for each window and head"
    return few_keys(call)


BACKEND: Backend[WindowCall, WindowFunction] = Backend(
    "sdpa",
    sdpa_attention,
    refusal=_refusal,
    merit="PyTorch's fused attention: the logits are never stored",
    # Measured in evaluation on one core of an AMD EPYC, windows of 256 to 1024 keys, width 16 and 30.
    shortfall="it takes 1.4 to 1.5 times as long as the compiled kernels of this project",
    drawback=_drawback,
)


def cuda_attention(arguments: WindowArguments) -> Tensor:
    """The kernels and chunks that suit a GPU; any device can run them."""
    q, k, _, bias, mask, _ = arguments
    kernels: AbstractContextManager[None] = contextlib.nullcontext()
    if bias is not None or mask is not None:
        kernels = sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])
    per_call = _CUDA_GRID // q.shape[1]
    if mask is not None or (bias is not None and bias.requires_grad and torch.is_grad_enabled()):
        images = 1 if mask is None else q.shape[0] // mask.shape[0]
        each = images * q.shape[1] * q.shape[2] * k.shape[2]
        per_call = min(per_call, elements_at_once(q.device) // max(1, each))
    with kernels:
        return fused_attention(arguments, width_multiple=8, per_call=max(1, per_call))


_elements: dict[torch.device, int] = {}


def elements_at_once(device: torch.device) -> int:
    """Numbers of the gradient of a bias, or of joined bias and mask, that may exist at a time."""
    if device not in _elements:
        memory = device_memory(device)
        _elements[device] = max(_LEAST_ELEMENTS, 0 if memory is None else memory.total // 4 // _SHARE_OF_MEMORY)
    return _elements[device]


elements_at_once._dynamo_marked_constant = True  # type: ignore[attr-defined]  # asking the device is not traced


def fused_attention(arguments: WindowArguments, *, width_multiple: int, per_call: int | None = None) -> Tensor:
    """``scaled_dot_product_attention`` with bias and mask broadcast as far as four dimensions allow.

    Args:
        arguments: the operands.
        width_multiple: D and E are padded with zeros to a common multiple of this.
        per_call: so many windows at a time, of each image if there is a mask; None for all.

    Returns:
        [W, h, N, E].
    """
    q, k, v, bias, mask, scale = arguments
    per_image = q.shape[0] if mask is None else mask.shape[0]
    images = 1 if mask is None else q.shape[0] // per_image
    value_width = v.shape[-1]
    width = -(-max(q.shape[-1], value_width) // width_multiple) * width_multiple
    q, k, v = (widen(x, width) for x in (q, k, v))
    q, k, v = (x.view(images, per_image, *x.shape[1:]) for x in (q, k, v))  # [B, n, h, ., width]
    if per_call is None or per_call >= per_image:
        out = _one_call(WindowArguments(q, k, v, bias, mask, scale))
    else:
        parts = [slice(start, start + per_call) for start in range(0, per_image, per_call)]
        outs = [
            _one_call(
                WindowArguments(q[:, part], k[:, part], v[:, part], bias, None if mask is None else mask[part], scale)
            )
            for part in parts
        ]
        out = torch.cat(outs, 1)
    return out.flatten(0, 1)[..., :value_width]


def _one_call(arguments: WindowArguments) -> Tensor:
    """All at once: [B, n, h, N or M, width] with bias [h, N, M] and mask [n, N, M] -> [B, n, h, N, width]."""
    q, k, v, bias, mask, scale = arguments
    if mask is None:
        additive = None if bias is None else bias[None]
        q_4d, k_4d, v_4d = (x.flatten(0, 1) for x in (q, k, v))  # [W, h, ., width]
    else:
        mask = dense_mask(mask, torch.promote_types(q.dtype, torch.float32))
        by_head = mask[:, None] if bias is None else bias + mask[:, None]  # [n, h or 1, N, M]
        additive = by_head.expand(-1, q.shape[2], -1, -1).flatten(0, 1)[None]
        q_4d, k_4d, v_4d = (x.flatten(1, 2) for x in (q, k, v))  # [B, n h, ., width]
    if additive is not None:
        # The CPU kernel takes float32 beside half precision, which keeps small differences of large biases.
        additive = additive.to(torch.promote_types(q.dtype, torch.float32) if q.device.type == "cpu" else q.dtype)
    out = F.scaled_dot_product_attention(q_4d, k_4d, v_4d, additive, scale=scale)
    if exporting():
        # How the result lies in memory is the kernel's choice, and other runtimes choose another.
        out = out.clone(memory_format=torch.contiguous_format)
    return out.view(q.shape)
