"""The record that a trial leaves; the leaderboard is made of records and their predictions and of nothing else.

Settings name what must be equal for methods to be compared; ``key`` digests everything that decides the result.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal, Self, TypeVar, get_args

import numpy as np
from pydantic import Field, model_validator

from fmcs_bench.core import files
from fmcs_bench.core.environment import Environment, Sha256
from fmcs_bench.core.errors import RecordError
from fmcs_bench.core.options import NAME_PATTERN, Options
from fmcs_bench.results.trials import EvaluatorTrial, GridSearch
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
    """What a result cost. ``process_peak_bytes`` is the peak of the whole process, not of the trial alone."""

    seconds: float = Field(ge=0, description="wall time of the fit or training; of all fits of a grid")
    num_parameters: int = Field(ge=0)
    process_peak_bytes: int = Field(ge=0)
    flops_per_map: int | None = Field(None, ge=0, description="of an evaluator; see fmcs_bench.evaluator_track.calls")
    scoring_maps: int | None = Field(None, ge=1, description="maps of the test run, asked about in one call")
    scoring_seconds: float | None = Field(None, ge=0, description="wall time of that call, which was not the first")

    added_later = frozenset({"flops_per_map", "scoring_maps", "scoring_seconds"})

    @property
    def maps_per_second(self) -> float | None:
        """Speed of an evaluator; None where it was not measured."""
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
    track: str
    key: Sha256
    dataset: str = Field(pattern=NAME_PATTERN)
    dataset_digest: Sha256
    environment: Environment
    curve: tuple[Epoch, ...]
    cost: Cost
    predictions_sha256: Sha256
    created: str
    trial: EvaluatorTrial | TrainingTrial = Field(alias="unit")
    num_stages: int = Field(ge=2, description="of the FMCS dataset: the largest score")

    @property
    def method(self) -> str:
        """Name of the evaluator with its head, or of the training method with its RAF: a row of the board."""
        return self.trial.label if isinstance(self.trial, TrainingTrial) else self.trial.method

    @property
    def seed(self) -> int:
        """Seed of this repetition."""
        return self.trial.seed

    @property
    def settings(self) -> str:
        """Names what is equal for all records that are compared: length, recipe, limits."""
        return self.trial.settings

    @property
    def dataset_id(self) -> str:
        """``<name>@<first 12 digits of the digest>``."""
        return f"{self.dataset}@{self.dataset_digest[:12]}"

    @property
    def name(self) -> str:
        """Name of the trial: ``<track>/<dataset>@<digest>/<settings>/<method>/seed-<n>``."""
        return f"{self.track}/{self.dataset_id}/{self.settings}/{self.method}/seed-{self.seed}"


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
    differentiable: bool
    channel_invariant: bool
    any_shape: bool
    control: bool = Field(False, description="there for comparison; never chosen for training")
    metrics: dict[Subset, Metrics]
    trajectory: Trajectory
    test_on: dict[str, Metrics] = Field({}, description="on the test runs of other datasets, by their ids")
    grid_search: GridSearch | None = Field(None, description="how the recipe was found, where the trial has a grid")

    added_later = frozenset({"control", "test_on", "grid_search"})

    @model_validator(mode="after")
    def _check_search(self) -> Self:
        if (self.grid_search is not None) != bool(self.trial.grid):
            raise ValueError("a trial with a grid has a grid_search, and no other has")
        if self.grid_search is not None:
            validation = self.metrics.get("validation_run")
            if fault := self.grid_search.fault(self.trial, validation.mae if validation else math.nan):
                raise ValueError(fault)
        return self


class TrainingMetrics(Options):
    """Accuracies of the weights that were chosen. The test images are read once, with these weights.

    ``best_test_accuracy``, the highest over all epochs, is too high: it stands beside sources that report it.
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
    def score(self) -> float | None:
        """Score at the epoch whose weights were tested: the chosen one, or the last. None where it was not watched."""
        number = len(self.curve) if self.metrics.epoch is None else self.metrics.epoch
        if number > len(self.curve):
            num = len(self.curve)
            raise RecordError(f"{self.name} was tested after epoch {number}, and its curve has {num}; train it again")
        return self.curve[number - 1].score


AnyRecord = TypeVar("AnyRecord", EvaluatorRecord, TrainingRecord)
Predictions = Mapping[str, np.ndarray]


def unit_key(unit: Options, dataset_digest: str, environment: Environment) -> str:
    """SHA-256 over all that decides the result of a trial: trial, data, code, versions, device."""
    return files.digest(
        {
            "unit": unit.to_json(),
            "dataset": dataset_digest,
            "code": environment.code_digest,
            "libraries": environment.libraries,
            "device": environment.device,
        }
    )
