"""One fit of an evaluator, or one for each combination of its grid, of which the best on the validation run is kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from fmcs_bench.core.errors import DivergedError, EvaluatorError
from fmcs_bench.evaluator_track import calls
from fmcs_bench.evaluator_track.protocol import SharedMaps
from fmcs_bench.evaluators.base import Evaluator
from fmcs_bench.evaluators.registry import find_evaluator
from fmcs_bench.results import metrics
from fmcs_bench.results.records import Epoch
from fmcs_bench.results.trials import Attempt, EvaluatorTrial, GridSearch, best_attempt


@dataclass(frozen=True)
class Fit:
    """A fitted evaluator with its answers on the validation run; the seconds are those of all fits of a grid."""

    evaluator: Evaluator
    curve: list[Epoch]
    seconds: float
    validation: dict[str, np.ndarray]
    search: GridSearch | None


def fit_trial(
    trial: EvaluatorTrial, make: Callable[[EvaluatorTrial], Evaluator], maps: SharedMaps, num_stages: int
) -> Fit:
    """Fit with the trial's recipe, or with every combination of its grid; keep the best on the validation run.

    Of equal MAEs the first combination is kept. An evaluator that uses no recipe is fitted once, and its search has no
    attempts. A combination that diverges is an attempt without a MAE; where all do, it is an ``EvaluatorError``.
    """
    applies = bool(trial.grid) and find_evaluator(trial.evaluator).uses_recipe
    attempts: list[Attempt] = []
    kept: Fit | None = None
    diverged: EvaluatorError | None = None
    for combination in trial.combinations if applies else ({},):
        evaluator = make(trial.with_recipe(combination))
        begin = time.monotonic()
        try:
            curve, seconds = calls.fit(evaluator, maps)
        except EvaluatorError as error:
            if not (applies and isinstance(error.__cause__, DivergedError)):
                raise
            diverged = error
            lost = time.monotonic() - begin
            attempts.append(Attempt(combination=combination, validation_mae=None, num_epochs=0, seconds=lost))
            continue
        validation, _ = calls.answer(evaluator, maps, "validation_run", num_stages)
        mae = metrics.of_answers(validation["probs"]).mae
        attempts.append(Attempt(combination=combination, validation_mae=mae, num_epochs=len(curve), seconds=seconds))
        if best_attempt(attempts) == len(attempts) - 1:
            kept = Fit(evaluator, curve, seconds, validation, None)
    if kept is None:
        raise EvaluatorError(f"{diverged}; so did every other combination of the grid") from diverged
    if not applies:
        return replace(kept, search=GridSearch()) if trial.grid else kept
    search = GridSearch(attempts=tuple(attempts), kept=best_attempt(attempts))
    return replace(kept, seconds=sum(attempt.seconds for attempt in attempts), search=search)
