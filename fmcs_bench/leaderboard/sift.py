"""The records of a folder that can be shown, and why the others cannot.

Flow: files -> records, each read and checked with its predictions -> groups that make one board, in which the form of
most records is the form of all -> what is shown, and one line for each record that is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fmcs_bench.core.errors import FmcsBenchError, RecordError
from fmcs_bench.leaderboard import sums
from fmcs_bench.leaderboard.reading import MAX_PREDICTIONS_BYTES, MAX_RECORD_BYTES
from fmcs_bench.results.records import SUBSETS, AnyRecord, EvaluatorRecord, TrainingRecord
from fmcs_bench.results.store import RecordStore, predictions_path

_KEY = "test_run/probs"


class LeftOut(NamedTuple):
    """A record that is not shown."""

    address: str
    """Its path below the folder of all records."""
    reason: str


@dataclass(frozen=True)
class Sifted:
    """What a folder of records holds."""

    evaluators: tuple[EvaluatorRecord, ...]
    trainings: tuple[TrainingRecord, ...]
    left_out: tuple[LeftOut, ...]


class LeftOutError(FmcsBenchError, ValueError):
    """The page is made, but some records are not on it.

    Attributes:
        page: path of the page.
        left_out: the records that it does not show.
    """

    def __init__(self, page: Path, left_out: Sequence[LeftOut]) -> None:
        lines = [f"- {item.address}: {item.reason}" for item in left_out]
        number = "1 record is" if len(left_out) == 1 else f"{len(left_out)} records are"
        advice = "make them again or remove them; everything else is on the page"
        super().__init__("\n".join([f"{number} left out of {page}:", *lines, advice]))
        self.page, self.left_out = page, tuple(left_out)


def sift(store: RecordStore) -> Sifted:
    """Read every record of a folder; one that cannot be shown is named and stops nothing.

    Args:
        store: of the folder.
    """
    left_out: list[LeftOut] = []
    listed: dict[str, str] = {}
    try:
        listed = sums.load(store.root)
    except RecordError as error:
        left_out.append(LeftOut(sums.NAME, _reason(error, store)))
    evaluators = _read(store, EvaluatorRecord, lambda record: _form(store, record), listed, left_out)
    trainings = _read(store, TrainingRecord, lambda record: None, listed, left_out)  # noqa: ARG005
    return Sifted(tuple(evaluators), tuple(trainings), tuple(sorted(left_out)))


def _read(
    store: RecordStore,
    kind: type[AnyRecord],
    form: Callable[[AnyRecord], Hashable],
    listed: Mapping[str, str],
    left_out: list[LeftOut],
) -> list[AnyRecord]:
    found: list[tuple[AnyRecord, Hashable]] = []
    for path in store.paths(kind):
        try:
            _require_size(path)
            if sums.changed(store, path, listed):
                raise RecordError(f"it was changed after it was published: {sums.NAME} has another SHA-256 of it")
            record = store.read(kind, path)
            found.append((record, form(record)))
        except RecursionError:
            left_out.append(LeftOut(path.relative_to(store.root).as_posix(), "it is nested without end"))
        except (FmcsBenchError, OSError) as error:
            left_out.append(LeftOut(path.relative_to(store.root).as_posix(), _reason(error, store)))
    boards: dict[tuple[str, str], Counter[Hashable]] = {}
    for record, own in found:
        boards.setdefault((record.dataset_id, record.settings), Counter())[own] += 1
    kept = []
    for record, own in found:
        ((usual, number), *_) = boards[record.dataset_id, record.settings].most_common(1)
        if own == usual:
            kept.append(record)
        else:
            reason = f"it has {own}, but {number} records of the same dataset and settings have {usual}"
            left_out.append(LeftOut(str(store.address(record)), reason))
    return kept


def _require_size(path: Path) -> None:
    """Before anything is read.

    Raises:
        RecordError: the record or its predictions are too large.
    """
    for file, limit in ((path, MAX_RECORD_BYTES), (predictions_path(path), MAX_PREDICTIONS_BYTES)):
        if file.exists() and file.stat().st_size > limit:
            raise RecordError(f"{file.name} has {file.stat().st_size:,} bytes; at most {limit:,} are read")


class _Form(NamedTuple):
    """What must be equal on one board: stages, and checkpoints along the test run."""

    num_stages: int
    steps: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.num_stages} stages and {len(self.steps)} checkpoints up to step {max(self.steps, default=0)}"


def _form(store: RecordStore, record: EvaluatorRecord) -> _Form:
    """The form of a record that agrees with itself and with its predictions.

    Raises:
        RecordError: it does not.
    """
    lacking = [column for column in SUBSETS if column not in record.metrics]
    if lacking:
        raise RecordError(f"it has no metrics of {', '.join(lacking)}; a board needs {', '.join(SUBSETS)}")
    predictions, along = store.predictions(record), record.trajectory
    shape = predictions[_KEY].shape if _KEY in predictions else None
    if shape is None or len(shape) != 3 or shape[0] != record.num_stages or shape[2] != record.num_stages:
        raise RecordError(
            f"its predictions hold {_KEY} of shape {shape}; [stages, images, stages] with {record.num_stages} stages "
            "is needed"
        )
    lengths = {len(along.step), len(along.score), len(along.validation_accuracy)}
    if lengths == {0} or len(lengths) > 1:
        raise RecordError(
            f"its trajectory has lists of {sorted(lengths)} values; they must be equally long, and hold some"
        )
    return _Form(record.num_stages, along.step)


def _reason(error: Exception, store: RecordStore) -> str:
    """An error as one line without the place of this machine's folder, which is on a page for everybody."""
    text = str(error) or type(error).__name__
    return " ".join(text.replace(f"{store.root}/", "").split())
