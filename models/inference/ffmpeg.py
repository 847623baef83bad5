"""The programs ffmpeg and ffprobe: where they are, what they know, and why they failed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils.errors import InputError
from utils.programs import Finished, run_program

_SPEAKER = re.compile(r"^\[[^\]]* @ 0x[0-9a-f]+\] ")  # "[mp4 @ 0x55d0c8a0] "
_LIMIT = 300.0  # seconds that it may take to look at a film, or to write a frame of it
# Lines that tell that something failed, after the one that tells what.
_CONSEQUENCE = re.compile(
    r"Conversion failed!|Error (initializing|while|opening|submitting|sending|muxing|writing trailer)|Could not write"
    r"|Task finished with error|Terminating thread|Nothing was written|Last message repeated|Exiting normally"
)


def program(name: str) -> str:
    """Where ``ffmpeg`` or ``ffprobe`` is.

    Raises:
        InputError: it is not installed.
    """
    found = shutil.which(name)
    if found is None:
        raise InputError(f"films need the programs ffmpeg and ffprobe, and {name} is not installed (or not on PATH)")
    return found


def local(path: Path) -> str:
    """The path as ffmpeg takes it for a file, whatever its name begins with."""
    return f"file:{path}"


def probe(path: Path, arguments: Sequence[str]) -> dict[str, Any]:
    """What ffprobe says about a file.

    Args:
        path: the file.
        arguments: what to show, such as ``-show_streams``.

    Raises:
        InputError: ffprobe is not installed, or cannot read the file.
    """
    done = _run([program("ffprobe"), "-v", "error", "-of", "json", *arguments, local(path)])
    if done.code != 0:
        raise InputError(f"{path}: the film cannot be read: {reason(done.err).removeprefix(f'{local(path)}: ')}")
    found: dict[str, Any] = json.loads(done.out or "{}")
    return found


def encoder_formats(encoder: str) -> frozenset[str]:
    """Pixel formats that an encoder takes; empty where this ffmpeg does not have it."""
    done = _run([program("ffmpeg"), "-hide_banner", "-v", "error", "-h", f"encoder={encoder}"])
    found = re.search(r"Supported pixel formats: (.*)", done.out)
    return frozenset(found[1].split()) if found else frozenset()


def reason(text: str) -> str:
    """The line of ffmpeg's messages that says what went wrong: the first that is no consequence of another."""
    lines = [_SPEAKER.sub("", line.strip()) for line in text.splitlines() if line.strip()]
    causes = (line for line in lines if not _CONSEQUENCE.match(line))
    return next(causes, lines[0] if lines else "it says nothing about the reason")


def run_with(command: Sequence[str], content: bytes) -> str | None:
    """Give a program something to read; returns what it says where it fails, None where it does not."""
    done = _run(command, content)
    return None if done.code == 0 else done.err


def _run(command: Sequence[str], content: bytes | None = None) -> Finished:
    try:
        return run_program(command, limit=_LIMIT, given=content)
    except subprocess.TimeoutExpired:
        raise InputError(
            f"{command[0]} did not end within {_LIMIT:.0f} s: {' '.join(command[1:])}; the program or the disk hangs, "
            "or the film is damaged in a way that it does not notice"
        ) from None
