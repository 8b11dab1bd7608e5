"""Writes an FMCS dataset: arrays shard by shard, the manifest last.

A dataset without its manifest is unfinished. Every run is one Zarr group, so that runs can be written apart.
K stages, N images, D channels, H height, W width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from fmcs_bench import files
from fmcs_bench.errors import DatasetError
from fmcs_bench.images import SPLITS, ImageDataset
from fmcs_bench.store import schema

ZSTD_LEVEL = 1


class DatasetWriter:
    """Creates the arrays of one FMCS dataset.

    Args:
        path: folder of the dataset.
        map_shape: (D, H, W).
    """

    def __init__(self, path: Path, map_shape: tuple[int, int, int]) -> None:
        self.path = path
        self.map_shape = map_shape
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
        self._maps(group, "feature_maps", len(stages), len(image_N), ("stage", "image"))

    def start_trajectory(self, seed: int, num_checkpoints: int, image_N: np.ndarray) -> None:
        """Create the arrays for the maps of a few images at every checkpoint of a run that ``start_run`` created."""
        group = self._group(seed)
        self._small(group, "trajectory_image", image_N.astype(np.int64), "trajectory_image")
        self._maps(group, "trajectory_maps", num_checkpoints, len(image_N), ("checkpoint", "trajectory_image"))

    def write(self, seed: int, array: str, row: int, start: int, maps_NDHW: np.ndarray) -> None:
        """Write the maps of consecutive images, a whole shard or the rest of the array.

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
        target = self._group(seed)[array]
        if not isinstance(target, zarr.Array):
            raise TypeError(f"{array} is no array")
        stop = start + len(maps_NDHW)
        if start % self.maps_per_shard or (stop % self.maps_per_shard and stop != target.shape[1]):
            raise ValueError(f"images {start} to {stop} are no whole shards of {self.maps_per_shard}")
        target[row, start:stop] = maps_NDHW

    def _group(self, seed: int) -> zarr.Group:
        group = self._root[schema.run_group(seed)]
        if not isinstance(group, zarr.Group):
            raise TypeError(f"{group.path} is no group")
        return group

    def _small(self, group: zarr.Group, name: str, values: np.ndarray, dimension: str) -> None:
        array = group.create_array(
            name, shape=values.shape, dtype=values.dtype, chunks=(max(1, len(values)),), dimension_names=(dimension,),
            compressors=ZstdCodec(level=ZSTD_LEVEL), overwrite=True,
        )  # fmt: skip
        array[:] = values

    def _maps(self, group: zarr.Group, name: str, rows: int, num: int, dimensions: tuple[str, str]) -> None:
        per_shard, per_chunk = self._sizes()
        settings: Any = {"write_empty_chunks": True}  # looking for empty chunks costs half of zstd's speed
        group.create_array(
            name, shape=(rows, num, *self.map_shape), dtype="float16", chunks=(1, per_chunk, *self.map_shape),
            shards=(1, per_shard, *self.map_shape), dimension_names=(*dimensions, "channel", "y", "x"),
            compressors=ZstdCodec(level=ZSTD_LEVEL), config=settings, overwrite=True,
        )  # fmt: skip


def list_files(path: Path) -> dict[str, schema.FileEntry]:
    """Size and SHA-256 of every file of a dataset but its manifest, by path with forward slashes, sorted."""
    found = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    return {
        name: schema.FileEntry(num_bytes=(path / name).stat().st_size, sha256=files.sha256_of_file(path / name))
        for name in found
        if name != schema.MANIFEST and not name.startswith(f"{schema.WORK}/")
    }
