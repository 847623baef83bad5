"""The files that a run needs and that are not there: all of them in one message, each with the next move."""

from __future__ import annotations

import dataclasses
import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from config.bases import load
from config.document import MOST_BYTES
from config.schema import Options, TestOptions, TrainOptions
from data import AnyScaleOptions, DatasetOptions
from losses import PerceptualLossOptions, vgg_file
from models.weights.published import where_to_get
from utils.errors import InputError
from utils.reading import read_text


@dataclass(frozen=True)
class Missing:
    """Something that is not there.

    Attributes:
        what: one line that names it.
        moves: what to do about it, a line each; empty where the path is the user's own.
    """

    what: str
    moves: tuple[str, ...] = ()


@dataclass(frozen=True)
class Guide:
    """How the data of a published option file is made.

    Attributes:
        command: what makes it, or what to do.
        part: of the page, that tells how.
        note: what to know about the files.
    """

    command: str
    part: str
    note: str = ""


_EXPORT = "made by python scripts/export.py -w WEIGHTS -o {}"
_SHOWN = 4  # folders of a kind in a message
_PAGE = "docs/data.md"
_PREPARE = "python scripts/prepare_dataset.py"
# What prepare_dataset.py's commands of these names write, and a file of it.
_STORES: Mapping[str, str] = {"lmdb": "data.mdb", "pack": "index.json"}
_EQUAL_NAMES = "the same names on both sides"

# The folders below ``datasets`` that our option files name.
GUIDES: Mapping[str, Guide] = {
    "benchmark": Guide(
        "python scripts/prepare_benchmarks.py -i DOWNLOADS -o datasets/benchmark", "Benchmarks", _EQUAL_NAMES
    ),
    "demo": Guide("python scripts/prepare_demo_data.py", "The demo photographs"),
    "DF2K": Guide(f"{_PREPARE} (lr, subimages)", "DF2K", _EQUAL_NAMES),
    "DIV2K": Guide(f"{_PREPARE} (lr, subimages)", "DF2K", _EQUAL_NAMES),
    "ImageNet": Guide(f"{_PREPARE} (pack)", "ImageNet", "or datasets/ImageNet/HR.pack, with io_backend: {type: pack}"),
    **dict.fromkeys(("Flickr2K", "LSDIR", "DiverSeg_IP"), Guide(f"{_PREPARE} (check, pack)", "DFLIP")),
    "DF2K/HR_multiscale_sub": Guide(f"{_PREPARE} (lr, subimages)", "Real photographs"),
    "OST": Guide(f"{_PREPARE} (subimages)", "Real photographs"),
    "real": Guide("put the pictures to upscale there", "Inputs alone"),
}


def check_inputs(options: TrainOptions | TestOptions, resumed: Collection[str] = ()) -> None:
    """Look whether the weights and the data that an option file names are there, before anything is built.

    Args:
        options: of the run.
        resumed: networks ("g", "d") whose weights come from a checkpoint.

    Raises:
        InputError: something is missing; the message lists all of it. A single path of the user's own is left to
            whoever reads it. Or the folder of the outputs cannot be made.
    """
    training = isinstance(options, TrainOptions)
    check_place("experiments_root" if training else "results_root", options)
    found = list(missing_inputs(options, resumed))
    if len(found) > 1 or any(item.moves for item in found):
        raise_missing(found)


def check_place(key: str, options: TrainOptions | TestOptions) -> None:
    """Look whether the folder of the outputs is there or could be made; nothing is made.

    Args:
        key: of the section ``path`` that names it.
        options: of the run.

    Raises:
        InputError: it is not, and could not be made.
    """
    folder: Path = getattr(options.path, key)
    start = f"path.{key}: {folder} cannot be written"
    for place in (folder, *folder.parents):
        try:
            found = place.stat()
        except (FileNotFoundError, NotADirectoryError):
            if place.is_symlink():
                raise InputError(f"{start}: the link {place} leads nowhere; choose another folder") from None
            continue
        except OSError as error:
            raise InputError(f"{start}: {place}: {error.strerror}; choose another folder") from error
        if not stat.S_ISDIR(found.st_mode):
            raise InputError(f"{start}: {place} is a file, not a folder; choose another")
        if not os.access(place, os.W_OK | os.X_OK):
            raise InputError(f"{start}: no permission to write in {place}; choose another folder or change its rights")
        return


def raise_missing(found: Iterable[Missing]) -> None:
    """Raise InputError about everything that is missing, if anything is; the same is named once."""
    listed = list(dict.fromkeys(found))
    if not listed:
        return
    if len(listed) == 1:
        raise InputError("\n  ".join([listed[0].what, *listed[0].moves]))
    lines = ["this run needs what is not there:"]
    for item in listed:
        lines += [f"  {item.what}", *(f"    {move}" for move in item.moves)]
    lines.append(f"(relative paths start at {Path.cwd()})")
    raise InputError("\n".join(lines))


def missing_inputs(options: TrainOptions | TestOptions, supplied: Collection[str] = ()) -> Iterator[Missing]:
    """What an option file names and is not there: weights, training data, validation or test data.

    Args:
        options: of the run.
        supplied: networks ("g", "d") whose weights come from elsewhere, so that their pretrained files are not needed.
    """
    training = isinstance(options, TrainOptions)
    file = options.network_g.is_file
    starts = {"g": options.network_g.arguments.get("path") if file else options.path.pretrain_network_g}
    if isinstance(options, TrainOptions) and options.kind == "adversarial":
        starts["d"] = options.path.pretrain_network_d
    for network, start in starts.items():
        if network not in supplied and start is not None and _is_missing(start, None):
            moves = [_EXPORT.format(start)] if file else _ways_to_weights(options, start, network)
            yield Missing(f"weights {start}: there is no such file", tuple(moves))
    if isinstance(options, TrainOptions):
        yield from _missing_features(options)
    groups: dict[tuple[str, Guide | None], tuple[list[str], list[Path]]] = {}
    scales = (None if options.val is None else options.val.scales) or (
        options.largest_scale if isinstance(options, TrainOptions) else options.scale,
    )
    for key, dataset in options.datasets.items():
        if training and key != "train" and options.val is None:
            continue
        kind = "training data" if key == "train" else "validation data" if training else "test data"
        for path in _paths_of(dataset, scales):
            guide = _guide_of(path)
            if _is_missing(path, guide):
                names, paths = groups.setdefault((kind, guide), ([], []))
                names.append(dataset.name)
                paths.append(path)
    for (kind, guide), (names, paths) in groups.items():
        unique = list(dict.fromkeys(map(str, paths)))
        more = f" and {len(unique) - _SHOWN} more" if len(unique) > _SHOWN else ""
        what = f"{_noun(paths)}{'s' if len(unique) > 1 else ''} {', '.join(unique[:_SHOWN])}{more}"
        line = f"{kind} {', '.join(dict.fromkeys(names))}: {what} do{'es' if len(unique) == 1 else ''} not exist"
        yield Missing(
            line if not any(map(Path.is_dir, paths)) else f"{line}, or nothing is there", _steps(guide, paths)
        )


def _missing_features(options: TrainOptions) -> Iterator[Missing]:
    """The weights of the networks that perceptual losses need."""
    named = [("train.losses", loss) for loss in options.train.losses]
    for key, loss in (("train.perceptual_opt", options.train.perceptual_opt), *named):
        if isinstance(loss, PerceptualLossOptions):
            try:
                vgg_file(loss)
            except InputError as error:
                yield Missing(f"{key}: weights of {loss.vgg_type}: there is no such file", (str(error),))


def _noun(paths: Sequence[Path]) -> str:
    """What paths are called: folders, files (lists of images), or plainly paths where both are among them."""
    files = [path.suffix not in ("", ".lmdb", ".pack") for path in paths]
    return "the file" if all(files) else "the path" if any(files) else "the folder"


def _steps(guide: Guide | None, paths: Sequence[Path]) -> tuple[str, ...]:
    """The lines about data that a guide tells how to make, with the files that are expected."""
    if guide is None:
        return ()
    files = dict.fromkeys(_expected(path) for path in paths)
    note = f" ({guide.note})" if guide.note and (guide.note != _EQUAL_NAMES or len(files) > 1) else ""
    return (f'{_made_by(guide, paths)}; see {_PAGE}, "{guide.part}"', f"expected: {', '.join(files)}{note}")


def _made_by(guide: Guide, paths: Sequence[Path]) -> str:
    """What makes the data; where paths are LMDB data sets or packs, with the commands that write those."""
    if not guide.command.startswith("python "):
        return guide.command
    written = [kind for kind in _STORES if any(path.suffix == f".{kind}" for path in paths)]
    more = [kind for kind in written if kind not in guide.command]
    if more and guide.command.startswith(_PREPARE):
        return f"made by {guide.command.removesuffix(')')}, {', '.join(more)})"
    return f"made by {guide.command}"


def _expected(path: Path) -> str:
    """The files that a folder of our option files holds; those of all benchmarks alike."""
    return f"{_of_any_set(path)}/{_STORES.get(path.suffix[1:], 'NAME.png')}"


def _of_any_set(path: Path) -> Path:
    """A folder of the benchmarks with SET in the place of the set's name."""
    parts = path.parts
    return Path(*parts[:2], "SET", *parts[3:]) if parts[1] == "benchmark" and len(parts) > 3 else path


def _paths_of(dataset: DatasetOptions, scales: Sequence[float]) -> Iterator[Path]:
    """Every file and folder that the options of a data set name; of those of single scales, what these need."""
    values = [getattr(dataset, field.name) for field in dataclasses.fields(dataset)]
    values += [dataset.given(scale) for scale in scales] if isinstance(dataset, AnyScaleOptions) else []
    for value in values:
        for path in value if isinstance(value, tuple) else (value,):
            if isinstance(path, Path):
                yield path.expanduser()


def _guide_of(path: Path) -> Guide | None:
    """How a folder of our option files is made; None for a path of the user's own."""
    parts = path.parts
    if len(parts) < 2 or parts[0] != "datasets":
        return None
    return GUIDES.get("/".join(parts[1:3])) or GUIDES.get(parts[1])


def _is_missing(path: Path, guide: Guide | None) -> bool:
    """Whether nothing is there; an empty folder of the user's own is left to whoever reads it."""
    try:
        return not path.exists() or (guide is not None and path.is_dir() and not any(path.iterdir()))
    except OSError:  # it may not be looked into: whoever reads it says so
        return False


def _ways_to_weights(options: Options, weights: Path, network: str = "g") -> Iterator[str]:
    """What to do about missing weights that another option file of ours, or of the user's, trains."""
    published, run = where_to_get(weights), _run_of(weights)
    if published is not None:
        yield published
    here = Path(options.files[0]) if options.files else None
    if run is None:
        return
    there = sorted(path.name for path in weights.parent.glob(f"net_{network}_*.pth"))
    if there:
        yield f"{weights.parent} holds {', '.join(there)}: name one of them, or let that training end (--auto_resume)"
    source = None if here is None else _trained_by(run, here.parent)
    yield f"train {run} first: python train.py -opt {source}" if source else f"train {run} first"
    if not isinstance(options, TrainOptions):
        return
    recipe = None if here is None or source is None else _recipe_of(source, here)
    if recipe is not None:
        yield f"or run both in turn: python scripts/run_recipe.py {recipe}"
    yield f"or train from scratch: add --force_yml path:pretrain_network_{network}=null"


def _run_of(weights: Path) -> str | None:
    """The name of the run that writes a file ``NAME/models/net_g_ITER.pth``, or the discriminator's."""
    written = weights.parent.name == "models" and re.fullmatch(r"net_[gd]_\w+\.(pth|safetensors)", weights.name)
    return weights.parent.parent.name if written else None


def _trained_by(run: str, folder: Path) -> Path | None:
    """The option file of a folder that trains a run: the one with its name and a section "train"."""
    for path in sorted(folder.glob("*.yml")):
        try:
            if run not in read_text(path, "option file", MOST_BYTES):
                continue
            document = load(path)
        except InputError:  # a file of something else, or one with mistakes of its own
            continue
        if document.value.get("name") == run and "train" in document.value:
            return path
    return None


def _recipe_of(source: Path, target: Path) -> str | None:
    """The arguments of run_recipe.py that train ``source`` and then ``target``, if a recipe beside them does."""
    for path in sorted((target.parent / "recipes").glob("*.yml")):
        try:
            stages = load(path).value.get("stages")
        except InputError:
            continue
        if not isinstance(stages, Mapping):
            continue
        files = {
            name: (path.parent / str(stage["opt"])).resolve()
            for name, stage in stages.items()
            if isinstance(stage, Mapping) and "opt" in stage
        }
        for name, stage in stages.items():
            if files.get(name) == target.resolve() and files.get(str(stage.get("start_from"))) == source.resolve():
                return f"{path} --only {name}"
    return None
