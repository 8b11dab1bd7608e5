"""A few of the committed trials, which a test may damage, and the faults that the check finds in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from fmcs_bench.evaluator_track.runner import recompute
from fmcs_bench.leaderboard.check import KnownDatasets, check_trials
from fmcs_bench.leaderboard.load import Fault, Report, Trial, find_manifests
from fmcs_bench.results import tables
from fmcs_bench.results.metrics import rank_correlation
from fmcs_bench.results.records import EvaluatorRecord

ROOT = Path(__file__).parents[2]
CARDS = ROOT / "data_cards"
KNOWN = KnownDatasets(find_manifests([CARDS]))
NOW = datetime.now(UTC)


@cache
def trials(track: str, method: str) -> tuple[Trial, ...]:
    """The five committed trials of a method on digits, with records that agree exactly with the stored predictions."""
    folder = ROOT / "leaderboard"
    own = [r for r in tables.read(folder, track) if r.dataset.startswith("digits-") and r.method == method]
    own = [record for record in own if record.settings == own[0].settings]
    pairs = ((record, normalised(arrays)) for record, arrays in tables.read_predictions(folder, own))
    return tuple(Trial(record.name, exact(record, arrays), arrays) for record, arrays in pairs)


def normalised(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rounded rows of probabilities sum to 1 only nearly."""
    return {k: a / a.sum(axis=2, keepdims=True) if k.endswith("/probs") else a for k, a in arrays.items()}


def exact(record: tables.AnyTrial, arrays: dict[str, np.ndarray]) -> tables.AnyTrial:
    if not isinstance(record, EvaluatorRecord):
        return record
    score_P = arrays["trajectory/score"].astype(np.float64).mean(axis=1)
    spearman = rank_correlation(score_P, np.array(record.trajectory.validation_accuracy))
    along = record.trajectory.model_copy(update={"score": tuple(map(float, score_P)), "spearman": spearman})
    return record.model_copy(update={"metrics": recompute(arrays), "trajectory": along})


def edited(trial: Trial, change: Callable[[dict[str, Any]], object]) -> Trial:
    """The trial with its record changed as JSON."""
    value = trial.record.to_json()
    change(value)
    return replace(trial, record=type(trial.record).from_json(value))


def with_arrays(trial: Trial, change: Callable[[dict[str, np.ndarray]], object]) -> Trial:
    """The trial with its predictions changed."""
    arrays = {name: array.copy() for name, array in trial.arrays.items()}
    change(arrays)
    return replace(trial, arrays=arrays)


def faults_of(*checked: Trial, known: KnownDatasets = KNOWN, strict: bool = False) -> list[Fault]:
    report = Report()
    check_trials(checked, report, known, strict=strict)
    return report.faults
