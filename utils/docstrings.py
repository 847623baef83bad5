"""What docstrings say about arguments: the help texts of option files."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any


def argument_help(target: Callable[..., Any]) -> dict[str, str]:
    """Parameter name -> text, from the ``Args:`` section of a docstring (class or constructor).

    A class has the descriptions of its base classes too, where it has none of its own for a name.
    """
    texts = [inspect.getdoc(target) or ""]
    if inspect.isclass(target):
        texts = [inspect.cleandoc(base.__dict__.get("__doc__") or "") for base in reversed(target.__mro__)]
        texts.append(inspect.getdoc(target.__init__) or "")
    result: dict[str, str] = {}
    for text in texts:
        _, found, section = text.partition("Args:\n")
        name = ""
        for line in section.splitlines() if found else ():
            if line and not line.startswith(" "):
                break
            start = re.match(r" {4}(\w+)(?: \([^)]*\))?: (.*)", line)
            if start:
                name = start[1]
                result[name] = start[2]
            elif name and line.strip():
                result[name] += " " + line.strip()
    return result
