"""A test run: every data set of an option file, scored, saved and reported."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import archs
from config import to_dict
from config.command import Command
from config.schema import TestOptions, TrainOptions, ValOptions
from data import Sample
from models.distributed import World
from models.evaluation.evaluate import EvalReport, Keep, evaluate, way_of
from models.evaluation.latex import latex_table, scored_test
from models.evaluation.pictures import PictureWriter
from models.evaluation.sets import check_channels, evaluation_sets
from models.evaluation.summary import published_scores, summary
from models.experiment import open_run, reserved, test_folder
from models.inputs import check_inputs, check_place
from models.precision.choice import Arithmetic, choose_precision
from models.runtimes.build import open_network
from models.runtimes.network import AnyScaleOnnxNetwork, OnnxNetwork, RuntimeReport
from models.weights.files import load_pretrained, log_loaded
from models.weights.fit import LoadReport
from models.weights.recognise import stored_keep
from utils.env import hardware, peak_memory, reset_peak_memory, versions
from utils.errors import InputError
from utils.files import check_folder, write_json, write_text
from utils.log import configure_logging, copied_log, get_logger
from utils.scale import as_scale
from utils.seed import seed_everything
from utils.signals import catch_signals


class NoScoreError(ArithmeticError):
    """Images have no score, so that there is no mean: they cannot be used, or the network's output is no number."""


def test(options: TestOptions, command: Command, world: World) -> list[EvalReport]:
    """Evaluate on every data set; writes ``results/NAME`` with log, images, options and ``scores.json``.

    Returns:
        One report per data set, in the (string-sorted) order of their keys.

    Raises:
        InputError: an option, the weights or the data cannot be used, or another process tests into that folder.
        NoScoreError: images have no score, or cannot be read; everything else was written. Of several ranks, the first
            raises it.
        StopRequested: SIGINT or SIGTERM came.
    """
    folder = test_folder(options)
    configure_logging(rank=world.rank)
    check_place("results_root", options)
    with copied_log(), world.on_main(reserved(folder, "tests")), catch_signals() as stop:
        check_inputs(options)
        check_folder(test_folder(options).root)
        datasets = evaluation_sets(
            options.datasets.values(), options.val, scale=options.scale, seed=options.manual_seed, phase="test"
        )
        device = world.device(options.num_gpu)
        arithmetic = arithmetic_for(options, device)
        network, loaded = load_network(options, device)  # before an earlier run's folder is renamed
        if world.is_main:
            open_run(folder, "test", options, command, fresh=True)
        else:
            configure_logging(rank=world.rank)
        log_network(loaded)
        seed_everything(options.manual_seed)
        val = options.val or ValOptions()
        reports: list[EvalReport] = []
        whole = False
        try:
            for dataset in datasets:
                reset_peak_memory(device)
                with _saver(folder.pictures / dataset.name, val, options.name) as keep:
                    report = evaluate(
                        network, dataset, val, device=device, tile=options.tile, channels_last=options.channels_last,
                        world=world, keep=keep, stop=stop, skip_large=True, arithmetic=arithmetic,
                    )  # fmt: skip
                    reports.append(dataclasses.replace(report, memory=max(world.gather(peak_memory(device)))))
                if command.per_image:
                    get_logger().info("%s, image by image\n%s", report.dataset, report.table())
                else:
                    get_logger().info("%s: %d images, %.3f s each", report.dataset, len(report.rows), report.seconds)
            whole = True
        finally:  # whatever ends the evaluation, what was measured before is not lost
            if reports:
                get_logger().info("%s", summary(options, reports, whole=whole))
                if world.is_main:
                    write_scores(folder.root / "scores.json", options, reports, loaded, whole=whole)
                    if command.latex and any(report.scores for report in reports):
                        table = latex_table([scored_test(options, reports)])
                        write_text(folder.root / "table.tex", table)
                        get_logger().info("table.tex\n%s", table)
                    get_logger().info("scores and images are in %s", folder.root)
                    get_logger().info("one page that shows them: %s", folder.page_command)
        if world.is_main:  # the images of all ranks; one of them says so and fails the run
            _raise_faults(options, reports)
    return reports


def _raise_faults(options: TestOptions, reports: Sequence[EvalReport]) -> None:
    """Raise NoScoreError where images have no score, with what to do about it."""
    faults = [report.faults for report in reports if report.faults]
    if not faults:
        return
    causes = {cause for report in reports for cause in report.causes}
    advice = {
        "output": "NaN or infinity comes from damaged weights, a training that diverged, or too large a range of "
        "values; look at these weights, or score other ones",
        "image": "images that cannot be used: replace them, or leave them out of the set; the other scores are written",
    }
    weights = options.network_g.arguments["path"] if options.network_g.is_file else options.path.pretrain_network_g
    head = f"weights {weights}, network {options.network_g.type}:"
    raise NoScoreError("\n  ".join([head, *faults, *(advice[cause] for cause in advice if cause in causes)]))


Loaded = LoadReport | RuntimeReport


def load_network(options: TestOptions, device: torch.device) -> tuple[nn.Module, Loaded]:
    """The network of a test file with its weights, ready to evaluate, and what was loaded; nothing is logged.

    Raises:
        InputError: no weights are named, or they do not fit; or images have other channels. An ONNX file cannot be
            run, or is for another scale.
    """
    if options.network_g.is_file:
        file = _network_of_file(options)
        return file.eval(), file.report
    network = archs.build_network(options.network_g.as_mapping())
    check_channels(network, options.datasets)
    if options.path.pretrained_g is None:
        raise InputError("path.pretrain_network_g: a test needs weights; name a .pth or .safetensors file")
    loaded = load_pretrained(network, options.path.pretrained_g)
    return network.to(device).eval(), loaded


def _network_of_file(options: TestOptions) -> OnnxNetwork:
    """The ONNX file that a test file names."""
    arguments = options.network_g.arguments
    path = arguments["path"]
    scales = (None if options.val is None else options.val.scales) or (options.scale,)
    network = open_network(path, arguments.get("provider"), scales[0], provider_key="network_g.provider")
    several = isinstance(network, AnyScaleOnnxNetwork)
    others = [] if several else [scale for scale in scales if as_scale(scale) != network.scale]
    if others:
        raise InputError(f"val.scales: {path} is a network for x{network.scale:g}, not for x{others[0]:g}")
    check_channels(network, options.datasets)
    return network


def log_network(loaded: Loaded) -> None:
    """Log which weights were loaded, or what runs them."""
    if isinstance(loaded, RuntimeReport):
        get_logger().info("network: %s", loaded)
    else:
        log_loaded(loaded)


def arithmetic_for(options: TestOptions | TrainOptions, device: torch.device, *, log: bool = True) -> Arithmetic:
    """What networks are measured in on a device; logged, unless it was before, where it is not as asked, or not fast.

    The weights that the file names say which of their layers stay in float32 where it is float16.

    Raises:
        InputError: the device would take too long, or the weights cannot be read.
    """
    val = options.val or ValOptions()
    top = isinstance(options, TestOptions) and options.precision is not None
    precision, note = choose_precision(val.precision, device, option="precision:" if top else "val.precision:")
    if note is not None and log:
        get_logger().info("%s", note)
    weights = options.path.pretrain_network_g
    stored = precision == "fp16" and weights is not None and weights.is_file()
    return Arithmetic(precision, stored_keep(weights) if stored and weights is not None else ())


def write_scores(
    path: Path, options: TestOptions, reports: list[EvalReport], loaded: Loaded, *, whole: bool = True
) -> None:
    """``scores.json``: per data set the means and each image, with how they were taken, options, versions, hardware.

    ``weights_entry`` is the entry of the weight file that was read, null where the file itself is the state dict;
    ``other_entries`` are those that hold weights of the network too. ``runtime`` says what ran an ONNX file, and which
    one; it is null where PyTorch ran the network. ``complete`` is false where the test was ended before everything was
    done (``whole``): data sets are missing, or the pictures of the last one. ``precision`` is what the network computed
    in, which may be another than the option, and ``float32_layers`` what stayed in float32.
    """
    arithmetic = reports[0].arithmetic
    entry, others, runtime = None, [], None
    if isinstance(loaded, RuntimeReport):
        runtime = loaded.as_json()
    else:
        entry, others = loaded.entry or None, list(loaded.others)
    write_json(path, {
        "name": options.name,
        "complete": whole,
        "weights": str(loaded.path),
        "weights_entry": entry,
        "other_entries": others,
        "runtime": runtime,
        "datasets": {report.dataset: report.as_json() for report in reports},
        "way": way_of(options.val or ValOptions(), options.tile, arithmetic),
        "precision": loaded.precision if isinstance(loaded, RuntimeReport) else arithmetic.precision,
        "float32_layers": list(arithmetic.keep),
        "published": published_scores(options),
        "options": to_dict(options),
        "versions": versions(),
        "hardware": hardware(),
    })  # fmt: skip


@contextlib.contextmanager
def _saver(folder: Path, val: ValOptions, name: str) -> Iterator[Keep | None]:
    """Writes outputs as ``FOLDER/IMAGE_SUFFIX.png``, all of them by the end of the block; None: they are not saved."""
    if not val.save_img:
        yield None
        return
    writer = PictureWriter()

    def keep(sample: Sample, image: Tensor) -> None:
        writer.write(folder / f"{sample.name}_{val.suffix or name}.png", image.cpu().numpy())

    try:
        yield keep
    finally:
        writer.finish()
