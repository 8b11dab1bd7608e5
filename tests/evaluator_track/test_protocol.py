"""Sides of the protocol: enough images in each, and none on two."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import build_tiny, subprocess_environment

from fmcs_bench.core.errors import ConfigError, DatasetError, ProtocolError, UnitsFailedError
from fmcs_bench.core.workspace import Workspace
from fmcs_bench.evaluator_track import protocol
from fmcs_bench.evaluator_track.calls import flops_per_map
from fmcs_bench.evaluator_track.options import EvaluateOptions
from fmcs_bench.evaluator_track.runner import evaluate_dataset, recompute_test_on
from fmcs_bench.evaluators.registry import EVALUATORS, create_evaluator
from fmcs_bench.results.records import EvaluatorRecord
from fmcs_bench.results.store import RecordStore
from fmcs_bench.results.trials import EvaluatorTrial
from fmcs_bench.store.publication import Fidelity
from fmcs_bench.store.reader import open_dataset
from fmcs_bench.training.recipes import ConvergenceRule

RULE = ConvergenceRule(threshold=0.1)


@pytest.fixture
def dataset(tiny_dataset):
    """Of its own for each test, which may change what was read."""
    return open_dataset(tiny_dataset.path)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Another image size: other runs, and maps of another shape."""
    return build_tiny(tmp_path_factory.mktemp("other"), image_size=24, name="other", convergence=RULE)


@pytest.fixture(scope="module")
def other_codec(tmp_path_factory):
    """The same runs and images, stored with a loss."""
    return build_tiny(tmp_path_factory.mktemp("q8"), codec="q8", name="q8")


def test_no_image_and_no_run_stands_on_two_sides(dataset):
    sides = protocol.select(dataset, protocol.Limits())
    ids = {name: set(selection.image_ids_M.tolist()) for name, selection in sides.items()}
    runs = {name: set(selection.runs_M.tolist()) for name, selection in sides.items()}
    for asked in ("same_run", "test_run", "unseen"):
        assert not (ids["train"] | ids["validation_run"]) & ids[asked]
    assert not ids["train"] & ids["validation_run"]
    assert runs["train"] == runs["same_run"] == set(dataset.seeds("training"))
    assert not runs["train"] & (runs["validation_run"] | runs["test_run"] | runs["unseen"])
    assert not runs["validation_run"] & (runs["same_run"] | runs["test_run"] | runs["unseen"])
    assert all(len(found) == 60 for found in ids.values())


def test_an_image_on_two_sides_is_refused_before_anything_is_fitted(dataset, tmp_path):
    ids, splits = np.array(dataset.array("image_id")[:]), np.array(dataset.array("split")[:])
    ids[np.flatnonzero(splits == 2)[3]] = ids[np.flatnonzero(splits == 0)[0]]
    dataset._image_arrays["image_id"] = ids
    with pytest.raises(DatasetError, match=f"the image {ids[splits == 0][0]} is on two sides, train and same_run"):
        evaluate_dataset(dataset, Workspace(tmp_path), EvaluateOptions(evaluators=["norm"]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("one", "other"), [("train", "test_run"), ("validation_run", "unseen"), ("train", "validation_run")]
)
def test_a_run_on_two_sides_is_refused(dataset, one, other):
    sides = protocol.select(dataset, protocol.Limits())
    leaky = replace(sides[other], runs_M=np.full_like(sides[other].runs_M, sides[one].runs_M[0]))
    with pytest.raises(DatasetError, match=f"the run {leaky.runs_M[0]} is on two sides, {one} and {other}"):
        protocol.check_apart({**sides, other: leaky}, dataset.id)


@pytest.mark.parametrize(
    ("sizes", "limit", "message"),
    [
        ({}, 1, "it has 1 in train, 1 in validation, 1 in test, 1 in unseen; use a larger --limit"),
        ({"unseen": 0, "test": 1}, None, "it has 1 in test, 0 in unseen; build it from more images"),
    ],
)
def test_too_few_images_are_refused_before_anything_is_fitted(dataset, tmp_path, sizes, limit, message):
    images = dataset.manifest.images
    images = images.model_copy(update={"num_images": images.num_images | sizes})
    dataset.manifest = dataset.manifest.model_copy(update={"images": images})
    with pytest.raises(ConfigError, match=f"too small .*{message}"):
        evaluate_dataset(dataset, Workspace(tmp_path), EvaluateOptions(evaluators=["norm"], seeds=1, limit=limit))
    assert list(tmp_path.iterdir()) == []


def fails_after_spoiling(maps):
    maps.maps_MDHW[0] = 0
    maps.stages_M[:] = 0
    return 1 / 0


def test_every_evaluator_gets_unchanged_maps(dataset):
    shared = protocol.SharedMaps(protocol.select(dataset, protocol.Limits(5, 5)))
    with shared.use("a", "train", "unseen") as (train, unseen):
        before = [array.copy() for array in (train.maps_MDHW, train.stages_M, unseen.image_ids_M)]
        first = train
    with shared.use("a", "train") as (train,):
        assert train is first  # not read again
    with (
        pytest.raises(ProtocolError, match="evaluator a on unseen: it changed the maps"),
        shared.use("a", "train", "unseen") as (_, unseen),
    ):
        unseen.image_ids_M[0] += 1
    with pytest.raises(ZeroDivisionError), shared.use("a", "train") as (train,):
        train.maps_MDHW[0] = fails_after_spoiling(train)
    with shared.use("a", "train", "unseen") as (train, unseen):
        for found, expected in zip((train.maps_MDHW, train.stages_M, unseen.image_ids_M), before, strict=True):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("part_bytes", [7, 1000, 2**22])
@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1), [5, 2, 8, 2, 20, 1]])
def test_a_change_of_any_map_or_label_is_found(dataset, order, part_bytes, monkeypatch):
    monkeypatch.setattr(protocol, "PART_BYTES", part_bytes)
    shared = protocol.SharedMaps({"train": protocol.side(dataset, "train", protocol.Limits(5, 5)).take(order)})
    with shared.use("a", "train") as (train,):
        maps_MX = train.maps_MDHW.reshape(len(train), -1).copy()
    generator = np.random.default_rng(0)
    for m in range(len(maps_MX)):
        with pytest.raises(ProtocolError, match="changed the maps"), shared.use("a", "train") as (train,):
            train.maps_MDHW.reshape(maps_MX.shape)[m, generator.integers(maps_MX.shape[1])] += 1
    for name in ("stages_M", "image_ids_M", "runs_M"):
        with pytest.raises(ProtocolError, match="changed the maps"), shared.use("a", "train") as (train,):
            getattr(train, name)[-1] += 1
    with shared.use("a", "train") as (train,):
        np.testing.assert_array_equal(train.maps_MDHW.reshape(maps_MX.shape), maps_MX)


# ---- costs


def test_flops_are_those_of_products_and_convolutions():
    def flops(name, shape=(8, 4, 4)):
        return flops_per_map(create_evaluator(EvaluatorTrial(evaluator=name, seed=0), shape, 7), shape)

    assert flops("norm") == 2 * (1 * 32 + 32 * 7)
    assert flops("conv") == 2 * (16 * 9 * 8 * 64 + 16 * 9 * 64 * 64 + 64 * 7)
    channel, head = 19 * 64 + 64 * 64, 128 * 64 + 64 * 7
    assert flops("set") == 2 * (8 * channel + head)
    assert [flops(name) for name in ("chance", "logistic", "boosting")] == [None, None, None]
    # Attention: the embedding; twice queries, keys, values, output, two products of tokens, an MLP; the head.
    tokens, width = 16, 64
    block = 4 * tokens * width**2 + 2 * tokens**2 * width + 2 * tokens * width * 2 * width
    assert flops("attention") == 2 * (tokens * 8 * width + 2 * block + width * 7)


def fit(dataset, place, *names, test_on=()):
    options = EvaluateOptions.make(evaluators=names, seeds=1)
    return evaluate_dataset(dataset, Workspace(place), options, test_on=test_on, device="cpu")


def test_a_record_has_what_scoring_costs(dataset, tmp_path):
    costs = {row.evaluator: row.records[0].cost for row in fit(dataset, tmp_path, "norm", "chance").rows}
    assert {name: cost.flops_per_map for name, cost in costs.items()} == {"norm": 2 * (32 + 32 * 3), "chance": None}
    for cost in costs.values():
        assert cost.scoring_maps == 60 * 3
        assert cost.maps_per_second == pytest.approx(180 / cost.scoring_seconds)


# ---- other datasets


def records_of(workspace):
    return {record.method: record for record in RecordStore(workspace.records).all(EvaluatorRecord)}


def test_fits_are_tested_on_another_dataset_as_they_are(dataset, other, tmp_path):
    place = Workspace(tmp_path)

    def evaluate(*test_on):
        fit(dataset, tmp_path, "norm", "conv", test_on=test_on)
        return records_of(place)

    assert dataset.manifest.map_shape != other.manifest.map_shape
    alone = evaluate()
    weights = place.fitted(dataset.id, alone["norm"].settings, "norm", 0) / "evaluator.safetensors"
    made = weights.stat().st_mtime_ns
    both = evaluate(dataset, other)
    assert weights.stat().st_mtime_ns == made
    assert both["conv"] == alone["conv"]  # takes no maps of another shape
    assert list(both["norm"].test_on) == [other.id]
    assert both["norm"].metrics == alone["norm"].metrics
    store = RecordStore(place.records)
    predictions = store.predictions(both["norm"])
    assert recompute_test_on(predictions) == both["norm"].test_on
    seen = protocol.side(other, "test_run", protocol.Limits())
    np.testing.assert_array_equal(predictions[f"test_on/{other.id}/image"], np.unique(seen.image_ids_M))
    assert set(predictions[f"test_on/{other.id}/run"]) == set(other.seeds("test"))
    assert evaluate(other) == evaluate() == both
    # In one go it is the same.
    fit(dataset, tmp_path / "at once", "norm", test_on=(other,))
    assert records_of(Workspace(tmp_path / "at once"))["norm"].test_on == both["norm"].test_on


def test_what_another_dataset_must_not_be(dataset, other, other_codec, tmp_path):
    four = build_tiny(tmp_path, stages=4, name="four", convergence=RULE)
    with pytest.raises(ConfigError, match=r"3 stages, and .*-four@\w+ has 4"):
        protocol.check_other(dataset, four, protocol.Limits())
    with pytest.raises(ConfigError, match=rf"{other.id} is too small"):
        protocol.check_other(dataset, other, protocol.Limits(1, 1))
    # Another codec of the same runs is no leak; a dataset whose test run is one of the training runs is.
    assert len(protocol.check_other(dataset, other_codec, protocol.Limits())) == 180
    shutil.rmtree(tmp_path)
    shifted = build_tiny(tmp_path, name="shifted", runs=1)
    assert shifted.seeds("test")[0] == dataset.seeds("validation")[0]
    with pytest.raises(DatasetError, match=r"the test run of .*-shifted.* is a run that evaluators of .* learn from"):
        protocol.check_other(dataset, shifted, protocol.Limits())


def test_a_failure_on_another_dataset_is_named(dataset, other_codec, tmp_path, monkeypatch):
    place = Workspace(tmp_path)
    fit(dataset, tmp_path, "norm")
    before = records_of(place)
    monkeypatch.setattr(EVALUATORS["norm"], "predict_proba", lambda *_: np.zeros(3))
    with pytest.raises(UnitsFailedError, match=f"evaluator norm on {other_codec.id}: an array of shape"):
        fit(dataset, tmp_path, "norm", test_on=(other_codec,))
    assert records_of(place) == before


def test_fidelity_of_lossy_storage_is_one_line_of_json(dataset, other_codec, tmp_path):
    script = Path(__file__).parents[2] / "benchmarks/fidelity.py"
    done = subprocess.run(
        [sys.executable, script, tmp_path, dataset.path, other_codec.path, "--evaluator", "norm", "--seeds", "2"],
        capture_output=True, text=True, env=subprocess_environment(), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    found = Fidelity.from_json(json.loads(line))
    assert found.is_of(dataset.manifest)
    assert found.is_of(other_codec.manifest)
    figures = json.loads(line)["evaluators"]["norm"]
    assert figures["mae_difference"]["num"] == 2
    assert 0 < figures["probability"]["mean"] < figures["probability"]["largest"] < 0.1
    assert 0 <= figures["changed"]["mean"] < 0.05
