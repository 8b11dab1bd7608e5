"""What lossy storage does to the scores of evaluators, as ``benchmarks/fidelity.py`` measures it and a card shows it.

Flow: line of the benchmark -> ``Fidelity``, which names both datasets by their digests -> ``publication.json`` of one
of them -> a table on its data card.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fmcs_bench.core.environment import Environment, Sha256
from fmcs_bench.core.errors import ConfigError, MissingDataError
from fmcs_bench.core.options import FIT_PATTERN, NAME_PATTERN, Options
from fmcs_bench.store import schema


class Interval(Options):
    """A mean over fits with its 95 % interval (Student's t), which one fit does not give."""

    mean: float
    low: float | None
    high: float | None
    std: float | None
    num: int = Field(ge=1)


class Probability(Options):
    """Absolute difference of a probability, over all maps, stages and fits."""

    mean: float = Field(ge=0, le=1)
    largest: float = Field(ge=0, le=1)


class Scores(Options):
    """One evaluator, fitted on the lossless maps, asked about the test run of both."""

    mae: Interval = Field(description="on the lossless maps, in stages")
    mae_difference: Interval = Field(description="on the lossy maps minus on the lossless ones, in stages")
    changed: Interval = Field(description="share of the maps that get another stage")
    probability: Probability


class Stored(Options):
    """One of the two datasets."""

    dataset: Annotated[str, Field(pattern=NAME_PATTERN)]
    dataset_digest: Sha256
    codec: Literal["zstd", "pco", "q8"]

    @property
    def id(self) -> str:
        """As ``Manifest.id``."""
        return f"{self.dataset}@{self.dataset_digest[:12]}"


class Fidelity(Options):
    """Content of the benchmark's line."""

    benchmark: Literal["fidelity"] = "fidelity"
    date: str = Field(pattern=r"^\d{4}-\d\d-\d\d")
    environment: Environment
    lossless: Stored
    lossy: Stored
    evaluators: dict[Annotated[str, Field(pattern=FIT_PATTERN)], Scores] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.lossless.codec == "q8" or self.lossy.codec != "q8":
            raise ValueError(
                f"the codecs {self.lossless.codec} and {self.lossy.codec}: what is compared is a lossless form with q8"
            )
        return self

    def is_of(self, manifest: schema.Manifest) -> bool:
        """One of the two datasets is the one of this manifest."""
        mine = (manifest.name, manifest.dataset_digest, manifest.config.codec)
        return mine in [(one.dataset, one.dataset_digest, one.codec) for one in (self.lossless, self.lossy)]


def read(path: Path, manifest: schema.Manifest) -> Fidelity:
    """The line of the benchmark in a file, valid and of this dataset.

    Raises:
        MissingDataError: there is no such file.
        ConfigError: it is no such line, or of other datasets.
    """
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise MissingDataError(f"{path} cannot be read: {error.strerror}; make it: benchmarks/fidelity.py") from None
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON: {error}") from None
    try:
        found = Fidelity.from_json(value)
    except ConfigError as error:
        raise ConfigError(f"{path} is no line of benchmarks/fidelity.py: {error}") from None
    if not found.is_of(manifest):
        raise ConfigError(
            f"{path} compares {found.lossless.id} ({found.lossless.codec}) with {found.lossy.id} ({found.lossy.codec})"
            f", and not {manifest.id} ({manifest.config.codec}); run benchmarks/fidelity.py on it"
        )
    return found
