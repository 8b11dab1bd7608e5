"""How our trainings differ from the run that a source states, and whether they still test its figure.

Flow: claim, records of one method, manifest of their dataset -> ``Deviation``, one for each difference, those that keep
the records from testing the figure first.

What a source states must be so: images, their size and number, network, first weights, recipe, length, judge. Who
changes one of them measures something else. What a source leaves open, or what is ours in every training (a part of the
training images is held out), stands beside the verdict and does not change it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fmcs_bench.backbones.options import BackboneOptions
from fmcs_bench.leaderboard.claims import Claim, StatedRecipe
from fmcs_bench.results.records import TrainingRecord
from fmcs_bench.store.schema import Manifest

IMAGE_DATASETS = ("mnist", "fashionmnist", "cifar10", "cifar100", "caltech101", "flowers102")
_RECIPE_FIELDS = ("optimizer", "lr", "weight_decay", "schedule", "batch_size")
_NUM_TRAINING = {"mnist": 60_000, "fashionmnist": 60_000, "cifar10": 50_000, "cifar100": 50_000}
"""Training images that the source has."""
_TEST_IMAGES = {
    "caltech101": "a fifth of the images, by a hash, is for testing; the source does not say which tenth it took",
    "flowers102": "all 6,149 test images; the source has 1,020, and does not say which",
}
HELD_OUT = "trained on four fifths of the training images; of the others, a half chooses the epoch"


class Deviation(NamedTuple):
    """One difference between our trainings and what the source did.

    Attributes:
        text: in words.
        decides: the source states it otherwise, so the trainings do not test its figure.
    """

    text: str
    decides: bool


def deviations(claim: Claim, records: Sequence[TrainingRecord], manifest: Manifest | None) -> tuple[Deviation, ...]:
    """All differences, those that decide first.

    Args:
        claim: as published.
        records: of one method and its reference, with equal settings.
        manifest: of their dataset; None where it is not known.
    """
    found = [*_stated(claim, records, manifest), *_unstated(claim, records, manifest)]
    return tuple(sorted(found, key=lambda deviation: not deviation.decides))


def image_dataset(record: TrainingRecord) -> str | None:
    """The image dataset of a record, or the one that it is a copy of; None where it is no published one."""
    source = _source_name(record)
    if source in IMAGE_DATASETS:
        return source
    plain = re.sub("[^a-z0-9]", "", source.lower())
    ends = [name for name in IMAGE_DATASETS if plain.endswith(name)]
    return max(ends, key=len) if ends and source.startswith(("hub_", "folder_")) else None


def takes_best(claim: Claim, records: Sequence[TrainingRecord]) -> bool:
    """Whether the accuracy is that of the best epoch on the test images, as the source reports it."""
    return claim.run.accuracy == "best on test" and all(r.metrics.best_test_accuracy is not None for r in records)


def _stated(claim: Claim, records: Sequence[TrainingRecord], manifest: Manifest | None) -> Iterator[Deviation]:
    """What the source states, or any reader takes for granted, and our trainings do otherwise."""
    run, unit = claim.run, records[0].trial
    if run.image_size is not None and unit.image_size != run.image_size:
        yield Deviation(f"images of {unit.image_size} px, not {run.image_size}", True)
    if unit.limit is not None and _is_limited(unit.limit, manifest):
        num = _NUM_TRAINING.get(run.image_dataset or "")
        of = "" if num is None else f", of {num:,} for training"
        yield Deviation(f"at most {unit.limit:,} images in each split{of}", True)
    if unit.backbone_options != BackboneOptions():
        yield Deviation("another layer, stride or first weights of the backbone", True)
    if unit.init != "fresh":
        yield Deviation("all seeds start from the same weights", True)
    recipes = [list(_recipe(recipe, records[0], manifest)) for recipe in run.recipes]
    yield from min(recipes, key=lambda found: (sum(deviation.decides for deviation in found), len(found)))
    judges = {record.trial.evaluator for record in records} - {None, run.judge}
    if judges:
        yield Deviation(f"the judge {', '.join(sorted(map(str, judges)))}, not {run.judge}", True)
    if run.accuracy == "best on test" and not takes_best(claim, records):
        yield Deviation("weights chosen on validation images, not on the test images", True)


def _unstated(claim: Claim, records: Sequence[TrainingRecord], manifest: Manifest | None) -> Iterator[Deviation]:
    """What the source leaves open, or what is ours in every training."""
    run, unit = claim.run, records[0].trial
    source = _source_name(records[0])
    if source != run.image_dataset:
        yield Deviation(f"a copy of the images ({source}), which may be encoded again", False)
    if run.image_dataset in _TEST_IMAGES:
        yield Deviation(_TEST_IMAGES[run.image_dataset], False)
    if unit.limit is None or not _is_limited(unit.limit, manifest):
        yield Deviation(HELD_OUT, False)
    if run.raf is None:
        yield Deviation(f"RAF {unit.method.raf:g}; the source does not say which", False)
    if manifest is not None and manifest.config.codec == "q8" and any(r.trial.evaluator for r in records):
        yield Deviation("a judge that learned from maps stored with loss (q8)", False)


def _recipe(stated: StatedRecipe, record: TrainingRecord, manifest: Manifest | None) -> Iterator[Deviation]:
    recipe, epochs = record.trial.recipe, record.trial.epochs
    for name in _RECIPE_FIELDS:
        claimed, own = getattr(stated, name), getattr(recipe, name)
        if claimed is not None and own != claimed:
            yield Deviation(f"{name} {own}, not {claimed} ({stated.name})", True)
    if stated.momentum is not None and recipe.optimizer == "sgd" and recipe.momentum != stated.momentum:
        yield Deviation(f"momentum {recipe.momentum}, not {stated.momentum} ({stated.name})", True)
    if stated.epochs is not None and epochs != stated.epochs:
        yield Deviation(f"{epochs} epochs, not {stated.epochs} ({stated.name})", True)
    if stated.epochs is None and manifest is not None:  # then the length is the convergence point
        point = max(math.ceil(run.convergence_epoch) for run in manifest.runs if run.role == "training")
        if epochs != point:
            text = f"{epochs} epochs; the convergence point of these images and this network is {point}"
            yield Deviation(text, epochs < point)


def _is_limited(limit: int, manifest: Manifest | None) -> bool:
    """Whether images were left out; a limit that no split reaches leaves out none."""
    return manifest is None or max(manifest.images.num_images.values()) >= limit


def _source_name(record: TrainingRecord) -> str:
    return record.dataset.split(f"-{record.trial.backbone.replace('/', '_')}-")[0]
