"""Trials as Parquet: what the repository keeps, and what ``fmcs_bench.results()`` reads.

A folder of results has ``results/<track>.parquet`` with a row a trial (flat columns, and its record as JSON), and
``predictions/<track>-<dataset>.parquet`` with a row an answer. Column ``trial`` is the same in both.

K stages, N images, M maps, P checkpoints, T images along the test run, E epochs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

import fmcs_bench
from fmcs_bench.core.errors import MissingDataError, RecordError, UnknownNameError, nearest
from fmcs_bench.core.options import Options
from fmcs_bench.core.workspace import Workspace
from fmcs_bench.results.records import SUBSETS, EvaluatorRecord, Predictions, TrainingRecord
from fmcs_bench.results.store import RecordStore

if TYPE_CHECKING:
    import pandas as pd

AnyTrial = EvaluatorRecord | TrainingRecord
KINDS: dict[str, type[AnyTrial]] = {"evaluator": EvaluatorRecord, "training": TrainingRecord}
TOLERANCES = {"tau_b": 0.01, "violations": 0.01, "log_loss": 0.015, "ece": 0.01}
"""A metric of stored predictions differs from that of the record by at most this times (1 + its value); every other
metric is equal."""
SCORE_TOLERANCE = 0.005
"""The same of a mean score along the test run, in stages."""
SUM_TOLERANCE = 1 / 128
"""How far a row of stored probabilities is from a sum of 1."""
_SMALLEST = np.float16(2**-24)
_BY_EPOCH = "test/predicted_by_epoch"
_RECORD = "record"


def rounded(probs_MK: np.ndarray) -> np.ndarray:
    """Probabilities as float16 with 7 bits behind the leading one; rounding twice is rounding once.

    All 10 bits stay where the scores of the maps hardly differ. The most probable stage stays what it was, with its
    ties, so metrics of the predicted stage do not change. What is below the range of float16 becomes its smallest
    number (6e-8) if that is nearer than 0 on the scale of the logarithmic loss.
    """
    score_M = probs_MK @ np.arange(1, probs_MK.shape[1] + 1) / probs_MK.sum(axis=1)
    bits = 10 if score_M.std() < 0.05 else 7
    half_MK = probs_MK.astype(np.float16)
    half_MK[(half_MK == 0) & (probs_MK > 4e-12)] = _SMALLEST
    fraction_MK, exponent_MK = np.frexp(half_MK.astype(np.float32))
    rounded_MK = np.ldexp(np.round(fraction_MK * 2.0 ** (bits + 1)) / 2.0 ** (bits + 1), exponent_MK).astype(np.float16)
    top_M1 = rounded_MK.max(axis=1, keepdims=True)
    below_M1 = (top_M1.view(np.uint16) - (1 << (10 - bits))).view(np.float16)
    has_risen_MK = (rounded_MK == top_M1) & (probs_MK < probs_MK.max(axis=1, keepdims=True))
    return np.where(has_risen_MK, below_M1, rounded_MK)


def row_of(record: AnyTrial) -> dict[str, Any]:
    """The flat columns of a trial; accuracies are shares, times are in seconds, sizes in bytes."""
    made = record.environment
    names = ("track", "dataset", "dataset_digest", "settings", "method", "seed", "num_stages")
    row: dict[str, Any] = {"trial": record.name} | {name: getattr(record, name) for name in names}
    row |= {f"recipe_{name}": value for name, value in _fields(record.trial.recipe).items()}
    if isinstance(record, EvaluatorRecord):
        row |= _fields(record.trial)
        for name in ("differentiable", "channel_invariant", "any_shape", "control"):
            row[name] = getattr(record, name)
        for subset in SUBSETS:
            row |= {f"{name}_{subset}": value for name, value in _fields(record.metrics[subset]).items()}
        row["spearman"] = record.trajectory.spearman
    else:
        row |= _fields(record.trial.method) | _fields(record.trial) | _fields(record.metrics)
        row |= {"score": record.score, "family": record.trial.family, "control": record.trial.method.is_control}
    row |= _fields(record.cost) | {"num_epochs": len(record.curve)}
    row |= {name: getattr(made, name) for name in ("device", "threads", "processor", "python", "fmcs_bench")}
    row |= {"torch": made.libraries.get("torch"), "code_digest": made.code_digest, "created": record.created}
    return row | {"key": record.key}


def _fields(options: Options) -> dict[str, Any]:
    values = {name: getattr(options, name) for name in type(options).model_fields}
    return {name: value for name, value in values.items() if value is None or isinstance(value, (str, int, float))}


def write(folder: Path, trials: Iterable[tuple[AnyTrial, Predictions]]) -> list[Path]:
    """Replace a folder's ``results`` and ``predictions``; the same trials in any order give the same bytes."""
    every = sorted(trials, key=lambda pair: pair[0].name)
    to_text = partial(json.dumps, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    contents: dict[Path, pa.Table] = {}
    for track in KINDS:
        of_track = [pair for pair in every if pair[0].track == track]
        rows = [row_of(record) | {_RECORD: to_text(record.to_json())} for record, _ in of_track]
        if rows:
            names = list(dict.fromkeys(name for row in rows for name in row if name != _RECORD))
            columns = {name: [row.get(name) for row in rows] for name in (*names, _RECORD)}
            contents[folder / "results" / f"{track}.parquet"] = pa.table(columns)
        for dataset in sorted({record.dataset for record, _ in of_track}):
            own = [pair for pair in of_track if pair[0].dataset == dataset]
            for end, table in (_answers(own) if track == "evaluator" else _classes(own)).items():
                contents[folder / "predictions" / f"{track}-{dataset}{end}.parquet"] = table
    for path, table in contents.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        floats = [name for name in table.column_names if pa.types.is_float16(table.schema.field(name).type)]
        pq.write_table(
            table,
            path,
            compression="zstd",
            compression_level=19,
            use_dictionary=[name for name in table.column_names if name not in (*floats, _RECORD)],
            column_encoding=dict.fromkeys(floats, "BYTE_STREAM_SPLIT"),
            row_group_size=2**20,
            write_statistics=False,
        )
    for path in {*folder.glob("results/*.parquet"), *folder.glob("predictions/*.parquet")} - contents.keys():
        path.unlink()
    return list(contents)


def _answers(trials: Sequence[tuple[Any, Predictions]]) -> dict[str, pa.Table]:
    """A row for each map, stage after stage; and one for each image of a checkpoint."""
    maps: dict[str, list[np.ndarray]] = {}
    scores: dict[str, list[np.ndarray]] = {}

    def add(columns: dict[str, list[np.ndarray]], **values: np.ndarray | str) -> None:
        num = max(len(value) for value in values.values() if isinstance(value, np.ndarray))
        for name, value in values.items():
            columns.setdefault(name, []).append(value if isinstance(value, np.ndarray) else np.full(num, value, object))

    for record, arrays in trials:
        trial = record.name
        for subset in (*SUBSETS, *(f"test_on/{other}" for other in record.test_on)):
            probs_KNK = arrays[f"{subset}/probs"]
            num_stages, num_images, _ = probs_KNK.shape
            probs_MK = rounded(probs_KNK.reshape(-1, num_stages))
            add(
                maps,
                trial=trial,
                subset=subset,
                run=np.tile(arrays[f"{subset}/run"], num_stages),
                image=np.tile(arrays[f"{subset}/image"], num_stages),
                stage=np.repeat(np.arange(1, num_stages + 1, dtype=np.int8), num_images),
                **{f"p{k + 1}": probs_MK[:, k] for k in range(num_stages)},
            )
        score_PT = arrays["trajectory/score"]
        num_checkpoints, num_images = score_PT.shape
        add(
            scores,
            trial=trial,
            checkpoint=np.repeat(np.arange(num_checkpoints, dtype=np.int32), num_images),
            image=np.tile(np.arange(num_images, dtype=np.int32), num_checkpoints),
            score=score_PT.astype(np.float16).reshape(-1),
        )
    return {"": _table(maps), "-trajectory": _table(scores)}


def _classes(trials: Sequence[tuple[AnyTrial, Predictions]]) -> dict[str, pa.Table]:
    rows: dict[str, list[np.ndarray]] = {}
    by_epoch: list[pa.Array] = []
    for record, arrays in trials:
        for split in ("validation", "test"):
            num = len(arrays[f"{split}/image"])
            rows.setdefault("trial", []).append(np.full(num, record.name, object))
            rows.setdefault("split", []).append(np.full(num, split, object))
            for name in ("image", "label", "predicted"):
                rows.setdefault(name, []).append(arrays[f"{split}/{name}"])
            found_EN = arrays.get(_BY_EPOCH) if split == "test" else None
            if found_EN is None:
                by_epoch.append(pa.nulls(num, pa.list_(pa.int16())))
            else:
                offsets = np.arange(num + 1, dtype=np.int32) * len(found_EN)
                by_epoch.append(pa.ListArray.from_arrays(offsets, found_EN.T.astype(np.int16).reshape(-1)))
    return {"": _table(rows).append_column("predicted_by_epoch", pa.chunked_array(by_epoch))}


def _table(columns: Mapping[str, list[np.ndarray]]) -> pa.Table:
    return pa.table({name: pa.array(np.concatenate(parts)) for name, parts in columns.items()})


def read(folder: Path, track: str | None = None) -> list[AnyTrial]:
    """All records of a folder of results, ordered by the names of their trials; ``track`` None is both tracks."""
    names = KINDS if track is None else [track]
    paths = [path for name in names if (path := folder / "results" / f"{name}.parquet").exists()]
    if not paths:
        raise MissingDataError(f"{folder} has no results/evaluator.parquet and no results/training.parquet")
    found: list[AnyTrial] = []
    for path in paths:
        for text in _read(path, [_RECORD]).column(_RECORD).to_pylist():
            try:
                found.append(KINDS[path.stem].model_validate_json(text))
            except ValidationError as error:
                raise RecordError(f"{path} has a record that is not valid: {error}") from None
    return found


def read_predictions(folder: Path, records: Iterable[AnyTrial]) -> Iterator[tuple[AnyTrial, dict[str, np.ndarray]]]:
    """Each record with its arrays under the names that a workspace has, as ``write`` rounded them; by dataset."""
    groups: dict[tuple[str, str], list[AnyTrial]] = {}
    for record in records:
        groups.setdefault((record.track, record.dataset), []).append(record)
    for (track, dataset), own in groups.items():
        stem = str(folder / "predictions" / f"{track}-{dataset}")
        parts = _split_by_trial(_read(Path(f"{stem}.parquet")))
        scores = _split_by_trial(_read(Path(f"{stem}-trajectory.parquet"))) if track == "evaluator" else {}
        for record in own:
            name = record.name
            if name not in parts or (scores and name not in scores):
                raise RecordError(f"{stem}.parquet has no predictions of {name}")
            if isinstance(record, EvaluatorRecord):
                yield record, _answers_of(parts[name], scores[name], record.num_stages)
            else:
                yield record, _classes_of(parts[name], record)


def _read(path: Path, columns: list[str] | None = None) -> pa.Table:
    try:
        return pq.read_table(path, columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise RecordError(f"{path} cannot be read: {error}") from None


def _split_by_trial(table: pa.Table) -> dict[str, pa.Table]:
    """The rows of each trial, which stand together."""
    codes = table.column("trial").combine_chunks().dictionary_encode()
    starts = np.flatnonzero(np.diff(codes.indices.to_numpy(), prepend=-1))
    ends = np.append(starts[1:], len(table))
    names = codes.dictionary.to_pylist()
    return {names[codes.indices[s].as_py()]: table.slice(s, e - s) for s, e in zip(starts, ends, strict=True)}


def _answers_of(maps: pa.Table, scores: pa.Table, num_stages: int) -> dict[str, np.ndarray]:
    subset_M = maps.column("subset").to_numpy()
    probs_MK = np.stack([maps.column(f"p{k + 1}").to_numpy() for k in range(num_stages)], axis=1).astype(np.float32)
    arrays: dict[str, np.ndarray] = {}
    for subset in dict.fromkeys(subset_M):
        is_own = subset_M == subset
        arrays[f"{subset}/probs"] = probs_MK[is_own].reshape(num_stages, -1, num_stages)
        for name in ("image", "run"):
            arrays[f"{subset}/{name}"] = maps.column(name).to_numpy()[is_own].reshape(num_stages, -1)[0]
    num_checkpoints = 1 + int(scores.column("checkpoint").to_numpy().max())
    score_PT = scores.column("score").to_numpy().reshape(num_checkpoints, -1)
    return arrays | {"trajectory/score": score_PT.astype(np.float32)}


def _classes_of(rows: pa.Table, record: TrainingRecord) -> dict[str, np.ndarray]:
    split_N = rows.column("split").to_numpy()
    arrays = {"epoch": np.array([record.metrics.epoch], dtype=np.int32)}
    for split in ("validation", "test"):
        own = rows.filter(pa.array(split_N == split))
        for name, dtype in (("image", np.int64), ("label", np.int32), ("predicted", np.int32)):
            arrays[f"{split}/{name}"] = own.column(name).to_numpy().astype(dtype)
        by_epoch = own.column("predicted_by_epoch").combine_chunks()
        if by_epoch.null_count < len(own):
            found_EN = by_epoch.flatten().to_numpy().reshape(len(own), -1).T
            arrays[_BY_EPOCH] = found_EN.astype(np.uint8 if found_EN.max() < 256 else np.int16)
    return arrays


def results(source: str | Path | None = None, *, track: str | None = None, dataset: str | None = None) -> pd.DataFrame:
    """All trials as a table, a row each.

    Args:
        source: a workspace, a folder with Parquet files of results, or a URL (any that fsspec reads) of one; None is
            the repository's own results, or where there is no checkout the workspace ``fmcs-workspace``.
        track: ``evaluator`` or ``training``; None is both.
        dataset: name of an FMCS dataset, with or without its digest; None is all.

    Returns:
        The columns of ``row_of``: accuracies are shares, times in seconds. A column that belongs to one track is
        empty for the other.

    Raises:
        MissingDataError: there are no results; the message says what to give.
        UnknownNameError: no such track or dataset.

    Example:
        >>> fmcs_bench.results(track="evaluator").groupby("method").mae_test_run.mean()  # doctest: +SKIP
    """
    import pandas as pd

    if track is not None and track not in KINDS:
        raise UnknownNameError(f"unknown track {track!r}; {nearest(track, KINDS)}")
    found = [frame for name, frame in _frames(source).items() if track in (None, name)]
    if not found:
        raise MissingDataError(f"{source or 'the default source'} has no results of the track {track}")
    table = pd.concat(found, ignore_index=True)
    if dataset is None:
        return table
    ids = table["dataset"] + "@" + table["dataset_digest"].str[:12]
    is_own = (table["dataset"] == dataset) | (ids == dataset)
    if not is_own.any():
        names = sorted(set(table["dataset"]))
        raise UnknownNameError(f"no results on a dataset {dataset!r}; {nearest(dataset, names)}")
    return table[is_own].reset_index(drop=True)


def _frames(source: str | Path | None) -> dict[str, pd.DataFrame]:
    import pandas as pd

    own = Path(fmcs_bench.__file__).parent.parent / "leaderboard"
    if source is None:
        source = own if (own / "results").is_dir() else Workspace().root
    for folder in (f"{source}/results", str(source)):
        system, root = fsspec.core.url_to_fs(folder)
        paths = {track: f"{root}/{track}.parquet" for track in KINDS}
        found = {track: path for track, path in paths.items() if system.exists(path)}
        if found:
            return {track: _flat(system, path) for track, path in found.items()}
    store = RecordStore(Workspace(source).records) if "://" not in str(source) else None
    every: list[AnyTrial] = [*store.all(EvaluatorRecord), *store.all(TrainingRecord)] if store else []
    if not every:
        raise MissingDataError(
            f"{source} has no results; give a workspace, or a folder or URL with evaluator.parquet or training.parquet"
        )
    rows = {track: [row_of(record) for record in every if record.track == track] for track in KINDS}
    return {track: pd.DataFrame(values) for track, values in rows.items() if values}


def _flat(system: Any, path: str) -> pd.DataFrame:
    with system.open(path, "rb") as stream:
        file = pq.ParquetFile(stream)
        names = [name for name in file.schema_arrow.names if name != _RECORD]
        table: pd.DataFrame = file.read(columns=names).to_pandas()
        return table
