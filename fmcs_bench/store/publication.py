"""What a published or downloaded folder holds beside the dataset's own files: ``part.json`` and ``publication.json``.

``part.json`` lists the runs, stages, splits and kinds of files that are there, where only a part was published or
downloaded; manifest, trajectory files and small arrays belong to every part, which has the digest of the whole.
Of ``publication.json`` only ``superseded_by`` and ``fidelity`` may change later.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import Field, model_validator

from fmcs_bench.core.environment import Environment, Sha256
from fmcs_bench.core.errors import ConfigError, DatasetError, MissingDataError
from fmcs_bench.core.options import FIT_PATTERN, NAME_PATTERN, Options
from fmcs_bench.images.dataset import SPLITS
from fmcs_bench.store import schema
from fmcs_bench.store.location import Location, stays_inside

T = TypeVar("T")
FILE = "publication.json"
PART = "part.json"
PARQUET = "parquet"
"""Folder of the Parquet files, ``parquet/<configuration>/<split>-00000-of-00001.parquet``."""
CONFIGURATIONS: dict[str, dict[str, tuple[schema.Role, str]]] = {
    "default": {"train": ("training", "train"), "validation": ("validation", "validation"), "test": ("test", "test")},
    "same_run": {"test": ("training", "test")},
    "unseen": {"test": ("test", "unseen")},
}
"""Of the Parquet files: configuration -> its splits -> role of the runs and split of the images that they hold."""
Kind = Literal["maps", "parquet", "checkpoints"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SHARD = re.compile(rf"{schema.MAPS}/run-(\d+)/(feature_maps|trajectory_maps)/c/(\d+)/(\d+)/0/0/0")
CHECKPOINT = re.compile(rf"{schema.CHECKPOINTS}/run-(\d+)/stage-(\d+)\.safetensors")


class Part(Options):
    """Runs, stages, splits and kinds of files that are there; the content of ``part.json``.

    A shard of maps belongs to a part where it holds maps of one of its splits. The maps along the test run, at its
    checkpoints, belong to it where the test run and the split ``test`` do.
    """

    schema_version: Literal[1] = 1
    dataset_digest: Sha256
    kinds: tuple[Kind, ...] = Field(min_length=1)
    runs: tuple[int, ...] = Field(min_length=1, description="seeds")
    stages: tuple[int, ...] = Field(min_length=1, description="FMCS, 1 .. K")
    splits: tuple[str, ...] = Field(min_length=1)

    @classmethod
    def of(
        cls,
        manifest: schema.Manifest,
        *,
        kinds: Iterable[Kind] | None = None,
        runs: Iterable[int] | None = None,
        stages: Iterable[int] | None = None,
        splits: Iterable[str] | None = None,
    ) -> Part:
        """A part of this dataset; None is all. ``ConfigError`` for a value that the dataset does not have."""
        return cls.make(
            dataset_digest=manifest.dataset_digest,
            kinds=chosen(kinds, KINDS, "kind"),
            runs=chosen(runs, [run.seed for run in manifest.runs], "run"),
            stages=chosen(stages, range(1, manifest.config.stages + 1), "stage"),
            splits=chosen(splits, SPLITS, "split"),
        )

    def is_whole(self, manifest: schema.Manifest) -> bool:
        """Whether nothing is left out."""
        return self == Part.of(manifest)

    def __and__(self, other: Part) -> Part:
        """What belongs to both; ``ConfigError`` where no run, stage, split or kind of files does."""
        both: dict[str, tuple[Any, ...]] = {}
        for name in ("kinds", "runs", "stages", "splits"):
            mine, theirs = getattr(self, name), getattr(other, name)
            both[name] = tuple(value for value in mine if value in theirs)
            if not both[name]:
                theirs, mine = (", ".join(map(str, of)) for of in (theirs, mine))
                raise ConfigError(f"{name} {theirs} are not available; there are {mine}")
        return Part.make(dataset_digest=self.dataset_digest, **both)

    def files(self, manifest: schema.Manifest, per_shard: Callable[[str], int]) -> frozenset[str]:
        """Names of the manifest's files of this part; ``per_shard`` gives maps in a shard, by an array's path."""
        return frozenset(name for name in manifest.files if self._holds(name, manifest, per_shard))

    def _holds(self, name: str, manifest: schema.Manifest, per_shard: Callable[[str], int]) -> bool:
        if found := CHECKPOINT.fullmatch(name):
            seed, stage = (int(number) for number in found.groups())
            return "checkpoints" in self.kinds and seed in self.runs and stage in self.stages
        if not (found := SHARD.fullmatch(name)):
            return True
        seed, row, shard = int(found[1]), int(found[3]), int(found[4])
        if "maps" not in self.kinds or seed not in self.runs:
            return False
        if found[2] == "trajectory_maps":
            return "test" in self.splits
        return row + 1 in self.stages and self._holds_shard(seed, shard, manifest, per_shard)

    def _holds_shard(self, seed: int, shard: int, manifest: schema.Manifest, per_shard: Callable[[str], int]) -> bool:
        if set(SPLITS) <= set(self.splits):
            return True
        (role,) = (run.role for run in manifest.runs if run.seed == seed)
        of_run = schema.splits_of(role)
        ends = list(accumulate(manifest.images.num_images[split] for split in of_run))
        size = per_shard(f"{schema.run_group(seed)}/feature_maps")
        first, last = shard * size, (shard + 1) * size
        return any(
            split in self.splits and start < last and first < end
            for split, start, end in zip(of_run, [0, *ends], ends, strict=False)
        )


def chosen(values: T | Iterable[T] | None, allowed: Sequence[T], name: str) -> tuple[T, ...]:
    """The given values, each once and in the order of ``allowed``; None is all.

    Example:
        >>> chosen([3, 1, 3], range(1, 4), "stage")
        (1, 3)
    """
    if values is None:
        return tuple(allowed)
    several: list[Any] = [values] if isinstance(values, str) or not isinstance(values, Iterable) else list(values)
    for value in several:
        if isinstance(value, bool) or value not in allowed:
            raise ConfigError(f"{name} = {value!r}; allowed are {', '.join(map(str, allowed))}")
    if not several:
        raise ConfigError(f"no {name} is chosen; allowed are {', '.join(map(str, allowed))}")
    return tuple(value for value in allowed if value in several)


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
    """One evaluator, fitted on the lossless maps, tested on the test run of both."""

    mae: Interval = Field(description="on the lossless maps, in stages")
    mae_difference: Interval = Field(description="on the lossy maps minus on the lossless ones, in stages")
    changed: Interval = Field(description="share of the maps whose predicted stage changes")
    probability: Probability


class Stored(Options):
    """One of the two datasets."""

    dataset: Annotated[str, Field(pattern=NAME_PATTERN)]
    dataset_digest: Sha256
    codec: Literal["zstd", "q8"]

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
            raise ValueError(f"codecs {self.lossless.codec} and {self.lossy.codec}, not a lossless one and q8")
        return self

    def is_of(self, manifest: schema.Manifest) -> bool:
        """One of the two datasets is the one of this manifest."""
        mine = (manifest.name, manifest.dataset_digest, manifest.config.codec)
        return mine in [(one.dataset, one.dataset_digest, one.codec) for one in (self.lossless, self.lossy)]


def read_fidelity(path: Path, manifest: schema.Manifest) -> Fidelity:
    """The line of the benchmark in a file, valid and of this dataset, else ``ConfigError``."""
    try:
        found = Fidelity.from_json(json.loads(path.read_bytes()))
    except OSError as error:
        raise MissingDataError(f"{path} cannot be read: {error.strerror}; make it: benchmarks/fidelity.py") from None
    except ValueError as error:
        raise ConfigError(f"{path} is no line of benchmarks/fidelity.py: {error}") from None
    if not found.is_of(manifest):
        raise ConfigError(
            f"{path} compares {found.lossless.id} ({found.lossless.codec}) with {found.lossy.id} ({found.lossy.codec})"
            f", and not {manifest.id} ({manifest.config.codec}); run benchmarks/fidelity.py on it"
        )
    return found


class ParquetSplit(Options):
    """One split of one configuration, and its files in their order."""

    configuration: str
    split: str
    files: tuple[str, ...]
    num_rows: int = Field(ge=0)


class Publication(Options):
    """Content of ``publication.json``; ``files`` has ``dataset.json`` and what that does not name."""

    schema_version: Literal[1] = 1
    dataset_id: str
    dataset_digest: Sha256
    parquet: tuple[ParquetSplit, ...]
    files: dict[str, schema.FileEntry]
    superseded_by: str | None = Field(None, description="repository or URL of the version to use instead")
    fidelity: Fidelity | None = Field(None, description="what q8 does to the scores of evaluators")
    fmcs_bench: str
    created: str

    @property
    def stored_bytes(self) -> int:
        """Of ``files``."""
        return sum(entry.num_bytes for entry in self.files.values())


def read(location: Location, manifest: schema.Manifest) -> Publication | None:
    """The publication of a dataset, valid and of this manifest, else ``DatasetError``; None if it was not published."""
    file = location.shown(FILE)
    try:
        found = Publication.from_json(json.loads(location.read_bytes(FILE)))
    except MissingDataError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError, ConfigError) as error:
        raise DatasetError(f"{file} is damaged, or not of schema 1: {error}") from None
    if (found.dataset_id, found.dataset_digest) != (manifest.id, manifest.dataset_digest):
        raise DatasetError(f"{file} belongs to {found.dataset_id}, not to {manifest.id}")
    if found.fidelity is not None and not found.fidelity.is_of(manifest):
        raise DatasetError(f"{file} has the fidelity of other datasets, and not of {manifest.id}")
    for name in found.files:
        if not stays_inside(name) or name in manifest.files:
            raise DatasetError(f"{file} names a file outside the folder, or one of {schema.MANIFEST}: {name!r}")
    return found
