"""Losses, discriminators and kinds of models that do not go together: one sentence at the line of the cause."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

import config
from config.schema import ADVERSARIAL_MODELS, MODEL_TYPES, PIXEL_MODELS, TrainOptions
from data import RealESRGANOptions
from losses import FFTLoss, LossOptions, PerceptualLossOptions
from tests.config.files import GAN, TEST, TRAIN, mistakes, write

PAIRS = "datasets:train={name: T, type: PairedImageDataset, dataroot_gt: g, gt_size: 64, batch_size_per_gpu: 5}"
UNFLAGGED = [f"{key}_gt_usm=~" for key in ("l1", "percep", "gan")]
PERCEPTUAL = "{type: PerceptualLoss, layer_weights: {conv1_2: 1}}"


def read(folder: Path, *edits: str, text: str = GAN) -> TrainOptions:
    return config.read(write(folder, text), edits, mode="train")


def notes(folder: Path, *edits: str, text: str = GAN) -> list[str]:
    return [note.removeprefix(f"{folder}/options.yml:") for note in read(folder, *edits, text=text).notes]


def refused(folder: Path, *edits: str, text: str = GAN) -> str:
    """The one mistake of a file."""
    (found,) = mistakes(write(folder, text), edits)
    return found.removeprefix("--force_yml ")


def test_an_adversarial_file_without_mistakes_has_no_remarks(tmp_path: Path) -> None:
    assert notes(tmp_path) == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "network_d: {",
            '1: the key "network_d" is missing; RealESRGANModel needs the discriminator, as in {type: UN',
        ),
        ("  optim_d: {", '18: train: the key "optim_d" is missing; RealESRGANModel needs its optimiser, as optim_g'),
        ("  gan_opt: {", '18: train: the key "gan_opt" is missing; RealESRGANModel needs its loss, as in {type: GANL'),
        ("gan_gt_usm: f", "1: the key gan_gt_usm is missing; RealESRGANModel expects true or false: whether the targ"),
        ("l1_gt_usm: t", "1: the key l1_gt_usm is missing; RealESRGANModel expects true or false: whether the target"),
    ],
)
def test_what_an_adversarial_file_needs(tmp_path: Path, line: str, message: str) -> None:
    lines = GAN.splitlines(keepends=True)
    (left_out,) = [text for text in lines if text.startswith(line)]
    found = refused(tmp_path, text=GAN.replace(left_out, ""))
    assert found.startswith(f"options.yml:{message}")


def test_all_missing_flags_are_one_mistake_and_null_is_none_of_them(tmp_path: Path) -> None:
    text = GAN.replace("l1_gt_usm: true\n", "l1_gt_usm: ~\n").replace("gan_gt_usm: false\n", "")
    assert refused(tmp_path, text=text).startswith("options.yml:1: the keys l1_gt_usm, gan_gt_usm are missing; ")


def test_flags_are_booleans_as_everywhere(tmp_path: Path) -> None:
    """In the published code, anything but a literal false sharpens."""
    found = read(tmp_path, "l1_gt_usm=no", "gan_gt_usm=yes")
    assert [found.target_of(part) for part in ("l1", "percep", "gan")] == ["gt", "gt_usm", "gt_usm"]
    assert "l1_gt_usm: expected true or false or null" in refused(tmp_path, "l1_gt_usm='no'")
    assert "l1_gt_usm: expected true or false or null" in refused(tmp_path, "l1_gt_usm=0")


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        (
            ["network_d={type: UNetDiscriminatorSN, num_in_ch: 3}"],
            "network_d: SRModel trains no discriminator; leave t",
        ),
        (["train:gan_opt={type: GANLoss, gan_type: lsgan}"], "train:gan_opt: SRModel trains no discriminator; leave"),
        (["train:ldl_opt={type: L1Loss}", "train:ema_decay=0.9"], "train:ldl_opt: SRModel trains no discriminator; "),
        (["train:pixel_opt=~"], 'train: the key "pixel_opt" is missing, and there is no other loss; expected one'),
        (["train:pixel_opt=~", "train:losses=[]"], "and there is no other loss; expected one"),
        (["train:mesa_opt={type: L1Loss}"], "train:mesa_opt: compares with the output of EMA weights; set ema_decay"),
        (["train:grad_clip=1", "train:gradient_clip=1"], "train:gradient_clip: grad_clip says how gradients are cli"),
        (["train:wave_opt={type: L1Loss, reduction: none}"], "train.wave_opt.reduction: expected mean or sum to tra"),
        (["train:losses=[{type: L1Loss, name: a b}]"], "train.losses[0]: name: expected letters, digits and _, got"),
        (["train:losses=[{type: FFTLoss}, {type: FFTLoss}]"], 'is called "fft" in logs, as train.losses[0] is; give'),
        (["train:losses=[{type: L1Loss, name: pix}]"], 'is called "pix" in logs, as train.pixel_opt is; give it anot'),
        (
            [f"train:perceptual_opt={PERCEPTUAL}", "train:losses=[{type: L1Loss, name: style}]"],
            'is called "style" in logs, as train.perceptual_opt is; give it another "name"',
        ),
        (["train:losses=[{type: L1Loss, target: lq}]"], "train.losses[0].target: expected one of gt, gt_usm, got"),
        (["train:losses=[{type: LPIPS}]"], 'train.losses[0].type: unknown loss "LPIPS"; known: L1Loss, MSELoss, '),
        (["train:mesa_opt={type: L1Loss, start_ratio: 2}", "train:ema_decay=0.9"], "start_ratio: expected at most 1"),
        (
            [f"train:perceptual_opt={PERCEPTUAL}", "datasets:train:color=y"],
            "train:perceptual_opt: vgg19 sees images of three channels, and datasets.train.color is y; leave it out",
        ),
        (
            [
                "train:losses=[{type: PerceptualLoss, layer_weights: {conv5_4: 1, conv1_2: 1}}]",
                "datasets:train:gt_size=14",
            ],
            "gt_size: expected at least 16 for train.losses[0].layer_weights (conv5_4, conv1_2), got 14",
        ),
        (
            [f"train:perceptual_opt={PERCEPTUAL[:-1]}, criterion: fro}}", "train:accumulate=2"],
            "fro is the norm of the whole batch, which micro-batches (train.accumulate) do not know; choose l1 or l2",
        ),
    ],
)
def test_losses_of_a_pixel_model_that_cannot_be(tmp_path: Path, edits: Sequence[str], message: str) -> None:
    assert message in refused(tmp_path, *edits, text=TRAIN)


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        (["train:reset_momentum_iter=5", "train:optim_g:type=SGD"], "train:reset_momentum_iter: SGD keeps other mome"),
        (["train:ldl_opt={type: L1Loss}", "train:ema_decay=0"], "train:ldl_opt: compares with the output of EMA wei"),
        (
            [*UNFLAGGED, "model_type=ESRGANModel", "train:gan_opt:gan_type=hinge"],
            "ESRGANModel asks the generator's loss about fake images too, which hinge leaves out; choose vanilla",
        ),
        (
            [*UNFLAGGED, "model_type=ESRGANModel", "train:accumulate=2"],
            "train:accumulate: ESRGANModel compares each image with the mean of the whole batch, which micro-batches ",
        ),
        (["train:net_d_iters=0"], "train:net_d_iters: expected at least 1, got 0"),
        (["train:net_d_init_iters=-1"], "train:net_d_init_iters: expected at least 0, got -1"),
        (["queue_size=30"], "queue_size: expected a multiple of batch_size_per_gpu 12, such as 24, or 0 for no pool, "),
        (["gt_size=68"], "gt_size: the discriminator cannot take these patches: height and width must be multiples o"),
        (["network_d:num_in_ch=1"], "num_in_ch: expected 3, as many channels as the images have, got 1"),
        (["network_d:num_feet=8"], 'unknown key of UNetDiscriminatorSN (did you mean "num_feat"?)'),
        (["network_d={type: HAT}"], 'unknown discriminator type "HAT"; it is a network for super-resolution'),
        (["network_d={num_in_ch: 3}"], 'network_d: the key "type" is missing; expected the name of a network'),
        (["network_d={type: VGGStyleDiscriminator, num_in_ch: 3, num_feat: 4}"], "must be input_size, 128, for VGGSty"),
        (["high_order_degradation=false"], "false asks for pairs of images, but RealESRGANDataset degrades; choose da"),
        (["train:optim_d={type: Adam}"], 'train:optim_d: the key "lr" of Adam is missing; expected a number'),
        (
            ["train:scheduler={type: CosineAnnealingLR, T_max: 100, eta_min: 1.5e-4}", "train:optim_g:lr=1e-3",
             "train:optim_d:lr=1e-4"],
            "expected at most the learning rate, train.optim_d.lr 0.0001, got 0.00015",
        ),
    ],
)  # fmt: skip
def test_adversarial_files_that_cannot_be(tmp_path: Path, edits: Sequence[str], message: str) -> None:
    assert message in refused(tmp_path, *edits)


def test_the_default_pool_is_blamed_where_the_batch_does_not_divide_it(tmp_path: Path) -> None:
    found = refused(tmp_path, "datasets:train:batch_size_per_gpu=7")
    assert found.endswith("such as 175, or 0 for no pool, got 180, the default")
    assert notes(tmp_path, "datasets:train:batch_size_per_gpu=7", "queue_size=0") == []


@pytest.mark.parametrize("model", ["SRGANModel", "ESRGANModel"])
def test_losses_that_the_published_code_builds_and_forgets_act(tmp_path: Path, model: str) -> None:
    edits = (*UNFLAGGED, f"model_type={model}", "train:ldl_opt={type: L1Loss}", "train:wave_opt={type: MSELoss}")
    train = read(tmp_path, *edits).train
    assert None not in (train.ldl_opt, train.wave_opt)


def test_hinge_is_for_discriminators_that_judge_single_images(tmp_path: Path) -> None:
    assert read(tmp_path, "train:gan_opt:gan_type=hinge").train.gan_opt is not None
    assert read(tmp_path, *UNFLAGGED, "model_type=ESRGANModel", "train:gan_opt:gan_type=wgan").relativistic


@pytest.mark.parametrize("edit", ["train:net_d_init_iters=100", "train:net_d_iters=101"])
def test_a_generator_that_is_never_trained_is_noted(tmp_path: Path, edit: str) -> None:
    (note,) = notes(tmp_path, edit)
    key = edit.split("=")[0]
    assert note == f"--force_yml {key}: network_g is never trained: total_iter is 100"
    assert notes(tmp_path, "train:net_d_init_iters=90", "train:net_d_iters=10") == []


@pytest.mark.parametrize(
    ("points", "noted"), [("[[99, 0], [200, 1]]", False), ("[[10, 0], [100, 0], [200, 1]]", True), ("[[0, 0]]", None)]
)
def test_a_loss_whose_schedule_begins_too_late_is_noted(tmp_path: Path, points: str, noted: bool | None) -> None:
    edits = (f"train:losses=[{{type: FFTLoss, weight_schedule: {points}}}]", "train:total_iter=100")
    if noted is None:
        assert "no point has a factor above 0" in refused(tmp_path, *edits, text=TRAIN)
        return
    found = [note for note in read(tmp_path, *edits, text=TRAIN).notes if "never acts" in note]
    assert len(found) == noted
    expected = "weight_schedule: the loss never acts: its factor is 0 up to iteration 100, and total_iter is 100"
    assert all(note.endswith(expected) for note in found)


def test_the_sides_of_patches_are_those_of_the_top_level(tmp_path: Path) -> None:
    """As BasicSR's adversarial models cut them; the equally named key of RealESRGANDataset is not read there."""
    (note,) = notes(tmp_path, "gt_size=32")
    assert note == "--force_yml gt_size: counts, not datasets.train.gt_size 64, as in BasicSR"
    for text in (GAN, GAN.replace("    gt_size: 64\n", "")):
        dataset = read(tmp_path, "gt_size=32", text=text).train_dataset
        assert isinstance(dataset, RealESRGANOptions)
        assert dataset.gt_size == 32
    assert "gt_size: expected a multiple of scale 4" in refused(tmp_path, "gt_size=34", "network_d:skip_connection=no")
    (note,) = notes(tmp_path, "gt_size=32", text=TRAIN.replace("num_gpu: auto", "num_gpu: 0\ngt_size: ~"))
    assert note.endswith("gt_size: has no effect here: it is for datasets.train.type RealESRGANDataset")


@pytest.mark.parametrize("model", ["RealHATGANModel", "RealESRGANModel"])
def test_what_is_degraded_is_sharpened_and_targets_are_not_yet(tmp_path: Path, model: str) -> None:
    found = read(tmp_path, f"model_type={model}").degradations
    assert found is not None
    assert (found.lq_usm, found.gt_usm) == (True, False)
    other = read(tmp_path, *UNFLAGGED, "model_type=SRGANModel").degradations
    assert other is not None
    assert (other.lq_usm, other.gt_usm) == (False, False)


def test_sharpening_at_the_top_level_has_no_effect_on_photographs_and_flags_none_elsewhere(tmp_path: Path) -> None:
    text = GAN.replace("gt_size: 64\ndatasets", "gt_size: 64\ngt_usm: true\ndatasets")
    (note,) = notes(tmp_path, text=text)
    assert note.startswith("9: gt_usm: has no effect here: RealESRGANModel degrades sharpened images, and ")
    assert notes(tmp_path, text=text.replace("gt_usm: true\nd", "gt_usm: false\nlq_usm: true\nd")) == []
    (note,) = notes(tmp_path, "model_type=SRGANModel")
    expected = "has no effect here: it is for RealHATGANModel and RealESRGANModel"
    assert note == f"5: l1_gt_usm, percep_gt_usm, gan_gt_usm: {expected}"


def test_pairs_of_images_are_asked_for_by_their_data_set(tmp_path: Path) -> None:
    found = read(tmp_path, PAIRS, "high_order_degradation=false", "gt_size=~")
    assert (found.degradations, found.notes) == (None, ())


def test_what_belongs_to_a_discriminator_is_noted_where_there_is_none(tmp_path: Path) -> None:
    edits = ["train:net_d_iters=2", "path:pretrain_network_d=d.pth", "train:optim_d={type: Nonsense}"]
    found = read(tmp_path, *edits, text=TRAIN)
    keys = ("train:optim_d", "train:net_d_iters", "path:pretrain_network_d")
    said = "has no effect here: SRModel trains no discriminator"
    assert list(found.notes) == [f"--force_yml {key}: {said}" for key in keys]
    assert found.train.optim_d is None
    options = config.read(write(tmp_path, TEST), ["path:strict_load_d=no", "network_d={type: X}"], mode="test")
    assert all("needs no discriminator" in note for note in options.notes)
    assert len(options.notes) == 2


def test_losses_of_all_kinds_in_one_file(tmp_path: Path) -> None:
    listed = "[{type: FFTLoss, loss_weight: 0.1}, {type: L1Loss, name: sharp, target: gt_usm}, " + PERCEPTUAL + "]"
    found = read(tmp_path, f"train:losses={listed}", f"train:perceptual_opt={PERCEPTUAL}").train
    assert [(loss.name, loss.target) for loss in found.losses] == [
        ("fft", "gt"), ("sharp", "gt_usm"), ("perceptual", "gt")
    ]  # fmt: skip
    first, second, third = found.losses
    assert isinstance(first, FFTLoss)
    assert isinstance(first, LossOptions)
    assert first.loss_weight == 0.1
    assert isinstance(second, LossOptions)
    assert isinstance(third, PerceptualLossOptions)
    assert third.layer_weights == {"conv1_2": 1}


def test_options_with_terms_read_back_equal(tmp_path: Path) -> None:
    edits = (
        "train:ldl_opt={type: CharbonnierLoss, detach_map: true, weight_schedule: [[0, 0], [50, 1]]}",
        "train:losses=[{type: WaveletLoss}, " + PERCEPTUAL + "]",
        "train:grad_clip_d=2",
        "gt_size=32",
    )
    found = read(tmp_path, *edits)
    again = config.read(write(tmp_path, config.describe(found)), mode="train")
    assert again == found
    assert config.to_dict(found)["train"]["ldl_opt"]["type"] == "CharbonnierLoss"
    assert config.to_dict(found)["train"]["losses"][1]["type"] == "PerceptualLoss"


def test_every_kind_of_model_is_one_or_the_other() -> None:
    assert not set(PIXEL_MODELS) & set(ADVERSARIAL_MODELS)
    assert (*PIXEL_MODELS, *ADVERSARIAL_MODELS) == MODEL_TYPES
