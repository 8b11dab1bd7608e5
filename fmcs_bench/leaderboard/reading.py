"""Reads a record and its predictions from a file that anybody may have written.

Flow: path -> size, before anything is parsed -> JSON without surprises -> strict schema -> address -> predictions file
with the SHA-256 that the record names -> arrays; or faults, and never an error of a library.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fmcs_bench.core.errors import ConfigError
from fmcs_bench.leaderboard.faults import Tell
from fmcs_bench.results.records import SCHEMA_VERSION, EvaluatorRecord, TrainingRecord
from fmcs_bench.results.store import RecordStore, predictions_path, unpack_predictions
from fmcs_bench.store.verify import guarded

MAX_RECORD_BYTES = 1_000_000
MAX_PREDICTIONS_BYTES = 64_000_000
"""The largest so far, of 9 stages and 10,000 images a side, are a tenth of it; GitHub refuses files above 100 MB."""
MAX_TEXT = 500
KINDS: dict[str, type[EvaluatorRecord | TrainingRecord]] = {"evaluator": EvaluatorRecord, "training": TrainingRecord}
_REWRITE = "let fmcs-bench write the record, and change nothing in it"


@dataclass(frozen=True)
class Reading:
    """A record as it was read.

    Attributes:
        path: of the record.
        record: of either track.
        arrays: the predictions by their names.
    """

    path: Path
    record: EvaluatorRecord | TrainingRecord
    arrays: dict[str, np.ndarray]


def read(path: Path, tell: Tell) -> Reading | None:
    """The record at ``path`` with its predictions; None where a fault was told that leaves nothing to check.

    Args:
        path: of the record, ``.../<track>/<dataset>/<settings>/<method>/seed-<n>.json``.
        tell: called with every fault.
    """
    data = _bytes(path, MAX_RECORD_BYTES, tell)
    value = None if data is None else _parse(data, tell)
    record = None if value is None else _record(value, tell)
    if record is None:
        return None
    address = RecordStore(Path()).address(record)
    if path.absolute().parts[-len(address.parts) :] != address.parts:
        tell(f"it lies at {'/'.join(path.parts[-5:])}", f"the address of its content, {address}", "move it there")
    beside = predictions_path(path)
    data = _bytes(beside, MAX_PREDICTIONS_BYTES, tell)
    if data is None:
        return None
    digest = hashlib.sha256(data).hexdigest()
    if digest != record.predictions_sha256:
        tell(
            f"{beside.name} has the SHA-256 {digest}",
            f"{record.predictions_sha256}, which the record names",
            "bring the predictions file that was written with the record",
        )
        return None
    arrays = _arrays(data, tell)
    return None if arrays is None else Reading(path, record, arrays)


def _bytes(path: Path, limit: int, tell: Tell) -> bytes | None:
    if path.is_symlink():
        tell(f"{path.name} is a link", "a file", "put the file itself there")
        return None
    try:
        size = path.stat().st_size
        if size <= limit and path.is_file():
            return path.read_bytes()
    except OSError as error:
        tell(f"{path.name} cannot be read ({error.strerror})", "a file", "bring it; record and predictions go together")
        return None
    if path.is_file():
        tell(f"{path.name} has {size:,} bytes", f"at most {limit:,}", "it was not read; evaluate with --limit")
    else:
        tell(f"{path.name} is no file", "a file", "remove it")
    return None


def _parse(data: bytes, tell: Tell) -> dict[str, Any] | None:
    def no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) < len(pairs):
            raise ValueError("a name stands there twice in one object")
        return dict(pairs)

    try:
        value = json.loads(data.decode(), object_pairs_hook=no_name_twice)
    except (ValueError, RecursionError) as error:
        tell(f"it cannot be read as JSON ({error})", "the JSON that fmcs-bench writes", _REWRITE)
        return None
    if not isinstance(value, dict):
        tell(f"it holds a {type(value).__name__}", "a JSON object", _REWRITE)
        return None
    for text in _texts(value):
        if len(text) > MAX_TEXT or not text.isprintable() or "<" in text or ">" in text:
            tell(
                f"the text {text[:40]!r}",
                f"printable text without < and >, of at most {MAX_TEXT} characters",
                "write plain text",
            )
            return None
    return value


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _record(value: dict[str, Any], tell: Tell) -> EvaluatorRecord | TrainingRecord | None:
    version, track = value.get("schema_version"), value.get("track")
    if version != SCHEMA_VERSION or isinstance(version, bool):
        tell(
            f"schema_version {version!r}",
            f"{SCHEMA_VERSION}",
            "evaluate or train again with this version of fmcs-bench; records are not converted",
        )
        return None
    if not isinstance(track, str) or track not in KINDS:
        tell(f"track {track!r}", " or ".join(KINDS), _REWRITE)
        return None
    try:
        return KINDS[track].from_json(value)
    except ConfigError as error:
        for line in str(error).splitlines():
            tell(line, f"the schema of {KINDS[track].__name__} (`fmcs-bench leaderboard schema`)", _REWRITE)
    except RecursionError:
        tell("it is nested without end", f"the schema of {KINDS[track].__name__}", _REWRITE)
    return None


def _arrays(data: bytes, tell: Tell) -> dict[str, np.ndarray] | None:
    found: list[str] = []
    arrays: dict[str, np.ndarray] = {}
    with guarded(found.append, "the predictions file cannot be read"):
        arrays = unpack_predictions(data)
    for fault in found:
        tell(fault, "a safetensors file", "bring the predictions file that was written with the record")
    return None if found else arrays
