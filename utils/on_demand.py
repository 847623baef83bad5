"""Names of a package that are imported when they are asked for: a program loads what it uses."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence


def on_demand(package: str, names: Mapping[str, Sequence[str]]) -> Callable[[str], object]:
    """The ``__getattr__`` of a package, by the modules that its names come from.

    No name may be that of a module of the package, which would take its place.
    """
    modules = {name: module for module, own in names.items() for name in own}

    def get(name: str) -> object:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(modules[name]), name)
        setattr(sys.modules[package], name, value)  # asked for once
        return value

    return get
