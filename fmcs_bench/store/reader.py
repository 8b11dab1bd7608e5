"""Reads an FMCS dataset.

Flow: folder -> manifest, checked -> lazy Zarr arrays -> ``MapSet``, the maps of some images of one run at all stages.
M maps (images x stages), N images, K stages, D channels, H height, W width.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from fmcs_bench import images
from fmcs_bench.errors import ConfigError, DatasetError, MissingDataError
from fmcs_bench.images import SPLITS, ImageDataset
from fmcs_bench.progress import SILENT, Progress
from fmcs_bench.store import codecs, schema


@dataclass(frozen=True)
class MapSet:
    """Feature maps with what is known of each.

    Attributes:
        maps_MDHW: float16.
        stages_M: int64, 0 .. K - 1; the FMCS is one more.
        image_ids_M: int64.
        runs_M: int64, seed of the run.
    """

    maps_MDHW: np.ndarray
    stages_M: np.ndarray
    image_ids_M: np.ndarray
    runs_M: np.ndarray

    def __len__(self) -> int:
        return len(self.stages_M)

    @classmethod
    def concatenate(cls, parts: list[MapSet]) -> MapSet:
        """One set with all maps of the parts, in their order."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            np.concatenate([part.maps_MDHW for part in parts]),
            np.concatenate([part.stages_M for part in parts]),
            np.concatenate([part.image_ids_M for part in parts]),
            np.concatenate([part.runs_M for part in parts]),
        )


class FmcsDataset:
    """A finished FMCS dataset, opened for reading; ``fmcs_bench.open`` makes one.

    Args:
        path: its folder.
        check: refuse a folder that is not as its manifest says; ``fmcs_bench.verification`` does without, to list every
            fault.

    Raises:
        MissingDataError: there is no such folder.
        DatasetError: it is unfinished, damaged, or of another schema.
    """

    def __init__(self, path: str | Path, *, check: bool = True) -> None:
        self.path = Path(path)
        self.manifest = read_manifest(self.path)
        if check:
            if not self.manifest.states_its_digest:
                raise DatasetError(f"{self.path / schema.MANIFEST} was changed: its content does not have its digest")
            _check_files(self.path, self.manifest)

    def __repr__(self) -> str:
        manifest = self.manifest
        channels, height, width = manifest.map_shape
        roles = ", ".join(f"{run.seed} ({run.role})" for run in manifest.runs)
        map_bytes = manifest.bytes_under(schema.MAPS)
        checkpoint_bytes = manifest.bytes_under(schema.CHECKPOINTS)
        error = manifest.map_error
        loss = f"  loss    at most {error.largest:.3g} in a value, {error.mean:.3g} on average\n" if error else ""
        position = "" if height * width > 1 else "; one position, a larger image size gives more"
        return (
            f"FmcsDataset {self.id}\n"
            f"  maps    {self.num_maps:,} of {channels} x {height} x {width} float16, K = {self.num_stages} stages"
            f"{position}\n"
            f"  runs    {roles}\n"
            f"  images  {', '.join(f'{n:,} {split}' for split, n in manifest.images.num_images.items())}\n"
            f"  disk    {map_bytes / 1e6:,.1f} MB of maps ({manifest.config.codec}; "
            f"raw {manifest.raw_bytes / 1e6:,.1f} MB, {manifest.raw_bytes / map_bytes:.2f} times smaller), "
            f"{checkpoint_bytes / 1e6:,.1f} MB of checkpoints\n"
            f"{loss}"
            f"  path    {self.path}"
        )

    @cached_property
    def maps(self) -> zarr.Group:
        """The Zarr group with all arrays, for use with any Zarr tool."""
        return zarr.open_group(self.path / schema.MAPS, mode="r")

    @property
    def id(self) -> str:
        """``<name>@<first 12 digits of the digest>``, as records name it."""
        return f"{self.manifest.name}@{self.manifest.dataset_digest[:12]}"

    @property
    def num_stages(self) -> int:
        """K."""
        return self.manifest.config.stages

    @property
    def num_maps(self) -> int:
        """Feature maps of all runs and stages."""
        return sum(run.num_images for run in self.manifest.runs) * self.num_stages

    def seeds(self, role: schema.Role) -> list[int]:
        """Seeds of the runs with this role."""
        return [run.seed for run in self.manifest.runs if run.role == role]

    def array(self, name: str) -> zarr.Array[Any]:
        """A lazy array by its path in the store, such as ``run-0/feature_maps``."""
        return codecs.open_array(self.maps, name)

    def read_maps(self, seed: int, array: str, row: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Maps of consecutive images at one stage or checkpoint, whatever the codec.

        Args:
            seed: of the run.
            array: ``feature_maps``, or ``trajectory_maps`` of the test run.
            row: position of the stage or checkpoint, from 0.
            start: position of the first image.
            stop: position after the last image; None is the end.

        Returns:
            float16 [N, D, H, W].

        Raises:
            ConfigError: the codec needs a package that is not installed.
            DatasetError: the run has no such array.
        """
        codecs.require(self.manifest.config.codec)
        name = f"{schema.run_group(seed)}/{array}"
        stored = self.array(name)
        stored_NDHW = np.asarray(stored[row, start:stop])
        if self.manifest.config.codec != "q8":
            return stored_NDHW
        assert stored.shards is not None  # the writer makes no others
        scale_SD, zero_point_SD = (
            np.asarray(self.array(of(name))[row]) for of in (codecs.scale_name, codecs.zero_point_name)
        )
        per_shard, first = stored.shards[1], range(stored.shape[1])[start:stop].start
        bounds = [first, *range(first // per_shard * per_shard + per_shard, first + len(stored_NDHW), per_shard)]
        parts = np.split(stored_NDHW, [bound - first for bound in bounds[1:]])
        return np.concatenate(
            [
                codecs.dequantise(part, scale_SD[bound // per_shard], zero_point_SD[bound // per_shard])
                for part, bound in zip(parts, bounds, strict=True)
            ]
        )

    def trajectory_maps(self, seed: int) -> np.ndarray:
        """Maps of a few test images at every checkpoint of the test run, float16 [P, N, D, H, W].

        Raises:
            DatasetError: this is not the test run.
        """
        num_checkpoints = self.array(f"{schema.run_group(seed)}/trajectory_maps").shape[0]
        return np.stack([self.read_maps(seed, "trajectory_maps", row) for row in range(num_checkpoints)])

    def load_images(
        self,
        data_dir: str | Path | None = None,
        image_source: str | None = None,
        *,
        stream: bool | None = None,
        progress: Progress = SILENT,
    ) -> ImageDataset:
        """The images that this dataset names, as they are here; compare ``sha256`` with the manifest's.

        Args:
            data_dir: folder with the files of the image dataset.
            image_source: ``folder:DIR`` or ``hub:NAME_OR_PATH``, where it was built from one.
            stream: decode images when they are needed; see ``fmcs_bench.images.load``.
            progress: shows the reading.

        Raises:
            FmcsBenchError: see ``fmcs_bench.images.load``.
        """
        config = self.manifest.config
        return images.load(
            config.image_dataset,
            data_dir,
            limit=config.limit,
            image_size=config.image_size,
            source=image_source,
            skip_broken=self.manifest.images.num_broken > 0,
            stream=stream,
            progress=progress,
        )

    def run_file(self, seed: int) -> schema.RunFile:
        """Loss sequence, CQI and markers of a run."""
        return schema.RunFile.from_json(json.loads((self.path / schema.trajectory_name(seed)).read_bytes()))

    def select(self, seed: int, split: str, *, limit: int | None = None) -> MapSet:
        """The maps of one run's images of one split, at all K stages, in memory.

        Args:
            seed: of the run.
            split: ``train``, ``validation``, ``test`` or ``unseen``.
            limit: at most this many images, those that come first.

        Returns:
            Stage by stage, each in the order of the images.

        Raises:
            ConfigError: the run has no image of that split, or the maps do not fit in memory.
        """
        if split not in SPLITS:
            raise ConfigError(f"split = {split!r}; allowed are {', '.join(SPLITS)}")
        group = schema.run_group(seed)
        image_N = np.asarray(self.array(f"{group}/image")[:])
        split_N = np.asarray(self.array("split")[:])[image_N]
        row_N = np.flatnonzero(split_N == SPLITS.index(split))[:limit]
        if not len(row_N):
            raise ConfigError(f"run {seed} of {self.manifest.name} has no image of the split {split}")
        _check_memory(self.num_stages * len(row_N) * 2 * int(np.prod(self.manifest.map_shape)))
        first, last = int(row_N[0]), int(row_N[-1]) + 1
        parts = [
            self.read_maps(seed, "feature_maps", stage, first, last)[row_N - first] for stage in range(self.num_stages)
        ]
        ids_N = np.asarray(self.array("image_id")[:])[image_N[row_N]]
        return MapSet(
            np.concatenate(parts),
            np.repeat(np.arange(self.num_stages), len(row_N)),
            np.tile(ids_N, self.num_stages),
            np.full(self.num_stages * len(row_N), seed),
        )


def open_dataset(path: str | Path) -> FmcsDataset:
    """Open a finished FMCS dataset for reading.

    Args:
        path: its folder.

    Raises:
        MissingDataError: there is no such folder.
        DatasetError: it is unfinished, damaged, or of another schema.
    """
    return FmcsDataset(path)


def read_manifest(path: Path) -> schema.Manifest:
    """The manifest in a dataset's folder, valid in itself; nothing is compared with it.

    Raises:
        MissingDataError: there is no such folder.
        DatasetError: there is none, or it is damaged, or of another schema.
    """
    if not path.is_dir():
        raise MissingDataError(f"there is no FMCS dataset at {path}; build one with `fmcs-bench build`")
    file = path / schema.MANIFEST
    if not file.is_file():
        raise DatasetError(f"{path} is unfinished (no {schema.MANIFEST}); type its build command again to go on")
    try:
        value = json.loads(file.read_bytes())
        version = value.get("schema_version") if isinstance(value, dict) else None
        if version != schema.SCHEMA_VERSION:
            raise DatasetError(
                f"{path} has schema {version!r}; this version of fmcs-bench reads {schema.SCHEMA_VERSION}"
            )
        return schema.Manifest.from_json(value)
    except (json.JSONDecodeError, UnicodeDecodeError, ConfigError) as error:
        raise DatasetError(f"{file} is damaged: {error}") from None


def _check_files(path: Path, manifest: schema.Manifest) -> None:
    """Refuse a half-copied dataset: every file is there, inside the folder, with its size."""
    root = path.resolve()
    for name, entry in manifest.files.items():
        file = (path / name).resolve()
        if not file.is_relative_to(root):
            raise DatasetError(f"the manifest of {path} names a file outside its folder: {name!r}")
        if not file.is_file() or file.stat().st_size != entry.num_bytes:
            raise DatasetError(f"{path} is incomplete: {name} is missing or not of {entry.num_bytes:,} bytes")


def _check_memory(num_bytes: int) -> None:
    try:
        available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return  # the platform does not tell
    if num_bytes > 0.8 * available:
        raise ConfigError(
            f"these maps take {num_bytes / 1e9:,.1f} GB in memory and {available / 1e9:,.1f} GB are free; use --limit"
        )
