"""Fits one unit of the evaluator track: once, or once for each combination of its grid.

Flow: unit -> for each combination: evaluator, fitted and asked about the validation run -> the one with the lowest MAE
there is kept, the others are dropped before any test side is asked about.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from fmcs_bench.core.errors import DivergedError, EvaluatorError
from fmcs_bench.evaluator_track import calls
from fmcs_bench.evaluator_track.protocol import HeldMaps
from fmcs_bench.evaluators.base import Evaluator
from fmcs_bench.evaluators.registry import find_evaluator
from fmcs_bench.results import grid, metrics
from fmcs_bench.results.grid import GridSearch, Trial
from fmcs_bench.results.records import Epoch
from fmcs_bench.results.trials import EvaluatorTrial


@dataclass(frozen=True)
class Fit:
    """A fitted evaluator.

    Attributes:
        evaluator: ready to be asked.
        curve: of its fit.
        seconds: wall time of the fit; of all fits, where several were tried.
        validation: its answers on the validation run; see ``contract.answer``.
        search: None where the unit has no grid.
    """

    evaluator: Evaluator
    curve: list[Epoch]
    seconds: float
    validation: dict[str, np.ndarray]
    search: GridSearch | None


def fit_unit(unit: EvaluatorTrial, make: Callable[[EvaluatorTrial], Evaluator], held: HeldMaps, num_stages: int) -> Fit:
    """Fit with the unit's recipe, or with every combination of its grid; keep the best on the validation run.

    Of equal MAEs the first combination is kept (``EvaluatorTrial.combinations``). An evaluator that uses no recipe is
    fitted once, and its search has no trials. A combination that diverges is a trial without a MAE.

    Args:
        unit: what to fit.
        make: an unfitted evaluator of a configuration.
        held: the sides of the protocol, of which ``train`` and ``validation_run`` are used.
        num_stages: K.

    Raises:
        EvaluatorError: a fit failed other than by diverging, or every combination diverged.
        ProtocolError: an evaluator broke its contract.
    """
    applies = bool(unit.grid) and find_evaluator(unit.evaluator).uses_recipe
    trials: list[Trial] = []
    kept: Fit | None = None
    diverged: EvaluatorError | None = None
    for combination in unit.combinations if applies else ({},):
        evaluator = make(unit.with_recipe(combination))
        begin = time.monotonic()
        try:
            curve, seconds = calls.fit(evaluator, held)
        except EvaluatorError as error:
            if not (applies and isinstance(error.__cause__, DivergedError)):
                raise
            diverged = error
            lost = time.monotonic() - begin
            trials.append(Trial(combination=combination, validation_mae=None, num_epochs=0, seconds=lost))
            continue
        validation, _ = calls.answer(evaluator, held, "validation_run", num_stages)
        mae = metrics.of_answers(validation["probs"]).mae
        trials.append(Trial(combination=combination, validation_mae=mae, num_epochs=len(curve), seconds=seconds))
        if grid.best(trials) == len(trials) - 1:
            kept = Fit(evaluator, curve, seconds, validation, None)
    if kept is None:
        raise EvaluatorError(f"{diverged}; so did every other combination of the grid") from diverged
    if not applies:
        return replace(kept, search=GridSearch()) if unit.grid else kept
    seconds = sum(trial.seconds for trial in trials)
    return replace(kept, seconds=seconds, search=GridSearch(trials=tuple(trials), kept=grid.best(trials)))
