"""What a file is that was given as weights and holds none: one sentence that names its kind and the next move."""

from __future__ import annotations

import html
import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import torch

from utils.tensor_files.archive import CutOffError, DamagedError, read_directory, reader

_HEAD = 4096  # bytes that are looked at
_ARCHIVES = {
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!\x1a\x07": "RAR",
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_OTHERS = {
    b"\x89HDF\r\n\x1a\n": "an HDF5 file, as Keras writes them",
    b"GGUF": "a GGUF file",
    b"%PDF": "a PDF document",
    b"\x93NUMPY": "a NumPy array",
}
_AGAIN = "download it again"
WANTED = "take the PyTorch weights of this network (.pth or .safetensors)"


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors files do, whatever its name: the length of a JSON text, and the text."""
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") < 2**32


def foreign_kind(path: Path, picture: Callable[[bytes], str | None] = lambda _head: None) -> str | None:
    """What the file is, and what to do, in one sentence after its name; None where it may be weights.

    Args:
        path: an existing file.
        picture: what to say of a picture or film that begins so; None where it is none.
    """
    size = path.stat().st_size
    if size == 0:
        return f"the file is empty; {_AGAIN}"
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if is_safetensors(path):
        needed = 8 + int.from_bytes(head[:8], "little")
        return f"a safetensors file that is cut off ({size:,} bytes); {_AGAIN}" if needed > size else None
    if head.startswith(b"version https://git-lfs"):
        return (
            f"a Git LFS pointer of {size} bytes instead of the weights; run 'git lfs pull' in the repository that it "
            "is from, or download the file itself"
        )
    for beginning, name in _ARCHIVES.items():
        if head.startswith(beginning):
            return f"a {name} archive; unpack it and give the file inside"
    for beginning, name in _OTHERS.items():
        if head.startswith(beginning):
            return f"{name}, not weights; {WANTED}"
    if head.startswith(b"PK"):
        return _zip_kind(path, size)
    if head[257:262] == b"ustar":
        return f"a tar archive{_first(_tar_names(path))}; unpack it and give the file inside"
    if head[:1] == b"\x08" and (path.suffix.lower() == ".onnx" or re.search(rb"pytorch|onnx|torch", head[:64])):
        return f"an ONNX model, a graph that is run and not loaded (network_g: {{type: onnx, path: FILE}}); {WANTED}"
    if (said := picture(head)) is not None:
        return said
    return _text_kind(head, path.suffix.lower())


def holds_module(path: Path) -> bool:
    """Whether a file that the weights-only loader refuses holds a whole network: layers as Python objects."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # noqa: BLE001  older forms than zip, and damaged ones: whatever it is, it cannot be told
        with path.open("rb") as file:
            return b"torch.nn.modules." in file.read(2**20)
    return any(name.startswith("torch.nn.modules.") for name in names)


def _zip_kind(path: Path, size: int) -> str | None:
    """A torch file is a zip archive with ``data.pkl``; TorchScript's has code beside it."""
    try:
        with path.open("rb") as file:
            names = read_directory(reader(file), size).names
    except CutOffError:
        return f"the file is cut off: only its first {size:,} bytes are there; {_AGAIN}"
    except DamagedError as error:
        return f"the file is damaged ({error}); {_AGAIN}"
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        return (
            "a TorchScript archive, a program with its weights inside; where you trust it, write the weights alone: "
            "python -c \"import torch; torch.save(torch.jit.load('IN').state_dict(), 'OUT.pth')\""
        )
    if any(name.endswith(("serialized_exported_program.json", "models/model.json")) for name in names):
        return f"a program of torch.export, not its weights; {WANTED}"
    if any(name.endswith("data.pkl") for name in names):
        return None
    if names and all(name.endswith(".npy") for name in names):
        return f"a NumPy archive, as numpy.savez writes them; {WANTED}"
    return f"a zip archive{_first(names)}; unpack it and give the file inside"


def _tar_names(path: Path) -> list[str]:
    try:
        with tarfile.open(path) as archive:
            first = archive.next()
    except tarfile.TarError:
        return []
    return [] if first is None else [first.name]


def _first(names: list[str]) -> str:
    files = [name for name in names if not name.endswith("/")]
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    return f" that holds {files[0]}{more}" if files else ""


def _text_kind(head: bytes, suffix: str) -> str | None:
    """Web pages, JSON and other text; None where it is no text."""
    try:
        text = head.decode("utf-8", "ignore" if len(head) == _HEAD else "strict").lstrip("\ufeff \t\r\n")
    except UnicodeDecodeError:
        return None
    if re.match(r"(<!--.*?-->\s*)*<(!doctype html|html|head|body|\?xml)", text, re.IGNORECASE | re.DOTALL):
        title = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
        named = f' ("{" ".join(html.unescape(title[1]).split())[:80]}")' if title and title[1].strip() else ""
        return (
            f"a web page{named} instead of the weights: the address leads to a page that asks for a log-in or a "
            f"confirmation; {_AGAIN}, with a browser"
        )
    if not text or not all(character.isprintable() or character in "\t\r\n" for character in text):
        return None
    if suffix in (".yml", ".yaml"):
        return (
            "an option file, not weights; give it as -opt FILE, and the weights as -w FILE or path.pretrain_network_g"
        )
    beginning = f'begins with "{text.splitlines()[0][:60]}"'
    return f"a {'JSON' if _is_json(text) else 'text'} file that {beginning}, not weights; {_AGAIN}"


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except json.JSONDecodeError:
        return text[0] in "{[" and len(text) > _HEAD // 2
    return text[0] in "{["
