"""The maps of one array as float16, whatever its codec and wherever it is, and the work of reading many of them.

Flow: position of each map -> jobs, one for each unit that must be decoded -> threads -> each map at its place.
A unit is what is decoded at once: an inner chunk, or, where zarr-python reads, a range of about 32 maps.
N images, M maps wanted, J jobs, U maps wanted of one unit, S arrays, D channels, H height, W width.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import zarr

from fmcs_bench.core.environment import usable_cores
from fmcs_bench.core.errors import DatasetError, FmcsBenchError
from fmcs_bench.store import codecs, schema
from fmcs_bench.store.location import Location
from fmcs_bench.store.shards import ShardLayout, ShardReader

ZARR_UNIT = 32
"""Maps that zarr-python is asked for at once, where an inner chunk has fewer."""
TASK_BYTES = 1 << 20, 8 << 20
"""Maps that a thread decodes before it asks for more work, at least and at most: it should ask seldom, and no thread
should wait long for the last task of another."""
TASKS_PER_THREAD = 4


class MapArray:
    """One array of maps [row, image, channel, y, x], read as float16; it can be pickled, and threads may share it.

    Args:
        location: of the dataset.
        name: path of the array in the store, such as ``run-0/feature_maps``.
        codec: of the dataset.
        files: names of all files of the dataset.

    Attributes:
        is_direct: shards are read by ``ShardReader``; otherwise by zarr-python, which reads every store. It is so where
            the dataset lies on this machine and the array has a layout that ``ShardLayout`` knows.
        reason: why not, where it is not.

    Raises:
        DatasetError: there is no such array, or its metadata is damaged.
    """

    def __init__(self, location: Location, name: str, codec: str, files: frozenset[str]) -> None:
        self.location, self.name, self.codec, self._files = location, name, codec, files
        file = f"{schema.MAPS}/{name}/zarr.json"
        if file not in files:
            raise DatasetError(f"{name} is no array of {location}")
        try:
            metadata = json.loads(location.read_bytes(file))
            self.shape = tuple(int(n) for n in metadata["shape"])
            self.dims = tuple(str(dim) for dim in metadata["dimension_names"])
            self._per_shard = int(metadata["chunk_grid"]["configuration"]["chunk_shape"][1])
        except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
            raise DatasetError(f"{location.shown(file)} is damaged: {error}") from None
        if metadata.get("data_type") != codecs.DTYPES[codec] or len(self.shape) != 5:
            raise DatasetError(
                f"{location.shown(file)} is damaged: {len(self.shape)} axes of {metadata.get('data_type')}, "
                f"not 5 of {codecs.DTYPES[codec]}"
            )
        layout, self.reason = ShardLayout.parse(metadata)
        self._shards: ShardReader | None = None
        if location.local is None:
            self.reason = "the dataset is not on this machine"
        elif layout is not None:
            self._shards = ShardReader(location.local / schema.MAPS / name, layout)

    def __repr__(self) -> str:
        how = "directly" if self.is_direct else f"by zarr-python: {self.reason}"
        sizes = ", ".join(f"{dim}: {size}" for dim, size in zip(self.dims, self.shape, strict=True))
        return f"MapArray {self.name} ({sizes}) float16, read {how}"

    def __getstate__(self) -> dict[str, Any]:
        return {"location": self.location, "name": self.name, "codec": self.codec, "files": self._files}

    def __setstate__(self, state: dict[str, Any]) -> None:
        MapArray.__init__(self, **state)

    @property
    def is_direct(self) -> bool:
        """Whether shards are read without zarr-python."""
        return self._shards is not None

    @property
    def map_shape(self) -> tuple[int, ...]:
        """(D, H, W)."""
        return self.shape[2:]

    @cached_property
    def unit(self) -> int:
        """Consecutive images that are decoded at once."""
        if self._shards is not None:
            return self._shards.layout.per_chunk
        return max(int(self._zarr().chunks[1]), ZARR_UNIT)

    def read_map(self, row: int, image: int) -> np.ndarray:
        """One map, float16 [D, H, W].

        Args:
            row: position of the stage or checkpoint.
            image: position on the second axis.

        Raises:
            DatasetError: a file is missing or damaged.
        """
        if self._shards is not None and self._shards.layout.per_chunk == 1 and self.codec != "q8":
            return np.asarray(self._shards.read_chunk(row, image)[0])
        unit, take = divmod(image, self.unit)
        return np.asarray(self.read_unit(row, unit, np.array([take]))[0])

    def read_unit(
        self, row: int, unit: int, take_U: np.ndarray | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Maps of one unit.

        Args:
            row: position of the stage or checkpoint.
            unit: number of the unit; it begins at the image ``unit * self.unit``.
            take_U: int64, positions of the maps inside the unit; None is all, in their order.
            out: float16 [U, D, H, W], contiguous; None makes a new array.

        Raises:
            DatasetError: a file is missing or damaged.
        """
        if self._shards is not None:
            target = out if take_U is None and self.codec != "q8" else None
            stored_UDHW = self._shards.read_chunk(row, unit, target)
            if target is not None:
                return target
            if take_U is not None:
                stored_UDHW = stored_UDHW[take_U]
        else:
            stored_UDHW = self._read_by_zarr(row, self._images(unit, take_U))
        if self.codec == "q8":
            target = np.empty(stored_UDHW.shape, np.float16) if out is None else out
            self._values_of_q8(stored_UDHW, row, self._images(unit, take_U), target)
            return target
        if out is None:
            return stored_UDHW
        out[...] = stored_UDHW
        return out

    def _images(self, unit: int, take_U: np.ndarray | None) -> np.ndarray:
        """Positions on the second axis."""
        first = unit * self.unit
        return first + take_U if take_U is not None else np.arange(first, min(first + self.unit, self.shape[1]))

    def _values_of_q8(self, numbers_UDHW: np.ndarray, row: int, image_U: np.ndarray, out: np.ndarray) -> None:
        scale_RSD, zero_point_RSD = self._q8
        shard_U = image_U // self._per_shard
        shards = np.unique(shard_U).tolist()
        if len(shards) == 1:
            codecs.dequantise(numbers_UDHW, scale_RSD[row, shards[0]], zero_point_RSD[row, shards[0]], out)
            return
        for shard in shards:  # each has a scale of its own
            here_U = shard_U == shard
            out[here_U] = codecs.dequantise(numbers_UDHW[here_U], scale_RSD[row, shard], zero_point_RSD[row, shard])

    @cached_property
    def _q8(self) -> tuple[np.ndarray, np.ndarray]:
        """Scale and zero point, each [row, shard, channel]."""
        group, expected = self._group(), (self.shape[0], -(-self.shape[1] // self._per_shard), self.shape[2])
        found = [codecs.open_array(group, of(self.name)) for of in (codecs.scale_name, codecs.zero_point_name)]
        for array in found:
            if array.shape != expected:
                raise DatasetError(f"{self.location.shown(array.path)} has the shape {array.shape}, not {expected}")
        scale_RSD, zero_point_RSD = (np.asarray(array[...]) for array in found)
        return scale_RSD, zero_point_RSD

    def _read_by_zarr(self, row: int, image_U: np.ndarray) -> np.ndarray:
        array = self._zarr()
        try:
            if (np.diff(image_U) == 1).all():
                return np.asarray(array[row, int(image_U[0]) : int(image_U[-1]) + 1])
            return np.asarray(array.oindex[row, image_U])
        except (FmcsBenchError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001  (which error zarr raises over damaged bytes, only it knows)
            remote = "" if self.location.local is not None else ", or its server does not answer requests for a range"
            raise DatasetError(
                f"{self.location.shown(f'{schema.MAPS}/{self.name}')} is damaged{remote}: row {row}, images "
                f"{int(image_U[0])} to {int(image_U[-1])} cannot be decoded ({type(error).__name__}: {error})"
            ) from None

    def _zarr(self) -> zarr.Array[Any]:
        cached = self.__dict__.get("_opened")
        if cached is None or cached[0] != os.getpid():  # connections do not outlive a fork
            cached = self.__dict__["_opened"] = (os.getpid(), codecs.open_array(self._group(), self.name))
        return cached[1]

    def _group(self) -> zarr.Group:
        return open_group(self.location, self._files)


def open_group(location: Location, files: frozenset[str]) -> zarr.Group:
    """The Zarr group of a dataset, read-only; a file of the manifest that is missing is an error."""
    prefix = f"{schema.MAPS}/"
    expected = [name.removeprefix(prefix) for name in files if name.startswith(prefix)]
    try:
        return zarr.open_group(location.zarr_store(schema.MAPS, expected), mode="r", zarr_format=3)
    except FileNotFoundError:
        raise DatasetError(f"{location.shown(schema.MAPS)} is no Zarr group") from None


class Job(NamedTuple):
    """Maps of one unit, and where they go.

    Attributes:
        array: that they are in.
        row: of the array.
        unit: of the array.
        take_U: positions in the unit; None is all, in their order.
        place_U: positions in the result.
    """

    array: MapArray
    row: int
    unit: int
    take_U: np.ndarray | None
    place_U: np.ndarray | slice

    def run(self, out_MDHW: np.ndarray) -> None:
        """Read the maps to their places in a float16 array [M, D, H, W]."""
        array, row, unit, take_U, place_U = self
        if isinstance(place_U, slice):
            array.read_unit(row, unit, take_U, out_MDHW[place_U])
        else:
            out_MDHW[place_U] = array.read_unit(row, unit, take_U)


def plan(arrays: Sequence[MapArray], source_M: np.ndarray, row_M: np.ndarray, image_M: np.ndarray) -> list[Job]:
    """Jobs that read M maps, each unit once; map m goes to the place m.

    Args:
        arrays: that the maps are in.
        source_M: int64, which of them.
        row_M: int64, position of the stage or checkpoint.
        image_M: int64, position on the second axis.
    """
    if not len(source_M):
        return []
    unit_size_S, num_images_S = np.array([(array.unit, array.shape[1]) for array in arrays]).T
    unit_M, take_M = np.divmod(image_M, unit_size_S[source_M])
    key_M = unit_keys(source_M, row_M, unit_M)
    order_M = np.argsort(key_M, kind="stable")
    source_M, row_M, unit_M, take_M, image_M = (of_M[order_M] for of_M in (source_M, row_M, unit_M, take_M, image_M))
    stop_J = np.append(np.flatnonzero(np.diff(key_M[order_M])) + 1, len(order_M))
    start_J = np.append(0, stop_J[:-1])
    source_J, row_J, unit_J = source_M[start_J], row_M[start_J], unit_M[start_J]
    last_J = stop_J - 1
    at_end_J = (take_M[last_J] + 1 == unit_size_S[source_J]) | (image_M[last_J] + 1 == num_images_S[source_J])
    is_whole_J = (take_M[start_J] == 0) & at_end_J & _counts_up(take_M, start_J, stop_J)
    is_range_J = _counts_up(order_M, start_J, stop_J)
    columns = (source_J, row_J, unit_J, start_J, stop_J, order_M[start_J], is_whole_J, is_range_J)
    return [
        Job(
            arrays[source],
            row,
            unit,
            None if is_whole else take_M[start:stop],
            slice(place, place + stop - start) if is_range else order_M[start:stop],
        )
        for source, row, unit, start, stop, place, is_whole, is_range in zip(
            *(column.tolist() for column in columns), strict=True
        )
    ]


def unit_keys(source_M: np.ndarray, row_M: np.ndarray, unit_M: np.ndarray) -> np.ndarray:
    """A number for the unit that each map is in, int64 [M]: equal for equal units, and larger for later ones."""
    most_rows, most_units = (int(of_M.max(initial=0)) + 1 for of_M in (row_M, unit_M))
    return np.asarray((source_M * most_rows + row_M) * most_units + unit_M)


def _counts_up(values_M: np.ndarray, start_J: np.ndarray, stop_J: np.ndarray) -> np.ndarray:
    """Of each range, whether its values are v, v + 1, v + 2, ..."""
    steps_M = np.append(0, np.cumsum(np.diff(values_M) == 1))
    return np.asarray(steps_M[stop_J - 1] - steps_M[start_J] == stop_J - 1 - start_J)


def tasks(jobs: list[Job], threads: int) -> list[list[Job]]:
    """Jobs in groups that are worth handing to a thread."""
    if not jobs:
        return []
    job_bytes = jobs[0].array.unit * map_bytes(jobs[0].array)
    least, most = TASK_BYTES
    task_bytes = min(max(least, len(jobs) * job_bytes // (TASKS_PER_THREAD * threads)), most)
    num = max(1, task_bytes // job_bytes)
    return [jobs[start : start + num] for start in range(0, len(jobs), num)]


def map_bytes(array: MapArray) -> int:
    """Of one map as float16."""
    return 2 * int(np.prod(array.map_shape))


def run_task(task: list[Job], out_MDHW: np.ndarray) -> None:
    """Run jobs one after the other."""
    for job in task:
        job.run(out_MDHW)


def gather(
    arrays: Sequence[MapArray],
    source_M: np.ndarray,
    row_M: np.ndarray,
    image_M: np.ndarray,
    *,
    threads: int | None = None,
) -> np.ndarray:
    """Read M maps from anywhere, in the order given.

    Args:
        arrays: that the maps are in.
        source_M: int64, which of them.
        row_M: int64, position of the stage or checkpoint.
        image_M: int64, position on the second axis.
        threads: that decode; None is one for each core that this process may use.

    Returns:
        float16 [M, D, H, W].

    Raises:
        DatasetError: a file is missing or damaged.
    """
    maps_MDHW = np.empty((len(source_M), *arrays[0].map_shape), np.float16)
    threads = usable_cores() if threads is None else threads
    groups = tasks(plan(arrays, source_M, row_M, image_M), threads)
    if len(groups) <= 1:  # threads would take longer to start than to work
        for group in groups:
            run_task(group, maps_MDHW)
        return maps_MDHW
    with ThreadPoolExecutor(threads, "fmcs-bench-read") as pool:
        futures = [pool.submit(run_task, group, maps_MDHW) for group in groups]
        try:
            for future in futures:
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)
    return maps_MDHW
