"""Fitted evaluators on disk: ``evaluator.safetensors``, and ``evaluator.json`` with its SHA-256 and configuration."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch

from fmcs_bench.core import files
from fmcs_bench.core.errors import ConfigError, DatasetError, UnknownNameError
from fmcs_bench.core.options import Options
from fmcs_bench.evaluators.base import Evaluator, MapShape
from fmcs_bench.evaluators.registry import create_evaluator, evaluator_code
from fmcs_bench.results.trials import EvaluatorTrial

WEIGHTS = "evaluator.safetensors"
DESCRIPTION = "evaluator.json"


class FittedInfo(Options):
    """Content of ``evaluator.json``: all that is needed to make the evaluator again, besides the learned values."""

    config: EvaluatorTrial
    map_shape: MapShape
    num_stages: int
    dataset_id: str
    sha256: str


@dataclass(frozen=True)
class Fitted:
    """A fitted evaluator that was loaded, with its digest."""

    evaluator: Evaluator
    info: FittedInfo


def save_fitted(evaluator: Evaluator, dataset_id: str, folder: Path) -> str:
    """Write a fitted evaluator to a folder; returns the SHA-256 of its learned values."""
    data = evaluator.to_bytes()
    path = folder / WEIGHTS
    files.write_atomically(path, data)
    info = FittedInfo(
        config=evaluator.config,
        map_shape=evaluator.map_shape,
        num_stages=evaluator.num_stages,
        dataset_id=dataset_id,
        sha256=files.sha256_of_file(path),
    )
    files.write_atomically(folder / DESCRIPTION, files.to_json(info.to_json()))
    return info.sha256


def load_fitted(folder: Path, *, device: torch.device | None = None) -> Fitted:
    """Read an evaluator that ``save_fitted`` wrote; its digest and a plug-in's code are checked first."""
    info, data = _read(folder)
    if info.config.code is not None:
        _check_code(info.config)
    evaluator = create_evaluator(info.config, info.map_shape, info.num_stages, device=device)
    evaluator.from_bytes(data)
    return Fitted(evaluator, info)


def is_intact(folder: Path, sha256: str) -> bool:
    """Whether the folder has the whole fit whose learned values have this SHA-256."""
    try:
        return _read(folder)[0].sha256 == sha256
    except DatasetError:
        return False


def _read(folder: Path) -> tuple[FittedInfo, bytes]:
    try:
        info = FittedInfo.from_json(json.loads((folder / DESCRIPTION).read_bytes()))
        data = (folder / WEIGHTS).read_bytes()
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, ConfigError) as error:
        raise DatasetError(f"there is no fitted evaluator in {folder}: {error}") from None
    if hashlib.sha256(data).hexdigest() != info.sha256:
        raise DatasetError(f"{folder / WEIGHTS} is not the file that evaluator.json names")
    return info, data


def _check_code(config: EvaluatorTrial) -> None:
    try:
        code = evaluator_code(config.evaluator)
    except UnknownNameError:
        raise ConfigError(
            f"the evaluator {config.evaluator} is a plug-in that is missing; install its package, or name its file: "
            "--evaluator FILE.py:Class"
        ) from None
    if code != config.code:
        raise ConfigError(
            f"the code of the evaluator {config.evaluator} was changed since this fit; type `fmcs-bench evaluate` again"
        )
