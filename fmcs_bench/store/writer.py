"""Writes an FMCS dataset: arrays shard by shard, the manifest last.

A dataset without its manifest is unfinished. Every run is one Zarr group, so that runs can be written apart.
K stages, N images, D channels, H height, W width.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from fmcs_bench import files
from fmcs_bench.errors import DatasetError
from fmcs_bench.images import SPLITS, ImageDataset
from fmcs_bench.store import codecs, schema

DIMENSIONS = {"feature_maps": ("stage", "image"), "trajectory_maps": ("checkpoint", "trajectory_image")}
"""First two dimensions of the arrays of maps; channel, y and x follow."""


class DatasetWriter:
    """Creates the arrays of one FMCS dataset.

    Args:
        path: folder of the dataset.
        map_shape: (D, H, W).
        codec: ``zstd``, ``pco`` or ``q8``; see ``fmcs_bench.store.codecs``.
    """

    def __init__(self, path: Path, map_shape: tuple[int, int, int], codec: str = "zstd") -> None:
        codecs.require(codec)
        self.path = path
        self.map_shape = map_shape
        self.codec = codec
        self._root = zarr.open_group(path / schema.MAPS, mode="a", zarr_format=3)

    @property
    def maps_per_shard(self) -> int:
        """Maps of one stage that lie in one shard file; the unit in which maps must be written."""
        return self._sizes()[0]

    def _sizes(self) -> tuple[int, int]:
        """Maps in a shard and in an inner chunk: small maps are packed more closely, for files of 4 to 64 MB."""
        map_bytes = 2 * int(np.prod(self.map_shape))
        if map_bytes < 16_384:
            return 4096, 256
        return 256, 32 if map_bytes < 65_536 else 8

    def write_images(self, images: ImageDataset) -> None:
        """Write id, label and split of every image."""
        self._root.attrs.update({"splits": list(SPLITS), "schema_version": schema.SCHEMA_VERSION})
        for name, values in (("image_id", images.ids_N), ("label", images.labels_N), ("split", images.splits_N)):
            self._small(self._root, name, values, "image")

    def start_run(self, seed: int, stages: tuple[schema.Stage, ...], image_N: np.ndarray) -> None:
        """Create a run's group; what an interrupted build left of it is replaced.

        Args:
            seed: of the run.
            stages: its K stages.
            image_N: int64, positions of its images in ``image_id``.
        """
        group = self._root.create_group(schema.run_group(seed), overwrite=True)
        self._small(group, "image", image_N.astype(np.int64), "image")
        for name, dtype in (
            ("step", np.int64), ("epoch", np.float64), ("train_loss", np.float64), ("validation_accuracy", np.float64)
        ):  # fmt: skip
            self._small(group, name, np.array([getattr(stage, name) for stage in stages], dtype), "stage")
        self._maps(seed, "feature_maps", len(stages), len(image_N))

    def start_trajectory(self, seed: int, num_checkpoints: int, image_N: np.ndarray) -> None:
        """Create the arrays for the maps of a few images at every checkpoint of a run that ``start_run`` created."""
        group = self._group(seed)
        self._small(group, "trajectory_image", image_N.astype(np.int64), "trajectory_image")
        self._maps(seed, "trajectory_maps", num_checkpoints, len(image_N))

    def write(self, seed: int, array: str, row: int, start: int, maps_NDHW: np.ndarray) -> None:
        """Write the maps of consecutive images, a whole shard or the rest of the array; ``finish`` ends an array.

        Args:
            seed: of the run.
            array: ``feature_maps`` or ``trajectory_maps``.
            row: position of the stage or checkpoint, from 0.
            start: position of the first image; a multiple of ``maps_per_shard``.
            maps_NDHW: float16, finite.

        Raises:
            DatasetError: a value is not finite (float16 ends at 65,504).
        """
        if not np.isfinite(maps_NDHW).all():
            raise DatasetError(
                f"run {seed}: a feature map at position {row} is not finite in float16 (largest: 65,504)"
            )
        target = codecs.open_array(self._target_group(seed), array)
        stop = start + len(maps_NDHW)
        if start % self.maps_per_shard or (stop % self.maps_per_shard and stop != target.shape[1]):
            raise ValueError(f"images {start} to {stop} are no whole shards of {self.maps_per_shard}")
        target[row, start:stop] = maps_NDHW

    def _group(self, seed: int) -> zarr.Group:
        group = self._root[schema.run_group(seed)]
        if not isinstance(group, zarr.Group):
            raise TypeError(f"{group.path} is no group")
        return group

    def _small(self, group: zarr.Group, name: str, values: np.ndarray, *dimensions: str) -> None:
        array = group.create_array(
            name, shape=values.shape, dtype=values.dtype, chunks=tuple(max(1, n) for n in values.shape),
            dimension_names=dimensions, compressors=ZstdCodec(level=codecs.ZSTD_LEVEL), overwrite=True,
        )  # fmt: skip
        array[...] = values

    def _maps(self, seed: int, name: str, rows: int, num: int) -> None:
        self._create(self._target_group(seed), name, "zstd" if self.codec == "q8" else self.codec, "float16", rows, num)

    def _create(self, group: zarr.Group, name: str, codec: str, dtype: str, rows: int, num: int) -> zarr.Array[Any]:
        per_shard, per_chunk = self._sizes()
        return codecs.create_maps(
            group,
            name,
            codec,
            dtype,
            (rows, num, *self.map_shape),
            per_shard=per_shard,
            per_chunk=per_chunk,
            dimensions=DIMENSIONS[name],
        )

    def _target_group(self, seed: int) -> zarr.Group:
        """Where maps are written: the run's group, or, for q8, a store in the work folder until ``finish``."""
        return zarr.open_group(self._waiting(seed), mode="a") if self.codec == "q8" else self._group(seed)

    def _waiting(self, seed: int) -> Path:
        return self.path / schema.WORK / f"{schema.run_group(seed)}-maps.zarr"

    def finish(self, seed: int, array: str) -> None:
        """End an array of which all maps were written.

        The scale of q8 depends on all maps of a row. They wait as float16 on the disk until the range is known:
        computing them twice would cost more time, and holding them memory that grows with the number of images.

        Args:
            seed: of the run.
            array: ``feature_maps`` or ``trajectory_maps``.
        """
        if self.codec != "q8":
            return
        waiting = codecs.open_array(self._target_group(seed), array)
        low_RD, high_RD = (np.empty((waiting.shape[0], self.map_shape[0]), np.float16) for _ in range(2))
        low_RD[:], high_RD[:] = np.inf, -np.inf
        for row, _, maps_NDHW in self._shards(waiting):
            np.minimum(low_RD[row], maps_NDHW.min(axis=(0, 2, 3)), out=low_RD[row])
            np.maximum(high_RD[row], maps_NDHW.max(axis=(0, 2, 3)), out=high_RD[row])
        dtype, scale_RD = codecs.choose_scale(low_RD, high_RD)
        group = self._group(seed)
        self._small(group, codecs.scale_name(array), scale_RD, DIMENSIONS[array][0], "channel")
        target = self._create(group, array, "q8", dtype, *waiting.shape[:2])
        largest, total = 0.0, 0.0
        for row, start, maps_NDHW in self._shards(waiting):
            numbers_NDHW = codecs.quantise(maps_NDHW, scale_RD[row], dtype)
            target[row, start : start + len(maps_NDHW)] = numbers_NDHW
            error_NDHW = np.abs(codecs.dequantise(numbers_NDHW, scale_RD[row]).astype(np.float32) - maps_NDHW)
            largest, total = max(largest, float(error_NDHW.max())), total + float(error_NDHW.sum(dtype=np.float64))
        error = schema.MapError(largest=largest, mean=total / target.size)
        target.attrs.update({"scale": codecs.scale_name(array), "error": error.to_json()})
        shutil.rmtree(self._waiting(seed) / array)

    def map_error(self) -> schema.MapError | None:
        """Error of all maps that were written and finished; None where the codec loses nothing.

        It is read from the attributes of the arrays, because another process may have written some of them.
        """
        if self.codec != "q8":
            return None
        arrays = [array for _, group in sorted(self._root.groups()) for array in map(group.get, DIMENSIONS)]
        written = [array for array in arrays if isinstance(array, zarr.Array)]
        errors = [schema.MapError.from_json(array.attrs["error"]) for array in written]
        total = sum(error.mean * array.size for error, array in zip(errors, written, strict=True))
        size = sum(array.size for array in written)
        return schema.MapError(largest=max(error.largest for error in errors), mean=total / size)

    def _shards(self, array: zarr.Array[Any]) -> Iterator[tuple[int, int, np.ndarray]]:
        """Row, position of the first image, and maps [N, D, H, W] of each shard."""
        for row in range(array.shape[0]):
            for start in range(0, array.shape[1], self.maps_per_shard):
                yield row, start, np.asarray(array[row, start : start + self.maps_per_shard])


def list_files(path: Path) -> dict[str, schema.FileEntry]:
    """Size and SHA-256 of every file of a dataset but its manifest, by path with forward slashes, sorted."""
    found = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    return {
        name: schema.FileEntry(num_bytes=(path / name).stat().st_size, sha256=files.sha256_of_file(path / name))
        for name in found
        if name != schema.MANIFEST and not name.startswith(f"{schema.WORK}/")
    }
