"""The steps that are meant for a GPU, tiny and on a CPU: what they write, and that a stopped one goes on."""

import importlib
import json
import sys
import time
from pathlib import Path

import pytest

from fmcs_bench.core.progress import SILENT
from fmcs_bench.core.workspace import Workspace
from fmcs_bench.results.records import EvaluatorRecord, TrainingRecord
from fmcs_bench.results.store import RecordStore

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SMALL = ["--backbone", "smallcnn", "--image-size", "16", "--device", "cpu"]
TINY = [  # conftest's
    "--stages", "3", "--epochs", "6", "--limit", "60", "--checkpoints", "12", "--name", "tiny", "--batch-size", "16",
    "--lr", "0.003", "--threshold", "0.3", "--codec", "zstd",
]  # fmt: skip


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield importlib.import_module("gpu")
    for name in ("gpu", "build", "budget", "result"):
        sys.modules.pop(name, None)


def test_measure_gives_every_part(script, tmp_path, capsys):
    out = tmp_path / "deep/measure.json"
    few = ["--num-images", "48", "--networks", "2", "--num-maps", "40", "--train-seconds", "0", "--rounds", "1"]
    assert script.main(["measure", *SMALL, *few, "--out", str(out)]) == 0
    found = json.loads(out.read_bytes())
    assert found["benchmark"] == "gpu_measure"
    assert found["environment"]["device"] == "cpu"
    columns = capsys.readouterr().out
    for part in ("extraction", "codec", "writer", "reader"):
        for codec in ("zstd", "q8"):
            assert f"{part}_{codec}" in found
            assert f"\n{part}_{codec} " in columns
    assert found["bare_forward"]["maps_per_second"] == found["extraction_zstd"]["bare_maps_per_second"]
    assert found["extraction_q8"]["ratio_to_bare_forward"] > 0
    assert found["reader_q8"]["maps_per_second"] > 0
    assert found["reader_q8"]["peak_device_bytes"] is None
    assert found["extraction_zstd"]["peak_process_bytes"] > 1e7
    assert found["extraction_zstd"]["map_shape"] == [64, 2, 2]
    assert found["codecs"]["q8"]["times_smaller"] > found["codecs"]["zstd"]["times_smaller"]


def test_a_build_that_is_out_of_time_goes_on_when_it_is_typed_again(script, tmp_path, tiny_dataset, capsys):
    out = tmp_path / "build.json"
    command = ["build", *SMALL, *TINY, "--workspace", str(tmp_path / "ws"), "--out", str(out)]
    assert script.main([*command, "--minutes", "0.005"]) == 3
    assert "type the same again" in capsys.readouterr().err
    found = json.loads(out.read_bytes())
    assert not found["finished"]
    assert found["calls"][0]["seconds"] < 20
    assert "dataset" not in found
    assert script.main(command) == 0
    found = json.loads(out.read_bytes())
    assert found["finished"]
    assert [call["finished"] for call in found["calls"]] == [False, True]
    assert {"training smallcnn", "feature maps", "trajectory maps"} <= found["seconds_by_phase"].keys()
    assert found["seconds"] == pytest.approx(sum(call["seconds"] for call in found["calls"]))
    assert found["dataset"] == tiny_dataset.id  # stopped or not
    assert found["stored_bytes"] == tiny_dataset.manifest.stored_bytes
    assert "times smaller" in capsys.readouterr().out


def test_the_tracks_leave_their_records_in_a_folder(script, tmp_path, tiny_dataset, capsys):
    place = Workspace(tmp_path / "ws")
    place.datasets.mkdir(parents=True)
    place.dataset(tiny_dataset.manifest.name).symlink_to(tiny_dataset.path)
    out = tmp_path / "track"
    units = ["--evaluator", "norm", "--seeds", "1", "--train-seeds", "1", "--method", "baseline", "--epochs", "1"]
    command = ["track", *SMALL, *units, "--workspace", str(place.root), "--out", str(out)]
    assert script.main([*command, "--minutes", "0"]) == 3
    assert json.loads((out / "track.json").read_bytes())["trainings"] == 0
    assert script.main(command) == 0
    store = RecordStore(out / "records")
    (evaluation,), (training,) = store.all(EvaluatorRecord), store.all(TrainingRecord)
    assert (evaluation.dataset_id, training.dataset_id) == (tiny_dataset.id, tiny_dataset.id)
    found = json.loads((out / "track.json").read_bytes())
    assert (found["finished"], found["evaluations"], found["trainings"]) == (True, 1, 1)
    assert f"{evaluation.metrics['test_run'].mae:.4g}" in capsys.readouterr().out


def test_wrong_use_is_told_in_a_line(script, tmp_path, capsys):
    assert script.main(["measure", "--device", "gpu7", "--out", str(tmp_path / "m.json")]) == 2
    assert "device 'gpu7' cannot be used here" in capsys.readouterr().err
    assert script.main(["track", *SMALL, "--workspace", str(tmp_path), "--out", str(tmp_path / "t")]) == 2


def test_an_evaluator_that_is_out_of_time_has_not_failed(script):
    # What survives a failed unit catches Exception.
    assert not issubclass(script.OutOfTime, Exception)


def test_the_budget_ends_what_takes_longer_and_nothing_after_it(script):
    clock = script.PhaseClock(SILENT)
    with pytest.raises(script.OutOfTime), script.budget(0.001), clock.task("run 3: feature maps", 1):
        time.sleep(5)
    assert 0.05 < clock.seconds["feature maps"] < 4
    with script.budget(0.002):
        pass
    time.sleep(0.2)
