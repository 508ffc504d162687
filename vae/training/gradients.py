"""The loss of a mini-batch and its gradients: computed by the Pyro programs, replayed from a record, or compiled.

Handlers, plates and autograd decide in Python, at every step anew, which operations to start. They decide the same
each time, so the operations of one step, forward and backward, can be recorded and then replayed without them: the
same operations on the same numbers in the same order give the same bytes. A compiler can also fuse them, which rounds
differently.
"""

import shutil
import subprocess
import sys
import sysconfig
from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node
from torch.fx.passes.split_module import split_module

from vae.device import preserved_random_state
from vae.model import VAE
from vae.model.objectives import OBJECTIVES
from vae.ranks import Rows
from vae.settings import Train
from vae.training.draws import OwnRows
from vae.training.exchange import Exchange
from vae.training.recording import record


class CannotCompile(Exception):
    """The compiler fails or is missing; the message is its first complaint, in one line."""


class Result(NamedTuple):
    """The loss, of shape (), each image's terms of the bound, and a gradient for each parameter."""

    loss: Tensor
    log_likelihood: Tensor
    kl: Tensor
    gradients: Sequence[Tensor]


class Inputs(NamedTuple):
    """A mini-batch: float images (n, channels, height, width), labels (n,) or None, and the KL term's weight.

    Of several ranks each has its own `rows`, and its loss and gradients are a part of the sum over the ranks.
    """

    images: Tensor
    labels: Tensor | None
    kl_weight: Tensor | float
    rows: Rows | None = None

    def tensors(self) -> list[Tensor]:
        """Those that are tensors."""
        return [value for value in self if isinstance(value, Tensor)]

    def replaced(self, tensors: Sequence[Tensor]) -> "Inputs":
        """The same inputs with other tensors in the place of `tensors()`."""
        others = iter(tensors)
        return Inputs(*(next(others) if isinstance(value, Tensor) else value for value in self))


Gradients = Callable[[Inputs], Result]


class _Loss(nn.Module):
    """A model's objective as a module, whose parameters `functional_call` can replace."""

    def __init__(self, model: VAE, settings: Train) -> None:
        super().__init__()
        self.model, self.settings = model, settings

    def forward(self, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
        images, labels, kl_weight, rows = inputs
        # Without a cache, which a record cannot have: it would sum the gradients of a shared layer in bfloat16.
        halved = self.settings.precision == "bfloat16"
        autocast = torch.autocast(images.device.type, torch.bfloat16, enabled=halved, cache_enabled=False)
        with autocast, OwnRows(rows) if rows else nullcontext():
            loss, terms = OBJECTIVES[self.settings.objective](self.model, (images, labels), kl_weight, self.settings)
        return loss * rows.weight if rows else loss, *terms


def by_programs(model: VAE, settings: Train, exchange: Exchange | None = None) -> Gradients:
    """Run model and guide at each call; an `exchange` receives its early gradients as soon as they are there."""
    loss, parameters = _Loss(model, settings), list(model.parameters())

    def gradients(inputs: Inputs) -> Result:
        early = {number: partial(exchange.take, number) for number in exchange.early} if exchange else {}
        hooks = [parameters[number].register_hook(take) for number, take in early.items()]
        try:
            return _differentiated(loss, parameters, inputs)
        finally:
            for hook in hooks:
                hook.remove()

    return gradients


def _differentiated(
    loss_of: Callable[[Inputs], tuple[Tensor, ...]], parameters: list[Tensor], inputs: Inputs
) -> Result:
    values = loss_of(inputs)
    gradients = torch.autograd.grad(values[0], parameters, materialize_grads=True)
    return Result(*(value.detach() for value in values), gradients)


def recorded(model: VAE, settings: Train, inputs: Inputs, exchange: Exchange | None = None) -> Gradients:
    """Run model and guide on `inputs` once, and replay their operations at each call on inputs of the same shapes.

    The random state is left unchanged. An `exchange` receives its early gradients as soon as they are there.
    """
    graph = _record(model, settings, inputs)
    if exchange:
        _hand_over(graph, exchange)
    return _replay(graph.forward, list(model.parameters()))


def compiled(model: VAE, settings: Train, inputs: Inputs, exchange: Exchange | None = None) -> Gradients:
    """The same operations, fused by torch's compiler Inductor; takes seconds to minutes.

    Raises:
        CannotCompile: there is no compiler that works.
    """
    parameters = list(model.parameters())
    graph = _record(model, settings, inputs)
    try:
        with torch.no_grad():
            if exchange and exchange.early:
                program = _compile_parts(graph, exchange, [*inputs.tensors(), *parameters])
            else:
                program = _compile(graph, [*inputs.tensors(), *parameters])
    except Exception as error:  # whatever a compiler fails with
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise CannotCompile(reason) from error
    return _replay(program, parameters)


def _compile(graph: nn.Module, inputs: Sequence[Tensor]) -> Callable[..., Any]:
    # Draws from torch's own generators, so that they are those of the other ways; no cache, as it is a pickle.
    options = {"fallback_random": True, "fx_graph_cache": False}
    return torch._inductor.compile(graph, list(inputs), options=options)


def _compile_parts(graph: GraphModule, exchange: Exchange, inputs: Sequence[Tensor]) -> Callable[..., Any]:
    """Compile a program for each part of the exchange, between which gradients are handed over."""
    places = {node: place for place, node in enumerate(graph.graph.nodes)}
    gradients = _gradients_in(graph)
    ends = sorted(max(places[gradients[number]] for number in part) for part in exchange.parts[:-1])
    whole = split_module(graph, None, lambda node: bisect_left(ends, places[node]))
    with preserved_random_state(inputs[0].device):
        _Compiling(whole).run(*inputs)
    _hand_over(whole, exchange)
    return whole.forward


class _Compiling(Interpreter):
    """Run a graph of modules once, and put compiled ones in their places."""

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        part = self.fetch_attr(target)
        values = part(*args)
        program = _compile(part, args)
        delattr(self.module, target)  # a module, whose place only a module could take
        setattr(self.module, target, program)
        return values


def _hand_over(graph: GraphModule, exchange: Exchange) -> None:
    """Insert a call that hands each early gradient to the exchange after the operation that makes it."""
    gradients = _gradients_in(graph)
    for number in exchange.early:
        with graph.graph.inserting_after(gradients[number]):
            graph.graph.call_function(exchange.take, (number, gradients[number]))
    graph.recompile()


def _gradients_in(graph: GraphModule) -> list[Node]:
    return list(graph.graph.output_node().args[0])[len(Result._fields) - 1 :]


def compiler() -> str | None:
    """The C++ compiler that `compiled` needs, or None if it or Python's headers are missing."""
    found = shutil.which("g++") or shutil.which("clang++")
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    return found if sys.platform == "linux" and headers.exists() else None


def compiler_version() -> dict[str, str]:
    """The compiler's own description of itself, on which the bytes of a compiled run depend."""
    asked = subprocess.run([compiler() or "c++", "--version"], capture_output=True, text=True, check=False)
    return {"compiler": asked.stdout.partition("\n")[0]}


def _record(model: VAE, settings: Train, inputs: Inputs) -> GraphModule:
    names = [f"model.{name}" for name, _ in model.named_parameters()]
    module, count = _Loss(model, settings), len(inputs.tensors())

    def function(*tensors: Tensor) -> list[Tensor]:
        parameters = list(tensors[count:])

        def loss_of(inputs: Inputs) -> tuple[Tensor, ...]:
            values = dict(zip(names, parameters, strict=True))
            return torch.func.functional_call(module, values, (inputs,))

        *values, gradients = _differentiated(loss_of, parameters, inputs.replaced(tensors[:count]))
        return [*values, *gradients]

    # Validation would read values.
    with preserved_random_state(inputs.images.device), pyro.validation_enabled(False):
        return record(function, *inputs.tensors(), *model.parameters())


def _replay(program: Callable[..., Sequence[Tensor]], parameters: list[Tensor]) -> Gradients:
    @torch.no_grad()
    def gradients(inputs: Inputs) -> Result:
        loss, log_likelihood, kl, *of_parameters = program(*inputs.tensors(), *parameters)
        return Result(loss, log_likelihood, kl, of_parameters)

    return gradients
