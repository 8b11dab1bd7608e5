"""Batches of images in a given order, on a device: from its memory, from the host's, or decoded ahead by processes.

Pixels, order and batches are the same in each of the three ways.

B batch, N images, M chosen images, C channels, H height, W width.
"""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import warnings
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from fmcs_bench.core.environment import usable_cores
from fmcs_bench.core.errors import FmcsBenchError, ReaderError
from fmcs_bench.images.encoded import EncodedImages, ImageArray

MOST_WORKERS = 16
START_METHOD = "fork" if sys.platform == "linux" else "spawn"
"""Of worker processes. A fork starts at once, shares the paths with its parent, and needs no ``if __name__ ==
"__main__"`` in a caller's script. It is safe here because a worker uses one thread, no GPU, and none of the parent's
locks. Everything that it gets can be pickled as well, for platforms that do not fork."""


def default_num_workers() -> int:
    """Every core that this process may use but one, which trains; at most 16. With one core, 0: no processes."""
    return min(MOST_WORKERS, usable_cores() - 1)


def free_device_bytes(device: torch.device) -> int | None:
    """Free memory of a GPU, in bytes; None for other devices."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def image_inputs(images: ImageArray, rows_M: np.ndarray, device: torch.device) -> torch.Tensor | BatchReader:
    """The images of some rows, as a training takes its batches from them: on the device, or a reader of batches.

    Images in memory go to a GPU whole where they take no more than half of its free memory. All others stay where they
    are, and go to the device batch by batch.
    """
    if isinstance(images, np.ndarray) and device.type != "cpu":
        free = free_device_bytes(device)
        if free is None or 2 * len(rows_M) * math.prod(images.shape[1:]) <= free:
            return torch.from_numpy(images[rows_M]).to(device)
    return BatchReader(images, rows_M, device)


class BatchReader:
    """Reads batches of images; its worker processes, if it needs any, live as long as it does.

    Row numbers refer to ``rows_M``; None is all images.
    """

    def __init__(
        self, images: ImageArray, rows_M: np.ndarray | None = None, device: torch.device | str = "cpu"
    ) -> None:
        self._images, self._device = images, torch.device(device)
        self._rows_M = np.arange(len(images)) if rows_M is None else rows_M
        self._order: list[np.ndarray] = []
        self._loader: DataLoader[Any] | None = None
        self._end: weakref.finalize[..., BatchReader] | None = None

    def __call__(self, batches: Sequence[np.ndarray]) -> Iterator[torch.Tensor]:
        """Read batches of row numbers, in this order: uint8 [B, C, H, W], on the device.

        Finish or drop one call's iterator before the next call. An image that can no longer be read is named in the
        error; a worker process that died is a ReaderError.
        """
        order = [self._rows_M[rows_B] for rows_B in batches]
        if isinstance(self._images, EncodedImages):
            found = self._stream(self._images, order)
        else:
            found = (self._images[rows_B] for rows_B in order)
        for images_BCHW in found:
            batch_BCHW = torch.from_numpy(images_BCHW)
            if self._device.type == "cuda":  # the GPU fetches it while the host goes on
                batch_BCHW = batch_BCHW.pin_memory()
            yield batch_BCHW.to(self._device, non_blocking=True)

    def _stream(self, images: EncodedImages, order: list[np.ndarray]) -> Iterator[np.ndarray]:
        if self._loader is None:
            num = default_num_workers() if images.num_workers is None else images.num_workers
            num = min(num, len(order))
            self._loader = DataLoader(
                _Decoding(images),
                batch_size=None,  # an item is a batch
                sampler=self._order,
                num_workers=num,
                collate_fn=_identity,
                persistent_workers=num > 0,
                multiprocessing_context=START_METHOD if num else None,
                generator=torch.Generator(),  # otherwise it would draw from the noise of the training
            )
        self._order[:], self._current = order, order  # the loader keeps the first
        with warnings.catch_warnings(), _interrupts_held():
            # Python 3.12 and newer warn of any fork beside threads; see START_METHOD.
            warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)
            found = iter(self._loader)
        if self._end is None and self._loader.num_workers:
            # The garbage collector may close the queues first, and then each process is waited for in vain. A finalizer
            # runs before that, and torch has no public name for this.
            self._end = weakref.finalize(self, found._shutdown_workers)  # type: ignore[attr-defined]
        for _ in order:
            assert self._current is order, "two readings of one reader at once"
            try:
                item = next(found)
            except RuntimeError as error:
                if not str(error).startswith("DataLoader worker"):
                    raise
                self._loader = self._end = None
                raise ReaderError(
                    f"a process that decodes images of {images.name} died ({error}); most often memory is short: use a "
                    "smaller --batch-size or --image-size, or fewer processes (num_workers of load_images)"
                ) from error
            if isinstance(item, FmcsBenchError):
                raise item
            yield item


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold SIGINT back while processes start: they inherit that for life, and this process gets it afterwards.

    A terminal sends an interrupt to all processes at once. A worker that it stopped while it held a lock of the queues
    would leave the lock closed, and this process would wait for it for ever. So this process alone ends the workers.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Decoding(Dataset[Any]):
    """What a worker process does: row numbers -> images, as a NumPy array.

    Arrays go through a pipe. Torch's tensors would go through shared memory, which containers limit to 64 MB and
    whose files count against the limit of open ones; decoding takes many times longer than the pipe.

    Errors are returned as values, since torch would put a traceback into their message.
    """

    def __init__(self, images: EncodedImages) -> None:
        self._images = images

    def __getitem__(self, rows_B: np.ndarray) -> np.ndarray | FmcsBenchError:
        try:
            return self._images[rows_B]
        except FmcsBenchError as error:
            return error


def _identity(item: Any) -> Any:
    return item
