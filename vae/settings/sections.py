"""The sections of params.yaml: one class per section, one field per key, and which values go together."""

import re
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from vae import launcher
from vae.errors import redact

DatasetName = Literal["mnist", "fashion_mnist", "kmnist", "digits"]
Binarization = Literal["dynamic", "static", "threshold", "none"]
Device = Literal["auto", "cpu", "cuda"]

_EXPONENT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+", re.ASCII)


def _read_exponent(value: Any) -> Any:
    # DVC writes 0.00001 as 1e-05, which YAML 1.1 reads as a string, as it has no dot.
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value


def _number(**bounds: float) -> Any:
    return Annotated[float, Field(allow_inf_nan=False, **bounds), BeforeValidator(_read_exponent)]


# The upper bounds are far above useful values, yet low enough that no single key makes arithmetic overflow or asks
# for gigabytes of memory.
Rate = _number(gt=0, le=100)
Share = Annotated[float, Field(ge=0, lt=1), BeforeValidator(_read_exponent)]
Epochs = Annotated[int, Field(ge=1, le=100_000)]
EpochsOrOff = Annotated[int, Field(ge=0, le=100_000)]
Images = Annotated[int, Field(ge=1, le=100_000)]
AtLeastTen = Annotated[int, Field(ge=10, le=100_000)]  # images
Draws = Annotated[int, Field(ge=1, le=100_000)]
Width = Annotated[int, Field(ge=1, le=10_000)]
Depth = Annotated[int, Field(ge=1, le=100)]
Widths = Annotated[list[Width], Field(max_length=100)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


def _refuse_secrets(mirror: str) -> str:
    if "://" in mirror and {"?", "@"} & set(mirror):
        raise ValueError(
            f"got {redact(mirror)!r}, allowed: no passwords and no queries, as settings are recorded and shown with "
            "every run; pass such a mirror through the environment"
        )
    return mirror


# The descriptions of texts end up in messages.
_MIRROR = "a URL (http, https, file) or a path that starts with / or ."
Mirror = Annotated[
    str, Field(pattern=r"^(https?|file)://|^/|^\.", description=_MIRROR), AfterValidator(_refuse_secrets)
]
FolderOrOff = Annotated[str, Field(pattern=r"^[^\x00-\x1f]{0,1000}$", description="the path of a folder, or '' (off)")]


def _read_processes(value: Any) -> Any:
    if value == "auto" or (type(value) is int and 1 <= value <= 1024):
        return value
    raise PydanticCustomError("processes", "neither auto nor a number of processes")


Processes = Annotated[
    int | str,
    PlainValidator(_read_processes),
    WithJsonSchema({"type": "string", "description": "auto or a whole number from 1 to 1024"}),
]


class Section(BaseModel):
    """One section of params.yaml: read-only, no unknown keys, no silent conversions."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Download(Section):
    """Where the images come from."""

    dataset: DatasetName
    mirrors: Annotated[list[Mirror], Field(max_length=100)]


class Prepare(Section):
    """How images become the tensors that the model sees."""

    validation_size: Annotated[int, Field(ge=0, le=100_000)]
    binarization: Binarization
    seed: Seed


class Model(Section):
    """The networks, the latent space and the likelihood."""

    latent_dim: Width
    network: Literal["mlp", "gated_mlp", "conv", "resnet"]
    encoder_widths: Widths
    decoder_widths: Widths
    residual_blocks: Depth
    activation: Literal["silu", "relu", "tanh", "softplus", "gelu"]
    dropout: Share
    center_inputs: bool
    prior: Literal["standard_normal", "gaussian_mixture", "vampprior", "realnvp", "spline"]
    prior_components: Width
    prior_layers: Depth
    posterior: Literal["diagonal_normal", "full_covariance", "iaf", "coupling"]
    posterior_layers: Depth
    clip_log_variance: bool
    flow_widths: Widths
    flow_mixing: Literal["reversal", "lu"]
    levels: Literal["one", "iwae", "hvae", "hvae_branched"]
    top_dim: Width
    inner_widths: Widths
    likelihood: Literal["bernoulli", "relaxed_bernoulli", "continuous_bernoulli", "discretized_logistic"]
    condition: Literal["none", "label"]

    @model_validator(mode="after")
    def _check_combinations(self) -> "Model":
        prior_dim = self.latent_dim if self.levels == "one" else self.top_dim
        posterior_dim = self.top_dim if self.levels in ("hvae", "hvae_branched") else self.latent_dim
        if self.prior == "vampprior":
            _refuse(
                self.posterior != "diagonal_normal",
                "posterior",
                self.posterior,
                "diagonal_normal",
                "a VampPrior is a mixture of diagonal normals",
            )
            _refuse(
                self.levels == "iwae",
                "levels",
                self.levels,
                "one, hvae, hvae_branched",
                "with iwae the encoder does not reach the VampPrior's level",
            )
            _refuse(
                self.condition != "none",
                "condition",
                self.condition,
                "none",
                "a VampPrior's pseudo-inputs have no labels",
            )
        if self.prior in ("realnvp", "spline"):
            _refuse(
                prior_dim < 2,
                "prior",
                self.prior,
                "standard_normal, gaussian_mixture, vampprior",
                "a coupling flow needs two latent dimensions",
            )
        if self.posterior in ("iaf", "coupling"):
            _refuse(
                posterior_dim < 2,
                "posterior",
                self.posterior,
                "diagonal_normal, full_covariance",
                "a flow needs two latent dimensions",
            )
        if self.prior in ("realnvp", "spline") or self.posterior in ("iaf", "coupling"):
            _refuse(
                not self.flow_widths,
                "flow_widths",
                self.flow_widths,
                "one or more widths",
                "a flow's networks need hidden layers",
            )
        if self.posterior == "iaf":
            _refuse(
                min(self.flow_widths) < posterior_dim,
                "flow_widths",
                self.flow_widths,
                f"widths of at least {posterior_dim}",
                "an IAF's networks need a hidden unit for each latent dimension",
            )
        return self


class Train(Section):
    """How the model is trained."""

    # Neither DVC nor a checkpoint's identity depends on these: the number of processes changes the rounding of results,
    # as another processor does, the others nothing.
    WITHOUT_EFFECT: ClassVar[frozenset[str]] = frozenset(
        {"processes", "images", "checkpoint_every", "keep_checkpoint", "tensorboard"}
    )

    device: Device
    processes: Processes
    epochs: Epochs
    batch_size: Images
    shuffle: bool
    initialization: Literal["torch", "glorot", "he"]
    initialize_from_data: bool
    learning_rate: Rate
    schedule: Literal["one_cycle", "cosine", "constant", "iwae"]
    adam_beta1: Share
    adam_epsilon: _number(ge=1e-30, le=1)  # float32 has no smaller normal numbers than 1e-38
    weight_decay: _number(ge=0, le=100)
    kl_warmup_epochs: EpochsOrOff
    kl_warmup_by: Literal["step", "epoch"]
    kl: Literal["exact", "sampled"]
    objective: Literal["elbo", "iwae", "dreg"]
    particles: Annotated[int, Field(ge=1, le=10_000)]
    beta: _number(ge=0, le=1_000_000)
    free_bits: _number(ge=0, le=1_000_000)
    gradient_clip: _number(ge=0, le=1_000_000_000)
    normalize_gradients: bool
    ema_decay: Share
    kept_epoch: Literal["best", "last"]
    patience: EpochsOrOff
    precision: Literal["auto", "float32", "tf32", "bfloat16"]
    step: Literal["auto", "eager", "recorded", "compiled", "graph"]
    images: Literal["auto", "resident", "streamed"]
    checkpoint_every: Epochs
    keep_checkpoint: bool
    tensorboard: FolderOrOff
    snapshot_epochs: Annotated[list[Epochs], Field(max_length=1000)]
    seed: Seed


class Classify(Section):
    """How the classifier that judges samples is trained."""

    epochs: Epochs
    batch_size: Images
    learning_rate: Rate
    seed: Seed


class Evaluate(Section):
    """How the model is evaluated on the test set."""

    importance_samples: Draws
    training_images: AtLeastTen
    seed: Seed


class Sample(Section):
    """How samples from the model are evaluated."""

    images: AtLeastTen
    neighbors: Annotated[int, Field(ge=1, le=1000)]
    seed: Seed


class Embed(Section):
    """The latent space in two dimensions."""

    method: Literal["tsne", "pca"]
    images: AtLeastTen
    perplexity: _number(gt=0, le=1000)
    seed: Seed


class Plot(Section):
    """The pictures."""

    dpi: Annotated[int, Field(ge=50, le=600)]
    samples: Annotated[int, Field(ge=1, le=1000)]
    seed: Seed


class Settings(Section):
    """The whole of params.yaml."""

    download: Download
    prepare: Prepare
    model: Model
    train: Train
    classify: Classify
    evaluate: Evaluate
    sample: Sample
    embed: Embed
    plot: Plot

    @model_validator(mode="after")
    def _check_combinations(self) -> "Settings":
        check_pixels(self.model.likelihood, self.prepare.binarization)
        if self.train.objective == "dreg":
            _refuse(
                self.model.posterior == "iaf",
                "train.objective",
                "dreg",
                "elbo, iwae",
                "it needs the density of given draws, which takes an IAF one pass per dimension",
            )
            _refuse(
                self.model.dropout > 0,
                "model.dropout",
                self.model.dropout,
                "0",
                "dreg runs the guide twice, and each run would drop other units",
            )
        _refuse(
            self.train.free_bits > 0 and self.train.objective != "elbo",
            "train.free_bits",
            self.train.free_bits,
            "0",
            "free bits are defined for the ELBO's KL",
        )
        processes = launcher.asked(self.train)
        _refuse(
            processes != 1 and self.model.dropout > 0 and self.model.prior == "vampprior",
            "train.processes",
            processes,
            "1",
            "with dropout each process would see another VampPrior",
        )
        _refuse(
            self.train.kept_epoch == "last" and self.train.patience > 0,
            "train.patience",
            self.train.patience,
            "0",
            "train.kept_epoch is last",
        )
        return self


def check_pixels(likelihood: str, binarization: str) -> None:
    """Raise ValueError if a likelihood does not fit the binarization."""
    binary = binarization != "none"
    for_binary = likelihood == "bernoulli"
    fitting = [
        name for name in get_args(Model.model_fields["likelihood"].annotation) if (name == "bernoulli") == binary
    ]
    _refuse(
        binary != for_binary,
        "model.likelihood",
        likelihood,
        ", ".join(fitting),
        f"prepare.binarization is {binarization}",
    )


def _refuse(refused: bool, key: str, value: Any, allowed: str, reason: str) -> None:
    if refused:
        raise ValueError(f"{key}: got {value!r}, allowed: {allowed}, as {reason}")
