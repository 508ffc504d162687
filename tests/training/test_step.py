import copy
import math

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from vae.data.images import pixels
from vae.model import VAE
from vae.model.objectives import OBJECTIVES
from vae.training.schedules import learning_rates
from vae.training.step import Step


def run_epochs(step, epochs=1):
    for _ in range(epochs):
        step.begin_epoch()
        for _ in step.steps():
            pass


@pytest.fixture
def images(digits):
    """150 digits: two whole mini-batches of 64 and one of 22."""
    return digits[:150]


# --- Pixels


def test_pixels_are_bytes_as_fractions_of_255():
    images = torch.arange(256, dtype=torch.uint8).reshape(4, 8, 8)
    x = pixels(images, binarize=False)
    assert x.dtype == torch.float32
    np.testing.assert_allclose(x, np.arange(256).reshape(4, 8, 8) / 255, rtol=1e-6)


def test_drawn_pixels_are_1_with_their_intensity_as_the_probability():
    draws = 4000
    images = torch.arange(256, dtype=torch.uint8).expand(draws, 256)
    x = pixels(images, binarize=True)
    assert x.dtype == torch.float32
    assert bool(((x == 0) | (x == 1)).all())
    intensities = np.arange(256) / 255
    # Five standard errors of a share; certain where the intensity is 0 or 1.
    tolerance = 5 * np.sqrt(intensities * (1 - intensities) / draws)
    assert (np.abs(x.mean(dim=0).double().numpy() - intensities) <= tolerance + 1e-6).all()
    assert torch.equal(x[:, 0], torch.zeros(draws))
    assert torch.equal(x[:, 255], torch.ones(draws))


@pytest.mark.parametrize(("noise", "ones"), [(0x8000, 255), (0x7FFF, 1)], ids=["lowest", "highest"])
def test_black_and_white_pixels_stay_as_they_are_at_the_ends_of_the_noise(monkeypatch, noise, ones):
    four = int.from_bytes(noise.to_bytes(2, "big") * 4, "big", signed=True)
    monkeypatch.setattr(torch.Tensor, "random_", lambda numbers, low, high: numbers.fill_(four))
    x = pixels(torch.arange(256, dtype=torch.uint8), binarize=True)
    assert torch.equal(x, (torch.arange(256) >= 256 - ones).float())


def test_neighboring_pixels_are_drawn_independently():
    draws = pixels(torch.full((20_000, 8), 128, dtype=torch.uint8), binarize=True)
    correlations = np.corrcoef(draws.T.numpy()) - np.eye(8)
    assert np.abs(correlations).max() < 5 / math.sqrt(20_000)  # five standard errors


def test_every_draw_is_a_new_one():
    images = torch.full((10, 8, 8), 128, dtype=torch.uint8)
    assert not torch.equal(pixels(images, binarize=True), pixels(images, binarize=True))


# --- The step


def train_by_hand(model, images, draw, settings):
    """Plain PyTorch: shuffled mini-batches, the ELBO written out, Adam.

    Gives the moving average of the weights, and the sums of log-likelihood and KL over the last epoch.
    """
    parameters = list(model.parameters())
    matrices, vectors = ([p for p in parameters if (p.ndim > 1) == many] for many in (True, False))
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0}]
    adam = torch.optim.AdamW(groups, eps=settings.adam_epsilon, betas=(settings.adam_beta1, 0.999))
    average = [parameter.detach().clone() for parameter in parameters]
    steps_per_epoch = math.ceil(len(images) / settings.batch_size)
    rates = learning_rates(settings, steps_per_epoch * settings.epochs).tolist()
    for epoch in range(settings.epochs):
        sums = np.zeros(2)
        order = torch.randperm(len(images)) if settings.shuffle else torch.arange(len(images))
        for batch, chosen in enumerate(order.split(settings.batch_size)):
            x = images[chosen] / 255
            if draw:
                # Sixteen bits of noise per pixel, four pixels from one random number.
                numbers = torch.empty(math.ceil(x.numel() / 4), dtype=torch.int64).random_(-(2**63), None)
                noise = numbers.numpy().view(np.int16)[: x.numel()].reshape(x.shape).astype(np.float64)
                x = torch.from_numpy((noise + 2**15) / 2**16 < x.double().numpy()).float()
            mean, log_scale = model.posterior.head(model.features(x.view(-1, 1, 8, 8))).chunk(2, dim=-1)
            noise = torch.randn(mean.shape)
            z = mean + log_scale.exp() * noise
            logits = model.decoder(z).view(x.shape)
            log_likelihood = -binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(-1)
            if settings.kl == "sampled":  # log q(z | x) - log p(z)
                kl = (z**2 - noise**2).sum(-1) / 2 - log_scale.sum(-1)
            else:
                kl = (mean**2 + (2 * log_scale).exp() - 1 - 2 * log_scale).sum(-1) / 2
            index = epoch * steps_per_epoch + batch
            warm_up = settings.kl_warmup_epochs * steps_per_epoch
            weight = settings.beta * (min(1, (index + 1) / warm_up) if warm_up else 1)
            loss = -(log_likelihood - weight * kl).mean()
            adam.zero_grad()
            loss.backward()
            if settings.gradient_clip:
                norm = math.sqrt(sum(parameter.grad.square().sum().item() for parameter in parameters))
                for parameter in parameters:
                    parameter.grad *= min(1, settings.gradient_clip / norm)
            for parameter in parameters if settings.normalize_gradients else []:
                parameter.grad /= parameter.grad.norm() + 1e-7
            for group in adam.param_groups:
                group["lr"] = rates[index]
            adam.step()
            for mean_weight, parameter in zip(average, parameters, strict=True):
                mean_weight *= settings.ema_decay
                mean_weight += (1 - settings.ema_decay) * parameter.detach()
            sums += [log_likelihood.sum().item(), kl.sum().item()]
    return average, sums


CHANGES = [
    {},
    {"schedule": "cosine", "batch_size": 50},
    {"schedule": "constant", "batch_size": 200},
    {"gradient_clip": 5},
    {"ema_decay": 0.8},
    {"kl_warmup_epochs": 2},
    {"beta": 0.5},
    {"adam_epsilon": 0.01},
    {"adam_beta1": 0.5},
    {"weight_decay": 5.0},
    {"shuffle": False},
    {"kl": "sampled", "kl_warmup_epochs": 2},
    {"normalize_gradients": True, "adam_epsilon": 0.01},
    {"gradient_clip": 5, "ema_decay": 0.8, "kl_warmup_epochs": 1, "beta": 3},
]


def describe(changes):
    return ", ".join(f"{key} {value}" for key, value in changes.items()) or "default"


@pytest.mark.parametrize("draw", [False, True], ids=["as they are", "drawn"])
@pytest.mark.parametrize("changes", CHANGES, ids=describe)
def test_steps_equal_plain_pytorch(lean, make_model, make_train, images, changes, draw):
    settings = make_train(epochs=3, **changes)
    model, by_hand = make_model(), make_model()
    step = Step(model, images, draw, settings)
    torch.manual_seed(1)
    run_epochs(step, settings.epochs)
    torch.manual_seed(1)
    average, sums = train_by_hand(by_hand, images, draw, settings)
    # Nine steps of float32 rounding: differences of 1e-7 were seen, and steps are of 1e-2.
    for ours, theirs in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)
    for ours, theirs in zip(step.average, average if settings.ema_decay else [], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)
    np.testing.assert_allclose(step.totals, sums, rtol=1e-5)


def test_making_a_step_changes_no_weight(lean, make_model, make_train, images):
    model = make_model()
    before = copy.deepcopy(model.state_dict())
    Step(model, images, True, make_train())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_an_epoch_takes_each_image_once_in_an_order_of_its_own(lean, make_model, make_train, images):
    step = Step(make_model(), images, False, make_train())
    orders = []
    for _ in range(2):
        step.begin_epoch()
        orders.append(step.order.tolist())
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(150))
    assert orders[0] != orders[1]


def test_without_shuffling_every_epoch_takes_the_images_in_their_order(lean, make_model, make_train, images):
    step = Step(make_model(), images, False, make_train(shuffle=False))
    before = torch.get_rng_state()
    step.begin_epoch()
    assert step.order.tolist() == list(range(150))
    assert torch.equal(torch.get_rng_state(), before)


def test_labels_go_with_their_images_to_a_conditional_model_alone(lean, make_settings, make_train, images, monkeypatch):
    elbo = OBJECTIVES["elbo"]
    labels = torch.arange(150) % 10
    for condition in ("label", "none"):
        keys = {"prior": "standard_normal", "encoder_widths": [4], "decoder_widths": [4], "condition": condition}
        model = VAE(make_settings(model=keys).model, tuple(images.shape[1:]), classes=10)
        step, seen = Step(model, images, False, make_train(), labels), []

        def recording(module, args, *rest, step=step, seen=seen):
            seen.append(args)
            return elbo(module, args, *rest)

        monkeypatch.setitem(OBJECTIVES, "elbo", recording)
        run_epochs(step)
        assert torch.equal(torch.cat([batch[0] for batch in seen]), pixels(images[step.order], binarize=False))
        if condition == "label":
            assert torch.equal(torch.cat([batch[1] for batch in seen]), labels[step.order])
        else:
            assert [batch[1] for batch in seen] == [None] * 3


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_step_takes_the_objective_that_the_settings_name(
    lean, make_model, make_train, images, objective, monkeypatch
):
    settings = make_train(objective=objective, particles=3, batch_size=150)
    model, expected = make_model(), make_model()
    step = Step(model, images, False, settings)
    gradients = []
    monkeypatch.setattr(step, "_update", gradients.extend)
    torch.manual_seed(1)
    run_epochs(step)
    torch.manual_seed(1)
    x = pixels(images[torch.randperm(150)], binarize=False)
    loss, terms = OBJECTIVES[objective](expected, (x, None), 1.0, settings)
    loss.backward()
    assert step.losses.item() == loss.item()
    np.testing.assert_allclose(
        step.totals, [150 * terms.log_likelihood.mean().item(), 150 * terms.kl.mean().item()], rtol=1e-6
    )
    for ours, theirs in zip(gradients, expected.parameters(), strict=True):
        assert torch.equal(ours, theirs.grad)


def test_totals_are_sums_over_the_images_of_the_epoch_alone(lean, make_model, make_train, images):
    model = make_model()
    with torch.no_grad():
        # z tells nothing of x and nothing is learned: every epoch has the same totals.
        model.decoder.output.weight.zero_()
    settings = make_train(learning_rate=1e-30)
    step = Step(model, images, False, settings)
    x = images.numpy() / 255
    q = model.encode(torch.from_numpy(x).float())
    mean, scale = q.mean.detach().double().numpy(), q.stddev.detach().double().numpy()
    logits = model.decoder.output.bias.detach().double().numpy().reshape(x.shape[1:])
    expected = [(x * logits - np.logaddexp(0, logits)).sum(), (mean**2 + scale**2 - 1 - 2 * np.log(scale)).sum() / 2]
    for _ in range(2):
        run_epochs(step)
        assert step.totals.dtype == torch.float64
        # float32 sums over 150 images.
        np.testing.assert_allclose(step.totals, expected, rtol=1e-5)


def test_losses_are_those_of_the_epochs_steps(lean, make_model, make_train, images):
    step = Step(make_model(), images, True, make_train())
    run_epochs(step)
    sizes = torch.tensor([64.0, 64.0, 22.0])
    # Each loss is a mean over its step's images; float32 against float64 sums.
    elbo = step.totals[0] - step.totals[1]
    torch.testing.assert_close((step.losses * sizes).sum().double(), -elbo, rtol=1e-5, atol=0)


def test_losses_tell_the_step_at_which_the_loss_was_not_finite(lean, make_model, make_train, images):
    model = make_model()
    step = Step(model, images, True, make_train())
    run_epochs(step)
    step.begin_epoch()
    step(64)
    with torch.no_grad():
        model.decoder.output.bias.fill_(math.nan)
    step(64)
    assert step.losses.isfinite().tolist() == [True, False, True]


def test_restored_tensors_continue_the_same_run(device, make_model, make_train, images):
    images, settings = images.to(device), make_train(ema_decay=0.9)

    def continued(step):
        torch.manual_seed(1)
        step(64)
        step(22)
        totals = step.totals.clone()
        run_epochs(step)
        return [totals, step.totals, step.order, step.index, step.losses, step.rate, *step.average, *step.parameters]

    step = Step(make_model().to(device), images, True, settings)
    run_epochs(step)
    step.begin_epoch()
    step(64)
    kept = {name: tensor.clone() for name, tensor in step.tensors().items()}
    other = Step(make_model(seed=9).to(device), images, True, settings)
    other.restore(kept)
    for tensor, expected in zip(continued(other), continued(step), strict=True):
        assert torch.equal(tensor, expected)


@pytest.mark.parametrize("how", ["auto", "eager"])
def test_nothing_is_captured_on_the_cpu(make_model, make_train, images, how):
    assert not Step(make_model(), images, True, make_train(step=how)).captures
