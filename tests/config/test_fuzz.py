"""500 option files with faults of every kind: each is read, or refused in one message, in a moment.

What is read is built as far as that costs nothing: the optimiser over a small network, the learning rate of some
iterations, the small networks. The seeds are fixed.
"""

from __future__ import annotations

import copy
import functools
import random
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
import yaml

import config
from archs import build_discriminator, build_network
from config import to_dict
from config.schema import TestOptions, TrainOptions
from models.inputs import check_inputs
from models.training.optim import build_optimizer
from models.training.schedule import learning_rate
from tests.config.files import GAN, TEST, TRAIN
from tests.runs import ROOT
from utils import devices
from utils.errors import InputError

CASES = 300
LIMIT = 20  # seconds for one file, a hundred times what it takes: a hang
NASTY: list[Any] = [
    *("", "~", "null", "x" * 300, "y" * 10_000, "a\nb", "\0", "\ud800", "../..", "/dev/zero", "~nobody-of-that-name/x"),
    *("{}", "../{}", "{0}", "%s", "*", "yes", ".nan", ".inf", "-.inf", "1e400", "1_000", "0x10", "2001-01-01", "🙂"),
    *(0, -1, 1, 2, 7, 10**3, 10**6, 10**9, 10**12, 2**31, 2**32, 2**63, 2**64, 10**24, -(10**24)),
    *(0.0, -0.0, 0.5, 1.0, 1.5, -0.5, 1e-300, 1e300, float("inf"), float("-inf"), float("nan")),
    *(True, False, None, [], {}, [[]], [{}], [None], [0], [-1], [10**9], [1e300], ["x"], [1, 2, 3], [0.9, 1.0]),
    *([1] * 2000, {"type": "HAT"}, {"type": None}, {"type": []}, {"x": {"y": {"z": 1}}}),
]  # fmt: skip
WORDS = ("train", "val", "type", "name", "base", "<<", "stages", "datasets", "network_g", "path", "lr", "scale", "é")

QUICK_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
Paths = list[tuple[Any, ...]]


@functools.cache
def sources() -> list[dict[str, Any]]:
    """What is mutated: small files, and published ones with all that they are based on."""
    texts = [TRAIN, TEST]
    for name in ("train_hat_s_x4.yml", "train_rgt_x4.yml", "train_pft_light_x4.yml", "test_esc_lte.yml"):
        texts.append(config.bases.written(ROOT / "options" / name))
    for name in ("real_esrnet_train.yml", "hat_real_gan_train.yml"):
        texts.append((ROOT / "tests/config/dialects" / name).read_text(encoding="utf-8"))
    texts += [yaml.safe_dump(adversarial())] * 2
    return [yaml.safe_load(text) for text in texts]


def adversarial() -> dict[str, Any]:
    """A small file with losses of every kind."""
    value: dict[str, Any] = yaml.safe_load(GAN)
    schedule = [[0, 0.0], [50, 1.0]]
    perceptual = {"type": "PerceptualLoss", "layer_weights": {"conv1_2": 0.1, "relu2_1": 1.0}, "style_weight": 0.5}
    listed = [{"type": "FFTLoss", "name": "spectrum"}, {"type": "WaveletLoss"}, {**perceptual, "target": "gt_usm"}]
    value["train"] |= {
        "ldl_opt": {"type": "L1Loss", "detach_map": True},
        "mesa_opt": {"type": "CharbonnierLoss", "start_ratio": 0.3, "weight_schedule": schedule},
        "perceptual_opt": perceptual,
        "losses": listed,
        "net_d_iters": 2, "net_d_init_iters": 10, "gradient_clip": 1.0, "reset_momentum_iter": 30,
    }  # fmt: skip
    value["path"] = {"pretrain_network_d": "netD.pth", "param_key_d": "params"}
    return value


def paths(value: Any, start: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """All places of a nested value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*start, key)
        yield from paths(item, (*start, key))


def parent(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path[:-1]:
        value = value[key]
    return value


def replace(value: dict[str, Any], places: Paths, draw: random.Random) -> None:
    place = draw.choice(places)
    parent(value, place)[place[-1]] = copy.deepcopy(draw.choice(NASTY))


def remove(value: dict[str, Any], places: Paths, draw: random.Random) -> None:
    place = draw.choice(places)
    del parent(value, place)[place[-1]]


def rename(value: dict[str, Any], places: Paths, draw: random.Random) -> None:
    place = draw.choice([place for place in places if isinstance(place[-1], str)])
    inside = parent(value, place)
    inside[draw.choice([*WORDS, place[-1] + "s", place[-1][:-1]])] = inside.pop(place[-1])


def nudge(value: dict[str, Any], places: Paths, draw: random.Random) -> None:
    """A number becomes another of the same kind, which may be meant."""
    numbers = [place for place in places if type(parent(value, place)[place[-1]]) in (int, float)]
    if numbers:
        place = draw.choice(numbers)
        number = parent(value, place)[place[-1]]
        parent(value, place)[place[-1]] = draw.choice([2 * number, number + 1, number - 1, type(number)(number / 2)])


def swap(value: dict[str, Any], places: Paths, draw: random.Random) -> None:
    one = draw.choice([place for place in places if len(place) <= 2])
    other = draw.choice([place for place in places if len(place) == len(one)])
    held = copy.deepcopy(parent(value, one)[one[-1]])
    parent(value, one)[one[-1]] = copy.deepcopy(parent(value, other)[other[-1]])
    parent(value, other)[other[-1]] = held


MUTATIONS: tuple[Callable[[dict[str, Any], Paths, random.Random], None], ...] = (
    *(replace, replace, remove, rename, swap, nudge, nudge),
)


def flipped(data: bytes, draw: random.Random) -> bytes:
    """Some bytes changed, a line given twice, or the file cut short."""
    held = bytearray(data)
    kind = draw.randrange(3)
    if kind == 0:
        for _ in range(draw.randint(1, 8)):
            held[draw.randrange(len(held))] = draw.randrange(256)
    elif kind == 1:
        lines = bytes(held).splitlines(keepends=True)
        lines.insert(draw.randrange(len(lines)), draw.choice(lines))
        return b"".join(lines)
    else:
        del held[draw.randrange(len(held)) :]
    return bytes(held)


def mutated(value: dict[str, Any], draw: random.Random) -> bytes:
    """The text of a file with up to three faults."""
    value = copy.deepcopy(value)
    for _ in range(draw.randint(1, 3)):
        places = list(paths(value))
        if places:
            draw.choice(MUTATIONS)(value, places, draw)
    try:
        text = yaml.dump(value, Dumper=QUICK_DUMPER, allow_unicode=True, sort_keys=False)
    except UnicodeEncodeError:  # libyaml cannot write half of a character
        text = yaml.safe_dump(value, allow_unicode=True, sort_keys=False)
    data = text.encode("utf-8", "surrogatepass")
    return flipped(data, draw) if draw.random() < 0.15 else data


def override(value: dict[str, Any], draw: random.Random) -> str:
    """An edit of the command line."""
    place = draw.choice(list(paths(value)))
    return f"{':'.join(map(str, place))}={str(draw.choice(NASTY))[:500]}"


@contextmanager
def within(seconds: int, what: str) -> Iterator[None]:
    """Fail where the block takes longer; only where there are alarms."""
    if sys.platform == "win32":
        yield
        return

    def late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"{what} took longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def use(options: TrainOptions | TestOptions) -> None:
    """What a check does with options before it has data, as far as that is cheap."""
    with suppress(InputError):  # there are no data, which is said
        check_inputs(options)
    if isinstance(options, TrainOptions):
        network = torch.nn.Conv2d(1, 1, 1)
        optimizer = build_optimizer(options.train.optim_g, network, decay_all=options.train.decay_norms_and_biases)
        network(torch.zeros(1, 1, 1, 1)).sum().backward()
        optimizer.step()
        for iteration in (1, 2, options.train.total_iter // 2 + 1, options.train.total_iter):
            rate = learning_rate(options.train, options.train.optim_g.lr, iteration)
            assert rate >= 0, "a negative learning rate"
        train = options.train
        for loss in (train.pixel_opt, train.wave_opt, train.fft_opt, train.ldl_opt, train.mesa_opt, train.gan_opt):
            if loss is not None:
                loss.build(torch.device("cpu"))
        if options.kind == "adversarial":
            assert options.network_d is not None
            assert train.optim_d is not None
            build_optimizer(train.optim_d, network)
            with torch.device("meta"):
                build_discriminator(options.network_d.as_mapping())
        assert to_dict(options)
    if options.network_g.type.startswith("PlainUSR_ultra"):
        build_network(options.network_g.as_mapping())


@pytest.mark.parametrize("part", range(5))
def test_any_file_is_read_or_refused(part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(devices, "present", devices.Present)
    known = sources()
    read, refused = 0, 0
    for number in range(part * CASES // 5, (part + 1) * CASES // 5):
        draw = random.Random(number)
        value = draw.choice(known)
        data = mutated(value, draw)
        if draw.random() < 0.1:  # through a base, and a base of it
            (tmp_path / "base.yml").write_bytes(data)
            (tmp_path / "middle.yml").write_text("base: [base.yml, base.yml]\n")
            data = (
                f"base: {draw.choice(['middle.yml', '[middle.yml, base.yml]', 'options.yml', 'absent.yml'])}\n".encode()
            )
        (tmp_path / "options.yml").write_bytes(data)
        overrides = [override(value, draw) for _ in range(draw.randint(0, 2))] if draw.random() < 0.3 else []
        training = "train" in value
        with within(LIMIT, f"file {number}"):
            try:
                options: TrainOptions | TestOptions
                if training:
                    options = config.read("options.yml", overrides, mode="train")
                else:
                    options = config.read("options.yml", overrides, mode="test")
                use(options)
                read += 1
            except InputError as error:
                refused += 1
                assert str(error).strip(), f"file {number} is refused without a word"
                assert len(str(error)) < 100_000
    assert read + refused == CASES // 5
    assert refused > CASES // 20
