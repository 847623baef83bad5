"""A name for weights that does not depend on the file that holds them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and values of a state dict, in hexadecimal.

    The order of the tensors, where they lie in memory and the form of the file they came from do not change it.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        kind = str(value.dtype).removeprefix("torch.")
        digest.update(f"{name} {kind} {list(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
