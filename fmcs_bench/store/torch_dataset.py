"""Maps as batches for PyTorch, decoded ahead in threads: shuffled over all shards, or in order.

Threads decode the next blocks of batches while those of the first are given out. The order is known before anything is
read: threads cannot change it.
M maps of the selection, N maps of a part, B maps of a batch, D channels, H height, W width.
"""

from __future__ import annotations

import math
import weakref
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from fmcs_bench.core.environment import usable_cores
from fmcs_bench.core.errors import ConfigError
from fmcs_bench.core.seeding import derive
from fmcs_bench.store.map_array import MapIndex, plan, run_task, tasks, unit_keys

BUFFER_BYTES = 64 << 20
"""Default memory of the buffer in each process."""


class MapBatch(NamedTuple):
    """Some maps and their labels.

    Attributes:
        maps_BDHW: float16, or the type that was asked for.
        stages_B: int64, class index 0 .. K - 1, for losses; the FMCS is one more.
        image_ids_B: int64.
        runs_B: int64, seed of the run.
    """

    maps_BDHW: torch.Tensor
    stages_B: torch.Tensor
    image_ids_B: torch.Tensor
    runs_B: torch.Tensor


class MapBatches(IterableDataset[MapBatch]):
    """An epoch of batches of a selection; ``MapSelection.torch`` makes one.

    Every map comes exactly once in an epoch, over all ranks and workers, whatever their number; the last batch of a
    rank is smaller where it must be. Use it in a loop, or as ``DataLoader(dataset, batch_size=None, num_workers=2)``.
    Each (seed, epoch, ranks, workers, buffer, batch size) has one order. An epoch that is not shuffled has the order of
    the selection (a rank its part of it), also with workers.

    Shuffling has two steps. Units, the chunks that are decoded at once, are shuffled over all runs, stages and shards;
    then maps are shuffled within blocks of half the buffer. Where a chunk is one map this is a full shuffle.

    Args:
        index: of the maps: a selection.
        batch_size: B, 1 or more.
        shuffle: a new order in each epoch (see ``set_epoch``).
        seed: of the order.
        buffer_maps: maps that a process decodes ahead, at least two chunks, and two batches; None is 64 MiB. Batches
            share memory with others of their block, an eighth or half of this; it is reused when all are released.
        dtype: of the maps; None is float16, as stored.
        drop_last: leave out a last batch that is smaller than B.
        even: give every rank the same number of maps, and so of batches, as gradient averaging needs it. Up to
            ``world_size - 1`` maps are then left out, different ones in each shuffled epoch.
        rank: of this process; None is ``torch.distributed``'s where it is initialised, else 0.
        world_size: number of ranks; None likewise, else 1.
        threads: that decode in each process; None is one for each usable core, divided by the number of workers.

    Raises:
        ConfigError: an option has a value that is not allowed.
    """

    def __init__(
        self,
        index: MapIndex,
        *,
        batch_size: int = 64,
        shuffle: bool = False,
        seed: int = 0,
        buffer_maps: int | None = None,
        dtype: torch.dtype | None = None,
        drop_last: bool = False,
        even: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
        threads: int | None = None,
    ) -> None:
        unit_size_S = np.array([array.unit for array in index.arrays])
        least = 2 * int(unit_size_S.max())
        if buffer_maps is None:
            buffer_maps = max(least, BUFFER_BYTES // index.arrays[0].map_bytes)
        _require_at_least("batch_size", batch_size, 1)
        _require_at_least("buffer_maps", buffer_maps, least, " (two chunks of this selection)")
        _require_at_least("threads", 1 if threads is None else threads, 1)
        self.index, self.batch_size, self.shuffle, self.seed = index, batch_size, shuffle, seed
        self.buffer_maps, self.drop_last, self.even, self.threads = buffer_maps, drop_last, even, threads
        self.dtype = torch.float16 if dtype is None else dtype
        if not self.dtype.is_floating_point:
            raise ConfigError(f"dtype = {dtype}; maps need a floating-point type")
        self.rank, self.world_size = _ranks(rank, world_size)
        # Workers that stay between epochs have copies of this object; the number in shared memory reaches them.
        self._epoch = torch.zeros((), dtype=torch.int64)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]  # PyTorch leaves it without types
        units_M = unit_keys(index.source_M, index.stages_M, index.image_M // unit_size_S[index.source_M])
        self._grouped_M = np.argsort(units_M, kind="stable")
        self._starts_U = np.flatnonzero(np.diff(units_M[self._grouped_M], prepend=-1))
        # Small blocks suit the caches of the CPU; where chunks hold several maps, large ones mix better.
        self._block_maps = max(1, buffer_maps // (8 if least == 2 else 2) // batch_size) * batch_size
        self._num_ahead = max(2, buffer_maps // self._block_maps)
        self._pool = BufferPool((self._block_maps, *index.arrays[0].map_shape), self._num_ahead)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the epochs that begin from now on; call it before each shuffled epoch."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        """Batches of this rank in an epoch."""
        first, last = self._range_of_rank()
        return self._num_batches(last - first)

    def __iter__(self) -> Iterator[MapBatch]:
        worker = get_worker_info()
        number, num_workers = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        threads = self.threads or max(1, usable_cores() // num_workers)
        index = self.index
        waiting: deque[tuple[np.ndarray, np.ndarray, list[Future[None]]]] = deque()
        with ThreadPoolExecutor(threads, "fmcs-bench-decode") as pool:
            try:
                for block_N in self.blocks(int(self._epoch), number, num_workers):
                    maps_NDHW = self._pool.take(len(block_N))
                    jobs = plan(
                        index.arrays, *(of_M[block_N] for of_M in (index.source_M, index.stages_M, index.image_M))
                    )
                    futures = [pool.submit(run_task, task, maps_NDHW) for task in tasks(jobs, threads)]
                    waiting.append((block_N, maps_NDHW, futures))
                    del maps_NDHW
                    if len(waiting) == self._num_ahead:
                        yield from self._batches(*waiting.popleft())
                while waiting:
                    yield from self._batches(*waiting.popleft())
            finally:
                pool.shutdown(cancel_futures=True)

    def blocks(self, epoch: int, worker: int = 0, num_workers: int = 1) -> list[np.ndarray]:
        """Positions in the selection, in the order of a worker, in blocks that are decoded together."""
        first, last = self._range_of_rank()
        order_N = (self._shuffled_units(epoch) if self.shuffle else np.arange(len(self.index)))[first:last]
        num_batches = self._num_batches(len(order_N))
        if self.shuffle:  # neighbouring batches share units
            numbers = np.arange(num_batches * worker // num_workers, num_batches * (worker + 1) // num_workers)
        else:  # DataLoader takes a batch of each worker in turn
            numbers = np.arange(worker, num_batches, num_workers)
        place_N = (numbers[:, None] * self.batch_size + np.arange(self.batch_size)).ravel()
        order_N = order_N[place_N[place_N < len(order_N)]]
        blocks = [order_N[start : start + self._block_maps] for start in range(0, len(order_N), self._block_maps)]
        if self.shuffle:
            numbers_of = self.rank, self.world_size, worker, num_workers
            generator = np.random.default_rng(derive(self.seed, "blocks", epoch, *numbers_of))
            blocks = [generator.permutation(block) for block in blocks]
        return blocks

    def _range_of_rank(self) -> tuple[int, int]:
        num = len(self.index)
        if self.even:
            num -= num % self.world_size
        return num * self.rank // self.world_size, num * (self.rank + 1) // self.world_size

    def _num_batches(self, num_maps: int) -> int:
        return num_maps // self.batch_size if self.drop_last else -(-num_maps // self.batch_size)

    def _shuffled_units(self, epoch: int) -> np.ndarray:
        """All positions, units in an order that all ranks and workers agree on."""
        lengths_U = np.diff(self._starts_U, append=len(self._grouped_M))
        order_U = np.random.default_rng(derive(self.seed, "units", epoch)).permutation(len(lengths_U))
        lengths_U = lengths_U[order_U]
        begin_U = np.cumsum(lengths_U) - lengths_U
        place_M = np.arange(lengths_U.sum()) + np.repeat(self._starts_U[order_U] - begin_U, lengths_U)
        return np.asarray(self._grouped_M[place_M])

    def _batches(self, block_N: np.ndarray, maps_NDHW: np.ndarray, futures: list[Future[None]]) -> Iterator[MapBatch]:
        """The batches of a block, when it is decoded."""
        for future in futures:
            future.result()
        labels = (of_M[block_N] for of_M in (self.index.stages_M, self.index.image_ids_M, self.index.runs_M))
        columns = [torch.from_numpy(column_N) for column_N in (maps_NDHW, *labels)]
        if self.dtype != torch.float16:  # "to" waits for its turn in Python also where it does nothing
            columns[0] = columns[0].to(self.dtype)
        for parts in zip(*(torch.split(column, self.batch_size) for column in columns), strict=True):
            yield MapBatch(*parts)


class BufferPool:
    """Buffers for float16 arrays, used again when nothing refers to them: new memory costs an eighth of an epoch.

    Threads may share it; a pickled one is empty. ``shape`` is that of the largest array.
    """

    def __init__(self, shape: tuple[int, ...], max_spare: int) -> None:
        self.shape, self.max_spare = shape, max_spare
        self._spare: deque[np.ndarray] = deque(maxlen=max_spare)

    def __reduce__(self) -> tuple[type[BufferPool], tuple[tuple[int, ...], int]]:
        return BufferPool, (self.shape, self.max_spare)

    def take(self, rows: int) -> np.ndarray:
        """An array [rows, ...] with any content; its buffer is free again when no view or tensor of it is left."""
        try:
            memory = self._spare.pop()
        except IndexError:
            memory = np.empty(math.prod(self.shape), np.float16)
        # NumPy lets views of a view refer to the owner of the memory; behind a memoryview that is this array.
        array = np.frombuffer(memory.data, np.float16, count=rows * math.prod(self.shape[1:]))
        weakref.finalize(array, self._spare.append, memory).atexit = False
        return array.reshape(rows, *self.shape[1:])


def _ranks(rank: int | None, world_size: int | None) -> tuple[int, int]:
    if (rank is None) != (world_size is None):
        raise ConfigError(f"rank = {rank}, world_size = {world_size}; give both, or none")
    if rank is None or world_size is None:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return 0, 1
    if not 0 <= rank < world_size:
        raise ConfigError(f"rank = {rank}, world_size = {world_size}; the rank must be 0 to world_size - 1")
    return rank, world_size


def _require_at_least(name: str, value: int, least: int, which: str = "") -> None:
    if value < least:
        raise ConfigError(f"{name} = {value}; it must be {least} or more{which}")
