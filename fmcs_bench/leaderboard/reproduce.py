"""The command that makes the records of one method again, from what the records say."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from fmcs_bench.results.records import EvaluatorRecord, TrainingRecord
from fmcs_bench.results.trials import EvaluatorTrial
from fmcs_bench.training.methods import NUM_SEEDS
from fmcs_bench.training.recipes import RECIPES
from fmcs_bench.training_track.plan import FIRST_SEED

USUAL_SEEDS = {"evaluator": range(NUM_SEEDS), "training": range(FIRST_SEED, FIRST_SEED + NUM_SEEDS)}
_RECIPE_OPTIONS = {"optimizer", "lr", "weight_decay", "schedule", "batch_size", "augmentation", "precision"}
"""Fields of a recipe that the command can change."""


class Command(NamedTuple):
    """A command line, and sentences about what else it needs to give the same records."""

    line: str
    notes: tuple[str, ...]


def command(records: Sequence[EvaluatorRecord | TrainingRecord]) -> Command:
    """The command for the records of one method, with one RAF and equal settings."""
    record = records[0]
    notes = [f"The workspace must hold the dataset {record.dataset} with the digest {record.dataset_digest}."]
    make: Callable[[Any, list[str]], list[str]] = _evaluate if isinstance(record, EvaluatorRecord) else _train
    words = ["fmcs-bench", *make(records, notes)]
    return Command(shlex.join([*words, "--device", record.environment.device]), tuple(notes))


def _evaluate(records: Sequence[EvaluatorRecord], notes: list[str]) -> list[str]:
    record, trial = records[0], records[0].trial
    words = ["evaluate", record.dataset, "--evaluator", trial.method]
    for name, values in trial.grid.items():
        words += ["--grid", f"{name}={','.join(map(str, values))}"]
    words += ["--seeds", _num_seeds(records)]
    words += [] if trial.limit is None else ["--limit", str(trial.limit)]
    words += [] if trial.test_limit is None else ["--test-limit", str(trial.test_limit)]
    for other in sorted({name for each in records for name in each.test_on}):
        words += ["--test-on", other.rpartition("@")[0]]
    options = ("evaluator", "seed", "limit", "test_limit", "head", "code", "labels", "grid")
    plain = EvaluatorTrial.make(**{name: getattr(trial, name) for name in options})
    _note_missing([name for name, value in trial if value != getattr(plain, name)], notes)
    if trial.code is not None:
        notes.append(
            f"{trial.evaluator} is a plug-in: install its package, or name its file as --evaluator FILE.py:Class. "
            f"The SHA-256 of that file is {trial.code}."
        )
    return words


def _train(records: Sequence[TrainingRecord], notes: list[str]) -> list[str]:
    record, trial, method = records[0], records[0].trial, records[0].trial.method
    words = ["train", record.dataset, "--method", method.name]
    words += ["--raf", repr(method.raf)] if method.has_raf else []
    words += [] if trial.evaluator_name is None else ["--evaluator", trial.evaluator_name]
    if method.network == "dueheadnet":
        words += [] if method.backbone is None else ["--base", method.backbone]
        words += [] if method.constraint_weight == 1 else ["--constraint-weight", repr(method.constraint_weight)]
        words += ["--pretrained-first"] if method.pretrained_first else []
    words += [] if trial.init == "fresh" else ["--init", trial.init]
    missing = ["recipe"]
    if trial.recipe.name in RECIPES:
        words += ["--recipe", trial.recipe.name]
        differences = trial.recipe.differences
        for name in (name for name in differences if name in _RECIPE_OPTIONS):
            words += [f"--{name.replace('_', '-')}", str(differences[name])]
        missing = sorted(set(differences) - _RECIPE_OPTIONS)
    _note_missing(missing, notes)
    words += ["--epochs", str(trial.epochs), "--seeds", _num_seeds(records)]
    words += ["--best-epoch-on-test"] if record.metrics.best_test_accuracy is not None else []
    if trial.evaluator is not None:
        notes.append(
            f"The evaluator {trial.evaluator} must have been fitted there by fmcs-bench evaluate; the digest of the "
            f"fit is {trial.evaluator_digest}."
        )
    if trial.watcher is not None:
        notes.append(f"Scores along the training are those of {trial.watcher}, the chosen evaluator of that board.")
    if not record.dataset.startswith("digits-"):
        notes.append("Records do not say where the images are: add --data-dir or --images.")
    return words


def _note_missing(names: Sequence[str], notes: list[str]) -> None:
    if names:
        notes.append(f"The command has no option for {', '.join(sorted(names))}; the values are those of the trial.")


def _num_seeds(records: Sequence[EvaluatorRecord] | Sequence[TrainingRecord]) -> str:
    """So many that the last of these seeds is among them; a command counts from the first seed of its track."""
    first = USUAL_SEEDS[records[0].track].start
    return str(max(1, max(each.seed for each in records) + 1 - first))
