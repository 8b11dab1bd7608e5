"""Predictions are about the images and runs of the dataset that a record names.

Flow: manifest, images where they are here -> for each side of the protocol the images, their order and their labels ->
compared with the predictions. Where the images are not here: their number, the hash that gives their split, the number
of images of each class, and that no image stands on two sides.

N images, P checkpoints, T images along the test run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fmcs_bench.evaluator_track.protocol import SIDES
from fmcs_bench.images.dataset import SPLITS, ImageDataset, assign_splits
from fmcs_bench.leaderboard.faults import Tell
from fmcs_bench.leaderboard.known import KnownDatasets
from fmcs_bench.results.records import SUBSETS, EvaluatorRecord, TrainingRecord
from fmcs_bench.store.schema import Manifest
from fmcs_bench.training.convergence import checkpoint_steps

TOLERANCE = 1e-9
_AGAIN = "evaluate or train again on this dataset, and bring record and predictions as they were written"
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Pictured:
    """What a dataset says about the predictions on it.

    Attributes:
        manifest: of the dataset.
        images: it was built from; None where they are not here.
        others: the other known datasets, for ``test_on``.
    """

    manifest: Manifest
    images: ImageDataset | None
    others: KnownDatasets

    @classmethod
    def of(cls, manifest: Manifest, known: KnownDatasets) -> Pictured:
        """With the images, where they are here."""
        found = known.images(manifest)
        return cls(manifest, found if isinstance(found, ImageDataset) else None, known)

    def check(self, record: EvaluatorRecord | TrainingRecord, arrays: Arrays, tell: Tell) -> None:
        """Images, runs, checkpoints and configuration are those of the dataset."""
        if isinstance(record, EvaluatorRecord):
            self._check_evaluator(record, arrays, tell)
        else:
            self._check_training(record, arrays, tell)

    def _check_evaluator(self, record: EvaluatorRecord, arrays: Arrays, tell: Tell) -> None:
        config = self.manifest.config
        if record.num_stages != config.stages:
            tell(f"num_stages {record.num_stages}", f"{config.stages}, of the dataset", _AGAIN)
        for column in SUBSETS:
            self.check_side(column, column, record.trial.limits[1], arrays, tell)
        self._check_checkpoints(record, arrays["trajectory/score"], tell)
        for name in record.test_on:
            manifest = self.others.manifest(name)
            if manifest is not None:
                other = Pictured.of(manifest, self.others)
                other.check_side(f"test_on/{name}", "test_run", record.trial.limits[1], arrays, tell)

    def check_side(self, place: str, side: str, limit: int | None, arrays: Arrays, tell: Tell) -> None:
        """The images and runs of one side of the protocol.

        Args:
            place: in the predictions file.
            side: of ``fmcs_bench.evaluator_track.protocol.SIDES``.
            limit: of the fit; the images that come first are taken.
            arrays: the predictions.
            tell: called with every fault.
        """
        role, split = SIDES[side]  # type: ignore[index]  # a column is a name of a side
        seeds = sorted(run.seed for run in self.manifest.runs if run.role == role)
        image_N, run_N = arrays[f"{place}/image"], arrays[f"{place}/run"]
        total = self.manifest.images.num_images[split]
        num = total if limit is None else min(limit, total)
        if len(image_N) != num * len(seeds) or not np.array_equal(run_N, np.repeat(seeds, num)):
            tell(
                f"{place} has {len(image_N):,} images of the runs {np.unique(run_N)[:9].tolist()}",
                f"{num:,} images of the split {split}, of each of the runs {seeds}, run by run",
                _AGAIN,
            )
            return
        rows_RN = image_N.reshape(len(seeds), num)
        if (rows_RN != rows_RN[0]).any() or (np.diff(rows_RN[0]) <= 0).any():
            tell(f"{place} has other images for each run, or an image twice", "the same images, ordered by id", _AGAIN)
            return
        if self.images is not None:
            expected_N = np.sort(self.images.ids_N[self.images.indices(split)][:num])
            if not np.array_equal(rows_RN[0], expected_N):
                self._tell_other(place, rows_RN[0], expected_N, tell)
        else:
            self._check_hash(place, split, rows_RN[0], tell)

    def _check_hash(self, place: str, split: str, ids_N: np.ndarray, tell: Tell) -> None:
        """By their ids the images are of this split; which images are the source's own test images, ids do not tell."""
        if split == "unseen":
            return
        splits_N = assign_splits(self.manifest.config.image_dataset, ids_N, np.zeros(len(ids_N), dtype=bool))
        wrong_N = ids_N[splits_N != SPLITS.index(split)]
        if len(wrong_N):
            tell(
                f"{place} has images that are not of the split {split}, such as {wrong_N[0]} ({len(wrong_N):,} in all)",
                f"images whose id gives the split {split}",
                _AGAIN,
            )

    def _tell_other(self, place: str, found_N: np.ndarray, expected_N: np.ndarray, tell: Tell) -> None:
        wrong_N = np.setdiff1d(found_N, expected_N)
        example = f"such as {wrong_N[0]}" if len(wrong_N) else "in another order"
        tell(f"{place} is about other images, {example}", f"the images of {self.manifest.id}", _AGAIN)

    def _check_checkpoints(self, record: EvaluatorRecord, score_PT: np.ndarray, tell: Tell) -> None:
        config, told = self.manifest.config, record.trajectory
        (run,) = (run for run in self.manifest.runs if run.role == "test")
        per_epoch = -(-self.manifest.images.num_images["train"] // config.recipe.batch_size)
        steps = checkpoint_steps(config.epochs * per_epoch, config.checkpoints)
        if list(told.step) != steps:
            tell(
                f"trajectory.step {list(told.step)[:9]}...",
                f"the checkpoints of run {run.seed}, {steps[:9]}...",
                _AGAIN,
            )
            return
        followed = run.num_trajectory_maps // run.num_checkpoints
        if score_PT.shape[1] != followed:
            tell(f"trajectory/score of {score_PT.shape[1]} images", f"of {followed} images", _AGAIN)
        accuracy_P = np.array(told.validation_accuracy)
        count_P = accuracy_P * self.manifest.images.num_images["validation"]
        wrong = np.flatnonzero((np.abs(count_P - np.rint(count_P)) > 1e-6) | (accuracy_P < 0) | (accuracy_P > 1))
        stated = {stage.step: stage.validation_accuracy for stage in run.stages}
        off = [p for p, step in enumerate(steps) if abs(stated.get(step, accuracy_P[p]) - accuracy_P[p]) > TOLERANCE]
        for p in sorted({*wrong.tolist(), *off}):
            tell(
                f"trajectory.validation_accuracy[{p}] {told.validation_accuracy[p]!r}",
                f"the accuracy of run {run.seed} after step {steps[p]}, as its dataset has it",
                _AGAIN,
            )

    def _check_training(self, record: TrainingRecord, arrays: Arrays, tell: Tell) -> None:
        config, unit = self.manifest.config, record.trial
        for name in ("backbone", "backbone_options", "image_size", "limit"):
            own, given = getattr(config, name), getattr(unit, name)
            if own != given:
                tell(f"unit.{name} {given!r}", f"{own!r}, of the dataset", _AGAIN)
        for place, split in (("validation", "validation"), ("test", "unseen")):
            ids_N, labels_N = arrays[f"{place}/image"], arrays[f"{place}/label"]
            total = self.manifest.images.num_images[split]
            if len(ids_N) != total:
                tell(f"{place} predictions of {len(ids_N):,} images", f"of {total:,}, the split {split}", _AGAIN)
                continue
            if self.images is not None:
                rows = self.images.indices(split)
                if not np.array_equal(ids_N, self.images.ids_N[rows]):
                    self._tell_other(place, ids_N, self.images.ids_N[rows], tell)
                elif not np.array_equal(labels_N, self.images.labels_N[rows]):
                    tell(f"{place} predictions with other labels", "the labels of the images", _AGAIN)
                continue
            self._check_hash(place, split, ids_N, tell)
            classes = self.manifest.images.statistics.num_images[split]
            count_K = np.bincount(np.clip(labels_N, 0, len(classes)), minlength=len(classes))
            if count_K.tolist() != list(classes):
                tell(f"{place} predictions with other numbers of images by class", f"{list(classes)[:20]}", _AGAIN)
        both = np.intersect1d(arrays["validation/image"], arrays["test/image"])
        if len(both):
            tell(f"the image {both[0]} is in validation and in test", "no image on two sides", _AGAIN)
