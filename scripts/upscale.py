"""Upscale pictures: ``python scripts/upscale.py -i FILE_OR_FOLDER -o OUT -w WEIGHTS``.

The network is taken from the weight file (its own options, or its keys), or from ``network_g`` of an option file given
with ``-opt``. Results are PNG files unless OUT names another kind of file. A picture that cannot be read is named, and
the others are done.

Exit codes: 0 done, 1 a picture failed, 2 bad input, 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from any folder

import archs
from data.images import SUFFIXES, decode_image, list_images, read_bytes, to_tensor, to_uint8, write_image
from models.checkpoint import load_weights, read_checkpoint, select_weights
from models.inference import size_rule, upscale
from models.layout import for_inference
from models.tiling import aligned_tile
from options.document import load
from options.network import read_network
from utils.command import run_command
from utils.errors import InputError
from utils.progress import Progress, console_line
from utils.typed import Report


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="upscale.py", description="Upscale pictures.", allow_abbrev=False)
    parser.add_argument(
        "-i", "--input", type=Path, required=True, metavar="PATH", help="a picture, or a folder of them"
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT", help="folder, or file for one picture"
    )
    parser.add_argument("-w", "--weights", type=Path, required=True, metavar="FILE", help=".pth or .safetensors file")
    parser.add_argument("-opt", type=Path, metavar="FILE", help="option file whose network_g describes the network")
    parser.add_argument(
        "--key", default="params_ema", help="entry of the weight file (default: params_ema, else params)"
    )
    parser.add_argument(
        "--tile", type=int, default=0, metavar="N", help="work in tiles of N x N input pixels; 0: whole"
    )
    parser.add_argument(
        "--overlap", type=int, default=32, metavar="N", help="input pixels that tiles share (default: 32)"
    )
    parser.add_argument(
        "--self_ensemble", action="store_true", help="mean over eight flips and rotations; eight times slower"
    )
    parser.add_argument("--suffix", default="", help="added to the names of the results, before .png")
    parser.add_argument("--overwrite", action="store_true", help="replace results that exist instead of leaving them")
    parser.add_argument("--cpu", action="store_true", help="do not use a GPU")
    return parser.parse_args(argv)


def build(weights: Path, option_file: Path | None, key: str) -> nn.Module:
    """The network with its weights, in the form in which it runs fastest.

    Raises:
        InputError: the files cannot be read, do not fit, or do not say which network this is.
    """
    network = archs.build_network(configuration(weights, option_file, key))
    load_weights(network, weights, key)
    return for_inference(network)


def configuration(weights: Path, option_file: Path | None, key: str) -> Mapping[str, Any]:
    """``network_g``: of the option file if there is one, else as the weight file tells."""
    if option_file is not None:
        return network_of_options(option_file)
    content = read_checkpoint(weights)
    told = content.get("focalsr", {}).get("options", {}).get("network_g")
    found: Mapping[str, Any] | None = told or archs.identify(select_weights(content, key, weights))
    if not found:
        raise InputError(f"{weights} does not say which network it belongs to; give an option file with -opt")
    return found


def network_of_options(path: Path) -> Mapping[str, Any]:
    """``network_g`` of an option file; the rest of it may be about data that is not here."""
    document, report = load(path), Report()
    network = read_network(document, report)
    if network is None:
        raise InputError(f'{path}: has no section "network_g"')
    mistakes = [str(document.mistake(*problem)) for problem in report.problems]
    if mistakes:
        raise InputError("\n".join(mistakes))
    found: Mapping[str, Any] = network.as_mapping()
    return found


def plan(source: Path, output: Path, suffix: str) -> list[tuple[Path, Path]]:
    """Which picture becomes which file.

    Raises:
        InputError: there are no pictures, or a result would take the place of a picture.
    """
    one = source.is_file()
    if not one and not source.exists():
        raise InputError(f"{source}: there is no such file or folder (relative paths start at {Path.cwd()})")
    if output.suffix and not output.is_dir():
        if not one:
            raise InputError(f"-o {output}: name a folder, since {source} is one")
        if output.suffix.lower() not in SUFFIXES:
            raise InputError(f"-o {output}: name a folder, or a file that ends in one of {', '.join(SUFFIXES)}")
        pairs = [(source, output)]
    else:
        files = [source] if one else list_images(source)
        stems = Counter(path.stem for path in files)
        # Of "a.png" and "a.jpg" neither may take the other's name.
        names = [path.stem if stems[path.stem] == 1 else path.name for path in files]
        pairs = [(path, output / f"{name}{suffix}.png") for path, name in zip(files, names, strict=True)]
    inputs = {path.resolve() for path, _ in pairs}
    lost = [target for _, target in pairs if target.resolve() in inputs]
    if lost:
        raise InputError(
            f"{lost[0]} is a picture to be upscaled and would be replaced; choose another -o, or a --suffix"
        )
    return pairs


def upscale_file(path: Path, target: Path, network: nn.Module, typed: argparse.Namespace) -> str:
    """Upscale one picture; returns what to say about it.

    Raises:
        InputError: the picture cannot be read.
    """
    data = read_bytes(path)
    image = decode_image(data, str(path))
    started = time.perf_counter()
    output = upscale(
        network, to_tensor(image), tile=typed.tile or None, overlap=typed.overlap, self_ensemble=typed.self_ensemble
    )
    result = to_uint8(output)
    seconds = time.perf_counter() - started
    write_image(target, result)
    sizes = [f"{item.shape[1]} x {item.shape[0]}" for item in (image, result)]
    return f"{target}: {sizes[0]} -> {sizes[1]}, {seconds:.2f} s{remarks(data)}"


def remarks(data: bytes) -> str:
    """What of a picture is not carried over, or nothing."""
    decoded: NDArray[Any] | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None:
        return ""
    notes = []
    opaque = 65535 if decoded.dtype == np.uint16 else 255
    if decoded.ndim == 3 and decoded.shape[2] == 4 and decoded[..., 3].min() < opaque:
        notes.append("transparency dropped")
    if decoded.dtype == np.uint16:
        notes.append("16 bits reduced to 8")
    return f" ({', '.join(notes)})" if notes else ""


def main(argv: Sequence[str]) -> int:
    """Upscale what the command line names; 1 if any picture failed."""
    typed = parse(argv)
    if typed.tile < 0:
        raise InputError(f"--tile must be 0 (whole pictures) or more, got {typed.tile}")
    pairs = plan(typed.input, typed.output, typed.suffix)
    network = build(typed.weights, typed.opt, typed.key)
    if typed.tile:
        aligned_tile(typed.tile, typed.overlap, size_rule(network))  # before the first picture, not at it
    network = network.to("cuda" if torch.cuda.is_available() and not typed.cpu else "cpu")
    kept = failed = 0
    with Progress(len(pairs), "upscale") as progress:
        for path, target in pairs:
            if target.exists() and not typed.overwrite:
                kept += 1
                console_line(f"{target} exists and is left as it is (--overwrite replaces it)", sys.stdout)
            else:
                try:
                    console_line(upscale_file(path, target, network, typed), sys.stdout)
                except InputError as error:
                    failed += 1
                    console_line(f"failed: {error}", sys.stderr)
                except torch.OutOfMemoryError:
                    failed += 1
                    console_line(f"failed: {path}: too large for the device's memory; use --tile, say 256", sys.stderr)
            progress.advance()
    print(f"{len(pairs) - kept - failed} upscaled, {kept} left as they were, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
