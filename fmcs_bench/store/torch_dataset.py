"""Maps as batches for PyTorch, decoded ahead in threads: shuffled over all shards, or in order.

Flow: units (chunks), shuffled -> parts for ranks and workers -> blocks -> the next block, decoded by threads into half
of the buffer -> piles of a few batches, from the other half; where a chunk is one map, it is decoded straight into its
pile. The order is known before anything is read: no thread can change it.
M maps of the selection, N maps of a part, B maps of a batch, D channels, H height, W width.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from fmcs_bench.core.environment import usable_cores
from fmcs_bench.core.errors import ConfigError
from fmcs_bench.core.seeding import derive
from fmcs_bench.store.lending import Lending
from fmcs_bench.store.map_array import TASK_BYTES, map_bytes, plan, run_task, tasks, unit_keys
from fmcs_bench.store.selection import MapSelection

BUFFER_BYTES = 64 << 20
"""Default memory of the buffer in each process."""

PILE_BYTES = 4 << 20
"""Batches that are put together at once: for each, a thread waits for its turn in Python."""


class MapBatch(NamedTuple):
    """Some maps and their labels.

    Attributes:
        maps_BDHW: float16, or the type that was asked for.
        stages_B: int64, 0 .. K - 1; the FMCS is one more.
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
    One order belongs to each (seed, epoch, ranks, workers, buffer, batch size). An epoch that is not shuffled has the
    order of the selection (a rank its part of it), also with workers.

    Shuffling is in two steps. Units, the chunks that are decoded at once, are shuffled over all runs, stages and
    shards; then maps are shuffled within blocks of half the buffer. Where a chunk is one map this is a full shuffle.

    Args:
        selection: of a dataset.
        batch_size: B, 1 or more.
        shuffle: another order in each epoch (see ``set_epoch``).
        seed: of the order.
        buffer_maps: maps that a process holds beside those it has given out, at least two chunks; None is 64 MiB.
            Their memory is kept between epochs. Small batches share memory with their neighbours: up to 4 MiB, or an
            eighth of this number.
        dtype: of the maps; None is float16, as stored.
        drop_last: leave out a last batch that is smaller than B.
        even: give every rank the same number of maps, and so of batches, as gradient averaging needs it. Up to
            ``world_size - 1`` maps are then left out, others in each shuffled epoch. Without it, ranks differ by at
            most one map, and the number of their batches by at most one.
        rank: of this process; None is ``torch.distributed``'s where it is initialised, else 0.
        world_size: number of ranks; None likewise, else 1.
        threads: that decode in each process; None is one for each usable core, divided by the number of workers.

    Raises:
        ConfigError: an option has a value that is not allowed.
    """

    def __init__(
        self,
        selection: MapSelection,
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
        largest_unit = max(array.unit for array in selection.arrays)
        if buffer_maps is None:
            buffer_maps = max(2 * largest_unit, BUFFER_BYTES // map_bytes(selection.arrays[0]))
        _require_at_least("batch_size", batch_size, 1)
        _require_at_least("buffer_maps", buffer_maps, 2 * largest_unit, "two chunks of this selection")
        _require_at_least("threads", 1 if threads is None else threads, 1)
        self.selection, self.batch_size, self.shuffle, self.seed = selection, batch_size, shuffle, seed
        self.buffer_maps, self.drop_last, self.even, self.threads = buffer_maps, drop_last, even, threads
        self.dtype = torch.float16 if dtype is None else dtype
        if not self.dtype.is_floating_point:
            raise ConfigError(f"dtype = {dtype}; maps need a floating-point type")
        self.rank, self.world_size = _ranks(rank, world_size)
        # Workers that stay between epochs have copies of this object; the number in shared memory reaches them.
        self._epoch = torch.zeros((), dtype=torch.int64)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]  # PyTorch leaves it without types
        unit_size_S = np.array([array.unit for array in selection.arrays])
        units_M = unit_keys(
            selection.source_M, selection.stages_M, selection.image_M // unit_size_S[selection.source_M]
        )
        self._grouped_M = np.argsort(units_M, kind="stable")
        self._starts_U = np.flatnonzero(np.diff(units_M[self._grouped_M], prepend=-1))
        self._units_M = units_M
        self._places = selection.source_M, selection.stages_M, selection.image_M
        batches_per_pile = min(
            PILE_BYTES // (map_bytes(selection.arrays[0]) * batch_size), self.buffer_maps // (8 * batch_size)
        )
        self._pile_maps = batch_size * max(1, batches_per_pile)
        # Memory is kept between epochs: touching new memory takes as long as decoding into it. Where maps are decoded
        # straight into piles, the buffer is piles.
        self._is_single = all(array.unit == 1 for array in selection.arrays)
        self._buffers = Lending((2, self.buffer_maps // 2, *selection.shape[1:]), max_spare=1)
        max_piles = max(2, self.buffer_maps // self._pile_maps if self._is_single else 0)
        self._pile_memory = Lending((self._pile_maps, *selection.shape[1:]), max_spare=max_piles)

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
        blocks = self.blocks(int(self._epoch), number, num_workers)
        if self._is_single:
            return self._read_single(np.concatenate([*blocks, np.zeros(0, np.int64)]), threads)
        return self._read(blocks, threads)

    def blocks(self, epoch: int, worker: int = 0, num_workers: int = 1) -> list[np.ndarray]:
        """Positions in the selection, in the order in which a worker gives them, in blocks that are decoded together.

        Args:
            epoch: as for ``set_epoch``.
            worker: number of the worker.
            num_workers: number of workers of each rank.
        """
        first, last = self._range_of_rank()
        order_N = (self._shuffled_units(epoch) if self.shuffle else np.arange(len(self.selection)))[first:last]
        num_batches = self._num_batches(len(order_N))
        if self.shuffle:  # neighbouring batches share units
            numbers = np.arange(num_batches * worker // num_workers, num_batches * (worker + 1) // num_workers)
        else:  # DataLoader takes a batch of each worker in turn
            numbers = np.arange(worker, num_batches, num_workers)
        place_N = (numbers[:, None] * self.batch_size + np.arange(self.batch_size)).ravel()
        order_N = order_N[place_N[place_N < len(order_N)]]
        blocks = self._cut(order_N)
        if self.shuffle:
            generator = np.random.default_rng(
                derive(self.seed, "blocks", epoch, self.rank, self.world_size, worker, num_workers)
            )
            blocks = [generator.permutation(block) for block in blocks]
        return blocks

    def _range_of_rank(self) -> tuple[int, int]:
        num = len(self.selection)
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

    def _cut(self, order_N: np.ndarray) -> list[np.ndarray]:
        """Blocks of at most half the buffer, cut where a unit ends, so that none is decoded twice."""
        ends = np.append(np.flatnonzero(np.diff(self._units_M[order_N])) + 1, len(order_N))
        blocks, start = [], 0
        while start < len(order_N):
            latest = start + self.buffer_maps // 2
            stop = int(ends[np.searchsorted(ends, latest, side="right") - 1]) if ends[0] <= latest else latest
            stop = stop if stop > start else latest
            blocks.append(order_N[start:stop])
            start = stop
        return blocks

    def _read_single(self, order_N: np.ndarray, threads: int) -> Iterator[MapBatch]:
        """Each map is a chunk of its own: threads decode it straight to its place in its batch, some batches ahead."""
        arrays = self.selection.arrays
        places = list(zip(*(of_M[order_N].tolist() for of_M in self._places), strict=True))

        def decode(out_NDHW: np.ndarray, first: int) -> None:
            for n, (array, row, image) in enumerate(places[first : first + len(out_NDHW)]):
                arrays[array].read_unit(row, image, None, out_NDHW[n : n + 1])

        num = max(1, TASK_BYTES[1] // map_bytes(arrays[0]))  # mostly the whole pile
        waiting: deque[tuple[_Pile, list[Future[None]]]] = deque()
        with ThreadPoolExecutor(threads, "fmcs-bench-decode") as pool:
            try:
                for number, pile in enumerate(self._piles(order_N)):
                    maps_NDHW, first = pile.maps_NDHW, number * self._pile_maps
                    starts = range(0, len(maps_NDHW), num)
                    futures = [pool.submit(decode, maps_NDHW[at : at + num], first + at) for at in starts]
                    waiting.append((pile, futures))
                    if (len(waiting) + 1) * self._pile_maps > self.buffer_maps:
                        yield from _when_done(*waiting.popleft())
                while waiting:
                    yield from _when_done(*waiting.popleft())
            finally:
                pool.shutdown(cancel_futures=True)

    def _read(self, blocks: list[np.ndarray], threads: int) -> Iterator[MapBatch]:
        """While the batches of one block are given out, threads decode the next into the other half of the buffer."""
        selection = self.selection
        buffer_SNDHW = self._buffers.lend(2)
        decoding: deque[tuple[list[Future[None]], np.ndarray]] = deque()
        with ThreadPoolExecutor(threads, "fmcs-bench-decode") as pool:

            def start(number: int) -> None:
                block = blocks[number]
                # Neighbours on the disk are neighbours in the buffer: chunks are decoded to where they stay.
                sources, rows, images = (of_M[block] for of_M in self._places)
                sorted_N = np.lexsort((images, rows, sources))
                place_N = np.empty_like(sorted_N)
                place_N[sorted_N] = np.arange(len(block))
                jobs = plan(selection.arrays, sources[sorted_N], rows[sorted_N], images[sorted_N])
                half_NDHW = buffer_SNDHW[number % 2]
                decoding.append(([pool.submit(run_task, task, half_NDHW) for task in tasks(jobs, threads)], place_N))

            try:
                for number in range(min(2, len(blocks))):
                    start(number)
                piles = deque(self._piles(np.concatenate([*blocks, np.zeros(0, np.int64)])))
                for number in range(len(blocks)):
                    futures, place_N = decoding.popleft()
                    for future in futures:
                        future.result()
                    while len(place_N):
                        place_N = piles[0].take(buffer_SNDHW[number % 2], place_N)
                        if piles[0].is_full and len(place_N):
                            yield from piles.popleft().batches()
                    if number + 2 < len(blocks):
                        start(number + 2)  # all of this block is copied: its half is free
                    if piles[0].is_full:
                        yield from piles.popleft().batches()
            finally:
                pool.shutdown(cancel_futures=True)

    def _piles(self, order_N: np.ndarray) -> Iterator[_Pile]:
        starts = range(0, len(order_N), self._pile_maps)
        return (_Pile(self, order_N[start : start + self._pile_maps]) for start in starts)


class _Pile:
    """Batches that follow each other and are put together at once.

    Attributes:
        maps_NDHW: float16; lent when it is first needed.
    """

    def __init__(self, of: MapBatches, index_N: np.ndarray) -> None:
        self._of, self._index_N, self._num = of, index_N, 0

    @cached_property
    def maps_NDHW(self) -> np.ndarray:
        return self._of._pile_memory.lend(len(self._index_N))

    @property
    def is_full(self) -> bool:
        return self._num == len(self._index_N)

    def take(self, buffer_NDHW: np.ndarray, place_N: np.ndarray) -> np.ndarray:
        """Copy the maps at the first of these places, as many as there is room for; returns the rest of the places."""
        here = slice(self._num, self._num + len(place_N))
        num = len(self._index_N[here])
        # mode: places are in range; with the default, NumPy would copy twice
        np.take(buffer_NDHW, place_N[:num], axis=0, out=self.maps_NDHW[here], mode="clip")
        self._num += num
        return place_N[num:]

    def batches(self) -> Iterator[MapBatch]:
        """All of them, in their order."""
        selection, maps_NDHW = self._of.selection, torch.from_numpy(self.maps_NDHW)
        if self._of.dtype != torch.float16:  # "to" waits for its turn in Python also where it does nothing
            maps_NDHW = maps_NDHW.to(self._of.dtype)
        labels = (of_M[self._index_N] for of_M in (selection.stages_M, selection.image_ids_M, selection.runs_M))
        columns = (maps_NDHW, *(torch.from_numpy(values_N) for values_N in labels))
        return (
            MapBatch(*parts)
            for parts in zip(*(torch.split(column, self._of.batch_size) for column in columns), strict=True)
        )


def _when_done(pile: _Pile, futures: list[Future[None]]) -> Iterator[MapBatch]:
    for future in futures:
        future.result()
    return pile.batches()


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
        raise ConfigError(f"{name} = {value}; it must be {least} or more{f' ({which})' if which else ''}")
