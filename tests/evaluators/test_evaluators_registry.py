import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from fmcs_bench.core.errors import ConfigError, DatasetError
from fmcs_bench.evaluators import network
from fmcs_bench.evaluators.checkpoint import load_fitted, save_fitted
from fmcs_bench.evaluators.models.deepsets import channel_statistics
from fmcs_bench.evaluators.network import NetworkEvaluator
from fmcs_bench.evaluators.registry import EVALUATORS, create_evaluator
from fmcs_bench.results.trials import EvaluatorTrial
from fmcs_bench.store.selection import MapSet
from fmcs_bench.testing.conformance import tiny_map_set
from fmcs_bench.training.recipes import Recipe

SHAPE = (12, 6, 5)
NUM_STAGES = 4
NUM_IMAGES = 140
ALL = pytest.mark.parametrize("name", list(EVALUATORS))
NETWORKS = [name for name, kind in EVALUATORS._own.items() if issubclass(kind, NetworkEvaluator)]
CONTROLS = {"chance"}


def some_images(maps, first, last):
    kept_M = (maps.image_ids_M >= first) & (maps.image_ids_M < last)
    return MapSet(*(array[kept_M] for array in (maps.maps_MDHW, maps.stages_M, maps.image_ids_M, maps.runs_M)))


TRAINING_RUN, VALIDATION_RUN, TEST_RUN = (tiny_map_set(run, num_images=NUM_IMAGES, map_shape=SHAPE) for run in range(3))
TRAIN, SAME_RUN = some_images(TRAINING_RUN, 0, 80), some_images(TRAINING_RUN, 100, 140)
VALIDATION, TEST = some_images(VALIDATION_RUN, 80, 100), some_images(TEST_RUN, 100, 140)
VALIDATION_OF_SAME_RUN = some_images(TRAINING_RUN, 80, 100)
LAST_RECIPE = Recipe(lr=0.01, batch_size=32)


def fitted(name, seed=0, epochs=12, train=TRAIN, validation=VALIDATION):
    config = EvaluatorTrial(evaluator=name, seed=seed, epochs=epochs, recipe=LAST_RECIPE)
    evaluator = create_evaluator(config, SHAPE, NUM_STAGES)
    curve = evaluator.fit(train, validation)
    return evaluator, curve


@pytest.fixture(scope="module")
def all_fitted():
    """Every evaluator, fitted once. Those that depend on the order of channels are stopped by their own run."""
    own = {name: VALIDATION if EVALUATORS[name].channel_invariant else VALIDATION_OF_SAME_RUN for name in EVALUATORS}
    return {name: fitted(name, validation=validation) for name, validation in own.items()}


# ---- what the conformance suite does not ask: that fits are good, and that files keep them


# Sums of the absolute weights for seed 0: the weights that committed records started from.
GOLDEN_WEIGHTS = {"norm": 46.1872846353217, "conv": 1152.8397621101321, "set": 919.8972806048635}


@pytest.mark.parametrize("name", GOLDEN_WEIGHTS)
def test_the_first_weights_are_those_of_committed_records(name):
    evaluator = create_evaluator(EvaluatorTrial(evaluator=name, seed=0), (6, 5, 4), NUM_STAGES)
    total = sum(parameter.detach().double().abs().sum().item() for parameter in evaluator.network.parameters())
    assert total == pytest.approx(GOLDEN_WEIGHTS[name], rel=1e-6)


@ALL
def test_a_saved_evaluator_gives_identical_answers(name, all_fitted, tmp_path):
    evaluator, _ = all_fitted[name]
    digest = save_fitted(evaluator, "digits@0123", tmp_path)
    again = load_fitted(tmp_path)
    assert again.info.sha256 == digest
    assert again.info.dataset_id == "digits@0123"
    assert again.evaluator.config == evaluator.config
    assert again.evaluator.num_parameters == evaluator.num_parameters
    np.testing.assert_array_equal(
        again.evaluator.predict_proba(TEST.maps_MDHW), evaluator.predict_proba(TEST.maps_MDHW)
    )
    assert again.evaluator.to_bytes() == evaluator.to_bytes()
    assert bool(load_file(tmp_path / "evaluator.safetensors")) == (name != "chance")  # any reader of the format


@ALL
def test_stages_are_learned(name, all_fitted):
    """On other images of the same run, and by what ignores the order of channels on another run too."""
    evaluator, curve = all_fitted[name]
    for maps in [SAME_RUN, TEST] if evaluator.channel_invariant else [SAME_RUN]:
        right = evaluator.predict_proba(maps.maps_MDHW).argmax(axis=1) == maps.stages_M
        # Chance is 1/4; beyond 1/4 + 5 standard deviations there is no luck.
        learned = right.mean() > 0.25 + 5 * np.sqrt(0.25 * 0.75 / len(right))
        assert learned or name in CONTROLS, right.mean()
    if name != "chance":
        assert curve[-1].train_loss < curve[0].train_loss


@pytest.mark.parametrize("name", NETWORKS)
def test_the_epoch_with_the_best_validation_mae_is_kept(name):
    config = EvaluatorTrial(evaluator=name, seed=2, epochs=6, patience=2, recipe=Recipe(lr=0.3, batch_size=16))
    evaluator = create_evaluator(config, SHAPE, NUM_STAGES)
    curve = evaluator.fit(TRAIN, VALIDATION)
    predicted = evaluator.predict_proba(VALIDATION.maps_MDHW).argmax(axis=1)
    best = min(epoch.validation for epoch in curve)
    assert np.abs(predicted - VALIDATION.stages_M).mean() == pytest.approx(best)
    first_best = next(epoch.epoch for epoch in curve if epoch.validation == best)
    assert len(curve) == min(config.epochs, first_best + config.patience)


@pytest.mark.parametrize("name", ["logistic", "boosting"])
def test_the_candidate_with_the_best_validation_mae_is_kept(name, all_fitted):
    evaluator, curve = all_fitted[name]
    predicted = evaluator.predict_proba(VALIDATION.maps_MDHW).argmax(axis=1)
    best = min(epoch.validation for epoch in curve)
    assert np.abs(predicted - VALIDATION.stages_M).mean() == pytest.approx(best)
    assert max(epoch.validation for epoch in curve) > best


@pytest.mark.parametrize("name", NETWORKS)
def test_the_gradient_is_the_slope(name, tmp_path, all_fitted):
    save_fitted(all_fitted[name][0], "x@0", tmp_path)
    evaluator = load_fitted(tmp_path).evaluator
    evaluator.freeze()
    maps = torch.from_numpy(TEST.maps_MDHW[::20].astype(np.float32)).requires_grad_()
    log_probs = evaluator.log_probs(maps)
    log_probs[:, -1].sum().backward()
    # A small step up it raises the last stage's log-probability. Values that are 0 stay, as a ReLU's gradient leaves
    # them: the share of zeros, which some evaluators look at, jumps there.
    step = maps.grad * (maps.detach() > 0)
    step *= 1e-3 / step.norm()
    gain = evaluator.log_probs((maps + step).detach())[:, -1].sum() - log_probs[:, -1].sum()
    assert float(gain.detach()) > 0


def test_a_network_with_the_wrong_number_of_outputs_is_told(monkeypatch):
    kind = EVALUATORS["conv"]
    monkeypatch.setattr(kind, "num_outputs", property(lambda self: self.num_stages + 1))
    with pytest.raises(ConfigError, match=r"gives \[5\] values .* SoftmaxHead needs \[4\]; .*self.num_outputs"):
        fitted("conv", epochs=1)


def test_maps_of_another_shape_are_refused_everywhere():
    evaluator = create_evaluator(EvaluatorTrial(evaluator="mlp", seed=0), SHAPE, NUM_STAGES)
    other = tiny_map_set(map_shape=(6, 4, 4), num_images=3)
    message = "evaluator mlp takes maps of 12 x 6 x 5 .* not 6 x 4 x 4; fit it"
    for call in (
        lambda: evaluator.fit(other, VALIDATION),
        lambda: evaluator.fit(TRAIN, other),
        lambda: evaluator.predict_proba(other.maps_MDHW),
        lambda: evaluator.log_probs(torch.zeros(2, 6, 4, 4)),
    ):
        with pytest.raises(ConfigError, match=message):
            call()
    with pytest.raises(ConfigError, match=r"shape \[map, channel, y, x\]; these have \[12, 6, 5\]"):
        create_evaluator(EvaluatorTrial(evaluator="set", seed=0), SHAPE, NUM_STAGES).predict_proba(TEST.maps_MDHW[0])


@pytest.mark.parametrize("name", ["logistic", "boosting"])
def test_a_stage_without_maps_is_told(name):
    train = replace(TRAIN, stages_M=np.where(TRAIN.stages_M == 2, 1, TRAIN.stages_M))
    with pytest.raises(ConfigError, match=f"{name} cannot be fitted: no training map has the FMCS 3"):
        fitted(name, train=train)


# ---- files of fitted evaluators


@pytest.mark.parametrize(
    "change",
    [
        lambda _: b"",
        lambda _: b"\xff\xfe{",
        lambda _: b"[]",
        lambda data: data[:-5],
        lambda data: data.replace(b'"map_shape"', b'"map_shap"'),
        lambda data: data.replace(b'"num_stages": 4', b'"num_stages": NaN'),
    ],
)
def test_missing_and_damaged_files_are_refused(all_fitted, tmp_path, change):
    save_fitted(all_fitted["norm"][0], "x@0", tmp_path)
    path = tmp_path / "evaluator.json"
    for file in (path, tmp_path / "evaluator.safetensors"):
        data = file.read_bytes()
        file.unlink()
        with pytest.raises(DatasetError, match=f"no fitted evaluator in .*{file.name}"):
            load_fitted(tmp_path)
        file.write_bytes(data)
    (tmp_path / "evaluator.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(DatasetError, match=r"is not the file that evaluator\.json names"):
        load_fitted(tmp_path)
    changed = change(path.read_bytes())
    assert changed != path.read_bytes()
    path.write_bytes(changed)
    with pytest.raises(DatasetError, match="no fitted evaluator in"):
        load_fitted(tmp_path)


def test_a_description_of_other_weights_is_refused(all_fitted, tmp_path):
    save_fitted(all_fitted["set"][0], "x@0", tmp_path)
    path = tmp_path / "evaluator.json"
    value = json.loads(path.read_bytes())
    path.write_text(json.dumps(value | {"num_stages": NUM_STAGES + 1}))
    with pytest.raises(DatasetError, match="no weights of the evaluator set"):
        load_fitted(tmp_path)


def test_the_scale_is_that_of_all_maps_whatever_the_parts(monkeypatch):
    expected = np.sqrt(np.square(TRAIN.maps_MDHW, dtype=np.float64).mean())
    for values in (1, 1000, 2**24):
        monkeypatch.setattr(network, "PART_VALUES", values)
        assert network._root_mean_square(TRAIN.maps_MDHW) == pytest.approx(expected, rel=1e-6)


def test_the_scale_of_the_maps_does_not_matter():
    def answers(factor):
        parts = [MapSet(part.maps_MDHW * np.float16(factor), part.stages_M, part.image_ids_M, part.runs_M)
                 for part in (TRAIN, VALIDATION)]  # fmt: skip
        evaluator = create_evaluator(
            EvaluatorTrial(evaluator="conv", seed=0, epochs=2, recipe=LAST_RECIPE), SHAPE, NUM_STAGES
        )
        evaluator.fit(*parts)
        return evaluator.predict_proba(parts[1].maps_MDHW)

    np.testing.assert_allclose(answers(0.125), answers(1), atol=1e-4)


# ---- what the set evaluator sees


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (3, 3), (4, 4), (5, 3), (7, 7)])
def test_channel_statistics_equal_numpy(size):
    rng = np.random.default_rng(0)
    maps = np.maximum(rng.normal(size=(3, 4, *size)), 0).astype(np.float32)
    found = channel_statistics(torch.from_numpy(maps)).numpy()
    flat = maps.reshape(3, 4, -1).astype(np.float64)
    assert found.shape == (3, 4, 19)
    np.testing.assert_allclose(found[..., :16], np.moveaxis(np.quantile(flat, np.linspace(0, 1, 16), axis=2), 0, 2),
                               atol=1e-5)  # fmt: skip
    np.testing.assert_allclose(found[..., 16], flat.mean(axis=2), atol=1e-6)
    np.testing.assert_allclose(found[..., 17], np.sqrt(flat.var(axis=2) + 1e-8), atol=1e-6)
    np.testing.assert_allclose(found[..., 18], (flat == 0).mean(axis=2), atol=1e-6)
