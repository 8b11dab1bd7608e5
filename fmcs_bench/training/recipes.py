"""Training recipes and the parameters of the CQI rule."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from fmcs_bench.backbones.options import NamesBackbone
from fmcs_bench.core.errors import UnknownNameError, nearest
from fmcs_bench.core.options import Options

Precision = Literal["float32", "bfloat16"]
AugmentationName = Literal["none", "flip", "crop-flip"]


class Recipe(Options):
    """How a network is trained. The default is ``fmce``; ``recipe`` gives one by its name.

    The number of epochs is not part of a recipe: it comes from the upper bound of a run, from the convergence point or
    from ``RECIPE_EPOCHS``.
    """

    name: str = Field("fmce", json_schema_extra={"flag": None})
    optimizer: Literal["adam", "adamw", "sgd"] = Field("adam", description="Optimizer of training.")
    lr: float = Field(1e-3, gt=0, description="Learning rate of training.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of sgd.")
    weight_decay: float = Field(0.0, ge=0, description="Weight decay.")
    schedule: Literal["cosine", "constant"] = Field("cosine", description="Schedule of the learning rate.")
    batch_size: int = Field(64, ge=2, description="Batch size of training.")
    precision: Precision = Field(
        "float32", description="Precision of training and maps; bfloat16 (weights stay float32) is faster on GPUs."
    )
    augmentation: AugmentationName = Field("none", description="Augmentation of training images.")

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
        # "Feature Map Constraints Enhance Learning": its README, and its script main.py for CIFAR-10 (whose results are
        # not the published ones: those come from its notebooks, which are neither of the two)
        Recipe(name="dueheadnet-readme", optimizer="adamw", lr=4e-4, weight_decay=5e-4, batch_size=64),
        Recipe(name="dueheadnet-code", optimizer="sgd", lr=0.1, momentum=0.9, weight_decay=5e-4, batch_size=128),
    )
}
RECIPE_EPOCHS: dict[str, int | None] = {"fmce": None, "dueheadnet-readme": 30, "dueheadnet-code": 200}
"""Length of a training with each recipe, in epochs; None is the convergence point of the FMCS dataset's runs."""


def recipe(name: str, **overrides: Any) -> Recipe:
    """The recipe of that name, with those of its fields changed that are not None.

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
    """Parameters of the CQI rule (arXiv 2405.04041); see ``fmcs_bench.training.convergence``.

    Both spans are in epochs and the threshold in nats per epoch, so that a rule means the same at any batch size.
    """

    smoothing_epochs: float = Field(
        0.5,
        gt=0,
        description="Half-life of the exponential moving average of the loss, in epochs.",
        json_schema_extra={"flag": "--cqi-smoothing-epochs"},
    )
    window_epochs: float = Field(
        1.0,
        gt=0,
        description="Window of the moving average of the loss differences, in epochs.",
        json_schema_extra={"flag": "--cqi-window-epochs"},
    )
    threshold: float = Field(
        0.02,
        gt=0,
        description="mu_CQI: a run has converged once CQI stays below, in nats per epoch.",
        json_schema_extra={"flag": "--cqi-threshold"},
    )


class RunConfig(NamesBackbone):
    """What decides a training run, besides its seed and its images."""

    image_size: int = Field(
        ge=8,
        le=1024,
        description="Side of the square input, in pixels.",
        json_schema_extra={"default": "224; digits: 32"},
    )
    epochs: int = Field(ge=1, description="Upper bound of a run.", json_schema_extra={"default": "30; digits: 20"})
    checkpoints: int = Field(60, ge=4, description="About how many checkpoints along a run.")
    recipe: Recipe = Recipe()
