"""A record against its predictions and its dataset: everything that can be computed again is.

Flow: reading, known datasets -> predictions of the right names, shapes, images and runs, finite and normalised -> the
metrics by the official code -> every number that differs, or cannot be, is a fault.

N images, K stages, P checkpoints, T images along the test run.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from fmcs_bench.core.errors import ProtocolError
from fmcs_bench.evaluator_track import runner as evaluation
from fmcs_bench.evaluators.registry import EVALUATORS, TRAITS
from fmcs_bench.leaderboard.faults import Tell
from fmcs_bench.leaderboard.pictured import Pictured
from fmcs_bench.leaderboard.reading import Reading
from fmcs_bench.results import metrics
from fmcs_bench.results.records import SUBSETS, EvaluatorRecord, Record, TrainingRecord, unit_key
from fmcs_bench.training_track import runner as experiments

TOLERANCE = 1e-8
"""Largest difference of a metric that rounding explains: probabilities are float32."""
SCORE_TOLERANCE = 1e-6
"""The same of scores along the test run, whose predictions are rounded to float32 one by one."""
FIRST_DAY = datetime(2026, 1, 1, tzinfo=UTC)
CLOCK_SKEW = timedelta(hours=1)
_AGAIN = "evaluate or train again, and bring record and predictions as they were written"


def check_record(reading: Reading, pictured: Pictured | None, now: datetime, tell: Tell) -> None:
    """Everything about one record that needs no other record.

    Args:
        reading: record and predictions.
        pictured: what its dataset says of the images; None where the dataset is unknown, and its images are taken on
            trust.
        now: the present time.
        tell: called with every fault.
    """
    record, arrays = reading.record, reading.arrays
    _check_notes(record, now, tell)
    if not _check_arrays(record, arrays, tell):
        return  # what is not there, or of another shape, cannot be computed with
    if isinstance(record, EvaluatorRecord):
        _check_evaluator(record, arrays, tell)
    else:
        _check_training(record, arrays, tell)
    if pictured is not None:
        pictured.check(record, arrays, tell)


def _check_notes(record: EvaluatorRecord | TrainingRecord, now: datetime, tell: Tell) -> None:
    key = unit_key(record.trial, record.dataset_digest, record.environment)
    if record.key != key:
        tell(
            f"key {record.key}",
            f"{key}, the digest of unit, dataset, code, libraries and device",
            "one of them was changed after the work was done; " + _AGAIN,
        )
    try:
        created = datetime.fromisoformat(record.created)
    except ValueError:
        created = None
    if created is None or created.tzinfo is None or not FIRST_DAY <= created <= now + CLOCK_SKEW:
        tell(
            f"created {record.created!r}",
            f"an ISO 8601 time with its zone between {FIRST_DAY.date()} and now",
            "set the clock of the machine, and " + _AGAIN,
        )
    epochs = [epoch.epoch for epoch in record.curve]
    if epochs != list(range(1, len(epochs) + 1)):
        tell(f"a curve of the epochs {epochs[:20]}", "1, 2, 3, ... without a gap", _AGAIN)


def _check_arrays(record: Record, arrays: Mapping[str, np.ndarray], tell: Tell) -> bool:
    """The predictions file has the arrays of its track, of the right types and shapes, and no other."""
    wanted = (
        _evaluator_arrays(record, arrays) if isinstance(record, EvaluatorRecord) else _training_arrays(record, arrays)
    )
    told: list[str] = []
    for name in sorted(wanted.keys() | arrays.keys()):
        if name not in wanted or name not in arrays:
            told.append(name)
            has, needs = ("lacks", "it") if name in wanted else ("has", "no such array")
            tell(f"the predictions file {has} {name!r}", needs, _AGAIN)
            continue
        (dtype, shape), found = wanted[name], arrays[name]
        if found.dtype != np.dtype(dtype) or found.shape != shape or 0 in shape:
            told.append(name)
            tell(
                f"{name!r} of the predictions is {found.dtype} {list(found.shape)}",
                f"{dtype} {list(shape)}, not empty",
                _AGAIN,
            )
        elif found.dtype.kind == "f" and not np.isfinite(found).all():
            told.append(name)
            tell(f"{name!r} of the predictions holds NaN or infinity", "finite numbers", _AGAIN)
    return not told


Shapes = dict[str, tuple[str, tuple[int, ...]]]


def _evaluator_arrays(record: EvaluatorRecord, arrays: Mapping[str, np.ndarray]) -> Shapes:
    num_stages, wanted = record.num_stages, Shapes()
    for place in (*SUBSETS, *(f"test_on/{name}" for name in record.test_on)):
        num_images = arrays[f"{place}/image"].size if f"{place}/image" in arrays else 0
        wanted[f"{place}/probs"] = "float32", (num_stages, num_images, num_stages)
        wanted[f"{place}/image"] = wanted[f"{place}/run"] = "int64", (num_images,)
    scores = arrays.get("trajectory/score")
    num_followed = scores.shape[1] if scores is not None and scores.ndim == 2 else 0
    wanted["trajectory/score"] = "float32", (len(record.trajectory.step), num_followed)
    return wanted


def _training_arrays(record: Record, arrays: Mapping[str, np.ndarray]) -> Shapes:
    wanted = Shapes({"epoch": ("int32", (1,))})
    for place in ("validation", "test"):
        num_images = arrays[f"{place}/image"].size if f"{place}/image" in arrays else 0
        wanted[f"{place}/image"] = "int64", (num_images,)
        wanted[f"{place}/label"] = wanted[f"{place}/predicted"] = "int32", (num_images,)
        if place == "test" and experiments.EVERY_EPOCH in arrays:
            small = "uint8" if arrays[experiments.EVERY_EPOCH].dtype == np.uint8 else "int16"
            wanted[experiments.EVERY_EPOCH] = small, (len(record.curve), num_images)
    return wanted


def _check_evaluator(record: EvaluatorRecord, arrays: dict[str, np.ndarray], tell: Tell) -> None:
    for name, probs_KNK in arrays.items():
        if name.endswith("/probs"):
            probs_MK = probs_KNK.reshape(-1, record.num_stages)
            try:
                metrics.check_probabilities(
                    probs_MK, len(probs_MK), record.num_stages, evaluator=record.method, split=name
                )
            except ProtocolError as error:
                tell(str(error), "probabilities", _AGAIN)
                return
    if set(record.metrics) != set(SUBSETS):
        tell(f"metrics of {', '.join(sorted(record.metrics))}", f"of {', '.join(SUBSETS)}", _AGAIN)
    again = {name: found.to_json() for name, found in evaluation.recompute(arrays).items()}
    for column, found in record.metrics.items():
        _compare(f"metrics.{column}", found.to_json(), again[column], tell)
    others = evaluation.recompute_test_on(arrays)
    for name, found in record.test_on.items():
        _compare(f"test_on.{name}", found.to_json(), others[name].to_json(), tell)
    _check_trajectory(record, arrays["trajectory/score"], tell)
    if record.cost.scoring_maps not in (None, again["test_run"]["num_maps"]):
        tell(f"cost.scoring_maps {record.cost.scoring_maps}", f"{again['test_run']['num_maps']}, of test_run", _AGAIN)
    _possible(
        "curve.validation",
        [epoch.validation for epoch in record.curve],
        int(again["validation_run"]["num_maps"]),
        record.num_stages - 1,
        tell,
    )
    _check_traits(record, tell)


def _check_traits(record: EvaluatorRecord, tell: Tell) -> None:
    """What an evaluator is said to be is what its class is; of a plug-in the class need not be here."""
    name = record.trial.evaluator
    if record.trial.code is not None:
        return
    if name not in EVALUATORS:
        tell(f"an evaluator {name!r} without the digest of its code", f"one of {', '.join(EVALUATORS.names())}", _AGAIN)
        return
    for trait in (*TRAITS, "control"):
        stated, is_so = getattr(record, trait), getattr(EVALUATORS[name], trait)
        is_so = is_so or (trait == "control" and record.trial.labels == "permuted")
        if stated != is_so:
            tell(f"{trait} is {stated} for {name}", f"{is_so}", _AGAIN)


def _check_trajectory(record: EvaluatorRecord, score_PT: np.ndarray, tell: Tell) -> None:
    told = record.trajectory
    lengths = {len(told.step), len(told.score), len(told.validation_accuracy)}
    if len(lengths) > 1:
        tell(f"trajectory lists of {sorted(lengths)} values", "lists of one length", _AGAIN)
        return
    if score_PT.min() < 1 - SCORE_TOLERANCE or score_PT.max() > record.num_stages + SCORE_TOLERANCE:
        tell("scores along the test run outside the stages", f"scores from 1 to {record.num_stages}", _AGAIN)
    score_P = score_PT.astype(np.float64).mean(axis=1)
    for p in np.flatnonzero(np.abs(score_P - np.array(told.score)) > SCORE_TOLERANCE):
        tell(f"trajectory.score[{p}] {told.score[p]!r}", f"{score_P[p]!r}, from the predictions", _AGAIN)
    again = metrics.rank_correlation(np.array(told.score), np.array(told.validation_accuracy))
    _compare("trajectory", {"spearman": told.spearman}, {"spearman": again}, tell)


def _check_training(record: TrainingRecord, arrays: dict[str, np.ndarray], tell: Tell) -> None:
    for place in ("validation", "test"):
        ids_N, labels_N = arrays[f"{place}/image"], arrays[f"{place}/label"]
        if len(np.unique(ids_N)) < len(ids_N) or labels_N.min() < 0:
            tell(f"{place} predictions with an image twice or a negative label", "every image once", _AGAIN)
    found, again = record.metrics.to_json(), experiments.recompute(arrays).to_json()
    _compare("metrics", found, again, tell)
    num_epochs, validation = len(record.curve), [epoch.validation for epoch in record.curve]
    if num_epochs != record.trial.num_epochs:
        tell(f"a curve of {num_epochs} epochs", f"the {record.trial.num_epochs} of the unit", _AGAIN)
    _possible("curve.validation", validation, int(again["num_validation"]), 1, tell)
    best = 1 + max(range(num_epochs), key=validation.__getitem__)  # the first of equals
    if record.metrics.epoch != best:
        tell(
            f"metrics.epoch {record.metrics.epoch}", f"{best}, of the highest validation accuracy of the curve", _AGAIN
        )
        return
    if abs(validation[best - 1] - record.metrics.validation_accuracy) > TOLERANCE:
        tell(
            f"metrics.validation_accuracy {record.metrics.validation_accuracy!r}",
            f"{validation[best - 1]!r}, that of epoch {best} in the curve",
            _AGAIN,
        )
    by_epoch = arrays.get(experiments.EVERY_EPOCH)
    if by_epoch is not None and (by_epoch[best - 1] != arrays["test/predicted"]).any():
        tell(f"{experiments.EVERY_EPOCH} of epoch {best}", "equal to test/predicted, which is of that epoch", _AGAIN)


def _possible(name: str, values: list[float], num: int, largest: float, tell: Tell) -> None:
    """A share of ``num`` images, or a mean of ``num`` whole numbers, is a multiple of 1 / num."""
    for i, value in enumerate(values):
        if abs(value * num - round(value * num)) > num * TOLERANCE or not 0 <= value <= largest:
            tell(f"{name}[{i}] {value!r}", f"a multiple of 1/{num} from 0 to {largest:g}", _AGAIN)


def _compare(where: str, found: Mapping[str, Any], again: Mapping[str, Any], tell: Tell) -> None:
    for name in sorted(found.keys() | again.keys()):
        stated, computed = found.get(name), again.get(name)
        if stated is None or computed is None:
            equal = stated is computed
        else:
            equal = abs(stated - computed) <= TOLERANCE * (1 + abs(computed))
        if not equal:
            tell(f"{where}.{name} {stated!r}", f"{computed!r}, computed from the predictions", _AGAIN)
