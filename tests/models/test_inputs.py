"""What is missing is named at once, with the next move, by train.py, test.py, run_recipe.py and --check."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from config import describe, read
from models.inputs import GUIDES, check_place, missing_inputs
from models.weights.published import PAGE, SOURCES, markdown, missing_weights, source_of
from tests.config.files import GAN, write
from tests.runs import ROOT, run_here, workplace
from utils.errors import InputError

FILES = sorted(path for path in (ROOT / "options").rglob("*.yml") if path.name.startswith(("train_", "test_")))
RUNS = [path for path in FILES if path.parent.name != "common"]


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh clone, as far as option files go: no data, no weights, no runs."""
    (tmp_path / "options").symlink_to(ROOT / "options")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The message with which a command ends that cannot begin."""
    assert run_here(*words) == 2
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    return re.split(r"^error: | ERROR: ", printed, flags=re.MULTILINE)[-1]


@pytest.mark.parametrize("check", [(), ("--check",)], ids=["run", "check"])
def test_a_training_from_other_weights_on_a_fresh_clone(
    clone: Path, capsys: pytest.CaptureFixture[str], check: tuple[str, ...]
) -> None:
    message = refused(capsys, "train.py", "-opt", "options/train_pft_x4.yml", *check)
    for expected in (
        "weights experiments/train_pft_x2/models/net_g_latest.pth: there is no such file",
        "train train_pft_x2 first: python train.py -opt options/train_pft_x2.yml",
        "or run both in turn: python scripts/run_recipe.py options/recipes/pft.yml --only x4",
        "or train from scratch: add --force_yml path:pretrain_network_g=null",
        "training data DF2K: the folders datasets/DF2K/HR_sub, datasets/DF2K/LR_bicubic_sub/X4 do not exist",
        'made by python scripts/prepare_dataset.py (lr, subimages); see docs/data.md, "DF2K"',
        "expected: datasets/DF2K/HR_sub/NAME.png, datasets/DF2K/LR_bicubic_sub/X4/NAME.png (the same names",
        "validation data Set5, Set14: the folders datasets/benchmark/Set5/x4/HR, datasets/benchmark/Set5/x4/LR, ",
        "made by python scripts/prepare_benchmarks.py -i DOWNLOADS -o datasets/benchmark; see docs/data.md",
        "expected: datasets/benchmark/SET/x4/HR/NAME.png, datasets/benchmark/SET/x4/LR/NAME.png",
        f"relative paths start at {clone}",
    ):
        assert expected in message
    stores = ("datasets:train:dataroot_gt=datasets/DF2K/HR.pack", "datasets:train:dataroot_lq=datasets/DF2K/X4.lmdb")
    message = refused(capsys, "train.py", "-opt", "options/train_pft_x4.yml", *check, "--force_yml", *stores)
    assert "made by python scripts/prepare_dataset.py (lr, subimages, lmdb, pack); see docs/data.md" in message
    assert "expected: datasets/DF2K/HR.pack/index.json, datasets/DF2K/X4.lmdb/data.mdb (the same names" in message
    assert not (clone / "experiments").exists()
    scratch = ("--force_yml", "path:pretrain_network_g=null")
    assert "weights" not in refused(capsys, "train.py", "-opt", "options/train_pft_x4.yml", *check, *scratch)


@pytest.mark.parametrize("check", [(), ("--check",)], ids=["run", "check"])
def test_a_test_of_published_weights_on_a_fresh_clone(
    clone: Path, capsys: pytest.CaptureFixture[str], check: tuple[str, ...]
) -> None:
    message = refused(capsys, "test.py", "-opt", "options/test_hat_x4.yml", *check)
    for expected in (
        "weights experiments/pretrained_models/HAT_SRx4.pth: there is no such file",
        f"its authors publish it at https://github.com/XPixelGroup/HAT: {PAGE}",
        "test data Set5, Set14, B100, Urban100, Manga109: the folders ",
        " and 6 more do not exist",
    ):
        assert expected in message
    message = refused(capsys, "test.py", "-opt", "options/demo/test_hat_x4.yml", *check)
    assert "train demo_hat_x4 first: python train.py -opt options/demo/train_hat_x4.yml" in message
    assert "made by python scripts/prepare_demo_data.py" in message
    assert "scratch" not in message
    assert not (clone / "results").exists()


def test_what_both_players_and_their_losses_lack_is_one_message(
    clone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(clone / "hub"))
    write(clone, GAN)
    judge = "experiments/judged/models/net_d_latest.pth"
    perceptual = "{type: PerceptualLoss, layer_weights: {conv1_2: 1}, vgg_type: "
    edits = (
        f"path={{pretrain_network_g: my.pth, pretrain_network_d: {judge}}}",
        f"train:perceptual_opt={perceptual}vgg19}}",
        f"train:losses=[{perceptual}vgg16, vgg_weights: mine.pth}}]",
    )
    message = refused(capsys, "train.py", "-opt", "options.yml", "--force_yml", *edits)
    for expected in (
        "weights my.pth: there is no such file\n",
        f"weights {judge}: there is no such file\n",
        "train judged first\n",
        "or train from scratch: add --force_yml path:pretrain_network_d=null",
        "train.perceptual_opt: weights of vgg19: there is no such file\n",
        "put that file into experiments/pretrained_models or name it in vgg_weights",
        "train.losses: weights of vgg16: there is no such file\n",
        "vgg_weights: mine.pth: there is no such file; it should be torchvision's ImageNet weights of vgg16",
        "training data T: the folder d/gt does not exist\n",
    ):
        assert expected in message
    options = read("options.yml", edits, mode="train")
    weights = [item.what for item in missing_inputs(options, ("g", "d")) if "weights" in item.what]
    assert weights == [f"train.{key}: there is no such file" for key in
                       ("perceptual_opt: weights of vgg19", "losses: weights of vgg16")]  # fmt: skip


def test_a_recipe_names_what_all_its_stages_lack(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for check in (), ("--check",):
        message = refused(capsys, "scripts/run_recipe.py", "options/recipes/hat_x4_imagenet.yml", *check)
        assert message.count("training data ImageNet: the folder datasets/ImageNet/HR does not exist") == 1
        assert message.count("training data DF2K: the folders ") == 1
        assert message.count("validation data Set5, Set14: ") == 1
        assert "net_g_latest" not in message
    assert not (clone / "experiments").exists()


def test_paths_of_the_user_s_own_are_named_plainly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace(tmp_path))
    message = refused(capsys, "train.py", "-opt", "train.yml", "--force_yml", "datasets:train:dataroot_gt=mine/HR")
    assert "Photos: the folder mine/HR does not exist (relative paths start at" in message
    assert "prepare" not in message
    edits = ("datasets:train:dataroot_gt=mine/HR", "datasets:val:dataroot_gt=own/HR", "path:pretrain_network_g=my.pth")
    message = refused(capsys, "train.py", "-opt", "train.yml", "--force_yml", *edits)
    for expected in (
        "weights my.pth: there is no such file",
        "training data Photos: the folder mine/HR does not exist",
        "validation data HeldOut: the folder own/HR does not exist",
    ):
        assert expected in message
    assert "prepare" not in message
    listed = "datasets:train:meta_info_file=mine.txt"
    message = refused(capsys, "train.py", "-opt", "train.yml", "--force_yml", listed, "path:pretrain_network_g=my.pth")
    assert "training data Photos: the file mine.txt does not exist" in message
    message = refused(capsys, "train.py", "-opt", "train.yml", "--force_yml", listed, *edits[::2], edits[0])
    assert "training data Photos: the paths mine/HR, mine.txt do not exist" in message
    message = refused(capsys, "train.py", "-opt", "train.yml", "--force_yml", *edits, "val=null")
    assert "own/HR" not in message
    message = refused(capsys, "test.py", "-opt", "test.yml")
    assert "net_g_latest.pth: there is no such file\n  train tiny first: python train.py -opt train.yml" in message


def test_a_training_that_has_not_ended_offers_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace(tmp_path))
    (tmp_path / "experiments/tiny/models").mkdir(parents=True)
    (tmp_path / "experiments/tiny/models/net_g_4.pth").touch()
    message = refused(capsys, "test.py", "-opt", "test.yml")
    assert "experiments/tiny/models holds net_g_4.pth: name one of them, or let that training end" in message


def test_a_run_that_resumes_needs_no_weights_to_start_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace(tmp_path))
    assert run_here("train.py", "-opt", "train.yml", "--force_yml", "train:total_iter=4", "datasets:train:task=SR") == 0
    [log] = Path("experiments/tiny").glob("train_*.log")
    assert "task: has no effect here" in log.read_text()
    edits = ("train:total_iter=5", "path:pretrain_network_g=experiments/gone/models/net_g_latest.pth")
    assert run_here("train.py", "-opt", "train.yml", "--auto_resume", "--force_yml", *edits) == 0


@pytest.mark.parametrize("path", RUNS, ids=lambda path: str(path.relative_to(ROOT / "options")))
def test_every_option_file_of_ours_leads_to_its_data_and_weights(path: Path, clone: Path) -> None:
    options = read(path.relative_to(ROOT), mode="train" if path.name.startswith("train_") else "test")
    found = list(missing_inputs(options))
    assert found
    for item in found:
        assert item.moves, item.what
        for program in re.findall(r"python ((?:scripts/)?\w+\.py)", " ".join(item.moves)):
            assert (ROOT / program).is_file()
        for file in re.findall(r"options/\S+\.yml", " ".join(item.moves)):
            assert (ROOT / file).is_file()
    weights = options.path.pretrain_network_g
    if weights is not None and "pretrained_models" in weights.parts:
        source = source_of(weights)
        assert source is not None
        assert weights.parent.name in (source.folders or ("pretrained_models",))


def test_the_page_about_data_names_every_folder_of_our_option_files() -> None:
    page = (ROOT / "docs/data.md").read_text()
    for file in RUNS:
        options = read(file, mode="train" if file.name.startswith("train_") else "test")
        for path in re.findall(r"datasets/\w+/(\w+)", describe(options)):
            assert path in page, (file, path)


def test_the_pages_that_messages_name_have_these_parts() -> None:
    titles = re.findall(r"^#+ (.*)$", (ROOT / "docs/data.md").read_text(), re.MULTILINE)
    plain = {title.split(":")[0] for title in titles}
    assert {guide.part for guide in GUIDES.values()} <= plain
    page, _, part = PAGE.partition(", ")
    text = (ROOT / page).read_text()
    assert f"## {part.strip(chr(34))}\n" in text
    assert markdown() in text
    assert all(source.address in text for source in SOURCES)
    assert "docs/reproducing.md" in missing_weights(Path("downloads/003_PFT_SRx4_finetune.pth"))
    assert missing_weights(Path("/own/net.pth")) == "/own/net.pth: there is no such file"


@pytest.mark.parametrize("check", [(), ("--check",)], ids=["run", "check"])
def test_what_a_training_cannot_begin_with_is_found_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], check: tuple[str, ...]
) -> None:
    """An absent state, a folder that cannot be made, borders as large as the images, an epoch without end."""
    monkeypatch.chdir(workplace(tmp_path))
    (tmp_path / "a file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    given = ("train.py", "-opt", "train.yml", *check, "--force_yml")
    absent = refused(capsys, *given, f"path:resume_state={tmp_path / '9.state'}")
    assert "9.state" in absent
    for root, message in (
        (
            "a file/below/it",
            f"path.experiments_root: {tmp_path}/a file/below/it cannot be written: {tmp_path}/a file is a",
        ),
        ("link", f"the link {tmp_path}/link leads nowhere; choose another folder"),
    ):
        assert message in refused(capsys, *given, f"path:experiments_root={tmp_path / root}")
    border = refused(capsys, *given, "val:metrics={psnr: {type: calculate_psnr, crop_border: 500, test_y_channel: no}}")
    assert "val.metrics.psnr.crop_border: 500 pixels on each side leave nothing of " in border
    endless = refused(capsys, *given, "datasets:train:dataset_enlarge_ratio=1e8")
    assert "dataset_enlarge_ratio: an epoch of " in endless
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_that_may_not_be_written_is_found_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = read(workplace(tmp_path) / "train.yml", [f"path:experiments_root={tmp_path}/a/b"], mode="train")
    check_place("experiments_root", options)
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(InputError, match=r"no permission to write in .*; choose another folder or change its rights"):
        check_place("experiments_root", options)
    assert not (tmp_path / "a").exists()
