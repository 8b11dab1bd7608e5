"""Options of ``fmcs_bench.evaluate``: checked once, and passed unchanged to the trials."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from fmcs_bench.core.options import Options
from fmcs_bench.results.trials import GridValue, Head, parse_grid
from fmcs_bench.training.methods import NUM_SEEDS


class EvaluateOptions(Options):
    """Which evaluators are fitted and how; the same for every dataset of one command."""

    evaluators: tuple[str, ...] = Field(
        (),
        description="Evaluator, such as set, conv+corn or set~permuted, or FILE.py:Class, which runs that file; repeat "
        "for several.",
        json_schema_extra={"flag": "--evaluator", "metavar": "NAME|FILE.py:Class", "default": "all"},
    )
    head: Head = Field(
        "softmax",
        description="How outputs become probabilities; corn and coral are ordinal. Only for evaluators that are "
        "networks.",
    )
    seeds: int = Field(NUM_SEEDS, ge=1, description="Fits of each evaluator.")
    limit: int | None = Field(None, ge=1, description="Largest number of images in each split of each run.")
    test_limit: int | None = Field(
        None,
        ge=1,
        description="Largest number of images in every split but train.",
        json_schema_extra={"default": "as --limit"},
    )
    grid: dict[str, tuple[GridValue, ...]] = Field(
        {},
        description="Values to try of a field of the recipe, such as lr=0.001,0.0003; repeat for several fields, at "
        "most 12 combinations. Of each fit, the best one on the validation run is tested.",
        json_schema_extra={"flag": None},  # an option of its own: FIELD=VALUES, more than once
    )

    @field_validator("evaluators", mode="before")
    @classmethod
    def _names(cls, names: Any) -> Any:
        return names if isinstance(names, str) else tuple(names)

    @field_validator("grid", mode="before")
    @classmethod
    def _values(cls, grid: Any) -> dict[str, tuple[GridValue, ...]]:
        """As typed, ``("lr=0.1,0.01", ...)``, or as ``{"lr": [0.1, 0.01]}``."""
        grid = dict(grid) if isinstance(grid, dict) else parse_grid(grid or ())
        return {name: tuple(values) for name, values in grid.items()}
