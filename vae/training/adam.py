"""Adam (Kingma & Ba 2015, algorithm 1) with learning rate and update count on the device."""

from collections.abc import Sequence

import torch
from torch import Tensor

BETAS = (0.9, 0.999)


def update(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    means: Sequence[Tensor],
    square_means: Sequence[Tensor],
    *,
    rate: Tensor,
    updates: Tensor,
    epsilon: float,
) -> None:
    """Update the parameters, and the running means of their gradients (m) and squared gradients (v), in place.

    `rate` (alpha) and `updates` (t, this one included) are float32 of shape (). A gradient has its parameter's strides
    and dtype.
    """
    # The kernel behind torch.optim.Adam(fused=True), whose bookkeeping takes a tenth of a small step.
    torch._fused_adam_(
        parameters,
        gradients,
        means,
        square_means,
        [],
        [updates] * len(parameters),
        lr=rate,
        beta1=BETAS[0],
        beta2=BETAS[1],
        eps=epsilon,
        weight_decay=0,
        amsgrad=False,
        maximize=False,
    )
