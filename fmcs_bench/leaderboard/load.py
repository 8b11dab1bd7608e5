"""Trials as they are read from a workspace or a folder of results; what cannot be read is a fault and stops nothing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fmcs_bench.core.errors import FmcsBenchError, RecordError
from fmcs_bench.results import tables
from fmcs_bench.results.records import SUBSETS, TrainingRecord
from fmcs_bench.results.store import RecordStore, predictions_path
from fmcs_bench.results.tables import AnyTrial
from fmcs_bench.store import schema
from fmcs_bench.store.schema import Manifest

MAX_MANIFEST_BYTES = 50_000_000
MAX_RECORD_BYTES = 1_000_000
MAX_PREDICTIONS_BYTES = 64_000_000
"""The largest so far, of 9 stages and 10,000 images in each subset, are a tenth of it."""
_MAX_SHOWN = 300

Arrays = Mapping[str, np.ndarray]
Tell = Callable[[str, object], None]
"""Called with what is wrong, and what is expected."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong, or worth a note; every part is one line of plain text."""

    where: str
    what: str
    expected: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}; expected {self.expected}"


@dataclass
class Report:
    """Everything that was checked; prints as a line for each fault and note, and one about the whole."""

    num_trials: int = 0
    faults: list[Fault] = field(default_factory=list)
    notes: list[Fault] = field(default_factory=list)

    def tell(self, where: str, *, note: bool = False) -> Tell:
        """A function that adds a fault or a note about one file, with everything that is not printable made so."""
        into = self.notes if note else self.faults
        return lambda what, expected: into.append(Fault(_plain(where), _plain(what), _plain(expected)))

    def __str__(self) -> str:
        lines = [f"fault  {fault}" for fault in self.faults] + [f"note   {note}" for note in self.notes]
        return "\n".join([*lines, f"{self.num_trials:,} trials checked: {len(self.faults) or 'no'} faults"])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"ok": not self.faults} | asdict(self)


@dataclass(frozen=True)
class Trial:
    """A record with its predictions, ``rounded`` where they are as ``fmcs_bench.results.tables`` rounds them."""

    where: str
    record: AnyTrial
    arrays: Arrays
    rounded: bool = False

    @property
    def board(self) -> tuple[str, str, str]:
        """What it can be compared with: track, dataset and settings."""
        return self.record.track, self.record.dataset_id, self.record.settings


def read_trials(folder: Path, report: Report) -> list[Trial]:
    """All trials of a workspace or a folder of results that can be read; the others are faults in the report."""
    return _read_tables(folder, report) if (folder / "results").is_dir() else _read_records(folder / "records", report)


def _read_tables(folder: Path, report: Report) -> list[Trial]:
    found: list[Trial] = []
    for track in tables.KINDS:
        name = f"results/{track}.parquet"
        if not (folder / name).exists():
            continue
        records: list[AnyTrial] = []
        with _named(name, folder, report):
            records = tables.read(folder, track)
        for dataset in dict.fromkeys(record.dataset for record in records):
            own = [record for record in records if record.dataset == dataset]
            with _named(f"predictions/{track}-{dataset}.parquet", folder, report):
                pairs = list(tables.read_predictions(folder, own))
                found += [Trial(record.name, record, arrays, rounded=True) for record, arrays in pairs]
    return found


def _read_records(root: Path, report: Report) -> list[Trial]:
    store, found = RecordStore(root), []
    for kind in tables.KINDS.values():
        for path in store.paths(kind):
            name = path.relative_to(root).as_posix()
            with _named(name, root, report):
                for file, limit in ((path, MAX_RECORD_BYTES), (predictions_path(path), MAX_PREDICTIONS_BYTES)):
                    if file.exists() and file.stat().st_size > limit:
                        raise RecordError(f"{file.name} has {file.stat().st_size:,} bytes; at most {limit:,} are read")
                record: AnyTrial = store.read(kind, path)  # type: ignore[type-var]
                found.append(Trial(name, record, store.predictions(record)))
    return found


@contextmanager
def _named(where: str, folder: Path, report: Report) -> Iterator[None]:
    """What cannot be read inside becomes a fault, without the place of this folder: a page is for everybody."""
    try:
        yield
    except (FmcsBenchError, OSError, ValueError, KeyError, RecursionError) as error:
        text = " ".join(str(error).replace(f"{folder}/", "").split())
        report.tell(where)(text or type(error).__name__, "a file that fmcs-bench wrote")


def usable(trials: Iterable[Trial], report: Report) -> list[Trial]:
    """The trials that can be shown; the others are faults.

    All fits of one board have the same stages and checkpoints, all seeds of a training method the same epochs.
    """
    kept: list[Trial] = []
    groups: dict[object, list[Trial]] = {}
    for trial in trials:
        method = trial.record.method if isinstance(trial.record, TrainingRecord) else None
        groups.setdefault((trial.board, method), []).append(trial)
    for group in groups.values():
        forms = [_form(trial) for trial in group]
        counts = Counter(form for form in forms if form is not None)
        usual, number = counts.most_common(1)[0] if counts else (None, 0)
        for trial, form in zip(group, forms, strict=True):
            if form is None:
                text = "incomplete metrics, trajectory or predictions, or a curve that is none of accuracies"
                report.tell(trial.where)(text, "a record that fmcs-bench wrote")
            elif form != usual:
                report.tell(trial.where)("stages, checkpoints or epochs differ", f"those of the other {number} records")
            else:
                kept.append(trial)
    return kept


def _form(trial: Trial) -> object:
    """What must be equal on one board; None where a board cannot show the trial."""
    record = trial.record
    if isinstance(record, TrainingRecord):
        return len(record.curve) if all(0 <= epoch.validation <= 1 for epoch in record.curve) else None
    along, probs, num_stages = record.trajectory, trial.arrays.get("test_run/probs"), record.num_stages
    is_shaped = probs is not None and probs.ndim == 3 and probs.shape[::2] == (num_stages, num_stages) and probs.size
    has_lengths = len(along.step) == len(along.score) == len(along.validation_accuracy) > 0
    return (num_stages, along.step) if is_shaped and has_lengths and set(record.metrics) == set(SUBSETS) else None


def find_manifests(folders: Iterable[Path], report: Report | None = None) -> dict[str, Manifest]:
    """The manifests in folders such as ``data_cards``, by dataset id; one that cannot be used is a fault."""
    found: dict[str, Manifest] = {}
    for path in sorted(path for folder in folders for path in folder.glob(f"*/{schema.MANIFEST}")):
        try:
            if path.stat().st_size > MAX_MANIFEST_BYTES:
                raise ValueError(f"it has more than {MAX_MANIFEST_BYTES:,} bytes")
            manifest = Manifest.from_json(json.loads(path.read_bytes()))
            if not manifest.states_its_digest:
                raise ValueError("it was changed: its digest is not that of its content")
        except (ValueError, OSError, RecursionError) as error:  # a ConfigError is a ValueError
            if report is not None:
                report.tell(str(path))(str(error), "a manifest that fmcs-bench wrote")
            continue
        found[manifest.id] = manifest
    return dict(sorted(found.items()))


def _plain(value: object) -> str:
    r"""Text on one line, without control characters, and not endless.

    Example:
        >>> _plain("red \x1b[31m\nend")
        'red \\x1b[31m\\nend'
    """
    text = str(value)
    text = text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
