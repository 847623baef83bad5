"""Write a network for other programs: ``python scripts/export.py -w net_g_latest.pth -o PlainUSR_x4.onnx``.

The suffix says which form: ``.onnx``, a program that runs without this project (docs/exporting.md); ``.pth`` or
``.safetensors``, a bare state dict as published weights are, the second with the configuration in its metadata. A
PlainUSR in train form is folded into plain convolutions. ``--published`` adds the index tables and masks that the
authors' code keeps among the weights: spandrel, chaiNNer and that code ask for them (docs/training.md).
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from any folder

if __name__ == "__main__":
    from utils.start import start

    start()  # what follows takes seconds

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

import archs
from archs.layers.constants import published_state
from models.export.facts import PRECISIONS
from models.export.files import write_program
from models.export.fingerprint import fingerprint
from models.export.onnx_files import OPSETS
from models.export.options import SUFFIXES, ProgramOptions, form_of, read_size
from models.weights.files import load_weights, write_checkpoint, write_safetensors
from models.weights.keep import PRECISION
from models.weights.layout import for_inference
from models.weights.recognise import configuration, rescaled, stored_keep
from utils.command import run_command
from utils.errors import InputError
from utils.files import check_writable, remove_unfinished
from utils.log import configure_logging

STATES = (".pth", ".safetensors")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="export.py", description="Write a network for other programs.")
    parser.add_argument("-w", "--weights", type=Path, required=True, help="checkpoint: .pth or .safetensors")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="file to write: .onnx, .pt2, or for weights .pth, .safetensors"
    )
    parser.add_argument(
        "-opt",
        dest="option_file",
        type=Path,
        metavar="FILE",
        help="option file that describes the network, if the weights do not",
    )
    parser.add_argument(
        "--key", help="entry of the checkpoint (default: the EMA weights where it has some, else its only ones)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    states = parser.add_argument_group("weights (.pth, .safetensors)")
    states.add_argument(
        "--published",
        action="store_true",
        help="add the constants of published files (index tables, masks), which other programs need",
    )
    programs = parser.add_argument_group("programs (.onnx, .pt2)")
    programs.add_argument(
        "--opset", type=int, choices=OPSETS, help="ONNX operators: 18 (default), or 23 with attention as one operator"
    )
    programs.add_argument(
        "--aot", action="store_true", help="with .pt2: compile it by AOTInductor, for this kind of processor"
    )
    programs.add_argument(
        "--precision", choices=PRECISIONS, help="in which it computes; it takes and gives float32 (default: fp32)"
    )
    programs.add_argument(
        "--scale", type=float, help="factor of a network for any scale (default: the scale is an input)"
    )
    programs.add_argument(
        "--static", metavar="HxW", help="take images of this size alone, in low-resolution pixels (default: any size)"
    )
    programs.add_argument("--batch", type=int, metavar="N", help="with --static: take N images at a time (default: 1)")
    programs.add_argument(
        "--tolerance",
        type=float,
        metavar="X",
        help="difference of outputs, in the range 0 to 1, that is allowed (default: fp32 1e-4, fp16 1e-2, bf16 5e-2)",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> None:
    """Read, recognise, fold, write."""
    typed = parse(argv)
    output: Path = typed.output
    if output.suffix not in (*STATES, *SUFFIXES):
        expected = ", ".join((*STATES, *SUFFIXES))
        raise InputError(f"{output}: expected a name that ends in one of {expected}")
    options = program_options(typed)
    if output.exists() and not typed.overwrite:
        raise InputError(f"{output} exists; choose another name or add --overwrite")
    check_writable(output)
    remove_unfinished([output])
    configure_logging()
    described = configuration(typed.weights, typed.option_file, typed.key)
    if options is not None and options.scale is not None:
        described = rescaled(described, options.scale)
    network = archs.build_network(described)
    load_weights(network, typed.weights, typed.key)
    exported = for_inference(network)
    if exported is not network:
        described = archs.identify(exported.state_dict()) or described
    if options is None:
        write_state(output, exported, described, stored_keep(typed.weights), published=typed.published)
        print(f"{output}: {described}")
        return
    keep = stored_keep(typed.weights) if options.precision == "fp16" else ()
    written = write_program(output, exported, described, fingerprint(network.state_dict()), options, keep)
    print(f"{output}: {written.facts.network_g}\n{written}")


def program_options(typed: argparse.Namespace) -> ProgramOptions | None:
    """How the program is to be; None where weights alone are to be written.

    Raises:
        InputError: a flag does not suit the form of the file, or a package is missing.
    """
    names = ("opset", "aot", "precision", "scale", "static", "batch", "tolerance")
    given = [f"--{name}" for name in names if getattr(typed, name) not in (None, False)]
    if typed.output.suffix in STATES:
        if given:
            raise InputError(f"{given[0]} is about programs; {typed.output.name} holds weights alone")
        return None
    if typed.published:
        raise InputError(f"--published is about weights; {typed.output.name} holds a program")
    options = ProgramOptions(
        form=form_of(typed.output, aot=typed.aot),
        opset=typed.opset,
        static=None if typed.static is None else read_size("--static", typed.static),
        batch=typed.batch,
        precision=typed.precision or "fp32",
        scale=typed.scale,
        tolerance=typed.tolerance,
    )
    options.check(typed.output)
    return options


def write_state(
    output: Path, network: nn.Module, described: Mapping[str, Any], keep: Sequence[str], *, published: bool
) -> None:
    """Write a bare state dict; beside it, where the file has a place for that, what network it is and stays float32."""
    state = published_state(network) if published else network.state_dict()
    tensors = {name: value.contiguous() for name, value in state.items()}
    if output.suffix == ".safetensors":
        metadata = {"network_g": json.dumps(described)}
        if keep:
            metadata[PRECISION] = json.dumps({"float32": list(keep)})
        write_safetensors(output, tensors, metadata)
    else:
        write_checkpoint(output, tensors)


if __name__ == "__main__":
    sys.exit(run_command(main))
