"""The configuration of a build, which the manifest of its dataset holds."""

from __future__ import annotations

import re
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from fmcs_bench.core.options import NAME_PATTERN
from fmcs_bench.training.recipes import ConvergenceRule, RunConfig


class BuildConfig(RunConfig):
    """Everything that decides what an FMCS dataset holds."""

    image_dataset: str = Field(
        "digits",
        description="Image dataset: a name, folder:DIR or hub:NAME_OR_PATH.",
        json_schema_extra={"flag": "--dataset"},
    )
    stages: int = Field(
        ge=2, le=99, description="K, the number of FMCS.", json_schema_extra={"default": "9; digits: 7"}
    )
    runs: int = Field(2, ge=1, description="Training runs.")
    held_out_runs: Literal[2] = Field(
        2, description="One validation run and one test run.", json_schema_extra={"flag": None}
    )
    limit: int | None = Field(None, ge=1, description="At most this many images in each split.")
    codec: Literal["zstd", "q8"] = Field("zstd", description="Of the maps: zstd (lossless) or q8 (8 bits, lossy).")
    markers: Literal["loss", "epoch"] = Field("loss", description="Stages are spaced by loss or by epoch.")
    convergence: ConvergenceRule = ConvergenceRule()
    seed: int = Field(0, ge=0, description="Seed of the first run; run i has seed + i.")
    name: str = Field("base", pattern=r"^[a-z0-9][a-z0-9_.]{0,63}$", description="Last part of the dataset's name.")

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
        """Fill what is not given (or None) with the defaults of the image dataset."""
        given = {key: value for key, value in options.items() if value is not None}
        small = given.get("image_dataset", "digits") == "digits"
        image_size, stages, epochs = (32, 7, 20) if small else (224, 9, 30)
        defaults = {"image_size": image_size, "stages": stages, "epochs": epochs}
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
