"""The options of builds, fits and recipes, named by a digest; see ``options``."""

from __future__ import annotations

import itertools
import math
import re
from typing import Any, Literal, Self, get_args

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from fmcs_bench import files
from fmcs_bench.errors import UnknownNameError, nearest
from fmcs_bench.options import Options as Options

DEFAULT_RAFS = (0.95, 0.9, 0.75)
NUM_SEEDS = 5
"""Repetitions of a fit or a training, unless another number is asked for."""
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$"
"""Names that become part of a path: no separators, no leading dot."""
Precision = Literal["float32", "bfloat16"]
AugmentationName = Literal["none", "flip", "crop-flip"]
Head = Literal["softmax", "corn", "coral"]
FIT_PATTERN = NAME_PATTERN.removesuffix("$") + rf"(\+({'|'.join(get_args(Head)[1:])}))?(~permuted)?$"
"""Names of fits: an evaluator, behind a plus its ordinal head, behind a tilde that its labels were permuted."""
Labels = Literal["true", "permuted"]
MAX_COMBINATIONS = 12
"""Of a grid: more fits of one evaluator and seed would rather fit the validation run than the data."""
GridValue = int | float | str
Combination = dict[str, GridValue]
"""Values of some fields of a recipe."""


class Recipe(Options):
    """How a network is trained. The default is ``fmce``; ``recipe`` gives one by its name.

    The number of epochs is not part of a recipe: it comes from the upper bound of a run, from the convergence point or
    from ``RECIPE_EPOCHS``.
    """

    name: str = "fmce"
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = Field(1e-3, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    batch_size: int = Field(64, ge=2)
    precision: Precision = Field("float32", description="bfloat16 is mixed precision: weights stay float32")
    augmentation: AugmentationName = Field("none", description="of training images, in every epoch anew")

    added_later = frozenset({"precision", "augmentation"})

    @property
    def differences(self) -> dict[str, str | int | float]:
        """Fields whose value is not that of the recipe of this name; of a name of one's own, not that of ``fmce``.

        Example:
            >>> recipe("dueheadnet-code", lr=0.05).differences
            {'lr': 0.05}
        """
        named = RECIPES.get(self.name, RECIPES["fmce"])
        fields = [field for field in type(self).model_fields if field != "name"]
        return {field: getattr(self, field) for field in fields if getattr(self, field) != getattr(named, field)}

    @property
    def label(self) -> str:
        """The name, and behind it what differs; for records and pages.

        Example:
            >>> Recipe().label, recipe("fmce", lr=0.01, batch_size=32).label
            ('fmce', 'fmce (lr 0.01, batch_size 32)')
        """
        changes = ", ".join(f"{field} {value}" for field, value in self.differences.items())
        return f"{self.name} ({changes})" if changes else self.name


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(),  # arXiv 2508.06109, IV-A: Adam, learning rate 1e-3, annealed
        # "Feature Map Constraints Enhance Learning", as its README says and as its code does on CIFAR-10
        Recipe(name="dueheadnet-readme", optimizer="adamw", lr=4e-4, weight_decay=5e-4, batch_size=64),
        Recipe(name="dueheadnet-code", optimizer="sgd", lr=0.1, momentum=0.9, weight_decay=5e-4, batch_size=128),
    )
}
RECIPE_EPOCHS: dict[str, int | None] = {"fmce": None, "dueheadnet-readme": 30, "dueheadnet-code": 200}
"""Length of a training with each recipe, in epochs; None is the convergence point of the FMCS dataset's runs."""


def recipe(name: str, **overrides: Any) -> Recipe:
    """The recipe of that name, with some of its fields changed.

    Args:
        name: of ``RECIPES``.
        overrides: fields of ``Recipe`` but ``name``; None leaves one as it is.

    Raises:
        UnknownNameError: no such recipe.
        ConfigError: an unknown field, or a value that is not allowed.

    Example:
        >>> recipe("dueheadnet-readme", optimizer="sgd", lr=None).lr
        0.0004
    """
    if name not in RECIPES:
        raise UnknownNameError(f"unknown recipe {name!r}; {nearest(name, RECIPES)}")
    changed = {field: value for field, value in overrides.items() if value is not None}
    return Recipe.make(**(dict(RECIPES[name]) | changed))


class ConvergenceRule(Options):
    """Parameters of the CQI rule (arXiv 2405.04041); see ``fmcs_bench.convergence``.

    Both spans are in epochs and the threshold in nats per epoch, so that a rule means the same at any batch size.
    """

    smoothing_epochs: float = Field(0.5, gt=0, description="half-life of the exponential moving average of the loss")
    window_epochs: float = Field(1.0, gt=0, description="window of the moving average of the loss differences")
    threshold: float = Field(0.02, gt=0, description="mu_CQI: converged once CQI stays below, in nats per epoch")


class BackboneOptions(Options):
    """How a backbone differs from what its name alone says.

    Example:
        >>> BackboneOptions.make(output_stride=12)
        Traceback (most recent call last):
        fmcs_bench.errors.ConfigError: output_stride = 12: Input should be 8, 16 or 32
    """

    layer: str | None = Field(None, min_length=1, description="module whose output are the maps; None is the last map")
    output_stride: Literal[8, 16, 32] | None = Field(None, description="image side / map side; None is the network's")
    pretrained: bool = Field(False, description="start from published weights; the classifier is random")


class NamesBackbone(Options):
    """Options that name a backbone. The JSON form leaves ``backbone_options`` out where nothing was chosen.

    So what was written before there were any is read, and has the digest, as before.
    """

    backbone: str
    backbone_options: BackboneOptions = BackboneOptions()

    added_later = frozenset({"backbone_options"})


class BuildConfig(NamesBackbone):
    """Everything that decides what an FMCS dataset holds."""

    image_dataset: str = "digits"
    image_size: int = Field(ge=8, le=1024, description="side of the square input, in pixels")
    stages: int = Field(ge=2, le=99, description="K, the number of FMCS")
    runs: int = Field(2, ge=1, description="training runs")
    held_out_runs: Literal[2] = Field(2, description="one validation run and one test run")
    epochs: int = Field(ge=1, description="upper bound; the stages end at the convergence point")
    checkpoints: int = Field(60, ge=4, description="about how many checkpoints along one run")
    limit: int | None = Field(None, ge=1, description="at most this many images in each split")
    codec: Literal["zstd", "pco", "q8"] = Field("zstd", description="of the maps; q8 is lossy")
    markers: Literal["loss", "epoch"] = "loss"
    recipe: Recipe = Recipe()
    convergence: ConvergenceRule = ConvergenceRule()
    seed: int = Field(0, ge=0, description="seed of the first run; run i has seed + i")
    name: str = Field("base", pattern=r"^[a-z0-9][a-z0-9_.]{0,63}$")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not re.fullmatch(NAME_PATTERN, self.dataset_name):
            raise ValueError(
                f"the image dataset {self.image_dataset!r} and the backbone {self.backbone!r} give the name "
                f"{self.dataset_name!r}; it names a folder, so up to 128 letters, digits, '_', '.' and '-' are allowed"
            )
        return self

    @classmethod
    def create(cls, **options: Any) -> Self:
        """Fill what is not given (or None) with the defaults of the image dataset.

        Raises:
            ConfigError: an unknown option or a value out of range.
        """
        given = {key: value for key, value in options.items() if value is not None}
        small = given.get("image_dataset", "digits") == "digits"
        defaults = {
            "image_size": 32 if small else 224,
            "stages": 7 if small else 9,
            "epochs": 20 if small else 30,
        }
        return cls.make(**(defaults | given))

    @property
    def run_roles(self) -> dict[int, Literal["training", "validation", "test"]]:
        """Role of each run by its seed: the training runs first, then the validation run, then the test run."""
        seeds = range(self.seed, self.seed + self.runs + 2)
        return {
            seed: "training" if i < self.runs else "validation" if i == self.runs else "test"
            for i, seed in enumerate(seeds)
        }

    @property
    def dataset_name(self) -> str:
        """Name of the FMCS dataset: image dataset, backbone, size and the given name."""
        backbone = self.backbone.replace("/", "_")
        return f"{self.image_dataset}-{backbone}-{self.image_size}px-{self.name}"


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
