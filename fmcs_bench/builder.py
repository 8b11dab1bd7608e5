"""One build, from configuration to manifest.

Flow: configuration -> images -> for each run: training, stages by the CQI rule, maps of its images at each stage
-> manifest, last. What is finished is never done again: a killed build goes on when it is started again.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fmcs_bench import backbones, environment, files, images
from fmcs_bench.config import BuildConfig
from fmcs_bench.engine import LOCAL, Engine, Failure, Job
from fmcs_bench.environment import Environment
from fmcs_bench.errors import ConfigError, DatasetError, DivergedError
from fmcs_bench.extraction import extract
from fmcs_bench.images import SPLITS, ImageDataset, Preprocessor
from fmcs_bench.progress import SILENT, Progress
from fmcs_bench.store import DatasetWriter, FmcsDataset, Manifest, RunFile, codecs, open_dataset, schema
from fmcs_bench.store.stages import choose_stages
from fmcs_bench.store.writer import list_files
from fmcs_bench.training import choose_device, device_name
from fmcs_bench.trajectory import Run, checkpoint_path, initial_backbone, load_checkpoint, train_run
from fmcs_bench.workspace import Workspace

CHOICE_OF_STAGES = ("stages", "markers", "convergence")
"""Options that do not change how a run is trained."""


def build_dataset(
    config: BuildConfig,
    workspace: Workspace,
    *,
    data_dir: str | Path | None = None,
    image_source: str | None = None,
    skip_broken: bool = False,
    download: bool = False,
    stream_images: bool | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
    engine: Engine = LOCAL,
) -> FmcsDataset:
    """Build one FMCS dataset, or open it where it is finished.

    Args:
        config: what to build; its ``dataset_name`` names the folder.
        workspace: where; the caller holds its lock. What is not finished yet can only be built in a folder.
        data_dir: folder with the files of the image dataset.
        image_source: ``folder:DIR`` or ``hub:NAME_OR_PATH``, where the images of a configuration with such a plain name
            lie; it is not kept.
        skip_broken: leave out images that cannot be decoded; the manifest has their number.
        download: fetch missing files of a named image dataset into ``data_dir``.
        stream_images: see ``stream`` of ``images.load``.
        device: ``auto``, ``cpu``, ``cuda``, ...
        progress: shows the work.
        engine: who trains the runs, one after another; see ``fmcs_bench.together``.

    Raises:
        UnknownNameError: no such image dataset or backbone.
        MissingDataError: the image files are not there.
        ImageError: an image is broken, or the images and classes are not what a dataset needs.
        ConfigError: another dataset has this name, or the backbone cannot take these images.
        ConvergenceError: a run has no convergence point, or too few checkpoints for K stages.
    """
    path = workspace.dataset(config.dataset_name)

    place = _ImagePlace(
        config.image_dataset, data_dir, config.limit, config.image_size, image_source, skip_broken, stream_images
    )
    if (path / schema.MANIFEST).exists():
        dataset = open_dataset(path)
        _require_equal(dataset.manifest.config, config, path)
        if image_source is not None:  # two folders may have one name
            source = place.load(download=download, progress=progress)
            _require_same_images(dataset.manifest.images.sha256, source, path)
        if workspace.is_here:  # left where a kill came right after the manifest
            shutil.rmtree(path / schema.WORK, ignore_errors=True)
        return dataset
    codecs.require(config.codec)
    backbones.factory(config.backbone)  # before the images are read: a wrong name is told at once
    source = place.load(download=download, progress=progress)
    runs = _Runs(config, place, source, path / schema.WORK, choose_device(device), progress)
    _Build(runs, path, engine).finish()
    return open_dataset(path)


def _require_equal(existing: BuildConfig, wanted: BuildConfig, path: Path, *, leaving: Collection[str] = ()) -> None:
    old, new = existing.to_json(), wanted.to_json()
    different = [
        f"{key}: {old.get(key)!r} there, {new.get(key)!r} wanted"
        for key in old | new
        if old.get(key) != new.get(key) and key not in leaving
    ]
    if different:
        raise ConfigError(
            f"{path} holds a dataset of this name with other options ({'; '.join(different)}); choose another --name"
        )


def _require_same_images(sha256: str, source: ImageDataset, path: Path) -> None:
    if source.sha256 != sha256:
        raise ConfigError(
            f"{path} was built, or begun, from other images of the name {source.name}; choose another --name"
        )


@dataclass(frozen=True)
class _ImagePlace:
    """Where the images of a build are, as typed."""

    name: str
    data_dir: str | Path | None
    limit: int | None
    image_size: int
    source: str | None
    skip_broken: bool
    stream: bool | None

    def load(self, *, download: bool = False, progress: Progress = SILENT) -> ImageDataset:
        typed = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return images.load(**typed, download=download, progress=progress)


@dataclass(frozen=True)
class _Runs:
    """Trains the runs of a build. Of it only inputs are pickled: another process reads the images itself."""

    config: BuildConfig
    place: _ImagePlace
    images: ImageDataset
    work: Path
    device: torch.device
    progress: Progress = SILENT

    def __reduce__(self) -> tuple[Any, ...]:
        return _runs_again, (self.config, self.place, self.images.sha256, self.work, device_name(self.device))

    def folder(self, seed: int) -> Path:
        """What a run leaves until its maps are extracted."""
        return self.work / schema.run_group(seed)

    def find(self, seed: int) -> Run | None:
        file = self.folder(seed) / "run.json"
        return Run.from_json(json.loads(file.read_bytes())) if file.exists() else None

    def train(self, seed: int) -> Run:
        run = self.follow(seed)
        files.write_atomically(self.folder(seed) / "run.json", files.to_json(run.to_json()))
        return run

    def follow(self, seed: int) -> Run:
        """All processes of a launch train it; of what ``train_run`` writes, they write nothing but the main one."""
        folder = self.folder(seed)
        return train_run(self.images, self.config, seed, folder, device=self.device, progress=self.progress)


@functools.lru_cache(maxsize=1)
def _runs_again(config: BuildConfig, place: _ImagePlace, sha256: str, work: Path, device: str) -> _Runs:
    """The same in another process, which trains one run after another."""
    source = place.load()
    if source.sha256 != sha256:
        raise DatasetError(f"the images of {source.name} that this process reads are not those of the main process")
    return _Runs(config, place, source, work, choose_device(device))


class _Build:
    def __init__(self, runs: _Runs, path: Path, engine: Engine) -> None:
        self.config, self.images, self.device, self.progress = runs.config, runs.images, runs.device, runs.progress
        self.path = path
        self.runs, self.engine = runs, engine
        self.prepare = Preprocessor(self.images, self.config.image_size)
        probe = initial_backbone(self.config, len(self.images.classes), seed=0)
        self.num_parameters = backbones.num_parameters(probe)
        self.map_shape = backbones.map_shape(probe, self.config.image_size)
        self.seconds = {"training": 0.0, "extraction": 0.0}

    def finish(self) -> None:
        """Do what is left and write the manifest."""
        self._claim()
        # A killed process leaves the file that it was writing: ours end in .part, zarr's in .partial.
        for leftover in [*self.path.rglob("*.part"), *self.path.rglob("*.partial")]:
            leftover.unlink()
        roles = self.config.run_roles
        run_files = {}
        with (
            DatasetWriter(self.path, self.map_shape, self.config.codec) as writer,
            self.progress.task(f"building {self.config.dataset_name}", len(roles)) as task,
        ):
            writer.write_images(self.images)
            for seed, role in roles.items():
                run_files[seed] = self._run(writer, seed, role)
                task.advance()
            self._write_manifest(writer, run_files)
        shutil.rmtree(self.path / schema.WORK)

    def _claim(self) -> None:
        """Tie an unfinished folder to its configuration, so that another build does not go on in it.

        Until the stages of a first run are chosen, how they are chosen may change: a run that did not converge under
        one threshold need not be trained again for another.
        """
        file, digest = (self.path / schema.WORK / name for name in ("config.json", "images.json"))
        if file.exists():
            chosen = any(self.path.glob(f"{schema.TRAJECTORIES}/*.json"))
            started = BuildConfig.from_json(json.loads(file.read_bytes()))
            _require_equal(started, self.config, self.path, leaving=() if chosen else CHOICE_OF_STAGES)
            if digest.exists():
                _require_same_images(json.loads(digest.read_bytes())["sha256"], self.images, self.path)
        elif self.path.exists() and any(child.name != schema.WORK for child in self.path.iterdir()):
            raise DatasetError(f"{self.path} holds other files; move them away or choose another --name")
        # A kill between the two leaves a folder that nobody has claimed yet.
        files.write_atomically(digest, files.to_json({"sha256": self.images.sha256}))
        files.write_atomically(file, files.to_json(self.config.to_json()))

    def _run(self, writer: DatasetWriter, seed: int, role: schema.Role) -> RunFile:
        """One run, from training to its trajectory file, which is written last and says that the run is done."""
        file = self.path / schema.trajectory_name(seed)
        if file.exists():
            return RunFile.from_json(json.loads(file.read_bytes()))
        work = self.runs.folder(seed)
        begin = time.monotonic()
        run = self._train(seed)
        trained = time.monotonic()
        run_file = choose_stages(run, role, self.config)
        self._extract(writer, run_file, work)
        files.write_atomically(file, files.to_json(run_file.to_json()))
        shutil.rmtree(work)
        self.seconds["training"] += trained - begin
        self.seconds["extraction"] += time.monotonic() - trained
        return run_file

    def _train(self, seed: int) -> Run:
        known = self.runs.find(seed)
        if known is not None:
            return known
        job = Job(self.runs.find, self.runs.train, (DivergedError,), follow=self.runs.follow)
        ((_, answer),) = self.engine.answers(job, [seed], self.progress)
        if isinstance(answer, Failure):
            raise answer.error
        return answer

    def _extract(self, writer: DatasetWriter, run_file: RunFile, work: Path) -> None:
        """Maps of a run at its stages, and of the test run at every checkpoint; what is written already stays."""
        seed, checkpoints = run_file.run.seed, run_file.run.checkpoints
        image_N = self._run_images(run_file.role)
        few_N = self._trajectory_images() if run_file.role == "test" else None
        # Blocks of maps belong to these stages; with others, the run's maps begin anew.
        plan, text = work / "stages.json", files.to_json(run_file.to_json())
        if not plan.exists() or plan.read_bytes() != text:
            plan.unlink(missing_ok=True)
            writer.start_run(seed, run_file.stages, image_N, num_checkpoints=len(checkpoints), trajectory_image_N=few_N)
            files.write_atomically(plan, text)
        for stage in run_file.stages:
            kept = self.path / schema.checkpoint_name(seed, stage.stage)
            files.write_atomically(kept, checkpoint_path(work, stage.step).read_bytes())
        self._extract_rows(writer, work, seed, "feature_maps", 0, [stage.step for stage in run_file.stages], image_N)
        if few_N is not None:
            # One at a time: there are many more checkpoints than stages, too many to hold together.
            for row, checkpoint in enumerate(checkpoints):
                self._extract_rows(writer, work, seed, "trajectory_maps", row, [checkpoint.step], few_N)

    def _run_images(self, role: schema.Role) -> np.ndarray:
        """Positions of a run's images: all of them, or, for a held-out run, those outside the train split.

        Split by split, so that the maps of a split lie side by side and are read without the others.
        """
        return np.concatenate([self.images.indices(split) for split in schema.splits_of(role)])

    def _trajectory_images(self) -> np.ndarray:
        return self.images.indices("test")[: schema.NUM_TRAJECTORY_IMAGES]

    def _extract_rows(
        self, writer: DatasetWriter, work: Path, seed: int, array: str, row: int, steps: list[int], image_N: np.ndarray
    ) -> None:
        if writer.missing(seed, array, row, len(image_N)):
            num_classes = len(self.images.classes)
            frozen = [load_checkpoint(self.config, num_classes, checkpoint_path(work, step)) for step in steps]
            extract(
                frozen,
                self.images,
                image_N,
                self.prepare,
                writer,
                seed=seed,
                array=array,
                first_row=row,
                device=self.device,
                precision=self.config.recipe.precision,
                progress=self.progress,
            )
        if row + len(steps) == writer.num_rows(seed, array):
            writer.finish(seed, array)

    def _write_manifest(self, writer: DatasetWriter, run_files: dict[int, RunFile]) -> None:
        entries = list_files(self.path)
        info = schema.ImageInfo(
            sha256=self.images.sha256,
            classes=self.images.classes,
            licence=self.images.licence,
            citation=self.images.citation,
            num_images={split: len(self.images.indices(split)) for split in SPLITS},
            num_broken=self.images.num_broken,
            statistics=self.images.statistics,
        )
        runs = tuple(self._run_info(seed, run_file) for seed, run_file in run_files.items())
        map_bytes = 2 * int(np.prod(self.map_shape))
        manifest = Manifest(
            name=self.config.dataset_name,
            config=self.config,
            images=info,
            map_shape=self.map_shape,
            num_backbone_parameters=self.num_parameters,
            runs=runs,
            raw_bytes=sum(run.num_images * self.config.stages + run.num_trajectory_maps for run in runs) * map_bytes,
            map_error=writer.map_error(),
            stored_bytes=sum(entry.num_bytes for entry in entries.values()),
            files=entries,
            dataset_digest=schema.dataset_digest(self.config, info, entries),
            environment=Environment.current(str(self.device), torch.get_num_threads()),
            created=environment.now(),
            build_seconds=self.seconds,
        )
        files.write_atomically(self.path / schema.MANIFEST, files.to_json(manifest.to_json()))

    def _run_info(self, seed: int, run_file: RunFile) -> schema.RunInfo:
        num_checkpoints = len(run_file.run.checkpoints)
        return schema.RunInfo(
            seed=seed,
            role=run_file.role,
            num_images=len(self._run_images(run_file.role)),
            num_checkpoints=num_checkpoints,
            num_trajectory_maps=num_checkpoints * len(self._trajectory_images()) if run_file.role == "test" else 0,
            convergence_epoch=run_file.convergence_step / run_file.run.steps_per_epoch,
            stages=run_file.stages,
        )
