"""A page for each method: everything that its records say, one for each seed.

Flow: records of one method -> flat names and values of each part of a record, what is equal for all seeds said once ->
tables -> a page, beside the command that makes the records again. Whatever a record gains later is shown without a
change here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from fmcs_bench.leaderboard import tables
from fmcs_bench.leaderboard.cells import Cell, Column, Link, Row, Table, folder
from fmcs_bench.leaderboard.reproduce import Again, evaluator_again, training_again
from fmcs_bench.results.records import AnyRecord, EvaluatorRecord, TrainingRecord
from fmcs_bench.results.records import Subset as Images
from fmcs_bench.results.store import predictions_path

_PARTS: tuple[Images, ...] = ("test_run", "unseen", "same_run", "validation_run")
_DIGEST = 12
"""Digits of a digest that are shown; the file has all of them."""
_ROWS = 10
"""Of a curve, from its first to its last."""
_SHA256 = re.compile(r"\b[0-9a-f]{64}\b")

AnyRecords = Sequence[EvaluatorRecord | TrainingRecord]


@dataclass(frozen=True)
class Details:
    """The page of one method.

    Attributes:
        name: its address below the folder of the leaderboard.
        root: way from the page to that folder, ``../../``.
        title: the method.
        dataset_id: the FMCS dataset.
        settings: that all its records share.
        back: anchor of its board on the main page.
        again: how to make the records again.
        results: what came out, seed by seed.
        more: curves, unit of work and environment, shown when they are asked for.
    """

    name: str
    root: str
    title: str
    dataset_id: str
    settings: str
    back: str
    again: Again
    results: tuple[Table, ...]
    more: tuple[Table, ...]


def details(evaluators: Iterable[EvaluatorRecord], trainings: Iterable[TrainingRecord]) -> list[Details]:
    """One page for each method, dataset and settings.

    Args:
        evaluators: records of the evaluator track.
        trainings: records of the training track.
    """
    pages = [
        _page(group, "evaluators", evaluator_again(group), _evaluator_tables(group)) for group in _groups(evaluators)
    ]
    return pages + [_page(group, "training", training_again(group), [_metrics(group)]) for group in _groups(trainings)]


def _groups(records: Iterable[AnyRecord]) -> list[list[AnyRecord]]:
    found: dict[str, list[AnyRecord]] = {}
    for record in sorted(records, key=lambda record: record.seed):
        found.setdefault(folder(record), []).append(record)
    return [found[name] for name in sorted(found)]


def _page(records: AnyRecords, board: str, again: Again, results: Sequence[Table]) -> Details:
    first = records[0]
    name = PurePosixPath("details", f"{folder(first)}.html")
    root = "../" * (len(name.parts) - 1)
    return Details(
        name=str(name),
        root=root,
        title=first.method,
        dataset_id=first.dataset_id,
        settings=first.settings,
        back=tables.anchor(board, first.dataset_id, first.settings),
        again=again,
        results=(*results, _files(records, root)),
        more=(*_curves(records), *_along(records), _unit(records), _environments(records)),
    )


def _evaluator_tables(records: Sequence[EvaluatorRecord]) -> list[Table]:
    rows = [
        (record, part, metrics.to_json())
        for record in records
        for part, metrics in (
            *((part, record.metrics[part]) for part in _PARTS),
            *((f"test run of {other}", metrics) for other, metrics in record.test_on.items()),
        )
    ]
    keys = _keys(values for *_, values in rows)
    return [
        Table(
            "metrics",
            "All metrics of every seed",
            (_seed_column(), Column("Maps", "", "", numeric=False), *map(_column, keys)),
            tuple(
                Row("", (_seed(record), Cell(part.replace("_", " ")), *(_cell(values.get(key)) for key in keys)))
                for record, part, values in rows
            ),
        )
    ]


def _metrics(records: Sequence[TrainingRecord]) -> Table:
    return _by_seed("metrics", "All metrics of every seed", records, [_flat(r.metrics.to_json()) for r in records])


def _files(records: AnyRecords, root: str) -> Table:
    facts = []
    for record in records:
        left = record.cost.to_json() | {"created": record.created, "key": record.key}
        digests = {name: value for name, value in record.to_json().items() if name.endswith(("_sha256", "_digest"))}
        facts.append(left | {name: value for name, value in digests.items() if name != "dataset_digest"})
    table = _by_seed("records", "The records: cost, moment, digests and files", records, facts)
    columns = (table.columns[0], Column("Files", "", "", numeric=False), *table.columns[1:])
    rows = []
    for record, row in zip(records, table.rows, strict=True):
        path = Path(tables.address(record))
        links = (
            Link("JSON", f"{root}records/{quote(path.as_posix())}"),
            Link("predictions", f"{root}records/{quote(predictions_path(path).as_posix())}"),
        )
        rows.append(Row(f"seed-{record.seed}", (row.cells[0], Cell("", links=links), *row.cells[1:])))
    return Table(table.anchor, table.caption, columns, tuple(rows))


def _curves(records: AnyRecords) -> Iterator[Table]:
    """One table for each value of an epoch: a row for each epoch, a column for each seed."""
    values = [{epoch.epoch: epoch.to_json() for epoch in record.curve} for record in records]
    kinds = [kind for kind in _keys(chain.from_iterable(map(dict.values, values))) if kind != "epoch"]
    for kind in kinds:
        series = [{epoch: value.get(kind) for epoch, value in own.items()} for own in values]
        yield _series(f"curve-{kind}", f"Curve: {_words(kind)} after each epoch", "Epoch", records, series)


def _along(records: AnyRecords) -> Iterator[Table]:
    fits = [record for record in records if isinstance(record, EvaluatorRecord)]
    if fits:
        series = [dict(zip(fit.trajectory.step, fit.trajectory.score, strict=True)) for fit in fits]
        first = fits[0].trajectory
        accuracy = dict(zip(first.step, first.validation_accuracy, strict=True))
        caption = "Mean predicted score along the test run, beside the backbone's validation accuracy"
        yield _series("trajectory", caption, "Step", fits, series, {"Accuracy": accuracy})


def _series(
    anchor: str,
    caption: str,
    head: str,
    records: AnyRecords,
    series: Sequence[Mapping[int, Any]],
    beside: Mapping[str, Mapping[int, Any]] | None = None,
) -> Table:
    beside = beside or {}
    columns = [*beside, *(f"Seed {record.seed}" for record in records)]
    every = [*beside.values(), *series]
    places = sorted(set(chain.from_iterable(every)))
    if len(places) > _ROWS:
        caption += f" ({_ROWS} of {len(places)}; the record has all)"
        places = [places[round(i * (len(places) - 1) / (_ROWS - 1))] for i in range(_ROWS)]
    rows = [Row("", (_cell(place), *(_cell(own.get(place)) for own in every))) for place in places]
    return Table(anchor, caption, tuple(Column(name, "", "") for name in (head, *columns)), tuple(rows), sortable=False)


def _unit(records: AnyRecords) -> Table:
    caption = "Unit of work: all that decides the result besides data, code and device; what is not named is not set"
    seeds = {"seed": ", ".join(str(record.seed) for record in records)}
    return _facts("unit", caption, "Option", records, [_flat(record.trial.to_json() | seeds) for record in records])


def _environments(records: AnyRecords) -> Table:
    facts = [_flat(record.environment.to_json()) for record in records]
    return _facts("environment", "Software and hardware", "Fact", records, facts)


def _facts(anchor: str, caption: str, head: str, records: AnyRecords, facts: Sequence[Mapping[str, Any]]) -> Table:
    """A row for each fact; a value that not all seeds share stands beside the seeds that have it."""
    rows = []
    for name in _keys(facts):
        found: dict[str, list[str]] = {}
        for record, own in zip(records, facts, strict=True):
            found.setdefault(repr(own.get(name)), []).append(str(record.seed))
        texts = {repr(own.get(name)): _text(own.get(name), "g") for own in facts}
        values = [f"{texts[value]} (seed {', '.join(seeds)})" for value, seeds in found.items()]
        rows.append(
            Row("", (Cell(name, is_name=True), Cell("; ".join(values) if len(found) > 1 else texts.popitem()[1])))
        )
    return Table(anchor, caption, (_plain(head), _plain("Value")), tuple(rows), sortable=False)


def _by_seed(anchor: str, caption: str, records: AnyRecords, facts: Sequence[Mapping[str, Any]]) -> Table:
    keys = _keys(facts)
    numeric = {key: all(isinstance(own.get(key), int | float | None) for own in facts) for key in keys}
    columns = (_seed_column(), *(_column(key, numeric=numeric[key]) for key in keys))
    rows = [
        Row("", (_seed(record), *map(_cell, map(own.get, keys)))) for record, own in zip(records, facts, strict=True)
    ]
    return Table(anchor, caption, columns, tuple(rows))


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Names with dots, and plain values: numbers, texts, None."""
    if isinstance(value, dict) and value:
        parts = (_flat(own, f"{name}.{key}" if name else str(key)) for key, own in value.items())
        return dict(chain.from_iterable(part.items() for part in parts))
    return {name: ", ".join(map(str, value)) if isinstance(value, list) else value}


def _keys(values: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names in the order in which they first come; those that say nothing anywhere are left out."""
    return list(dict.fromkeys(key for own in values for key, value in own.items() if value not in (None, {}, "")))


def _seed_column() -> Column:
    return Column("Seed", "", "")


def _seed(record: EvaluatorRecord | TrainingRecord) -> Cell:
    return Cell(str(record.seed))


def _plain(name: str) -> Column:
    return Column(name, "", "", numeric=False)


def _words(name: str) -> str:
    return name.replace("_", " ").replace(".", ": ")


def _column(key: str, *, numeric: bool = True) -> Column:
    return Column(_words(key), "", "", numeric)


def _cell(value: Any) -> Cell:
    return Cell(_text(value, "#.4g"))


def _text(value: Any, form: str) -> str:
    """A value of a record, rounded for reading; the file has all of it."""
    if value is None or value == {}:
        return "\N{EN DASH}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _SHA256.sub(lambda digest: f"{digest[0][:_DIGEST]}\N{HORIZONTAL ELLIPSIS}", str(value))
    text = f"{value:,}" if isinstance(value, int) else f"{value:,.1f}" if abs(value) >= 1000 else f"{value:{form}}"
    return text.replace("-", "\N{MINUS SIGN}")
