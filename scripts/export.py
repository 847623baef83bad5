"""Write a network for other programs: ``python scripts/export.py -w net_g_latest.pth -o PlainUSR_Rep_x4.pth``.

The result is a bare state dict, as published weights are: ``.pth``, or ``.safetensors`` with the configuration in its
metadata. A PlainUSR in train form is folded into plain convolutions. ``--published`` adds the index tables and masks
that the authors' code keeps among the weights: spandrel, chaiNNer and that code ask for them (docs/training.md).
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
from collections.abc import Sequence

import torch

import archs
from archs.layers.constants import published_state
from models.weights.files import load_weights
from models.weights.layout import for_inference
from models.weights.recognise import configuration
from utils.command import run_command
from utils.errors import InputError
from utils.files import atomic_write, check_writable
from utils.log import configure_logging


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="export.py", description="Write a network as a bare state dict.")
    parser.add_argument("-w", "--weights", type=Path, required=True, help="checkpoint: .pth or .safetensors")
    parser.add_argument("-o", "--output", type=Path, required=True, help="file to write: .pth or .safetensors")
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
    parser.add_argument(
        "--published",
        action="store_true",
        help="add the constants of published files (index tables, masks), which other programs need",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> None:
    """Read, recognise, fold, write."""
    typed = parse(argv)
    if typed.output.suffix not in (".pth", ".safetensors"):
        raise InputError(f"{typed.output}: expected a name that ends in .pth or .safetensors")
    if typed.output.exists() and not typed.overwrite:
        raise InputError(f"{typed.output} exists; choose another name or add --overwrite")
    check_writable(typed.output)
    configure_logging()
    described = configuration(typed.weights, typed.option_file, typed.key)
    network = archs.build_network(described)
    load_weights(network, typed.weights, typed.key)
    exported = for_inference(network)
    state = published_state(exported) if typed.published else exported.state_dict()
    tensors = {name: value.contiguous() for name, value in state.items()}
    written = described if exported is network else archs.identify(tensors) or described
    with atomic_write(typed.output) as file:
        if typed.output.suffix == ".safetensors":
            from safetensors.torch import save

            file.write(save(tensors, metadata={"network_g": json.dumps(written)}))
        else:
            torch.save(tensors, file)
    print(f"{typed.output}: {written}")


if __name__ == "__main__":
    sys.exit(run_command(main))
