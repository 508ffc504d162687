import math

import numpy as np
import pytest
import torch

from vae.model.networks.convolutional import ResidualBlock
from vae.training.initialization import initialize


def test_training_starts_at_the_mean_image(make_model, make_train, digits):
    model = make_model()
    initialize(model, digits, make_train())
    with torch.no_grad():
        model.decoder.output.weight.zero_()
    mean = digits.double().numpy().mean(axis=0) / 255
    # The digits' corners are always black: clipped to a thousandth. float32 sums of 1797 bytes.
    assert mean.min() == 0
    np.testing.assert_allclose(model.sample(1, seed=0)[0].detach(), np.clip(mean, 0.001, 0.999), rtol=1e-5)


def test_of_many_images_every_kth_makes_the_mean_image(make_model, make_train, digits, monkeypatch):
    monkeypatch.setattr("vae.training.initialization._ENOUGH", 64 * 500)  # of 1797: every fourth
    model, expected = make_model(), make_model()
    initialize(model, digits, make_train())
    initialize(expected, digits[::4], make_train())
    assert torch.equal(model.decoder.bias, expected.decoder.bias)
    assert not torch.equal(digits[::4].float().mean(0), digits.float().mean(0))


def test_a_vampprior_starts_at_training_images(make_model, make_train, digits):
    model = make_model(prior="vampprior", prior_components=20)
    initialize(model, digits[:200], make_train())
    pseudo_inputs = model.prior.logits.detach().sigmoid()
    # Pixels are kept within a twentieth of 0 and 1, where a logit still learns.
    images = (digits[:200].float() / 255).clamp(0.05, 0.95)
    distances = (pseudo_inputs[:, None] - images).abs().flatten(2).amax(dim=-1)
    assert (distances.amin(dim=1) < 1e-5).all()
    assert len(distances.argmin(dim=1).unique()) == 20


def weights_by_name(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def test_glorots_weights_are_uniform_within_their_bound_and_biases_zero(make_model, make_train, digits):
    model = make_model(encoder_widths=[200], latent_dim=50)
    initialize(model, digits, make_train(initialization="glorot", initialize_from_data=False))
    # Mean and log scale are layers of their own, each from 200 inputs to 50 outputs.
    mean, log_scale = model.posterior.head.weight.detach().chunk(2)
    for weight, (inputs, outputs) in [
        (model.encoder.layers[0][0].weight.detach(), (64, 200)),
        (mean, (200, 50)),
        (log_scale, (200, 50)),
    ]:
        bound = math.sqrt(6 / (inputs + outputs))
        # The largest of 10,000 uniform numbers is within a thousandth of the bound but for one run in 20,000.
        assert 0.999 * bound < weight.abs().max() <= bound
        np.testing.assert_allclose(weight.square().mean(), bound**2 / 3, rtol=0.06)  # six standard errors
    biases = [parameter for name, parameter in model.named_parameters() if name.endswith("bias")]
    assert not any(bias.any() for bias in biases)


def test_hes_weights_are_normal_with_torchs_biases(make_model, make_train, digits):
    model, before = make_model(encoder_widths=[200]), weights_by_name(make_model(encoder_widths=[200]))
    initialize(model, digits, make_train(initialization="he", initialize_from_data=False))
    weight = model.encoder.layers[0][0].weight.detach()
    np.testing.assert_allclose(weight.square().mean(), 2 / 64, rtol=0.08)  # six standard errors of 12,800 squares
    np.testing.assert_allclose((weight**4).mean() / weight.square().mean() ** 2, 3, rtol=0.2)  # a normal's kurtosis
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == name.endswith("bias"), name


@pytest.mark.parametrize("initialization", ["glorot", "he"])
def test_flows_and_residual_blocks_still_start_as_the_identity(make_model, make_train, digits, initialization):
    keys = {"network": "resnet", "encoder_widths": [4], "decoder_widths": [4], "prior": "realnvp", "flow_widths": [8]}
    model = make_model(**keys)
    initialize(model, digits, make_train(initialization=initialization))
    z = torch.randn(5, 3)
    torch.testing.assert_close(model.prior().log_prob(z), -(z.square().sum(-1) + 3 * math.log(2 * math.pi)) / 2)
    blocks = [module for module in model.modules() if isinstance(module, ResidualBlock)]
    maps = torch.randn(2, 4, 4, 4)
    assert blocks
    assert all(torch.equal(block(maps), maps) for block in blocks)


def test_without_data_pseudo_inputs_start_dark_and_the_output_at_torchs_bias(make_model, make_train, digits):
    keys = {"prior": "vampprior", "prior_components": 50}
    model, before = make_model(**keys), weights_by_name(make_model(**keys))
    initialize(model, digits, make_train(initialize_from_data=False))
    pseudo_inputs = model.prior.logits.detach().sigmoid()
    # N(0.05, 0.01^2): 3200 draws, six standard errors of the mean and of the standard deviation.
    assert abs(pseudo_inputs.mean() - 0.05) < 6 * 0.01 / math.sqrt(3200)
    assert abs(pseudo_inputs.std() - 0.01) < 6 * 0.01 / math.sqrt(6400)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters() if name != "prior.logits")
