"""Two machines, played by two torchrun agents on this one, train PFT with its sparse operators as one process does."""

from __future__ import annotations

import contextlib
import re
import socket
from pathlib import Path

import pytest

from tests.runs import TRAIN_FILE, environment, run_here, start, torchrun, workplace
from tests.test_straight_line import losses, scores, weights

NETWORK = (
    "{type: PFT, upscale: 2, embed_dim: 8, depths: [2, 3], num_heads: 2, num_topk: [16, 16, 6, 6, 3], window_size: 4, "
    "convffn_kernel_size: 3}"
)
# The rate moves weights by a thousandth and more, so that 1e-6 means something. SGD moves by the gradient itself;
# Adam would enlarge rounding where a gradient is close to 0.
CHANGES = ("--force_yml", "train:total_iter=4", "train:optim_g:lr=0.1", "train:ema_decay=0.5", "val:save_img=true")


def two_machines_file() -> str:
    """An option file with PFT and SGD."""
    text = TRAIN_FILE.replace("type: Adam, lr: 2e-3, betas: [0.9, 0.99]", "type: SGD, lr: 2e-3")
    return text.replace("{type: PlainUSR_ultra, n_feat: 8, im_feat: [8, 4], scale: 2}", NETWORK)


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port


def agents(folder: Path) -> list[tuple[int, str]]:
    """Exit code and messages of two agents that meet at a port."""
    meeting = ("--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}", "--local-addr", "127.0.0.1")
    line = torchrun(
        "train.py", "-opt", "train.yml", "--launcher", "pytorch", *CHANGES,
        launch=("--nnodes", "2", "--nproc-per-node", "1", *meeting),
    )  # fmt: skip
    with contextlib.ExitStack() as leaving:
        # Into files: an agent whose pipe is full would wait for its reader, and the other agent for it.
        outputs = [leaving.enter_context((folder / f"agent_{i}.txt").open("w+")) for i in range(2)]
        both = [start(line, folder, environment(), stdout=text, stderr=text) for text in outputs]
        for agent in both:
            leaving.callback(agent.wait, 30)
            leaving.callback(agent.terminate)  # which takes its worker along; nothing where it has ended
        codes = [agent.wait(300) for agent in both]
    return [(code, (folder / f"agent_{i}.txt").read_text()) for i, code in enumerate(codes)]


@pytest.mark.slow
def test_two_machines_train_as_one_process_with_the_double_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = workplace(tmp_path / "one"), workplace(tmp_path / "two")
    for place in (one, two):
        (place / "train.yml").write_text(two_machines_file())
    for _ in range(3):
        ended = agents(two)
        taken = any(re.search(r"EADDRINUSE|[Aa]ddress already in use|Rendezvous\w*Error", text) for _, text in ended)
        if not taken:  # by another program, between our looking and the agents' coming
            break
    assert [code for code, _ in ended] == [0, 0], "\n".join(text for _, text in ended)
    monkeypatch.chdir(one)
    assert run_here("train.py", "-opt", "train.yml", *CHANGES, "datasets:train:batch_size_per_gpu=4") == 0
    mine, theirs = (weights(place / "experiments/tiny/models/net_g_latest.pth") for place in (one, two))
    assert mine.keys() == theirs.keys()
    for key, value in mine.items():
        assert (theirs[key] - value).abs().max() < 1e-6, key
    ours, others = (losses(place / "experiments/tiny") for place in (one, two))
    assert [loss for _, loss in others] == pytest.approx([loss for _, loss in ours], rel=1e-5)
    assert [step for step, _ in scores(two / "experiments/tiny")] == [4]
    pictures = {path.name for path in (two / "experiments/tiny/visualization/HeldOut").rglob("*.png")}
    assert pictures == {"held_out_0_4.png", "held_out_1_4.png"}  # each machine has written one
    [(_, single)], [(_, shared)] = scores(one / "experiments/tiny"), scores(two / "experiments/tiny")
    assert shared == pytest.approx(single, rel=1e-4)
