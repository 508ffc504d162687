"""Decode in smaller slices where memory runs out, without drawing anything anew."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vae.errors import memory_reason
from vae.model import VAE


@contextmanager
def decoding_in_slices(model: VAE) -> Iterator[None]:
    """Let the model's decoder, inside the block, halve what it decodes at a time whenever memory runs out.

    Gradients are not supported. An output changes by no more than rounding, as a matrix product's order of sums may
    depend on its number of rows.

    Raises:
        RuntimeError: as torch does, if there is no memory for a single latent vector.
    """
    decoder = model.decoder
    model.decoder = _InSlices(decoder)
    try:
        yield
    finally:
        model.decoder = decoder


class _InSlices(nn.Module):
    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder
        self.most: int | None = None  # latent vectors at a time

    def forward(self, latents: Tensor) -> Tensor:
        rows = latents.shape[:-1].numel()
        while (decoded := self._attempt(latents, rows)) is None:
            self.most = min(self.most or rows, rows) // 2
            print(f"low on memory: decoding {self.most:,} images at a time", flush=True)
        return decoded

    def _attempt(self, latents: Tensor, rows: int) -> Tensor | None:
        """The outputs, or None if memory ran out; by then what the attempt held is free again."""
        try:
            if self.most is None or rows <= self.most:
                return self.decoder(latents)
            parts = latents.flatten(end_dim=-2).split(self.most)
            return torch.cat([self.decoder(part) for part in parts]).unflatten(0, latents.shape[:-1])
        except (MemoryError, RuntimeError) as error:
            if memory_reason(error) is None or min(self.most or rows, rows) == 1:
                raise
        return None
