"""The trials of a build: the training of one run, and the maps of some blocks of one run.

Every file is whole or absent and has one writer, so trials need no lock, and what is there is not made again.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fmcs_bench.backbones.base import Backbone
from fmcs_bench.build.extraction import extract
from fmcs_bench.core import files
from fmcs_bench.core.environment import Environment
from fmcs_bench.core.errors import DatasetError
from fmcs_bench.core.progress import PRINTED, Progress
from fmcs_bench.images.dataset import ImageDataset
from fmcs_bench.images.load import absolute_source, load_images
from fmcs_bench.images.options import ImageOptions
from fmcs_bench.images.preprocessing import Preprocessor
from fmcs_bench.store import schema
from fmcs_bench.store.config import BuildConfig
from fmcs_bench.store.schema import RunFile
from fmcs_bench.store.writer import DatasetWriter
from fmcs_bench.training.loop import choose_device
from fmcs_bench.training.trajectory import Run, checkpoint_path, load_checkpoint, train_run


@dataclass(frozen=True)
class TrainRun:
    """Train the run with this seed and keep its checkpoints."""

    seed: int

    def __str__(self) -> str:
        return f"training of run {self.seed}"


@dataclass(frozen=True)
class ComputeMaps:
    """Compute and write some blocks of an array of a run.

    A block is one shard's images by the checkpoints of neighbouring rows; it is computed and written as a whole.

    Attributes:
        seed: of the run.
        array: ``feature_maps`` or ``trajectory_maps``.
        blocks: for each first row, the checkpoint of each row from there, and the positions of the blocks' first
            images.
    """

    seed: int
    array: str
    blocks: tuple[tuple[int, tuple[int, ...], tuple[int, ...]], ...]

    def __str__(self) -> str:
        num = sum(len(starts) for *_, starts in self.blocks)
        return f"{num} block{'s' * (num > 1)} of the {self.array.replace('_', ' ')} of run {self.seed}"


BuildTrial = TrainRun | ComputeMaps


@dataclass(frozen=True)
class Done:
    """The result of a trial; ``run`` is that of a training, the others are empty where it was finished before."""

    seconds: float = 0.0
    environment: Environment | None = None
    run: Run | None = None


def images_of(
    config: BuildConfig, options: ImageOptions, progress: Progress, num_workers: int | None = None
) -> ImageDataset:
    """The images of a configuration; see ``load_images``."""
    return load_images(
        config.image_dataset,
        options.data_dir,
        limit=config.limit,
        image_size=config.image_size,
        source=options.image_source,
        skip_broken=options.skip_broken,
        download=options.download,
        stream=options.stream_images,
        num_workers=num_workers,
        progress=progress,
    )


@dataclass(eq=False)
class Workshop:
    """Does the trials of one build of the dataset in the folder ``path``.

    The process that starts the build sets ``images`` and ``writer``; a worker of Ray gets the inputs and makes its own.
    """

    config: BuildConfig
    path: Path
    image_options: ImageOptions
    images_sha256: str
    map_shape: tuple[int, int, int]
    device: str
    progress: Progress = PRINTED

    def __post_init__(self) -> None:
        self._frozen: tuple[tuple[int, tuple[int, ...]], list[Backbone]] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        here = self.image_options  # a worker downloads nothing, and streams what is streamed here
        options = here.model_copy(
            update={
                "data_dir": None if here.data_dir is None else Path(here.data_dir).absolute(),
                "image_source": absolute_source(here.image_source),
                "download": False,
                "stream_images": True if self.images.is_streamed else here.stream_images,
            }
        )
        return type(self), (
            self.config, self.path.absolute(), options, self.images_sha256, self.map_shape, self.device
        )  # fmt: skip

    @cached_property
    def images(self) -> ImageDataset:
        """The images, loaded by this process; they must be those that the build began with."""
        # A worker has its threads for itself; other workers have the other cores.
        found = images_of(self.config, self.image_options, self.progress, num_workers=torch.get_num_threads() - 1)
        if found.sha256 != self.images_sha256:
            raise DatasetError(
                f"the images of {found.name} here are not those that the build began with; give all machines the same "
                "image files"
            )
        return found

    @cached_property
    def writer(self) -> DatasetWriter:
        """A writer of the dataset, with as many threads as PyTorch has."""
        return DatasetWriter(self.path, self.map_shape, self.config.codec, num_threads=torch.get_num_threads())

    @cached_property
    def prepare(self) -> Preprocessor:
        """The preprocessing of the input."""
        return Preprocessor(self.images, self.config.image_size)

    def folder(self, seed: int) -> Path:
        """Folder of the files of an unfinished run."""
        return self.path / schema.WORK / schema.run_group(seed)

    def positions(self, seed: int, array: str = "feature_maps") -> np.ndarray:
        """Positions of a run's images, in the order of the array: all, or, of a held-out run, those outside train.

        Split by split, so that the maps of a split are neighbours and are read without the others.
        """
        if array == "trajectory_maps":
            return self.images.indices("test")[: schema.NUM_TRAJECTORY_IMAGES]
        splits = schema.splits_of(self.config.run_roles[seed])
        return np.concatenate([self.images.indices(split) for split in splits])

    def maps_left(self, run_file: RunFile, num_parts: int = 1) -> list[ComputeMaps]:
        """Trials of the blocks of a started run that are not written yet, at most ``num_parts`` for each array."""
        seed, checkpoints = run_file.run.seed, run_file.run.checkpoints
        rows = {"feature_maps": [(0, tuple(stage.step for stage in run_file.stages))]}
        if run_file.role == "test":
            # One checkpoint at a time: there are many more than stages, too many to hold in memory.
            rows["trajectory_maps"] = [(row, (checkpoint.step,)) for row, checkpoint in enumerate(checkpoints)]
        trials = []
        for array, of_array in rows.items():
            left = [
                (first_row, steps, start)
                for first_row, steps in of_array
                for start in self._missing(seed, array, first_row)
            ]
            for part in np.array_split(np.arange(len(left)), num_parts):
                blocks: dict[tuple[int, tuple[int, ...]], list[int]] = {}
                for first_row, steps, start in (left[i] for i in part):
                    blocks.setdefault((first_row, steps), []).append(start)
                if blocks:
                    trials.append(
                        ComputeMaps(seed, array, tuple((*key, tuple(found)) for key, found in blocks.items()))
                    )
        return trials

    def find(self, trial: BuildTrial) -> Done | None:
        """The result of a finished trial, perhaps of a process that died before it could report it."""
        if isinstance(trial, TrainRun):
            file = self.folder(trial.seed) / "run.json"
            return Done(run=Run.from_json(json.loads(file.read_bytes()))) if file.exists() else None
        is_left = any(set(starts) & set(self._missing(trial.seed, trial.array, row)) for row, _, starts in trial.blocks)
        return None if is_left else Done()

    def work(self, trial: BuildTrial) -> Done:
        """Do a trial, or what is left of it."""
        _, begin, run = self.prepare, time.monotonic(), None  # a worker loads its images first
        if isinstance(trial, TrainRun):
            self._frozen = None  # their memory is free for the training
            folder = self.folder(trial.seed)
            device = choose_device(self.device)
            run = train_run(self.images, self.config, trial.seed, folder, device=device, progress=self.progress)
            files.write_atomically(folder / "run.json", files.to_json(run.to_json()))
        else:
            for first_row, steps, starts in trial.blocks:
                self._compute(trial, first_row, steps, starts)
        return Done(time.monotonic() - begin, Environment.current(self.device, torch.get_num_threads(), "build"), run)

    def _missing(self, seed: int, array: str, first_row: int) -> list[int]:
        return self.writer.missing(seed, array, first_row, len(self.positions(seed, array)))

    def _compute(self, trial: ComputeMaps, first_row: int, steps: tuple[int, ...], starts: tuple[int, ...]) -> None:
        if not set(starts) & set(self._missing(trial.seed, trial.array, first_row)):
            return
        if self._frozen is None or self._frozen[0] != (trial.seed, steps):  # kept: the next trial often has the same
            self._frozen = None  # before others take as much memory
            num_classes, folder = len(self.images.classes), self.folder(trial.seed)
            found = [load_checkpoint(self.config, num_classes, checkpoint_path(folder, step)) for step in steps]
            self._frozen = (trial.seed, steps), found
        extract(
            self._frozen[1],
            self.images,
            self.positions(trial.seed, trial.array),
            self.prepare,
            self.writer,
            seed=trial.seed,
            array=trial.array,
            first_row=first_row,
            starts=starts,
            device=choose_device(self.device),
            precision=self.config.recipe.precision,
            progress=self.progress,
        )
