"""Hyperparameter grids of evaluators: how they are typed, and what a record keeps of a search."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence

from pydantic import Field

from fmcs_bench.core.errors import ConfigError
from fmcs_bench.core.options import Options
from fmcs_bench.results.trials import Combination, EvaluatorTrial, GridValue

Grid = Mapping[str, Sequence[GridValue]]


class Attempt(Options):
    """One combination of a grid, fitted, with its result on the validation run; it saw no test maps."""

    combination: Combination
    validation_mae: float | None = Field(ge=0, description="in stages; None where the fit diverged")
    num_epochs: int = Field(ge=0, description="of the fit; 0 where it diverged")
    seconds: float = Field(ge=0, description="wall time of the fit")


class GridSearch(Options):
    """All combinations in the order of the grid, and which was kept: the lowest MAE, the first of equals.

    Without attempts, and ``kept`` None, where the evaluator uses no recipe: it was fitted once, without the grid.
    """

    attempts: tuple[Attempt, ...] = ()
    kept: int | None = Field(None, ge=0, description="position in ``attempts``")

    def fault(self, trial: EvaluatorTrial, validation_mae: float) -> str:
        """Why this search does not belong to a trial and the MAE of the fit that was tested; empty where it does."""
        if not self.attempts:
            return "" if self.kept is None else "grid_search keeps an attempt that is not there"
        if tuple(attempt.combination for attempt in self.attempts) != trial.combinations:
            return "the attempts of grid_search are not the combinations of the trial's grid, in its order"
        best = best_attempt(self.attempts)
        if self.kept is None or self.kept != best:
            return f"grid_search keeps the attempt {self.kept}, and {best} has the lowest validation MAE"
        if self.attempts[self.kept].validation_mae != validation_mae:
            return f"the kept attempt is not the fit that was tested: its validation MAE is not {validation_mae}"
        return ""


def best_attempt(attempts: Iterable[Attempt]) -> int | None:
    """Position of the lowest MAE on the validation run, the first of equals; None where every fit diverged."""
    maes = [(attempt.validation_mae, i) for i, attempt in enumerate(attempts) if attempt.validation_mae is not None]
    return min(maes)[1] if maes else None


def parse_grid(texts: Iterable[str]) -> dict[str, tuple[GridValue, ...]]:
    """``FIELD=VALUE,VALUE`` texts as the grid of an ``EvaluatorTrial``.

    Raises:
        ConfigError: not of this form, or a field twice.

    Example:
        >>> parse_grid(["lr=0.001,3e-4", "optimizer=adam"])
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


def grid_in_words(grid: Grid) -> str:
    """A grid on one line.

    Example:
        >>> grid_in_words({"batch_size": (128, 256), "lr": (0.0003, 0.001)})
        'batch_size = 128, 256; lr = 0.0003, 0.001'
    """
    return "; ".join(f"{name} = {', '.join(map(str, values))}" for name, values in grid.items())
