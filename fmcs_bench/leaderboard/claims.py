"""Published figures: what was claimed, where, what run would test it, and what the source itself says against it.

Flow: ``leaderboard/claims/<id>.json``, written by hand, one for each figure -> strict models -> ``verdicts``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from fmcs_bench.core.errors import RecordError
from fmcs_bench.core.options import NAME_PATTERN, Options

SCHEMA_VERSION = 1
MAX_CLAIM_BYTES = 100_000


class Source(Options):
    """Where a figure was published."""

    title: str
    reference: str = Field(description="arXiv identifier or repository")
    place: str = Field(description="table, figure or section; every place where the same figure stands")


class Contradiction(Options):
    """Another value that the same source gives for the same thing, or that follows from its own numbers."""

    value: float
    place: str


class StatedRecipe(Options):
    """What a source says about its training; None where it does not say."""

    name: str = Field(description="which part of the source says so")
    optimizer: Literal["adam", "adamw", "sgd"] | None
    lr: float | None
    momentum: float | None
    weight_decay: float | None
    schedule: Literal["cosine", "constant"] | None
    batch_size: int | None
    epochs: int | None


class ClaimedRun(Options):
    """The kind of run that would test a claim; None where the source does not say.

    ``methods`` and ``reference_methods`` are families of ``fmcs_bench.config.Method``; of several any will do, because
    the source contradicts itself about which one it ran. A gain is over a reference method, of the same fusion.
    """

    image_dataset: str | None
    backbone: str | None
    methods: tuple[str, ...] = Field(min_length=1)
    raf: float | None = Field(ge=0, le=1)
    reference_methods: tuple[str, ...]
    image_size: int | None
    recipes: tuple[StatedRecipe, ...] = Field(min_length=1)
    seeds: int = Field(ge=1)
    judge: str | None = Field(description="evaluator; None where there is none")
    accuracy: Literal["not stated", "best on test"] = Field(description="of which epoch's weights")


class Claim(Options):
    """One published figure. ``value`` is in percent or percentage points, as it was published.

    ``tolerance`` is half of the last digit that was published, or of the range where one was given.
    """

    schema_version: Literal[1]
    id: str = Field(pattern=NAME_PATTERN)
    source: Source
    kind: Literal["accuracy", "gain"]
    value: float
    unit: Literal["%", "pp"]
    tolerance: float = Field(gt=0)
    std: float | None = Field(ge=0, description="standard deviation over the source's seeds, as published")
    run: ClaimedRun
    difference_of: tuple[str, str] | None = Field(
        description="of a gain, the claims of the accuracy and of its reference, where the source gives both"
    )
    contradictions: tuple[Contradiction, ...]
    remarks: tuple[str, ...] = Field(description="other faults of the source that touch this figure")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.kind == "gain") != (self.unit == "pp") or (self.kind == "gain") != bool(self.run.reference_methods):
            raise ValueError("a gain is in pp and has reference methods; an accuracy is in % and has none")
        if self.kind == "gain" and self.value == 0:
            raise ValueError("a gain of 0 has no direction that could be tested")
        for other in self.contradictions:
            if abs(other.value - self.value) <= self.tolerance + 1e-9:
                raise ValueError(f"{other.value} does not contradict {self.value}: both are the same when rounded")
        return self


def load_claims(folder: Path) -> list[Claim]:
    """The claims of a folder, ordered by source and id; none where there is no such folder.

    Raises:
        RecordError: a file is no claim, or lies at another name than ``<id>.json``.

    Example:
        >>> load_claims(Path("nowhere"))
        []
    """
    found = [_load(path) for path in sorted(folder.glob("*.json"))]
    known = {claim.id for claim in found}
    for claim in found:
        missing = sorted(set(claim.difference_of or ()) - known)
        if missing:
            raise RecordError(f"the claim {claim.id} is a difference of {missing[0]}, and there is no such claim")
    return sorted(found, key=lambda claim: (claim.source.reference, claim.id))


def _load(path: Path) -> Claim:
    try:
        if path.stat().st_size > MAX_CLAIM_BYTES:
            raise ValueError(f"it has more than {MAX_CLAIM_BYTES:,} bytes")
        value = json.loads(path.read_bytes())
        version = value.get("schema_version") if isinstance(value, dict) else None
        if version != SCHEMA_VERSION:
            raise ValueError(f"its schema version is {version!r}; this version reads {SCHEMA_VERSION}")
        claim = Claim.from_json(value)
    except (ValueError, OSError, RecursionError) as error:  # a ConfigError is a ValueError
        raise RecordError(f"{path} is no claim: {error}") from None
    if path.name != f"{claim.id}.json":
        raise RecordError(f"{path} holds the claim {claim.id}; rename it to {claim.id}.json")
    return claim
