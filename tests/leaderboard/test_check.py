"""Every way in which a result can be wrong is a fault with its place, and never an error of a library."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import committed_trials as committed
from helpers.committed_trials import CARDS, NOW, edited, faults_of, with_arrays

from fmcs_bench.cli.main import main
from fmcs_bench.core.errors import MissingDataError
from fmcs_bench.evaluator_track import runner
from fmcs_bench.leaderboard.check import KnownDatasets, check
from fmcs_bench.leaderboard.load import Report, Trial, find_manifests, read_trials
from fmcs_bench.results import tables

UNVERIFIABLE = re.compile(
    r"cost/(seconds|process_peak_bytes|scoring_seconds|scoring_maps|num_parameters|flops_per_map)|environment/threads|"
    r"curve/\d+/(train_loss|score|validation)"
)
"""What is taken on trust: docs/submitting.md says so."""


def evaluator() -> Trial:
    return committed.trials("evaluator", "conv")[0]


def training() -> Trial:
    return committed.trials("training", "ral-invariants@0.9")[0]


TRIALS = {"evaluator": evaluator, "training": training}


def test_committed_trials_have_no_fault() -> None:
    fits = committed.trials("evaluator", "conv")
    assert len(fits) == 5
    assert faults_of(*fits, strict=True) == []
    both = [*committed.trials("training", "baseline"), *committed.trials("training", "ral-invariants@0.9")]
    assert faults_of(*both, strict=True) == []


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], float]]:
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, (*path, key))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, value


def with_digit_changed(value: float, at: int) -> float | None:
    """The number with its significant digit number ``at`` one higher, or None if it has no such digit."""
    text = json.dumps(value)
    digits = [i for i, c in enumerate(text) if c.isdigit()]
    while len(digits) > 1 and text[digits[0]] == "0":
        del digits[0]
    if at >= len(digits) or "e" in text:
        return None
    i = digits[at]
    changed: float = json.loads(text[:i] + str((int(text[i]) + 1) % 10 or 1) + text[i + 1 :])
    return None if changed == value else changed


@pytest.mark.parametrize("track", TRIALS)
def test_one_digit_changed_anywhere_is_a_fault(track: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trial, missed, tried = TRIALS[track](), [], 0
    if track == "evaluator":  # the predictions stay as they are, so their metrics are computed once
        again = runner.recompute(dict(trial.arrays))
        monkeypatch.setattr(runner, "recompute", lambda _: again)
    for where, number in leaves(trial.record.to_json()):
        name = "/".join(map(str, where))
        for changed in (with_digit_changed(number, at) for at in (0, 4)):
            if changed is None or UNVERIFIABLE.fullmatch(name):
                continue

            def put(value: Any, where: tuple[Any, ...] = where, changed: float = changed) -> None:
                for key in where[:-1]:
                    value = value[key]
                value[where[-1]] = changed

            try:
                found = faults_of(edited(trial, put))
            except ValueError:  # the schema refuses it
                found = [None]  # type: ignore[list-item]
            missed += [] if found else [(name, number, changed)]
            tried += 1
    assert missed == []
    assert tried > 30


Change = Callable[[dict[str, Any]], object]
RECORDS: dict[str, tuple[str, Change, str]] = {
    "metric": ("evaluator", lambda v: v["metrics"]["test_run"].update(mae=0.5), "metrics.test_run.mae 0.5"),
    "subset left out": ("evaluator", lambda v: v["metrics"].pop("unseen"), "metrics of"),
    "code": ("training", lambda v: v["environment"].update(code_digest="0" * 64), "key "),
    "fit": ("training", lambda v: v["unit"].update(evaluator_digest="0" * 64), "key "),
    "tomorrow": ("training", lambda v: v.update(created=(NOW + timedelta(days=1)).isoformat()), "created"),
    "no zone": ("training", lambda v: v.update(created="2026-11-01T00:00:00"), "created"),
    "no date": ("training", lambda v: v.update(created="yester\x1b[31mday"), r"yester\x1b"),
    "unknown dataset": ("training", lambda v: v.update(dataset_digest="0" * 64), "is unknown"),
    "a digest that begins alike": (
        "training",
        lambda v: v.update(dataset_digest=v["dataset_digest"][:12] + "0" * 52),
        "is unknown",
    ),
    "a trait": ("evaluator", lambda v: v.update(channel_invariant=True), "channel_invariant is True for conv"),
    "a control": ("evaluator", lambda v: v.update(control=True), "control is True for conv"),
    "no such evaluator": ("evaluator", lambda v: v["unit"].update(evaluator="better"), "an evaluator 'better'"),
    "epochs left out": ("training", lambda v: v["curve"].pop(3), "a curve of the epochs"),
    "a better epoch": ("training", lambda v: v["curve"][2].update(validation=1.0), "metrics.epoch"),
    "a different network": ("training", lambda v: v["unit"].update(backbone="resnet50"), "backbone 'resnet50'"),
    "a dataset without answers": (
        "evaluator",
        lambda v: v.update(test_on={"x@000000000000": v["metrics"]["test_run"]}),
        "lack 'test_on/x@000000000000/image'",
    ),
    "ragged trajectory": ("evaluator", lambda v: v["trajectory"]["score"].pop(), "different lengths"),
    "checkpoints": ("evaluator", lambda v: v["trajectory"].update(step=[*range(len(v["trajectory"]["step"]))]), "step"),
}


@pytest.mark.parametrize("case", RECORDS)
def test_a_changed_record_is_a_fault(case: str) -> None:
    track, change, words = RECORDS[case]
    faults = faults_of(edited(TRIALS[track](), change), strict=True)
    assert any(words in fault.what for fault in faults), [str(fault) for fault in faults]
    assert all(str(fault).isprintable() and fault.expected and fault.where for fault in faults)


def shift(name: str, by: int) -> Change:
    return lambda arrays: arrays.update({name: arrays[name] + by})


def fill(name: str, index: Any, value: Any) -> Change:
    return lambda arrays: arrays[name].__setitem__(index, value)


PREDICTIONS: dict[str, tuple[str, Change, str]] = {
    "other images": ("evaluator", shift("test_run/image", 1), "test_run is about different images"),
    "images of a different split": ("training", shift("test/image", 1), "test predictions of different images"),
    "other labels": ("training", lambda a: a.update({"test/label": a["test/predicted"]}), "images or labels"),
    "other runs": ("evaluator", shift("test_run/run", 1), "images of the runs"),
    "an image twice": ("training", lambda a: fill("test/image", 1, a["test/image"][0])(a), "an image twice"),
    "fewer images": (
        "training",
        lambda a: a.update({name: a[name][..., :-9] for name in a if name.startswith("test/")}),
        "test predictions of",
    ),
    "NaN": ("evaluator", fill("unseen/probs", (0, 0, 0), np.nan), "'unseen/probs' holds NaN"),
    "no probabilities": ("evaluator", lambda a: a["same_run/probs"].__imul__(0.9), "no probabilities"),
    "negative ones": ("evaluator", fill("same_run/probs", (0, 0), [-1, 2, 0, 0, 0, 0, 0]), "no probabilities"),
    "better ones": ("evaluator", lambda a: a.update({"test_run/probs": a["test_run/probs"][::-1]}), "test_run.mae"),
    "scores": ("evaluator", shift("trajectory/score", 1), "trajectory.score.0"),
    "a different type": ("training", lambda a: a.update({"test/predicted": a["test/predicted"] * 1.0}), "is float"),
    "a different shape": ("evaluator", lambda a: a.update({"unseen/probs": a["unseen/probs"][:, :, :3]}), "[7, "),
    "nothing": ("training", lambda a: a.update({n: a[n][:0] for n in a if n.startswith("test/")}), "[0]"),
    "an array more": ("training", lambda a: a.update({"extra": np.zeros(3)}), "have 'extra'"),
    "an array less": ("evaluator", lambda a: a.pop("unseen/run"), "lack 'unseen/run'"),
}


@pytest.mark.parametrize("case", PREDICTIONS)
def test_changed_predictions_are_a_fault(case: str) -> None:
    track, change, words = PREDICTIONS[case]
    faults = faults_of(with_arrays(TRIALS[track](), change))
    assert any(words in fault.what for fault in faults), [str(fault) for fault in faults]


def test_without_the_images_splits_and_classes_are_still_compared() -> None:
    class Elsewhere(KnownDatasets):
        def images(self, manifest: object) -> None:
            del manifest

    known = Elsewhere(committed.KNOWN.manifests)
    assert faults_of(evaluator(), known=known) == faults_of(training(), known=known) == []
    for trial, words in (
        (with_arrays(evaluator(), shift("test_run/image", 2)), "images of other splits"),
        (with_arrays(training(), shift("validation/image", 2)), "images of other splits"),
        (with_arrays(training(), lambda a: a.update({"test/label": a["test/predicted"]})), "images by class"),
        (with_arrays(training(), lambda a: fill("test/image", 0, a["validation/image"][0])(a)), "and in test"),
    ):
        assert any(words in fault.what for fault in faults_of(trial, known=known)), words


def test_a_result_is_neither_there_twice_nor_copied_under_a_different_name() -> None:
    trial = evaluator()
    (fault,) = faults_of(trial, replace(trial))
    assert "the same trial" in fault.what
    copied = edited(trial, lambda v: v["unit"].update(evaluator="mlp"))
    whats = " ".join(fault.what for fault in faults_of(trial, copied))
    assert "its predictions are those of" in whats
    assert "its fitted evaluator is that of" in whats
    other = committed.trials("evaluator", "conv")[1]
    wider = edited(other, lambda v: v["cost"].update(num_parameters=1))
    assert any("num_parameters 1" in fault.what for fault in faults_of(trial, wider))


def test_missing_seeds_and_a_missing_baseline_are_notes_or_faults() -> None:
    report = Report()
    committed.check_trials([training()], report, committed.KNOWN, strict=False)
    assert report.faults == []
    assert {note.what.split(",")[0] for note in report.notes} >= {"no baseline"}
    faults = faults_of(training(), strict=True)
    assert {"no baseline", "no seeds [101, 102, 103, 104]"} == {fault.what for fault in faults}


def test_an_unknown_dataset_is_a_fault_in_a_folder_of_results_and_a_note_in_a_workspace() -> None:
    nowhere = KnownDatasets({})
    assert any("is unknown" in fault.what for fault in faults_of(evaluator(), known=nowhere, strict=True))
    assert faults_of(evaluator(), known=nowhere) == []


def test_a_changed_manifest_makes_its_dataset_unknown(tmp_path: Path) -> None:
    shutil.copytree(CARDS / "digits-smallcnn-32px-base", tmp_path / "digits")
    path = tmp_path / "digits/dataset.json"
    path.write_text(path.read_text().replace('"stages": 7', '"stages": 8'))
    report = Report()
    assert find_manifests([tmp_path], report) == {}
    assert "changed" in report.faults[0].what


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Results of two methods, as they are committed."""
    every = [*committed.trials("evaluator", "norm"), *committed.trials("training", "baseline")]
    tables.write(tmp_path / "board", [(trial.record, trial.arrays) for trial in every])
    return tmp_path / "board"


def test_a_folder_of_results_is_checked_with_rounded_predictions(folder: Path) -> None:
    report = check(folder, datasets=[CARDS])
    assert (report.num_trials, report.faults) == (10, [])
    assert all(trial.rounded for trial in read_trials(folder, Report()))


@pytest.mark.parametrize(
    "name", ["results/evaluator.parquet", "predictions/training-digits-smallcnn-32px-base.parquet"]
)
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone", "empty"])
def test_a_damaged_file_is_named_and_the_others_are_read(folder: Path, name: str, damage: str) -> None:
    data = bytearray((folder / name).read_bytes())
    if damage == "gone":
        (folder / name).unlink()
    else:
        data[len(data) // 2 : len(data) // 2 + 64] = b"\xff" * 64
        (folder / name).write_bytes({"cut": data[:-9], "flipped": data, "empty": b""}[damage])
    report = check(folder, datasets=[CARDS])
    assert report.num_trials >= 5
    if (damage, name[:7]) != ("gone", "results"):  # a track that is not there has no results
        assert report.faults
        assert all(str(folder) not in str(fault) for fault in report.faults)


def test_without_results_the_error_says_so(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="no results"):
        check(tmp_path)


def test_the_command_prints_faults_and_exits_with_1(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(committed.ROOT)
    done = CliRunner().invoke(main, ["leaderboard", "check", str(folder)])
    assert done.exit_code == 0
    assert done.stdout.endswith("10 trials checked: no faults\n")
    trials = read_trials(folder, Report())
    wrong = replace(trials[0], record=edited(trials[0], lambda v: v["metrics"]["test_run"].update(mae=0.5)).record)
    tables.write(folder, [(trial.record, trial.arrays) for trial in (wrong, *trials[1:])])
    done = CliRunner().invoke(main, ["leaderboard", "check", str(folder), "--json"])
    assert done.exit_code == 1
    (fault,) = json.loads(done.stdout)["faults"]
    assert fault["where"] == wrong.record.name
    assert fault["what"] == "metrics.test_run.mae 0.5"
