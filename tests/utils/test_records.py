"""Records of runs are read although lines of the file are damaged."""

from __future__ import annotations

from pathlib import Path

from utils.records import read_records

TRAIN = b'{"kind": "train", "step": 4, "epoch": 0, "lr": [0.1], "l_pix": 0.5, "grad_norm": null}'
VAL = b'{"kind": "val", "step": 4, "dataset": "Set5", "scores": {"psnr": 30.5, "ssim": null}}'


def test_damaged_lines_cost_themselves_alone(tmp_path: Path) -> None:
    damaged = [
        b"\xff\xfe", b'{"kind": "tra', b'{"kind": "train", "lr": [0.1]}', b"3", b"[" * 5000, b'{"step": 4}',
        TRAIN.replace(b"4", b'"4"', 1), TRAIN.replace(b"[0.1]", b"[]"), TRAIN.replace(b"0.5", b"[]"), b"\0\0\0",
        VAL.replace(b"30.5", b'"high"'), VAL.replace(b'"Set5"', b"5"),
        VAL.replace(b'{"psnr": 30.5, "ssim": null}', b"1"),
    ]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([TRAIN, *damaged, VAL, b'{"kind": "tr']))
    records = read_records(tmp_path / "metrics.jsonl")
    assert [line.encode() for line, _ in records.lines] == [TRAIN, VAL]
    assert records.dropped == tuple(range(2, 2 + len(damaged)))


def test_a_line_that_a_kill_has_cut_off_is_no_damage(tmp_path: Path) -> None:
    for last in (b"", b"\n", b'{"kind": "tr'):
        (tmp_path / "metrics.jsonl").write_bytes(TRAIN + b"\n" + last)
        assert read_records(tmp_path / "metrics.jsonl").dropped == ()
    (tmp_path / "metrics.jsonl").write_bytes(b"[1]")
    assert read_records(tmp_path / "metrics.jsonl").dropped == (1,)
