"""Writes the arrays of an FMCS dataset, shard by shard.

A block is the maps of one shard's images at some stages; a note, a small file, marks it as done. Each run is a Zarr
group of its own, so that runs can be written apart. Shards have the bytes that zarr-python writes.
K stages (or checkpoints) of a block, N images, D channels, H height, W width.

Source: https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/index.html
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Self

import google_crc32c
import numpy as np
import zarr
from safetensors.numpy import load, save
from zarr.codecs import ZstdCodec

from fmcs_bench.core import files
from fmcs_bench.core.errors import DatasetError
from fmcs_bench.images.dataset import SPLITS, ImageDataset
from fmcs_bench.store import codecs, schema

DIMENSIONS = {"feature_maps": ("stage", "image"), "trajectory_maps": ("checkpoint", "trajectory_image")}
"""First two dimensions of the arrays of maps; channel, y and x follow."""
LARGEST_SHARD = 2**26
CHUNK_BYTES = 2**17


@dataclass
class _Block:
    """A block that is being written; the last of its shards writes the note."""

    note: Path
    num_shards: int
    shards: list[Future[None]] = field(default_factory=list)
    kept: dict[int, dict[str, np.ndarray]] = field(default_factory=dict)
    lock: Lock = field(default_factory=Lock)

    def done(self, number: int, kept: dict[str, np.ndarray]) -> None:
        """A shard is on the disk; write the block's note when all of them are."""
        with self.lock:
            self.kept[number] = kept
            if len(self.kept) < self.num_shards:
                return
        parts = [self.kept[k] for k in range(self.num_shards)]
        files.write_atomically(self.note, save({name: np.stack([part[name] for part in parts]) for name in kept}))


class DatasetWriter:
    """Creates and fills the arrays of one FMCS dataset; a context manager that ends its threads.

    Args:
        path: folder of the dataset.
        map_shape: (D, H, W).
        codec: ``zstd`` or ``q8``; see ``fmcs_bench.store.codecs``.
        num_threads: that encode shards; None is one for each core, up to 16. Two more wait for the disk.
    """

    def __init__(
        self, path: Path, map_shape: tuple[int, int, int], codec: str = "zstd", *, num_threads: int | None = None
    ) -> None:
        self.path, self.map_shape, self.codec = path, map_shape, codec
        self.maps_per_shard, self.maps_per_chunk = shard_sizes(map_shape)
        self._root = zarr.open_group(path / schema.MAPS, mode="a", zarr_format=3)
        self._pool = ThreadPoolExecutor((num_threads or min(16, os.cpu_count() or 1)) + 2, "shard-writer")
        self._blocks: deque[_Block] = deque()
        self._shapes: dict[tuple[int, str], tuple[int, ...]] = {}  # opening an array takes milliseconds

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        try:
            if error is None:
                self.flush()
        finally:
            self._pool.shutdown(cancel_futures=True)

    def write_images(self, images: ImageDataset) -> None:
        """Write id, label and split of every image."""
        self._root.attrs.update({"splits": list(SPLITS), "schema_version": schema.SCHEMA_VERSION})
        for name, values in (("image_id", images.ids_N), ("label", images.labels_N), ("split", images.splits_N)):
            self._small(self._root, name, values, "image")

    def start_run(
        self,
        seed: int,
        stages: tuple[schema.Stage, ...],
        image_N: np.ndarray,
        *,
        num_checkpoints: int = 0,
        trajectory_image_N: np.ndarray | None = None,
    ) -> None:
        """Create a run's group, in place of what an earlier build left of it.

        ``image_N`` are positions of its images in ``image_id``; ``trajectory_image_N`` those of the images whose maps
        are kept at every checkpoint, of the test run.
        """
        self.flush()
        self._shapes.clear()
        for note in self._notes(seed).glob("*/*"):
            note.unlink()
        group = self._root.create_group(schema.run_group(seed), overwrite=True)
        self._small(group, "image", image_N.astype(np.int64), "image")
        for name, dtype in (
            ("step", np.int64), ("epoch", np.float64), ("train_loss", np.float64), ("validation_accuracy", np.float64)
        ):  # fmt: skip
            self._small(group, name, np.array([getattr(stage, name) for stage in stages], dtype), "stage")
        sizes = {"feature_maps": (len(stages), len(image_N))}
        if trajectory_image_N is not None:
            self._small(group, "trajectory_image", trajectory_image_N.astype(np.int64), "trajectory_image")
            sizes["trajectory_maps"] = num_checkpoints, len(trajectory_image_N)
        for name, size in sizes.items():
            codecs.create_maps(
                group, name, self.codec, (*size, *self.map_shape),
                per_shard=self.maps_per_shard, per_chunk=self.maps_per_chunk, dimensions=DIMENSIONS[name],
            )  # fmt: skip

    def missing(self, seed: int, array: str, first_row: int, num_images: int) -> list[int]:
        """Positions of the first image of the blocks that are not written yet, in order."""
        starts = range(0, num_images, self.maps_per_shard)
        return [start for start in starts if not self._note(seed, array, first_row, start).exists()]

    def write(self, seed: int, array: str, first_row: int, start: int, block_KNDHW: np.ndarray) -> None:
        """Write a block: the maps of one shard's images at neighbouring rows. Threads continue after the call returns.

        At most two blocks are in memory: the call waits until the block before is written.

        Args:
            seed: of the run.
            array: ``feature_maps`` or ``trajectory_maps``.
            first_row: position of the first stage or checkpoint, from 0.
            start: position of the first image; a multiple of ``maps_per_shard``.
            block_KNDHW: float16, finite; a whole shard of images, or the rest of the array. It must not change until
                the next call, or ``flush``, has returned.

        Raises:
            DatasetError: a value of a block before is not finite (float16 ends at 65,504).
            OSError: a block before could not be written.
        """
        stop = start + block_KNDHW.shape[1]
        if start % self.maps_per_shard or (stop % self.maps_per_shard and stop != self._shape(seed, array)[1]):
            raise ValueError(f"images {start} to {stop} are no whole shards of {self.maps_per_shard}")
        block = _Block(self._note(seed, array, first_row, start), len(block_KNDHW))
        name, shard = f"{schema.run_group(seed)}/{array}", start // self.maps_per_shard
        for k, maps_NDHW in enumerate(block_KNDHW):
            row = first_row + k
            file, where = self.path / schema.shard_name(name, row, shard), f"run {seed}, row {row}"
            block.shards.append(self._pool.submit(self._write_shard, block, k, file, maps_NDHW, where))
        self._blocks.append(block)
        while len(self._blocks) > 1:
            wait(self._blocks[0].shards)
            if any(shard.exception() for shard in self._blocks[0].shards):
                self.flush()
            self._blocks.popleft()

    def flush(self) -> None:
        """Wait until all blocks are on the disk; errors are those of ``write``."""
        blocks, self._blocks = self._blocks, deque()
        shards = [shard for block in blocks for shard in block.shards]
        wait(shards)
        for shard in shards:
            shard.result()

    def finish(self, seed: int, array: str) -> None:
        """End an array of which all blocks were written; errors are those of ``write``."""
        self.flush()
        if self.codec != "q8":
            return
        group = self._root.require_group(schema.run_group(seed))
        target = codecs.open_array(group, array)
        shape = (target.shape[0], -(-target.shape[1] // self.maps_per_shard))
        scale_RSD = np.empty((*shape, self.map_shape[0]), np.float32)
        zero_point_RSD = np.empty((*shape, self.map_shape[0]), np.uint8)
        largest_RS, sum_RS = np.empty(shape), np.empty(shape)
        for note in (self._notes(seed) / array).iterdir():
            first_row, start = map(int, note.stem.split("-"))
            parts = load(note.read_bytes())
            where = slice(first_row, first_row + len(parts["scale"])), start // self.maps_per_shard
            scale_RSD[where], zero_point_RSD[where] = parts["scale"], parts["zero_point"]
            largest_RS[where], sum_RS[where] = parts["largest_error"], parts["sum_of_errors"]
        dimensions = DIMENSIONS[array][0], "shard", "channel"
        self._small(group, codecs.scale_name(array), scale_RSD, *dimensions)
        self._small(group, codecs.zero_point_name(array), zero_point_RSD, *dimensions)
        error = schema.MapError(largest=float(largest_RS.max()), mean=float(sum_RS.sum()) / target.size)
        names = {"scale": codecs.scale_name(array), "zero_point": codecs.zero_point_name(array)}
        target.attrs.update({**names, "error": error.to_json()})

    def map_error(self) -> schema.MapError | None:
        """Error of all maps that were written, by any process; None where the codec loses nothing."""
        if self.codec != "q8":
            return None
        arrays = [array for _, group in sorted(self._root.groups()) for array in map(group.get, DIMENSIONS)]
        written = [array for array in arrays if isinstance(array, zarr.Array)]
        errors = [schema.MapError.from_json(array.attrs["error"]) for array in written]
        total = sum(error.mean * array.size for error, array in zip(errors, written, strict=True))
        size = sum(array.size for array in written)
        return schema.MapError(largest=max(error.largest for error in errors), mean=total / size)

    def _write_shard(self, block: _Block, number: int, file: Path, maps_NDHW: np.ndarray, where: str) -> None:
        if not is_finite(maps_NDHW):
            raise DatasetError(f"{where}: a feature map is not finite in float16 (largest: 65,504)")
        kept: dict[str, np.ndarray] = {"num_images": np.array(len(maps_NDHW))}
        if self.codec == "q8":
            packed = codecs.quantise(maps_NDHW)
            maps_NDHW = packed.numbers_NDHW
            kept |= {
                "scale": packed.scale_D,
                "zero_point": packed.zero_point_D,
                "largest_error": np.array(packed.largest_error),
                "sum_of_errors": np.array(packed.sum_of_errors),
            }
        write_shard(file, maps_NDHW, self.maps_per_shard, self.maps_per_chunk)
        block.done(number, kept)

    def _shape(self, seed: int, array: str) -> tuple[int, ...]:
        if (seed, array) not in self._shapes:
            self._shapes[seed, array] = codecs.open_array(self._root, f"{schema.run_group(seed)}/{array}").shape
        return self._shapes[seed, array]

    def _notes(self, seed: int) -> Path:
        return self.path / schema.WORK / schema.run_group(seed) / "blocks"

    def _note(self, seed: int, array: str, first_row: int, start: int) -> Path:
        return self._notes(seed) / array / f"{first_row}-{start}.safetensors"

    def _small(self, group: zarr.Group, name: str, values: np.ndarray, *dimensions: str) -> None:
        array = group.create_array(
            name, shape=values.shape, dtype=values.dtype, chunks=tuple(max(1, n) for n in values.shape),
            dimension_names=dimensions, compressors=ZstdCodec(level=codecs.ZSTD_LEVEL), overwrite=True,
        )  # fmt: skip
        array[...] = values


def write_shard(path: Path, maps_NDHW: np.ndarray, per_shard: int, per_chunk: int) -> None:
    """Write one shard of C-contiguous maps, whole or not at all; memory holds one encoded inner chunk at a time."""
    index = np.full((per_shard // per_chunk, 2), codecs.MISSING, dtype="<u8")
    file, place = files.PendingFile(path), 0
    try:
        for number, start in enumerate(range(0, len(maps_NDHW), per_chunk)):
            chunk_NDHW = maps_NDHW[start : start + per_chunk]
            if len(chunk_NDHW) < per_chunk:  # the array ends here; every chunk has one size
                rest = np.zeros((per_chunk - len(chunk_NDHW), *chunk_NDHW.shape[1:]), chunk_NDHW.dtype)
                chunk_NDHW = np.concatenate([chunk_NDHW, rest])
            data = codecs.encode(chunk_NDHW)
            file.stream.write(data)
            index[number] = place, len(data)
            place += len(data)
        encoded_index = index.tobytes()
        file.stream.write(encoded_index)
        file.stream.write(int(google_crc32c.value(encoded_index)).to_bytes(4, "little"))
    except BaseException:
        file.discard()
        raise
    file.commit()


def shard_sizes(map_shape: Sequence[int]) -> tuple[int, int]:
    """Maps in a shard, the unit in which maps are written, and in an inner chunk, the unit in which they are read.

    Shards have 4 to 64 MB before compression, and inner chunks about 128 KB, both as ``benchmarks/read.py`` and
    ``benchmarks/build.py`` found good: a random map costs the decoding of one chunk.

    Example:
        >>> shard_sizes((1024, 7, 7)), shard_sizes((64, 4, 4)), shard_sizes((256, 56, 56))
        ((256, 1), (4096, 64), (32, 1))
    """
    map_bytes = 2 * int(np.prod(map_shape))
    per_shard = min(4096 if map_bytes < 16_384 else 256, _power_of_two(LARGEST_SHARD // map_bytes))
    return per_shard, min(256, per_shard, _power_of_two(CHUNK_BYTES // map_bytes))


def _power_of_two(number: int) -> int:
    """The largest power of two that is not larger; at least 1."""
    return 1 << max(0, number.bit_length() - 1)


def is_finite(maps_NDHW: np.ndarray) -> bool:
    """Whether all values of a C-contiguous float16 array are finite, by their bits: NumPy's own test is far slower."""
    flat = maps_NDHW.reshape(-1)
    if not flat.size:
        return True
    # Infinities and NaNs are the highest bit patterns among the positive values, and so among the negative ones.
    return int(flat.view(np.int16).max()) < 0x7C00 and int(flat.view(np.uint16).max()) < 0xFC00


def list_files(path: Path) -> dict[str, schema.FileEntry]:
    """Size and SHA-256 of every file of a dataset but its manifest, by path with forward slashes, sorted."""
    found = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    return {
        name: schema.FileEntry.of(path / name)
        for name in found
        if name != schema.MANIFEST and not name.startswith(f"{schema.WORK}/")
    }
