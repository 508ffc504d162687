"""The sections of params.yaml: one class a section, one field a key, and which values go together."""

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

DatasetName = Literal["mnist", "fashion_mnist", "kmnist", "digits"]
Binarization = Literal["dynamic", "static", "threshold", "none"]
Device = Literal["auto", "cpu", "cuda"]

_EXPONENT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+", re.ASCII)


def _read_exponent(value: Any) -> Any:
    # DVC writes 0.00001 as 1e-05, which YAML 1.1 (no dot in it) calls a string.
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(_read_exponent)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False), BeforeValidator(_read_exponent)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Section(BaseModel):
    """One section of params.yaml: read-only, no unknown keys, no silent conversions."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Download(Section):
    """Where the images come from."""

    dataset: DatasetName
    mirrors: list[Annotated[str, Field(pattern=r"^(https?|file)://|^/|^\.")]]


class Prepare(Section):
    """How images become the tensors that the model sees."""

    validation_size: Annotated[int, Field(ge=0)]
    binarization: Binarization
    seed: Seed


class Model(Section):
    """The networks, the latent space and the likelihood."""

    latent_dim: Count
    network: Literal["mlp", "gated_mlp", "conv", "resnet"]
    encoder_widths: list[Count]
    decoder_widths: list[Count]
    residual_blocks: Count
    activation: Literal["silu", "relu", "tanh", "softplus", "gelu"]
    prior: Literal["standard_normal", "gaussian_mixture", "vampprior", "realnvp", "spline"]
    prior_components: Count
    prior_layers: Count
    posterior: Literal["diagonal_normal", "full_covariance", "iaf", "coupling"]
    posterior_layers: Count
    flow_widths: list[Count]
    levels: Literal["one", "iwae", "hvae"]
    top_dim: Count
    inner_widths: list[Count]
    likelihood: Literal["bernoulli", "relaxed_bernoulli", "continuous_bernoulli", "discretized_logistic"]
    condition: Literal["none", "label"]

    @model_validator(mode="after")
    def _check_combinations(self) -> "Model":
        prior_dim = self.latent_dim if self.levels == "one" else self.top_dim
        posterior_dim = self.top_dim if self.levels == "hvae" else self.latent_dim
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
                "one, hvae",
                "with iwae the encoder does not lead to the level that the VampPrior is on",
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
                "a flow's networks have hidden layers",
            )
        if self.posterior == "iaf":
            _refuse(
                min(self.flow_widths) < posterior_dim,
                "flow_widths",
                self.flow_widths,
                f"widths of at least {posterior_dim}",
                "an IAF's networks have a hidden unit for each latent dimension",
            )
        return self


class Train(Section):
    """How the parameters are learned."""

    device: Device
    epochs: Count
    batch_size: Count
    learning_rate: Positive
    schedule: Literal["one_cycle", "cosine", "constant", "iwae"]
    adam_epsilon: Positive
    kl_warmup_epochs: Annotated[int, Field(ge=0)]
    objective: Literal["elbo", "iwae", "dreg"]
    particles: Count
    beta: NonNegative
    free_bits: NonNegative
    gradient_clip: NonNegative
    ema_decay: Annotated[float, Field(ge=0, lt=1), BeforeValidator(_read_exponent)]
    patience: Annotated[int, Field(ge=0)]
    precision: Literal["float32", "tf32", "bfloat16"]
    step: Literal["auto", "eager", "graph"]
    checkpoint_every: Count
    keep_checkpoint: bool
    snapshot_epochs: list[Count]
    seed: Seed


class Classify(Section):
    """How the classifier that judges samples is trained."""

    epochs: Count
    batch_size: Count
    learning_rate: Positive
    seed: Seed


class Evaluate(Section):
    """How the model is judged on the test set."""

    importance_samples: Count
    training_images: Annotated[int, Field(ge=10)]
    seed: Seed


class Sample(Section):
    """How draws from the model are judged."""

    images: Annotated[int, Field(ge=10)]
    neighbours: Count
    seed: Seed


class Embed(Section):
    """The latent space in two dimensions."""

    method: Literal["tsne", "pca"]
    images: Annotated[int, Field(ge=10)]
    perplexity: Positive
    seed: Seed


class Plot(Section):
    """The pictures."""

    dpi: Annotated[int, Field(ge=50, le=600)]
    samples: Count
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
                "it needs the density of given draws, for which an IAF takes a pass a dimension",
            )
        _refuse(
            self.train.free_bits > 0 and self.train.objective != "elbo",
            "train.free_bits",
            self.train.free_bits,
            "0",
            "free bits are defined for the ELBO's KL",
        )
        return self


def mark_relaxed(metrics: dict[str, Any], likelihood: str) -> dict[str, Any]:
    """Name each metric in nats or bits `relaxed_...` where it is grey-scale's cross-entropy, which is no likelihood."""
    if likelihood != "relaxed_bernoulli":
        return metrics
    return {
        f"relaxed_{name}" if any(word in name for word in ("elbo", "nll", "bits")) else name: value
        for name, value in metrics.items()
    }


def check_pixels(likelihood: str, binarization: str) -> None:
    """Raise ValueError where a likelihood does not fit the pixels that it would be used on."""
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
