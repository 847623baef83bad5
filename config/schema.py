"""What an option file may say: frozen dataclasses, one per section, each field with its help text.

The names of fields are the keys of the files, which are BasicSR's. Datasets, losses, metrics and networks own their
options; this file owns the rest. ``IGNORED`` lists keys of published files that are accepted without effect.
``docs/options.md`` and ``docs/options.schema.json`` are generated from here (``scripts/make_docs.py``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import archs
from config.optimizers import OPTIMIZERS, OptimOptions
from config.schedulers import SCHEDULERS, SchedulerOptions
from config.terms import AnyAdversarial, AnyArtefact, AnyLoss, AnyMesa, AnyNamed, AnyPerceptual
from config.values import ONNX, Precision, Pretrained
from data import DATASETS, DatasetOptions, DegradationOptions, RealESRGANOptions
from data.dataset_options import SET_BY_BASICSR
from metrics import METRICS, Metric
from utils.checked import Checked
from utils.errors import InputError
from utils.scale import as_scale
from utils.typed import OneOf, option, remark

# All of them mean the same in testing: pad, compute, crop. What to pad to, the network knows. PFTModel also cuts large
# images in tests and validation (val.pft_chop). In training, the first trains a network on losses between images, the
# second beside a discriminator; the "real" ones of those see sharpened targets.
PIXEL_MODELS = (
    "SRModel",
    "SwinIRModel",
    "HATModel",
    "RGTModel",
    "PFTModel",
    "ATDModel",
    "ESRModel",
    "RealHATMSEModel",
    "RealESRNetModel",
)
REAL_ADVERSARIAL_MODELS = ("RealHATGANModel", "RealESRGANModel")
RELATIVISTIC_MODELS = ("ESRGANModel",)
ADVERSARIAL_MODELS = (*REAL_ADVERSARIAL_MODELS, "SRGANModel", *RELATIVISTIC_MODELS)
MODEL_TYPES = (*PIXEL_MODELS, *ADVERSARIAL_MODELS)

Kind = Literal["pixel", "adversarial"]
Target = Literal["gt", "gt_usm"]

_DEGRADATIONS = "low-resolution images are only degraded on the fly in training"
_DISCRIMINATOR = "testing needs no discriminator"
_FROM_COMMAND = f"{SET_BY_BASICSR}, from the command line"
_LARGEST_SCALE, _LARGEST_SIDE = 100, 1_000_000
_UNREAD = "BasicSR does not read it here either"


# Mappings whose key "type" picks one of the dataclasses of a table.
AnyDataset = Annotated[DatasetOptions, OneOf(lambda: DATASETS, "dataset")]
AnyMetric = Annotated[Metric, OneOf(lambda: METRICS, "metric")]
AnyOptimizer = Annotated[OptimOptions, OneOf(lambda: OPTIMIZERS, "optimizer")]
AnyScheduler = Annotated[SchedulerOptions, OneOf(lambda: SCHEDULERS, "scheduler")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingOptions(Checked):
    """Losses, optimisers, schedule."""

    total_iter: int = option("iterations to train; counted over resumes", minimum=1, maximum=10**9)
    optim_g: AnyOptimizer = option("the optimiser of network_g")
    optim_d: AnyOptimizer | None = option("the optimiser of network_d", None)
    scheduler: AnyScheduler = option("how the learning rates of both optimisers change")
    pixel_opt: AnyLoss | None = option("loss between output and true image; null: none", None)
    perceptual_opt: AnyPerceptual | None = option("loss between features of output and true image; null: none", None)
    gan_opt: AnyAdversarial | None = option("loss of what network_d says; null: none", None)
    ldl_opt: AnyArtefact | None = option(
        "loss where the output is artefacts rather than texture (LDL); it needs network_d and EMA weights; null: none",
        None,
    )
    wave_opt: AnyLoss | None = option("a second loss between output and true image (l_wave); null: none", None)
    fft_opt: AnyLoss | None = option("a third loss between output and true image (l_fft); null: none", None)
    mesa_opt: AnyMesa | None = option(
        "loss between output and that of the EMA weights (MESA), which it needs; null: none", None
    )
    losses: tuple[AnyNamed, ...] = option("further losses, as many as wanted", default_factory=tuple)
    net_d_iters: int = option("network_g is trained in every n-th iteration only, network_d in each", 1, minimum=1)
    net_d_init_iters: int = option("in the first n iterations network_d is trained alone", 0, minimum=0)
    ema_decay: float = option(
        "above 0: keep EMA weights (exponential moving average), ema = decay * ema + (1 - decay) * weights; they "
        "are validated. 0: no EMA",
        0.0,
        minimum=0,
        below=1,
    )
    ema_warmup: bool = option(
        "the decay of the EMA rises to ema_decay: min(ema_decay, (1 + n) / (10 + n)) after n iterations. false: "
        "ema_decay from the start, as published; EMA weights then hold ema_decay^n of the first weights",
        False,
    )
    warmup_iter: int = option(
        "the rate rises linearly from 0 over this many iterations; -1: no warm-up", -1, minimum=-1
    )
    exact_warmup: bool = option(
        "after a warm-up, MultiStepLR continues from its own value. false: from (W - 1) / W of it, as BasicSR does "
        "and the published runs did",
        False,
    )
    grad_clip: float | None = option(
        "gradient clipping: largest norm; null: no clipping; .inf: none either", None, above=0, infinite=True
    )
    grad_clip_d: float | None = option(
        "gradient clipping of network_d: largest norm; null or .inf: none", None, above=0, infinite=True
    )
    gradient_clip: float | None = option(
        "as grad_clip, but half of it after iteration 50,000, as ESC's ESRModel does it", None, above=0, infinite=True
    )
    reset_momentum_iter: int | None = option(
        "after every n-th iteration the optimiser of network_g forgets its moments and starts to count anew, as ESC's "
        "ESRModel does it (Adam and AdamW); null: never",
        None,
        minimum=1,
    )
    nonfinite: Literal["stop", "skip"] = option(
        "when a loss or gradient is not finite: stop before the weights change, or skip the batch and count it", "stop"
    )
    amp: Literal["bf16", "fp16"] | None = option(
        "automatic mixed precision (AMP): bf16, or fp16 with gradient scaling; null: float32 throughout", None
    )
    compile: bool = option("compile the network with torch.compile: minutes at the start, faster from then on", False)
    compile_mode: Literal["default", "reduce-overhead", "max-autotune"] = option(
        "of torch.compile; reduce-overhead records CUDA graphs", "default"
    )
    tf32: bool = option("TF32: GPUs multiply float32 with 10 bits of mantissa: faster, less exact", False)
    accumulate: int = option(
        "gradient accumulation: compute each batch in this many micro-batches, whose gradients are added: the same "
        "training in less memory",
        1,
        minimum=1,
    )
    checkpoint_activations: bool = option(
        "activation (gradient) checkpointing: keep only the input of each block for the backward pass and compute the "
        "rest again: slower, in much less memory; sets use_checkpoint of the network",
        False,
    )
    decay_norms_and_biases: bool = option(
        "weight decay acts on all parameters, as published; false: not on norms and biases", True
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValOptions(Checked):
    """How images are measured and saved."""

    IGNORED: ClassVar[Mapping[str, str]] = {
        "flip": "BasicSR does not read it; self_ensemble is the mean over flips and rotations",
        "window_size": "images are padded to what the network asks for",
        "max_minibatch": "batch_size says how many images go through the network together",
        "rgb2bgr": "the order of channels is always that of the files",
    }

    val_freq: int | None = option("iterations between validations; required in training", None, minimum=1)
    metrics: Mapping[str, AnyMetric] = option("what to measure: a name of your own -> metric", default_factory=dict)
    scales: tuple[int | float, ...] | None = option(
        "networks for any scale: evaluate every data set at each of these scales, as in [2, 3, 4, 6]; the first one "
        "decides which weights are the best. null: at the scale of the file, of a range at its upper end",
        None,
        minimum=1,
        maximum=_LARGEST_SCALE,
    )
    batch_size: int = option(
        "this many images of one size go through the network together; the scores are the same to rounding. 1: each by "
        "itself",
        1,
        minimum=1,
        maximum=1_000_000,
    )
    save_img: bool = option("save the resulting images", False)
    suffix: str | None = option("end of the names of saved images; null: the name of the experiment", None)
    pbar: bool = option("progress bar", False)
    bicubic: bool = option("measure bicubic upsampling too, for comparison", False)
    use_chop: bool = option("RGT's tiles: as few equal ones as keep below chop_size, mirrored to be equal", False)
    chop_size: int = option(
        "use_chop: tiles are shorter than this, low-resolution pixels", 200, minimum=1, maximum=_LARGEST_SIDE
    )
    chop_pad: int = option(
        "use_chop: pixels read on each side of a tile, low-resolution pixels", 16, minimum=0, maximum=_LARGEST_SIDE
    )
    pft_chop: bool | None = option(
        "PFT's tiles, as its published scores were measured: a side of 256 pixels or more is cut into side // 256 + 1 "
        "equal tiles, read with a tenth around them. null: where model_type is PFTModel and no other tiles are chosen",
        None,
    )
    pad_to_window: bool = option(
        "extend images by reflection to multiples of the network's window_size before it sees them, and crop the "
        "result: how the published scores of ESC were measured",
        False,
    )
    self_ensemble: bool = option(
        "self-ensemble: mean over the eight flips and rotations of each image; slower, a little better", False
    )
    val_first: bool = option("validate once before the first iteration", False)
    precision: Precision = option(
        "in what the network computes when it is measured: fp32, fp16 (for GPUs; layers that the weights name stay in "
        "float32) or bf16 (for GPUs and CPUs that have it; others compute in float32 and say so)",
        "fp32",
    )


RUN_FOLDERS = ("log", "models", "training_states", "visualization")  # in the folder of a run


@dataclasses.dataclass(frozen=True, kw_only=True)
class PathOptions(Checked):
    """Weights to start from, and where outputs go."""

    IGNORED: ClassVar[Mapping[str, str]] = dict.fromkeys(("root", *RUN_FOLDERS), SET_BY_BASICSR)

    pretrain_network_g: Path | None = option("weights to start from or to test: .pth or .safetensors", None)
    param_key_g: str | None = option(
        "entry of the weights file, such as params or params_ema; where one of these two is missing, what the file has "
        "instead is read. null: the EMA weights where the file has some, else its only weights (BasicSR reads params). "
        "The log, and scores.json of a test, say which entry was read",
        None,
    )
    strict_load_g: bool = option("false: tensors that are missing, surplus or of another shape are left out", True)
    resize_position_tables: bool = option(
        "resize relative position bias tables of a network with another window size (bicubic), instead of not fitting",
        False,
    )
    pretrain_network_d: Path | None = option("weights that network_d starts from: .pth or .safetensors", None)
    param_key_d: str | None = option("entry of that file, as param_key_g", "params")
    strict_load_d: bool = option("as strict_load_g, of network_d", True)
    resume_state: Path | None = option("training state (ITER.state) to continue from", None)
    ignore_resume_networks: tuple[str, ...] = option(
        "networks not taken from the resumed run: [network_g], [network_d]", default_factory=tuple
    )
    experiments_root: Path = option("folder of training outputs, one folder per name", Path("experiments"))
    results_root: Path = option("folder of test outputs, one folder per name", Path("results"))

    @property
    def pretrained_g(self) -> Pretrained | None:
        """The weights that network_g starts from, if any."""
        if self.pretrain_network_g is None:
            return None
        return Pretrained(self.pretrain_network_g, self.param_key_g, self.strict_load_g, self.resize_position_tables)

    @property
    def pretrained_d(self) -> Pretrained | None:
        """The weights that network_d starts from, if any."""
        if self.pretrain_network_d is None:
            return None
        return Pretrained(self.pretrain_network_d, self.param_key_d, self.strict_load_d, resize_tables=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WandbOptions(Checked):
    """Weights & Biases."""

    project: str | None = option("name of the project there; null: do not log there", None)
    resume_id: str | None = option("id of the run there to continue", None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoggerOptions(Checked):
    """What is logged and saved how often."""

    print_freq: int = option("iterations between log lines", 100, minimum=1)
    save_checkpoint_freq: int = option("iterations between checkpoints", 5000, minimum=1)
    keep_last: int | None = option("keep only this many of the newest checkpoints; null: all", None, minimum=1)
    keep_every: int | None = option("keep_last: but never remove those of multiples of this iteration", None, minimum=1)
    keep_best: bool = option("keep the best weights as net_g_best.pth, by the first metric on the first data set", True)
    save_safetensors: bool = option("write the weights as net_g_ITER.safetensors too", False)
    use_tb_logger: bool = option("write TensorBoard logs to tb_logger/NAME", False)
    report: bool = option(
        "make experiments/NAME/report.html anew after each validation, in a process of its own: one page with options, "
        "curves, scores and pictures of the run (scripts/report.py)",
        False,
    )
    wandb: WandbOptions | None = option("log to Weights & Biases too, which must be installed", None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistOptions(Checked):
    """Several processes; used with ``--launcher``."""

    backend: Literal["nccl", "gloo", "xccl"] | None = option(
        "null: nccl on CUDA and ROCm, xccl on XPU, gloo on CPUs", None
    )
    port: int = option("port of the first machine, for slurm", 29500, minimum=1, maximum=65535)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TileOptions(Checked):
    """Compute large images in parts, to save memory."""

    tile_size: int = option("side of a tile, low-resolution pixels", minimum=1, maximum=_LARGEST_SIDE)
    tile_pad: int = option("overlap of neighbouring tiles, low-resolution pixels", 32, minimum=0, maximum=_LARGEST_SIDE)


@dataclasses.dataclass(frozen=True)
class NetworkOptions:
    """The name of a network and the arguments of its constructor.

    Attributes:
        type: the name.
        arguments: keyword -> value.
    """

    type: str
    arguments: Mapping[str, Any]

    def as_mapping(self) -> dict[str, Any]:
        """The section as ``archs.build_network`` takes it."""
        return {"type": self.type, **self.arguments}

    @property
    def is_file(self) -> bool:
        """Whether the network is an ONNX file, which is run and not built."""
        return self.type == ONNX


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnnxOptions(Checked):
    """In test files: an ONNX file, run by ONNX Runtime or OpenVINO, so that what is shipped is what is measured.

    It holds its weights: ``path.pretrain_network_g`` has no effect.
    """

    path: Path = option("the file; python scripts/export.py writes it")
    provider: str | None = option(
        "what runs it: of ONNX Runtime cpu, cuda, tensorrt, dml, coreml, or the full name of an execution provider; of "
        "OpenVINO openvino, openvino:bf16, openvino:DEVICE:PRECISION. null: ONNX Runtime on the CPU, or OpenVINO where "
        "that alone is installed",
        None,
    )
    scale: int | float | None = option(
        "super-resolution factor of a file that another program has written; null: that of the option file",
        None,
        minimum=1,
        maximum=_LARGEST_SCALE,
    )


def generator_class(name: str) -> type:
    """What says which keys a section ``network_g`` has: the class of a network, or the options of an ONNX file.

    Raises:
        InputError: there is no such network.
    """
    if name == ONNX:
        return OnnxOptions
    if name.lower() == ONNX:
        raise InputError(f'unknown network type "{name}" (did you mean "{ONNX}"?)')
    return archs.network_class(name)


@dataclasses.dataclass(frozen=True, eq=False)  # annotations have to be hashable
class Networks:
    """Marks an annotation: the networks that a section may name.

    Attributes:
        names: name -> where the class is.
        find: the class of a name; raises InputError where there is none.
    """

    names: Mapping[str, str]
    find: Callable[[str], type]


AnyGenerator = Annotated[
    NetworkOptions, Networks({**archs.NETWORKS, ONNX: "config.schema:OnnxOptions"}, generator_class)
]
AnyDiscriminator = Annotated[NetworkOptions, Networks(archs.DISCRIMINATORS, archs.discriminator_class)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Checked):
    """What training and test files have in common."""

    FILLED_IN: ClassVar[Mapping[str, str]] = {"num_gpu": "auto", "manual_seed": "drawn from 1 to 10000"}
    """Keys that the reader fills in when they are absent, and with what."""
    IGNORED: ClassVar[Mapping[str, str]] = {
        "find_unused_parameters": "every parameter of these networks gets a gradient",
        **dict.fromkeys(("is_train", "dist", "rank", "world_size", "auto_resume", "root_path"), _FROM_COMMAND),
        **dict.fromkeys(("launcher", "local_rank"), _FROM_COMMAND),
        **dict.fromkeys(("save_img", "suffix"), "it counts in the section val"),
        **dict.fromkeys(("print_network", "use_static_graph"), _UNREAD),
        "gpu_ids": "num_gpu counts, and CUDA_VISIBLE_DEVICES",
    }

    name: str = option("name of the run: names its folders; one that holds 'debug' makes a short trial run")
    model_type: str = option(
        f"kind of model: {', '.join(PIXEL_MODELS)}, which train network_g on losses between images, or "
        f"{', '.join(ADVERSARIAL_MODELS)}, which train it beside network_d. All of a kind mean the same, but: that of "
        "PFT cuts large images in tests and validation as its authors do (val.pft_chop), the Real ones with a "
        "discriminator can sharpen targets (l1_gt_usm, percep_gt_usm, gan_gt_usm), and that of ESRGAN compares real "
        "with fake images (relativistic average)"
    )
    scale: int | float | tuple[float, float] = option(
        "super-resolution factor; to train a network for any scale on AnyScaleDataset: the least and the largest one "
        "that is drawn, as in [1, 4], or any number",
        1,
        minimum=1,
        maximum=_LARGEST_SCALE,
    )
    num_gpu: int = option("GPUs of this machine to use; 0: the CPU; auto: all there are", minimum=0, maximum=1024)
    manual_seed: int = option("seed of all random numbers", minimum=0, maximum=2**32 - 1)
    network_g: AnyGenerator = option("the network: type and the arguments of its constructor")
    datasets: Mapping[str, AnyDataset] = option(
        "the data: train, val, val_2, ... in training files; any names in test files, run in string order"
    )
    path: PathOptions = option("weights and folders", default_factory=PathOptions)
    val: ValOptions | None = option("how images are measured and saved; null: not at all", None)
    dist_params: DistOptions = option("several processes", default_factory=DistOptions)
    tile: TileOptions | None = option("compute large images in parts; null: whole", None)
    published: str | None = option(
        "in test files: variant whose published scores are shown beside the measured ones, such as HAT or ESC-light",
        None,
    )
    channels_last: bool = option("keep images channels-last in memory: often faster for convolutions", False)
    notes: tuple[str, ...] = remark(())
    """What the reader reports to the user, one line each; the commands log them once."""
    files: tuple[str, ...] = remark(())
    """The option file and those that it is based on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.val is not None and self.val.pft_chop is None:
            chop = self.model_type == "PFTModel" and not self.val.use_chop and self.tile is None
            object.__setattr__(self, "val", dataclasses.replace(self.val, pft_chop=chop))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainOptions(DegradationOptions, Options):
    """A training file."""

    network_d: AnyDiscriminator | None = option(
        "the discriminator: type and the arguments of its constructor; null: none", None
    )
    l1_gt_usm: bool | None = option(
        "Real GAN models, required: the target of pixel_opt, wave_opt and fft_opt is sharpened", None
    )
    percep_gt_usm: bool | None = option("Real GAN models, required: the target of perceptual_opt is sharpened", None)
    gan_gt_usm: bool | None = option("Real GAN models, required: the real images of network_d are sharpened", None)
    gt_size: int | None = option(
        "RealESRGANDataset: side of the high-resolution patches, pixels; null: the data set's own gt_size. Of two that "
        "differ, this one counts",
        None,
        minimum=1,
        maximum=_LARGEST_SIDE,
    )
    train: TrainingOptions = option("losses, optimisers, schedule")
    logger: LoggerOptions = option("what is logged and saved how often", default_factory=LoggerOptions)

    def __post_init__(self) -> None:
        super().__post_init__()
        training = self.datasets.get("train")
        if self.gt_size is not None and isinstance(training, RealESRGANOptions):
            training = dataclasses.replace(training, gt_size=self.gt_size)
            object.__setattr__(self, "datasets", {**self.datasets, "train": training})

    @property
    def kind(self) -> Kind:
        """What is trained: "pixel": network_g on losses between images; "adversarial": network_g beside network_d."""
        return "adversarial" if self.model_type in ADVERSARIAL_MODELS else "pixel"

    @property
    def relativistic(self) -> bool:
        """Whether what the discriminator says of real and fake images counts by comparison (ESRGAN)."""
        return self.model_type in RELATIVISTIC_MODELS

    def target_of(self, part: Literal["l1", "percep", "gan"]) -> Target:
        """Which image a part of the losses compares with: the true one, or it sharpened (``l1_gt_usm`` and so on)."""
        sharpened = self.model_type in REAL_ADVERSARIAL_MODELS and getattr(self, f"{part}_gt_usm")
        return "gt_usm" if sharpened else "gt"

    @property
    def largest_scale(self) -> int | float:
        """The factor; of a range its upper end, at which is validated where ``val.scales`` says nothing else."""
        return as_scale(self.scale[1] if isinstance(self.scale, tuple) else self.scale)

    @property
    def train_dataset(self) -> DatasetOptions:
        """The data that is trained on."""
        return self.datasets["train"]

    @property
    def degradations(self) -> DegradationOptions | None:
        """How training images are degraded; None where the data set does not do that.

        The Real GAN models degrade sharpened images and sharpen the targets of single losses later.
        """
        if not isinstance(self.train_dataset, RealESRGANOptions):
            return None
        names = [field.name for field in dataclasses.fields(DegradationOptions)]
        own = {name: getattr(self, name) for name in names}
        if self.model_type in REAL_ADVERSARIAL_MODELS:
            own |= {"lq_usm": True, "gt_usm": False}
        return DegradationOptions(**own)

    @property
    def val_datasets(self) -> dict[str, DatasetOptions]:
        """Key -> the data that is validated on, in string order."""
        return {key: dataset for key, dataset in self.datasets.items() if key != "train"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TestOptions(Options):
    """A test file."""

    __test__: ClassVar[bool] = False  # not a test class, whatever pytest makes of the name
    IGNORED: ClassVar[Mapping[str, str]] = {
        **Options.IGNORED,
        **dict.fromkeys(("network_d", "l1_gt_usm", "percep_gt_usm", "gan_gt_usm"), _DISCRIMINATOR),
        "gt_size": "only training cuts patches",
        "logger": "testing logs to the console and a log file",
        **{field.name: _DEGRADATIONS for field in dataclasses.fields(DegradationOptions)},
    }

    scale: int | float = option(
        "super-resolution factor; of a network for any scale, any number", 1, minimum=1, maximum=_LARGEST_SCALE
    )
    precision: Precision | None = option("as val.precision, which it goes before; null: what that says", None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.precision is not None:
            object.__setattr__(self, "val", dataclasses.replace(self.val or ValOptions(), precision=self.precision))
