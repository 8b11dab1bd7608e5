"""Options of ``fmcs_bench.train`` and ``explain``: checked once, and passed unchanged to where they are used."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from fmcs_bench.core.options import Options
from fmcs_bench.training.methods import DEFAULT_METHODS, DEFAULT_RAFS, NUM_SEEDS, parse_rafs
from fmcs_bench.training.recipes import AugmentationName, Precision

RECIPE_FIELDS = ("optimizer", "lr", "momentum", "weight_decay", "schedule", "batch_size", "augmentation", "precision")


class TrainOptions(Options):
    """What is to be trained on an FMCS dataset; the same for every training of one command.

    A field that is None takes its value from the recipe, and a recipe that is None is the dataset's.
    """

    methods: tuple[str, ...] = Field(
        DEFAULT_METHODS,
        min_length=1,
        description="Method to train; repeat for several; see `fmcs-bench list methods`.",
        json_schema_extra={"flag": "--method", "metavar": "NAME"},
    )
    rafs: tuple[float, ...] = Field(
        DEFAULT_RAFS,
        min_length=1,
        description="RAF of the methods with RAL, in [0, 1]; repeat for several. paper is 1, .95, .9, .85, .8, .78, "
        ".75, .7, .5, 0.",
        json_schema_extra={"flag": "--raf", "metavar": "RAF|paper", "text": True},
    )
    seeds: int = Field(NUM_SEEDS, ge=1, description="Paired trainings of each method.")
    evaluator: str | None = Field(
        None,
        description="Evaluator of RAL and its controls: a name from the evaluator table, such as set or conv+corn, or "
        "FILE.py:Class.",
        json_schema_extra={"metavar": "NAME|FILE.py:Class", "default": "the best one on the validation run"},
    )
    init: Literal["fresh", "same-run"] = Field(
        "fresh",
        description="same-run: start from the initial weights of the dataset's training runs, so that channels mean "
        "the same.",
    )
    base: str | None = Field(
        None,
        min_length=1,
        description="Backbone of both heads of DueHeadNet, and of the network that equal-parameters is compared with.",
        json_schema_extra={"metavar": "BACKBONE", "default": "the dataset's"},
    )
    constraint_weight: float = Field(1.0, ge=0, description="Weight of DueHeadNet's constraint.")
    pretrained_first: bool = Field(False, description="Start DueHeadNet's first head from published weights.")
    recipe: str | None = Field(
        None,
        description="Optimizer settings and length.",
        json_schema_extra={
            "metavar": "fmce|dueheadnet-readme|dueheadnet-code",
            "default": "those of the dataset's runs, to their convergence point",
        },
    )
    epochs: int | None = Field(
        None,
        ge=1,
        description="Number of epochs.",
        json_schema_extra={"default": "the recipe's; of fmce, the convergence point"},
    )
    optimizer: Literal["adam", "adamw", "sgd"] | None = Field(None, description="Optimizer.")
    lr: float | None = Field(None, description="Learning rate.")
    momentum: float | None = Field(None, description="Momentum of sgd.")
    weight_decay: float | None = Field(None, description="Weight decay.")
    schedule: Literal["cosine", "constant"] | None = Field(None, description="Learning rate schedule.")
    batch_size: int | None = Field(None, description="Batch size.")
    augmentation: AugmentationName | None = Field(None, description="Augmentation of training images.")
    precision: Precision | None = Field(None, description="Precision; bfloat16 is mixed precision.")
    best_epoch_on_test: bool = Field(
        False,
        description="Also record the best test accuracy of all epochs, as some papers report; no choice depends on it.",
    )
    keep_weights: bool = Field(False, description="Keep the tested weights, for `fmcs-bench explain`.")
    retry: bool = Field(False, description="Train again what failed before.")

    @field_validator("methods", mode="before")
    @classmethod
    def _names(cls, names: Any) -> Any:
        return names if isinstance(names, str) else tuple(names)

    @field_validator("rafs", mode="before")
    @classmethod
    def _numbers(cls, rafs: Any) -> tuple[float, ...]:
        return parse_rafs(tuple(rafs) if isinstance(rafs, Iterable) else (rafs,))

    @property
    def recipe_changes(self) -> dict[str, Any]:
        """Fields of the recipe that have a value here."""
        return {name: value for name in RECIPE_FIELDS if (value := getattr(self, name)) is not None}


class ExplainOptions(Options):
    """Which networks and images ``fmcs-bench explain`` draws."""

    by: Literal["stage", "raf"] = Field(
        "stage",
        description="A column for each stage of a run, or for each RAF of trainings whose weights were kept.",
    )
    run: int | None = Field(
        None, description="stage: seed of the run.", json_schema_extra={"metavar": "SEED", "default": "the test run"}
    )
    method: str | None = Field(
        None,
        description="raf: family, such as ral-set.",
        json_schema_extra={"metavar": "FAMILY", "default": "the only one"},
    )
    seed: int | None = Field(
        None, description="raf: seed of the trainings.", json_schema_extra={"default": "the lowest"}
    )
    settings: str | None = Field(
        None, description="raf: settings of the trainings.", json_schema_extra={"default": "the only ones"}
    )
    num_images: int | None = Field(
        None,
        description="Number of test images.",
        json_schema_extra={"metavar": "N", "default": "one of each class, at most 10"},
    )
    image_ids: tuple[int, ...] = Field(
        (),
        description="Image to draw, by its id, instead; repeat for several.",
        json_schema_extra={"flag": "--image-id", "metavar": "ID"},
    )
    target: Literal["predicted", "label"] = Field(
        "predicted", description="Class whose evidence is shown: the predicted one, or the image's label."
    )

    @field_validator("image_ids", mode="before")
    @classmethod
    def _ids(cls, ids: Any) -> tuple[int, ...]:
        return tuple(map(int, ids))

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("run",) if self.by == "raf" else ("method", "seed", "settings"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name} = {getattr(self, name)!r} has no meaning with by = {self.by!r}")
        return self
