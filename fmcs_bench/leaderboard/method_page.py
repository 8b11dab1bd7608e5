"""The page of one method: all that its records say, a row for each seed, and the command that makes them again."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any
from urllib.parse import quote

from fmcs_bench.leaderboard.page import Code, Fold, Page, Section, TableItem, Text, anchor
from fmcs_bench.leaderboard.reproduce import command
from fmcs_bench.results.board import Column, Table
from fmcs_bench.results.records import EvaluatorRecord, TrainingRecord

Records = Sequence[EvaluatorRecord | TrainingRecord]
_CURVE_ROWS = 10
_SHA256 = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")


def path(record: EvaluatorRecord | TrainingRecord) -> str:
    """Path of the page of this record and the other seeds of its method."""
    return f"details/{record.track}/{record.dataset_id}/{record.settings}/{record.method}.html"


def href(record: EvaluatorRecord | TrainingRecord) -> str:
    """``path`` as a link."""
    return quote(path(record))


def method_page(records: Records, back: str) -> Page:
    """The page of one method.

    Args:
        records: of one method on one dataset with equal settings, ordered by seed.
        back: anchor of its board on the main page.
    """
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
