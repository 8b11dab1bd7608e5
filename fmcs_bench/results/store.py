"""Trainings that failed, as small files beside the records; a result too, and not the end of the others.

Flow: unit whose loss became NaN or infinite -> ``failed/training/<address of its record>`` with the reason -> found by
its key and not trained again, unless that is asked for; removed when it succeeds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import Field

from fmcs_bench.core import files
from fmcs_bench.core.environment import Environment, Sha256
from fmcs_bench.core.errors import ConfigError, RecordError
from fmcs_bench.core.options import NAME_PATTERN, Options
from fmcs_bench.results.trials import TrainingTrial


class FailedTraining(Options):
    """Why a unit of work has no record."""

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
    """The failures under a folder of records.

    Args:
        root: the folder, as for ``RecordStore``.
    """

    def __init__(self, root: Path) -> None:
        self.root = root / "failed" / "training"

    def path(self, dataset_id: str, unit: TrainingTrial) -> Path:
        """File of a unit's failure."""
        return self.root / dataset_id / unit.settings / unit.label / f"seed-{unit.seed}.json"

    def find(self, dataset_id: str, unit: TrainingTrial, key: str) -> FailedTraining | None:
        """The failure of this unit with this key; None if there is none, or it is of other code or data.

        Raises:
            RecordError: the file there is damaged.
        """
        path = self.path(dataset_id, unit)
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

    def remove(self, dataset_id: str, unit: TrainingTrial) -> None:
        """Forget a failure, where there is one."""
        self.path(dataset_id, unit).unlink(missing_ok=True)
