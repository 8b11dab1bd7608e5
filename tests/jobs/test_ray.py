"""Units on a real Ray cluster of two workers: the same results as here, whatever dies."""

import json
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from conftest import subprocess_environment
from helpers.desk import Desk, Said

from fmcs_bench.core.environment import Environment
from fmcs_bench.core.errors import ConfigError, EngineError, EvaluatorError, UnitsFailedError
from fmcs_bench.core.workspace import Workspace
from fmcs_bench.evaluator_track.options import EvaluateOptions
from fmcs_bench.evaluator_track.runner import evaluate_dataset
from fmcs_bench.jobs import ray as cluster
from fmcs_bench.jobs.local import Job, run_trials
from fmcs_bench.jobs.options import Execution
from fmcs_bench.jobs.ray import engine_of
from fmcs_bench.results.records import EvaluatorRecord, TrainingRecord
from fmcs_bench.results.store import RecordStore
from fmcs_bench.store.reader import all_datasets
from fmcs_bench.training_track.options import TrainOptions
from fmcs_bench.training_track.runner import train_dataset

ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'fmcs-bench[cluster]'")
pytestmark = pytest.mark.xdist_group("ray")  # one cluster, not one in every process of the tests


@pytest.fixture
def places(evaluated, tmp_path):
    """Two equal workspaces: for the local engine, and for the cluster."""
    return [Workspace(shutil.copytree(evaluated, tmp_path / name)) for name in ("local", "ray")]


def by_address(workspace, kind):
    store = RecordStore(workspace.records)
    return {store.path(record).relative_to(workspace.records): record for record in store.all(kind)}


def test_evaluators_are_the_same_on_a_cluster(places, engine):
    said = Said()
    for place, options in zip(places, ({}, {"engine": engine, "progress": said}), strict=True):
        (dataset,) = all_datasets(place)
        evaluate_dataset(dataset, place, EvaluateOptions(evaluators=["norm", "set"], seeds=2), device="cpu", **options)
    local, remote_ = (by_address(place, EvaluatorRecord) for place in places)
    assert local.keys() == remote_.keys()
    assert len(local) == 5 + 1  # norm and set twice, conv and a control of before
    for address, here in local.items():
        there = remote_[address]
        for field in ("key", "predictions_sha256", "evaluator_digest", "metrics", "trajectory", "curve", "environment"):
            assert getattr(there, field) == getattr(here, field), (address, field)
    assert (said.advanced, said.total) == (3, 3)  # norm with seed 0 was there
    assert said.lines[0].endswith("1 of 4 were finished before")
    assert not (places[1].records / "superseded").exists()
    assert not (places[1].root / cluster.MARK).exists()


def test_trainings_are_the_same_on_a_cluster(places, engine):
    sweep = TrainOptions.make(methods=("baseline", "ral"), rafs=(0.9,), seeds=2, keep_weights=True)
    for place, options in zip(places, ({}, {"engine": engine}), strict=True):
        (dataset,) = all_datasets(place)
        board = train_dataset(dataset, place, sweep, device="cpu", **options)
        assert [len(row.chosen.records) for row in board.rows] == [2, 2]
    local, remote_ = (by_address(place, TrainingRecord) for place in places)
    assert local.keys() == remote_.keys()
    assert len(local) == 4
    for address, here in local.items():
        there = remote_[address]
        for field in ("key", "predictions_sha256", "metrics", "curve", "environment"):
            assert getattr(there, field) == getattr(here, field), (address, field)
    weights = [
        {p.relative_to(place.root): p.read_bytes() for p in place.root.glob("networks/**/*.safetensors")}
        for place in places
    ]
    assert weights[0] == weights[1]
    assert len(weights[0]) == 4


PLUG_INS = """
import os, pathlib, signal
from fmcs_bench.evaluators.models.norm import NormEvaluator

class Mortal(NormEvaluator):
    name = "mortal"

    def fit(self, train, validation):
        mark = pathlib.Path({mark!r})
        if self.config.seed == 1 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().fit(train, validation)

class Failing(NormEvaluator):
    name = "failing"

    def predict_proba(self, maps_MDHW):
        raise KeyError("out of ideas")
"""


def test_a_killed_worker_and_a_failing_evaluator_cost_no_other_fit(places, engine, tmp_path, monkeypatch):
    mark = tmp_path / "killed"
    (tmp_path / "mine.py").write_text(PLUG_INS.format(mark=str(mark)))
    monkeypatch.chdir(tmp_path)
    (dataset,) = all_datasets(Workspace("ray"))  # relative places, which mean nothing elsewhere
    names = ["mine.py:Mortal", "mine.py:Failing", "set"]
    with pytest.raises(
        UnitsFailedError, match=r"2 of 6 fits .*\n- evaluator failing .*out of ideas.*seed 0, 1"
    ) as found:
        evaluate_dataset(
            dataset, Workspace("ray"), EvaluateOptions(evaluators=names, seeds=2), device="cpu", engine=engine,
            test_on=[dataset],
        )  # fmt: skip
    assert mark.exists()
    assert [type(error) for error in found.value.errors] == [EvaluatorError, EvaluatorError]
    assert isinstance(found.value.errors[0].__cause__, KeyError)
    assert {row.evaluator: len(row.records) for row in found.value.finished[0].rows} == {"mortal": 2, "set": 2}
    assert not (places[1].records / "superseded").exists()
    (dataset,) = all_datasets(places[0])
    evaluate_dataset(dataset, places[0], EvaluateOptions(evaluators=["mine.py:Mortal", "set"], seeds=2), device="cpu")
    local, remote_ = (by_address(place, EvaluatorRecord) for place in places)
    assert {a: r.predictions_sha256 for a, r in local.items()} == {a: r.predictions_sha256 for a, r in remote_.items()}


# ---- what a unit may do to its worker


def run(engine, tmp_path, units, **options):
    desk, said = Desk(tmp_path), Said()
    options = {"survives": (EvaluatorError,), "folder": tmp_path, "engine": engine, "progress": said} | options
    return run_trials(units, find=desk.find, work=desk.work, description="units", **options), desk, said


def test_answers_come_in_the_order_of_units_and_nothing_is_lost_or_done_twice(engine, tmp_path):
    units = ["a", "dies before", "fails 1", "talks", "dies after", "fails 2", "b"]
    outcome, desk, said = run(engine, tmp_path, units)
    assert outcome.results == [f"{unit} is done" for unit in units if not unit.startswith("fails")]
    assert [failure.trial for failure in outcome.failures] == ["fails 1", "fails 2"]
    assert isinstance(outcome.failures[0].error.__cause__, ZeroDivisionError)
    assert {unit: len(desk.attempts(unit)) for unit in units} == dict.fromkeys(units, 1) | {"dies before": 2}
    assert (said.advanced, said.total) == (7, 7)
    assert "some words" in said.lines
    assert any("a warning" in line for line in said.lines)


def test_another_error_ends_the_work_as_it_is_and_nothing_goes_on(engine, tmp_path):
    begin = time.monotonic()
    with pytest.raises(FileNotFoundError) as found:
        run(engine, tmp_path, ["lacks", "sleeps 1", "sleeps 2"])
    assert type(found.value) is FileNotFoundError
    assert (found.value.errno, found.value.filename) == (2, "/a file")
    assert "It was raised on" in found.value.__notes__[0]
    assert time.monotonic() - begin < 30
    assert not list(tmp_path.glob("sleeps?"))
    outcome, *_ = run(engine, tmp_path, ["a", "b"])  # both workers are free again
    assert outcome.results == ["a is done", "b is done"]


def test_a_unit_that_always_kills_its_worker_is_named(engine, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "MAX_RETRIES", 1)
    with pytest.raises(
        EngineError, match=r"2 times a worker was killed .* this trial: always dies; .* the same command continues"
    ):
        run(engine, tmp_path, ["always dies"])
    assert Desk(tmp_path).attempts("always dies") == "xx"


def test_what_no_machine_has_is_told_at_once(engine, tmp_path):
    for changed, device, message in (
        (replace(engine, cpus=99), "cpu", r"99 CPUs and 0 GPUs, and no machine .*\(there are: 2 CPUs and 0 GPUs\)"),
        (engine, "cuda", r"1 CPUs and 1 GPUs, and no machine"),
        (replace(engine, gpus=0.5), "cuda", r"1 CPUs and 0.5 GPUs, and no machine"),
        (replace(engine, address="auto"), "cpu", r"connected to a cluster already; leave the address out"),
    ):
        with pytest.raises(ConfigError, match=message):
            run(changed, tmp_path, ["a"], device=device)


def test_the_command_works_on_a_cluster_by_its_address(places, engine):
    run(engine, places[0].root, ["a"])  # it is connected now
    address = ray.get_runtime_context().gcs_address
    command = [
        sys.executable, "-m", "fmcs_bench", "train", "--method", "baseline", "--seeds", "1", "--json",
        "--device", "cpu", "--workspace", str(places[1].root), "--engine", "ray", "--address", address,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, env=subprocess_environment(), check=False)
    assert done.returncode == 0, done.stderr
    (record,) = [TrainingRecord.from_json(value) for value in json.loads(done.stdout)]
    assert record == next(iter(by_address(places[1], TrainingRecord).values()))


# ---- without a cluster


def answer(tmp_path, **changes):
    """What a worker says to a parcel."""
    desk = Desk(tmp_path)
    parcel = {
        "job": cluster.pack(Job(desk.find, desk.work)),
        "environment": Environment.current("cpu", 1).to_json(),
        "threads": 1,
        "mark": None,
    }
    worker = cluster.Worker()
    prepared = cluster.unpack(worker.prepare(parcel | changes))[1]
    return prepared or cluster.unpack(worker.attempt(cluster.pack("a")))[1]


def test_a_worker_with_other_software_or_another_folder_refuses(tmp_path):
    assert answer(tmp_path) == "a is done"
    ours = Environment.current("cpu", 1).to_json()
    for changes, message in (
        ({"environment": ours | {"code_digest": "0" * 64}}, "fmcs-bench 0.1.0 there, 0.1.0 with other code here"),
        ({"environment": ours | {"libraries": {"torch": "2.6.0"}}}, "torch 2.6.0 there, .* install the same versions"),
        ({"mark": (str(tmp_path / cluster.MARK), "content")}, f"does not see the workspace {tmp_path}; put it on"),
    ):
        with pytest.raises(EngineError, match=message):
            raise answer(tmp_path, **changes).error()


class OddError(Exception):
    """Cannot be made from its own arguments."""

    def __init__(self, one, two):
        super().__init__(one + two)


def test_an_error_that_cannot_travel_keeps_its_name():
    error = cluster.unpack(cluster.pack(cluster.Raised.of(OddError("a ", "text"), is_survived=False))).error()
    assert type(error) is EngineError
    assert str(error) == "OddError: a text"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"address": "auto"}, "address = 'auto': these belong to the engine ray; add --engine ray"),
        ({"unit_cpus": 2, "unit_gpus": 0.5}, "unit_cpus = 2, unit_gpus = 0.5: these belong"),
        ({"engine": "ray", "unit_gpus": 1.5}, "unit_gpus = 1.5; give a share"),
        ({"engine": "ray", "address": "ray://head:10001"}, "'ray://head:10001' is for Ray's client"),
        ({"engine": "ray", "device": "cuda:1"}, "cuda:1.*use --device cuda"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Execution.make(**options)


def test_without_ray_the_message_says_what_to_type(monkeypatch):
    monkeypatch.setattr(cluster, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install"), engine_of(Execution(engine="ray")):
        pass


def test_an_address_that_does_not_answer_is_told_in_time(monkeypatch):
    monkeypatch.setattr(cluster, "ANSWER_SECONDS", 3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(EngineError, match=f"no Ray cluster answered at '{address}' within 3 seconds"):
            cluster._require_answer(address)


def test_the_reason_of_a_cluster_that_refuses_is_told(monkeypatch):
    monkeypatch.setattr(cluster, "_PROBE", "raise RuntimeError('Version mismatch: Ray 2.9')")
    with pytest.raises(EngineError, match=r"cannot be used \(RuntimeError: Version mismatch: Ray 2\.9\)"):
        cluster._require_answer("auto")
