import errno
import json
import pickle
import shutil

import numpy as np
import pytest
import torch

from fmcs_bench.core import environment
from fmcs_bench.core.errors import ConfigError, MissingDataError, ProtocolError, UnitsFailedError, UnknownNameError
from fmcs_bench.core.workspace import Workspace
from fmcs_bench.evaluator_track import calls
from fmcs_bench.evaluator_track.options import EvaluateOptions
from fmcs_bench.evaluator_track.runner import evaluate_dataset, recompute
from fmcs_bench.evaluator_track.selection import evaluator_for_training, load_fit
from fmcs_bench.evaluators.models.norm import NormEvaluator
from fmcs_bench.evaluators.registry import EVALUATORS
from fmcs_bench.results.records import SUBSETS, EvaluatorRecord
from fmcs_bench.results.store import RecordStore
from fmcs_bench.results.trials import EvaluatorTrial
from fmcs_bench.store.reader import all_datasets, open_dataset


@pytest.fixture
def workspace(tiny_dataset, tmp_path):
    shutil.copytree(tiny_dataset.path, tmp_path / "datasets" / tiny_dataset.path.name)
    return Workspace(tmp_path)


@pytest.fixture
def dataset(workspace):
    return all_datasets(workspace)[0]


def run(dataset, workspace, *names, seeds=2):
    return evaluate_dataset(dataset, workspace, EvaluateOptions.make(evaluators=names, seeds=seeds), device="cpu")


def test_metrics_follow_from_the_predictions_file(dataset, workspace):
    board = run(dataset, workspace, "norm", "set")
    store = RecordStore(workspace.records)
    found = store.all(EvaluatorRecord)
    assert {(r.method, r.seed) for r in found} == {("norm", 0), ("norm", 1), ("set", 0), ("set", 1)}
    for record in found:
        predictions = store.predictions(record)
        assert recompute(predictions) == record.metrics
        assert np.allclose(predictions["trajectory/score"].mean(axis=1), record.trajectory.score)
    row = next(row for row in board.rows if row.evaluator == "set")
    assert row.mae["test_run"].mean == np.mean([r.metrics["test_run"].mae for r in found if r.method == "set"])


def test_columns_hold_the_images_and_runs_that_the_protocol_names(dataset, workspace):
    run(dataset, workspace, "norm", seeds=1)
    store = RecordStore(workspace.records)
    (record,) = store.all(EvaluatorRecord)
    predictions = store.predictions(record)
    roles = {run.seed: run.role for run in dataset.manifest.runs}
    split_of = dict(zip(dataset.array("image_id")[:], dataset.array("split")[:], strict=True))
    expected = {
        "validation_run": ({"validation"}, 1),
        "same_run": ({"training"}, 2),
        "test_run": ({"test"}, 2),
        "unseen": ({"test"}, 3),
    }
    assert set(expected) == set(SUBSETS)
    for column, (expected_roles, split) in expected.items():
        assert {roles[int(seed)] for seed in predictions[f"{column}/run"]} == expected_roles
        assert {split_of[image] for image in predictions[f"{column}/image"]} == {split}


def test_any_evaluator_can_be_fitted_on_permuted_labels(dataset, workspace):
    board = run(dataset, workspace, "norm", "norm~permuted", "logistic~permuted", seeds=1)
    rows = {row.evaluator: row for row in board.rows}
    assert set(rows) == {"norm", "norm~permuted", "logistic~permuted"}
    assert board.chosen is rows["norm"]  # a control is never chosen
    (true,), (permuted,) = rows["norm"].records, rows["norm~permuted"].records
    assert (permuted.settings, permuted.control, true.control) == (true.settings, True, False)
    assert permuted.metrics["same_run"].mae > true.metrics["same_run"].mae
    assert load_fit(workspace, permuted, device=torch.device("cpu")).config.labels == "permuted"
    with pytest.raises(ConfigError, match="unknown labels 'random'"):
        run(dataset, workspace, "norm~random")
    with pytest.raises(ConfigError, match=r"norm~permuted is a control; name .* without ~permuted"):
        evaluator_for_training(dataset, workspace, "norm~permuted")


class Spy(NormEvaluator):
    """Keeps what it was fitted on and counts how often it is asked."""

    name = "spy"
    seen: dict = {}  # noqa: RUF012  (a record of one test)

    def fit(self, train, validation):
        Spy.seen = {"train": train, "validation": validation, "asked": 0}
        return super().fit(train, validation)

    def predict_proba(self, maps):
        Spy.seen["asked"] += 1
        return super().predict_proba(maps)


def add(monkeypatch, kind):
    monkeypatch.setitem(EVALUATORS._own, kind.name, kind)


def test_fitting_sees_train_images_of_training_runs_and_validation_images_of_the_validation_run(
    dataset, workspace, monkeypatch
):
    add(monkeypatch, Spy)
    run(dataset, workspace, "spy", seeds=1)
    split_of = dict(zip(dataset.array("image_id")[:], dataset.array("split")[:], strict=True))
    train, validation = Spy.seen["train"], Spy.seen["validation"]
    assert set(train.runs_M) == set(dataset.seeds("training"))
    assert {split_of[i] for i in train.image_ids_M} == {0}
    assert set(validation.runs_M) == set(dataset.seeds("validation"))
    assert {split_of[i] for i in validation.image_ids_M} == {1}
    assert Spy.seen["asked"] == len(SUBSETS) + 1  # each column once, and the trajectory
    run(dataset, workspace, "spy~permuted", seeds=1)
    for side, before in (("train", train), ("validation", validation)):
        after = Spy.seen[side]
        assert np.array_equal(after.maps_MDHW, before.maps_MDHW)
        assert 0.15 < (after.stages_M == before.stages_M).mean() < 0.55  # a third by chance


def broken(name, **attributes):
    """An evaluator that is ``norm`` but for some attributes."""
    return type(name, (NormEvaluator,), {"name": name, **attributes})


def answers(change):
    """``predict_proba`` of ``norm`` with its answer changed; ``change`` gets the maps too."""
    return {"predict_proba": lambda self, maps: change(NormEvaluator.predict_proba(self, maps), maps)}


def raises(error):
    def fail(*_):
        raise error

    return fail


def spoils_its_maps(probs, maps):
    maps[0] = 0
    return probs


def spoils_and_raises(_self, train, validation):
    train.stages_M[:] = validation.stages_M[0]  # what the next evaluator would get
    raise RuntimeError("no luck")


def raises_on_unseen(self, maps):
    self.asked = getattr(self, "asked", 0) + 1
    if self.asked == 4:
        raise KeyError("a key")
    return NormEvaluator.predict_proba(self, maps)


NAN = broken("nan", **answers(lambda probs, _: np.full_like(probs, np.nan)))


@pytest.mark.parametrize(
    ("kind", "where", "message", "cause"),
    [
        (broken("cannot-be-counted", num_parameters=1.5), "", r"num_parameters = 1\.5", ProtocolError),
        (broken("no-flops", log_probs=raises(IndexError("no graph"))), "one map", "IndexError: no graph", IndexError),
        (broken("spoils", **answers(spoils_its_maps)), "validation run", "changed the maps", ProtocolError),
        (NAN, "validation run", "NaN", ProtocolError),
        (broken("halved", **answers(lambda probs, _: probs / 2)), "validation run", "sum to 1", ProtocolError),
        (broken("raises-in-fit", fit=spoils_and_raises), r"\(fit\)", "RuntimeError: no luck", RuntimeError),
        (broken("raises-on-unseen", predict_proba=raises_on_unseen), "unseen", "KeyError: 'a key'", KeyError),
        (broken("not-saved", to_bytes=raises(ValueError("no bytes"))), "learned values", "no bytes", ValueError),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_an_evaluator_that_fails_is_named_with_its_split_and_stops_no_other(
    dataset, workspace, monkeypatch, tmp_path_factory, kind, where, message, cause
):
    add(monkeypatch, kind)
    with pytest.raises(UnitsFailedError, match=rf"evaluator {kind.name}.*{where}.*{message}.* \(seed 0\)") as found:
        run(dataset, workspace, kind.name, "norm", seeds=1)
    (error,) = found.value.errors
    assert isinstance(error, cause) or isinstance(error.__cause__, cause)
    # What the other got was not spoiled: it is the fit that a board of its own has. Of the failed one nothing is kept.
    (board,) = found.value.finished
    (row,) = board.rows
    alone = run(dataset, Workspace(tmp_path_factory.mktemp("alone")), "norm", seeds=1).rows[0]
    assert row.records[0].predictions_sha256 == alone.records[0].predictions_sha256
    assert row.records[0].evaluator_digest == alone.records[0].evaluator_digest
    assert [path for path in workspace.root.rglob("*") if kind.name in path.as_posix() and path.is_file()] == []


def test_every_seed_that_fails_is_told_once(dataset, workspace, monkeypatch):
    add(monkeypatch, NAN)
    with pytest.raises(UnitsFailedError, match=r"2 of 2 fits .* failed.*\n- evaluator nan .* \(seed 0, 1\)$") as found:
        run(dataset, workspace, "nan")
    assert len(found.value.errors) == 2
    assert found.value.finished == ()
    again = pickle.loads(pickle.dumps(found.value))
    assert (str(again), len(again.errors)) == (str(found.value), 2)


def test_a_full_disk_stops_everything(dataset, workspace, monkeypatch):
    monkeypatch.setattr(NormEvaluator, "to_bytes", raises(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        run(dataset, workspace, "norm")


def test_finished_fits_are_found_and_only_missing_ones_are_made(dataset, workspace):
    run(dataset, workspace, "norm")
    store = RecordStore(workspace.records)
    first, second = (store.path(record) for record in store.all(EvaluatorRecord))
    kept = first.read_bytes(), first.stat().st_mtime_ns
    second.unlink()
    run(dataset, workspace, "norm")
    assert (first.read_bytes(), first.stat().st_mtime_ns) == kept
    assert second.exists()


def test_other_code_or_another_limit_is_another_result(dataset, workspace, monkeypatch):
    before = run(dataset, workspace, "norm", seeds=1).rows[0].records[0]
    monkeypatch.setattr(environment, "code_digest", lambda _: "f" * 64)
    assert run(dataset, workspace, "norm", seeds=1).rows[0].records[0].key != before.key
    assert len(list((workspace.records / "superseded").rglob("record.json"))) == 1
    options = EvaluateOptions(evaluators=["norm"], seeds=1, limit=10)
    limited = evaluate_dataset(dataset, workspace, options, device="cpu")
    assert limited.settings != before.settings
    assert limited.rows[0].records[0].metrics["test_run"].num_maps == 10 * 3
    assert len(RecordStore(workspace.records).all(EvaluatorRecord)) == 2


def test_a_limit_of_what_is_asked_leaves_the_fit_s_own_images(dataset, workspace, monkeypatch):
    add(monkeypatch, Spy)
    options = EvaluateOptions(evaluators=["spy"], seeds=1, limit=12, test_limit=7)
    board = evaluate_dataset(dataset, workspace, options, device="cpu")
    (record,) = board.rows[0].records
    assert {name: found.num_maps for name, found in record.metrics.items()} == {
        "validation_run": 7 * 3, "same_run": 2 * 7 * 3, "test_run": 7 * 3, "unseen": 7 * 3,
    }  # fmt: skip
    assert len(set(Spy.seen["train"].image_ids_M.tolist())) == 12
    plain = EvaluatorTrial(evaluator="spy", seed=0)
    assert record.trial.settings not in (plain.settings, plain.model_copy(update={"limit": 12}).settings)
    assert "test_limit" not in plain.to_json()


def test_one_seed_gives_the_same_fit_again(dataset, workspace, tmp_path_factory):
    other = Workspace(tmp_path_factory.mktemp("other"))
    (a,), (b,) = (run(dataset, place, "set", seeds=1).rows[0].records for place in (workspace, other))
    for field in ("evaluator_digest", "predictions_sha256", "metrics"):
        assert getattr(a, field) == getattr(b, field)


def test_the_evaluator_for_training_is_its_best_fit_and_frozen(dataset, workspace):
    (row,) = run(dataset, workspace, "conv").rows
    record = evaluator_for_training(dataset, workspace, "conv")
    assert record.metrics["validation_run"].mae == min(r.metrics["validation_run"].mae for r in row.records)
    evaluator = load_fit(workspace, record, device=torch.device("cpu"))
    assert not any(parameter.requires_grad for parameter in evaluator.network.parameters())
    maps = dataset.select(dataset.seeds("test")[0], "test")
    found = calls.in_order(maps, evaluator.predict_proba(maps.maps_MDHW))
    expected = RecordStore(workspace.records).predictions(record)["test_run/probs"]
    np.testing.assert_allclose(found["probs"], expected, atol=1e-6)


def test_the_choice_never_looks_at_the_test_run(dataset, workspace):
    run(dataset, workspace, "norm", "conv")
    store = RecordStore(workspace.records)
    chosen = evaluator_for_training(dataset, workspace).method
    for record in store.all(EvaluatorRecord):  # make the other one perfect on the test run
        path = store.path(record)
        value = json.loads(path.read_bytes())
        value["metrics"]["test_run"]["mae"] = 9.0 if record.method == chosen else 0.0
        path.write_text(json.dumps(value))
    assert evaluator_for_training(dataset, workspace).method == chosen


@pytest.mark.parametrize(
    ("name", "damage"),
    [("evaluator.safetensors", b"?"), ("evaluator.json", b"{}"), ("evaluator.json", None)],
)
def test_evaluate_makes_a_damaged_fit_again(dataset, workspace, name, damage):
    (record,) = run(dataset, workspace, "norm", seeds=1).rows[0].records
    path = workspace.fitted(record.dataset_id, record.settings, record.method, record.seed) / name
    intact = path.read_bytes()
    path.unlink() if damage is None else path.write_bytes(damage)
    (again,) = run(dataset, workspace, "norm", seeds=1).rows[0].records
    assert path.read_bytes() == intact
    assert again.evaluator_digest == record.evaluator_digest
    load_fit(workspace, again, device=torch.device("cpu"))


def test_numbers_of_numpy_are_numbers(dataset, workspace, monkeypatch):
    monkeypatch.setattr(NormEvaluator, "num_parameters", np.int64(7))
    assert run(dataset, workspace, "norm", seeds=1).rows[0].num_parameters == 7


def test_bad_requests(dataset, workspace, tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean norm"):
        run(dataset, workspace, "norn")
    with pytest.raises(ConfigError, match="seeds = 0"):
        run(dataset, workspace, "norm", seeds=0)
    with pytest.raises(MissingDataError, match="fmcs-bench build"):
        all_datasets(Workspace(tmp_path / "empty"))
    with pytest.raises(MissingDataError, match="fmcs-bench evaluate"):
        evaluator_for_training(open_dataset(dataset.path), workspace)
