"""The unit of work of the training track, and what it is called.

Flow: method, judge, recipe, seed -> ``TrainingUnit`` -> settings (a board), family (a row), label (with its RAF), seed:
the address of its record.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from fmcs_bench.backbones.options import NamesBackbone
from fmcs_bench.core import files
from fmcs_bench.core.environment import Sha256
from fmcs_bench.core.options import FIT_PATTERN, Options
from fmcs_bench.training.methods import Method
from fmcs_bench.training.recipes import Recipe

PERMUTED = "~permuted"
"""Ends the name of a fit on permuted labels."""


class Longer(Options):
    """How much longer the control ``longer`` is trained, so that it costs what RAL costs."""

    flops_ratio: float = Field(ge=1, description="FLOPs of a step of RAL, by those of a step of the baseline")
    epochs: int = Field(ge=1, description="the board's epochs times the ratio, rounded up")


class TrainingUnit(NamesBackbone):
    """A unit of work of the training track: everything that decides its result, besides the data and the code."""

    method: Method
    recipe: Recipe
    epochs: int = Field(ge=1)
    image_size: int
    limit: int | None
    seed: int = Field(ge=0, description="of the weights, unless init says otherwise, of order and of noise")
    evaluator: str | None = Field(pattern=FIT_PATTERN, description="the judge; None where the method uses none")
    evaluator_digest: Sha256 | None
    init: Literal["fresh", "same-run"] = Field(
        "fresh", description="same-run: from the weights a training run began with"
    )
    run: int | None = Field(None, ge=0, description="seed of that run; decides the initial weights instead of the seed")
    longer: Longer | None = None
    watcher: str | None = Field(
        None,
        pattern=FIT_PATTERN,
        description="the board's chosen evaluator, which scores validation images",
    )
    watcher_digest: Sha256 | None = None

    added_later = frozenset({"backbone_options", "init", "run", "longer", "watcher", "watcher_digest"})

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.method.uses_judge != (self.evaluator is not None) or (self.evaluator is None) != (
            self.evaluator_digest is None
        ):
            raise ValueError("a method with RAF below 1 has an evaluator with its digest, and no other but longer has")
        if (self.watcher is None) != (self.watcher_digest is None):
            raise ValueError("a watcher comes with its digest")
        if self.evaluator and self.evaluator.endswith(PERMUTED) != (self.method.judge == "permuted"):
            raise ValueError(f"the judge {self.evaluator} is not {self.method.judge}")
        if (self.init == "same-run") != (self.run is not None):
            raise ValueError("init = 'same-run' names the run, and no other does")
        if (self.method.control == "longer") != (self.longer is not None):
            raise ValueError("the control longer says how much longer, and no other method does")
        return self

    @property
    def weights_seed(self) -> int:
        """What decides the initial weights."""
        return self.seed if self.run is None else self.run

    @property
    def num_epochs(self) -> int:
        """Epochs that it is trained for: the board's, but for the control ``longer``."""
        return self.epochs if self.longer is None else self.longer.epochs

    @property
    def family(self) -> str:
        """The method without its RAF, with its judge: ``ral-set``, ``ral-permuted-set``, ``fmcs-only-set``.

        One RAF is chosen for each family; RAF = 0 is a family of its own.
        """
        if self.evaluator is None:
            return self.method.family
        return f"{self.method.family}-{self.evaluator.removesuffix(PERMUTED)}"

    @property
    def label(self) -> str:
        """The family, with its RAF where it has a choice of them."""
        return self.family if self.method.raf in (0, 1) else f"{self.family}@{self.method.raf:.12g}"

    @property
    def settings(self) -> str:
        """Names everything but method, judge, seed and who watches; only trainings with equal settings are compared."""
        varied = {"method", "seed", "evaluator", "evaluator_digest", "run", "longer", "watcher", "watcher_digest"}
        digest = files.digest(self.model_dump(mode="json", exclude=varied))[:8]
        return "-".join([f"{self.epochs}ep", *([self.init] if self.init != "fresh" else []), digest])
