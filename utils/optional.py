"""Packages that only some commands need."""

from __future__ import annotations

import importlib.util

from utils.errors import InputError


def require_packages(user: str, requirements: str, *names: str) -> None:
    """Make sure that packages are installed, before the work that needs them; nothing is imported.

    Args:
        user: what needs them, for the message.
        requirements: the file in the repository that lists them.
        names: of the modules, as they are imported.

    Raises:
        InputError: one of them is not there.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise InputError(f"{user} needs the package {name}: pip install -r {requirements}")
