"""Records and predictions of a workspace, as files that are written atomically; and notes of trainings that failed.

A record lies at ``<track>/<dataset>@<digest>/<settings>/<method>/seed-<n>.json``, its predictions beside it. A training
whose loss became NaN or infinite leaves ``failed/<its address>``, and is trained again only on request.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from fmcs_bench.core import files
from fmcs_bench.core.environment import Environment, Sha256
from fmcs_bench.core.errors import ConfigError, RecordError
from fmcs_bench.core.options import NAME_PATTERN, Options
from fmcs_bench.results.records import SCHEMA_VERSION, AnyRecord, EvaluatorRecord, Predictions, Record, TrainingRecord
from fmcs_bench.results.trials import TrainingTrial


class RecordStore:
    """Records under one folder, ``<workspace>/records``."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, record: EvaluatorRecord | TrainingRecord) -> Path:
        """File of a record."""
        return self.root / f"{record.name}.json"

    def finished(
        self, kind: type[AnyRecord], dataset_id: str, settings: str, method: str, seed: int, key: str
    ) -> AnyRecord | None:
        """The record at this address if it has this key; None if there is none or it is of a different key."""
        path = self.root / _track(kind) / dataset_id / settings / method / f"seed-{seed}.json"
        if not path.exists():
            return None
        record = self.read(kind, path)
        return record if record.key == key else None

    def write(self, record: EvaluatorRecord | TrainingRecord, predictions: bytes) -> Path:
        """Store a record and the bytes of ``pack_predictions``; returns the path.

        A record with a different key at the same address is moved to ``superseded/``, never lost.
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
        """Read and validate one record and check its predictions file; ``RecordError`` where one is damaged."""
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
            raise RecordError(f"{path} holds the record of a different trial, which belongs at {self.path(record)}")
        return record

    def predictions(self, record: EvaluatorRecord | TrainingRecord) -> dict[str, np.ndarray]:
        """The predictions of a record that was read from here."""
        return unpack_predictions(predictions_path(self.path(record)).read_bytes())

    def paths(self, kind: type[Record]) -> list[Path]:
        """Files of all records of one track, ordered; none has been read."""
        return sorted((self.root / _track(kind)).glob("*/*/*/seed-*.json"))

    def all(self, kind: type[AnyRecord]) -> list[AnyRecord]:
        """All records of one track, ordered by path."""
        return [self.read(kind, path) for path in self.paths(kind)]


def _track(kind: type[Record]) -> str:
    return str(kind.model_fields["track"].default)


def predictions_path(record_path: Path) -> Path:
    """The predictions file beside a record."""
    return record_path.with_suffix(".predictions.safetensors")


def pack_predictions(predictions: Predictions) -> bytes:
    """Arrays as one safetensors file (no pickle), byte for byte the same for the same arrays."""
    return save_safetensors({name: np.ascontiguousarray(array) for name, array in sorted(predictions.items())})


def unpack_predictions(data: bytes) -> dict[str, np.ndarray]:
    """The arrays that ``pack_predictions`` packed."""
    try:
        return load_safetensors(data)
    except SafetensorError as error:
        raise RecordError(f"the predictions are no safetensors file: {error}") from None


class FailedTraining(Options):
    """Why a trial has no record."""

    schema_version: Literal[1] = 1
    track: Literal["failed"] = "failed"
    key: Sha256
    dataset: str = Field(pattern=NAME_PATTERN)
    dataset_digest: Sha256
    environment: Environment
    trial: TrainingTrial = Field(alias="unit")
    reason: str
    epoch: int | None = Field(ge=1, description="that it failed in; None where it is not known")
    created: str


class FailedStore:
    """The failures under a folder of records."""

    def __init__(self, root: Path) -> None:
        self.root = root / "failed" / "training"

    def path(self, dataset_id: str, trial: TrainingTrial) -> Path:
        """File of a trial's failure."""
        return self.root / dataset_id / trial.settings / trial.label / f"seed-{trial.seed}.json"

    def find(self, dataset_id: str, trial: TrainingTrial, key: str) -> FailedTraining | None:
        """The failure of this trial; None if there is none with this key."""
        path = self.path(dataset_id, trial)
        if not path.exists():
            return None
        try:
            failure = FailedTraining.from_json(json.loads(path.read_bytes()))
        except (ValueError, ConfigError) as error:
            raise RecordError(f"{path} is no note of a failed training: {error}; remove it") from None
        return failure if failure.key == key else None

    def write(self, failure: FailedTraining) -> Path:
        """Keep a failure; returns its path."""
        path = self.path(f"{failure.dataset}@{failure.dataset_digest[:12]}", failure.trial)
        files.write_atomically(path, files.to_json(failure.to_json()))
        return path

    def remove(self, dataset_id: str, trial: TrainingTrial) -> None:
        """Forget a failure, where there is one."""
        self.path(dataset_id, trial).unlink(missing_ok=True)
