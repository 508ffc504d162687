"""The random numbers of a mini-batch that several ranks compute: each rank draws all of them and keeps its rows.

So the numbers belong to an image and a step, whichever rank computes it, and every rank's generator ends a step in the
same state. Drawing is cheap beside the networks.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from vae.ranks import Rows


class OwnRows(TorchFunctionMode):
    """Let normal draws and dropout, inside the block, give these rows of what the whole mini-batch would draw.

    The noise of latents has shape (..., rows, dim); dropout is applied to vectors (..., rows, features), or to images
    (draws * rows, channels, height, width). What has another number of rows does not belong to the mini-batch, such as
    pseudo-inputs, and is drawn as usual.
    """

    def __init__(self, rows: Rows) -> None:
        super().__init__()
        self.rows, self.own = rows, rows.stop - rows.start

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if function is Tensor.normal_ and args[0].ndim > 1 and args[0].shape[-2] == self.own:
            values, *moments = args
            whole = values.new_empty((*values.shape[:-2], self.rows.whole, values.shape[-1]))
            return values.copy_(whole.normal_(*moments, **kwargs)[..., self.rows.slice, :])
        if function is F.dropout:
            return self._dropout(*args, **kwargs)
        return function(*args, **kwargs)

    def _dropout(self, values: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        rest = 3 if values.ndim == 4 else 1
        rows = values.shape[: values.ndim - rest].numel()
        if not training or rows % self.own:
            return F.dropout(values, p, training, inplace)
        draws = rows // self.own
        shape = values.shape[values.ndim - rest :]
        whole = F.dropout(values.new_ones(draws, self.rows.whole, *shape), p)
        return values * whole[:, self.rows.slice].reshape(values.shape)
