"""The configuration of one fit of an evaluator."""

from __future__ import annotations

import itertools
import math
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from fmcs_bench.core import files
from fmcs_bench.core.errors import nearest
from fmcs_bench.core.options import NAME_PATTERN, Options
from fmcs_bench.training.recipes import Recipe

Head = Literal["softmax", "corn", "coral"]
Labels = Literal["true", "permuted"]
MAX_COMBINATIONS = 12
"""Of a grid: more fits of one evaluator and seed would rather fit the validation run than the data."""
GridValue = int | float | str
Combination = dict[str, GridValue]
"""Values of some fields of a recipe."""


class EvaluatorConfig(Options):
    """How one evaluator is fitted."""

    evaluator: str = Field(pattern=NAME_PATTERN)
    seed: int = Field(ge=0)
    epochs: int = Field(12, ge=1, description="upper bound; early stopping by MAE on the validation run")
    patience: int = Field(3, ge=1, description="epochs without a better validation MAE before fitting stops")
    limit: int | None = Field(None, ge=1, description="at most this many images in each split")
    test_limit: int | None = Field(
        None, ge=1, description="at most this many in every split but train; None is as limit says"
    )
    recipe: Recipe = Recipe(name="evaluator", batch_size=256)
    head: Head = Field("softmax", description="how a network's outputs become probabilities of ordered stages")
    code: str | None = Field(
        None, pattern="^[0-9a-f]{64}$", description="SHA-256 of the file with a plug-in's class; None for ours"
    )
    labels: Labels = Field("true", description="permuted: the stages of each image in a random order, a control")

    grid: dict[str, tuple[GridValue, ...]] = Field(
        {}, description="values of the recipe's fields to try; the combination that is best on the validation run stays"
    )

    added_later = frozenset({"head", "code", "labels", "grid", "test_limit"})

    @field_validator("grid")
    @classmethod
    def _in_order(cls, grid: dict[str, tuple[GridValue, ...]]) -> dict[str, tuple[GridValue, ...]]:
        """Fields by name and values ascending, however they were typed: one grid has one digest and one order."""
        fields = {name: field for name, field in Recipe.model_fields.items() if name != "name"}
        found: dict[str, tuple[GridValue, ...]] = {}
        for name, values in sorted(grid.items()):
            if name not in fields:
                raise ValueError(f"a recipe has no {name!r} to try values of; {nearest(name, fields)}")
            is_real = fields[name].annotation is float
            typed = [float(value) if is_real and type(value) is int else value for value in values]
            if not typed or len(set(typed)) != len(typed) or len({isinstance(value, str) for value in typed}) > 1:
                raise ValueError(f"{name} needs one or more values of one kind, each once, as in {name}=A,B")
            found[name] = tuple(sorted(typed))
        number = math.prod(map(len, found.values()))
        if number > MAX_COMBINATIONS:
            raise ValueError(f"{number} combinations; at most {MAX_COMBINATIONS} are allowed, so leave some values out")
        return found

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.recipe.augmentation != "none":
            raise ValueError(
                f"recipe.augmentation = {self.recipe.augmentation!r}: only images are augmented, an evaluator is "
                "fitted on maps as they are; use 'none'"
            )
        return self

    @model_validator(mode="after")
    def _check_grid(self) -> Self:
        recipes = [self.with_recipe(combination).recipe for combination in self.combinations]
        if "momentum" in self.grid and any(recipe.optimizer != "sgd" for recipe in recipes):
            raise ValueError("momentum is of the optimizer sgd alone; give the grid optimizer=sgd too")
        return self

    @property
    def limits(self) -> tuple[int | None, int | None]:
        """At most so many images of the train split, and of every other; None is all."""
        return self.limit, self.limit if self.test_limit is None else self.test_limit

    @property
    def combinations(self) -> tuple[Combination, ...]:
        """Every combination of the grid's values, the last field changing fastest; an empty one where there is no grid.

        Example:
            >>> EvaluatorConfig(evaluator="a", seed=0, grid={"lr": (0.1, 0.01), "batch_size": (64,)}).combinations
            ({'batch_size': 64, 'lr': 0.01}, {'batch_size': 64, 'lr': 0.1})
        """
        return tuple(dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values()))

    def with_recipe(self, combination: Combination) -> Self:
        """The same without a grid, its recipe changed to this combination.

        Raises:
            ConfigError: a value is not allowed.
        """
        recipe = Recipe.make(**(self.recipe.model_dump() | combination)) if combination else self.recipe
        return self.model_copy(update={"recipe": recipe, "grid": {}})

    @property
    def method(self) -> str:
        """Name of the fit: the evaluator, its head where that is not softmax, and whether its labels were permuted.

        Example:
            >>> [EvaluatorConfig(evaluator="conv", seed=0, head=head).method for head in ("softmax", "corn")]
            ['conv', 'conv+corn']
            >>> EvaluatorConfig(evaluator="set", seed=0, labels="permuted").method
            'set~permuted'
        """
        name = self.evaluator if self.head == "softmax" else f"{self.evaluator}+{self.head}"
        return name if self.labels == "true" else f"{name}~{self.labels}"

    @property
    def settings(self) -> str:
        """Names everything but evaluator, head, code, labels and seed; only fits with equal settings are compared.

        Example:
            >>> EvaluatorConfig(evaluator="a", seed=0).settings == EvaluatorConfig(evaluator="b", seed=1).settings
            True
        """
        varied = {"evaluator", "head", "code", "labels", "seed"}
        return f"{self.epochs}ep-{files.digest(self.model_dump(mode='json', exclude=varied))[:8]}"
