"""Small films made by ffmpeg, for tests; and what ffmpeg says about films."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.inference.ffmpeg import encoder_formats

HAS_FFMPEG = shutil.which("ffmpeg") is not None and shutil.which("ffprobe") is not None
needs_ffmpeg = pytest.mark.skipif(not HAS_FFMPEG, reason="ffmpeg is not installed")
needs_x265 = pytest.mark.skipif(
    not HAS_FFMPEG or "yuv420p10le" not in encoder_formats("libx265"), reason="ffmpeg has no x265"
)
needs_av1 = pytest.mark.skipif(
    not HAS_FFMPEG or "yuv420p10le" not in encoder_formats("libaom-av1"), reason="ffmpeg has no AV1 of 10 bits"
)

TEST = ("-f", "lavfi", "-i", "testsrc=s=64x48:r=10:d=0.5")
SOUND = ("-f", "lavfi", "-i", "sine=d=0.5")
X264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p", "-preset", "ultrafast")
EXACT = "flags=accurate_rnd+full_chroma_int+full_chroma_inp"


def ffmpeg(*arguments: object, content: bytes = b"") -> bytes:
    """Run ffmpeg; what it writes to its standard output."""
    command = ["ffmpeg", "-y", "-v", "error", *map(str, arguments)]
    return subprocess.run(command, input=content, stdout=subprocess.PIPE, check=True).stdout


def streams(path: Path, *more: str) -> list[dict[str, Any]]:
    """The streams of a film, as ffprobe shows them."""
    command = ["ffprobe", "-v", "error", "-of", "json", "-show_streams", *more, str(path)]
    found: list[dict[str, Any]] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["streams"]
    return found


def ramp(height: int = 48, width: int = 64) -> NDArray[np.float64]:
    """Colours that go through most of the cube slowly, [H, W, 3] in [0, 1]."""
    y, x = np.mgrid[0:height, 0:width]
    colours: NDArray[np.float64] = np.stack([x / (width - 1), y / (height - 1), 1 - x / (width - 1)], axis=-1)
    return colours


def coded(path: Path, matrix: str, span: str, layout: str, *arguments: str, frames: int = 3) -> Path:
    """A film of :func:`ramp`, coded without loss by a matrix of ffmpeg's filter scale, range "tv" or "pc"."""
    pixels = (ramp() * 65535).round().astype("<u2")
    raw = ("-f", "rawvideo", "-pix_fmt", "rgb48le", "-s", "64x48", "-r", "5", "-i", "pipe:0")
    filters = f"scale=out_color_matrix={matrix}:out_range={span}:{EXACT},format={layout}"
    ffmpeg(*raw, "-vf", filters, *arguments, path, content=pixels.tobytes() * frames)
    return path


def tags(matrix: str, primaries: str, transfer: str, span: str) -> tuple[str, ...]:
    """Arguments that tag a film."""
    named = {"-colorspace": matrix, "-color_primaries": primaries, "-color_trc": transfer, "-color_range": span}
    return tuple(text for pair in named.items() for text in pair)


def decoded(path: Path, frame: int = 1) -> NDArray[np.float64]:
    """A frame of a film as its own tags ask for, [H, W, 3] in [0, 1]."""
    stream = streams(path)[0]
    matrix = {"smpte170m": "bt601", "bt470bg": "bt601", "bt2020nc": "bt2020"}.get(stream["color_space"], "bt709")
    filters = f"scale=in_color_matrix={matrix}:in_range={stream['color_range']}:{EXACT},format=rgb48le"
    content = ffmpeg("-i", path, "-vf", filters, "-f", "rawvideo", "pipe:1")
    frames = np.frombuffer(content, np.dtype("<u2")).reshape(-1, stream["height"], stream["width"], 3)
    found: NDArray[np.float64] = frames[frame].astype(np.float64) / 65535
    return found
