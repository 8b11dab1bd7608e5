"""Checks records that anybody may have written: nothing in them is believed that can be computed.

Flow: files and folders -> every record read, checked by itself (``reading``, ``recomputing``, ``pictured``) -> all of
them beside each other: twice, under two names, with seeds missing -> beside the list of what was published ->
``Report``, one line for each fault.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from fmcs_bench.core.errors import MissingDataError, RecordError
from fmcs_bench.core.progress import SILENT, Progress
from fmcs_bench.evaluators.registry import EVALUATORS
from fmcs_bench.leaderboard import sums
from fmcs_bench.leaderboard.faults import Fault, Report, Tell, teller
from fmcs_bench.leaderboard.known import KnownDatasets, find_manifests
from fmcs_bench.leaderboard.pictured import Pictured
from fmcs_bench.leaderboard.reading import Reading, read
from fmcs_bench.leaderboard.recomputing import check_record
from fmcs_bench.results.records import EvaluatorRecord, TrainingRecord
from fmcs_bench.results.store import predictions_path
from fmcs_bench.store.verify import guarded
from fmcs_bench.training.methods import NUM_SEEDS
from fmcs_bench.training_track.plan import FIRST_SEED

SUPERSEDED = "superseded"
USUAL_SEEDS = {"evaluator": range(NUM_SEEDS), "training": range(FIRST_SEED, FIRST_SEED + NUM_SEEDS)}


def check(
    paths: Iterable[Path],
    *,
    datasets: Sequence[Path] = (),
    data_dir: Path | None = None,
    submission: bool = False,
    allow_unknown_dataset: bool = False,
    beside: Path | None = None,
    new: bool = False,
    now: datetime | None = None,
    progress: Progress = SILENT,
) -> Report:
    """Check records; a fault in one never stops the checks of the others.

    Args:
        paths: record files, and folders whose records are all checked (but not those that were superseded).
        datasets: folders of known datasets, see ``known.find_manifests``.
        data_dir: folder with the files of image datasets, to compare image ids and labels exactly.
        submission: every method must have the usual seeds, and no other file may lie beside the records.
        allow_unknown_dataset: records of a dataset that is not known are checked without it.
        beside: folder of records that are there already; they are not checked, but belong to the same boards.
        new: records need not be listed in ``SHA256SUMS``, where their folder has it.
        now: the present time; None asks the clock.
        progress: shows records.

    Raises:
        MissingDataError: a path does not exist, or there is no record.
    """
    now, paths = now or datetime.now(UTC), list(paths)
    faults: list[Fault] = []
    notes: list[Fault] = []
    manifests = find_manifests(
        datasets,
        lambda path, reason: teller(str(path), faults)(
            f"it cannot be used ({reason})", "the manifest of a dataset", "bring it as `fmcs-bench build` wrote it"
        ),
    )
    known = KnownDatasets(manifests, data_dir=data_dir)
    found, others = find_files(paths)
    if not found:
        raise MissingDataError(
            "there is no record (seed-<n>.json) in the given places; make some with `fmcs-bench evaluate` or "
            "`fmcs-bench train`, or name the folder"
        )
    for path in others:
        teller(str(path), faults if submission else notes)(
            "no record and no predictions of one", "nothing else", "remove it"
        )
    readings: list[Reading] = []
    with progress.task("checking records", len(found)) as task:
        for path in found:
            reading = check_one(path, known, now, faults, notes, allow_unknown_dataset=allow_unknown_dataset)
            readings += [reading] if reading is not None else []
            task.advance()
    paths_read = [reading.path for reading in readings]
    _check_sums(paths_read, [path for path in paths if path.is_dir()], faults, new=new)
    readings += _read_beside(beside, readings)
    _check_copies(readings, faults)
    _check_groups(readings, faults, faults if submission else notes)
    return Report(len(found), tuple(faults), tuple(notes))


def check_one(
    path: Path,
    known: KnownDatasets,
    now: datetime,
    faults: list[Fault],
    notes: list[Fault],
    *,
    allow_unknown_dataset: bool = False,
) -> Reading | None:
    """Check one record by itself.

    Args:
        path: of the record.
        known: the datasets that it may be about.
        now: the present time.
        faults: gets what is wrong.
        notes: gets what is not, but somebody should know.
        allow_unknown_dataset: see ``check``.

    Returns:
        The record with its predictions; None where they cannot be read.
    """
    fault, note = teller(str(path), faults), teller(str(path), notes)
    reading: Reading | None = None

    def broken(text: str) -> None:
        fault(text, "a record that can be computed again", "let fmcs-bench write it, and change nothing in it")

    with guarded(broken, "it cannot be checked"):
        reading = read(path, fault)
        if reading is not None:
            check_record(reading, _pictured(reading, known, allow_unknown_dataset, fault, note), now, fault)
    return reading


def find_files(paths: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Records, and files that are neither a record nor the predictions of one, each ordered and once.

    Raises:
        MissingDataError: a path does not exist.
    """
    found: set[Path] = set()
    others: set[Path] = set()
    for path in paths:
        if not path.is_dir():
            if not path.exists():
                raise MissingDataError(f"there is no {path}; name a record (seed-<n>.json) or a folder of records")
            found.add(path)
            continue
        inside = [p for p in path.rglob("*") if not p.is_dir() and SUPERSEDED not in p.relative_to(path).parts]
        records = {p for p in inside if p.suffix == ".json"}
        found |= records
        others |= set(inside) - records - {predictions_path(p) for p in records} - {path / sums.NAME}
    return sorted(found), sorted(others)


def _check_sums(records: Sequence[Path], folders: Sequence[Path], faults: list[Fault], *, new: bool) -> None:
    """Published records are, digit for digit, those of the list beside them, and none has gone."""
    roots = {path.absolute() for path in folders if (path / sums.NAME).is_file()}
    roots |= {root for root in map(sums.root_of, records) if root is not None}
    for root in sorted(roots):
        try:
            listed = sums.load(root)
        except RecordError as error:
            teller(str(root / sums.NAME), faults)(str(error), "the list of published records", "take it back with git")
            continue
        for path in records:
            if sums.root_of(path) == root:
                address = path.absolute().relative_to(root).as_posix()
                found = sums.fault(listed, address, path.read_bytes())
                if found is not None and not (new and address not in listed):
                    teller(str(path), faults)(*found)
        inside = [folder.absolute() for folder in folders]
        for address in listed:
            path = root / address
            if not path.exists() and any(path.is_relative_to(folder) for folder in inside):
                teller(str(path), faults)(
                    "it is gone", f"the record that {sums.NAME} lists", "take it back with git, or remove its line too"
                )


def _read_beside(folder: Path | None, readings: Sequence[Reading]) -> list[Reading]:
    """The records of a folder but those of the same units of work; what is broken there is not this check's affair."""
    if folder is None or not folder.is_dir():
        return []
    units = {_unit(reading) for reading in readings}
    found = [read(path, teller(str(path), [])) for path in find_files([folder])[0]]
    return [reading for reading in found if reading is not None and _unit(reading) not in units]


def _unit(reading: Reading) -> tuple[str, str, str, str, int]:
    record = reading.record
    return record.track, record.dataset_id, record.settings, record.method, record.seed


def _pictured(reading: Reading, known: KnownDatasets, allow_unknown: bool, fault: Tell, note: Tell) -> Pictured | None:
    """What the record's dataset says; None, and a fault or a note, where it is not known."""
    record = reading.record
    tested_on = record.test_on if isinstance(record, EvaluatorRecord) else {}
    for name in tested_on:
        if known.manifest(name) is None:
            (note if allow_unknown else fault)(
                f"test_on names the dataset {name}, which is unknown here",
                f"one of {', '.join(known.ids()) or 'none'}",
                "bring its data card too (data_cards/), or give --allow-unknown-dataset",
            )
    manifest = known.manifest(record.dataset_id)
    if manifest is None or manifest.dataset_digest != record.dataset_digest:
        (note if allow_unknown else fault)(
            f"the dataset {record.dataset} with the digest {record.dataset_digest} is unknown here",
            f"one of {', '.join(known.ids()) or 'none'}",
            "bring its data card too (data_cards/), name its folder with --datasets, or give --allow-unknown-dataset",
        )
        return None
    images = known.images(manifest)
    if isinstance(images, str):
        note(
            "image ids are compared by number, split and classes only",
            "the images themselves",
            f"nothing needs to be done; {images}",
        )
    return Pictured.of(manifest, known)


def _check_copies(readings: Sequence[Reading], faults: list[Fault]) -> None:
    """No record stands there twice, and none is a copy of another one under another name."""
    units: dict[tuple[object, ...], Path] = {}
    answers: dict[tuple[object, ...], Reading] = {}
    fits: dict[tuple[object, ...], Reading] = {}
    for reading in readings:
        record, tell = reading.record, teller(str(reading.path), faults)
        first = units.setdefault(_unit(reading), reading.path)
        if first != reading.path:
            tell(f"it claims the unit of work of {first}", "one record for each unit", "keep one of them")
            continue
        curve = None if isinstance(record, EvaluatorRecord) else record.curve
        # Two trainings of one seed may honestly answer alike on few images; their losses never agree.
        other = answers.setdefault((record.predictions_sha256, curve), reading)
        if other is not reading and not _is_deterministic_pair(other.record, record):
            tell(f"its predictions are those of {other.path}", "predictions of its own", "bring the record's own work")
        if isinstance(record, EvaluatorRecord) and record.cost.num_parameters > 0:
            other = fits.setdefault((record.dataset_id, record.evaluator_digest), reading)
            if other.record.method != record.method:
                tell(f"its fitted evaluator is that of {other.path}", "a fit of its own", "bring the record's own work")


def _is_deterministic_pair(one: EvaluatorRecord | TrainingRecord, other: EvaluatorRecord | TrainingRecord) -> bool:
    """Two fits of one evaluator whose seed decides nothing, or one seed of one evaluator with other settings."""
    if not isinstance(one, EvaluatorRecord) or not isinstance(other, EvaluatorRecord) or one.method != other.method:
        return False
    name = one.trial.evaluator
    fixed = one.trial.code is not None or (name in EVALUATORS and EVALUATORS[name].deterministic)
    return fixed or one.seed == other.seed


def _check_groups(readings: Sequence[Reading], faults: list[Fault], incomplete: list[Fault]) -> None:
    """The seeds of one method agree on what the seed does not decide, and are complete."""
    groups: dict[tuple[str, str, str], dict[str, list[Reading]]] = {}
    for reading in readings:
        record = reading.record
        board = groups.setdefault((record.track, record.dataset_id, record.settings), {})
        board.setdefault(record.method, []).append(reading)
    for (track, dataset_id, _), board in groups.items():
        usual = USUAL_SEEDS[track]
        for method, group in board.items():
            first = group[0]
            for reading in group[1:]:
                _check_alike(first, reading, teller(str(reading.path), faults))
            missing = sorted(set(usual) - {reading.record.seed for reading in group})
            if missing:
                teller(str(first.path.parent), incomplete)(
                    f"{method} has no record of the seeds {missing}",
                    f"the seeds {usual[0]} to {usual[-1]}",
                    f"run them on {dataset_id} with the same settings",
                )
        if track == "training" and "baseline" not in board:
            teller(str(next(iter(board.values()))[0].path.parent.parent), incomplete)(
                "no baseline of these settings", "one, to which differences are paired", "train with --method baseline"
            )


def _check_alike(first: Reading, reading: Reading, tell: Tell) -> None:
    one, other = first.record, reading.record
    values = {"dataset_digest": (one.dataset_digest, other.dataset_digest)}
    if isinstance(one, TrainingRecord) and isinstance(other, TrainingRecord):
        values["unit.evaluator_digest"] = (str(one.trial.evaluator_digest), str(other.trial.evaluator_digest))
    if isinstance(one, EvaluatorRecord) and isinstance(other, EvaluatorRecord):
        values["unit.code"] = (str(one.trial.code), str(other.trial.code))
    if isinstance(one, TrainingRecord) or one.differentiable:  # the number of a tree's nodes depends on the seed
        values["cost.num_parameters"] = (str(one.cost.num_parameters), str(other.cost.num_parameters))
        values["cost.flops_per_map"] = (str(one.cost.flops_per_map), str(other.cost.flops_per_map))
    for name, (own, given) in values.items():
        if own != given:
            tell(
                f"{name} {given}",
                f"{own}, as in {first.path}",
                "make all seeds of a method with the same code and data",
            )
    for where in ("validation", "test", "same_run", "test_run", "unseen"):
        ids = f"{where}/image"
        if ids in first.arrays and ids in reading.arrays and not np.array_equal(first.arrays[ids], reading.arrays[ids]):
            tell(
                f"{where} is about other images than in {first.path}",
                "the same images for all seeds",
                "bring one dataset's records",
            )
