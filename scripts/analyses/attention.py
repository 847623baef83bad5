"""Where pixels look, layer by layer; mean attention distances."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from analysis.attention import LayerAttention, LookedAt, Similarity, look
from analysis.attention.drawing import (
    box_of,
    in_rows,
    located,
    panels_of_representatives,
    panels_of_rows,
    panels_of_similarity,
)
from analysis.drawing import Panel, Pixels, check_charts, new_figure, sheet
from analysis.images import Picture, files_of
from analysis.results import Results
from analysis.subjects import Subject
from archs.observation import attention_modules
from data.images.files import to_uint8
from models.evaluation.evaluate import format_table
from scripts.analyses.common import (
    add_images,
    add_networks,
    add_output,
    finish,
    numbers,
    pictures_for,
    prepare,
    subjects_of,
)
from utils.errors import InputError
from utils.log import get_logger
from utils.progress import Progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEAN = "mean"
COLUMNS = 9  # panels of a row
LEAST = 128  # columns of a panel
WHOLE = 400  # columns of the whole image


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of this kind."""
    add_networks(parser)
    add_images(parser, "lr")
    group = parser.add_argument_group("what is looked at")
    group.add_argument(
        "--pixel", nargs="+", type=pixel_of, default=[], metavar="ROW,COLUMN",
        help="low-resolution pixels whose rows of the attention maps are drawn, from 0 and counted inside --crop",
    )  # fmt: skip
    group.add_argument(
        "--layers", nargs="+", type=int, metavar="NUMBER", help="attention layers, from 0 (default: all)"
    )
    group.add_argument(
        "--chain", nargs="+", type=int, metavar="NUMBER",
        help="only layers whose windows hold the same pixels: in PFT 1 for layers 0, 2, 4, ..., 2 for shifted ones "
        "(default: all, one after the other)",
    )  # fmt: skip
    group.add_argument(
        "--heads", nargs="+", type=head_of, default=[MEAN], metavar="NUMBER|mean",
        help="what is drawn, for each a picture (default: the mean over the heads); results hold all heads",
    )  # fmt: skip
    group.add_argument("--over", choices=("white", "lr"), default="white", help="what red is drawn over")
    group.add_argument(
        "--compare", action="store_true",
        help="compare the layers' maps: cosine and Jensen-Shannon divergence; holds all layers' queries and keys",
    )  # fmt: skip
    add_output(parser)


def pixel_of(text: str) -> tuple[int, int]:
    """``ROW,COLUMN``."""
    row, column = numbers(text, "ROW,COLUMN")
    return row, column


def head_of(text: str) -> int | str:
    """The number of a head, or "mean"."""
    if text != MEAN and not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected the number of a head from 0, or {MEAN}, got {text}")
    return text if text == MEAN else int(text)


@dataclass(frozen=True)
class Looked:
    """What was found for one picture."""

    picture: str
    lr: Pixels
    found: LookedAt


def run(typed: argparse.Namespace) -> None:
    """Look at the attention of each network over each picture."""
    prepare(typed)
    subjects = subjects_of(typed)
    files = files_of(typed.input)
    looked: list[tuple[Subject, list[Looked]]] = []
    steps = len(files) * sum(len(attention_modules(subject.network)) for subject in subjects)
    with Progress(steps, "attention", unit="layers", plain=get_logger().info) as progress:
        for subject in subjects:
            each = []
            for picture in pictures_for(typed, subject):
                each.append(look_at(typed, subject, picture, progress))
            looked.append((subject, each))
    results = Results(
        kind="attention",
        text="\n\n".join(text_of(subject, each) for subject, each in looked),
        figures={"results": [figures_of(subject, each) for subject, each in looked]},
        arrays=arrays_of(looked),
        pictures=pictures_of(typed, looked),
    )
    finish(typed, results, subjects)


def look_at(typed: argparse.Namespace, subject: Subject, picture: Picture, progress: Progress) -> Looked:
    """One network and one picture.

    Raises:
        InputError: the network, or this picture, has nothing of what was asked for.
    """
    try:
        found = look(
            subject.network, picture.lr, typed.pixel, typed.layers,
            chains=typed.chain, compare=typed.compare, progress=progress.advance,
        )  # fmt: skip
    except InputError as error:
        raise InputError(f"{subject.name}, {picture.name}: {error}") from None
    if not found.layers:
        raise InputError(
            f"{subject.name}: none of --layers {' '.join(map(str, typed.layers))} is in --chain "
            f"{' '.join(map(str, typed.chain))}"
        )
    for head in typed.heads:
        if head != MEAN and head >= (most := max(layer.heads for layer in found.layers)):
            raise InputError(f"{subject.name}: there is no head {head}; layers have {most} at most, from 0")
    lr = to_uint8(picture.lr[0].float().expand(3, -1, -1))
    return Looked(picture.name, lr, found)


def over_pictures(each: Sequence[Looked], name: str) -> NDArray[np.float64]:
    """The mean over the heads of "distance", "entropy" or "lost", [pictures, layers]."""
    return np.array([[layer.mean(name) for layer in looked.found.layers] for looked in each])


def text_of(subject: Subject, each: Sequence[Looked]) -> str:
    """A table of the layers, means over pictures, and sentences."""
    layers = each[0].found.layers
    distance, entropy, lost = (over_pictures(each, name) for name in ("distance", "entropy", "lost"))
    uniform = np.array([[layer.uniform for layer in looked.found.layers] for looked in each]).mean(0)
    heads = ("layer", "chain", "heads", "keys", "distance", "uniform", "entropy", "log keys", "lost %")
    rows = []
    for place, layer in enumerate(layers):
        spread = f" +- {distance[:, place].std():.2f}" if len(each) > 1 else ""
        rows.append((
            f"{layer.number:2d}  {layer.name}", str(layer.chain), str(layer.heads), str(layer.keys),
            f"{distance[:, place].mean():.2f}{spread}", f"{uniform[place]:.2f}", f"{entropy[:, place].mean():.2f}",
            f"{np.log(layer.keys):.2f}", f"{100 * lost[:, place].mean():.1f}",
        ))  # fmt: skip
    height, width = each[0].found.size
    seen = f"{each[0].picture}, {width} x {height} low-resolution pixels" if len(each) == 1 else f"{len(each)} pictures"
    lines = [
        f"{subject.name} over {seen}:",
        format_table(heads, rows, means=False),
        sentence(layers, distance.mean(0), uniform),
    ]
    if (outside := lost.mean(0)).max() > 0:
        some = outside > 0
        lines.append(
            f"{100 * outside[some].mean():.1f} % of the weight, mean of the {some.sum()} layer(s) where there are any, "
            "lie on keys outside the image."
        )
    lines += [line for looked in each for line in similarity_lines(looked)]
    return "\n".join(lines)


def sentence(layers: Sequence[LayerAttention], distance: NDArray[np.float64], uniform: NDArray[np.float64]) -> str:
    """What a paper's text would say of the distances [layers]; squares that stand for the image are another matter."""
    lines = []
    for squares, what in ((False, ""), (True, " to the middle of the squares that represent the image")):
        places = [place for place, layer in enumerate(layers) if (layer.grid is not None) is squares]
        if not places:
            continue
        least, most = (places[int(index(distance[places]))] for index in (np.argmin, np.argmax))
        text = f"The mean attention distance{what} is {distance[places].mean():.2f} pixels"
        if len(places) > 1:
            text += (
                f" over {len(places)} layers, from {distance[least]:.2f} in layer {layers[least].number} to "
                f"{distance[most]:.2f} in layer {layers[most].number}"
            )
        lines.append(f"{text}; {uniform[places].mean():.2f} would be attention to all keys alike.")
    return "\n".join(lines)


def similarity_lines(looked: Looked) -> list[str]:
    """What was found of neighbouring layers that can be compared."""
    between = looked.found.similarity
    if between is None:
        return []
    upper = np.triu(np.isfinite(between.cosine), 1)
    if not upper.any():
        return [f"{looked.picture}: no two of these layers can be compared."]
    return [
        f"{looked.picture}: maps of layers of one chain have a cosine of {between.cosine[upper].mean():.3f} and a "
        f"Jensen-Shannon divergence of {between.jensen_shannon[upper].mean():.3f} on average ({upper.sum()} pairs)."
    ]


def figures_of(subject: Subject, each: Sequence[Looked]) -> dict[str, object]:
    """What goes into the JSON file."""
    return {"network": subject.name, "pictures": [_figures(looked) for looked in each]}


def _figures(looked: Looked) -> dict[str, object]:
    found = looked.found
    layers = [
        {
            "layer": layer.number,
            "module": layer.name,
            "chain": layer.chain,
            "heads": layer.heads,
            "keys": layer.keys,
            "mean_distance": layer.mean("distance"),
            "mean_distance_per_head": layer.per_head("distance").tolist(),
            "uniform_distance": layer.uniform,
            "entropy_per_head": layer.per_head("entropy").tolist(),
            "lost_per_head": layer.per_head("lost").tolist(),
        }
        for layer in found.layers
    ]
    rows = [
        {"layer": row.layer, "pixel": row.pixel, "box": row.box, "lost": row.lost.tolist()}
        for row in found.rows
    ]  # fmt: skip
    result: dict[str, object] = {"picture": looked.picture, "size": found.size, "layers": layers, "rows": rows}
    if found.similarity is not None:
        result["similarity"] = _similarity_figures(found.similarity)
    return result


def _similarity_figures(between: Similarity) -> dict[str, object]:
    """NaN is no JSON."""
    return {
        "layers": between.layers,
        **{
            name: [[None if np.isnan(value) else value for value in row] for row in getattr(between, name).tolist()]
            for name in ("cosine", "jensen_shannon")
        },
    }


def arrays_of(looked: Sequence[tuple[Subject, Sequence[Looked]]]) -> dict[str, NDArray[Any]]:
    """Rows, cut to their boxes, and what representatives have; numbers of networks and pictures are in their names."""
    arrays: dict[str, NDArray[Any]] = {}
    for network, (_, each) in enumerate(looked):
        for picture, one in enumerate(each):
            prefix = f"network{network}_picture{picture}"
            for row in one.found.rows:
                top, left, bottom, right = row.box
                name = f"{prefix}_layer{row.layer}_pixel{row.pixel[0]}_{row.pixel[1]}"
                arrays[name] = row.weights[:, top:bottom, left:right]
            for layer in one.found.layers:
                if layer.representatives is not None:
                    arrays[f"{prefix}_layer{layer.number}_mean_row"] = layer.representatives.mean
                    arrays[f"{prefix}_layer{layer.number}_entropy"] = layer.representatives.entropy
    return arrays


def pictures_of(
    typed: argparse.Namespace, looked: Sequence[tuple[Subject, Sequence[Looked]]]
) -> Mapping[str, Pixels | Figure]:
    """A sheet for each pixel, the chart of distances, and sheets of representatives and of similarities."""
    pictures: dict[str, Pixels | Figure] = {}
    for number, (subject, each) in enumerate(looked):
        for place, one in enumerate(each):
            which = "_".join(
                ([f"network{number}"] if len(looked) > 1 else []) + ([f"picture{place}"] if len(each) > 1 else [])
            )
            for row, column in dict.fromkeys(typed.pixel):
                for head in typed.heads:
                    name = _joined(which, f"{row}_{column}", "" if head == MEAN else f"head{head}")
                    pictures[name] = _row_sheet(typed, subject, one, (row, column), head)
            with_representatives = [layer for layer in one.found.layers if layer.representatives is not None]
            if with_representatives:
                last = with_representatives[-1]
                assert last.representatives is not None
                panels = panels_of_representatives(last.representatives, one.lr, f"layer {last.number}")
                pictures[_joined(which, "representatives")] = sheet(in_rows(panels, COLUMNS), LEAST)
            if one.found.similarity is not None:
                matrices = [
                    panels_of_similarity(one.found.similarity, [layer.number for layer in layers], f"chain {chain}")
                    for chain, layers in chains_of(one.found.layers).items()
                    if len(layers) > 1
                ]
                if matrices:
                    pictures[_joined(which, "similarity")] = sheet(matrices)
    try:
        check_charts("the chart of mean attention distances")
    except InputError as error:
        get_logger().info("%s", error)
    else:
        pictures["distance"] = _chart(looked)
    return pictures


def _joined(*parts: str) -> str:
    return "_".join(part for part in parts if part)


def _row_sheet(
    typed: argparse.Namespace, subject: Subject, looked: Looked, pixel: tuple[int, int], head: int | str
) -> Pixels:
    """The image with the query and what it can look at; below it the layers, chain by chain."""
    drawn, boxes = [], []
    for chain, layers in chains_of(looked.found.layers).items():
        rows = [
            looked.found.row(layer.number, pixel) for layer in layers if head == MEAN or int(head) < layer.heads
        ]  # fmt: skip
        if not rows:
            continue
        boxes.append(box_of(rows))
        captions = [f"chain {chain}", *(f"layer {row.layer}" for row in rows)]
        panels = panels_of_rows(
            rows, looked.lr, captions,
            head=None if head == MEAN else int(head), over_image=typed.over == "lr", least=LEAST,
        )  # fmt: skip
        # The part of the image stays at the left of the layers that follow.
        drawn += [[panels[0], *some] for some in in_rows(panels[1:], COLUMNS - 1)]
    what = f"{subject.name}, {looked.picture}: {'mean of heads' if head == MEAN else f'head {head}'}"
    return sheet([[Panel(located(looked.lr, pixel, boxes, WHOLE), what)], *drawn], LEAST)


def chains_of(layers: Sequence[LayerAttention]) -> dict[int, list[LayerAttention]]:
    """The layers by their chains."""
    chains: dict[int, list[LayerAttention]] = {}
    for layer in layers:
        chains.setdefault(layer.chain, []).append(layer)
    return chains


def _chart(looked: Sequence[tuple[Subject, Sequence[Looked]]]) -> Figure:
    """Mean attention distance over the layers; bars: deviation over pictures."""
    figure = new_figure()
    from matplotlib.ticker import MaxNLocator

    axes = figure.subplots()
    for subject, each in looked:
        distance = over_pictures(each, "distance")
        layers = list(each[0].found.layers)
        chains = chains_of(layers)
        for chain, members in chains.items():
            at, places = [layer.number for layer in members], [layers.index(layer) for layer in members]
            label = subject.name if len(chains) == 1 else f"{subject.name}, chain {chain}"
            axes.errorbar(at, distance[:, places].mean(0), distance[:, places].std(0), marker="o", label=label)
    axes.set_xlabel("attention layer")
    axes.set_ylabel("mean attention distance [LR pixels]")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    return figure
