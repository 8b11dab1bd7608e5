"""The maps of one array as float16, whatever the codec and wherever the dataset is, and reading many of them at once.

Shard files are memory-mapped and decoded directly; zarr-python reads URLs and other layouts. A unit is what is decoded
at once: an inner chunk, or, with zarr-python, a range of about 32 maps.
N images, M maps wanted, J jobs, U maps wanted of one unit, S arrays, D channels, H height, W width.

Source: https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/index.html
"""

from __future__ import annotations

import json
import mmap
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
import numpy as np
import zarr
import zstandard
from numcodecs.zstd import Zstd

from fmcs_bench.core.environment import usable_cores
from fmcs_bench.core.errors import DatasetError, FmcsBenchError
from fmcs_bench.store import codecs, schema
from fmcs_bench.store.location import Location

MAX_OPEN = 64
"""Shard files of one array that a process keeps open."""
ZARR_UNIT = 32
"""Maps that zarr-python reads at once, where an inner chunk has fewer."""
TASK_BYTES = 1 << 20, 8 << 20
"""Least and most bytes of maps that a thread decodes before it asks for more work."""


class ShardReader:
    """Reads inner chunks of an array in the writer's layout without zarr-python; threads may share it.

    Values are those that zarr-python reads, except that a missing shard is an error and not zeros, and that bytes
    behind a Zstandard frame inside its chunk are ignored. Chunks are counted along the second axis over all shards.
    """

    def __init__(self, folder: Path, metadata: dict[str, Any]) -> None:
        self.folder, self.shape = folder, tuple(metadata["shape"])
        self.per_shard = metadata["chunk_grid"]["configuration"]["chunk_shape"][1]
        self.per_chunk = metadata["codecs"][0]["configuration"]["chunk_shape"][1]
        self.chunks_per_shard = self.per_shard // self.per_chunk
        self.dtype = np.dtype(metadata["data_type"]).newbyteorder("<")
        self._shard = lru_cache(MAX_OPEN)(self._open)

    def encoded(self, row: int, chunk: int) -> memoryview | None:
        """The bytes of an inner chunk; None where it was left out."""
        number, place = divmod(chunk, self.chunks_per_shard)
        data, spans = self._shard(row, number)
        begin, length = spans[place]
        return None if begin == codecs.MISSING else data[begin : begin + length]

    def read(self, row: int, chunk: int, out: np.ndarray | None = None) -> np.ndarray:
        """The stored numbers of an inner chunk [U, ...] inside the array, into ``out`` if given (contiguous)."""
        num = min(self.per_chunk, self.shape[1] - chunk * self.per_chunk)
        decoded = out
        if decoded is None or num < self.per_chunk:
            decoded = np.empty((self.per_chunk, *self.shape[2:]), self.dtype)
        data = self.encoded(row, chunk)
        try:
            if data is None:
                decoded[...] = 0
            else:
                _decompress(data, decoded)
        except Exception as error:  # noqa: BLE001  (decoders raise errors of their own for damaged bytes)
            number, place = divmod(chunk, self.chunks_per_shard)
            file = self._file(row, number)
            raise DatasetError(f"{file} is damaged: chunk {place} cannot be decoded ({error})") from None
        if out is None or decoded is out:
            return decoded[:num]
        out[...] = decoded[:num]
        return out

    def _file(self, row: int, number: int) -> Path:
        return self.folder.joinpath("c", str(row), str(number), *("0" for _ in self.shape[2:]))

    def _open(self, row: int, number: int) -> tuple[memoryview, list[tuple[int, int]]]:
        """The bytes of a shard, and the offset and length of each inner chunk."""
        file, index_bytes = self._file(row, number), 16 * self.chunks_per_shard + 4
        try:
            with file.open("rb") as stream:
                num_bytes = os.fstat(stream.fileno()).st_size
                if num_bytes < index_bytes:
                    raise DatasetError(
                        f"{file} is damaged: it has {num_bytes:,} bytes, its index alone {index_bytes:,}"
                    )
                data = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
        except FileNotFoundError:
            raise DatasetError(f"{file} is missing: a shard of the maps") from None
        except OSError as error:
            raise DatasetError(f"{file} cannot be read: {error.strerror or error}") from None
        end = len(data) - index_bytes
        index = bytes(data[end:-4])
        if google_crc32c.value(index) != int.from_bytes(data[-4:], "little"):
            raise DatasetError(f"{file} is damaged: the index of its chunks does not have its CRC-32C")
        spans = np.frombuffer(index, "<u8").reshape(-1, 2)
        offsets, lengths = spans.T
        inside = (offsets <= end) & (lengths <= end - np.minimum(offsets, end))
        if not (inside | (spans == codecs.MISSING).all(axis=1)).all():
            raise DatasetError(f"{file} is damaged: a chunk of its index lies outside the file")
        return data, [(begin, length) for begin, length in spans.tolist()]


_DECOMPRESSORS = threading.local()


def _decompress(data: memoryview, out: np.ndarray) -> None:
    """Decode Zstandard frames into an array, which they must fill."""
    try:
        header = zstandard.get_frame_parameters(data)
        is_writers = header.content_size == out.nbytes and not header.has_checksum
    except zstandard.ZstdError:
        is_writers = False
    if not is_writers:
        decoded = np.frombuffer(Zstd().decode(data), np.uint8)
        if len(decoded) != out.nbytes:
            raise ValueError(f"it has {len(decoded):,} bytes, not {out.nbytes:,}")
        out[...] = decoded.view(out.dtype).reshape(out.shape)
        return
    if not hasattr(_DECOMPRESSORS, "own"):  # making one takes as long as decoding 10 KB
        _DECOMPRESSORS.own = zstandard.ZstdDecompressor()
    with _DECOMPRESSORS.own.stream_reader(data) as frame:
        if frame.readinto(out.data) < out.nbytes:
            raise ValueError("the frame ends too early")


class MapArray:
    """One array of maps [row, image, channel, y, x], read as float16; it can be pickled, and threads may share it.

    ``is_direct``: whether shard files are read without zarr-python, as they are on this machine in the writer's layout.
    A missing array and damage, also what is found when maps are read, are a ``DatasetError``.
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
            dtype = metadata["data_type"]
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise DatasetError(f"{location.shown(file)} is damaged: {error}") from None
        if dtype != codecs.DTYPES[codec] or len(self.shape) != 5:
            raise DatasetError(
                f"{location.shown(file)} is damaged: {len(self.shape)} axes of {dtype}, not 5 of {codecs.DTYPES[codec]}"
            )
        self._shards: ShardReader | None = None
        if location.local is not None and codecs.is_writers_layout(metadata):
            self._shards = ShardReader(location.local / schema.MAPS / name, metadata)
        self.is_direct = self._shards is not None

    def __repr__(self) -> str:
        sizes = ", ".join(f"{dim}: {size}" for dim, size in zip(self.dims, self.shape, strict=True))
        return f"MapArray {self.name} ({sizes}) float16, read {'directly' if self.is_direct else 'by zarr-python'}"

    def __reduce__(self) -> tuple[type[MapArray], tuple[Any, ...]]:
        return MapArray, (self.location, self.name, self.codec, self._files)

    @property
    def map_shape(self) -> tuple[int, ...]:
        """(D, H, W)."""
        return self.shape[2:]

    @property
    def map_bytes(self) -> int:
        """Bytes of one map as float16."""
        return 2 * int(np.prod(self.map_shape))

    @cached_property
    def unit(self) -> int:
        """Consecutive images that are decoded at once."""
        return self._shards.per_chunk if self._shards is not None else max(int(self._zarr().chunks[1]), ZARR_UNIT)

    def read_map(self, row: int, image: int) -> np.ndarray:
        """One map, float16 [D, H, W], by its positions on the first two axes."""
        unit, take = divmod(image, self.unit)
        return np.asarray(self.read_unit(row, unit, np.array([take]) if self.unit > 1 else None)[0])

    def read_unit(
        self, row: int, unit: int, take_U: np.ndarray | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Maps of one unit, float16 [U, D, H, W]: all, or those at ``take_U``; into ``out`` if given (contiguous)."""
        if self._shards is not None and take_U is None and self.codec != "q8":
            return self._shards.read(row, unit, out)
        first = unit * self.unit
        image_U = np.arange(first, min(first + self.unit, self.shape[1])) if take_U is None else first + take_U
        if self._shards is None:
            stored_UDHW = self._read_by_zarr(row, image_U)
        else:
            stored_UDHW = self._shards.read(row, unit)
            stored_UDHW = stored_UDHW if take_U is None else stored_UDHW[take_U]
        if self.codec != "q8" and out is None:
            return stored_UDHW
        maps_UDHW = np.empty(stored_UDHW.shape, np.float16) if out is None else out
        if self.codec != "q8":
            maps_UDHW[...] = stored_UDHW
            return maps_UDHW
        scale_RSD, zero_point_RSD = self._q8
        shard_U = image_U // self._per_shard
        for shard in np.unique(shard_U).tolist():  # each has a scale of its own
            here = slice(None) if shard_U[0] == shard_U[-1] else shard_U == shard
            maps_UDHW[here] = codecs.dequantise(stored_UDHW[here], scale_RSD[row, shard], zero_point_RSD[row, shard])
        return maps_UDHW

    @cached_property
    def _q8(self) -> tuple[np.ndarray, np.ndarray]:
        """Scale and zero point, each [row, shard, channel]."""
        group = open_group(self.location, self._files)
        expected = (self.shape[0], -(-self.shape[1] // self._per_shard), self.shape[2])
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
        except Exception as error:  # noqa: BLE001  (zarr raises many kinds of errors for damaged bytes)
            remote = "" if self.location.local is not None else ", or its server does not answer requests for a range"
            raise DatasetError(
                f"{self.location.shown(f'{schema.MAPS}/{self.name}')} is damaged{remote}: row {row}, images "
                f"{int(image_U[0])} to {int(image_U[-1])} cannot be decoded ({type(error).__name__}: {error})"
            ) from None

    def _zarr(self) -> zarr.Array[Any]:
        cached = self.__dict__.get("_opened")
        if cached is None or cached[0] != os.getpid():  # connections do not outlive a fork
            opened = codecs.open_array(open_group(self.location, self._files), self.name)
            cached = self.__dict__["_opened"] = (os.getpid(), opened)
        return cached[1]


def open_group(location: Location, files: frozenset[str]) -> zarr.Group:
    """The Zarr group of a dataset, read-only; a missing file of the manifest is an error."""
    prefix = f"{schema.MAPS}/"
    expected = [name.removeprefix(prefix) for name in files if name.startswith(prefix)]
    try:
        return zarr.open_group(location.zarr_store(schema.MAPS, expected), mode="r", zarr_format=3)
    except FileNotFoundError:
        raise DatasetError(f"{location.shown(schema.MAPS)} is no Zarr group") from None


@dataclass(frozen=True, eq=False)
class MapIndex:
    """Where M maps lie, with their labels; no map is read.

    Attributes:
        arrays: the maps of each run.
        source_M: int64, which array each map is in.
        image_M: int64, its position on the array's second axis.
        stages_M: int64, its position on the first: the class index 0 .. K - 1; the FMCS is one more.
        image_ids_M, labels_M: int64, ids and classes of the images.
        splits_M: uint8, index into ``fmcs_bench.images.dataset.SPLITS``.
        runs_M: int64, seeds of the runs.
    """

    arrays: Sequence[MapArray]
    source_M: np.ndarray
    image_M: np.ndarray
    stages_M: np.ndarray
    image_ids_M: np.ndarray
    labels_M: np.ndarray
    splits_M: np.ndarray
    runs_M: np.ndarray

    def __len__(self) -> int:
        return len(self.stages_M)


class Job(NamedTuple):
    """Maps of one unit of an array, at ``take_U`` (None: all), and their places in the result."""

    array: MapArray
    row: int
    unit: int
    take_U: np.ndarray | None
    place_U: np.ndarray | slice


def plan(arrays: Sequence[MapArray], source_M: np.ndarray, row_M: np.ndarray, image_M: np.ndarray) -> list[Job]:
    """Jobs that read M maps, each unit once; map m goes to the place m. For the arguments see ``gather``."""
    if not len(source_M):
        return []
    unit_size_S, num_images_S = np.array([(array.unit, array.shape[1]) for array in arrays]).T
    order_M = np.lexsort((image_M, row_M, source_M))
    source_M, row_M, image_M = source_M[order_M], row_M[order_M], image_M[order_M]
    unit_M, take_M = np.divmod(image_M, unit_size_S[source_M])
    start_J = np.flatnonzero(np.diff(unit_keys(source_M, row_M, unit_M), prepend=-1))
    stop_J = np.append(start_J[1:], len(order_M))
    source_J, unit_J = source_M[start_J], unit_M[start_J]
    size_J = np.minimum(unit_size_S[source_J], num_images_S[source_J] - unit_J * unit_size_S[source_J])
    is_whole_J = (stop_J - start_J == size_J) & _counts_up(take_M, start_J, stop_J)
    is_range_J = _counts_up(order_M, start_J, stop_J)
    columns = (source_J, row_M[start_J], unit_J, start_J, stop_J, order_M[start_J], is_whole_J, is_range_J)
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
    """Jobs in groups that are worth giving to a thread, about four for each."""
    if not jobs:
        return []
    job_bytes = jobs[0].array.unit * jobs[0].array.map_bytes
    task_bytes = min(max(TASK_BYTES[0], len(jobs) * job_bytes // (4 * threads)), TASK_BYTES[1])
    num = max(1, task_bytes // job_bytes)
    return [jobs[start : start + num] for start in range(0, len(jobs), num)]


def run_task(task: list[Job], out_MDHW: np.ndarray) -> None:
    """Read the maps of some jobs to their places in a float16 array [M, D, H, W]."""
    for array, row, unit, take_U, place_U in task:
        if isinstance(place_U, slice):
            array.read_unit(row, unit, take_U, out_MDHW[place_U])
        else:
            out_MDHW[place_U] = array.read_unit(row, unit, take_U)


def gather(
    arrays: Sequence[MapArray],
    source_M: np.ndarray,
    row_M: np.ndarray,
    image_M: np.ndarray,
    *,
    threads: int | None = None,
) -> np.ndarray:
    """Read M maps from anywhere, float16 [M, D, H, W], in the order given.

    ``source_M`` is which array each is in, ``row_M`` and ``image_M`` its positions on that array's first two axes. None
    is a thread for each core that this process may use.
    """
    maps_MDHW = np.empty((len(source_M), *arrays[0].map_shape), np.float16)
    threads = usable_cores() if threads is None else threads
    groups = tasks(plan(arrays, source_M, row_M, image_M), threads)
    if len(groups) <= 1:  # starting threads would take longer than the work
        for group in groups:
            run_task(group, maps_MDHW)
        return maps_MDHW
    with ThreadPoolExecutor(threads, "fmcs-bench-read") as pool:
        try:
            for future in [pool.submit(run_task, group, maps_MDHW) for group in groups]:
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)
    return maps_MDHW
