"""One training step on one mini-batch, with all that it reads and writes kept on the device.

Shuffled indices, schedules, counters and running totals are tensors, so that a step asks nothing of the
host: on a GPU it is captured once as a CUDA graph for each batch size and then replayed.
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from vae.model import VAE
from vae.objectives import OBJECTIVES
from vae.preparation import pixels
from vae.settings import Train

_WARM_UP_RUNS = 3


def learning_rates(settings: Train, steps: int) -> Tensor:
    """The learning rate of each step, float32 of shape (steps,).

    `one_cycle` rises over the first 30 % of the steps from 1/25 of the peak and falls to 0, both along a
    cosine (Smith & Topin 2017); `cosine` falls from the first step on. `iwae` has eight stages, each three times as
    long as the one before and at 10^(-1/7) times its rate (Burda et al. 2015, section 5: 3280 passes in all).
    """
    done = torch.arange(steps, dtype=torch.float64) / max(steps - 1, 1)
    if settings.schedule == "constant":
        factor = torch.ones(steps, dtype=torch.float64)
    elif settings.schedule == "cosine":
        factor = (1 + torch.cos(math.pi * done)) / 2
    elif settings.schedule == "iwae":
        ends = torch.tensor([(3 ** (i + 1) - 1) / (3**8 - 1) for i in range(7)], dtype=torch.float64)
        stage = torch.bucketize(torch.arange(steps, dtype=torch.float64) / steps, ends, right=True)
        factor = 10.0 ** (-stage / 7)
    else:
        rise, start = 0.3, 1 / 25
        up = start + (1 - start) * (1 - torch.cos(math.pi * done / rise)) / 2
        down = (1 + torch.cos(math.pi * (done - rise) / (1 - rise))) / 2
        factor = torch.where(done < rise, up, down)
    return (settings.learning_rate * factor).float()


def kl_weights(settings: Train, steps: int, steps_an_epoch: int) -> Tensor:
    """The KL term's weight at each step, float32 of shape (steps,): rising linearly to beta (Bowman et al. 2016)."""
    warm_up = settings.kl_warmup_epochs * steps_an_epoch
    return settings.beta * ((torch.arange(steps, dtype=torch.float64) + 1) / max(warm_up, 1)).clamp(max=1).float()


class Step:
    """Draw a mini-batch, compute the loss and its gradients, update the parameters and the running totals.

    Attributes:
        totals: the log-likelihood's and the KL's sums over the images since `begin_epoch`, float64 (2,).
        losses: the loss of each of the epoch's steps, float32 (steps an epoch,).
        rate: the last step's learning rate, float32 ().
    """

    def __init__(self, model: VAE, images: Tensor, draw: bool, settings: Train, labels: Tensor | None = None) -> None:
        device = images.device
        self.model, self.images, self.draw, self.settings = model, images, draw, settings
        self.labels = labels if model.classes else None
        per_epoch = math.ceil(len(images) / settings.batch_size)
        steps = per_epoch * settings.epochs
        self.rates = learning_rates(settings, steps).to(device)
        weighted = settings.kl_warmup_epochs or settings.beta != 1
        self.kl_weights = kl_weights(settings, steps, per_epoch).to(device) if weighted else None
        self.offsets = torch.arange(settings.batch_size, device=device)
        self.order = torch.arange(len(images), device=device)
        self.index = torch.zeros(1, dtype=torch.int64, device=device)  # of the step in the run
        self.batch = torch.zeros(1, dtype=torch.int64, device=device)  # of the step in the epoch
        self.losses = torch.zeros(per_epoch, device=device)
        self.totals = torch.zeros(2, dtype=torch.float64, device=device)
        self.objective = OBJECTIVES[settings.objective]
        self.parameters = list(model.parameters())
        # Adam's running means of the gradients and of their squares, and the number of updates (Kingma & Ba 2015).
        self.gradient_means = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.square_means = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.updates = torch.zeros((), device=device)
        self.rate = torch.zeros((), device=device)
        self.average = [p.detach().clone() for p in self.parameters] if settings.ema_decay else []
        autocast = partial(torch.autocast, device.type, torch.bfloat16)
        self.casts = autocast if settings.precision == "bfloat16" else nullcontext
        self.captures = settings.step == "graph" or (settings.step == "auto" and device.type == "cuda")
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}

    def begin_epoch(self) -> None:
        """Shuffle, and begin to count and to add up anew."""
        torch.randperm(len(self.order), out=self.order)
        for started in (self.batch, self.losses, self.totals):
            started.zero_()

    def __call__(self, size: int) -> None:
        """Train on the next `size` images of the epoch; returns before the device is done."""
        if not self.captures:
            self._run(size)
            return
        if size not in self.graphs:
            self.graphs[size] = self._capture(size)
        self.graphs[size].replay()

    def tensors(self) -> dict[str, Tensor]:
        """All that a step writes, by name, as the live tensors."""
        alone = ("order", "index", "batch", "losses", "totals", "rate", "updates")
        state = {name: getattr(self, name) for name in alone}
        state |= {f"model.{name}": parameter.detach() for name, parameter in self.model.named_parameters()}
        for name in ("average", "gradient_means", "square_means"):
            state |= {f"{name}.{i}": tensor for i, tensor in enumerate(getattr(self, name))}
        return state

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `tensors` once returned, in place, so that captured graphs stay valid."""
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])

    def _run(self, size: int) -> None:
        chosen = self.order.index_select(0, self.offsets[:size] + self.batch * self.settings.batch_size)
        images = pixels(self.images.index_select(0, chosen), self.draw)
        labels = None if self.labels is None else self.labels.index_select(0, chosen)
        kl_weight = 1.0 if self.kl_weights is None else self.kl_weights.index_select(0, self.index).squeeze(0)
        with self.casts():
            loss, terms = self.objective(self.model, (images, labels), kl_weight, self.settings)
        gradients = torch.autograd.grad(loss, self.parameters, materialize_grads=True)
        with torch.no_grad():
            if self.settings.gradient_clip:
                norm = nn.utils.get_total_norm(gradients, foreach=True)
                torch._foreach_mul_(gradients, (self.settings.gradient_clip / (norm + 1e-6)).clamp(max=1))
            self._update(gradients)
            if self.average:
                torch._foreach_lerp_(self.average, self.parameters, 1 - self.settings.ema_decay)
            self.totals += size * torch.stack([terms.log_likelihood.mean(), terms.kl.mean()])
            self.losses.index_copy_(0, self.batch, loss.detach().view(1))
            self.index += 1
            self.batch += 1

    def _update(self, gradients: Sequence[Tensor]) -> None:
        # The kernel that torch.optim.Adam(fused=True) calls; its own bookkeeping takes a tenth of a small step.
        self.rate.copy_(self.rates.index_select(0, self.index).squeeze(0))
        self.updates += 1
        torch._fused_adam_(
            self.parameters,
            gradients,
            self.gradient_means,
            self.square_means,
            [],
            [self.updates] * len(self.parameters),
            lr=self.rate,
            beta1=0.9,
            beta2=0.999,
            eps=self.settings.adam_epsilon,
            weight_decay=0,
            amsgrad=False,
            maximize=False,
        )

    def _capture(self, size: int) -> torch.cuda.CUDAGraph:
        # The runs that warm up the kernels must leave no trace, so that graph and eager step agree.
        before = {name: tensor.clone() for name, tensor in self.tensors().items()}
        random_state = torch.cuda.get_rng_state(self.images.device)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP_RUNS):
                self.restore(before)
                self._run(size)
            self.restore(before)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._run(size)
        torch.cuda.set_rng_state(random_state, self.images.device)
        return graph
