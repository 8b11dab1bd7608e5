"""Checks results that anybody may have written: nothing in them is trusted that can be computed.

Each trial is checked by itself (schema, key, predictions, every metric computed again), against its FMCS dataset
(images, runs, splits, checkpoints), and beside the others (copies, seeds that disagree).

N images, K stages, P checkpoints, T images along the test run.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from fmcs_bench.core.errors import FmcsBenchError, MissingDataError, RecordError
from fmcs_bench.core.progress import SILENT, Progress
from fmcs_bench.evaluator_track import runner as evaluator_runner
from fmcs_bench.evaluator_track.protocol import SIDES
from fmcs_bench.evaluators.base import TRAITS
from fmcs_bench.evaluators.registry import EVALUATORS
from fmcs_bench.images.base import IMAGE_DATASETS
from fmcs_bench.images.dataset import SPLITS, ImageDataset, assign_splits
from fmcs_bench.images.load import load_images
from fmcs_bench.leaderboard.reproduce import USUAL_SEEDS
from fmcs_bench.results import metrics, tables
from fmcs_bench.results.records import SUBSETS, EvaluatorRecord, TrainingRecord, unit_key
from fmcs_bench.results.store import RecordStore, predictions_path
from fmcs_bench.store import schema
from fmcs_bench.store.schema import Manifest
from fmcs_bench.store.verify import guarded
from fmcs_bench.training.convergence import checkpoint_steps
from fmcs_bench.training_track import runner as training_runner

MAX_MANIFEST_BYTES = 50_000_000
MAX_RECORD_BYTES = 1_000_000
MAX_PREDICTIONS_BYTES = 64_000_000
"""The largest so far, of 9 stages and 10,000 images in each subset, are a tenth of it."""
TOLERANCE = 1e-8
"""Largest difference of a metric that is explained by probabilities in float32."""
SCORE_TOLERANCE = 1e-6
"""The same of mean scores along the test run; ``fmcs_bench.results.tables`` has those of rounded predictions."""
FIRST_DAY = datetime(2026, 1, 1, tzinfo=UTC)
CLOCK_SKEW = timedelta(hours=1)
_MAX_SHOWN = 300

Arrays = Mapping[str, np.ndarray]
Tell = Callable[[str, object], None]
"""Called with what is wrong, and what is expected."""
AnyTrial = EvaluatorRecord | TrainingRecord


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong, or worth a note; every part is one line of plain text."""

    where: str
    what: str
    expected: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}; expected {self.expected}"


@dataclass
class Report:
    """Everything that was checked; prints as a line for each fault and note, and one about the whole."""

    num_trials: int = 0
    faults: list[Fault] = field(default_factory=list)
    notes: list[Fault] = field(default_factory=list)

    def tell(self, where: str, *, note: bool = False) -> Tell:
        """A function that adds a fault or a note about one file, with everything that is not printable made so."""
        into = self.notes if note else self.faults
        return lambda what, expected: into.append(Fault(_plain(where), _plain(what), _plain(expected)))

    def __str__(self) -> str:
        lines = [f"fault  {fault}" for fault in self.faults] + [f"note   {note}" for note in self.notes]
        return "\n".join([*lines, f"{self.num_trials:,} trials checked: {len(self.faults) or 'no'} faults"])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"ok": not self.faults} | asdict(self)


@dataclass(frozen=True)
class Trial:
    """A record with its predictions.

    Attributes:
        where: path of the record, or the name of the trial.
        record: of either track.
        arrays: its predictions.
        rounded: the predictions are as ``fmcs_bench.results.tables`` rounds them.
    """

    where: str
    record: AnyTrial
    arrays: Arrays
    rounded: bool = False

    @property
    def board(self) -> tuple[str, str, str]:
        """What it can be compared with: track, dataset and settings."""
        return self.record.track, self.record.dataset_id, self.record.settings


class KnownDatasets:
    """The FMCS datasets that trials may be about.

    Args:
        manifests: by dataset id, see ``find_manifests``.
        data_dir: folder with the files of image datasets, to compare image ids and labels exactly; digits are always
            here.
    """

    def __init__(self, manifests: Mapping[str, Manifest], data_dir: Path | None = None) -> None:
        self.manifests, self._data_dir = manifests, data_dir
        self._images: dict[str, ImageDataset | None] = {}

    def images(self, manifest: Manifest) -> ImageDataset | None:
        """The images that a dataset was built from; None where they are not here."""
        if manifest.id not in self._images:
            self._images[manifest.id] = self._load(manifest)
        return self._images[manifest.id]

    def _load(self, manifest: Manifest) -> ImageDataset | None:
        config, name = manifest.config, manifest.config.image_dataset
        if name not in IMAGE_DATASETS or (name != "digits" and self._data_dir is None):
            return None
        skip_broken = manifest.images.num_broken > 0
        try:
            found = load_images(
                name, self._data_dir, limit=config.limit, image_size=config.image_size, skip_broken=skip_broken
            )
            return found if found.sha256 == manifest.images.sha256 else None
        except FmcsBenchError:
            return None


def find_manifests(folders: Iterable[Path], broken: Callable[[Path, str], None] | None = None) -> dict[str, Manifest]:
    """The manifests of all datasets in some folders, by dataset id and ordered by it.

    Args:
        folders: each holds a folder for each dataset, as ``data_cards`` and ``<workspace>/datasets`` do; one that is
            not there holds none.
        broken: called with the path and the reason of a manifest that cannot be used; None skips it.

    Example:
        >>> find_manifests([Path("nowhere")])
        {}
    """
    found: dict[str, Manifest] = {}
    for path in sorted(path for folder in folders for path in folder.glob(f"*/{schema.MANIFEST}")):
        try:
            if path.stat().st_size > MAX_MANIFEST_BYTES:
                raise ValueError(f"it has more than {MAX_MANIFEST_BYTES:,} bytes")
            manifest = Manifest.from_json(json.loads(path.read_bytes()))
            if not manifest.states_its_digest:
                raise ValueError("it was changed: its digest is not that of its content")
        except (ValueError, OSError, RecursionError) as error:  # a ConfigError is a ValueError
            if broken is not None:
                broken(path, str(error))
            continue
        found[manifest.id] = manifest
    return dict(sorted(found.items()))


def read_trials(folder: Path, report: Report) -> list[Trial]:
    """All trials of a folder that can be read, each with its predictions; the others are faults.

    Args:
        folder: a workspace, or a folder of results such as the repository's ``leaderboard``.
        report: gets faults.
    """
    return _read_tables(folder, report) if (folder / "results").is_dir() else _read_records(folder / "records", report)


def _read_tables(folder: Path, report: Report) -> list[Trial]:
    found: list[Trial] = []
    for track in tables.KINDS:
        name = f"results/{track}.parquet"
        if not (folder / name).exists():
            continue
        records: list[AnyTrial] = []
        with _named(name, folder, report):
            records = tables.read(folder, track)
        for dataset in dict.fromkeys(record.dataset for record in records):
            own = [record for record in records if record.dataset == dataset]
            with _named(f"predictions/{track}-{dataset}.parquet", folder, report):
                pairs = list(tables.read_predictions(folder, own))
                found += [Trial(record.name, record, arrays, rounded=True) for record, arrays in pairs]
    return found


def _read_records(root: Path, report: Report) -> list[Trial]:
    store, found = RecordStore(root), []
    for kind in tables.KINDS.values():
        for path in store.paths(kind):
            name = path.relative_to(root).as_posix()
            with _named(name, root, report):
                for file, limit in ((path, MAX_RECORD_BYTES), (predictions_path(path), MAX_PREDICTIONS_BYTES)):
                    if file.exists() and file.stat().st_size > limit:
                        raise RecordError(f"{file.name} has {file.stat().st_size:,} bytes; at most {limit:,} are read")
                record: AnyTrial = store.read(kind, path)  # type: ignore[type-var]
                found.append(Trial(name, record, store.predictions(record)))
    return found


@contextmanager
def _named(where: str, folder: Path, report: Report) -> Iterator[None]:
    """What cannot be read inside becomes a fault, without the place of this folder: a page is for everybody."""
    try:
        yield
    except (FmcsBenchError, OSError, ValueError, KeyError, RecursionError) as error:
        text = " ".join(str(error).replace(f"{folder}/", "").split())
        report.tell(where)(text or type(error).__name__, "a file that fmcs-bench wrote")


def usable(trials: Iterable[Trial], report: Report) -> list[Trial]:
    """The trials that can be shown beside each other; the others are faults.

    All fits of one board have the same stages and checkpoints, and metrics and predictions of every map.
    """
    found, forms = [], dict[object, Counter[object]]()
    for trial in trials:
        form = _form(trial)
        if form is None:
            report.tell(trial.where)("incomplete metrics, trajectory or predictions", "a record that fmcs-bench wrote")
            continue
        found.append((trial, form))
        forms.setdefault(trial.board, Counter())[form] += 1
    kept = []
    for trial, form in found:
        ((usual, number), *_) = forms[trial.board].most_common(1)
        if form == usual:
            kept.append(trial)
        else:
            report.tell(trial.where)("stages or checkpoints differ", f"those of the other {number} fits of this board")
    return kept


def _form(trial: Trial) -> object:
    """What must be equal on one board; None where a board cannot show the trial."""
    record = trial.record
    if isinstance(record, TrainingRecord):
        return "training"
    along, probs, num_stages = record.trajectory, trial.arrays.get("test_run/probs"), record.num_stages
    is_shaped = probs is not None and probs.ndim == 3 and probs.shape[::2] == (num_stages, num_stages) and probs.size
    has_lengths = len(along.step) == len(along.score) == len(along.validation_accuracy) > 0
    return (num_stages, along.step) if is_shaped and has_lengths and set(record.metrics) == set(SUBSETS) else None


def check(
    source: Path,
    *,
    datasets: Sequence[Path] = (),
    data_dir: Path | None = None,
    complete: bool = False,
    allow_unknown_dataset: bool = False,
    progress: Progress = SILENT,
) -> Report:
    """Check all results of a folder.

    Args:
        source: a workspace, or a folder such as the repository's ``leaderboard``.
        datasets: folders of known datasets, see ``find_manifests``.
        data_dir: see ``KnownDatasets``.
        complete: see ``check_trials``.
        allow_unknown_dataset: see ``check_trials``.
        progress: shows trials.

    Raises:
        MissingDataError: there is no result.
    """
    report = Report()
    manifests = find_manifests(
        datasets, lambda path, reason: report.tell(str(path))(reason, "a manifest that fmcs-bench wrote")
    )
    trials = read_trials(source, report)
    if not trials and not report.faults:
        raise MissingDataError(f"there are no results in {source}; name a workspace or a folder with results")
    check_trials(
        trials,
        report,
        KnownDatasets(manifests, data_dir),
        complete=complete,
        allow_unknown_dataset=allow_unknown_dataset,
        progress=progress,
    )
    return report


def check_trials(
    trials: Sequence[Trial],
    report: Report,
    known: KnownDatasets,
    *,
    beside: Sequence[Trial] = (),
    complete: bool = False,
    allow_unknown_dataset: bool = False,
    now: datetime | None = None,
    progress: Progress = SILENT,
) -> None:
    """Check trials; a fault in one never stops the checks of the others.

    Args:
        trials: that are checked.
        report: gets faults and notes.
        known: the datasets that they may be about.
        beside: trials of the same boards that were checked before.
        complete: a method without the usual seeds, or a board without a baseline, is a fault and not a note.
        allow_unknown_dataset: a trial of an unknown dataset gets a note, and its images are not checked.
        now: the present time; None asks the clock.
        progress: shows trials.
    """
    now = now or datetime.now(UTC)
    with progress.task("checking trials", len(trials)) as task:
        for trial in trials:
            tell = report.tell(trial.where)

            def broken(text: str, tell: Tell = tell) -> None:
                tell(text, "a trial that can be computed again")

            with guarded(broken, "it cannot be checked"):
                report.num_trials += 1
                _check_notes(trial.record, now, tell)
                if _check_arrays(trial, tell):
                    check_metrics(trial, tell)
                    _check_dataset(trial, known, tell, report.tell(trial.where, note=allow_unknown_dataset))
            task.advance()
    _check_copies([*beside, *trials], report)
    _check_groups(trials, beside, report, complete=complete)


def _check_notes(record: AnyTrial, now: datetime, tell: Tell) -> None:
    key = unit_key(record.trial, record.dataset_digest, record.environment)
    if record.key != key:
        tell(f"key {record.key}", f"{key}, the digest of trial, dataset, code, libraries and device")
    try:
        created = datetime.fromisoformat(record.created)
    except ValueError:
        created = None
    if created is None or created.tzinfo is None or not FIRST_DAY <= created <= now + CLOCK_SKEW:
        tell(f"created {record.created!r}", f"an ISO 8601 time with its zone between {FIRST_DAY.date()} and now")
    epochs = [epoch.epoch for epoch in record.curve]
    if epochs != list(range(1, len(epochs) + 1)):
        tell(f"a curve of the epochs {epochs[:20]}", "1, 2, 3, ... without a gap")


def _check_arrays(trial: Trial, tell: Tell) -> bool:
    """The predictions have the arrays of their track, of the right kinds and shapes, and no other."""
    record, arrays = trial.record, trial.arrays
    wanted = dict(
        _evaluator_arrays(record, arrays) if isinstance(record, EvaluatorRecord) else _training_arrays(record, arrays)
    )
    good = True
    for name in sorted(wanted.keys() | arrays.keys()):
        if name not in wanted or name not in arrays:
            tell(f"predictions {'lack' if name in wanted else 'have'} {name!r}", ", ".join(sorted(wanted)))
            good = False
            continue
        (kinds, shape), found = wanted[name], arrays[name]
        if found.dtype.kind not in kinds or found.shape != shape or 0 in shape:
            tell(f"{name!r} is {found.dtype} {list(found.shape)}", f"shape {list(shape)}, not empty")
            good = False
        elif found.dtype.kind == "f" and not np.isfinite(found).all():
            tell(f"{name!r} holds NaN or infinity", "finite numbers")
            good = False
    return good


_Shapes = Iterator[tuple[str, tuple[str, tuple[int, ...]]]]
"""Names of arrays, with the kinds of their types and their shapes."""


def _evaluator_arrays(record: EvaluatorRecord, arrays: Arrays) -> _Shapes:
    for place in (*SUBSETS, *(f"test_on/{name}" for name in record.test_on)):
        num_images = arrays[f"{place}/image"].size if f"{place}/image" in arrays else 0
        yield f"{place}/probs", ("f", (record.num_stages, num_images, record.num_stages))
        yield f"{place}/image", ("iu", (num_images,))
        yield f"{place}/run", ("iu", (num_images,))
    scores = arrays.get("trajectory/score")
    num_followed = scores.shape[1] if scores is not None and scores.ndim == 2 else 0
    yield "trajectory/score", ("f", (len(record.trajectory.step), num_followed))


def _training_arrays(record: TrainingRecord, arrays: Arrays) -> _Shapes:
    yield "epoch", ("iu", (1,))
    for place in ("validation", "test"):
        num_images = arrays[f"{place}/image"].size if f"{place}/image" in arrays else 0
        for name in ("image", "label", "predicted"):
            yield f"{place}/{name}", ("iu", (num_images,))
        if place == "test" and training_runner.EVERY_EPOCH in arrays:
            yield training_runner.EVERY_EPOCH, ("iu", (len(record.curve), num_images))


def check_metrics(trial: Trial, tell: Tell) -> None:
    """Every number of a record that its predictions decide.

    Args:
        trial: with predictions of the right names and shapes.
        tell: called with every fault.
    """
    if isinstance(trial.record, EvaluatorRecord):
        _check_evaluator(trial.record, dict(trial.arrays), tell, rounded=trial.rounded)
    else:
        _check_training(trial.record, dict(trial.arrays), tell)


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
    if isinstance(record, TrainingRecord):
        _check_training_images(record, arrays, manifest, known, tell)
        return
    if record.num_stages != manifest.config.stages:
        tell(f"num_stages {record.num_stages}", f"{manifest.config.stages}, of the dataset")
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


def _check_groups(trials: Sequence[Trial], beside: Sequence[Trial], report: Report, *, complete: bool) -> None:
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
            report.tell("/".join((*board, method)), note=not complete)(f"no seeds {missing}", "the usual seeds")
    for board in dict.fromkeys(trial.board for trial in trials):
        if board[0] == "training" and "baseline" not in boards[board]:
            report.tell("/".join(board), note=not complete)("no baseline", "one, to which methods are compared")


def _check_alike(first: Trial, trial: Trial, tell: Tell) -> None:
    one, other = first.record, trial.record
    pairs = {"dataset_digest": (one.dataset_digest, other.dataset_digest)}
    if isinstance(one, TrainingRecord) and isinstance(other, TrainingRecord):
        pairs["evaluator_digest"] = (str(one.trial.evaluator_digest), str(other.trial.evaluator_digest))
    if isinstance(one, EvaluatorRecord) and isinstance(other, EvaluatorRecord):
        pairs["code"] = (str(one.trial.code), str(other.trial.code))
    if isinstance(one, TrainingRecord) or one.differentiable:  # the number of nodes of a tree depends on the seed
        pairs["num_parameters"] = (str(one.cost.num_parameters), str(other.cost.num_parameters))
    for name, (own, given) in pairs.items():
        if own != given:
            tell(f"{name} {given}", f"{own}, as in {first.where}")
    for name in sorted(first.arrays.keys() & trial.arrays.keys()):
        if name.endswith("/image") and not np.array_equal(first.arrays[name], trial.arrays[name]):
            tell(f"{name} is about different images than in {first.where}", "the same images for all seeds")


def _plain(value: object) -> str:
    r"""Text on one line, without control characters, and not endless.

    Example:
        >>> _plain("red \x1b[31m\nend")
        'red \\x1b[31m\\nend'
    """
    text = str(value)
    text = text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
