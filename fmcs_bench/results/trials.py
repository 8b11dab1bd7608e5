"""What identifies a trial, one fit of an evaluator or one training: all that decides its result but data and code."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from fmcs_bench.backbones.options import NamesBackbone
from fmcs_bench.core import files
from fmcs_bench.core.environment import Sha256
from fmcs_bench.core.errors import ConfigError, nearest
from fmcs_bench.core.options import FIT_PATTERN, NAME_PATTERN, Options
from fmcs_bench.training.methods import Method
from fmcs_bench.training.recipes import Recipe

Head = Literal["softmax", "corn", "coral"]
Labels = Literal["true", "permuted"]
MAX_COMBINATIONS = 12
"""Of a grid: with more, the best one would fit the validation run rather than the data."""
GridValue = int | float | str
Combination = dict[str, GridValue]
"""Values of some fields of a recipe."""
_PERMUTED = "~permuted"
"""Ends the name of a fit on permuted labels."""


class EvaluatorTrial(Options):
    """One fit of an evaluator."""

    evaluator: str = Field(pattern=NAME_PATTERN)
    seed: int = Field(ge=0)
    epochs: int = Field(12, ge=1, description="upper bound; early stopping by MAE on the validation run")
    patience: int = Field(3, ge=1, description="epochs without a better validation MAE before fitting stops")
    limit: int | None = Field(None, ge=1, description="at most this many images in each split")
    test_limit: int | None = Field(
        None, ge=1, description="at most this many images in every split but train; None: the same as limit"
    )
    recipe: Recipe = Recipe(name="evaluator", batch_size=256)
    head: Head = Field("softmax", description="how a network's outputs become probabilities of ordered stages")
    code: str | None = Field(
        None, pattern="^[0-9a-f]{64}$", description="SHA-256 of the file with a plug-in's class; None for built-in ones"
    )
    labels: Labels = Field("true", description="permuted: the stages of each image in a random order, a control")
    grid: dict[str, tuple[GridValue, ...]] = Field(
        {}, description="values of the recipe's fields to try; the best combination on the validation run is kept"
    )

    added_later = frozenset({"head", "code", "labels", "grid", "test_limit"})

    @field_validator("grid")
    @classmethod
    def _in_order(cls, grid: dict[str, tuple[GridValue, ...]]) -> dict[str, tuple[GridValue, ...]]:
        """Fields by name and values ascending, so that a grid has one digest and one order."""
        fields = {name: field for name, field in Recipe.model_fields.items() if name != "name"}
        found: dict[str, tuple[GridValue, ...]] = {}
        for name, values in sorted(grid.items()):
            if name not in fields:
                raise ValueError(f"a recipe has no field {name!r}; {nearest(name, fields)}")
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
            raise ValueError(f"recipe.augmentation = {self.recipe.augmentation!r}: maps are not augmented; use 'none'")
        recipes = [self.with_recipe(combination).recipe for combination in self.combinations]
        if "momentum" in self.grid and any(recipe.optimizer != "sgd" for recipe in recipes):
            raise ValueError("only the optimizer sgd has a momentum; add optimizer=sgd to the grid")
        return self

    @property
    def limits(self) -> tuple[int | None, int | None]:
        """Largest number of images of the train split, and of every other split; None is all."""
        return self.limit, self.limit if self.test_limit is None else self.test_limit

    @property
    def combinations(self) -> tuple[Combination, ...]:
        """Every combination of the grid's values, the last field changing fastest; without a grid, one empty one."""
        return tuple(dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values()))

    def with_recipe(self, combination: Combination) -> Self:
        """The same without a grid, its recipe changed to this combination."""
        recipe = Recipe.make(**(self.recipe.model_dump() | combination)) if combination else self.recipe
        return self.model_copy(update={"recipe": recipe, "grid": {}})

    @property
    def permuted(self) -> Self:
        """The control of this fit: the same on permuted labels."""
        return self.model_copy(update={"labels": "permuted"})

    @property
    def is_control(self) -> bool:
        """Whether it was fitted on permuted labels."""
        return self.labels == "permuted"

    @property
    def method(self) -> str:
        """Name of the fit: evaluator, head where not softmax, and control, as in ``conv+corn~permuted``."""
        head = "" if self.head == "softmax" else f"+{self.head}"
        return f"{self.evaluator}{head}{_PERMUTED if self.is_control else ''}"

    @property
    def settings(self) -> str:
        """Names everything but evaluator, head, code, labels and seed; only fits with equal settings are compared."""
        varied = {"evaluator", "head", "code", "labels", "seed"}
        return f"{self.epochs}ep-{files.digest(self.model_dump(mode='json', exclude=varied))[:8]}"


class Attempt(Options):
    """One combination of a grid, fitted, with its result on the validation run; it saw no test maps."""

    combination: Combination
    validation_mae: float | None = Field(ge=0, description="in stages; None where the fit diverged")
    num_epochs: int = Field(ge=0, description="of the fit; 0 where it diverged")
    seconds: float = Field(ge=0, description="wall time of the fit")


class GridSearch(Options):
    """All combinations in the order of the grid, and which was kept; empty where the evaluator uses no recipe."""

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
    """``FIELD=VALUE,VALUE`` texts as the grid of an ``EvaluatorTrial``."""
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


class Longer(Options):
    """How much longer the control ``longer`` is trained, so that it costs what RAL costs."""

    flops_ratio: float = Field(ge=1, description="FLOPs of a step of RAL divided by those of a step of the baseline")
    epochs: int = Field(ge=1, description="the usual number of epochs times the ratio, rounded up")


class TrainingTrial(NamesBackbone):
    """One training."""

    method: Method
    recipe: Recipe
    epochs: int = Field(ge=1)
    image_size: int
    limit: int | None
    seed: int = Field(ge=0, description="of the order of images, of noise, and (init = fresh) of the weights")
    evaluator: str | None = Field(pattern=FIT_PATTERN, description="None where the method uses none")
    evaluator_digest: Sha256 | None
    init: Literal["fresh", "same-run"] = Field(
        "fresh", description="same-run: start from the initial weights of a training run of the dataset"
    )
    run: int | None = Field(None, ge=0, description="seed of that run; it decides the initial weights")
    longer: Longer | None = None
    watcher: str | None = Field(
        None, pattern=FIT_PATTERN, description="the dataset's chosen evaluator, which scores validation images"
    )
    watcher_digest: Sha256 | None = None

    added_later = frozenset({"backbone_options", "init", "run", "longer", "watcher", "watcher_digest"})

    @model_validator(mode="after")
    def _check(self) -> Self:
        if {self.evaluator is not None, self.evaluator_digest is not None} != {self.method.uses_evaluator}:
            raise ValueError("a method with RAF below 1, and longer, name an evaluator with its digest; others do not")
        if (self.watcher is None) != (self.watcher_digest is None):
            raise ValueError("a watcher needs its digest")
        if self.evaluator and self.evaluator.endswith(_PERMUTED) != (self.method.evaluator_kind == "permuted"):
            raise ValueError(f"the evaluator {self.evaluator} is not {self.method.evaluator_kind}")
        if (self.init == "same-run") != (self.run is not None):
            raise ValueError("init = 'same-run' needs a run, and no other init has one")
        if (self.method.control == "longer") != (self.longer is not None):
            raise ValueError("the control longer needs its length, and no other method has one")
        return self

    @property
    def weights_seed(self) -> int:
        """Seed of the initial weights."""
        return self.seed if self.run is None else self.run

    @property
    def num_epochs(self) -> int:
        """Epochs of this training; more than ``epochs`` for the control ``longer``."""
        return self.epochs if self.longer is None else self.longer.epochs

    @property
    def evaluator_name(self) -> str | None:
        """The evaluator as ``--evaluator`` takes it, without its kind of labels."""
        return None if self.evaluator is None else self.evaluator.removesuffix(_PERMUTED)

    @property
    def family(self) -> str:
        """The method with its evaluator, without its RAF, as ``ral-set``; RAF = 0 is a family of its own."""
        return "-".join(filter(None, (self.method.family, self.evaluator_name)))

    @property
    def ral_family(self) -> str:
        """The family, where RAF = 0 counts as a value of RAL: ``ral-set`` for ``fmcs-only-set``."""
        return "-".join(filter(None, (self.method.ral_family, self.evaluator_name)))

    @property
    def label(self) -> str:
        """The family, with its RAF where it has a choice of them."""
        return self.family if self.method.raf in (0, 1) else f"{self.family}@{self.method.raf:.12g}"

    @property
    def settings(self) -> str:
        """Names everything but method, evaluator, seed and watcher; only trainings with equal settings are compared."""
        varied = {"method", "seed", "evaluator", "evaluator_digest", "run", "longer", "watcher", "watcher_digest"}
        digest = files.digest(self.model_dump(mode="json", exclude=varied))[:8]
        return "-".join([f"{self.epochs}ep", *([self.init] if self.init != "fresh" else []), digest])
