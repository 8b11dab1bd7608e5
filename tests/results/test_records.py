import contextlib
import copy
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import record_factory as factory
from pydantic import ValidationError
from safetensors.numpy import load_file

from fmcs_bench.core.errors import ConfigError, RecordError
from fmcs_bench.results.records import EvaluatorRecord, TrainingRecord, TrainingTrial
from fmcs_bench.results.store import RecordStore, pack_predictions, predictions_path, unpack_predictions

KINDS = {"evaluator": factory.evaluator_record(), "training": factory.training_record(0.9, seed=2)}


def with_other_predictions(record, value):
    data = pack_predictions({"scores": np.full((2, 2), value)})
    return record.model_copy(update={"predictions_sha256": hashlib.sha256(data).hexdigest()}), data


def find(store, record, key=None):
    return store.finished(
        type(record), record.dataset_id, record.settings, record.method, record.seed, key or record.key
    )


@pytest.fixture
def store(tmp_path):
    return RecordStore(tmp_path / "records")


@pytest.fixture(params=KINDS)
def record(request):
    return KINDS[request.param]


def test_a_record_comes_back_equal_from_its_address(store, record):
    path = store.write(record, factory.PREDICTIONS)
    assert store.read(type(record), path) == record
    assert store.all(type(record)) == [record]
    assert path == store.root / f"{record.name}.json"
    assert predictions_path(path).read_bytes() == factory.PREDICTIONS


def test_only_a_record_with_the_same_key_is_found(store, record):
    assert find(store, record) is None
    store.write(record, factory.PREDICTIONS)
    assert find(store, record) == record
    assert find(store, record, key="0" * 64) is None
    assert find(store, record.model_copy(update={"dataset_digest": "0" * 64})) is None


def test_a_superseded_record_is_kept_with_its_predictions(store, record):
    path = store.write(record, factory.PREDICTIONS)
    old = path.read_bytes()
    newer, data = with_other_predictions(record.model_copy(update={"key": "1" * 64}), 0.5)
    assert store.write(newer, data) == path
    assert store.all(type(record)) == [newer]
    assert find(store, record) is None
    kept = store.root / "superseded" / path.relative_to(store.root).with_suffix("")
    (folder,) = kept.iterdir()
    assert (folder / "record.json").read_bytes() == old
    assert (folder / "predictions.safetensors").read_bytes() == factory.PREDICTIONS


class Killed(BaseException):
    """Nothing in the package may catch it."""


def test_a_write_that_is_killed_anywhere_can_be_repeated_and_loses_no_record(tmp_path, record, monkeypatch):
    newer, data = with_other_predictions(record.model_copy(update={"key": "1" * 64}), 0.5)
    for steps in range(10):
        store = RecordStore(tmp_path / str(steps))
        store.write(record, factory.PREDICTIONS)
        left, replace = iter(range(steps)), Path.replace

        def killed(self, target, left=left, replace=replace):
            if next(left, None) is None:
                raise Killed
            return replace(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", killed)
            whole = False
            with contextlib.suppress(Killed):
                store.write(newer, data)
                whole = True
        assert find(store, newer) in (None, newer)  # no error: the work goes on
        store.write(newer, data)
        assert store.all(type(record)) == [newer]
        old = [json.loads(path.read_bytes()) for path in store.root.rglob("superseded/**/record.json")]
        assert record.to_json() in old
        assert factory.PREDICTIONS in [path.read_bytes() for path in store.root.rglob("predictions.safetensors")]
        if whole:
            assert steps > 2
            return
    raise AssertionError("the write never ended")


def test_predictions_of_another_record_are_not_stored(store, record):
    with pytest.raises(RecordError, match=r"not the predictions that the record of .* names"):
        store.write(record, factory.PREDICTIONS + b" ")
    assert not store.root.exists()


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_bytes()) | values))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-20]), r"seed-\d\.json is no JSON"),
        (lambda path: path.write_bytes(b"\xff\xfe\x00"), r"seed-\d\.json is no JSON"),
        (lambda path: path.write_bytes(b"[]"), r"has the schema version None; this version reads 1"),
        (lambda path: change(path, schema_version=2), r"has the schema version 2; this version reads 1"),
        (lambda path: change(path, track="other"), r"is no valid \w+Record: track = 'other'"),
        (lambda path: change(path, creatd="x"), r"is no valid .* option 'creatd'.*did you mean created"),
        (lambda path: change(path, key="abc"), r"is no valid \w+Record: key = 'abc'"),
        (lambda path: path.write_text(path.read_text().replace('"seconds": ', '"seconds": NaN, "x": ')), r"no valid"),
        (lambda path: predictions_path(path).write_bytes(factory.PREDICTIONS[:-1] + b"\x01"), r"not the predictions"),
        (lambda path: predictions_path(path).unlink(), r"predictions\.safetensors is missing"),
    ],
)
def test_a_damaged_record_is_refused_with_the_reason(store, record, damage, message):
    path = store.write(record, factory.PREDICTIONS)
    damage(path)
    for read in (lambda: store.all(type(record)), lambda: find(store, record)):
        with pytest.raises(RecordError, match=message) as caught:
            read()
        assert str(store.root) in str(caught.value)
        assert caught.value.exit_code == 1


def test_a_moved_record_is_refused_and_told_where_it_belongs(store, record):
    path = store.write(record, factory.PREDICTIONS)
    for other in (path.with_name("seed-9.json"), path.parent.with_name("norm") / path.name):
        other.parent.mkdir(exist_ok=True)
        shutil.copy(path, other)
        shutil.copy(predictions_path(path), predictions_path(other))
        with pytest.raises(RecordError, match="which belongs at") as caught:
            store.read(type(record), other)
        assert str(path) in str(caught.value)
        other.unlink()


@pytest.mark.parametrize("name", ["../../x", "..", ".", "a/b", "a\\b", "", ".hidden", "/x", "a\0", "a\n", "x" * 129])
def test_hostile_names_never_become_a_record(name):
    value = KINDS["evaluator"].to_json()
    for field in ("dataset", "unit.evaluator"):
        hostile = copy.deepcopy(value)
        target = hostile["unit"] if field == "unit.evaluator" else hostile
        target[field.split(".")[-1]] = name
        with pytest.raises(ConfigError, match=field):
            EvaluatorRecord.from_json(hostile)
    with pytest.raises(ConfigError, match="dataset"):
        TrainingRecord.from_json(KINDS["training"].to_json() | {"dataset": name})
    with pytest.raises(ValidationError, match="evaluator"):
        TrainingTrial(**(dict(KINDS["training"].trial) | {"evaluator": name}))


@pytest.mark.parametrize("digest", ["", "0" * 63, "0" * 65, "G" * 64, "../" + "0" * 61])
def test_a_digest_is_64_hexadecimal_digits(digest):
    with pytest.raises(ConfigError, match="dataset_digest"):
        EvaluatorRecord.from_json(KINDS["evaluator"].to_json() | {"dataset_digest": digest})


def test_the_name_of_a_trial_has_what_it_is():
    evaluator, training = KINDS.values()
    dataset = f"{factory.DATASET}@{evaluator.dataset_digest[:12]}"
    assert evaluator.name == f"evaluator/{dataset}/{evaluator.settings}/conv/seed-0"
    assert training.name == f"training/{dataset}/{training.settings}/ral-set@0.9/seed-2"


def test_predictions_are_packed_the_same_in_any_order_and_come_back_equal(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "test_run/probs": rng.random((2, 3, 2), dtype=np.float32),
        "test_run/image": np.arange(3),
        "a": rng.random((4, 2))[:, ::-1].T,  # neither C-contiguous nor of positive strides
        "b": np.array([True, False]),
        "empty": np.zeros((0, 3), dtype=np.float16),
    }
    data = pack_predictions(arrays)
    assert data == pack_predictions(dict(reversed(arrays.items())))
    (tmp_path / "x.safetensors").write_bytes(data)
    for again in (unpack_predictions(data), load_file(tmp_path / "x.safetensors")):
        assert again.keys() == arrays.keys()
        for name, array in arrays.items():
            assert again[name].dtype == array.dtype
            np.testing.assert_array_equal(again[name], array)


@pytest.mark.parametrize("data", [b"", b"no safetensors", factory.PREDICTIONS[:-3], b"\x80\x04\x95"])
def test_what_is_no_predictions_file_is_refused(data):
    with pytest.raises(RecordError, match="no safetensors file"):
        unpack_predictions(data)
