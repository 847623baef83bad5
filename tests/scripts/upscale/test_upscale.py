"""scripts/upscale.py: which files it makes, where the network comes from, what goes wrong and how it is reported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import archs
from data.images.files import read_image, to_tensor, to_uint8
from data.images.photo import Photo, read_photo
from data.images.photo_writer import write_frames, write_photo
from models.inference.upscale import upscale
from scripts.upscale import device_for, parse
from tests.data.pictures import png_of
from tests.runs import command, run_line
from tests.scripts.upscale.runs import NETWORK, input_sizes, picture
from utils import devices

PROFILE = bytes(16) + b"RGB " + bytes(108)
NEEDS_GPU = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))


def test_every_picture_of_a_folder_is_upscaled(
    run: Callable[..., int], folder: Path, network: torch.nn.Module, tmp_path: Path
) -> None:
    assert run(folder) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.png", "c.png"]
    result = read_image(tmp_path / "out/b.png")
    expected = to_uint8(upscale(network, to_tensor(read_image(folder / "b.bmp"))))
    assert result.shape == (42, 52, 3)
    assert np.abs(result.astype(int) - expected.astype(int)).max() <= 1


def test_the_program_upscales_one_file_from_another_folder(weights: Path, folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "deep er/result.jpg"
    arguments = ("-i", str(folder / "a.png"), "-o", str(target), "-w", str(weights), "--cpu")
    done = run_line(tmp_path, command("scripts/upscale.py", *arguments))
    assert done.returncode == 0, done.stderr
    assert "26 x 20 -> 52 x 40" in done.stdout
    assert "1 upscaled, 0 left as they were, 0 failed" in done.stdout
    assert read_image(target).shape == (40, 52, 3)


def test_existing_results_are_replaced_with_overwrite_only(
    run: Callable[..., int], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture(tmp_path / "out/b.png", 3, 3)
    (tmp_path / "out/.a.png.7.part").write_bytes(b"of a run that was killed")
    assert run(folder) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.png", "c.png"]
    assert read_image(tmp_path / "out/b.png").shape == (3, 3, 3)
    assert "2 upscaled, 1 left as they were" in capsys.readouterr().out
    assert run(folder, "--overwrite") == 0
    assert read_image(tmp_path / "out/b.png").shape == (42, 52, 3)


def test_pictures_that_cannot_be_read_do_not_stop_the_others(
    run: Callable[..., int], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "b.bmp").write_bytes((folder / "b.bmp").read_bytes()[:500])
    (folder / "c.png").write_bytes(b"no picture")
    picture(folder / "d.png")
    assert run(folder) == 1
    written = capsys.readouterr()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "d.png"]
    assert "b.bmp" in written.err
    assert "c.png" in written.err
    assert "2 upscaled, 0 left as they were, 2 failed" in written.out


def test_a_small_file_that_unpacks_to_gigabytes_is_refused_and_the_others_are_upscaled(
    run: Callable[..., int], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "bomb.png").write_bytes(png_of(30000, 30000, bits=1))
    assert run(folder) == 1
    written = capsys.readouterr()
    assert "bomb.png: it has 30,000 x 30,000 pixels" in written.err
    assert "--max_pixels raises the limit" in written.err
    assert "3 upscaled, 0 left as they were, 1 failed" in written.out
    assert run(folder / "a.png", "--max_pixels", "519", "--overwrite") == 1
    assert "it has 26 x 20 pixels, and no more than 519 are decoded" in capsys.readouterr().err
    assert run(folder / "a.png", "--max_pixels", "520", "--overwrite") == 0


def test_a_result_larger_than_the_memory_is_refused_before_the_network_runs(
    run: Callable[..., int], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("models.inference.photo.available_memory", lambda: 5000)
    with input_sizes() as sizes:
        assert run(folder / "a.png") == 1
    assert sizes == []
    error = capsys.readouterr().err
    assert f"failed: {folder / 'a.png'}: the result has 52 x 40 pixels, which take 0.0 GiB of memory" in error
    monkeypatch.setattr("models.inference.photo.available_memory", lambda: 10**9)
    with input_sizes() as sizes:
        assert run(folder / "a.png", "--resize", "100000x50000") == 1
    assert sizes == []
    assert "the result has 100,000 x 50,000 pixels, which take 14.0 GiB of memory" in capsys.readouterr().err


def test_memory_that_runs_out_fails_one_file_and_not_the_others(
    run: Callable[..., int], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def write(path: Path, *others: Any) -> Any:
        if path.name == "a.png":
            raise MemoryError
        return write_frames(path, *others)

    monkeypatch.setattr("scripts.upscale.write_frames", write)
    assert run(folder) == 1
    written = capsys.readouterr()
    assert f"failed: {folder / 'a.png'}: the memory does not suffice\n" in written.err
    assert "2 upscaled, 0 left as they were, 1 failed" in written.out


def test_files_of_a_folder_are_done_or_named(
    run: Callable[..., int], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "b.bmp").rename(folder / "scan")
    Image.fromarray(read_image(folder / "a.png")).save(folder / "d.jfif", "JPEG")
    (folder / "notes.txt").write_text("x")
    assert run(folder) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "c.png", "d.png", "scan.png"]
    assert "4 upscaled, 0 left as they were, 0 failed\n" in capsys.readouterr().out
    for name in ("x.heic", "y.heic", "z.svg"):
        (folder / name).write_bytes(b"")
    assert run(folder, "--overwrite") == 1
    written = capsys.readouterr()
    assert "2 HEIC pictures cannot be read and are left out: x.heic, y.heic; save it as PNG first\n" in written.err
    assert "1 SVG picture cannot be read" in written.err
    assert "4 upscaled, 0 left as they were, 0 failed, 3 left out\n" in written.out


def test_scale_is_for_networks_of_arbitrary_scale_only(
    run: Callable[..., int], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {"dim": 8, "pdim": 2, "kernel_size": 3, "n_blocks": 1, "conv_blocks": 1, "window_size": 4, "num_heads": 2}
    network = archs.build_network({"type": "ESCLTE", **small, "hidden_dim": 4, "hidden_list": [4]})
    weights = tmp_path / "any.pth"
    torch.save(network.state_dict(), weights)
    assert run(folder / "a.png", "--scale", "2.3", weights=weights) == 0
    assert read_image(tmp_path / "out/a.png").shape == (46, 60, 3)
    assert run(folder / "a.png", "--scale", "2.3") == 2  # a network for one scale
    assert "this PlainUSR_ultra upscales by 2; only networks such as ESCLTE take any" in capsys.readouterr().err
    assert run(folder / "a.png", "--scale", "2", "--overwrite") == 0


def test_pictures_that_differ_in_their_suffix_alone_get_results_of_their_own(
    run: Callable[..., int], folder: Path, tmp_path: Path
) -> None:
    picture(folder / "a.jpg")
    assert run(folder, "--suffix", "_x2") == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["a.jpg_x2.png", "a.png_x2.png", "b_x2.png", "c_x2.png"]


def test_tile_and_self_ensemble_flags_do_what_upscale_does(
    run: Callable[..., int], folder: Path, network: torch.nn.Module, tmp_path: Path
) -> None:
    assert run(folder / "a.png", "--tile", "24", "--overlap", "18") == 0
    assert run(folder / "c.png", "--self_ensemble") == 0
    for name, more in (("a.png", {"tile": 24, "overlap": 18}), ("c.png", {"self_ensemble": True})):
        expected = to_uint8(upscale(network, to_tensor(read_image(folder / name)), **more))
        result = read_image(tmp_path / "out" / name)
        assert np.abs(result.astype(int) - expected.astype(int)).max() <= 1


def test_depth_transparency_profile_and_exif_are_kept(
    run: Callable[..., int], tmp_path: Path, network: torch.nn.Module
) -> None:
    rng = np.random.default_rng(0)
    photo = Photo(
        rng.integers(0, 65536, (9, 12, 3), dtype=np.uint16),
        rng.integers(5000, 65536, (9, 12, 1), dtype=np.uint16),  # no colour that is too transparent to count
        PROFILE,
    )
    write_photo(tmp_path / "in/deep.png", photo)
    turned = Image.fromarray(rng.integers(0, 256, (9, 12), dtype=np.uint8))
    exif = turned.getexif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    turned.save(tmp_path / "in/turned.tif", exif=exif)
    turned.save(tmp_path / "in/turned.jpg", exif=exif)
    assert run(tmp_path / "in") == 0
    deep = read_photo(tmp_path / "out/deep.png")
    assert (deep.pixels.shape, str(deep.pixels.dtype), deep.profile) == ((18, 24, 3), "uint16", PROFILE)
    assert deep.alpha is not None
    assert deep.alpha.shape == (18, 24, 1)
    output = upscale(network, torch.from_numpy((photo.pixels / 65535).transpose(2, 0, 1)).float())
    expected = (output.clamp(0, 1) * 65535).round().permute(1, 2, 0).numpy()
    assert np.abs(deep.pixels - expected).max() <= 2  # of 65535: nothing was rounded to 8 bits on the way
    for name in ("turned.jpg.png", "turned.tif.png"):
        with Image.open(tmp_path / "out" / name) as result:
            assert (result.size, result.mode) == ((18, 24), "L")  # upright, and grey
            assert result.getexif().get(0x0112, 1) == 1
            assert result.getexif().get(0x010F) == "Maker"


def test_transparency_that_jpeg_cannot_hold_is_reported(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    photo = Photo(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8), rng.integers(0, 256, (9, 9, 1), dtype=np.uint8))
    write_photo(tmp_path / "alpha.png", photo)
    assert run(tmp_path / "alpha.png", output=tmp_path / "alpha.jpg") == 0
    assert "(transparency dropped: .jpg files hold none)" in capsys.readouterr().out


def test_patterns_and_several_inputs_keep_sub_folders(run: Callable[..., int], folder: Path, tmp_path: Path) -> None:
    picture(folder / "deeper/a.png")
    picture(folder / "deeper/z.jpg")
    assert run(folder / "**/[az].*", "-i", str(folder / "c.png"), str(folder / "deeper/*.jpg")) == 0
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.png")) == ["c.png", "z.png"]
    assert run(folder / "**/a.*") == 0
    assert read_image(tmp_path / "out/deeper/a.png").shape == read_image(tmp_path / "out/a.png").shape


@pytest.mark.parametrize("half", [False, pytest.param(True, marks=NEEDS_GPU)])
def test_a_picture_larger_than_the_free_memory_is_upscaled_in_tiles(
    run: Callable[..., int], folder: Path, tmp_path: Path, network: torch.nn.Module, half: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    large = picture(folder / "large.png", 130, 110)
    monkeypatch.setattr("models.inference.photo.free_memory", lambda device, reserved: 1_000_000)
    with input_sizes() as sizes:
        assert run(large, "--half" if half else "--cpu") == 0
    assert sizes
    assert max(max(size) for size in sizes) < 110
    expected = to_uint8(upscale(network, to_tensor(read_image(large))))
    result = read_image(tmp_path / "out/large.png")
    assert np.abs(result.astype(int) - expected.astype(int)).max() <= (2 if half else 1)


def test_float16_is_refused_on_a_cpu_that_has_none(
    run: Callable[..., int], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """It takes up to 50 times as long there; nothing is read before that is said."""
    monkeypatch.setattr("models.precision.choice.native_precisions", lambda device: frozenset())
    for wish in (["--half"], ["--precision", "fp16"]):
        assert run(folder, "--cpu", *wish, weights=tmp_path / "nowhere.pth") == 2
        said = capsys.readouterr().err
        assert f"{' '.join(wish)}: this CPU has no float16 arithmetic, so that PyTorch takes 10 to 50 times as" in said
    assert not (tmp_path / "out").exists()


def test_two_precisions_are_refused(run: Callable[..., int], folder: Path, capsys: Any) -> None:
    assert run(folder, "--half", "--precision", "bf16") == 2
    assert "--half is --precision fp16, and --precision bf16 is asked for too; leave out one" in capsys.readouterr().err


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_within_levels_of_float32(
    run: Callable[..., int], folder: Path, tmp_path: Path, network: torch.nn.Module, precision: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("models.precision.choice.native_precisions", lambda device: frozenset({"bf16", "fp16"}))
    seen: list[torch.dtype] = []

    def watch(module: Any, inputs: tuple[torch.Tensor, ...], result: torch.Tensor) -> None:
        if isinstance(module, torch.nn.Conv2d):
            seen.append(result.dtype)

    picture(folder / "plain.png", 20, 14)
    with torch.nn.modules.module.register_module_forward_hook(watch):
        assert run(folder / "plain.png", "--precision", precision, "--cpu") == 0
    assert set(seen) == {{"bf16": torch.bfloat16, "fp16": torch.float16}[precision]}
    expected = to_uint8(upscale(network, to_tensor(read_image(folder / "plain.png"))))
    result = read_image(tmp_path / "out/plain.png")
    assert np.abs(result.astype(int) - expected.astype(int)).max() <= (3 if precision == "bf16" else 1)


def test_bfloat16_on_a_cpu_that_has_none_stays_float32(
    run: Callable[..., int], folder: Path, tmp_path: Path, network: torch.nn.Module, monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:  # fmt: skip
    monkeypatch.setattr("models.precision.choice.native_precisions", lambda device: frozenset({"fp16"}))
    assert run(folder / "a.png", "--precision", "bf16", "--cpu") == 0
    assert "has no bfloat16 arithmetic and would only be slower; it computes in float32" in capsys.readouterr().err
    expected = to_uint8(upscale(network, to_tensor(read_image(folder / "a.png"))))
    assert np.array_equal(read_image(tmp_path / "out/a.png"), expected)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--device", "xpu"), "--device xpu: PyTorch"),
        (("--device", "gpu"), 'did you mean "auto"'),
        (("--cpu", "--device", "auto"), "--cpu is --device cpu, and --device auto is asked for too"),
    ],
)
def test_a_device_that_is_not_there_is_an_error_before_anything_is_read(
    options: tuple[str, ...], said: str, run: Callable[..., int], folder: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: Any,
) -> None:  # fmt: skip
    monkeypatch.setattr(devices, "present", devices.Present)
    assert run(folder, *options, weights=tmp_path / "nowhere.pth") == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_device_is_chosen_by_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[torch.device] = []
    monkeypatch.setattr(devices, "present", lambda: devices.Present("xpu", 2))
    monkeypatch.setattr(devices, "use", used.append)
    line = ["-i", "a", "-o", "b", "-w", "c"]
    assert device_for(parse(line), 3, 4) == device_for(parse([*line, "--device", "xpu"]), 1, 2) == torch.device("xpu:1")
    assert device_for(parse([*line, "--cpu"]), 3, 4) == device_for(parse([*line, "--device", "cpu"])) == devices.CPU
    assert used == [torch.device("xpu:1")] * 2 + [devices.CPU] * 2


class TestNetwork:
    def test_network_is_described_by_an_option_file(
        self, run: Callable[..., int], folder: Path, tmp_path: Path
    ) -> None:
        options = tmp_path / "test.yml"
        options.write_text(
            "name: x\nscale: 2\nnetwork_g: {type: PlainUSR_ultra, n_feat: 8, im_feat: [8, 4], scale: 2}\n"
        )
        assert run(folder / "a.png", "-opt", str(options)) == 0

    def test_mistakes_in_the_option_file_are_reported_with_their_line(
        self, run: Callable[..., int], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        options = tmp_path / "test.yml"
        options.write_text("scale: 2\nnetwork_g:\n  type: PlainUSR_ultra\n  n_feet: 8\n  scale: 2\n")
        assert run(folder, "-opt", str(options)) == 2
        assert 'test.yml:4: network_g.n_feet: unknown key of PlainUSR_ultra (did you mean "n_feat"?)' in (
            capsys.readouterr().err
        )
        options.write_text("scale: 2\n")
        assert run(folder, "-opt", str(options)) == 2
        assert 'has no section "network_g"' in capsys.readouterr().err

    def test_network_is_described_by_the_metadata_of_the_checkpoint(
        self, run: Callable[..., int], folder: Path, network: torch.nn.Module, tmp_path: Path
    ) -> None:
        path = tmp_path / "own.pth"
        content = {"params": network.state_dict(), "focalsr": {"options": {"network_g": NETWORK}}}
        torch.save(content, path)
        assert run(folder / "a.png", weights=path) == 0

    def test_weights_of_an_unknown_network_ask_for_an_option_file(
        self, run: Callable[..., int], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "other.pth"
        torch.save({"params": {"layer.weight": torch.zeros(3)}}, path)
        assert run(folder, weights=path) == 2
        assert "other.pth does not say which network it belongs to; give an option file" in capsys.readouterr().err

    @pytest.mark.shared
    def test_published_weights_need_no_option_file(
        self, run: Callable[..., int], folder: Path, shared: Path, tmp_path: Path
    ) -> None:
        published = sorted(
            path for path in (shared / "weights").rglob("*x4*") if path.suffix in (".pth", ".safetensors")
        )
        assert run(folder / "a.png", weights=published[0]) == 0
        assert read_image(tmp_path / "out/a.png").shape == (80, 104, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "nowhere"}, "there is no such file or folder"),
        ({"source": "empty"}, "holds no images"),
        ({"weights": "nowhere.pth"}, "there is no such file"),
        ({"output": "out.png"}, "name a folder, since"),
        ({"source": "in/a.png", "output": "out.xyz"}, "a file that ends in one of .png"),
        ({"output": "in"}, "a.png is a picture to be upscaled and would be replaced"),
        ({"more": ["--tile", "16"]}, "tiles of 16 pixels are too small"),
        ({"more": ["--tile", "-4"]}, "--tile must be auto, 0"),
    ],
)
def test_bad_arguments_are_reported_and_nothing_is_written(
    run: Callable[..., int], folder: Path, tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str],
    change: dict[str, str], message: str,
) -> None:  # fmt: skip
    (tmp_path / "empty").mkdir()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    code = run(
        tmp_path / change.get("source", "in"),
        *change.get("more", []),
        output=tmp_path / change.get("output", "out"),
        weights=tmp_path / change.get("weights", weights.name),
    )
    assert code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
