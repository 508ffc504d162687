import numpy as np
import torch

from vae.training.initialization import initialize


def test_training_starts_at_the_mean_image(make_model, digits):
    model = make_model()
    initialize(model, digits)
    with torch.no_grad():
        model.decoder.output.weight.zero_()
    mean = digits.double().numpy().mean(axis=0) / 255
    # The digits' corners are always black: clipped to a thousandth. float32 sums of 1797 bytes.
    assert mean.min() == 0
    np.testing.assert_allclose(model.sample(1, seed=0)[0].detach(), np.clip(mean, 0.001, 0.999), rtol=1e-5)


def test_a_vampprior_starts_at_training_images(make_model, digits):
    model = make_model(prior="vampprior", prior_components=20)
    initialize(model, digits[:200])
    pseudo_inputs = model.prior.logits.detach().sigmoid()
    # Pixels are kept within a twentieth of 0 and 1, where a logit still learns.
    images = (digits[:200].float() / 255).clamp(0.05, 0.95)
    distances = (pseudo_inputs[:, None] - images).abs().flatten(2).amax(dim=-1)
    assert (distances.amin(dim=1) < 1e-5).all()
    assert len(distances.argmin(dim=1).unique()) == 20
