"""Hyperparameter grids of evaluators: as they are typed, and what a record says of a search.

Flow: ``lr=0.001,0.0003`` -> grid of an ``EvaluatorTrial`` -> one trial for each combination, with its MAE on the
validation run -> the search of a record, which is valid only where the kept one is the best.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping

from pydantic import Field

from fmcs_bench.core.errors import ConfigError
from fmcs_bench.core.options import Options
from fmcs_bench.results.trials import Combination, EvaluatorTrial, GridValue


class Trial(Options):
    """One combination that was fitted, and what came of it on the validation run; it saw no test side."""

    combination: Combination
    validation_mae: float | None = Field(ge=0, description="in stages; None where the fit diverged")
    num_epochs: int = Field(ge=0, description="of the fit; 0 where it diverged")
    seconds: float = Field(ge=0, description="wall time of the fit")


class GridSearch(Options):
    """What was tried, in the order of the grid, and which was kept: the lowest MAE, the first of equals.

    ``trials`` is empty, and ``kept`` None, where the evaluator uses no recipe: it was fitted once, without the grid.
    """

    trials: tuple[Trial, ...] = ()
    kept: int | None = Field(None, ge=0, description="position in ``trials``")


def parse(texts: Iterable[str]) -> dict[str, tuple[GridValue, ...]]:
    """What was typed, ``FIELD=VALUE,VALUE`` for each field, as the grid of an ``EvaluatorTrial``.

    Raises:
        ConfigError: another form, or a field twice.

    Example:
        >>> parse(["lr=0.001,3e-4", "optimizer=adam"])
        {'lr': (0.001, 0.0003), 'optimizer': ('adam',)}
    """
    found: dict[str, tuple[GridValue, ...]] = {}
    for text in texts:
        name, _, values = (part.strip() for part in text.partition("="))
        if not name or not values or name in found:
            raise ConfigError(f"--grid {text!r}: give each field of the recipe once, as in lr=0.001,0.0003")
        found[name] = tuple(_value(part.strip()) for part in values.split(","))
    return found


def _value(text: str) -> GridValue:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if type(value) in (int, float) and math.isfinite(value) else text


def said(grid: Mapping[str, Iterable[GridValue]]) -> str:
    """A grid in words, on one line.

    Example:
        >>> said({"batch_size": (128, 256), "lr": (0.0003, 0.001)})
        'batch_size = 128, 256; lr = 0.0003, 0.001'
    """
    return "; ".join(f"{name} = {', '.join(map(str, values))}" for name, values in grid.items())


def best(trials: Iterable[Trial]) -> int | None:
    """Position of the lowest MAE on the validation run, the first of equals; None where every fit diverged."""
    maes = [(trial.validation_mae, i) for i, trial in enumerate(trials) if trial.validation_mae is not None]
    return min(maes)[1] if maes else None


def fault(unit: EvaluatorTrial, search: GridSearch | None, validation_mae: float) -> str:
    """Why a record's search does not belong to its unit or metrics; empty where it does.

    Args:
        unit: of the record.
        search: of the record.
        validation_mae: of the fit that was tested.
    """
    if (search is not None) != bool(unit.grid):
        return "a unit with a grid has a grid_search, and no other has"
    if search is None or not search.trials:
        return "" if search is None or search.kept is None else "grid_search keeps a trial that is not there"
    if tuple(trial.combination for trial in search.trials) != unit.combinations:
        return "the trials of grid_search are not the combinations of the unit's grid, in its order"
    if search.kept is None or search.kept != best(search.trials):
        return f"grid_search keeps the trial {search.kept}, and {best(search.trials)} has the lowest validation MAE"
    if search.trials[search.kept].validation_mae != validation_mae:
        return f"the kept trial is not the fit that was tested: its validation MAE is not {validation_mae}"
    return ""
