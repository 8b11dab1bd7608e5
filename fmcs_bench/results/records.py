"""Results as validated JSON files; the leaderboard is made of them and of nothing else.

A record lies at ``<track>/<dataset>@<digest>/<settings>/<method>/seed-<n>.json``, and beside it a small predictions
file from which its metrics can be computed again. Settings name all that must be equal for methods to be compared.
``key`` digests everything that decides the result (unit of work, data, evaluator, code, versions, device), so that a
finished unit is recognised and a stale one is not.
"""

from __future__ import annotations

import hashlib
import json
import math
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, Self, TypeVar, get_args

import numpy as np
from pydantic import Field, model_validator
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from fmcs_bench.core import files
from fmcs_bench.core.environment import Environment, Sha256
from fmcs_bench.core.errors import ConfigError, RecordError
from fmcs_bench.core.options import NAME_PATTERN, Options
from fmcs_bench.results import grid
from fmcs_bench.results.trials import EvaluatorTrial
from fmcs_bench.results.trials import TrainingTrial as TrainingTrial

SCHEMA_VERSION = 1
Subset = Literal["validation_run", "same_run", "test_run", "unseen"]
"""The maps that an evaluator is asked about: a kind of run and a split of images."""
SUBSETS: tuple[Subset, ...] = get_args(Subset)
Share = Annotated[float, Field(ge=0, le=1)]
Correlation = Annotated[float, Field(ge=-1, le=1)]


class Metrics(Options):
    """Metrics of an evaluator on one set of maps; formulas in ``fmcs_bench.results.metrics``."""

    accuracy: Share
    within_one: Share
    mae: float = Field(ge=0)
    kappa: Correlation
    tau_b: Correlation
    violations: Share
    log_loss: float = Field(ge=0)
    ece: Share
    num_maps: int = Field(ge=1)


class Cost(Options):
    """What a result cost. ``process_peak_bytes`` is the peak of the whole process up to then, not of the unit alone."""

    seconds: float = Field(ge=0, description="wall time of the fit or training; of all fits of a grid")
    num_parameters: int = Field(ge=0)
    process_peak_bytes: int = Field(ge=0)
    flops_per_map: int | None = Field(None, ge=0, description="of an evaluator; see fmcs_bench.evaluator_track.calls")
    scoring_maps: int | None = Field(None, ge=1, description="maps of the test run, asked about in one call")
    scoring_seconds: float | None = Field(None, ge=0, description="wall time of that call, which was not the first")

    added_later = frozenset({"flops_per_map", "scoring_maps", "scoring_seconds"})

    @property
    def maps_per_second(self) -> float | None:
        """How fast an evaluator answers; None where it was not measured."""
        return self.scoring_maps / self.scoring_seconds if self.scoring_maps and self.scoring_seconds else None


class Epoch(Options):
    """One epoch of a training or of an evaluator's fit. The validation value is an accuracy or a MAE, by track."""

    epoch: int = Field(ge=1)
    train_loss: float
    validation: float
    score: float | None = Field(None, ge=1, description="mean FMCS that the watching evaluator gives validation images")

    added_later = frozenset({"score"})


class Record(Options):
    """What both tracks' records share."""

    schema_version: Literal[1] = 1
    key: Sha256
    dataset: str = Field(pattern=NAME_PATTERN)
    dataset_digest: Sha256
    environment: Environment
    curve: tuple[Epoch, ...]
    cost: Cost
    predictions_sha256: Sha256
    created: str

    @property
    @abstractmethod
    def method(self) -> str:
        """Name of the method or evaluator: a row of the board."""

    @property
    @abstractmethod
    def seed(self) -> int:
        """Seed of this repetition."""

    @property
    @abstractmethod
    def settings(self) -> str:
        """Names what is equal for all records that are compared: length, recipe, limits."""

    @property
    def dataset_id(self) -> str:
        """``<name>@<first 12 digits of the digest>``."""
        return f"{self.dataset}@{self.dataset_digest[:12]}"


class Trajectory(Options):
    """Mean predicted score along all checkpoints of the test run, beside the backbone's validation accuracy."""

    step: tuple[int, ...]
    score: tuple[float, ...]
    validation_accuracy: tuple[float, ...]
    spearman: Correlation | None = Field(description="None where one of the two never changes")


class EvaluatorRecord(Record):
    """One evaluator, fitted once, on one FMCS dataset."""

    track: Literal["evaluator"] = "evaluator"
    trial: EvaluatorTrial = Field(alias="unit")
    evaluator_digest: Sha256
    num_stages: int = Field(ge=2)
    differentiable: bool
    channel_invariant: bool
    any_shape: bool
    control: bool = Field(False, description="made to be beaten; never chosen for training")
    metrics: dict[Subset, Metrics]
    trajectory: Trajectory
    test_on: dict[str, Metrics] = Field({}, description="on the test runs of other datasets, by their ids")
    grid_search: grid.GridSearch | None = Field(None, description="how the recipe was found, where the unit has a grid")

    added_later = frozenset({"control", "test_on", "grid_search"})

    @model_validator(mode="after")
    def _check_search(self) -> Self:
        validation = self.metrics.get("validation_run")
        if fault := grid.fault(self.trial, self.grid_search, math.nan if validation is None else validation.mae):
            raise ValueError(fault)
        return self

    @property
    def method(self) -> str:
        """Name of the evaluator, with its head where that is not softmax."""
        return self.trial.method

    @property
    def seed(self) -> int:
        """Seed of the fit."""
        return self.trial.seed

    @property
    def settings(self) -> str:
        """See ``EvaluatorTrial``."""
        return self.trial.settings


class TrainingMetrics(Options):
    """Accuracies of the weights that were chosen. The test images are read once, with these weights.

    ``best_test_accuracy`` is the highest over all epochs, chosen on the test images themselves: it flatters, and exists
    only to stand beside sources that report it. None where it was not asked for.
    """

    validation_accuracy: Share
    test_accuracy: Share
    num_validation: int = Field(ge=1)
    num_test: int = Field(ge=1)
    epoch: int | None = Field(None, ge=1, description="whose weights were tested, of the highest validation accuracy")
    best_test_accuracy: Share | None = None

    added_later = frozenset({"epoch", "best_test_accuracy"})


class TrainingRecord(Record):
    """One training from one seed."""

    track: Literal["training"] = "training"
    trial: TrainingTrial = Field(alias="unit")
    metrics: TrainingMetrics

    @property
    def method(self) -> str:
        """Family of the method, with its RAF where it has one."""
        return self.trial.label

    @property
    def seed(self) -> int:
        """Seed of the training."""
        return self.trial.seed

    @property
    def settings(self) -> str:
        """See ``TrainingTrial``."""
        return self.trial.settings


AnyRecord = TypeVar("AnyRecord", EvaluatorRecord, TrainingRecord)
Predictions = Mapping[str, np.ndarray]


class RecordStore:
    """Records under one folder.

    Args:
        root: the folder, ``<workspace>/records`` or the suite's ``leaderboard/records``.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, record: EvaluatorRecord | TrainingRecord) -> Path:
        """File of a record."""
        kind = type(record)
        return self._path(kind, record.dataset_id, record.settings, record.method, record.seed)

    def _path(self, kind: type[Record], dataset_id: str, settings: str, method: str, seed: int) -> Path:
        return self.root / _track(kind) / dataset_id / settings / method / f"seed-{seed}.json"

    def finished(
        self, kind: type[AnyRecord], dataset_id: str, settings: str, method: str, seed: int, key: str
    ) -> AnyRecord | None:
        """The record at this address if it has this key; None if there is none or it is of another key.

        Raises:
            RecordError: the record there, or its predictions file, is damaged.
        """
        path = self._path(kind, dataset_id, settings, method, seed)
        if not path.exists():
            return None
        record = self.read(kind, path)
        return record if record.key == key else None

    def write(self, record: EvaluatorRecord | TrainingRecord, predictions: bytes) -> Path:
        """Store a record and its predictions file (the bytes that ``pack_predictions`` made); returns the path.

        A record with another key at the same address is moved to ``superseded/``, never lost.
        """
        if hashlib.sha256(predictions).hexdigest() != record.predictions_sha256:
            raise RecordError(f"these are not the predictions that the record of {record.method} names")
        path = self.path(record)
        if path.exists():
            self._set_aside(path)
        files.write_atomically(predictions_path(path), predictions)
        files.write_atomically(path, files.to_json(record.to_json()))
        return path

    def _set_aside(self, path: Path) -> None:
        name = files.sha256_of_file(path)[:12]
        target = self.root / "superseded" / path.relative_to(self.root).with_suffix("") / name
        target.mkdir(parents=True, exist_ok=True)
        if predictions_path(path).exists():  # copied: until its record has moved, this one is whole at its address
            files.write_atomically(target / "predictions.safetensors", predictions_path(path).read_bytes())
        path.replace(target / "record.json")

    def read(self, kind: type[AnyRecord], path: Path) -> AnyRecord:
        """Read and validate one record and check its predictions file.

        Raises:
            RecordError: not JSON, not of this schema, or its predictions file is missing or another.
        """
        try:
            value = json.loads(path.read_bytes())
        except ValueError as error:
            raise RecordError(f"{path} is no JSON: {error}") from None
        version = value.get("schema_version") if isinstance(value, dict) else None
        if version != SCHEMA_VERSION:
            raise RecordError(f"{path} has the schema version {version!r}; this version reads {SCHEMA_VERSION}")
        try:
            record = kind.from_json(value)
        except ConfigError as error:
            raise RecordError(f"{path} is no valid {kind.__name__}: {error}") from None
        beside = predictions_path(path)
        if not beside.is_file() or files.sha256_of_file(beside) != record.predictions_sha256:
            raise RecordError(f"{beside} is missing or not the predictions file that its record names")
        if path != self.path(record):
            raise RecordError(f"{path} holds the record of another unit, which belongs at {self.path(record)}")
        return record

    def predictions(self, record: EvaluatorRecord | TrainingRecord) -> dict[str, np.ndarray]:
        """The predictions of a record that was read from here.

        Raises:
            RecordError: they are no safetensors file.
        """
        return unpack_predictions(predictions_path(self.path(record)).read_bytes())

    def paths(self, kind: type[Record]) -> list[Path]:
        """Files of all records of one track, ordered; none has been read."""
        return sorted((self.root / _track(kind)).glob("*/*/*/seed-*.json"))

    def all(self, kind: type[AnyRecord]) -> list[AnyRecord]:
        """All records of one track, ordered by path.

        Raises:
            RecordError: one of them is not valid.
        """
        return [self.read(kind, path) for path in self.paths(kind)]

    def address(self, record: EvaluatorRecord | TrainingRecord) -> PurePosixPath:
        """Path of a record relative to the root."""
        return PurePosixPath(self.path(record).relative_to(self.root).as_posix())


def _track(kind: type[Record]) -> str:
    return str(kind.model_fields["track"].default)


def predictions_path(record_path: Path) -> Path:
    """The predictions file beside a record."""
    return record_path.with_suffix(".predictions.safetensors")


def pack_predictions(predictions: Predictions) -> bytes:
    """Arrays as one safetensors file (no pickle), byte for byte the same for the same arrays."""
    return save_safetensors({name: np.ascontiguousarray(array) for name, array in sorted(predictions.items())})


def unpack_predictions(data: bytes) -> dict[str, np.ndarray]:
    """The arrays that ``pack_predictions`` packed.

    Raises:
        RecordError: the bytes are no safetensors file.
    """
    try:
        return load_safetensors(data)
    except SafetensorError as error:
        raise RecordError(f"the predictions are no safetensors file: {error}") from None


def unit_key(unit: Options, dataset_digest: str, environment: Environment) -> str:
    """SHA-256 over all that decides the result of a unit of work: unit, data, code, versions, device."""
    return files.digest(
        {
            "unit": unit.to_json(),
            "dataset": dataset_digest,
            "code": environment.code_digest,
            "libraries": environment.libraries,
            "device": environment.device,
        }
    )
