"""The likelihoods p(x | z) of an image whose pixels are independent given the decoder's output.

Each is a module. `parameters_per_channel` is the number of decoder outputs for each channel of each pixel:
outputs of shape (..., parameters * channels, height, width), all channels of the first parameter first, become a
distribution with batch shape (...) and event shape (channels, height, width). `binary` says whether pixels can only
be 0 or 1. `initial_output` is the output for which each pixel's mean is about that of `images`, float (n, channels,
height, width); its shape is (parameters * channels, height, width).
"""

import math
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vae.model.distributions.continuous_bernoulli import ContinuousBernoulliImage, logit_of_mean
from vae.model.kernels import cross_entropy


class BernoulliImage(dist.TorchDistribution):
    """`dist.Bernoulli(logits=logits).to_event(3)` with a density that saves two passes over the pixels."""

    arg_constraints: ClassVar[dict] = {}
    support = dist.constraints.independent(dist.constraints.boolean, 3)

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        super().__init__(logits.shape[:-3], logits.shape[-3:], validate_args=False)

    def expand(self, batch_shape, _instance=None):
        """The same images in a larger batch."""
        if batch_shape == self.batch_shape:
            return self
        return BernoulliImage(self.logits.expand(*batch_shape, *self.event_shape))

    @property
    def mean(self) -> Tensor:
        """Each pixel's probability of being 1."""
        return self.logits.sigmoid()

    @property
    def variance(self) -> Tensor:
        """Each pixel's variance."""
        return self.mean * (1 - self.mean)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:
        """Draw images of 0 and 1."""
        return torch.bernoulli(self.mean.expand(self._extended_shape(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        """Minus the cross-entropy, summed over the pixels of images (..., channels, height, width)."""
        return -cross_entropy(self.logits, value)


class Bernoulli(nn.Module):
    """Pixels that are 0 or 1; the output is the logit."""

    parameters_per_channel, binary = 1, True

    def forward(self, outputs: Tensor) -> dist.Distribution:
        return BernoulliImage(outputs)

    @staticmethod
    def initial_output(images: Tensor) -> Tensor:
        """The logit of the mean image, clipped as Burda et al. (2015) do."""
        return images.mean(0).clamp(0.001, 0.999).logit()


class RelaxedBernoulli(Bernoulli):
    """Pixels in [0, 1] under a Bernoulli cross-entropy, which is not a density."""

    binary = False


class ContinuousBernoulli(nn.Module):
    """Pixels in [0, 1]; the output is the logit (Loaiza-Ganem & Cunningham 2019)."""

    parameters_per_channel, binary = 1, False

    def forward(self, outputs: Tensor) -> dist.Distribution:
        return ContinuousBernoulliImage(outputs)

    @staticmethod
    def initial_output(images: Tensor) -> Tensor:
        """The logit at which the distribution has the mean image, clipped as a Bernoulli's."""
        return logit_of_mean(images.mean(0))


class LogisticPixels(dist.TorchDistribution):
    """8-bit pixels k / 255 with probability sigmoid((x + 1/510 - mean) / scale) - sigmoid((x - 1/510 - mean) / scale).

    The lowest and the highest value include the tails (Salimans et al. 2017, equation 2).
    """

    arg_constraints: ClassVar[dict] = {}
    support = dist.constraints.unit_interval
    half_bin = 1 / 510

    def __init__(self, mean: Tensor, log_scale: Tensor) -> None:
        self.loc, self.log_scale = mean, log_scale
        super().__init__(batch_shape=mean.shape, validate_args=False)

    def expand(self, batch_shape, _instance=None):
        """The same pixels in a larger batch."""
        return LogisticPixels(self.loc.expand(batch_shape), self.log_scale.expand(batch_shape))

    @property
    def mean(self) -> Tensor:
        """The logistic's mean within the pixels' range."""
        return self.loc.clamp(0, 1)

    @property
    def variance(self) -> Tensor:
        """Each pixel's variance, from the probabilities of all 256 values."""
        first, second = torch.zeros_like(self.loc), torch.zeros_like(self.loc)
        precision = (-self.log_scale).exp()
        for value in range(1, 256):
            # E[X] is the sum of P(X >= k) / 255 over k, E[X^2] that of (2 k - 1) P(X >= k) / 255^2.
            reached = torch.sigmoid((self.loc - value / 255 + self.half_bin) * precision)
            first += reached / 255
            second += reached * ((2 * value - 1) / 255**2)
        return (second - first.square()).clamp(min=0)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:
        """Draw pixels, rounded to the 256 values."""
        uniform = torch.rand(self._extended_shape(sample_shape), device=self.loc.device).clamp(1e-6, 1 - 1e-6)
        return ((self.loc + self.log_scale.exp() * uniform.logit()).clamp(0, 1) * 255).round() / 255

    def log_prob(self, value: Tensor) -> Tensor:
        """The log probability of pixels k / 255."""
        precision = (-self.log_scale).exp()
        upper = (value - self.loc + self.half_bin) * precision
        lower = (value - self.loc - self.half_bin) * precision
        # log(sigmoid(a) - sigmoid(b)) without cancellation.
        between = F.logsigmoid(upper) + F.logsigmoid(-lower) + torch.log(-torch.expm1(lower - upper))
        ends = torch.where(value < self.half_bin, F.logsigmoid(upper), between)
        return torch.where(value > 1 - self.half_bin, F.logsigmoid(-lower), ends)


class DiscretizedLogistic(nn.Module):
    """8-bit pixels; the outputs are each logistic's mean (as a logit) and log scale, the scale being above 1/1100."""

    parameters_per_channel, binary = 2, False

    def forward(self, outputs: Tensor) -> dist.Distribution:
        mean, log_scale = outputs.chunk(2, dim=-3)
        return LogisticPixels(mean.sigmoid(), log_scale.clamp(min=-7)).to_event(3)

    @staticmethod
    def initial_output(images: Tensor) -> Tensor:
        """The logit of the mean image, and the scale that gives each pixel its standard deviation."""
        mean = images.mean(0).clamp(0.001, 0.999).logit()
        scale = (images.std(0) * math.sqrt(3) / math.pi).clamp(min=0.02)
        return torch.cat([mean, scale.log()])


def mark_relaxed(metrics: dict[str, Any], likelihood: str) -> dict[str, Any]:
    """Prefix metrics in nats or bits with `relaxed_` if the loss is a grayscale cross-entropy, not a likelihood."""
    if likelihood != "relaxed_bernoulli":
        return metrics
    return {
        f"relaxed_{name}" if any(word in name for word in ("elbo", "nll", "bits")) else name: value
        for name, value in metrics.items()
    }


# A new likelihood is one class, one line here, and in vae/settings the pixels it accepts.
LIKELIHOODS: dict[str, type[nn.Module]] = {
    "bernoulli": Bernoulli,
    "relaxed_bernoulli": RelaxedBernoulli,
    "continuous_bernoulli": ContinuousBernoulli,
    "discretized_logistic": DiscretizedLogistic,
}
