"""What changes from step to step: the learning rate and the KL term's weight."""

import math

import torch
from torch import Tensor

from vae.settings import Train


def learning_rates(settings: Train, steps: int) -> Tensor:
    """The learning rate of each step, float32 of shape (steps,).

    `one_cycle` rises over the first 30 % of the steps from 1/25 of the peak and falls to 0, both along a
    cosine (Smith & Topin 2017); `cosine` falls from the first step on. `iwae` has eight stages, each three times as
    long as the one before and at 10^(-1/7) times its rate (Burda et al. 2015, section 5: 3280 passes in all), its
    factors rounded to hundredths as in the authors' code.
    """
    done = torch.arange(steps, dtype=torch.float64) / max(steps - 1, 1)
    if settings.schedule == "constant":
        factor = torch.ones(steps, dtype=torch.float64)
    elif settings.schedule == "cosine":
        factor = (1 + torch.cos(math.pi * done)) / 2
    elif settings.schedule == "iwae":
        ends = torch.tensor([(3 ** (i + 1) - 1) / (3**8 - 1) for i in range(7)], dtype=torch.float64)
        stage = torch.bucketize(torch.arange(steps, dtype=torch.float64) / steps, ends, right=True)
        factor = torch.round(10.0 ** (-stage / 7), decimals=2)
    else:
        rise, start = 0.3, 1 / 25
        up = start + (1 - start) * (1 - torch.cos(math.pi * done / rise)) / 2
        down = (1 + torch.cos(math.pi * (done - rise) / (1 - rise))) / 2
        factor = torch.where(done < rise, up, down)
    return (settings.learning_rate * factor).float()


def kl_weights(settings: Train, steps: int, steps_per_epoch: int) -> Tensor:
    """The KL term's weight at each step, float32 of shape (steps,): rising linearly to beta (Bowman et al. 2016).

    By epoch instead of by step it has the value that the epoch would end with (Tomczak & Welling 2018).
    """
    done = torch.arange(1, steps + 1, dtype=torch.float64)
    if settings.kl_warmup_by == "epoch":
        done = (done / steps_per_epoch).ceil() * steps_per_epoch
    warm_up = settings.kl_warmup_epochs * steps_per_epoch
    return settings.beta * (done / max(warm_up, 1)).clamp(max=1).float()
