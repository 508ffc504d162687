"""The whole family of models: every combination of parts works, and nonsensical ones are refused."""

from contextlib import nullcontext
from itertools import combinations, product
from typing import get_args

import numpy as np
import pytest
import torch

from vae.data.images import pixels
from vae.errors import InputError
from vae.model import load, make_model, save
from vae.model.bounds import elbo_terms, weight_terms
from vae.settings import Model, Train
from vae.training.initialization import initialize
from vae.training.step import Step

# Whatever the settings name is here by itself, a later part too.
CHOICES = {
    **{
        key: get_args(Model.model_fields[key].annotation)
        for key in ("network", "prior", "posterior", "flow_mixing", "levels", "likelihood", "condition")
    },
    "objective": get_args(Train.model_fields["objective"].annotation),
}
SIZES = {
    "latent_dim": 4,
    "top_dim": 3,
    "encoder_widths": [8, 8],
    "decoder_widths": [8, 8],
    "inner_widths": [8],
    "flow_widths": [8],
    "residual_blocks": 1,
    "prior_components": 5,
    "prior_layers": 2,
    "posterior_layers": 2,
}
N, CLASSES, STEPS = 16, 10, 10


def makes_sense(choice):
    """Whether the parts go together; the reasons are in the messages below."""
    if choice["prior"] == "vampprior" and (
        choice["posterior"] != "diagonal_normal" or choice["levels"] == "iwae" or choice["condition"] != "none"
    ):
        return False
    return not (choice["objective"] == "dreg" and choice["posterior"] == "iaf")


def covering(accepted, strength):
    """Choose a few combinations so that any `strength` choices which some has together stand together in one of them.

    Greedily, each time the one with the most that is new; the first of equals.
    """
    table = np.array([[CHOICES[key].index(value) for key, value in choice.items()] for choice in accepted])
    tokens, sizes = [], [len(values) for values in CHOICES.values()]
    for columns in combinations(range(len(sizes)), strength):
        start = tokens[-1].max() + 1 if tokens else 0
        tokens.append(start + np.ravel_multi_index(table[:, columns].T, [sizes[column] for column in columns]))
    tokens = np.stack(tokens, axis=1)
    missing = np.zeros(tokens.max() + 1, dtype=bool)
    missing[tokens] = True
    chosen = []
    while missing.any():
        chosen.append(missing[tokens].sum(axis=1).argmax())
        missing[tokens[chosen[-1]]] = False
    return [accepted[row] for row in chosen]


PRODUCT = [dict(zip(CHOICES, values, strict=True)) for values in product(*CHOICES.values())]
ACCEPTED = [choice for choice in PRODUCT if makes_sense(choice)]
DESIGN = covering(ACCEPTED, strength=3)
PAIRS = covering(ACCEPTED, strength=2)  # fewer, for what takes long or depends on single parts


@pytest.fixture
def parse(make_settings):
    """Give a function: the settings of a combination, small, with pixels that its likelihood takes."""

    def parse(choice):
        model = {key: value for key, value in choice.items() if key != "objective"}
        particles = 1 if choice["objective"] == "elbo" else 3
        return make_settings(
            prepare={"binarization": "dynamic" if choice["likelihood"] == "bernoulli" else "none"},
            model=SIZES | model,
            train={
                "objective": choice["objective"],
                "particles": particles,
                "batch_size": N,
                "epochs": STEPS,
                "schedule": "constant",
                # Small: dreg's gradient is the loss's over many draws, and here the draws are always the same.
                "learning_rate": 0.001,
            },
        )

    return parse


def test_the_settings_accept_the_combinations_that_make_sense_and_no_others(parse):
    for choice in PRODUCT:
        if makes_sense(choice):
            parse(choice)
        else:
            with pytest.raises(InputError):
                parse(choice)


def test_the_design_holds_all_that_is_accepted_three_by_three():
    def triples(choices):
        return {triple for choice in choices for triple in combinations(choice.items(), 3)}

    assert triples(DESIGN) == triples(ACCEPTED)
    assert len(DESIGN) < len(ACCEPTED) / 20


def outputs_of(model, images, labels):
    """All outputs of a model: shapes are checked here, values by the caller."""
    n, size = len(images), model.latent_dim
    latents = model.represent(images, labels)
    first_drawn = model.encode(images, labels)
    torch.manual_seed(1)
    terms = elbo_terms(model.model, model.guide, images, labels)
    weights = weight_terms(model.model, model.guide, 2, images, labels)
    outputs = {
        "representation": (latents, (n, size)),
        "reconstruction": (model.reconstruct(images, labels), (n, 1, 8, 8)),
        "decoded": (model.decode(torch.stack([latents, -latents]), labels), (2, n, 1, 8, 8)),
        "samples": (model.sample(3, 0, labels[:3]), (3, 1, 8, 8)),
        "log-likelihood": (terms.log_likelihood, (n,)),
        "kl": (terms.kl, (n,)),
        "weights": (weights.log_weights, (2, n)),
    }
    assert first_drawn.batch_shape == (n,)
    assert first_drawn.event_shape[0] <= size
    for name, (value, shape) in outputs.items():
        assert value.shape == shape, name
        assert value.isfinite().all(), name
    return {name: value for name, (value, _) in outputs.items()}


@pytest.mark.parametrize("choice", DESIGN, ids=lambda choice: "-".join(choice.values()))
def test_every_combination_trains_and_comes_back_from_its_file(lean, parse, digits, tmp_path, choice):
    """Of some 11,000 combinations that the settings accept, 120 in which any three choices occur together.

    All of them would take an hour; an error that needs four certain parts at once may escape.
    """
    settings = parse(choice)
    images, labels = digits[:N], torch.arange(N) % CLASSES
    model = make_model(settings.model, (1, 8, 8), CLASSES)
    initialize(model, images, settings.train)
    step = Step(model, images, settings.prepare.binarization == "dynamic", settings.train, labels)
    losses = []
    for _ in range(STEPS):
        # The same batch in the same order and the same draws each time: the loss is a function of the weights alone.
        torch.manual_seed(1)
        step.begin_epoch()
        step(N)
        losses.append(step.losses.item())
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    for (name, parameter), gradient in zip(model.named_parameters(), step.gradient_means, strict=True):
        assert parameter.isfinite().all(), name
        assert gradient.isfinite().all(), name
        assert (gradient != 0).any(), f"{name} has no part in the loss"

    save(model, tmp_path / "model", settings.model, {"classes": list("0123456789")})
    loaded = load(tmp_path / "model")
    assert type(loaded) is type(model)
    with torch.no_grad():
        ours, theirs = (outputs_of(each, pixels(images, binarize=False), labels) for each in (model.eval(), loaded))
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


# --- What the settings refuse

WIDE = {"prior": "standard_normal", "posterior": "diagonal_normal", "levels": "one", "flow_widths": [64]}
VAMPPRIOR = WIDE | {"prior": "vampprior"}
IWAE, HVAE = WIDE | {"levels": "iwae"}, WIDE | {"levels": "hvae"}
EIGHT = WIDE | {"latent_dim": 8, "top_dim": 8, "posterior": "iaf"}
GRAY = {"binarization": "none"}
LIKELIHOODS_OF_GRAY = ("relaxed_bernoulli", "continuous_bernoulli", "discretized_logistic")
DIAGONAL = "diagonal_normal, as a VampPrior is a mixture of diagonal normals"
BELOW = "one, hvae, hvae_branched, as with iwae the encoder does not reach the VampPrior's level"
NO_LABELS = "none, as a VampPrior's pseudo-inputs have no labels"
NO_FLOW_PRIOR = "standard_normal, gaussian_mixture, vampprior, as a coupling flow needs two latent dimensions"
NO_FLOW_POSTERIOR = "diagonal_normal, full_covariance, as a flow needs two latent dimensions"
LAYERS = "one or more widths, as a flow's networks need hidden layers"
UNITS = "widths of at least 8, as an IAF's networks need a hidden unit for each latent dimension"
TWO_MASKS = "0, as dreg runs the guide twice, and each run would drop other units"
GIVEN_DRAWS = "elbo, iwae, as it needs the density of given draws, which takes an IAF one pass per dimension"
FREE_BITS = "0, as free bits are defined for the ELBO's KL"
FOR_GRAY = "relaxed_bernoulli, continuous_bernoulli, discretized_logistic, as prepare.binarization is none"

REFUSED = [
    ({"model": VAMPPRIOR | {"posterior": "full_covariance"}}, "model.posterior: got 'full_covariance'", DIAGONAL),
    ({"model": VAMPPRIOR | {"posterior": "iaf"}}, "model.posterior: got 'iaf'", DIAGONAL),
    ({"model": VAMPPRIOR | {"posterior": "coupling"}}, "model.posterior: got 'coupling'", DIAGONAL),
    ({"model": VAMPPRIOR | {"levels": "iwae"}}, "model.levels: got 'iwae'", BELOW),
    ({"model": VAMPPRIOR | {"condition": "label"}}, "model.condition: got 'label'", NO_LABELS),
    ({"model": WIDE | {"latent_dim": 1, "prior": "realnvp"}}, "model.prior: got 'realnvp'", NO_FLOW_PRIOR),
    ({"model": HVAE | {"top_dim": 1, "prior": "spline"}}, "model.prior: got 'spline'", NO_FLOW_PRIOR),
    ({"model": WIDE | {"latent_dim": 1, "posterior": "iaf"}}, "model.posterior: got 'iaf'", NO_FLOW_POSTERIOR),
    ({"model": IWAE | {"latent_dim": 1, "posterior": "iaf"}}, "model.posterior: got 'iaf'", NO_FLOW_POSTERIOR),
    ({"model": HVAE | {"top_dim": 1, "posterior": "coupling"}}, "model.posterior: got 'coupling'", NO_FLOW_POSTERIOR),
    ({"model": WIDE | {"prior": "spline", "flow_widths": []}}, "model.flow_widths: got []", LAYERS),
    ({"model": WIDE | {"posterior": "coupling", "flow_widths": []}}, "model.flow_widths: got []", LAYERS),
    ({"model": EIGHT | {"flow_widths": [9, 7]}}, "model.flow_widths: got [9, 7]", UNITS),
    ({"model": EIGHT | {"levels": "hvae", "flow_widths": [7]}}, "model.flow_widths: got [7]", UNITS),
    ({"model": EIGHT, "train": {"objective": "dreg"}}, "train.objective: got 'dreg'", GIVEN_DRAWS),
    ({"model": {"dropout": 0.1}, "train": {"objective": "dreg"}}, "model.dropout: got 0.1", TWO_MASKS),
    ({"train": {"kept_epoch": "last", "patience": 9}}, "train.patience: got 9", "0, as train.kept_epoch is last"),
    (
        {"model": {"dropout": 0.1, "prior": "vampprior"}, "train": {"processes": "auto"}},
        "train.processes: got 'auto'",
        "1, as with dropout each process would see another VampPrior",
    ),
    ({"train": {"objective": "iwae", "free_bits": 0.5}}, "train.free_bits: got 0.5", FREE_BITS),
    ({"train": {"objective": "dreg", "free_bits": 2.0}}, "train.free_bits: got 2.0", FREE_BITS),
    ({"model": {"likelihood": "bernoulli"}, "prepare": GRAY}, "model.likelihood: got 'bernoulli'", FOR_GRAY),
    *(
        (
            {"model": {"likelihood": likelihood}, "prepare": {"binarization": binarization}},
            f"model.likelihood: got {likelihood!r}",
            f"bernoulli, as prepare.binarization is {binarization}",
        )
        for likelihood in LIKELIHOODS_OF_GRAY
        for binarization in ("dynamic", "static", "threshold")
    ),
]


@pytest.mark.parametrize("count", ["1", "2"])
def test_dropout_in_a_vampprior_is_refused_to_several_processes_whoever_started_them(make_settings, monkeypatch, count):
    for name, value in {"RANK": "0", "WORLD_SIZE": count, "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    chosen = {"model": {"dropout": 0.1, "prior": "vampprior"}, "train": {"processes": 1}}
    refused = pytest.raises(InputError, match=r"train\.processes: got 2, allowed: 1, as with dropout each")
    with nullcontext() if count == "1" else refused:
        make_settings(**chosen)


@pytest.mark.parametrize(("changes", "got", "allowed"), REFUSED, ids=[got for _, got, _ in REFUSED])
def test_what_makes_no_sense_is_refused_with_key_value_and_reason(make_settings, changes, got, allowed):
    with pytest.raises(InputError) as caught:
        make_settings(**changes)
    assert str(caught.value) == f"params.yaml: {got}, allowed: {allowed}"


ALLOWED = [
    {"model": VAMPPRIOR | {"levels": "hvae"}},
    {"model": WIDE | {"latent_dim": 2, "prior": "realnvp", "posterior": "iaf"}},
    {"model": HVAE | {"latent_dim": 1, "top_dim": 2, "prior": "spline", "posterior": "coupling"}},
    {"model": IWAE | {"latent_dim": 2, "top_dim": 1, "posterior": "coupling"}},
    {"model": WIDE | {"latent_dim": 1, "posterior": "full_covariance"}},
    {"model": WIDE | {"flow_widths": []}},
    {"model": EIGHT | {"flow_widths": [8]}},
    {"model": EIGHT | {"levels": "hvae", "latent_dim": 40, "flow_widths": [8]}},
    {"model": EIGHT, "train": {"objective": "iwae"}},
    {"model": {"dropout": 0.1}, "train": {"objective": "iwae"}},
    {"train": {"kept_epoch": "last"}},
    {"train": {"objective": "elbo", "free_bits": 0.5}},
    *(
        {"model": {"likelihood": "bernoulli"}, "prepare": {"binarization": binarization}}
        for binarization in ("dynamic", "static", "threshold")
    ),
    *({"model": {"likelihood": likelihood}, "prepare": GRAY} for likelihood in LIKELIHOODS_OF_GRAY),
]


@pytest.mark.parametrize("changes", ALLOWED)
def test_what_is_next_to_it_is_allowed_and_can_be_built(make_settings, changes):
    settings = make_settings(**changes)
    model = make_model(settings.model, (1, 8, 8), CLASSES)
    assert model.reconstruct(torch.rand(2, 1, 8, 8)).shape == (2, 1, 8, 8)
