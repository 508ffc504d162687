"""One training step on one mini-batch, with all that it reads and writes kept on the device.

Shuffled indices, schedules, counters and running totals are tensors, so that a step asks nothing of the
host: on a GPU it is captured once as a CUDA graph for each batch size and then replayed.
"""

import math

import torch
from torch import Tensor, nn

from vae.model import VAE
from vae.objectives import elbo_terms
from vae.settings import Train

_WARM_UP_RUNS = 3


def learning_rates(settings: Train, steps: int) -> Tensor:
    """The learning rate of each step, float32 of shape (steps,).

    `one_cycle` rises over the first 30 % of the steps from 1/25 of the peak and falls to 0, both along a
    cosine (Smith & Topin 2017); `cosine` falls from the first step on.
    """
    done = torch.arange(steps, dtype=torch.float64) / max(steps - 1, 1)
    if settings.schedule == "constant":
        factor = torch.ones(steps, dtype=torch.float64)
    elif settings.schedule == "cosine":
        factor = (1 + torch.cos(math.pi * done)) / 2
    else:
        rise, start = 0.3, 1 / 25
        up = start + (1 - start) * (1 - torch.cos(math.pi * done / rise)) / 2
        down = (1 + torch.cos(math.pi * (done - rise) / (1 - rise))) / 2
        factor = torch.where(done < rise, up, down)
    return (settings.learning_rate * factor).float()


def kl_weights(settings: Train, steps: int, steps_an_epoch: int) -> Tensor:
    """The KL term's weight at each step, float32 of shape (steps,): rising linearly to 1 (Bowman et al. 2016)."""
    warm_up = settings.kl_warmup_epochs * steps_an_epoch
    return ((torch.arange(steps, dtype=torch.float64) + 1) / max(warm_up, 1)).clamp(max=1).float()


def pixels(images: Tensor, draw: bool) -> Tensor:
    """Turn uint8 images (255 stands for 1) into float32 ones; with `draw` into 0 and 1, drawn by intensity."""
    intensities = images.float() / 255
    return (torch.rand_like(intensities) < intensities).float() if draw else intensities


class Step:
    """Draw a mini-batch, compute the loss and its gradients, update the parameters and the running totals.

    Attributes:
        totals: the log-likelihood's and the KL's sums over the images since `begin_epoch`, float64 (2,).
        failed: index of the first step whose loss was not finite, or -1; int64 ().
    """

    def __init__(self, model: VAE, images: Tensor, draw: bool, settings: Train) -> None:
        device = images.device
        self.model, self.images, self.draw, self.settings = model, images, draw, settings
        per_epoch = math.ceil(len(images) / settings.batch_size)
        steps = per_epoch * settings.epochs
        self.rates = learning_rates(settings, steps).to(device)
        self.kl_weights = kl_weights(settings, steps, per_epoch).to(device)
        self.offsets = torch.arange(settings.batch_size, device=device)
        self.order = torch.arange(len(images), device=device)
        self.cursor = torch.zeros((), dtype=torch.int64, device=device)
        self.index = torch.zeros(1, dtype=torch.int64, device=device)
        self.failed = torch.full((1,), -1, dtype=torch.int64, device=device)
        self.totals = torch.zeros(2, dtype=torch.float64, device=device)
        self.parameters = list(model.parameters())
        self.optimizer = _ready_adam(self.parameters, device)
        self.rate = self.optimizer.param_groups[0]["lr"]
        self.average = [p.detach().clone() for p in self.parameters] if settings.ema_decay else []
        self.captures = settings.step == "graph" or (settings.step == "auto" and device.type == "cuda")
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}

    def begin_epoch(self) -> None:
        """Shuffle, and set the totals to zero."""
        torch.randperm(len(self.order), out=self.order)
        self.cursor.zero_()
        self.totals.zero_()

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
        state = {name: getattr(self, name) for name in ("order", "cursor", "index", "failed", "totals")}
        state |= {f"model.{name}": parameter.detach() for name, parameter in self.model.named_parameters()}
        state |= {f"average.{i}": tensor for i, tensor in enumerate(self.average)}
        for i, parameter in enumerate(self.parameters):
            state |= {f"adam.{i}.{name}": tensor for name, tensor in self.optimizer.state[parameter].items()}
        return state

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `tensors` once returned, in place, so that captured graphs stay valid."""
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])

    def _run(self, size: int) -> None:
        chosen = self.order.index_select(0, self.offsets[:size] + self.cursor)
        images = pixels(self.images.index_select(0, chosen), self.draw)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.settings.precision == "bfloat16"):
            terms = elbo_terms(self.model.model, self.model.guide, images)
        loss = -(terms.log_likelihood - self.kl_weights.index_select(0, self.index) * terms.kl).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        with torch.no_grad():
            if self.settings.gradient_clip:
                nn.utils.clip_grad_norm_(self.parameters, self.settings.gradient_clip, foreach=True)
            self.rate.copy_(self.rates.index_select(0, self.index).squeeze(0))
            self.optimizer.step()
            if self.average:
                torch._foreach_lerp_(self.average, self.parameters, 1 - self.settings.ema_decay)
            self.totals += torch.stack([terms.log_likelihood.sum(), terms.kl.sum()])
            failed_now = (self.failed < 0) & ~loss.isfinite()
            self.failed.copy_(torch.where(failed_now, self.index, self.failed))
            self.index += 1
            self.cursor += size

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


def _ready_adam(parameters: list[nn.Parameter], device: torch.device) -> torch.optim.Adam:
    # Adam makes its state at its first step; one at rate 0 makes it now, so that it can be captured and restored.
    rate = torch.zeros((), device=device)
    adam = torch.optim.Adam(parameters, lr=rate, fused=True, capturable=device.type == "cuda")
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    adam.step()
    for state in adam.state.values():
        state["step"].zero_()
    return adam
