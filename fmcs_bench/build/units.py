"""The units of work of a build: the training of a run, and the maps of some blocks of it.

Flow: inputs (configuration, folder, where the images lie), of which another process gets a pickled copy -> images,
loaded and compared there -> ``TrainRun``: checkpoints and ``run.json``; ``ComputeMaps``: shards, and a note of each
block. Every file is whole or absent and has one writer: units need no lock, and what is there is not made again.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fmcs_bench.core import files
from fmcs_bench.images.load import absolute_source, load_images
from fmcs_bench.backbones.base import Backbone
from fmcs_bench.store.config import BuildConfig
from fmcs_bench.core.environment import Environment
from fmcs_bench.core.errors import DatasetError
from fmcs_bench.build.extraction import extract
from fmcs_bench.images.dataset import ImageDataset
from fmcs_bench.images.options import ImageOptions
from fmcs_bench.images.preprocessing import Preprocessor
from fmcs_bench.core.progress import PRINTED, Progress
from fmcs_bench.store.writer import DatasetWriter
from fmcs_bench.store.schema import RunFile
from fmcs_bench.store import schema
from fmcs_bench.training.loop import choose_device
from fmcs_bench.training.trajectory import Run, checkpoint_path, load_checkpoint, train_run


@dataclass(frozen=True)
class TrainRun:
    """Unit: train the run with this seed and keep its checkpoints."""

    seed: int

    def __str__(self) -> str:
        return f"training of run {self.seed}"


@dataclass(frozen=True)
class Block:
    """Maps that are computed and written together: one shard's images by the checkpoints of neighbouring rows.

    Attributes:
        first_row: of the array.
        steps: checkpoint of each row.
        start: position of the first image.
    """

    first_row: int
    steps: tuple[int, ...]
    start: int


@dataclass(frozen=True)
class ComputeMaps:
    """Unit: compute and write some blocks of an array of a run."""

    seed: int
    array: str
    blocks: tuple[Block, ...]

    def __str__(self) -> str:
        num = len(self.blocks)
        return f"{num} block{'s' * (num > 1)} of the {self.array.replace('_', ' ')} of run {self.seed}"


BuildUnit = TrainRun | ComputeMaps


@dataclass(frozen=True)
class Done:
    """What the caller learns of a unit.

    Attributes:
        seconds: that it took; 0 where it was found done.
        environment: of the process that did it.
        run: of a training.
    """

    seconds: float
    environment: Environment
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


@dataclass(frozen=True)
class Inputs:
    """What every process that works at a build gets, pickled.

    Attributes:
        config: of the build.
        path: folder of the dataset.
        place: where the images lie.
        images_sha256: which they are.
        map_shape: (D, H, W).
        device: as torch names it.
    """

    config: BuildConfig
    path: Path
    place: ImageOptions
    images_sha256: str
    map_shape: tuple[int, int, int]
    device: str


class Workshop:
    """Does the units of one build, in the process that has its images and a writer, or in another.

    Args:
        inputs: of the build; of a workshop, only they are pickled.
        progress: shows the work.
        source: the images, where they are loaded.
        writer: of the dataset, where there is one; the caller ends it.
    """

    def __init__(
        self,
        inputs: Inputs,
        progress: Progress = PRINTED,
        source: ImageDataset | None = None,
        writer: DatasetWriter | None = None,
    ) -> None:
        self.inputs, self.progress = inputs, progress
        self.config, self.device = inputs.config, choose_device(inputs.device)
        self._frozen: tuple[tuple[int, tuple[int, ...]], list[Backbone]] | None = None
        if source is not None:
            self.images, self.prepare = source, Preprocessor(source, self.config.image_size)
        if writer is not None:
            self.writer = writer

    def __reduce__(self) -> tuple[Any, ...]:
        here = self.inputs.place  # a worker downloads nothing, and streams what is streamed here
        place = here.model_copy(
            update={
                "data_dir": None if here.data_dir is None else Path(here.data_dir).absolute(),
                "image_source": absolute_source(here.image_source),
                "download": False,
                "stream_images": True if self.images.is_streamed else here.stream_images,
            }
        )
        path, device = self.inputs.path.absolute(), str(self.device)
        return type(self), (replace(self.inputs, path=path, place=place, device=device),)

    @cached_property
    def images(self) -> ImageDataset:
        """The images, loaded by this process.

        Raises:
            FmcsBenchError: they cannot be loaded here; see ``load_images``.
            DatasetError: they are others.
        """
        # This process has its threads for itself, the others of the machine are other processes'.
        source = images_of(self.config, self.inputs.place, self.progress, num_workers=torch.get_num_threads() - 1)
        if source.sha256 != self.inputs.images_sha256:
            raise DatasetError(
                f"the images of {source.name} here are not those that the build began with; give all machines the same "
                "image files"
            )
        return source

    @cached_property
    def writer(self) -> DatasetWriter:
        """A writer, for a process that has none; it has threads as PyTorch has."""
        inputs = self.inputs
        return DatasetWriter(inputs.path, inputs.map_shape, self.config.codec, num_threads=torch.get_num_threads())

    @cached_property
    def prepare(self) -> Preprocessor:
        """The preprocessing of the input."""
        return Preprocessor(self.images, self.config.image_size)

    def folder(self, seed: int) -> Path:
        """Where the files of an unfinished run are."""
        return self.inputs.path / schema.WORK / schema.run_group(seed)

    def trained(self, seed: int) -> Run | None:
        """A run whose training is finished."""
        file = self.folder(seed) / "run.json"
        return Run.from_json(json.loads(file.read_bytes())) if file.exists() else None

    def positions(self, seed: int, array: str = "feature_maps") -> np.ndarray:
        """Positions of a run's images, in the order of the array: all, or, for a held-out run, those outside train.

        Split by split, so that the maps of a split lie side by side and are read without the others.
        """
        if array == "trajectory_maps":
            return self.images.indices("test")[: schema.NUM_TRAJECTORY_IMAGES]
        splits = schema.splits_of(self.config.run_roles[seed])
        return np.concatenate([self.images.indices(split) for split in splits])

    def maps_left(self, run_file: RunFile, num_parts: int = 1) -> list[ComputeMaps]:
        """Units of the blocks of a run that are not written yet.

        Args:
            run_file: of the run; ``start_run`` of the writer was called for it.
            num_parts: units of each array, at most.
        """
        seed, checkpoints = run_file.run.seed, run_file.run.checkpoints
        rows = {"feature_maps": [(0, tuple(stage.step for stage in run_file.stages))]}
        if run_file.role == "test":
            # One checkpoint at a time: there are many more than stages, too many to hold together.
            rows["trajectory_maps"] = [(row, (checkpoint.step,)) for row, checkpoint in enumerate(checkpoints)]
        units = []
        for array, of_array in rows.items():
            num_images = len(self.positions(seed, array))
            blocks = [
                Block(first_row, steps, start)
                for first_row, steps in of_array
                for start in self.writer.missing(seed, array, first_row, num_images)
            ]
            parts = [part.tolist() for part in np.array_split(np.arange(len(blocks)), num_parts) if len(part)]
            units += [ComputeMaps(seed, array, tuple(blocks[i] for i in part)) for part in parts]
        return units

    def find(self, unit: BuildUnit) -> Done | None:
        """What a unit is known by that is done, perhaps by a process that died before it could say so."""
        if isinstance(unit, TrainRun):
            run = self.trained(unit.seed)
            return None if run is None else self._done(run=run)
        return None if any(starts for *_, starts in self._passes(unit)) else self._done()

    def work(self, unit: BuildUnit) -> Done:
        """Do a unit, or what is left of it.

        Raises:
            FmcsBenchError: see ``trajectory.train_run`` and ``extraction.extract``.
        """
        _, begin = self.prepare, time.monotonic()  # another process loads its images first
        run = None
        if isinstance(unit, TrainRun):
            run = self._train(unit.seed)
        else:
            self._compute(unit)
        return self._done(time.monotonic() - begin, run)

    def _done(self, seconds: float = 0.0, run: Run | None = None) -> Done:
        return Done(seconds, Environment.current(str(self.device), torch.get_num_threads(), "build"), run)

    def _train(self, seed: int) -> Run:
        self._frozen = None  # their memory is free for the training
        folder = self.folder(seed)
        run = train_run(self.images, self.config, seed, folder, device=self.device, progress=self.progress)
        files.write_atomically(folder / "run.json", files.to_json(run.to_json()))
        return run

    def _compute(self, unit: ComputeMaps) -> None:
        for first_row, steps, starts in self._passes(unit):
            if starts:
                extract(
                    self._backbones(unit.seed, steps),
                    self.images,
                    self.positions(unit.seed, unit.array),
                    self.prepare,
                    self.writer,
                    seed=unit.seed,
                    array=unit.array,
                    first_row=first_row,
                    starts=set(starts),
                    device=self.device,
                    precision=self.config.recipe.precision,
                    progress=self.progress,
                )

    def _passes(self, unit: ComputeMaps) -> list[tuple[int, tuple[int, ...], list[int]]]:
        """First row, checkpoints, and the starts of the blocks that are not written yet."""
        num_images = len(self.positions(unit.seed, unit.array))
        found = []
        for (first_row, steps), blocks in groupby(unit.blocks, key=lambda block: (block.first_row, block.steps)):
            missing = set(self.writer.missing(unit.seed, unit.array, first_row, num_images))
            found.append((first_row, steps, [block.start for block in blocks if block.start in missing]))
        return found

    def _backbones(self, seed: int, steps: tuple[int, ...]) -> list[Backbone]:
        """Those of the checkpoints; kept for the next unit, which often has the same."""
        if self._frozen is None or self._frozen[0] != (seed, steps):
            self._frozen = None  # before others take as much memory
            num_classes, folder = len(self.images.classes), self.folder(seed)
            found = [load_checkpoint(self.config, num_classes, checkpoint_path(folder, step)) for step in steps]
            self._frozen = (seed, steps), found
        return self._frozen[1]
