"""The page of one method: all that its records say, a row for each seed, and the command that makes them again."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple
from urllib.parse import quote

from fmcs_bench.leaderboard.check import USUAL_SEEDS
from fmcs_bench.leaderboard.page import Code, Fold, Page, Section, TableItem, Text, anchor
from fmcs_bench.results.board import Column, Table
from fmcs_bench.results.records import EvaluatorRecord, TrainingRecord
from fmcs_bench.results.trials import EvaluatorTrial
from fmcs_bench.training.recipes import RECIPES

Records = Sequence[EvaluatorRecord | TrainingRecord]
_RECIPE_OPTIONS = {"optimizer", "lr", "weight_decay", "schedule", "batch_size", "augmentation", "precision"}
"""Fields of a recipe that the command can change."""
_CURVE_ROWS = 10
_SHA256 = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")


def path(record: EvaluatorRecord | TrainingRecord) -> str:
    """Path of the page of this record and the other seeds of its method."""
    return f"details/{record.track}/{record.dataset_id}/{record.settings}/{record.method}.html"


def href(record: EvaluatorRecord | TrainingRecord) -> str:
    """``path`` as a link."""
    return quote(path(record))


def method_page(records: Records, back: str) -> Page:
    """The page of one method from its records, ordered by seed; ``back`` is the anchor of its board."""
    first, again = records[0], command(records)
    results = _metrics(records)
    costs = [{"seed": r.seed} | _flat(r.cost.to_json()) | {"created": r.created} for r in records]
    trials = [_flat(r.trial.to_json() | {"seed": None}) for r in records]
    more = [
        *_curves(records),
        _facts("trial", "Options of the trial; what is not listed is not set", trials),
        _facts("environment", "Software and hardware", [_flat(r.environment.to_json()) for r in records]),
    ]
    root = "../" * path(first).count("/")
    return Page(
        path(first),
        first.method,
        (f"on {first.dataset_id}, settings {first.settings}",),
        (
            Section("results", "Results of every seed", (results, _by_seed("costs", "Costs", costs))),
            Section("again", "Make these records again", (Code("command", again.line), *map(Text, again.notes))),
            Section("more", "Curves, options, environment", tuple(Fold(item.table.title, (item,)) for item in more)),
        ),
        (("All results", f"{root}index.html#{back}"),),
    )


def _metrics(records: Records) -> TableItem:
    trainings = [record for record in records if isinstance(record, TrainingRecord)]
    rows = [{"seed": record.seed} | _flat(record.metrics.to_json()) for record in trainings]
    rows += [
        {"seed": record.seed, "subset": subset} | metrics.to_json()
        for record in records
        if isinstance(record, EvaluatorRecord)
        for subset, metrics in (
            *record.metrics.items(),
            *((f"test run of {other}", metrics) for other, metrics in record.test_on.items()),
        )
    ]
    return _by_seed("metrics", "Metrics", rows)


def _curves(records: Records) -> Iterator[TableItem]:
    """A table for each value of an epoch, a row for each epoch, a column for each seed; then scores along the run."""
    epochs = [{epoch.epoch: epoch.to_json() for epoch in record.curve} for record in records]
    for kind in _keys(chain.from_iterable(map(dict.values, epochs))):
        if kind != "epoch":
            series = {
                f"seed {record.seed}": {number: value.get(kind) for number, value in own.items()}
                for record, own in zip(records, epochs, strict=True)
            }
            yield _series(f"curve-{kind}", f"{_words(kind)} after each epoch", "epoch", series)
    fits = [record for record in records if isinstance(record, EvaluatorRecord)]
    if fits:
        along = fits[0].trajectory
        series = {"validation accuracy": dict(zip(along.step, along.validation_accuracy, strict=True))}
        series |= {f"seed {r.seed}": dict(zip(r.trajectory.step, r.trajectory.score, strict=True)) for r in fits}
        yield _series("trajectory", "Mean predicted score along the test run", "step", series)


def _series(name: str, title: str, head: str, series: Mapping[str, Mapping[int, Any]]) -> TableItem:
    places = sorted(set(chain.from_iterable(series.values())))
    if len(places) > _CURVE_ROWS:
        title += f" ({_CURVE_ROWS} of {len(places)})"
        places = [places[round(i * (len(places) - 1) / (_CURVE_ROWS - 1))] for i in range(_CURVE_ROWS)]
    rows = [{head: place} | {key: own.get(place) for key, own in series.items()} for place in places]
    return _table(name, title, rows)


def _facts(name: str, title: str, facts: Sequence[Mapping[str, Any]]) -> TableItem:
    """A row for each fact; values that differ between seeds stand beside each other."""
    found = {key: dict.fromkeys(_text(own.get(key)) for own in facts) for key in _keys(facts)}
    rows = [{"fact": key, "value": "; ".join(values)} for key, values in found.items()]
    return _table(name, title, rows)


def _by_seed(name: str, title: str, rows: Sequence[Mapping[str, Any]]) -> TableItem:
    return _table(name, title, rows, [f"{i}-seed-{row['seed']}" for i, row in enumerate(rows)])


def _table(name: str, title: str, rows: Sequence[Mapping[str, Any]], names: Sequence[str] = ()) -> TableItem:
    def value_of(key: str) -> Callable[[Mapping[str, Any]], str]:
        return lambda row: _text(row.get(key))

    keys = _keys(rows)
    numeric = {key: all(isinstance(row.get(key), int | float | None) for row in rows) for key in keys}
    columns = tuple(Column(key, _words(key), value_of(key), views="page", numeric=numeric[key]) for key in keys)
    return TableItem(anchor(name), Table(title, columns, tuple(rows), "page"), tuple(names))


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Names with dots, and plain values: numbers, texts, None."""
    if isinstance(value, dict) and value:
        parts = (_flat(own, f"{name}.{key}" if name else str(key)) for key, own in value.items())
        return dict(chain.from_iterable(part.items() for part in parts))
    return {name: ", ".join(map(str, value)) if isinstance(value, list) else value}


def _keys(values: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names in the order in which they first come, without those that have no value anywhere."""
    return list(dict.fromkeys(key for own in values for key, value in own.items() if value not in (None, {}, "")))


def _words(name: str) -> str:
    return name.replace("_", " ").replace(".", ": ")


def _text(value: Any) -> str:
    """A value of a record, rounded for reading."""
    if value is None or value == {}:
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _SHA256.sub(r"\1...", str(value))
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"


class Command(NamedTuple):
    """A command line, and sentences about what else it needs to give the same records."""

    line: str
    notes: tuple[str, ...]


def command(records: Records) -> Command:
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
