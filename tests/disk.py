"""Disks that fail: files that cannot be written to the end, and a disk whose power fails at any moment.

Of the second, what was asked of it is recorded, and what it may hold after each request is built.

The rules are those of POSIX, stricter than most file systems. The bytes of a file are safe after an fsync of the file,
its name after an fsync of the folder; so is the name of a new folder, in the folder above. What is not safe may be
there or not: each name for itself, in any mixture, and of the bytes none, a part, or all. A rename happens as a whole
or not at all.
"""

from __future__ import annotations

import builtins
import io
import os
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest


class _Faulty(io.FileIO):
    """A file of which a kind of request fails."""

    fault: tuple[str, int] = ("", 0)

    def write(self, data: Any) -> int:
        self._fail("write")
        return super().write(data)

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._fail("close")

    def _fail(self, request: str) -> None:
        if self.fault[0] == request:
            raise OSError(self.fault[1], os.strerror(self.fault[1]))


@contextmanager
def failing(name: str, request: str, number: int) -> Iterator[None]:
    """While this is open, files whose names match cannot be written, closed or synchronised (write, close, fsync).

    Args:
        name: regular expression for their whole names.
        request: what fails.
        number: with which error, of errno.
    """
    really_open, really_sync = builtins.open, os.fsync

    def opened(path: Any, mode: str = "r", buffering: int = -1, *arguments: Any, **keywords: Any) -> Any:
        kind = mode.replace("b", "").replace("t", "")
        if kind not in ("w", "a", "x") or not re.fullmatch(name, os.path.basename(path)):  # noqa: PTH119  any kind of path
            return really_open(path, mode, buffering, *arguments, **keywords)
        raw = _Faulty(path, kind)
        raw.fault = (request, number)
        if buffering == 0:
            return raw
        file = io.BufferedWriter(raw)
        return file if "b" in mode else io.TextIOWrapper(file, *arguments, **keywords)

    def synced(handle: int) -> None:
        path = Path(f"/proc/self/fd/{handle}").readlink()
        if request == "fsync" and re.fullmatch(name, path.name):
            raise OSError(number, os.strerror(number))
        really_sync(handle)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builtins, "open", opened)
        patch.setattr(Path, "open", opened)
        patch.setattr(os, "fsync", synced)
        yield


Tree = dict[str, bytes]
"""The files of a disk, by their paths below its root."""


@dataclass
class Node:
    """A file or folder, whatever its name.

    Attributes:
        entries: names that a folder has while the power is on; None: this is a file.
        safe_entries: names that are safe.
        pending: changes to them that are not, in order: a name, and what has it now (None: nothing).
        content: bytes of a file.
        safe_content: those that are safe.
    """

    entries: dict[str, Node] | None = None
    safe_entries: dict[str, Node] = field(default_factory=dict)
    pending: list[dict[str, Node | None]] = field(default_factory=list)
    content: bytes = b""
    safe_content: bytes | None = None

    def change(self, names: dict[str, Node | None]) -> None:
        """Change names, all of them or none."""
        assert self.entries is not None
        self.pending.append(names)
        _apply(self.entries, names)


def _apply(entries: dict[str, Node], names: dict[str, Node | None]) -> None:
    for name, node in names.items():
        if node is None:
            entries.pop(name, None)
        else:
            entries[name] = node


@dataclass(frozen=True)
class Event:
    """A request: create, mkdir, rename, unlink, fsync; or mark, a place that a test has marked.

    Attributes:
        kind: of these.
        path: below the root.
        target: the other name of a rename.
        contents: bytes of files that are there, as far as they may have changed since the event before.
    """

    kind: str
    path: str
    target: str = ""
    contents: dict[str, bytes] = field(default_factory=dict)


class Recorder:
    """Notes what is done below ``root`` through pathlib and os.fsync."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.events: list[Event] = []
        self.growing: set[Path] = set()

    def mark(self, text: str) -> None:
        """Note a place in the order of events."""
        self.note("mark", None, text)

    def note(self, kind: str, path: Path | None, target: Path | str = "") -> None:
        """Note an event, where it is one of this disk."""
        name = "" if path is None else self.name(path)
        if name is not None:
            other = target if isinstance(target, str) else self.name(target) or ""
            grown = {self.name(file) or "": file.read_bytes() for file in self.growing if file.exists()}
            if path is not None and kind in ("fsync", "rename"):
                here = path if kind == "fsync" else self.root / other
                grown |= {other or name: here.read_bytes()} if here.is_file() else {}
            self.events.append(Event(kind, name, other, grown))

    def name(self, path: Path) -> str | None:
        """Path below the root; None: it is elsewhere."""
        path = path.absolute()
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else None

    @contextmanager
    def recording(self) -> Iterator[None]:
        """While this is open, what happens is noted."""
        with pytest.MonkeyPatch.context() as patch:
            self._patch(patch)
            yield

    def _patch(self, patch: pytest.MonkeyPatch) -> None:
        really_open, really_mkdir, really_sync = Path.open, Path.mkdir, os.fsync

        def opened(path: Path, mode: str = "r", *arguments: Any, **keywords: Any) -> Any:
            new = not mode.startswith("r") and not path.exists()
            file = really_open(path, mode, *arguments, **keywords)
            if mode.startswith("a"):
                self.growing.add(path.absolute())
            if new:
                self.note("create", path)
            return file

        def made(path: Path, *arguments: Any, **keywords: Any) -> None:
            missing = list(takewhile(lambda folder: not folder.exists(), (path, *path.parents)))
            really_mkdir(path, *arguments, **keywords)
            for folder in reversed(missing):
                if not any(event.kind == "mkdir" and event.path == self.name(folder) for event in self.events[-5:]):
                    self.note("mkdir", folder)

        def synced(handle: int) -> None:
            really_sync(handle)
            self.note("fsync", Path(f"/proc/self/fd/{handle}").readlink())

        def noted(kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
            def call(path: Path, *arguments: Any, **keywords: Any) -> Any:
                there = path.exists()
                result = function(path, *arguments, **keywords)
                if there:
                    self.note(kind, path, *(Path(argument) for argument in arguments))
                return result

            return call

        patch.setattr(Path, "open", opened)
        patch.setattr(Path, "mkdir", made)
        patch.setattr(os, "fsync", synced)
        for name in ("rename", "replace"):
            patch.setattr(Path, name, noted("rename", getattr(Path, name)))
        for name in ("unlink", "rmdir"):
            patch.setattr(Path, name, noted("unlink", getattr(Path, name)))

    def crashes(self, seed: int = 0, mixtures: int = 4) -> Iterator[tuple[int, Tree]]:
        """What the disk may hold if the power fails after each event: how many there were, and the files."""
        stream = random.Random(seed)
        root = Node({})
        for number, event in enumerate(self.events, 1):
            _follow(root, event)
            yield number, _left(root, lambda: False)
            yield number, _left(root, lambda: True)
            for _ in range(mixtures):
                yield number, _left(root, lambda: stream.random() < 0.5)


def _follow(root: Node, event: Event) -> None:
    """Do to the model what was done to the disk."""
    if event.kind == "mark":
        return
    folder, name = _at(root, event.path)
    node = folder.entries.get(name) if folder.entries is not None else None
    if event.kind in ("create", "mkdir"):
        folder.change({name: Node({} if event.kind == "mkdir" else None)})
    elif event.kind == "unlink":
        folder.change({name: None})
    elif event.kind == "rename" and node is not None:
        other, target = _at(root, event.target)
        assert other is folder, f"{event.path} is renamed into another folder"
        folder.change({name: None, target: node})
    for path, content in event.contents.items():
        place, file = _at(root, path)
        if place.entries is not None and file in place.entries:
            place.entries[file].content = content
    if event.kind == "fsync":
        node = root if event.path == "." else node
        if node is None:
            return  # a file that was made before the recording, or has no name any more
        if node.entries is None:
            node.safe_content = node.content
        else:
            node.safe_entries, node.pending = dict(node.entries), []


def _at(root: Node, path: str) -> tuple[Node, str]:
    """The folder that holds a path, and the name there."""
    *folders, name = path.split("/")
    for folder in folders:
        assert root.entries is not None
        root = root.entries.setdefault(folder, Node({}))
    return root, name


def _left(root: Node, reached: Callable[[], bool]) -> Tree:
    """The files of a disk without power; ``reached`` draws whether something that was not safe had reached it."""
    tree: Tree = {}

    def visit(folder: Node, prefix: str) -> None:
        entries = dict(folder.safe_entries)
        for names in folder.pending:
            if reached():
                _apply(entries, names)
        for name, node in entries.items():
            if node.entries is not None:
                visit(node, f"{prefix}{name}/")
            elif node.safe_content is None or node.safe_content != node.content:
                safe = node.safe_content or b""
                more = node.content[len(safe) :] if node.content.startswith(safe) else b""
                tree[prefix + name] = safe + (more[: len(more) // 2] if reached() else b"")
            else:
                tree[prefix + name] = node.safe_content

    visit(root, "")
    return tree


def build(tree: Tree, folder: Path) -> None:
    """Write the files of a disk."""
    for name, content in tree.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
