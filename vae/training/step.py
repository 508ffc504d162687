"""One training step on one mini-batch, with all of its inputs and outputs kept on the device.

Shuffled indices, schedules, counters and running totals are tensors, so that a step needs nothing from the host:
on a GPU it is captured as a CUDA graph once per batch size and then replayed, alone and several in a row; on a CPU its
operations are recorded.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vae import ranks
from vae.data.images import pixels
from vae.errors import WorkError
from vae.model import VAE
from vae.settings import Train
from vae.training import adam
from vae.training.capture import WaitsForDevice, capture, clear_caches
from vae.training.choices import resolved
from vae.training.exchange import Exchange
from vae.training.gradients import CannotCompile, Gradients, Inputs, by_programs, compiled, recorded
from vae.training.schedules import kl_weights, learning_rates
from vae.training.supply import Resident, Streamed

_PACE = 25  # steps between waits for the device: enough to keep it busy, few enough to stop quickly
# Steps in the longer graph: it saves seven eighths of what starting replays costs, for the time of eight eager steps.
_UNROLLED = 8


class Step:
    """Draw a mini-batch, compute the loss and its gradients, update the parameters and the running totals.

    Images are uint8 (n, channels, height, width), on the model's device or, if `train.images` is `streamed`, on the
    CPU; labels, int64 (n,), are on the device and only used by conditional models.

    Attributes:
        totals: the sums of log-likelihood and KL over the images since `begin_epoch`, float64 (2,).
        losses: the loss of each of the epoch's steps, float32 (steps per epoch,).
        rate: the last step's learning rate, float32 ().
        index: the number of steps since the start of the run, int64 (1,).

    Raises:
        WorkError: `train.step` is `graph` and the step cannot be captured, or `compiled` and it cannot be compiled.
    """

    def __init__(
        self, model: VAE, images: Tensor, binarize: bool, settings: Train, labels: Tensor | None = None
    ) -> None:
        device, self.chosen = next(model.parameters()).device, settings.step == "auto"
        settings = resolved(settings, len(images), device)
        self.model, self.images, self.binarize, self.settings = model, images, binarize, settings
        self.device = device
        streamed = settings.images == "streamed"
        self.supply = Streamed(images, settings.batch_size, device) if streamed else Resident(images)
        self.labels = labels if model.classes else None
        per_epoch = math.ceil(len(images) / settings.batch_size)
        steps = per_epoch * settings.epochs
        # Looked up by a step's index: learning rate, KL weight, number of updates.
        updates = torch.arange(1, steps + 1).float()
        columns = (learning_rates(settings, steps), kl_weights(settings, steps, per_epoch), updates)
        self.schedule = torch.stack(columns, dim=1).to(device)
        self.scheduled = torch.zeros(1, len(columns), device=device)
        self.rate, kl_weight, self.updates = self.scheduled[0].unbind()
        self.kl_weight = kl_weight if settings.kl_warmup_epochs or settings.beta != 1 else 1.0
        self.slots = torch.arange(per_epoch, device=device)
        places = torch.arange(per_epoch * settings.batch_size, device=device)
        self.order, self.batches = places[: len(images)], places.view(per_epoch, settings.batch_size)
        self.counters = torch.zeros(2, dtype=torch.int64, device=device)
        self.index, self.batch = self.counters.split(1)  # of the step within the run, within the epoch
        self.losses = torch.zeros(per_epoch, device=device)
        self.totals = torch.zeros(2, dtype=torch.float64, device=device)
        self.parameters = list(model.parameters())
        self.gradient_means = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.square_means = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.average = [p.detach().clone() for p in self.parameters] if settings.ema_decay else []
        self.exchange = Exchange(self.parameters) if ranks.count() > 1 else None
        self.gradients: dict[int, Gradients] = {}  # by the number of images
        self.captures = device.type == "cuda" and settings.step in ("graph", "compiled")
        # The host copies each streamed mini-batch, and ranks agree on the step after which they stop.
        self.unrolled = 1 if streamed or self.exchange else _UNROLLED
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}  # by the number of images
        self.taken = 0
        self.behind: tuple[torch.cuda.Event, Tensor] | None = None  # some steps back, and whether losses were finite
        self.finite = True  # the losses, as far as the host knows

    def begin_epoch(self) -> None:
        """Shuffle the images if the settings say so, and reset counters and totals."""
        if self.settings.shuffle:
            torch.randperm(len(self.order), out=self.order)
        for started in (self.batch, self.losses, self.totals):
            started.zero_()
        self.supply.begin(self.order, self.batch)

    def steps(self, done: int = 0) -> Iterator[int]:
        """Take the epoch's steps after the first `done`; give how many are done after each, or each few on a GPU."""
        one, several = self.settings.batch_size, self.unrolled * self.settings.batch_size
        while (rest := len(self.images) - done * one) > 0:
            size = several if self.captures and rest >= several else min(one, rest)
            self(size)
            done += math.ceil(size / one)
            yield done

    def __call__(self, size: int) -> None:
        """Train on the epoch's next `size` images; returns early, at most some 50 steps ahead of the device.

        They are a mini-batch, or as many whole ones as `steps` takes at once.
        """
        times = math.ceil(size / self.settings.batch_size)
        self.supply.advance()
        if self.captures and size not in self.graphs:
            self._capture(size, times)
        if size in self.graphs:
            self.graphs[size].replay()
        else:
            for _ in range(times):
                self._run(size // times)
        if self.device.type == "cuda":
            self._keep_pace(times)

    def seems_finite(self, number: int) -> bool:
        """Whether the losses up to the epoch's step of this number are finite; on a GPU up to some 50 steps before."""
        if self.device.type == "cuda":
            return self.finite
        return math.isfinite(self.losses[number - 1].item())

    def must_stop(self, asked: bool, number: int) -> bool:
        """Whether to stop after the epoch's step of this number, as this rank or another was asked to.

        All ranks stop after the same step, on a GPU up to 25 steps later.
        """
        if not self.exchange:
            return asked
        if asked:
            self.exchange.asked.fill_(1)
        # Reading makes a GPU wait.
        return (self.device.type != "cuda" or number % _PACE == 0) and self.exchange.told.item() > 0

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that a step writes, by name; not copies."""
        alone = ("order", "counters", "losses", "totals", "scheduled")
        state = {name: getattr(self, name) for name in alone}
        state |= {f"model.{name}": parameter.detach() for name, parameter in self.model.named_parameters()}
        for name in ("average", "gradient_means", "square_means"):
            state |= {f"{name}.{i}": tensor for i, tensor in enumerate(getattr(self, name))}
        return state

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `tensors` returned earlier, in place, so that captured graphs stay valid."""
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])
        self.supply.begin(self.order, self.batch)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Replace the weights by their moving average, if there is one, inside the block."""
        if not self.average:
            yield
            return
        with torch.no_grad():
            trained = [parameter.clone() for parameter in self.parameters]
            torch._foreach_copy_(self.parameters, self.average)
            try:
                yield
            finally:
                torch._foreach_copy_(self.parameters, trained)

    def _run(self, size: int) -> None:
        torch.index_select(self.schedule, 0, self.index, out=self.scheduled)
        rows = ranks.rows(size)
        chosen = self.batches.index_select(0, self.batch)[0, rows.slice]
        images = pixels(self.supply(chosen), self.binarize, rows)
        labels = None if self.labels is None else self.labels.index_select(0, chosen)
        inputs = Inputs(images, labels, self.kl_weight, rows if self.exchange else None)
        if size not in self.gradients:
            self.gradients[size] = self._make_gradients(inputs, size)
        loss, *terms, gradients = self.gradients[size](inputs)
        with torch.no_grad():
            means = torch.stack(terms).flatten(1).mean(1)
            if self.exchange:
                loss, means, gradients = self.exchange(loss, means * rows.weight, gradients)
            if self.settings.gradient_clip:
                norm = nn.utils.get_total_norm(gradients, foreach=True)
                torch._foreach_mul_(gradients, (self.settings.gradient_clip / (norm + 1e-6)).clamp(max=1))
            if self.settings.normalize_gradients:
                adam.normalize(gradients)
            self._update(gradients)
            if self.average:
                torch._foreach_lerp_(self.average, self.parameters, 1 - self.settings.ema_decay)
            self.totals.add_(means, alpha=size)
            # Not index_copy_, which deterministic mode turns into a sort and many kernels.
            torch.where(self.slots == self.batch, loss, self.losses, out=self.losses)
            self.counters += 1

    def _make_gradients(self, inputs: Inputs, size: int) -> Gradients:
        # Free bits depend on all ranks' images, and a record cannot hold what they exchange.
        exchanged = self.exchange and self.settings.free_bits
        # An epoch's last, smaller mini-batch is not worth the time of the compiler.
        if self.settings.step == "compiled" and size == self.settings.batch_size and not exchanged:
            try:
                return compiled(self.model, self.settings, inputs, self.exchange)
            except CannotCompile as reason:
                if not self.chosen:
                    raise self._refusal("compiled", reason) from reason
                print(f"training without compiling the step, as the compiler fails: {reason}", flush=True)
                self.settings = self.settings.model_copy(update={"step": "recorded"})
        if self.settings.step in ("compiled", "recorded") and not exchanged:
            return recorded(self.model, self.settings, inputs, self.exchange)
        return by_programs(self.model, self.settings, self.exchange)

    def _update(self, gradients: Sequence[Tensor]) -> None:
        adam.update(
            self.parameters,
            gradients,
            self.gradient_means,
            self.square_means,
            rate=self.rate,
            updates=self.updates,
            beta1=self.settings.adam_beta1,
            epsilon=self.settings.adam_epsilon,
            weight_decay=self.settings.weight_decay,
        )

    def _capture(self, size: int, times: int) -> None:
        def run() -> None:
            self._run(size // times)
            clear_caches(self.model)

        pool = next(iter(self.graphs.values())).pool() if self.graphs else None
        try:
            self.graphs[size] = capture(run, list(self.tensors().values()), pool, times)
        except WaitsForDevice as reason:
            if not self.chosen:
                raise self._refusal("captured", reason) from reason
            print(f"training without a CUDA graph, as this model's step cannot be captured: {reason}", flush=True)
            self.captures = False

    def _refusal(self, what: str, reason: Exception) -> WorkError:
        step = self.settings.step
        return WorkError(f"train.step: got {step!r}, but this model's step cannot be {what} ({reason}); set it to auto")

    def _keep_pace(self, steps: int) -> None:
        self.taken += steps
        if self.taken % _PACE < steps:
            if self.behind:
                event, finite = self.behind
                event.synchronize()
                self.finite = bool(finite)
            finite = self.losses.isfinite().all().to("cpu", non_blocking=True)
            self.behind = torch.cuda.Event(blocking=True), finite
            self.behind[0].record()
