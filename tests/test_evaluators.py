import json
import struct

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from fmcs_bench.config import EvaluatorConfig, Recipe
from fmcs_bench.errors import DatasetError, UnknownNameError
from fmcs_bench.evaluators import REGISTRY, NetworkEvaluator, create, load_fitted
from fmcs_bench.evaluators.base import save_fitted
from fmcs_bench.evaluators.set import channel_statistics
from fmcs_bench.metrics import check_probabilities
from fmcs_bench.store import MapSet

SHAPE = (6, 5, 4)
NUM_STAGES = 4
ALL = pytest.mark.parametrize("name", list(REGISTRY))


def stage_maps(seed, num_images=40, shape=SHAPE):
    """Maps that grow from stage to stage; every run has its own channels."""
    rng = np.random.default_rng(seed)
    stages_M = np.repeat(np.arange(NUM_STAGES), num_images)
    size = (len(stages_M), *shape)
    channel = rng.permutation(np.linspace(0.7, 1.3, shape[0]))[:, None, None]
    maps = np.maximum(rng.normal(0.3, 1, size), 0) * channel * 1.7 ** stages_M[:, None, None, None]
    ids_M = np.tile(np.arange(num_images), NUM_STAGES)
    return MapSet(maps.astype(np.float16), stages_M, ids_M, np.full(len(ids_M), seed))


TRAIN, VALIDATION, TEST = (stage_maps(seed) for seed in range(3))
LAST_RECIPE = Recipe(lr=0.01, batch_size=32)


def fitted(name, seed=0, epochs=8, train=TRAIN):
    config = EvaluatorConfig(evaluator=name, seed=seed, epochs=epochs, recipe=LAST_RECIPE)
    evaluator = create(config, SHAPE, NUM_STAGES)
    curve = evaluator.fit(train, VALIDATION)
    return evaluator, curve


@pytest.fixture(scope="module")
def judges():
    """Every evaluator, fitted once; tests only ask."""
    return {name: fitted(name) for name in REGISTRY}


def channel_orders(maps, seed=0):
    return maps[:, np.random.default_rng(seed).permutation(maps.shape[1])]


# ---- the contract, for every evaluator


@ALL
def test_an_evaluator_states_what_it_is(name):
    kind = REGISTRY[name]
    assert kind.name == name
    for trait in ("differentiable", "channel_invariant", "any_shape"):
        assert isinstance(getattr(kind, trait), bool)
    assert create(EvaluatorConfig(evaluator=name, seed=0), SHAPE, NUM_STAGES).num_parameters > 0


@ALL
@pytest.mark.parametrize("fit_first", [False, True])
def test_answers_are_probabilities_of_each_map(name, fit_first, judges):
    evaluator = create(EvaluatorConfig(evaluator=name, seed=0), SHAPE, NUM_STAGES)
    if fit_first:
        evaluator, _ = judges[name]
    probs = evaluator.predict_proba(TEST.maps_MDHW)
    assert probs.dtype == np.float32
    check_probabilities(probs, len(TEST), NUM_STAGES, evaluator=name, split="test")
    few = evaluator.predict_proba(TEST.maps_MDHW[5:8])
    np.testing.assert_allclose(few, probs[5:8], atol=1e-5)  # a map's answer is its own affair


@ALL
def test_neither_fitting_nor_asking_changes_the_maps(name):
    sets = [stage_maps(0), stage_maps(1)]
    before = [part.maps_MDHW.copy() for part in sets]
    evaluator = create(EvaluatorConfig(evaluator=name, seed=0, epochs=1), SHAPE, NUM_STAGES)
    evaluator.fit(*sets)
    for part, copy in zip(sets, before, strict=True):
        evaluator.predict_proba(part.maps_MDHW)
        np.testing.assert_array_equal(part.maps_MDHW, copy)


@ALL
def test_asking_changes_no_learned_value(name, judges):
    evaluator, _ = judges[name]
    before = evaluator.to_bytes()
    evaluator.predict_proba(1000 * TEST.maps_MDHW)
    assert evaluator.to_bytes() == before


@ALL
def test_extreme_maps_get_probabilities_too(name, judges):
    evaluator, _ = judges[name]
    zeros = np.zeros((2, *SHAPE), dtype=np.float16)
    large = np.full((2, *SHAPE), 65_504, dtype=np.float16)
    for maps in (zeros, large, -large):
        check_probabilities(evaluator.predict_proba(maps), 2, NUM_STAGES, evaluator=name, split="extreme")


@ALL
def test_maps_that_are_part_of_a_larger_array_are_taken(name, judges):
    evaluator, _ = judges[name]
    every_second = TEST.maps_MDHW[::2]
    np.testing.assert_allclose(
        evaluator.predict_proba(every_second), evaluator.predict_proba(every_second.copy()), atol=1e-6
    )


@ALL
def test_a_saved_evaluator_gives_identical_answers(name, judges, tmp_path):
    evaluator, _ = judges[name]
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
    assert load_file(tmp_path / "evaluator.safetensors")  # any reader of the format takes it


@ALL
def test_the_same_seed_gives_identical_bytes_and_another_seed_others(name, judges):
    torch.manual_seed(1)
    again, curve = fitted(name, epochs=8)
    evaluator, first_curve = judges[name]
    assert again.to_bytes() == evaluator.to_bytes()
    assert curve == first_curve
    other, _ = fitted(name, seed=1, epochs=1)
    assert other.to_bytes() != fitted(name, seed=0, epochs=1)[0].to_bytes()


@ALL
def test_fitting_leaves_the_global_random_state_alone(name):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    fitted(name, epochs=1)
    assert torch.equal(torch.rand(3), expected)


@ALL
def test_stages_that_differ_in_scale_are_learned(name, judges):
    evaluator, curve = judges[name]
    right = evaluator.predict_proba(TEST.maps_MDHW).argmax(axis=1) == TEST.stages_M
    # Chance is 1/4; beyond 1/4 + 5 standard deviations there is no luck.
    assert right.mean() > 0.25 + 5 * np.sqrt(0.25 * 0.75 / len(right))
    assert [epoch.epoch for epoch in curve] == list(range(1, len(curve) + 1))
    assert curve[-1].train_loss < curve[0].train_loss


@ALL
def test_the_epoch_with_the_best_validation_mae_is_kept(name):
    config = EvaluatorConfig(evaluator=name, seed=2, epochs=6, patience=2, recipe=Recipe(lr=0.3, batch_size=16))
    evaluator = create(config, SHAPE, NUM_STAGES)
    curve = evaluator.fit(TRAIN, VALIDATION)
    predicted = evaluator.predict_proba(VALIDATION.maps_MDHW).argmax(axis=1)
    best = min(epoch.validation for epoch in curve)
    assert np.abs(predicted - VALIDATION.stages_M).mean() == pytest.approx(best)
    first_best = next(epoch.epoch for epoch in curve if epoch.validation == best)
    assert len(curve) == min(config.epochs, first_best + config.patience)


@ALL
def test_channel_invariance_is_as_stated(name, judges):
    evaluator, _ = judges[name]
    probs = evaluator.predict_proba(TEST.maps_MDHW)
    for seed in range(3):
        permuted = evaluator.predict_proba(channel_orders(TEST.maps_MDHW, seed))
        if evaluator.channel_invariant:
            np.testing.assert_allclose(permuted, probs, atol=1e-5)
        else:
            assert np.abs(permuted - probs).max() > 1e-3


@ALL
def test_any_shape_is_as_stated(name, judges):
    evaluator, _ = judges[name]
    for shape in ((3, 5, 4), (6, 1, 1), (17, 7, 9), (1, 4, 4)):
        maps = stage_maps(0, num_images=2, shape=shape).maps_MDHW
        if evaluator.any_shape:
            probs = evaluator.predict_proba(maps)
            check_probabilities(probs, len(maps), NUM_STAGES, evaluator=name, split="other shape")
        elif shape[0] != SHAPE[0]:
            with pytest.raises(RuntimeError, match="channels"):
                evaluator.predict_proba(maps)


@ALL
def test_differentiable_evaluators_pass_a_gradient_to_the_maps_and_to_nothing_else(name, tmp_path, judges):
    if not REGISTRY[name].differentiable:
        assert not isinstance(judges[name][0], NetworkEvaluator)
        return
    save_fitted(judges[name][0], "x@0", tmp_path)
    evaluator = load_fitted(tmp_path).evaluator
    evaluator.freeze()
    maps = torch.from_numpy(TEST.maps_MDHW[::20].astype(np.float32)).requires_grad_()
    log_probs = evaluator.log_probs(maps)
    np.testing.assert_allclose(log_probs.detach().exp(), evaluator.predict_proba(TEST.maps_MDHW[::20]), atol=1e-5)
    log_probs[:, -1].sum().backward()
    assert maps.grad.isfinite().all()
    assert (maps.grad.abs().amax(dim=(1, 2, 3)) > 0).all()
    assert all(parameter.grad is None for parameter in evaluator.network.parameters())
    # The gradient is the slope: a small step up it raises the last stage's log-probability. Values that are 0 stay,
    # as a ReLU's gradient leaves them: the share of zeros, which ``set`` looks at, jumps there.
    step = maps.grad * (maps.detach() > 0)
    step *= 1e-3 / step.norm()
    gain = evaluator.log_probs((maps + step).detach())[:, -1].sum() - log_probs[:, -1].sum()
    assert float(gain.detach()) > 0


@ALL
def test_the_gradient_at_a_dead_map_is_finite(name, judges):
    evaluator, _ = judges[name]
    if not evaluator.differentiable:
        return
    maps = torch.zeros(3, *SHAPE, requires_grad=True)
    (gradient,) = torch.autograd.grad(evaluator.log_probs(maps)[:, -1].sum(), maps)
    assert gradient.isfinite().all()


# ---- files of fitted evaluators


def test_tampered_weights_are_refused(judges, tmp_path):
    save_fitted(judges["set"][0], "x@0", tmp_path)
    path = tmp_path / "evaluator.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=r"is not the file that evaluator\.json names"):
        load_fitted(tmp_path)


@pytest.mark.parametrize("missing", ["evaluator.json", "evaluator.safetensors"])
def test_missing_files_are_told(judges, tmp_path, missing):
    save_fitted(judges["norm"][0], "x@0", tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(DatasetError, match=f"no fitted evaluator in .*{missing}"):
        load_fitted(tmp_path)


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
def test_a_damaged_description_is_refused(judges, tmp_path, change):
    save_fitted(judges["norm"][0], "x@0", tmp_path)
    path = tmp_path / "evaluator.json"
    changed = change(path.read_bytes())
    assert changed != path.read_bytes()
    path.write_bytes(changed)
    with pytest.raises(DatasetError, match="no fitted evaluator in"):
        load_fitted(tmp_path)


def test_a_description_of_other_weights_is_refused(judges, tmp_path):
    save_fitted(judges["set"][0], "x@0", tmp_path)
    path = tmp_path / "evaluator.json"
    value = json.loads(path.read_bytes())
    path.write_text(json.dumps(value | {"num_stages": NUM_STAGES + 1}))
    with pytest.raises(DatasetError, match="no weights of the evaluator set"):
        load_fitted(tmp_path)


@pytest.mark.parametrize("data", [b"", b"\x80\x04]q.", struct.pack("<Q", 2) + b"{}"])
def test_what_are_no_weights_is_refused_and_leaves_the_evaluator_as_it_was(data):
    evaluator = create(EvaluatorConfig(evaluator="conv", seed=0), SHAPE, NUM_STAGES)
    before = evaluator.to_bytes()
    with pytest.raises(DatasetError, match="no weights of the evaluator conv"):
        evaluator.from_bytes(data)
    assert evaluator.to_bytes() == before


def test_an_unknown_evaluator_comes_with_the_nearest():
    with pytest.raises(UnknownNameError, match=r"unknown evaluator 'convv'; did you mean conv\?"):
        create(EvaluatorConfig(evaluator="convv", seed=0), SHAPE, NUM_STAGES)


def test_the_scale_of_the_maps_does_not_matter():
    def answers(factor):
        parts = [MapSet(part.maps_MDHW * np.float16(factor), part.stages_M, part.image_ids_M, part.runs_M)
                 for part in (TRAIN, VALIDATION)]  # fmt: skip
        evaluator = create(EvaluatorConfig(evaluator="conv", seed=0, epochs=2, recipe=LAST_RECIPE), SHAPE, NUM_STAGES)
        evaluator.fit(*parts)
        return evaluator.predict_proba(parts[1].maps_MDHW)

    np.testing.assert_allclose(answers(0.125), answers(1), atol=1e-4)


def test_maps_that_are_all_zero_can_be_fitted():
    zero = MapSet(np.zeros_like(TRAIN.maps_MDHW), TRAIN.stages_M, TRAIN.image_ids_M, TRAIN.runs_M)
    for name in REGISTRY:
        evaluator, _ = fitted(name, epochs=1, train=zero)
        check_probabilities(evaluator.predict_proba(zero.maps_MDHW), len(zero), NUM_STAGES, evaluator=name, split="0")


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
