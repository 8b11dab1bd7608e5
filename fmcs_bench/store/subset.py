"""What of an FMCS dataset lies in a folder that holds only a part of it, because no more was published or downloaded.

Flow: wanted runs, stages, splits, kinds of files -> ``Part`` -> names of the files that belong to it; ``part.json``
says it of a folder. Manifest, trajectory files and the small arrays belong to every part: it has the digest of the
whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Any, Literal, TypeVar, get_args

from pydantic import Field

from fmcs_bench.core.environment import Sha256
from fmcs_bench.core.errors import ConfigError
from fmcs_bench.core.options import Options
from fmcs_bench.images.dataset import SPLITS
from fmcs_bench.store import schema

T = TypeVar("T")
Kind = Literal["maps", "parquet", "checkpoints"]
KINDS: tuple[Kind, ...] = get_args(Kind)
FILE = "part.json"
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
        """A part of this dataset; None is all.

        Raises:
            ConfigError: a value that the dataset does not have.
        """
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
        """What belongs to both.

        Raises:
            ConfigError: they have no run, stage, split or kind of files in common.
        """
        both: dict[str, tuple[Any, ...]] = {}
        for name in ("kinds", "runs", "stages", "splits"):
            mine, theirs = getattr(self, name), getattr(other, name)
            both[name] = tuple(value for value in mine if value in theirs)
            if not both[name]:
                raise ConfigError(
                    f"{name} {', '.join(map(str, theirs))} were asked for; there are {', '.join(map(str, mine))}"
                )
        return Part.make(dataset_digest=self.dataset_digest, **both)

    def files(self, manifest: schema.Manifest, per_shard: Callable[[str], int]) -> frozenset[str]:
        """Names of the manifest's files that belong to this part.

        Args:
            manifest: of the dataset.
            per_shard: maps in a shard of an array, by its path in the store; asked only where splits are left out.
        """
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
    """The values that were asked for, each once and in the order of ``allowed``; None is all.

    Raises:
        ConfigError: a value that is not allowed, or none.

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
