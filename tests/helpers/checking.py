"""Copies of committed records that a test may damage, and the faults that the check tells of them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from fmcs_bench.leaderboard.check import check, check_one
from fmcs_bench.leaderboard.faults import Fault, Report
from fmcs_bench.leaderboard.known import KnownDatasets, find_manifests
from fmcs_bench.results.store import pack_predictions, predictions_path, unpack_predictions

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "leaderboard/records"
CARDS = ROOT / "data_cards"
KNOWN = KnownDatasets(find_manifests([CARDS]))
NOW = datetime.now(UTC)


def first(pattern: str) -> Path:
    return min(COMMITTED.glob(pattern))


EVALUATOR = first("evaluator/*/*/conv/seed-0.json")
TRAINING = first("training/*/*/ral-*@0.9/seed-100.json")
BASELINE = first("training/*/*/baseline/seed-100.json")


def copy(path: Path, root: Path) -> Path:
    """A copy of a committed record at its address below ``root``; its predictions are a link to the same bytes."""
    target = root / path.relative_to(COMMITTED)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(path.read_bytes())
    os.link(predictions_path(path), predictions_path(target))
    return target


def copy_method(path: Path, root: Path) -> list[Path]:
    """Copies of all seeds of a record's method."""
    return [copy(other, root) for other in sorted(path.parent.glob("seed-*.json"))]


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Change the JSON of a record in place."""
    value = json.loads(path.read_bytes())
    change(value)
    path.write_text(json.dumps(value))
    return path


def edit_predictions(path: Path, change: Callable[[dict[str, np.ndarray]], object]) -> Path:
    """Change the predictions as somebody would who also makes the record name them."""
    arrays = {name: array.copy() for name, array in unpack_predictions(predictions_path(path).read_bytes()).items()}
    change(arrays)
    return replace_predictions(path, pack_predictions(arrays))


def replace_predictions(path: Path, data: bytes) -> Path:
    predictions_path(path).unlink()
    predictions_path(path).write_bytes(data)
    return edit(path, lambda value: value.update(predictions_sha256=hashlib.sha256(data).hexdigest()))


def faults_of(path: Path, known: KnownDatasets = KNOWN) -> list[Fault]:
    """Of one record by itself."""
    faults: list[Fault] = []
    check_one(path, known, NOW, faults, [])
    return faults


def report_of(*paths: Path, **options: Any) -> Report:
    return check(paths, datasets=[CARDS], **options)
