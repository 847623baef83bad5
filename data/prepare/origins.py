"""Which images the files of a folder were made of, so that those of another folder do not take their places."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from data.prepare.common import stamp_of
from utils.errors import InputError
from utils.files import write_json
from utils.reading import read_regular

ORIGINS = ".origins.json"  # beside the files: folder of images -> name -> size and time of change


def note_origins(images: Mapping[str, Path], targets: Mapping[Path, Callable[[str], bool]]) -> None:
    """Note what the files in folders will be made of; to be called while no other process writes there.

    Args:
        images: for each name, from which the names of files follow, the image that they are made of.
        targets: for each folder of files, what tells whether files of a name are there.

    Raises:
        InputError: there are files of the same name that were made of an image of another folder. An image that is the
            same but for its folder, which may have been moved, is no other.
    """
    now: dict[str, dict[str, list[int]]] = {}
    for name, path in images.items():
        now.setdefault(str(path.parent.resolve()), {})[name] = list(stamp_of(path))
    for target, is_made in targets.items():  # all of them before the first is noted
        for other, earlier in _noted(target).items():
            for folder, names in now.items():
                same = sorted(names.keys() & earlier.keys()) if other != folder else []
                taken = next((name for name in same if earlier[name] != names[name] and is_made(name)), None)
                if taken is not None:
                    raise InputError(
                        f"{images[taken]}: {target} holds files of the same name that were made of {other}; choose "
                        "another output folder"
                    )
    for target in targets:
        noted = _noted(target)
        added = {folder: {**noted.get(folder, {}), **names} for folder, names in now.items()}
        if noted != {**noted, **added}:
            write_json(target / ORIGINS, {**noted, **added})


def _noted(target: Path) -> dict[str, dict[str, list[int]]]:
    try:
        noted = json.loads(read_regular(target / ORIGINS))
    except (OSError, ValueError, RecursionError):  # none yet, or damaged: nothing is known
        return {}
    whole = isinstance(noted, dict) and all(isinstance(names, dict) for names in noted.values())
    return noted if whole else {}
