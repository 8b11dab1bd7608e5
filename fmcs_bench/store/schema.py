"""Schema 1 of an FMCS dataset: names of files and arrays, the manifest, the trajectory files.

```
dataset.json                    manifest, written last
maps.zarr/                      Zarr v3
  image_id label split          [image]
  run-<seed>/image              [run image]: position in image_id, label, split; split by split
  run-<seed>/feature_maps       [stage, run image, channel, y, x] float16; codec q8: uint8
  run-<seed>/feature_maps_scale feature_maps_zero_point   [stage, shard, channel] float32 and uint8, codec q8 only:
                                value = (stored number - zero point) * scale
  run-<seed>/step epoch train_loss validation_accuracy   [stage]
  run-<test seed>/trajectory_maps    [checkpoint, trajectory image, channel, y, x]; scale and zero point as above
  run-<test seed>/trajectory_image   [trajectory image]: position in image_id, label, split
checkpoints/run-<seed>/stage-<k>.safetensors
trajectories/run-<seed>.json
```
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from fmcs_bench.core import files
from fmcs_bench.core.environment import Environment, Sha256
from fmcs_bench.core.options import Options
from fmcs_bench.images.dataset import SPLITS
from fmcs_bench.images.statistics import ImageStatistics
from fmcs_bench.store.config import BuildConfig
from fmcs_bench.training import convergence
from fmcs_bench.training.trajectory import Run

SCHEMA_VERSION = 1
MANIFEST = "dataset.json"
MAPS = "maps.zarr"
WORK = "work"
TRAJECTORIES = "trajectories"
CHECKPOINTS = "checkpoints"
DOWNLOAD = "download.json"
"""Written by a download: where the folder came from."""
NUM_TRAJECTORY_IMAGES = 64
"""Test images whose maps are kept at every checkpoint of the test run (fewer where the split has fewer)."""

Role = Literal["training", "validation", "test"]


def splits_of(role: Role) -> tuple[str, ...]:
    """Splits whose images a run holds, in the order of its arrays: held-out runs have no train images."""
    return SPLITS if role == "training" else SPLITS[1:]


def run_group(seed: int) -> str:
    """Name of a run's group in the Zarr store, of its folder and of its trajectory file."""
    return f"run-{seed}"


def checkpoint_name(seed: int, stage: int) -> str:
    """Path of a stage's checkpoint inside the dataset."""
    return f"{CHECKPOINTS}/{run_group(seed)}/stage-{stage}.safetensors"


def shard_name(array: str, row: int, shard: int) -> str:
    """Path of a shard inside the dataset, of the array at this path in the store."""
    return f"{MAPS}/{array}/c/{row}/{shard}/0/0/0"


def trajectory_name(seed: int) -> str:
    """Path of a run's trajectory file inside the dataset."""
    return f"{TRAJECTORIES}/{run_group(seed)}.json"


class Stage(Options):
    """The end of one stage: the checkpoint whose maps have this FMCS.

    ``train_loss`` is the smoothed loss in nats; ``progress`` is how far the checkpoint is on the way from start (0) to
    convergence (1), which would be exactly stage / K if there were a checkpoint at every point.
    """

    stage: int = Field(ge=1)
    step: int = Field(ge=1)
    epoch: float
    train_loss: float
    validation_accuracy: float
    progress: float


class RunFile(Options):
    """Content of ``trajectories/run-<seed>.json``."""

    role: Role
    run: Run
    cqi: tuple[float, ...] = Field(description="nats per epoch, for steps 2 and on")
    convergence_step: int
    stages: tuple[Stage, ...]


class FileEntry(Options):
    """Size and digest of one file."""

    num_bytes: int = Field(ge=0)
    sha256: Sha256

    @classmethod
    def of(cls, file: Path) -> FileEntry:
        """Of a file on this machine."""
        return cls(num_bytes=file.stat().st_size, sha256=files.sha256_of_file(file))


class ImageInfo(Options):
    """Where the images come from and which they are."""

    sha256: Sha256 = Field(description="of ids, labels and pixels of the images used")
    classes: tuple[str, ...]
    licence: str
    citation: str
    num_images: dict[str, int] = Field(description="by split")
    num_broken: int = Field(0, ge=0, description="images that could not be read and were left out (--skip-broken)")
    statistics: ImageStatistics


class RunInfo(Options):
    """Summary of one run."""

    seed: int
    role: Role
    num_images: int
    num_checkpoints: int
    num_trajectory_maps: int = Field(description="maps along the run, at its checkpoints; 0 but for the test run")
    convergence_epoch: float
    stages: tuple[Stage, ...]


class MapError(Options):
    """Absolute error of maps that a lossy codec stored, as they are read back, against the float16 maps."""

    largest: float = Field(ge=0)
    mean: float = Field(ge=0)


class Manifest(Options):
    """Content of ``dataset.json``. ``dataset_digest`` covers everything but environment and time."""

    schema_version: Literal[1] = 1
    name: str
    config: BuildConfig
    images: ImageInfo
    map_shape: tuple[int, int, int] = Field(description="channels, height, width")
    num_backbone_parameters: int
    runs: tuple[RunInfo, ...]
    raw_bytes: int = Field(description="float16 maps, with those along the test run, before compression")
    map_error: MapError | None = Field(None, description="over all maps; None where the codec loses nothing")
    stored_bytes: int = Field(description="all files")
    files: dict[str, FileEntry]
    dataset_digest: Sha256
    environment: Environment
    created: str
    build_seconds: dict[str, float] = Field(
        description="wall time by phase, of the command that finished the build, added up over its units of work"
    )

    @property
    def id(self) -> str:
        """``<name>@<first 12 digits of the digest>``, as records name it."""
        return f"{self.name}@{self.dataset_digest[:12]}"

    @property
    def num_maps(self) -> int:
        """Feature maps of all runs and stages."""
        return sum(run.num_images for run in self.runs) * self.config.stages

    @property
    def states_its_digest(self) -> bool:
        """Whether ``dataset_digest`` is the digest of the rest; otherwise something was changed."""
        return dataset_digest(self.config, self.images, self.files) == self.dataset_digest

    def bytes_under(self, folder: str) -> int:
        """Size of the files below a folder of the dataset, in bytes."""
        return sum(entry.num_bytes for name, entry in self.files.items() if name.startswith(f"{folder}/"))


def dataset_digest(config: BuildConfig, images: ImageInfo, entries: dict[str, FileEntry]) -> str:
    """SHA-256 that names the data: configuration, images, and every file's content."""
    content: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "config": config.to_json(),
        # Statistics follow from the images, which their SHA-256 names; as sums they may differ in the last digit.
        "images": images.model_dump(mode="json", exclude={"statistics"}),
        "files": {name: entry.sha256 for name, entry in entries.items()},
    }
    return files.digest(content)


def choose_stages(run: Run, role: Role, config: BuildConfig) -> RunFile:
    """The trajectory file of a run; ``ConvergenceError`` without a convergence point, or checkpoints for K stages."""
    found = convergence.analyse(run.losses, run.steps_per_epoch, config.convergence)
    steps_M = [checkpoint.step for checkpoint in run.checkpoints]
    markers = convergence.stage_markers(found, steps_M, config.stages, config.markers)
    progress_T = convergence.progress_along(found, markers[-1], config.markers)
    by_step = {checkpoint.step: checkpoint for checkpoint in run.checkpoints}
    stages = tuple(
        Stage(
            stage=stage,
            step=step,
            epoch=by_step[step].epoch,
            train_loss=float(found.smoothed_T[step - 1]),
            validation_accuracy=by_step[step].validation_accuracy,
            progress=float(progress_T[step - 1]),
        )
        for stage, step in enumerate(markers, start=1)
    )
    cqi = tuple(float(value) for value in found.cqi_T)
    return RunFile(role=role, run=run, cqi=cqi, convergence_step=found.step, stages=stages)
