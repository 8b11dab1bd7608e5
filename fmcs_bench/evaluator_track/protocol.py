"""The protocol of the evaluator track: which maps an evaluator is fitted on, chosen by and tested on.

Sizes and overlaps are checked on labels alone, before a map is read or anything is fitted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
import xxhash

from fmcs_bench.core.environment import usable_cores
from fmcs_bench.core.errors import ConfigError, DatasetError, ProtocolError
from fmcs_bench.core.seeding import derive
from fmcs_bench.results.records import Subset
from fmcs_bench.store import schema
from fmcs_bench.store.reader import FmcsDataset
from fmcs_bench.store.selection import MapSelection, MapSet

SideName = Literal["train"] | Subset
MIN_IMAGES = 2
"""In each side: from one image there is no spread."""
PART_BYTES = 2**22
"""Size of the blocks of maps that are checksummed one by one."""


class Side(NamedTuple):
    """Runs, by their role, and a split of the images."""

    role: schema.Role
    split: str


SIDES: dict[SideName, Side] = {
    "train": Side("training", "train"),
    "validation_run": Side("validation", "validation"),
    "same_run": Side("training", "test"),
    "test_run": Side("test", "test"),
    "unseen": Side("test", "unseen"),
}
LEARNED: tuple[SideName, SideName] = ("train", "validation_run")
"""What an evaluator learns from and is chosen by."""


class Limits(NamedTuple):
    """Largest number of images in each split of each run, for the train side and for all others; None is all."""

    train: int | None = None
    other: int | None = None

    def of(self, name: SideName) -> int | None:
        """The limit of a side."""
        return self.train if name == "train" else self.other


def select(dataset: FmcsDataset, limits: Limits) -> dict[SideName, MapSelection]:
    """The maps of every side, not loaded, after their sizes and overlaps were checked."""
    _check_sizes(dataset, limits)
    selections = {name: side(dataset, name, limits) for name in SIDES}
    check_apart(selections, dataset.id)
    return selections


def side(dataset: FmcsDataset, name: SideName, limits: Limits) -> MapSelection:
    """The maps of one side at all stages, run by run, not loaded."""
    role, split = SIDES[name]
    return dataset.sel(dataset.seeds(role), range(1, dataset.num_stages + 1), split, limit=limits.of(name))


def _check_sizes(dataset: FmcsDataset, limits: Limits) -> None:
    found = dataset.manifest.images.num_images
    sizes = {part.split: found.get(part.split, 0) for part in SIDES.values()}
    taken = {
        part.split: min(found.get(part.split, 0), limits.of(name) or found.get(part.split, 0))
        for name, part in SIDES.items()
    }
    small = {split: size for split, size in taken.items() if size < MIN_IMAGES}
    if not small:
        return
    remedy = "build it from more images" if min(sizes.values()) < MIN_IMAGES else "use a larger --limit"
    raise ConfigError(
        f"{dataset.id} is too small for the protocol, which needs {MIN_IMAGES} images in every split; it has "
        f"{', '.join(f'{size} in {split}' for split, size in small.items())}; {remedy}"
    )


def check_apart(selections: Mapping[SideName, MapSelection], dataset_id: str) -> None:
    """No image that an evaluator learns from or is chosen by is asked about, and no run but in ``same_run``."""
    asked: tuple[SideName, ...] = ("same_run", "test_run", "unseen")
    for one, other in [LEARNED, *((a, b) for a in LEARNED for b in asked)]:
        _apart(dataset_id, "image", one, selections[one].image_ids_M, other, selections[other].image_ids_M)
        if other != "same_run" or one != "train":  # its images are others, its runs are the same by definition
            _apart(dataset_id, "run", one, selections[one].runs_M, other, selections[other].runs_M)


def _apart(dataset_id: str, what: str, one: str, one_M: np.ndarray, other: str, other_M: np.ndarray) -> None:
    both = np.intersect1d(one_M, other_M)
    if len(both):
        raise DatasetError(
            f"{dataset_id} breaks the protocol: the {what} {both[0]} is on two sides, {one} and {other} "
            f"({len(both)} in all are); results on it would mean nothing, so build it again"
        )


def check_other(dataset: FmcsDataset, other: FmcsDataset, limits: Limits) -> MapSelection:
    """The maps of another dataset's test run, for evaluators that were fitted on this one.

    Raises:
        ConfigError: its number of stages differs, or it has too few images.
        DatasetError: the evaluators learn from, or are chosen by, its test run or its images.
    """
    if other.num_stages != dataset.num_stages:
        raise ConfigError(
            f"evaluators of {dataset.id} know {dataset.num_stages} stages, and {other.id} has "
            f"{other.num_stages}; build one with --stages {dataset.num_stages}"
        )
    _check_sizes(other, limits)
    selection = side(other, "test_run", limits)
    learned = [seed for role in ("training", "validation") for seed in dataset.seeds(role)]
    shared = _checkpoints(dataset, learned) & _checkpoints(other, other.seeds("test"))
    if shared:
        raise DatasetError(
            f"the test run of {other.id} is a run that evaluators of {dataset.id} learn from or are chosen by (equal "
            "checkpoints); build one of them with another --seed"
        )
    if other.manifest.images.sha256 == dataset.manifest.images.sha256:
        for name in LEARNED:
            own = side(dataset, name, limits)
            _apart(dataset.id, "image", name, own.image_ids_M, f"test run of {other.id}", selection.image_ids_M)
    return selection


def _checkpoints(dataset: FmcsDataset, seeds: list[int]) -> set[str]:
    """SHA-256 of the checkpoints of these runs."""
    files, stages = dataset.manifest.files, range(1, dataset.num_stages + 1)
    names = [schema.checkpoint_name(seed, stage) for seed in seeds for stage in stages]
    return {files[name].sha256 for name in names if name in files}


class SharedMaps:
    """Maps by the name of their side, each read when it is first used."""

    def __init__(self, selections: Mapping[str, MapSelection]) -> None:
        self._selections = dict(selections)
        self._loaded: dict[str, tuple[MapSet, tuple[int, ...]]] = {}

    @contextmanager
    def use(self, evaluator: str, *names: str) -> Iterator[list[MapSet]]:
        """Maps of some sides for the block; where the block changed them it is an error, and they are read again."""
        for name in names:
            if name not in self._loaded:
                found = self._selections[name].load()
                # Copies of the labels, so that a change of them does not reach the selection.
                labels = (array.copy() for array in (found.stages_M, found.image_ids_M, found.runs_M))
                maps = MapSet(found.maps_MDHW, *labels)
                self._loaded[name] = maps, _checksum(maps)
        try:
            yield [self._loaded[name][0] for name in names]
        finally:
            changed = [name for name in names if _checksum(self._loaded[name][0]) != self._loaded[name][1]]
            for name in changed:
                del self._loaded[name]
        if changed:
            raise ProtocolError(
                f"evaluator {evaluator} on {in_words(changed[0])}: it changed the maps it was given; work on a copy"
            )


def in_words(name: str) -> str:
    """A side in words."""
    return "training run" if name == "train" else name.replace("_", " ")


def _checksum(maps: MapSet) -> tuple[int, ...]:
    """Fast, not cryptographic. Threads share the work."""
    arrays = (maps.maps_MDHW, maps.stages_M, maps.image_ids_M, maps.runs_M)
    flat = [np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in arrays]
    parts = [array[start : start + PART_BYTES].data for array in flat for start in range(0, len(array), PART_BYTES)]
    with ThreadPoolExecutor(usable_cores(), "fmcs-bench-checksum") as pool:
        return tuple(pool.map(xxhash.xxh3_64_intdigest, parts))


def with_permuted_labels(maps: MapSet, num_stages: int, seed: int, part: str) -> MapSet:
    """The same maps with permuted stages, for the control ``NAME~permuted``.

    Each image keeps one map of every stage, so that only the meaning of the labels is lost: what an evaluator fitted on
    them reaches on true labels is reached without learning stages. ``part`` names the draw: train or validation.
    """
    rng = np.random.default_rng(derive(seed, "permuted labels", part))
    return replace(maps, stages_M=permute_stages(maps, num_stages, rng))


def permute_stages(maps: MapSet, num_stages: int, rng: np.random.Generator) -> np.ndarray:
    """New stages, int64 [M]: for each image of each run, one random permutation of 0 .. K - 1, applied."""
    images_M2 = np.stack([maps.runs_M, maps.image_ids_M], axis=1)
    groups, group_M = np.unique(images_M2, axis=0, return_inverse=True)
    permutation_GK = rng.permuted(np.tile(np.arange(num_stages), (len(groups), 1)), axis=1)
    new_M: np.ndarray = permutation_GK[group_M.reshape(-1), maps.stages_M]
    return new_M
