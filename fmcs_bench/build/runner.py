"""One build, from options to manifest.

Each run is trained, its stages are chosen by the CQI rule, and maps of its images are computed at each; the manifest is
written last. Trainings and blocks of maps are trials (``units``). What is finished is never done again.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fmcs_bench.backbones.create import find_backbone, map_shape, num_parameters
from fmcs_bench.build.units import BuildTrial, Done, TrainRun, Workshop, images_of
from fmcs_bench.core import environment, files
from fmcs_bench.core.environment import Environment
from fmcs_bench.core.errors import ConfigError, DatasetError
from fmcs_bench.core.progress import SILENT, Progress
from fmcs_bench.core.workspace import PathLike, Workspace
from fmcs_bench.images.dataset import SPLITS, ImageDataset
from fmcs_bench.images.load import source_name
from fmcs_bench.images.options import ImageOptions
from fmcs_bench.jobs.local import Engine, run_trials
from fmcs_bench.jobs.options import Execution
from fmcs_bench.jobs.ray import engine_of
from fmcs_bench.store import schema
from fmcs_bench.store.config import BuildConfig
from fmcs_bench.store.reader import FmcsDataset, open_dataset
from fmcs_bench.store.schema import Manifest, RunFile, choose_stages
from fmcs_bench.store.writer import DatasetWriter, list_files
from fmcs_bench.training.loop import choose_device
from fmcs_bench.training.trajectory import Run, checkpoint_path, initial_backbone

CHOICE_OF_STAGES = ("stages", "markers", "convergence")
"""Options that do not change how a run is trained."""
PARTS_PER_PLACE = 4
"""Trials that the blocks of a run's array are cut into, for each trial that is done at the same time: no worker waits
long for the last, and few networks are loaded for a handful of images."""
SECONDS_UNTIL_SEEN = 90
"""After which files of other machines are seen here: a network file system may cache their absence for a minute."""


def build(
    config: BuildConfig | None = None,
    *,
    workspace: PathLike | None = None,
    images: ImageOptions | None = None,
    execution: Execution | None = None,
    progress: Progress = SILENT,
    **options: Any,
) -> FmcsDataset:
    """Build an FMCS dataset, continue an unfinished one, or open it where it is finished.

    Args:
        config: what to build; None takes all of it from ``options``.
        workspace: folder of everything that is made; see ``Workspace``.
        images: where the image files are; None takes it from ``options``.
        execution: device, and whether runs and blocks of maps are done one after another or on Ray; None takes it from
            ``options``.
        progress: shows the work; silent by default.
        **options: fields of ``BuildConfig`` (``backbone``, ``image_dataset``, which may be ``folder:DIR`` or
            ``hub:NAME_OR_PATH``, ``image_size``, ``stages``, ...), of ``ImageOptions`` (``data_dir``, ``skip_broken``,
            ...) and of ``Execution`` (``device``, ``engine``, ...).

    Raises:
        UnknownNameError: no such image dataset or backbone.
        MissingDataError: the image files are not there.
        ImageError: an image is broken, or the images and classes are not what a dataset needs.
        ConfigError: a wrong option, a different dataset has this name, or the backbone cannot take these images.
        ConvergenceError: a run has no convergence point, or too few checkpoints for K stages.
        EngineError: workers of the engine lack what they need, or die again and again.
    """
    images = images or ImageOptions.take(options)
    execution = execution or Execution.take(options)
    source = options.get("image_dataset")
    if isinstance(source, str) and ":" in source:
        images = images.model_copy(update={"image_source": source})
        options["image_dataset"] = source_name(source)
    config = BuildConfig.create(**(dict(config or {}) | options))
    place = Workspace(workspace)
    path = place.dataset(config.dataset_name)
    with place.locked():
        if (path / schema.MANIFEST).exists():
            dataset = open_dataset(path)
            _require_equal(dataset.manifest.config, config, path)
            if images.image_source is not None:  # two folders may have one name
                _require_same_images(dataset.manifest.images.sha256, images_of(config, images, progress), path)
            shutil.rmtree(path / schema.WORK, ignore_errors=True)  # left where a kill came right after the manifest
            return dataset
        find_backbone(config.backbone)  # before the images are read: a wrong name is reported at once
        with engine_of(execution) as engine:
            _Build(config, path, images, execution.device, progress, engine).finish()
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


class _Build:
    def __init__(
        self, config: BuildConfig, path: Path, options: ImageOptions, device: str, progress: Progress, engine: Engine
    ) -> None:
        self.config, self.path, self.progress, self.engine = config, path, progress, engine
        self.device = str(choose_device(device))
        self.images = images_of(config, options, progress)
        probe = initial_backbone(config, len(self.images.classes), seed=0)
        self.num_parameters = num_parameters(probe)
        self.map_shape = map_shape(probe, config.image_size)
        self.workshop = Workshop(config, path, options, self.images.sha256, self.map_shape, self.device, progress)
        self.workshop.images = self.images
        self.environment = Environment.current(self.device, torch.get_num_threads(), "build")
        self.seconds = {"training": 0.0, "extraction": 0.0}
        self.runs: dict[int, RunFile] = {}

    def finish(self) -> None:
        """Do what is left and write the manifest."""
        self._claim()
        self._remove_leftovers()
        try:
            with DatasetWriter(self.path, self.map_shape, self.config.codec) as self.writer:
                self.workshop.writer = self.writer
                self.writer.write_images(self.images)
                self._do_runs()
        finally:
            self._remove_leftovers()  # workers may have died
        self._write_manifest()
        shutil.rmtree(self.path / schema.WORK)

    def _remove_leftovers(self) -> None:
        """A killed process leaves the file that it was writing: ours end in .part, zarr's in .partial."""
        for leftover in [*self.path.rglob("*.part"), *self.path.rglob("*.partial")]:
            leftover.unlink(missing_ok=True)

    def _claim(self) -> None:
        """Tie an unfinished folder to its configuration, so that no other build continues in it.

        ``CHOICE_OF_STAGES`` may change until the stages of a first run are chosen.
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
        # A kill between the two leaves a folder that no build has claimed yet.
        files.write_atomically(digest, files.to_json({"sha256": self.images.sha256}))
        files.write_atomically(file, files.to_json(self.config.to_json()))

    def _do_runs(self) -> None:
        """Train runs and compute their maps, as many at a time as there is room for; few have checkpoints on the disk.

        A run's trajectory file is written last and marks the run as done.
        """
        with self.progress.task(f"building {self.config.dataset_name}", len(self.config.run_roles)) as task:
            left = []
            for seed in self.config.run_roles:
                file = self.path / schema.trajectory_name(seed)
                if file.exists():
                    self.runs[seed] = RunFile.from_json(json.loads(file.read_bytes()))
                    task.advance()
                else:
                    left.append(seed)
            room = self.engine.room(self.device) if left else 1
            for i in range(0, len(left), room):
                trained = self._do([TrainRun(seed) for seed in left[i : i + room]], "training")
                run_files = [self._start(done.run) for done in trained if done.run is not None]
                parts = 1 if room == 1 else PARTS_PER_PLACE * room
                self._do([maps for each in run_files for maps in self.workshop.maps_left(each, parts)], "extraction")
                for run_file in run_files:
                    self._end(run_file)
                    task.advance()

    def _do(self, trials: Sequence[BuildTrial], kind: str) -> list[Done]:
        found = run_trials(
            trials,
            find=self.workshop.find,
            work=self.workshop.work,
            description=kind,
            progress=self.progress,
            engine=self.engine,
            device=self.device,
            folder=self.path.parent,
        ).results
        self.seconds[kind] += sum(done.seconds for done in found)
        self.environment = next((done.environment for done in found if done.environment), self.environment)
        return found

    def _start(self, run: Run) -> RunFile:
        """Choose the stages of a trained run and create its arrays."""
        seed, role = run.seed, self.config.run_roles[run.seed]
        run_file = self.runs[seed] = choose_stages(run, role, self.config)
        # Blocks of maps belong to these stages; with others, the run's maps begin anew.
        work = self.workshop.folder(seed)
        plan, text = work / "stages.json", files.to_json(run_file.to_json())
        if not plan.exists() or plan.read_bytes() != text:
            plan.unlink(missing_ok=True)
            self.writer.start_run(
                seed,
                run_file.stages,
                self.workshop.positions(seed),
                num_checkpoints=len(run.checkpoints),
                trajectory_image_N=self.workshop.positions(seed, "trajectory_maps") if role == "test" else None,
            )
            files.write_atomically(plan, text)
        for stage in run_file.stages:
            kept = self.path / schema.checkpoint_name(seed, stage.stage)
            files.write_atomically(kept, checkpoint_path(work, stage.step).read_bytes())
        return run_file

    def _end(self, run_file: RunFile) -> None:
        """End the arrays of a run of which all blocks are written."""
        seed, until = run_file.run.seed, time.monotonic() + SECONDS_UNTIL_SEEN
        while left := self.workshop.maps_left(run_file):
            if time.monotonic() > until:
                raise DatasetError(
                    f"{', '.join(map(str, left))} should be written, but are not seen in {self.path}; check that "
                    "all machines write into this folder, and type the command again, which makes what is missing"
                )
            time.sleep(SECONDS_UNTIL_SEEN / 200)
        for array in ("feature_maps", "trajectory_maps") if run_file.role == "test" else ("feature_maps",):
            self.writer.finish(seed, array)
        files.write_atomically(self.path / schema.trajectory_name(seed), files.to_json(run_file.to_json()))
        shutil.rmtree(self.workshop.folder(seed))

    def _write_manifest(self) -> None:
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
        runs = tuple(self._run_info(self.runs[seed]) for seed in self.config.run_roles)
        map_bytes = 2 * int(np.prod(self.map_shape))
        manifest = Manifest(
            name=self.config.dataset_name,
            config=self.config,
            images=info,
            map_shape=self.map_shape,
            num_backbone_parameters=self.num_parameters,
            runs=runs,
            raw_bytes=sum(run.num_images * self.config.stages + run.num_trajectory_maps for run in runs) * map_bytes,
            map_error=self.writer.map_error(),
            stored_bytes=sum(entry.num_bytes for entry in entries.values()),
            files=entries,
            dataset_digest=schema.dataset_digest(self.config, info, entries),
            environment=self.environment,
            created=environment.now(),
            build_seconds=self.seconds,
        )
        files.write_atomically(self.path / schema.MANIFEST, files.to_json(manifest.to_json()))

    def _run_info(self, run_file: RunFile) -> schema.RunInfo:
        seed, num_checkpoints = run_file.run.seed, len(run_file.run.checkpoints)
        num_along = len(self.workshop.positions(seed, "trajectory_maps")) if run_file.role == "test" else 0
        return schema.RunInfo(
            seed=seed,
            role=run_file.role,
            num_images=len(self.workshop.positions(seed)),
            num_checkpoints=num_checkpoints,
            num_trajectory_maps=num_checkpoints * num_along,
            convergence_epoch=run_file.convergence_step / run_file.run.steps_per_epoch,
            stages=run_file.stages,
        )
