"""The implementations that are compared: the same epoch on the same network, written in different ways.

Each one draws the pixels of every mini-batch anew, shuffles every epoch, uses float32 images of 0 and 1, one draw
of z per image, and Adam. They differ in who moves the data, who computes the loss and who updates the parameters. Those
that are not the trainer use the layers of torch and the distributions of Pyro.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from vae.data.images import pixels
from vae.model import VAE, kernels
from vae.settings import Train
from vae.training.capture import capture
from vae.training.gradients import compiler
from vae.training.step import Step

Epoch = Callable[[], float]  # runs one epoch, waits for the device, returns the mean loss in nats per image
Contender = Callable[[VAE, Tensor, Train], Epoch]  # from a model and uint8 images (n, c, h, w) on one device

PYRO, EAGER, CAPTURED = "(a) Pyro, documented", "(b) trainer, eager", "(c) trainer, captured"
RECORDED, COMPILED, AUTO = "(c) trainer, recorded", "(c) trainer, compiled", "(c) trainer, compiled, precision auto"
BARE, BARE_CAPTURED = "(d) bare, eager", "(d) bare, captured"


def pyro_svi(model: VAE, images: Tensor, settings: Train) -> Epoch:
    """Pyro as its documentation teaches it: a DataLoader, `SVI.step`, `pyro.optim.Adam`, the settings' defaults.

    The images are float tensors in host memory, so that no time is spent on reading or decoding files; given as floats
    from 0 to 1, they are not copied.
    """
    on_gpu = images.device.type == "cuda"
    intensities = images.cpu() if images.is_floating_point() else images.cpu().float().div_(255)
    loader = DataLoader(TensorDataset(intensities), settings.batch_size, shuffle=True, pin_memory=on_gpu)
    optimizer = pyro.optim.Adam({"lr": settings.learning_rate})
    svi = SVI(*_documented(_plain(model)), optimizer, Trace_ELBO())
    parameters = {"params": {}, "constraints": {}}  # of the parameter store, which all models share

    def epoch() -> float:
        loss = 0.0
        with _pyro(validation=True, module_local_params=False), pyro.get_param_store().scope(parameters):
            for (batch,) in loader:
                batch = batch.to(images.device, non_blocking=True)
                loss += svi.step((torch.rand_like(batch) < batch).float())
        return loss / len(images)

    return epoch


def trainer_eager(model: VAE, images: Tensor, settings: Train) -> Epoch:
    """The trainer of this project, each operation started by the host."""
    return _trainer(model, images, settings.model_copy(update={"step": "eager"}))


def trainer_recorded(model: VAE, images: Tensor, settings: Train) -> Epoch:
    """The trainer of this project, which replays a step's operations."""
    return _trainer(model, images, settings.model_copy(update={"step": "recorded"}))


def trainer_compiled(model: VAE, images: Tensor, settings: Train) -> Epoch:
    """The trainer of this project, a step's operations fused by the compiler."""
    return _trainer(model, images, settings.model_copy(update={"step": "compiled"}))


def trainer_auto(model: VAE, images: Tensor, settings: Train) -> Epoch:
    """The same with the precision that suits the processor, as long runs on a CPU have it by default."""
    return trainer_compiled(model, images, settings.model_copy(update={"precision": "auto"}))


def trainer_graph(model: VAE, images: Tensor, settings: Train) -> Epoch:
    """The trainer of this project, its step captured as a CUDA graph."""
    return _trainer(model, images, settings.model_copy(update={"step": "graph"}))


def _trainer(model: VAE, images: Tensor, settings: Train) -> Epoch:
    # `settings.epochs` bounds how often the epoch may be run: the schedules end there.
    step = Step(model, images, True, settings)

    def epoch() -> float:
        with _pyro(validation=False, module_local_params=True):
            step.begin_epoch()
            for _ in step.steps():
                pass
        log_likelihood, kl = (step.totals / len(images)).tolist()
        return kl - log_likelihood

    return epoch


def bare_eager(model: VAE, images: Tensor, settings: Train) -> Epoch:
    """The same network and loss in PyTorch alone, written by hand, each operation started by the host."""
    step, total = _bare_step(_plain(model), images, settings)

    def epoch() -> float:
        total.zero_()
        for chosen in torch.randperm(len(images), device=images.device).split(settings.batch_size):
            step(chosen)
        return total.item() / len(images)

    return epoch


def bare_graph(model: VAE, images: Tensor, settings: Train) -> Epoch:
    """The same as `bare_eager`, the step captured as a CUDA graph for each batch size."""
    step, total = _bare_step(_plain(model), images, settings)
    graphs = {}
    for size in {len(batch) for batch in images.split(settings.batch_size)}:
        chosen = torch.zeros(size, dtype=torch.int64, device=images.device)
        graphs[size] = chosen, capture(partial(step, chosen))

    def epoch() -> float:
        total.zero_()
        for batch in torch.randperm(len(images), device=images.device).split(settings.batch_size):
            chosen, graph = graphs[len(batch)]
            chosen.copy_(batch)
            graph.replay()
        return total.item() / len(images)

    return epoch


def bare_loss(model: VAE, images: Tensor) -> Tensor:
    """The negative ELBO with its KL in closed form, summed over float images (n, c, h, w); nats, of shape ().

    Kingma & Welling 2014, equation 10, with one draw of z per image.
    """
    mean, log_scale = model.posterior.head(model.features(images)).chunk(2, dim=-1)
    scale = log_scale.exp()
    z = mean + scale * torch.randn_like(scale)
    kl = ((mean.square() + scale.square() - 1) / 2 - log_scale).sum()
    return functional.binary_cross_entropy_with_logits(model.decoder(z), images, reduction="sum") + kl


def contenders(device: torch.device) -> dict[str, Contender]:
    """The contenders that can run on a device, by the names that the tables show."""
    if device.type == "cuda":
        own, others = {CAPTURED: trainer_graph}, {BARE: bare_eager, BARE_CAPTURED: bare_graph}
    else:
        own, others = {RECORDED: trainer_recorded}, {BARE: bare_eager}
        if compiler():
            own |= {COMPILED: trainer_compiled, AUTO: trainer_auto}
    return {PYRO: pyro_svi, EAGER: trainer_eager, **own, **others}


def _plain(model: VAE) -> VAE:
    """The model with torch's own layers in the place of this project's."""
    for part in model.modules():
        for name, layer in part.named_children():
            if isinstance(layer, kernels.Linear):
                layer.__class__ = nn.Linear
            elif isinstance(layer, kernels.Softplus):
                setattr(part, name, nn.Softplus())
    return model


def _documented(model: VAE) -> tuple[Callable[[Tensor], None], Callable[[Tensor], None]]:
    """The Pyro model and guide of the textbook VAE, written as in Pyro's tutorial."""

    def joint(images: Tensor) -> None:
        pyro.module("vae", model)
        with pyro.plate("images", len(images)):
            zeros = images.new_zeros(len(images), model.latent_dim)
            z = pyro.sample("z", dist.Normal(zeros, torch.ones_like(zeros)).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=model.decoder(z)).to_event(3), obs=images)

    def guide(images: Tensor) -> None:
        pyro.module("vae", model)
        with pyro.plate("images", len(images)):
            mean, log_scale = model.posterior.head(model.features(images)).chunk(2, dim=-1)
            pyro.sample("z", dist.Normal(mean, log_scale.exp()).to_event(1))

    return joint, guide


def _bare_step(model: VAE, images: Tensor, settings: Train) -> tuple[Callable[[Tensor], None], Tensor]:
    parameters, on_gpu = list(model.parameters()), images.device.type == "cuda"
    optimizer = torch.optim.Adam(parameters, settings.learning_rate, fused=True, capturable=on_gpu)
    total = torch.zeros((), device=images.device)

    def step(chosen: Tensor) -> None:
        loss = bare_loss(model, pixels(images.index_select(0, chosen), binarize=True))
        optimizer.zero_grad()
        (loss / len(chosen)).backward()
        optimizer.step()
        total.add_(loss.detach())

    return step, total


@contextmanager
def _pyro(validation: bool, module_local_params: bool) -> Iterator[None]:
    checks = dict.fromkeys((name for name in pyro.settings.get() if name.startswith("validate_")), validation)
    with pyro.settings.context(module_local_params=module_local_params, **checks):
        yield
