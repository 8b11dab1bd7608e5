"""Checks results that anybody may have written: nothing in them is trusted that can be computed.

Each trial is checked by itself (schema, key, predictions, every metric computed again), against its FMCS dataset
(images, runs, splits, checkpoints), and beside the others (copies, seeds that disagree).

N images, K stages, P checkpoints, T images along the test run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from fmcs_bench.core.errors import FmcsBenchError, MissingDataError
from fmcs_bench.core.progress import SILENT, Progress
from fmcs_bench.evaluator_track import runner as evaluator_runner
from fmcs_bench.evaluator_track.protocol import SIDES
from fmcs_bench.evaluators.base import TRAITS
from fmcs_bench.evaluators.registry import EVALUATORS
from fmcs_bench.images.base import IMAGE_DATASETS
from fmcs_bench.images.dataset import SPLITS, ImageDataset, assign_splits
from fmcs_bench.images.load import load_images
from fmcs_bench.leaderboard.load import Arrays, Report, Tell, Trial, find_manifests, read_trials
from fmcs_bench.results import metrics, tables
from fmcs_bench.results.records import SUBSETS, EvaluatorRecord, TrainingRecord, unit_key
from fmcs_bench.results.tables import AnyTrial
from fmcs_bench.store.schema import Manifest
from fmcs_bench.store.verify import guarded
from fmcs_bench.training.convergence import checkpoint_steps
from fmcs_bench.training.methods import NUM_SEEDS
from fmcs_bench.training_track import runner as training_runner
from fmcs_bench.training_track.plan import FIRST_SEED

USUAL_SEEDS = {"evaluator": range(NUM_SEEDS), "training": range(FIRST_SEED, FIRST_SEED + NUM_SEEDS)}
FIRST_DAY = datetime(2026, 1, 1, tzinfo=UTC)
CLOCK_SKEW = timedelta(hours=1)
TOLERANCE = 1e-8
"""Largest difference of a metric that is explained by probabilities in float32."""
SCORE_TOLERANCE = 1e-6
"""The same of mean scores along the test run; ``fmcs_bench.results.tables`` has those of rounded predictions."""


class KnownDatasets:
    """The FMCS datasets that trials may be about; with ``data_dir``, image ids and labels are compared exactly."""

    def __init__(self, manifests: Mapping[str, Manifest], data_dir: Path | None = None) -> None:
        self.manifests, self._data_dir = manifests, data_dir
        self._images: dict[str, ImageDataset | None] = {}

    def images(self, manifest: Manifest) -> ImageDataset | None:
        """The images that a dataset was built from; None where they are not here."""
        config, name = manifest.config, manifest.config.image_dataset
        if manifest.id not in self._images:
            self._images[manifest.id] = None
            if name == "digits" or (name in IMAGE_DATASETS and self._data_dir is not None):
                with suppress(FmcsBenchError):
                    found = load_images(
                        name,
                        self._data_dir,
                        limit=config.limit,
                        image_size=config.image_size,
                        skip_broken=manifest.images.num_broken > 0,
                    )
                    self._images[manifest.id] = found if found.sha256 == manifest.images.sha256 else None
        return self._images[manifest.id]


def check(
    source: Path, *, datasets: Sequence[Path] = (), data_dir: Path | None = None, progress: Progress = SILENT
) -> Report:
    """Check all results of a workspace or of a folder of results, which must be complete.

    Args:
        source: a workspace, or a folder such as the repository's ``leaderboard``.
        datasets: folders of known datasets, see ``find_manifests``.
        data_dir: folder with the files of image datasets; digits are always here.
        progress: shows trials.

    Raises:
        MissingDataError: there is no result.
    """
    report = Report()
    known = KnownDatasets(find_manifests(datasets, report), data_dir)
    trials = read_trials(source, report)
    if not trials and not report.faults:
        raise MissingDataError(f"there are no results in {source}; name a workspace or a folder with results")
    check_trials(trials, report, known, strict=(source / "results").is_dir(), progress=progress)
    return report


def check_trials(
    trials: Sequence[Trial],
    report: Report,
    known: KnownDatasets,
    *,
    beside: Sequence[Trial] = (),
    strict: bool = True,
    progress: Progress = SILENT,
) -> None:
    """Check trials, beside others that were checked before; a fault in one never stops the checks of the others.

    ``strict``: an unknown dataset, a missing seed and a missing baseline are faults and not notes.
    """
    with progress.task("checking trials", len(trials)) as task:
        for trial in trials:
            tell = report.tell(trial.where)

            def broken(text: str, tell: Tell = tell) -> None:
                tell(text, "a trial that can be computed again")

            with guarded(broken, "it cannot be checked"):
                report.num_trials += 1
                _check_notes(trial.record, tell)
                if _check_arrays(trial, tell):
                    _check_metrics(trial, dict(trial.arrays), tell)
                    _check_dataset(trial, known, tell, report.tell(trial.where, note=not strict))
            task.advance()
    _check_copies([*beside, *trials], report)
    _check_groups(trials, beside, report, strict=strict)


def _check_notes(record: AnyTrial, tell: Tell) -> None:
    key = unit_key(record.trial, record.dataset_digest, record.environment)
    if record.key != key:
        tell(f"key {record.key}", f"{key}, the digest of trial, dataset, code, libraries and device")
    try:
        created = datetime.fromisoformat(record.created)
    except ValueError:
        created = None
    if created is None or created.tzinfo is None or not FIRST_DAY <= created <= datetime.now(UTC) + CLOCK_SKEW:
        tell(f"created {record.created!r}", f"an ISO 8601 time with its zone between {FIRST_DAY.date()} and now")
    epochs = [epoch.epoch for epoch in record.curve]
    if epochs != list(range(1, len(epochs) + 1)):
        tell(f"a curve of the epochs {epochs[:20]}", "1, 2, 3, ... without a gap")


def _check_arrays(trial: Trial, tell: Tell) -> bool:
    """The predictions have the arrays of their track, of the right kinds and shapes, and no other."""
    arrays, good = trial.arrays, True
    wanted = _wanted(trial.record, arrays)
    for name in sorted(wanted.keys() ^ arrays.keys()):
        tell(f"predictions {'lack' if name in wanted else 'have'} {name!r}", ", ".join(sorted(wanted)))
        good = False
    for name in sorted(wanted.keys() & arrays.keys()):
        (kinds, *shape), found = wanted[name], arrays[name]
        if found.dtype.kind not in str(kinds) or list(found.shape) != shape or 0 in shape:
            tell(f"{name!r} is {found.dtype} {list(found.shape)}", f"shape {shape}, not empty")
            good = False
        elif found.dtype.kind == "f" and not np.isfinite(found).all():
            tell(f"{name!r} holds NaN or infinity", "finite numbers")
            good = False
    return good


def _wanted(record: AnyTrial, arrays: Arrays) -> dict[str, tuple[str | int, ...]]:
    """Names of arrays, with the kinds of their types and their shapes."""

    def num_images(place: str) -> int:
        return arrays[f"{place}/image"].size if f"{place}/image" in arrays else 0

    wanted: dict[str, tuple[str | int, ...]] = {}
    if isinstance(record, EvaluatorRecord):
        for place in (*SUBSETS, *(f"test_on/{name}" for name in record.test_on)):
            num = num_images(place)
            wanted[f"{place}/probs"] = "f", record.num_stages, num, record.num_stages
            wanted |= {f"{place}/{name}": ("iu", num) for name in ("image", "run")}
        scores = arrays.get("trajectory/score", np.empty((0, 0)))
        return wanted | {"trajectory/score": ("f", len(record.trajectory.step), scores.shape[-1])}
    for place in ("validation", "test"):
        wanted |= {f"{place}/{name}": ("iu", num_images(place)) for name in ("image", "label", "predicted")}
    if training_runner.EVERY_EPOCH in arrays:
        wanted[training_runner.EVERY_EPOCH] = "iu", len(record.curve), num_images("test")
    return wanted | {"epoch": ("iu", 1)}


def _check_metrics(trial: Trial, arrays: dict[str, np.ndarray], tell: Tell) -> None:
    """Every number of a record that its predictions decide."""
    if isinstance(trial.record, EvaluatorRecord):
        _check_evaluator(trial.record, arrays, tell, rounded=trial.rounded)
    else:
        _check_training(trial.record, arrays, tell)


def _check_evaluator(record: EvaluatorRecord, arrays: dict[str, np.ndarray], tell: Tell, *, rounded: bool) -> None:
    off = tables.SUM_TOLERANCE if rounded else metrics.PROBABILITY_TOLERANCE
    for name, probs_KNK in arrays.items():
        if name.endswith("/probs") and (probs_KNK.min() < 0 or np.abs(probs_KNK.sum(axis=2) - 1).max() > off):
            tell(f"{name} holds rows that are no probabilities", f"numbers of at least 0 with a sum of 1 +- {off:g}")
            return
    if set(record.metrics) != set(SUBSETS):
        tell(f"metrics of {', '.join(sorted(record.metrics))}", f"of {', '.join(SUBSETS)}")
    again, others = evaluator_runner.recompute(arrays), evaluator_runner.recompute_test_on(arrays)
    tolerances = tables.TOLERANCES if rounded else {}
    for subset, found in record.metrics.items():
        _compare(f"metrics.{subset}", found.to_json(), again[subset].to_json(), tell, tolerances)
    for name, found in record.test_on.items():
        _compare(f"test_on.{name}", found.to_json(), others[name].to_json(), tell, tolerances)
    along, score_P = record.trajectory, arrays["trajectory/score"].astype(np.float64).mean(axis=1)
    if len({len(along.step), len(along.score), len(along.validation_accuracy)}) > 1:
        tell("trajectory lists of different lengths", "lists of one length")
        return
    scores, again_scores = dict(enumerate(along.score)), dict(enumerate(score_P.tolist()))
    off = tables.SCORE_TOLERANCE if rounded else SCORE_TOLERANCE
    _compare("trajectory.score", scores, again_scores, tell, dict.fromkeys(scores, off))
    correlation = metrics.rank_correlation(np.array(along.score), np.array(along.validation_accuracy))
    _compare("trajectory", {"spearman": along.spearman}, {"spearman": correlation}, tell)
    if record.trial.code is None:  # the class of a plug-in need not be here
        _check_traits(record, tell)


def _check_traits(record: EvaluatorRecord, tell: Tell) -> None:
    name = record.trial.evaluator
    if name not in EVALUATORS:
        tell(f"an evaluator {name!r} without the digest of its code", f"one of {', '.join(EVALUATORS.names())}")
        return
    for trait in (*TRAITS, "control"):
        stated, is_so = getattr(record, trait), getattr(EVALUATORS[name], trait)
        is_so = is_so or (trait == "control" and record.trial.labels == "permuted")
        if stated != is_so:
            tell(f"{trait} is {stated} for {name}", is_so)


def _check_training(record: TrainingRecord, arrays: dict[str, np.ndarray], tell: Tell) -> None:
    for place in ("validation", "test"):
        ids_N, labels_N = arrays[f"{place}/image"], arrays[f"{place}/label"]
        if len(np.unique(ids_N)) < len(ids_N) or labels_N.min() < 0:
            tell(f"{place} predictions with an image twice or a negative label", "every image once")
    _compare("metrics", record.metrics.to_json(), training_runner.recompute(arrays).to_json(), tell)
    num_epochs, validation = len(record.curve), [epoch.validation for epoch in record.curve]
    if num_epochs != record.trial.num_epochs:
        tell(f"a curve of {num_epochs} epochs", f"the {record.trial.num_epochs} of the trial")
    best = 1 + max(range(num_epochs), key=validation.__getitem__)  # the first of equals
    if record.metrics.epoch != best:
        tell(f"metrics.epoch {record.metrics.epoch}", f"{best}, of the highest validation accuracy of the curve")
        return
    _compare("curve", {"validation": validation[best - 1]}, {"validation": record.metrics.validation_accuracy}, tell)
    by_epoch = arrays.get(training_runner.EVERY_EPOCH)
    if by_epoch is not None and (by_epoch[best - 1] != arrays["test/predicted"]).any():
        tell(f"{training_runner.EVERY_EPOCH} of epoch {best}", "equal to test/predicted, which is of that epoch")


def _compare(
    where: str, found: Mapping[Any, Any], again: Mapping[Any, Any], tell: Tell, tolerances: Mapping[Any, float] = {}
) -> None:
    """Tell every number that differs by more than its tolerance, which is relative above 1."""
    for name in sorted(found.keys() | again.keys()):
        stated, computed = found.get(name), again.get(name)
        if stated is None or computed is None:
            equal = stated is computed
        else:
            equal = abs(stated - computed) <= tolerances.get(name, TOLERANCE) * (1 + abs(computed))
        if not equal:
            tell(f"{where}.{name} {stated!r}", f"{computed!r}, computed from the predictions")


def _check_dataset(trial: Trial, known: KnownDatasets, tell: Tell, unknown: Tell) -> None:
    """Images, runs, checkpoints and configuration are those of the FMCS dataset."""
    record, arrays = trial.record, trial.arrays
    manifest = known.manifests.get(record.dataset_id)
    if manifest is None or manifest.dataset_digest != record.dataset_digest:
        ids = ", ".join(known.manifests) or "none"
        unknown(f"the dataset {record.dataset} with the digest {record.dataset_digest} is unknown", f"one of {ids}")
        return
    if record.num_stages != manifest.config.stages:
        tell(f"num_stages {record.num_stages}", f"{manifest.config.stages}, of the dataset")
    if isinstance(record, TrainingRecord):
        _check_training_images(record, arrays, manifest, known, tell)
        return
    for subset in SUBSETS:
        _check_subset(subset, subset, record, arrays, manifest, known, tell)
    _check_checkpoints(record, manifest, arrays["trajectory/score"], tell)
    for name in record.test_on:
        if name in known.manifests:
            _check_subset(f"test_on/{name}", "test_run", record, arrays, known.manifests[name], known, tell)
        else:
            unknown(f"test_on has the dataset {name}, which is unknown", f"one of {', '.join(known.manifests)}")


def _check_subset(
    place: str,
    subset: str,
    record: EvaluatorRecord,
    arrays: Arrays,
    manifest: Manifest,
    known: KnownDatasets,
    tell: Tell,
) -> None:
    """The images and runs of one subset, under ``place`` in the predictions."""
    role, split = SIDES[subset]  # type: ignore[index]
    seeds = sorted(run.seed for run in manifest.runs if run.role == role)
    image_N, run_N = arrays[f"{place}/image"], arrays[f"{place}/run"]
    limit, total = record.trial.limits[1], manifest.images.num_images[split]
    num = total if limit is None else min(limit, total)
    if len(image_N) != num * len(seeds) or not np.array_equal(run_N, np.repeat(seeds, num)):
        found = f"{place} has {len(image_N):,} images of the runs {np.unique(run_N)[:9].tolist()}"
        tell(found, f"{num:,} images of the split {split}, of each of the runs {seeds}, run by run")
        return
    rows_RN = image_N.reshape(len(seeds), num)
    if (rows_RN != rows_RN[0]).any() or (np.diff(rows_RN[0]) <= 0).any():
        tell(f"{place} has different images for each run, or an image twice", "the same images, ordered by id")
        return
    here = known.images(manifest)
    if here is None:
        _check_hash(place, split, rows_RN[0], manifest, tell)
    elif not np.array_equal(rows_RN[0], np.sort(here.ids_N[here.indices(split)][:num])):
        tell(f"{place} is about different images", f"those of {manifest.id}")


def _check_hash(place: str, split: str, ids_N: np.ndarray, manifest: Manifest, tell: Tell) -> None:
    """By their ids images are of this split; which are the source's own test images, ids do not tell."""
    if split == "unseen":
        return
    splits_N = assign_splits(manifest.config.image_dataset, ids_N, np.zeros(len(ids_N), dtype=bool))
    wrong_N = ids_N[splits_N != SPLITS.index(split)]
    if len(wrong_N):
        tell(
            f"{place} has {len(wrong_N):,} images of other splits, such as {wrong_N[0]}", f"images of the split {split}"
        )


def _check_checkpoints(record: EvaluatorRecord, manifest: Manifest, score_PT: np.ndarray, tell: Tell) -> None:
    config, along = manifest.config, record.trajectory
    run = next(run for run in manifest.runs if run.role == "test")
    per_epoch = -(-manifest.images.num_images["train"] // config.recipe.batch_size)
    steps = checkpoint_steps(config.epochs * per_epoch, config.checkpoints)
    if list(along.step) != steps:
        tell(f"trajectory.step {list(along.step)[:9]}...", f"the checkpoints of run {run.seed}, {steps[:9]}...")
        return
    followed = run.num_trajectory_maps // run.num_checkpoints
    if score_PT.shape[1] != followed:
        tell(f"trajectory/score of {score_PT.shape[1]} images", f"of {followed} images")
    accuracy, num = dict(zip(steps, along.validation_accuracy, strict=True)), manifest.images.num_images["validation"]
    whole = {step: round(value * num) / num for step, value in accuracy.items()}
    _compare("trajectory.validation_accuracy", accuracy, whole, tell)  # shares of so many images
    stated = {stage.step: stage.validation_accuracy for stage in run.stages if stage.step in accuracy}
    _compare("trajectory.validation_accuracy", {step: accuracy[step] for step in stated}, stated, tell)


def _check_training_images(
    record: TrainingRecord, arrays: Arrays, manifest: Manifest, known: KnownDatasets, tell: Tell
) -> None:
    for name in ("backbone", "backbone_options", "image_size", "limit"):
        own, given = getattr(manifest.config, name), getattr(record.trial, name)
        if own != given:
            tell(f"{name} {given!r}", f"{own!r}, of the dataset")
    here = known.images(manifest)
    for place, split in (("validation", "validation"), ("test", "unseen")):
        ids_N, labels_N = arrays[f"{place}/image"], arrays[f"{place}/label"]
        total = manifest.images.num_images[split]
        if len(ids_N) != total:
            tell(f"{place} predictions of {len(ids_N):,} images", f"{total:,}, the split {split}")
        elif here is not None:
            rows = here.indices(split)
            if not np.array_equal(ids_N, here.ids_N[rows]) or not np.array_equal(labels_N, here.labels_N[rows]):
                tell(f"{place} predictions of different images or labels", f"those of {manifest.id}")
        else:
            _check_hash(place, split, ids_N, manifest, tell)
            classes = list(manifest.images.statistics.num_images[split])
            count_K = np.bincount(np.clip(labels_N, 0, len(classes)), minlength=len(classes))
            if count_K.tolist() != classes:
                tell(f"{place} predictions with different numbers of images by class", classes[:20])
    both = np.intersect1d(arrays["validation/image"], arrays["test/image"])
    if len(both):
        tell(f"the image {both[0]} is in validation and in test", "no image in two splits")


def _check_copies(trials: Sequence[Trial], report: Report) -> None:
    """No trial is there twice, and none is a copy under a different name."""
    names: dict[object, Trial] = {}
    answers: dict[object, Trial] = {}
    fits: dict[object, Trial] = {}
    for trial in trials:
        record, tell = trial.record, report.tell(trial.where)
        first = names.setdefault(record.name, trial)
        if first is not trial:
            tell(f"it is the same trial as {first.where}", "one result for each trial")
            continue
        # Two trainings of one seed may honestly answer alike on few images; their losses never agree.
        curve = None if isinstance(record, EvaluatorRecord) else record.curve
        other = answers.setdefault((_digest(trial.arrays), curve), trial)
        if other is not trial and not _may_agree(other.record, record):
            tell(f"its predictions are those of {other.where}", "predictions of its own")
        if isinstance(record, EvaluatorRecord) and record.cost.num_parameters > 0:
            other = fits.setdefault((record.dataset_id, record.evaluator_digest), trial)
            if other.record.method != record.method:
                tell(f"its fitted evaluator is that of {other.where}", "a fit of its own")


def _digest(arrays: Arrays) -> str:
    content = hashlib.sha256()
    for name in sorted(arrays):
        content.update(name.encode())
        content.update(np.ascontiguousarray(arrays[name]).data)
    return content.hexdigest()


def _may_agree(one: AnyTrial, other: AnyTrial) -> bool:
    """Two fits of one evaluator whose seed decides nothing, or one seed of one evaluator with different settings."""
    if not isinstance(one, EvaluatorRecord) or not isinstance(other, EvaluatorRecord) or one.method != other.method:
        return False
    name = one.trial.evaluator
    fixed = one.trial.code is not None or (name in EVALUATORS and EVALUATORS[name].deterministic)
    return fixed or one.seed == other.seed


def _check_groups(trials: Sequence[Trial], beside: Sequence[Trial], report: Report, *, strict: bool) -> None:
    """The seeds of one method agree on what the seed does not decide, and are complete."""
    boards: dict[tuple[str, str, str], dict[str, list[Trial]]] = {}
    for trial in (*beside, *trials):
        boards.setdefault(trial.board, {}).setdefault(trial.record.method, []).append(trial)
    for board, method in dict.fromkeys((trial.board, trial.record.method) for trial in trials):
        group = boards[board][method]
        for trial in group[1:]:
            _check_alike(group[0], trial, report.tell(trial.where))
        missing = sorted(set(USUAL_SEEDS[board[0]]) - {trial.record.seed for trial in group})
        if missing:
            report.tell("/".join((*board, method)), note=not strict)(f"no seeds {missing}", "the usual seeds")
    for board in dict.fromkeys(trial.board for trial in trials):
        if board[0] == "training" and "baseline" not in boards[board]:
            report.tell("/".join(board), note=not strict)("no baseline", "one, to which methods are compared")


def _check_alike(first: Trial, trial: Trial, tell: Tell) -> None:
    for name, own, given in zip(_SHARED, _shared(first.record), _shared(trial.record), strict=True):
        if own != given:
            tell(f"{name} {given}", f"{own}, as in {first.where}")
    for name in sorted(first.arrays.keys() & trial.arrays.keys()):
        if name.endswith("/image") and not np.array_equal(first.arrays[name], trial.arrays[name]):
            tell(f"{name} is about different images than in {first.where}", "the same images for all seeds")


_SHARED = ("dataset_digest", "code or evaluator", "num_parameters")


def _shared(record: AnyTrial) -> tuple[object, ...]:
    """What all seeds of a method share."""
    if isinstance(record, TrainingRecord):
        return record.dataset_digest, record.trial.evaluator_digest, record.cost.num_parameters
    # The number of nodes of a tree depends on the seed.
    parameters = record.cost.num_parameters if record.differentiable else None
    return record.dataset_digest, record.trial.code, parameters
