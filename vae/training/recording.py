"""Record what a function of tensors computes as a graph of torch's own operations, below modules and autograd.

torch's `make_fx` does the same for far more kinds of functions, and takes three seconds longer, most of them to import
torch's compilers.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

_OTHER_NAMES = (torch.ops.aten.alias.default, torch.ops.aten.detach.default)  # of the same tensor


def record(function: Callable[..., Sequence[Tensor]], *inputs: Tensor) -> GraphModule:
    """Call a function on `inputs`, and give a module that repeats its operations on other tensors like them.

    They have the same shapes, types and device. Random numbers are drawn anew at each call. What else the function
    reads, such as a module's buffers, is part of the module. Call it under `torch.no_grad`, as `detach` is left out.

    Raises:
        RuntimeError: the function reads a number from a tensor, on which its operations may depend. What `tolist` and
            `numpy` read is not noticed, and stays as it was.
    """
    recorder = _Recorder()
    for number, tensor in enumerate(inputs):
        recorder.nodes[tensor] = recorder.graph.placeholder(f"input_{number}")
    with recorder:
        outputs = function(*inputs)
    recorder.graph.output([recorder.node(tensor) for tensor in outputs])
    return GraphModule(recorder.others, recorder.graph)


class _Recorder(TorchDispatchMode):
    """Add each operation inside the block to a graph.

    Attributes:
        graph: the operations so far.
        nodes: where each tensor that is still in use comes from.
        others: by name, the tensors that are neither inputs nor results of an operation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.graph = Graph()
        self.nodes = WeakTensorKeyDictionary()
        self.others: dict[str, Tensor] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # torch's compiler never sees a recorder; to keep it off, torch would import it.
        return False

    def __torch_dispatch__(
        self,
        operation: torch._ops.OpOverload,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if torch.Tag.data_dependent_output in operation.tags:
            raise RuntimeError(f"{operation} reads a value, so that a record would not hold for other inputs")
        if operation is torch.ops.aten.lift_fresh.default:
            # A constant from Python: each call needs a copy, which it may change in place.
            operation = torch.ops.aten.lift_fresh_copy.default
        kwargs = kwargs or {}
        if operation in _OTHER_NAMES:
            node = self.node(args[0])
        else:
            node = self.graph.call_function(operation, *tree_map_only(Tensor, self.node, (args, dict(kwargs))))
        results = operation(*args, **kwargs)
        if isinstance(results, Tensor):
            self.nodes[results] = node
        elif isinstance(results, Sequence):
            for number, result in enumerate(results):
                if isinstance(result, Tensor):
                    self.nodes[result] = self.graph.call_function(operator.getitem, (node, number))
        return results

    def node(self, tensor: Tensor) -> Node:
        """Where a tensor comes from."""
        if tensor not in self.nodes:
            name = f"other_{len(self.others)}"
            self.others[name] = tensor
            self.nodes[tensor] = self.graph.get_attr(name)
        return self.nodes[tensor]
