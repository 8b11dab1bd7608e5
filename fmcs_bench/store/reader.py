"""Opens and reads an FMCS dataset, found by folder, URL or name.

M maps (images x stages), N images, P checkpoints, D channels, H height, W width.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import zarr

from fmcs_bench.core.errors import ConfigError, DatasetError, MissingDataError, SupersededWarning, nearest
from fmcs_bench.core.progress import SILENT, Progress
from fmcs_bench.core.workspace import PathLike, Workspace
from fmcs_bench.images.dataset import SPLITS, ImageDataset
from fmcs_bench.images.load import load_images
from fmcs_bench.images.options import ImageOptions
from fmcs_bench.store import codecs, publication, schema
from fmcs_bench.store.location import Location, is_url
from fmcs_bench.store.map_array import MapArray, gather, open_group
from fmcs_bench.store.publication import Part, chosen
from fmcs_bench.store.selection import MapSelection, MapSet

T = TypeVar("T")


class FmcsDataset:
    """A finished FMCS dataset, opened for reading; ``fmcs_bench.open`` makes one.

    Args:
        place: its folder, a URL of a protocol that fsspec knows, or its location.
        check: refuse a folder that does not match its manifest.

    Attributes:
        location: where it is.
        manifest: the content of ``dataset.json``.
        part: the runs, stages, splits and kinds of files that are there.
    """

    def __init__(self, place: str | Path | Location, *, check: bool = True) -> None:
        self.location = place if isinstance(place, Location) else Location(place)
        self.manifest = read_manifest(self.location)
        self._check = check
        self._map_arrays: dict[str, MapArray] = {}
        self._image_arrays: dict[str, np.ndarray] = {}
        if check and not self.manifest.states_its_digest:
            raise DatasetError(
                f"{self.location.shown(schema.MANIFEST)} was changed: its content does not have its digest"
            )
        self.part = read_part(self.location, self.manifest)
        if check:
            check_files(self.location, self.manifest, self.files)

    def __repr__(self) -> str:
        manifest, part = self.manifest, self.part
        channels, height, width = manifest.map_shape
        images, made, error = manifest.images, manifest.environment, manifest.map_error
        map_bytes, checkpoint_bytes = manifest.bytes_under(schema.MAPS), manifest.bytes_under(schema.CHECKPOINTS)
        position = "" if height * width > 1 else "; one position, a larger image size gives more"
        size = images.statistics.size
        pixels = size if isinstance(size, str) else " x ".join(map(str, size))
        lines = {
            "part": f"{', '.join(part.kinds)} of the runs {', '.join(map(str, part.runs))}, stages "
            f"{', '.join(map(str, part.stages))}, splits {', '.join(part.splits)}; what follows is of the whole",
            "maps": f"{manifest.num_maps:,} of {channels} x {height} x {width} float16, K = {self.num_stages} "
            f"stages{position}",
            "runs": ", ".join(f"{run.seed} ({run.role})" for run in manifest.runs),
            "images": f"{', '.join(f'{images.num_images[split]:,} {split}' for split in SPLITS)}; "
            f"{images.statistics.colour}, {pixels} px, shown at {manifest.config.image_size} px; "
            f"{len(images.classes):,} classes",
            "disk": f"{map_bytes / 1e6:,.1f} MB of maps ({manifest.config.codec}; raw {manifest.raw_bytes / 1e6:,.1f} "
            f"MB, {manifest.raw_bytes / map_bytes:.2f} times smaller), {checkpoint_bytes / 1e6:,.1f} MB of checkpoints",
            "loss": f"at most {error.largest:.3g} in a value, {error.mean:.3g} on average" if error else "",
            "made": f"{manifest.created[:10]} on {made.device} ({made.processor}, {made.threads} threads) with "
            f"fmcs-bench {made.fmcs_bench}, torch {made.libraries['torch']}; "
            + ", ".join(f"{phase} {value:,.0f} s" for phase, value in manifest.build_seconds.items()),
            "path": str(self.location),
        }
        left_out = {"part"} if self.is_whole else set()
        shown = [f"  {name:<7} {line}" for name, line in lines.items() if line and name not in left_out]
        return "\n".join([f"FmcsDataset {manifest.id}", *shown])

    @property
    def path(self) -> Path:
        """Its folder; a ``ConfigError`` where it is not on this machine."""
        if self.location.local is None:
            raise ConfigError(f"{self.location} is not on this machine; copy it into a folder and give that")
        return self.location.local

    @property
    def id(self) -> str:
        """``<name>@<first 12 digits of the digest>``, as records name it."""
        return self.manifest.id

    @property
    def num_stages(self) -> int:
        """K."""
        return self.manifest.config.stages

    @property
    def num_maps(self) -> int:
        """Feature maps of all runs and stages."""
        return self.manifest.num_maps

    @property
    def is_whole(self) -> bool:
        """Whether all runs, stages, splits and kinds of files are there."""
        return self.part.is_whole(self.manifest)

    @cached_property
    def files(self) -> frozenset[str]:
        """Names of the manifest's files that are there: all, unless only a part was published or downloaded."""
        return self.part.files(self.manifest, self.maps_per_shard)

    @cached_property
    def maps(self) -> zarr.Group:
        """The Zarr group with all arrays, for use with any Zarr tool."""
        if self.location.local is not None:
            return zarr.open_group(self.location.local / schema.MAPS, mode="r")
        return open_group(self.location, self.files)

    def seeds(self, role: schema.Role) -> list[int]:
        """Seeds of the runs with this role."""
        return [run.seed for run in self.manifest.runs if run.role == role]

    def maps_per_shard(self, array: str) -> int:
        """Maps in a shard of an array, by its path in the store."""
        file = f"{schema.MAPS}/{array}/zarr.json"
        try:
            found = json.loads(self.location.read_bytes(file))["chunk_grid"]["configuration"]["chunk_shape"][1]
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise DatasetError(f"{self.location.shown(file)} is damaged: {error}") from None
        if not isinstance(found, int) or found < 1:
            raise DatasetError(f"{self.location.shown(file)} is damaged: {found!r} maps in a shard")
        return found

    def read_file(self, name: str) -> bytes:
        """All bytes of a file that the manifest names, such as ``checkpoints/run-0/stage-1.safetensors``.

        Raises:
            MissingDataError: the manifest does not name it, or it is not there.
            DatasetError: it does not have the manifest's SHA-256, or cannot be read.
        """
        if name not in self.manifest.files:
            raise MissingDataError(f"{name} is no file of {self.location}; {nearest(name, self.manifest.files)}")
        if name not in self.files:
            raise self._left_out(name)
        data = self.location.read_bytes(name)
        if self._check and hashlib.sha256(data).hexdigest() != self.manifest.files[name].sha256:
            raise DatasetError(f"{self.location.shown(name)} was changed: its SHA-256 is not that of the manifest")
        return data

    def run_file(self, seed: int) -> schema.RunFile:
        """Loss sequence, CQI and stages of a run."""
        return schema.RunFile.from_json(json.loads(self.read_file(schema.trajectory_name(seed))))

    def array(self, name: str) -> zarr.Array[Any]:
        """A lazy array by its path in the store, such as ``run-0/feature_maps``, as it is stored."""
        return codecs.open_array(self.maps, name)

    def map_array(self, seed: int, array: str = "feature_maps") -> MapArray:
        """The maps of a run as a lazy array [row, image, channel, y, x] of float16, whatever the codec.

        Args:
            seed: of the run.
            array: ``feature_maps``, or ``trajectory_maps``, which only the test run has.

        Raises:
            MissingDataError: only a part of the dataset is there, without these maps.
            DatasetError: the run has no such array.
        """
        if "maps" not in self.part.kinds or (seed not in self.part.runs and seed in self._seeds):
            raise self._left_out(f"the maps of run {seed}")
        name = f"{schema.run_group(seed)}/{array}"
        if name not in self._map_arrays:
            self._map_arrays[name] = MapArray(self.location, name, self.manifest.config.codec, self.files)
        return self._map_arrays[name]

    def read_maps(self, seed: int, array: str, row: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Maps of consecutive images at one stage or checkpoint (``row``, from 0), float16 [N, D, H, W]."""
        maps = self.map_array(seed, array)
        image_N = np.arange(maps.shape[1])[start:stop]
        return gather([maps], np.zeros_like(image_N), np.full_like(image_N, range(maps.shape[0])[row]), image_N)

    def trajectory_maps(self, seed: int) -> np.ndarray:
        """Maps of a few test images at every checkpoint of the test run, float16 [P, N, D, H, W]."""
        rows = range(self.map_array(seed, "trajectory_maps").shape[0])
        return np.stack([self.read_maps(seed, "trajectory_maps", row) for row in rows])

    def load_images(self, images: ImageOptions | None = None, *, progress: Progress = SILENT) -> ImageDataset:
        """The images of this dataset, as found on this machine; compare ``sha256`` with the manifest's."""
        config, images = self.manifest.config, images or ImageOptions()
        return load_images(
            config.image_dataset,
            images.data_dir,
            limit=config.limit,
            image_size=config.image_size,
            source=images.image_source,
            skip_broken=self.manifest.images.num_broken > 0,
            stream=images.stream_images,
            progress=progress,
        )

    def sel(
        self,
        run: int | str | Iterable[int | str] | None = None,
        stage: int | Iterable[int] | None = None,
        split: str | Iterable[str] | None = None,
        *,
        limit: int | None = None,
    ) -> MapSelection:
        """Choose maps by run, stage and split; no map is read.

        Where only a part of a dataset is there, None and roles stand for what is there.

        Args:
            run: seed, or ``training``, ``validation`` or ``test`` for the runs of this role; None is every run.
            stage: FMCS, 1 .. K; None is every stage.
            split: ``train``, ``validation``, ``test`` or ``unseen``; None is every split.
            limit: at most this many images of each run and split, the first ones; None is all.

        Returns:
            Run by run, each stage by stage, each in the order of the images. Every argument may also be several values;
            their order is kept for runs and stages.

        Raises:
            ConfigError: a value that is not allowed, or there is no such map.
            MissingDataError: only a part of the dataset is there, without these maps.
            DatasetError: the dataset is damaged.
        """
        seeds = self._chosen_runs(run)
        stages = self._chosen(stage, range(1, self.num_stages + 1), self.part.stages, "stage")
        splits = self._chosen(split, SPLITS, self.part.splits, "split")
        if limit is not None and limit < 1:
            raise ConfigError(f"limit = {limit}; the number of images must be 1 or more")
        rows = np.array(stages) - 1
        parts = []
        for source, seed in enumerate(seeds):
            all_N = np.asarray(self.array(f"{schema.run_group(seed)}/image")[...])  # positions among all images
            split_N = self._of_images("split")[all_N]
            image_N = np.sort(
                np.concatenate([np.flatnonzero(split_N == SPLITS.index(name))[:limit] for name in splits])
            )
            image_M, stages_M = np.tile(image_N, len(rows)), np.repeat(rows, len(image_N))
            parts.append((np.full(len(image_M), source), image_M, stages_M, all_N[image_M]))
        source_M, image_M, stages_M, all_M = (np.concatenate(of_runs) for of_runs in zip(*parts, strict=True))
        if not len(all_M):
            which = f"the split {' or '.join(splits)}"
            raise ConfigError(f"run {' or '.join(map(str, seeds))} of {self.manifest.name} has no image of {which}")
        return MapSelection(
            [self.map_array(seed) for seed in seeds],
            source_M=source_M,
            image_M=image_M,
            stages_M=stages_M,
            image_ids_M=self._of_images("image_id")[all_M],
            labels_M=self._of_images("label")[all_M],
            splits_M=self._of_images("split")[all_M],
            runs_M=np.array(seeds)[source_M],
        )

    def select(self, seed: int, split: str, *, limit: int | None = None) -> MapSet:
        """The maps of one run's images of one split, at all K stages, in memory; see ``sel``."""
        return self.sel(seed, range(1, self.num_stages + 1), split, limit=limit).load()

    def _of_images(self, name: str) -> np.ndarray:
        """A small array over all images, read once."""
        if name not in self._image_arrays:
            self._image_arrays[name] = np.asarray(self.array(name)[...])
        return self._image_arrays[name]

    @property
    def _seeds(self) -> list[int]:
        return [info.seed for info in self.manifest.runs]

    def _left_out(self, what: str, there: str = "") -> MissingDataError:
        return MissingDataError(
            f"{self.location} is a part of {self.id} without {what}{there}; `fmcs-bench download` adds what is missing"
        )

    def _chosen_runs(self, run: int | str | Iterable[int | str] | None) -> list[int]:
        roles: dict[int | str, list[int]] = {info.role: [] for info in self.manifest.runs}
        for info in self.manifest.runs:
            roles[info.role] += [info.seed] if info.seed in self.part.runs else []
        here = [*self.part.runs, *(role for role, seeds in roles.items() if seeds)]
        found = self._chosen(run, [*self._seeds, *roles], here, "run")
        return list(
            dict.fromkeys(seed for each in found for seed in ([each] if isinstance(each, int) else roles[each]))
        )

    def _chosen(self, value: T | Iterable[T] | None, allowed: Sequence[T], here: Sequence[T], name: str) -> list[T]:
        """The given values, each once, in their order; None is all that are here."""
        if value is None:
            return list(here)
        several = [value] if isinstance(value, str) or not isinstance(value, Iterable) else list(value)
        chosen(several, allowed, name)
        for each in several:
            if each not in here:
                raise self._left_out(f"{name} {each}", f"; it has {', '.join(map(str, here))}")
        return list(dict.fromkeys(allowed[list(allowed).index(each)] for each in several))


def open_dataset(place: PathLike | Location, *, storage_options: Mapping[str, Any] | None = None) -> FmcsDataset:
    """Open a finished FMCS dataset for reading.

    Args:
        place: its folder, or a URL of a protocol that fsspec knows, such as ``hf://datasets/owner/name``.
        storage_options: of a URL, for the package of its protocol, such as ``{"anon": True}`` for a public bucket; the
            environment gives the rest, see docs/scale.md.

    Raises:
        ConfigError: the URL's protocol is unknown or needs a package, or options were given for a folder.
        MissingDataError: there is no such folder.
        DatasetError: it is unfinished, damaged, or of a different schema, or the URL cannot be reached.

    Warns:
        SupersededWarning: it was published, and names a later version of itself.
    """
    dataset = FmcsDataset(place if isinstance(place, Location) else Location(os.fspath(place), storage_options))
    published = publication.read(dataset.location, dataset.manifest)
    if published is not None and published.superseded_by is not None:
        warnings.warn(
            f"{dataset.location} ({dataset.id}) is superseded by {published.superseded_by}: use that, unless you "
            "repeat former results",
            SupersededWarning,
            stacklevel=2,
        )
    return dataset


def all_datasets(workspace: Workspace) -> list[FmcsDataset]:
    """Every finished FMCS dataset of the workspace, by name; ``MissingDataError`` where there is none."""
    paths = sorted(path.parent for path in workspace.datasets.glob(f"[!.]*/{schema.MANIFEST}"))
    if not paths:
        raise MissingDataError(
            f"no FMCS dataset is in {workspace.datasets}; build one with `fmcs-bench build --backbone smallcnn`"
        )
    return [open_dataset(path) for path in paths]


def only_dataset(workspace: Workspace) -> FmcsDataset:
    """The workspace's only finished dataset; where there are several, a ``ConfigError`` names them."""
    found = all_datasets(workspace)
    if len(found) > 1:
        names = ", ".join(dataset.manifest.name for dataset in found)
        raise ConfigError(f"{workspace.datasets} holds several datasets ({names}); name one of them")
    return found[0]


def unfinished_datasets(workspace: Workspace) -> list[str]:
    """Names of the datasets of the workspace whose build has not finished."""
    return sorted(p.name for p in workspace.datasets.glob("[!.]*") if p.is_dir() and not (p / schema.MANIFEST).exists())


def find_datasets(
    workspace: Workspace, datasets: FmcsDataset | PathLike | Iterable[FmcsDataset | PathLike]
) -> list[FmcsDataset]:
    """One or several datasets, each as for ``find_dataset``."""
    several = [datasets] if isinstance(datasets, FmcsDataset | str | os.PathLike) else datasets
    return [find_dataset(workspace, dataset) for dataset in several]


def find_dataset(workspace: Workspace, dataset: FmcsDataset | PathLike) -> FmcsDataset:
    """A dataset by its name in the workspace, its path or its URL."""
    return dataset if isinstance(dataset, FmcsDataset) else open_dataset(dataset_location(workspace, dataset))


def dataset_location(workspace: Workspace, dataset: FmcsDataset | PathLike) -> Location:
    """Where a dataset is, finished or not: an opened one, or by its name in the workspace, its path or its URL."""
    if isinstance(dataset, FmcsDataset):
        return dataset.location
    if is_url(dataset):
        return Location(os.fspath(dataset))
    for path in (workspace.dataset(str(dataset)), Path(dataset)):
        if path.is_dir():
            return Location(path)
    known = sorted(path.name for path in workspace.datasets.glob("[!.]*") if path.is_dir())
    close = difflib.get_close_matches(str(dataset), known, n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else f"it holds: {', '.join(known) or 'none'}"
    raise MissingDataError(f"there is no FMCS dataset {dataset} in {workspace.datasets}, nor a folder; {hint}")


def read_manifest(location: Location) -> schema.Manifest:
    """The manifest of a dataset, valid in itself; nothing is compared with it."""
    file = location.shown(schema.MANIFEST)
    if location.local is not None:
        if not location.local.is_dir():
            raise MissingDataError(f"there is no FMCS dataset at {location}; build one with `fmcs-bench build`")
        if not (location.local / schema.MANIFEST).is_file():
            raise DatasetError(
                f"{location} is unfinished (no {schema.MANIFEST}); type its build command again to go on"
            )
    try:
        content = location.read_bytes(schema.MANIFEST)
    except MissingDataError:
        raise MissingDataError(f"there is no finished FMCS dataset at {location} (no {schema.MANIFEST})") from None
    try:
        value = json.loads(content)
        version = value.get("schema_version") if isinstance(value, dict) else None
        if version != schema.SCHEMA_VERSION:
            raise DatasetError(
                f"{location} has schema {version!r}; this version of fmcs-bench reads {schema.SCHEMA_VERSION}"
            )
        return schema.Manifest.from_json(value)
    except (json.JSONDecodeError, UnicodeDecodeError, ConfigError) as error:
        raise DatasetError(f"{file} is damaged: {error}") from None


def read_part(location: Location, manifest: schema.Manifest) -> Part:
    """What of a dataset is there: as its ``part.json`` says, or all."""
    file = location.shown(publication.PART)
    try:
        found = Part.from_json(json.loads(location.read_bytes(publication.PART)))
        here = Part.of(manifest, kinds=found.kinds, runs=found.runs, stages=found.stages, splits=found.splits)
    except MissingDataError:
        return Part.of(manifest)
    except (json.JSONDecodeError, UnicodeDecodeError, ConfigError) as error:
        raise DatasetError(f"{file} is damaged: {error}") from None
    if found.dataset_digest != manifest.dataset_digest:
        raise DatasetError(f"{file} belongs to a different dataset: its digest is not that of {schema.MANIFEST}")
    return here


def check_files(location: Location, manifest: schema.Manifest, expected: frozenset[str]) -> None:
    """Refuse a dataset where an expected file is missing, of a different size, or outside the folder."""
    for name in manifest.files:
        if not location.keeps_inside(name):
            raise DatasetError(f"the manifest of {location} names a file outside its folder: {name!r}")
    sizes = location.sizes()
    if sizes is None:
        return  # the protocol cannot list files; each is checked when it is read
    for name in sorted(expected):
        entry = manifest.files[name]
        if sizes.get(name) != entry.num_bytes:
            raise DatasetError(f"{location} is incomplete: {name} is missing or not of {entry.num_bytes:,} bytes")
