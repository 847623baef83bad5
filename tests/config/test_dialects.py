"""Files in the manner of the published networks, written from the facts about them, are accepted as they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

import config
from archs import build_network, network_class
from config.checks import Mode
from config.optimizers import Adam
from config.schema import TrainOptions
from data import RealESRGANOptions
from data.images.colour import convert
from losses import GANLoss, L1Loss, MSELoss, PerceptualLossOptions
from tests.config.files import write
from utils.errors import InputError

FOLDER = Path(__file__).parent / "dialects"

DEGRADED = ["datasets.train.blur_kernel_size", "datasets.train.blur_kernel_size2", "datasets.train.use_shuffle"]
# File -> the keys that it holds without effect.
NOTED = {
    "hat_train.yml": ["datasets.train.use_shuffle"],
    "hat_test.yml": [],
    "rgt_train.yml": ["datasets.train.task", "datasets.train.use_shuffle", "datasets.val_1.task"],
    "rgt_test.yml": ["datasets.test_1.task"],
    "pft_train.yml": ["find_unused_parameters"],
    "pft_test.yml": ["find_unused_parameters"],
    "esc_train.yml": ["datasets.train.use_shuffle", "train.optim_d"],
    "esc_test.yml": [],
    "esc_xl_test.yml": [],
    "esc_dflip_train.yml": ["datasets.train.filename_tmpl", "datasets.train.use_shuffle", "train.optim_d"],
    "hat_imagenet_train.yml": ["datasets.train.dataroot_lq", "datasets.train.use_shuffle"],
    "hat_real_train.yml": [*DEGRADED, "train.optim_d"],
    "hat_real_gan_train.yml": DEGRADED,
    "esc_real_gan_train.yml": DEGRADED,
    "esc_mesa_train.yml": ["datasets.train.use_shuffle", "train.optim_d"],
    "real_esrgan_train.yml": DEGRADED,
    "ldl_train.yml": DEGRADED,
    "srgan_train.yml": ["datasets.train.use_shuffle"],
    "esrgan_train.yml": ["datasets.train.use_shuffle"],
    "basicsr_train.yml": ["datasets.train.use_shuffle"],
    "basicsr_test.yml": [],
    "basicsr_resolved_train.yml": [
        *("path.experiments_root", "is_train", "dist", "rank", "world_size", "auto_resume", "root_path"),
        *("datasets.train.phase", "datasets.train.scale", "datasets.val.phase", "datasets.val.scale"),
        *("datasets.val.io_backend.db_paths", "datasets.val.io_backend.client_keys"),
        *("path.models", "path.training_states", "path.log", "path.visualization", "datasets.train.meta_info"),
        # Of a trial of 100 iterations.
        *("val.val_freq", "logger.save_checkpoint_freq", "val"),
    ],
    "people_test.yml": [
        *("suffix", "save_img", "print_network", "datasets.test_1.dataroot_gt", "datasets.test_1.filename_tmpl"),
        *("val.flip", "val.window_size", "val.rgb2bgr", "val.max_minibatch"),
    ],
    "real_esrnet_train.yml": DEGRADED,
}


def read(path: Path, mode: Mode) -> config.Options:
    return config.read(path, mode="train") if mode == "train" else config.read(path, mode="test")


def training(name: str) -> TrainOptions:
    return config.read(FOLDER / name, mode="train")


@pytest.fixture(params=NOTED)
def dialect(request: pytest.FixtureRequest) -> tuple[Path, Mode]:
    path = FOLDER / request.param
    return path, "train" if "train" in path.stem else "test"


def test_published_file_is_read_and_its_network_built(dialect: tuple[Path, Mode]) -> None:
    path, mode = dialect
    found = read(path, mode)
    with torch.device("meta"):
        network = build_network(found.network_g.as_mapping())
    assert isinstance(network, network_class(yaml.safe_load(path.read_text())["network_g"]["type"]))


def test_keys_of_published_files_without_effect_are_noted_once(dialect: tuple[Path, Mode]) -> None:
    path, mode = dialect
    text = path.read_text()
    found = read(path, mode)
    keys = [key for note in found.notes for key in note.split(": ")[1].split(", ")]
    assert sorted(keys) == sorted(NOTED[path.name])
    assert len({note.split(": ", 2)[2] for note in found.notes}) == len(found.notes), "the same is said once"
    for note in found.notes:
        line = int(note.split(": ")[0].rsplit(":", 1)[1])
        assert note.split(": ")[1].split(", ")[0].rsplit(".", 1)[-1] in text.splitlines()[line - 1]


def test_large_images_are_cut_as_the_authors_of_each_network_cut_them() -> None:
    """HAT's ``tile``, RGT's ``use_chop``; PFT's files ask by the kind of model, in tests and in validation."""
    found = {name: read(FOLDER / name, "test" if "test" in name else "train") for name in NOTED}
    vals = {name: options.val for name, options in found.items() if options.val is not None}
    assert {name for name, val in vals.items() if val.pft_chop} == {"pft_train.yml", "pft_test.yml"}
    assert {name for name, val in vals.items() if val.use_chop} == {"rgt_test.yml"}
    assert {name for name, options in found.items() if options.tile is not None} == {"hat_test.yml"}


def test_one_way_of_cutting_is_chosen_at_most() -> None:
    file = FOLDER / "pft_test.yml"

    def chosen(*edits: str) -> tuple[bool | None, bool, bool]:
        options = config.read(file, edits, mode="test")
        assert options.val is not None
        return options.val.pft_chop, options.val.use_chop, options.tile is not None

    assert chosen() == (True, False, False)
    assert chosen("val:pft_chop=false") == (False, False, False)
    assert chosen("val:use_chop=true") == (False, True, False)
    assert chosen("tile={tile_size: 64}") == (False, False, True)
    assert chosen("model_type=SRModel") == (False, False, False)
    assert chosen("model_type=SRModel", "val:pft_chop=true") == (True, False, False)
    for edits, names in (
        (("val:use_chop=true", "val:pft_chop=true"), "val.use_chop and val.pft_chop"),
        (("tile={tile_size: 64}", "val:use_chop=true"), "tile and val.use_chop"),
    ):
        with pytest.raises(InputError, match=f"{names} each say how images are cut into tiles; choose one"):
            chosen(*edits)


def test_values_of_published_files_arrive() -> None:
    """The keys in which the dialects differ."""
    hat, rgt, pft, esc, real = (
        config.read(FOLDER / f"{name}_train.yml", mode="train") for name in ("hat", "rgt", "pft", "esc", "hat_real")
    )
    assert real.degradations is not None
    assert (real.degradations.gt_usm, real.degradations.poisson_scale_range) == (True, (0.05, 3))
    assert (hat.train.ema_decay, rgt.train.ema_decay) == (0.999, 0)
    assert (pft.train.warmup_iter, hat.train.warmup_iter) == (20000, -1)
    assert (type(rgt.train.optim_g).__name__, type(esc.train.optim_g).__name__) == ("Adam", "AdamW")
    assert (esc.train_dataset.io_backend.type, hat.train_dataset.io_backend.type) == ("lmdb", "disk")
    assert (pft.train_dataset.prefetch_mode, hat.train_dataset.prefetch_mode) == ("cuda", None)
    assert (rgt.path.strict_load_g, pft.path.param_key_g, hat.path.param_key_g) == (False, "params_ema", None)
    assert hat.val is not None
    assert hat.val.val_freq == hat.logger.save_checkpoint_freq == 5000
    assert list(hat.datasets) == ["train", "val_1", "val_2"]
    tiled = config.read(FOLDER / "hat_test.yml", mode="test")
    assert tiled.tile == config.schema.TileOptions(tile_size=256, tile_pad=32)
    assert tiled.path.param_key_g == "params_ema"


@pytest.mark.parametrize("name", ["hat_real_gan_train.yml", "esc_real_gan_train.yml", "real_esrgan_train.yml"])
def test_values_of_adversarial_files_for_photographs_arrive(name: str) -> None:
    found = training(name)
    assert (found.kind, found.relativistic, found.train.ema_decay) == ("adversarial", False, 0.999)
    assert [found.target_of(part) for part in ("l1", "percep", "gan")] == ["gt_usm", "gt_usm", "gt"]
    assert found.degradations is not None
    assert (found.degradations.lq_usm, found.degradations.gt_usm, found.degradations.queue_size) == (True, False, 180)
    assert found.network_d is not None
    assert found.network_d.as_mapping() == {
        "type": "UNetDiscriminatorSN", "num_in_ch": 3, "num_feat": 64, "skip_connection": True
    }  # fmt: skip
    train = found.train
    assert train.optim_d == train.optim_g == Adam(lr=1e-4, betas=(0.9, 0.99))
    assert train.pixel_opt == L1Loss()
    layers = {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1, "conv4_4": 1, "conv5_4": 1}
    assert train.perceptual_opt == PerceptualLossOptions(layer_weights=layers)
    assert train.gan_opt == GANLoss(gan_type="vanilla", loss_weight=0.1)
    assert (train.net_d_iters, train.net_d_init_iters, train.ldl_opt) == (1, 0, None)
    assert found.path.pretrained_g is not None
    assert (found.path.pretrained_g.key, found.path.pretrained_d) == ("params_ema", None)


@pytest.mark.parametrize("name", ["srgan_train.yml", "esrgan_train.yml"])
def test_values_of_adversarial_files_for_pairs_arrive(name: str) -> None:
    found = training(name)
    assert (found.kind, found.relativistic, found.degradations) == ("adversarial", name == "esrgan_train.yml", None)
    assert {found.target_of(part) for part in ("l1", "percep", "gan")} == {"gt"}
    assert found.network_d is not None
    assert found.network_d.type == "VGGStyleDiscriminator"
    assert found.train.pixel_opt == L1Loss(loss_weight=0.01)
    assert found.train.perceptual_opt == PerceptualLossOptions(layer_weights={"conv5_4": 1})
    assert found.train.gan_opt == GANLoss(gan_type="vanilla", loss_weight=0.005)


def test_values_of_the_losses_on_artefacts_and_ema_arrive() -> None:
    artefacts = training("ldl_train.yml").train.ldl_opt
    assert artefacts is not None
    assert (artefacts.detach_map, artefacts.loss_weight, isinstance(artefacts, L1Loss)) == (False, 1, True)
    train = training("esc_mesa_train.yml").train
    assert train.mesa_opt is not None
    assert (train.mesa_opt.start_ratio, train.wave_opt) == (0.33, MSELoss(loss_weight=0.1))
    assert (train.gradient_clip, train.reset_momentum_iter, train.optim_d) == (0.5, 100000, None)


def test_both_optimisers_may_be_one_object(tmp_path: Path) -> None:
    """``optim_d: *adam``, with which the published code fails."""
    text = (FOLDER / "hat_real_gan_train.yml").read_text()
    start, end = text.index("  optim_d:"), text.index("  scheduler:")
    text = f"{text[:start]}  optim_d: *adam\n{text[end:]}".replace("  optim_g:\n", "  optim_g: &adam\n")
    train = config.read(write(tmp_path, text), mode="train").train
    assert train.optim_d == train.optim_g == Adam(lr=1e-4, betas=(0.9, 0.99))


def test_what_basicsr_adds_to_a_file_changes_nothing() -> None:
    found = config.read(FOLDER / "basicsr_resolved_train.yml", mode="train")
    assert (found.path.experiments_root, found.name) == (Path("/opt/BasicSR/experiments"), "exp")
    (note,) = (note for note in found.notes if ": is_train, dist, rank, " in note)
    assert note.endswith("root_path: has no effect here: BasicSR sets it itself, from the command line")


def test_every_colour_but_y_is_rgb() -> None:
    dataset = config.read(FOLDER / "people_test.yml", mode="test").datasets["test_1"]
    pixels = torch.randint(256, (3, 4, 5), dtype=torch.uint8)
    assert convert(pixels, dataset).shape == (3, 4, 5)


def test_real_esrgan_lists_its_images_by_a_name_of_its_own() -> None:
    found = config.read(FOLDER / "real_esrnet_train.yml", mode="train").train_dataset
    assert isinstance(found, RealESRGANOptions)
    assert found.meta_info_file == Path("datasets/DF2K/meta_info/meta_info_DF2K_sub.txt")


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        (["datasets:train:filename_tmp={}x2"], 'unknown key of DownsampleImageDataset (did you mean "filename_tmpl"?)'),
        (["is_trian=true"], 'unknown key (did you mean "is_train"?)'),
        (["path:modles=x"], 'unknown key (did you mean "models"?)'),
        (["path:strict_load=true"], 'unknown key (did you mean "strict_load_g"?)'),
        (["path:pretrain_model_g=x.pth"], "early BasicSR's name of pretrain_network_g"),
        (["datasets:train:use_flip=true"], 'unknown key of DownsampleImageDataset (did you mean "use_hflip"?)'),
        (["train:use_grad_clip=true"], "it clips the gradient to a norm of 0.01, which is grad_clip: 0.01 here"),
        (["model_type=DATModel"], 'unknown model "DATModel"; known: SRModel, '),
    ],
)
def test_misspelt_and_unsupported_keys_are_no_keys_without_effect(edits: list[str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        config.read(FOLDER / "esc_dflip_train.yml", edits, mode="train")
    assert len(str(caught.value).splitlines()) == 1
    assert message in str(caught.value)
