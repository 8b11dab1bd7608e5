"""The command that makes the records of one method again, from what the records say.

Flow: records of one method -> the options that made them -> one line for a shell, and what the line cannot say.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import NamedTuple

from fmcs_bench.leaderboard.check import USUAL_SEEDS
from fmcs_bench.results.records import EvaluatorRecord, TrainingRecord
from fmcs_bench.results.trials import EvaluatorTrial
from fmcs_bench.training.recipes import RECIPES

_RECIPE_OPTIONS = {"optimizer", "lr", "weight_decay", "schedule", "batch_size", "augmentation", "precision"}
"""Fields of a recipe that the command can change."""


class Again(NamedTuple):
    """A command line, and sentences about what else must be there for it to give the same records."""

    command: str
    notes: tuple[str, ...]


def evaluator_again(records: Sequence[EvaluatorRecord]) -> Again:
    """How the fits of one evaluator are made again.

    Args:
        records: of one evaluator on one dataset with equal settings.
    """
    record = records[0]
    unit = record.trial
    words = ["fmcs-bench", "evaluate", record.dataset, "--evaluator", unit.method]
    for name, values in unit.grid.items():
        words += ["--grid", f"{name}={','.join(map(str, values))}"]
    words += ["--seeds", _num_seeds(records)]
    words += [] if unit.limit is None else ["--limit", str(unit.limit)]
    words += [] if unit.test_limit is None else ["--test-limit", str(unit.test_limit)]
    for other in sorted({name for each in records for name in each.test_on}):
        words += ["--test-on", other.rpartition("@")[0]]
    notes = [_dataset(record)]
    plain = EvaluatorTrial.make(
        evaluator=unit.evaluator,
        seed=unit.seed,
        limit=unit.limit,
        test_limit=unit.test_limit,
        head=unit.head,
        code=unit.code,
        labels=unit.labels,
        grid=unit.grid,
    )
    unsaid = sorted(name for name, value in unit if value != getattr(plain, name))
    if unsaid:
        notes.append(f"The command has no option for {', '.join(unsaid)}; the values are those of the unit of work.")
    if unit.code is not None:
        notes.append(
            f"{unit.evaluator} is a plug-in: install it, or name its file as --evaluator FILE.py:Class. The SHA-256 of "
            f"that file is {unit.code}."
        )
    return Again(_join(words, record), tuple(notes))


def training_again(records: Sequence[TrainingRecord]) -> Again:
    """How the trainings of one method at one RAF are made again.

    Args:
        records: of one method with one RAF and equal settings.
    """
    record = records[0]
    unit, method = record.trial, record.trial.method
    words = ["fmcs-bench", "train", record.dataset, "--method", method.name]
    words += ["--raf", repr(method.raf)] if method.has_raf else []
    words += [] if unit.evaluator_name is None else ["--evaluator", unit.evaluator_name]
    if method.network == "dueheadnet":
        words += [] if method.backbone is None else ["--base", method.backbone]
        words += [] if method.constraint_weight == 1 else ["--constraint-weight", repr(method.constraint_weight)]
        words += ["--pretrained-first"] if method.pretrained_first else []
    words += [] if unit.init == "fresh" else ["--init", unit.init]
    notes = [_dataset(record)]
    if unit.recipe.name in RECIPES:
        words += ["--recipe", unit.recipe.name]
        for name, value in unit.recipe.differences.items():
            words += [f"--{name.replace('_', '-')}", str(value)] if name in _RECIPE_OPTIONS else []
    unsaid = sorted(set(unit.recipe.differences) - _RECIPE_OPTIONS) if unit.recipe.name in RECIPES else ["recipe"]
    if unsaid:
        notes.append(f"The command has no option for {', '.join(unsaid)}; the values are those of the unit of work.")
    words += ["--epochs", str(unit.epochs), "--seeds", _num_seeds(records)]
    words += ["--best-epoch-on-test"] if record.metrics.best_test_accuracy is not None else []
    if unit.evaluator is not None:
        notes.append(
            f"The evaluator {unit.evaluator} must have been fitted there by fmcs-bench evaluate; the digest of the fit "
            f"is {unit.evaluator_digest}."
        )
    if unit.watcher is not None:
        notes.append(f"Scores along the training are those of {unit.watcher}, the chosen evaluator of that board.")
    if not record.dataset.startswith("digits-"):
        notes.append("The place of the images is no part of a record: add --data-dir or --images.")
    return Again(_join(words, record), tuple(notes))


def _num_seeds(records: Sequence[EvaluatorRecord] | Sequence[TrainingRecord]) -> str:
    """So many that the last of these seeds is among them; a command counts from the track's first seed."""
    first = USUAL_SEEDS[records[0].track].start
    return str(max(1, max(each.seed for each in records) + 1 - first))


def _dataset(record: EvaluatorRecord | TrainingRecord) -> str:
    return f"The workspace must hold the dataset {record.dataset} with the digest {record.dataset_digest}."


def _join(words: Sequence[str], record: EvaluatorRecord | TrainingRecord) -> str:
    return shlex.join([*words, "--device", record.environment.device])
