"""Adam (Kingma & Ba 2015, algorithm 1) with learning rate and update count on the device."""

from collections.abc import Sequence

import torch
from torch import Tensor

BETA_2 = 0.999


def normalize(gradients: Sequence[Tensor]) -> None:
    """Divide each tensor by its norm plus 1e-7, in place: the `AdamNormGrad` of Tomczak & Welling's (2018) code."""
    norms = torch._foreach_norm(gradients)
    torch._foreach_add_(norms, 1e-7)
    torch._foreach_div_(gradients, norms)


def update(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    means: Sequence[Tensor],
    square_means: Sequence[Tensor],
    *,
    rate: Tensor,
    updates: Tensor,
    beta1: float,
    epsilon: float,
    weight_decay: float,
) -> None:
    """Update the parameters, and the running means of their gradients (m) and squared gradients (v), in place.

    `rate` (alpha) and `updates` (t, this one included) are float32 of shape (). A gradient has its parameter's strides
    and dtype. Decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2) multiplies parameters of more than one
    dimension by 1 - `rate` * `weight_decay` beforehand.
    """
    lists = (parameters, gradients, means, square_means)
    for decay in (weight_decay, 0) if weight_decay else (0,):
        chosen = [
            i for i, parameter in enumerate(parameters) if not weight_decay or (parameter.ndim > 1) == bool(decay)
        ]
        # The kernels behind torch.optim.Adam(fused=True) and AdamW, whose bookkeeping takes a tenth of a small step.
        (torch._fused_adamw_ if decay else torch._fused_adam_)(
            *([tensors[i] for i in chosen] for tensors in lists),
            [],
            [updates] * len(chosen),
            lr=rate,
            beta1=beta1,
            beta2=BETA_2,
            eps=epsilon,
            weight_decay=decay,
            amsgrad=False,
            maximize=False,
        )
