"""A value that follows from parameters, kept until one of them changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ops.registry import recording


class Memo:
    """Keeps a tensor computed from others (a dense bias, a folded kernel) for evaluation.

    A module owns one per derived value and asks it in ``forward``::

        bias = self.dense_bias(lambda: RelativeBias(self.table, index).dense(), self.table)

    The value is computed afresh, and not kept, whenever a gradient is wanted, in a traced graph, and for tensors that
    carry no version (made in inference mode). Otherwise it is kept until a source is another tensor, moved, or was
    written to. Writing through ``.data`` leaves no trace: use ``torch.no_grad()`` or ``.detach()`` instead.
    Copies and pickles of a Memo are empty, so a deep copy of a network never answers with the original's value.
    """

    def __init__(self) -> None:
        self._kept: _Kept | None = None

    def __call__(self, compute: Callable[[], Tensor], *sources: Tensor) -> Tensor:
        """``compute()``, or what it returned last if no source has changed since."""
        if recording() or not all(_versioned(source) for source in sources):
            return compute()
        if torch.is_grad_enabled() and any(source.requires_grad for source in sources):
            return compute()
        kept = self._kept
        if kept is not None and kept.made_from(sources):
            return kept.value
        # Aliases share storage and version with the sources; holding them keeps the addresses from being used again.
        aliases = tuple(source.detach() for source in sources)
        versions = tuple(source._version for source in sources)
        # Not in inference mode: the value may serve a later call that records a graph.
        with torch.inference_mode(False), torch.no_grad():
            value = compute()
        self._kept = _Kept(value, aliases, versions)
        return value

    def clear(self) -> None:
        """Forget the value, and free its memory."""
        self._kept = None

    def __deepcopy__(self, memory: dict[int, Any]) -> Memo:
        return Memo()

    def __copy__(self) -> Memo:
        return Memo()

    def __getstate__(self) -> dict[str, None]:
        return {"_kept": None}


class _Kept(NamedTuple):
    value: Tensor
    aliases: tuple[Tensor, ...]
    versions: tuple[int, ...]

    def made_from(self, sources: tuple[Tensor, ...]) -> bool:
        return len(sources) == len(self.aliases) and all(
            _same_memory(source, alias) and source._version == version
            for source, alias, version in zip(sources, self.aliases, self.versions, strict=True)
        )


def _versioned(source: Tensor) -> bool:
    # Subclasses (fake tensors among them) may have neither an address nor a version.
    return type(source) in (Tensor, nn.Parameter) and not source.is_inference()


def _same_memory(a: Tensor, b: Tensor) -> bool:
    return (
        a.data_ptr() == b.data_ptr()
        and a.device == b.device
        and a.dtype == b.dtype
        and a.shape == b.shape
        and a.stride() == b.stride()
    )
