"""Where the training images lie, and how a step gets those of its mini-batch: on the device, or streamed to it.

Streamed images stay where they were read, which for a mapped file is on the disk and, as far as there is room, in the
operating system's cache. Threads gather the mini-batches of the next steps, in the order of the epoch, into memory
from which a GPU copies by itself. Both ways give a step the same bytes.
"""

import ctypes
import mmap
import os
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from vae import ranks
from vae.settings import Train

_SHARE = 0.5  # of the free memory that images may take: the rest is the model's, its steps' and that of others
_AHEAD = 16  # mini-batches
_THREADS = 4  # each waits for the disk once for every image that is not in the cache


def placed(settings: Train, images: Tensor, device: torch.device) -> Train:
    """The settings with an `images` of `auto` replaced: `resident` if half of the device's free memory holds them.

    On a CPU it is half of the machine's memory. The choice changes no result.
    """
    if settings.images != "auto":
        return settings
    size, most = images.nbytes, _SHARE * _memory(device)
    if size > most and ranks.rank() == 0:
        where = f"they would take {size / 1e9:.1f} GB, more than half of the memory of {device.type}"
        print(f"streaming the training images, as {where}", flush=True)
    return settings.model_copy(update={"images": "streamed" if size > most else "resident"})


def _memory(device: torch.device) -> float:
    """Free bytes on a GPU; a CPU's are all of its memory, as the cache of files counts as used."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "cpu" and hasattr(os, "sysconf"):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return float("inf")


class Resident:
    """Images (n, ...) on the device, from which a step selects."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def begin(self, order: Tensor, batch: Tensor) -> None:
        """Nothing is prepared for an epoch."""

    def advance(self) -> None:
        """Nor for a step."""

    def __call__(self, chosen: Tensor) -> Tensor:
        """The images at the places `chosen`, int64 (m,)."""
        return self.images.index_select(0, chosen)


class Streamed:
    """Images (n, ...) on the host, of which each mini-batch has `size`; this rank's are gathered ahead of the steps.

    Attributes:
        batch: the images of the present mini-batch on the device, (size, ...); always the same memory, as a captured
            graph reads it.
    """

    def __init__(self, images: Tensor, size: int, device: torch.device) -> None:
        self.source, self.size = images.numpy(), size
        _read_images_alone(self.source)
        self.batch = torch.zeros(size, *images.shape[1:], dtype=images.dtype, device=device)
        self.pinned = device.type == "cuda"
        self.gatherers = ThreadPoolExecutor(_THREADS, thread_name_prefix="gatherer")
        self.coming: Iterator[np.ndarray] = iter(())
        self.ahead: deque[tuple[Future[np.ndarray], Tensor]] = deque()

    def begin(self, order: Tensor, batch: Tensor) -> None:
        """Start to gather the mini-batches of an epoch with this order, int64 (n,), from number `batch`, (1,), on."""
        for abandoned, _ in self.ahead:
            abandoned.cancel()
        self.ahead.clear()
        places = order.cpu().numpy()
        starts = range(int(batch) * self.size, len(places), self.size)
        batches = (places[start : start + self.size] for start in starts)
        self.coming = (whole[ranks.rows(len(whole)).slice] for whole in batches)
        for _ in range(_AHEAD):
            self._gather_next()

    def advance(self) -> None:
        """Copy the next mini-batch to the device; raises what gathering it raised."""
        gathered, images = self.ahead.popleft()
        gathered.result()
        # From pinned memory a GPU copies later; torch keeps it from being used anew until then.
        self.batch[: len(images)].copy_(images, non_blocking=True)
        self._gather_next()

    def __call__(self, chosen: Tensor) -> Tensor:
        """The images of the present mini-batch, of which there are as many as places in `chosen`."""
        return self.batch[: len(chosen)]

    def _gather_next(self) -> None:
        places = next(self.coming, None)
        if places is None:
            return
        # Allocated here, as no other thread may call CUDA while a graph is captured.
        shape = (len(places), *self.batch.shape[1:])
        images = torch.empty(shape, dtype=self.batch.dtype, pin_memory=self.pinned)
        # By numpy, whose copies leave torch's threads to the step; it buffers the output unless told to clip.
        gathered = self.gatherers.submit(np.take, self.source, places, axis=0, out=images.numpy(), mode="clip")
        self.ahead.append((gathered, images))


def _read_images_alone(images: np.ndarray) -> None:
    """Keep Linux from reading megabytes of a mapped file around each image, which push others out of the cache."""
    if sys.platform == "linux":
        first = images.ctypes.data // mmap.PAGESIZE * mmap.PAGESIZE
        length = images.ctypes.data + images.nbytes - first
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), mmap.MADV_RANDOM)
