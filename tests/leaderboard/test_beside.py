"""Records beside each other and beside their datasets: copies, missing seeds, unknown datasets."""

import json

import numpy as np
import pytest
from helpers import checking
from helpers.checking import BASELINE, EVALUATOR, TRAINING, copy, edit, edit_predictions, report_of

from fmcs_bench.core.errors import MissingDataError
from fmcs_bench.leaderboard.check import check
from fmcs_bench.leaderboard.reading import KINDS
from fmcs_bench.results.records import unit_key
from fmcs_bench.results.store import RecordStore, predictions_path


def test_one_unit_of_work_has_one_record(tmp_path):
    paths = [copy(TRAINING, tmp_path / name) for name in "ab"]
    faults = report_of(*paths).faults
    assert [fault.file for fault in faults] == [str(paths[1])]
    assert f"claims the unit of work of {paths[0]}" in faults[0].what


def as_another(path, **unit):
    """The record under another name, with the key that belongs to it: a copy that is consistent in itself."""
    kind = KINDS[json.loads(path.read_bytes())["track"]]
    record = kind.from_json(json.loads(path.read_bytes()))
    unit = record.trial.model_copy(update=unit)
    key = unit_key(unit, record.dataset_digest, record.environment)
    record = record.model_copy(update={"trial": unit, "key": key})
    root = path.parents[4]
    RecordStore(root).write(record, predictions_path(path).read_bytes())
    return RecordStore(root).path(record)


def test_a_result_is_not_copied_under_another_name(tmp_path):
    paths = [copy(TRAINING, tmp_path / "a")]
    paths.append(as_another(paths[0], seed=777))
    (fault,) = report_of(*paths).faults
    assert f"its predictions are those of {paths[0]}" in fault.what
    fit = copy(EVALUATOR, tmp_path / "b")
    copied = as_another(fit, evaluator="mlp")
    told = [fault.what for fault in report_of(fit, copied).faults]
    assert any("its predictions are those of" in what for what in told)
    edit_predictions(copied, lambda arrays: arrays.update(other=np.zeros(1)))
    told = [fault.what for fault in report_of(fit, copied).faults]
    assert any("its fitted evaluator is that of" in what for what in told)


def test_missing_seeds_and_baselines_are_noted_and_refused_in_a_submission(tmp_path):
    for path in checking.copy_method(TRAINING, tmp_path)[:2]:
        path.unlink()
        predictions_path(path).unlink()
    report = report_of(tmp_path)
    assert report.faults == ()
    assert ["[100, 101]" in note.what or "no baseline" in note.what for note in report.notes] == [True, True]
    strict = report_of(tmp_path, submission=True)
    assert len(strict.faults) == 2
    checking.copy_method(TRAINING, tmp_path / "other")
    checking.copy_method(BASELINE, tmp_path / "other")
    assert report_of(tmp_path / "other", submission=True).faults == ()


def test_an_unknown_dataset_is_checked_where_that_is_allowed(tmp_path):
    path = copy(TRAINING, tmp_path)
    (fault,) = check([path], datasets=[]).faults
    assert "--allow-unknown-dataset" in fault.remedy
    report = check([path], datasets=[], allow_unknown_dataset=True)
    assert report.faults == ()
    assert any("is unknown here" in note.what for note in report.notes)
    edit(path, lambda value: value["metrics"].update(test_accuracy=0.99))
    assert check([path], datasets=[], allow_unknown_dataset=True).faults


def test_a_changed_manifest_is_told_and_makes_its_dataset_unknown(tmp_path):
    (card,) = checking.CARDS.glob("digits-smallcnn-32px-base/dataset.json")
    (tmp_path / "cards/x").mkdir(parents=True)
    text = card.read_text().replace('"num_images": {\n   "test": 174', '"num_images": {\n   "test": 175')
    for content in (text, "{", "[]", text[:900]):
        (tmp_path / "cards/x/dataset.json").write_text(content)
        faults = check([copy(TRAINING, tmp_path / str(len(content)))], datasets=[tmp_path / "cards"]).faults
        assert len(faults) == 2
        assert "cannot be used" in faults[0].what


def test_no_record_and_no_such_place_are_told(tmp_path):
    with pytest.raises(MissingDataError, match=r"no record.*fmcs-bench evaluate"):
        report_of(tmp_path)
    with pytest.raises(MissingDataError, match="there is no"):
        report_of(tmp_path / "nowhere")
