"""The conformance suite passes a good evaluator and finds every broken sentence of the contract."""

import contextlib
import pickle

import numpy as np
import pytest
import torch

from fmcs_bench.core.errors import ConfigError, DatasetError
from fmcs_bench.evaluators.models.norm import NormEvaluator
from fmcs_bench.testing.conformance import EvaluatorConformance, tiny_map_set
from fmcs_bench.training.recipes import Recipe


class Good(NormEvaluator):
    name = "good"


def good_but(**changes):
    """A good evaluator with other attributes."""
    return type("_".join(changes), (Good,), changes)


def answering(change):
    """A good evaluator whose probabilities are changed."""
    return good_but(predict_proba=lambda self, maps: change(Good.predict_proba(self, maps)))


def seeing(change):
    """A good evaluator that is asked about changed maps."""
    return good_but(predict_proba=lambda self, maps: Good.predict_proba(self, change(maps)))


class WrongCurve(Good):
    def fit(self, train, validation):
        return super().fit(train, validation)[1:]


class MovesTorch(Good):
    def fit(self, train, validation):
        torch.rand(1)
        return super().fit(train, validation)


class MovesNumpy(Good):
    def fit(self, train, validation):
        np.random.rand(1)  # noqa: NPY002  (what it must not do)
        return super().fit(train, validation)


class IgnoresTheSeed(Good):
    def __init__(self, map_shape, num_stages, config, **options):
        super().__init__(map_shape, num_stages, config.model_copy(update={"seed": 0}), **options)


class ForgetsTheSeed(Good):
    fits = 0

    def __init__(self, map_shape, num_stages, config, **options):
        ForgetsTheSeed.fits += 1
        super().__init__(map_shape, num_stages, config.model_copy(update={"seed": self.fits}), **options)


class IgnoresTheRecipe(Good):
    def __init__(self, map_shape, num_stages, config, **options):
        recipe = Recipe(lr=0.01, batch_size=32)
        super().__init__(map_shape, num_stages, config.model_copy(update={"recipe": recipe}), **options)


class Pickles(Good):
    def to_bytes(self):
        return pickle.dumps(super().to_bytes())

    def from_bytes(self, data):
        super().from_bytes(pickle.loads(data))


class ForgetsItsScale(Good):
    def from_bytes(self, data):
        super().from_bytes(data)
        self.network.scale.fill_(1)


class TakesAnyBytes(Good):
    def from_bytes(self, data):
        with contextlib.suppress(DatasetError):
            super().from_bytes(data)


class ChangesTheMaps(Good):
    def predict_proba(self, maps):
        probs = super().predict_proba(maps)
        maps[0] = 0
        return probs


class ChangesTheLabels(Good):
    def fit(self, train, validation):
        curve = super().fit(train, validation)
        train.stages_M[0] += 1
        return curve


class LearnsWhenAsked(Good):
    def predict_proba(self, maps):
        probs = super().predict_proba(maps)
        self.network.scale.mul_(1.5)
        return probs


class FearsDeadMaps(Good):
    def predict_proba(self, maps):
        dead_M = (maps == 0).all(axis=(1, 2, 3))
        return np.where(dead_M[:, None], np.float32(np.nan), super().predict_proba(maps))


class OnlyOwnShape(Good):
    def check_shape(self, shape):
        if tuple(shape[1:]) != self.map_shape:
            raise ConfigError("no")


class StatesNoShape(Good):
    any_shape = False

    def check_shape(self, shape):
        pass


class Detached(Good):
    def log_probs(self, maps):
        return super().log_probs(maps.detach())


class OtherAnswers(Good):
    def log_probs(self, maps):
        return super().log_probs(2 * maps)


class NeverFrozen(Good):
    def freeze(self):
        pass


class InfiniteGradient(Good):
    def log_probs(self, maps):
        return super().log_probs(maps) + 0 * maps.square().mean(dim=(1, 2, 3)).sqrt()[:, None]


FAULTS = [
    (good_but(name="no/name"), "states_what_it_is", "'no/name' is no name"),
    (good_but(any_shape="yes"), "states_what_it_is", "any_shape = 'yes' must be True or False"),
    (good_but(num_parameters=1.5), "states_what_it_is", "num_parameters = 1.5"),
    (WrongCurve, "curve_counts", r"curve has the epochs \[2, 3"),
    (answering(lambda probs: probs.astype(np.float64)), "answers_are_probabilities", "must be float32"),
    (answering(lambda probs: probs[:, :-1]), "answers_are_probabilities", r"shape \(96, 3\), not \(96, 4\)"),
    (answering(lambda probs: probs * np.float32(np.nan)), "answers_are_probabilities", "NaN"),
    (answering(lambda probs: probs + np.float32([-2, 2, 0, 0])), "answers_are_probabilities", "negative"),
    (answering(lambda probs: probs * np.float32(0.9)), "answers_are_probabilities", "sum to 1 but for 1.0e-01"),
    (seeing(lambda maps: (maps / (1 + maps.max())).astype(np.float16)), "answered_alone", "alone: answers differ"),
    (MovesTorch, "seed_decides", "moved torch's global generator"),
    (MovesNumpy, "seed_decides", "moved NumPy's global generator"),
    (IgnoresTheSeed, "seed_decides", "deterministic = False, but a second seed gives the same"),
    (good_but(deterministic=True), "seed_decides", "deterministic = True, but a second seed gives other"),
    (ForgetsTheSeed, "seed_decides", "two fits with one seed"),
    (IgnoresTheRecipe, "use_of_the_recipe", "uses_recipe = True, but a second recipe gives the same"),
    (good_but(uses_recipe=False), "use_of_the_recipe", "uses_recipe = False, but a second recipe gives other"),
    (Pickles, "travel_as_safetensors", "to_bytes gives no safetensors file"),
    (ForgetsItsScale, "travel_as_safetensors", "answers change in a round trip"),
    (TakesAnyBytes, "other_bytes_are_refused", "must raise DatasetError"),
    (ChangesTheMaps, "changes_its_inputs", "maps_MDHW of the training maps was changed"),
    (ChangesTheLabels, "changes_its_inputs", "stages_M of the training maps was changed"),
    (LearnsWhenAsked, "changes_its_inputs", "predict_proba changed learned values"),
    (FearsDeadMaps, "extreme_maps", r"maps of 0\.0: an answer is NaN"),
    (seeing(lambda maps: maps[:, :3]), "channel_invariance", "channel_invariant = True, but a new order"),
    (good_but(channel_invariant=False), "channel_invariance", "channel_invariant = False, but a new order"),
    (OnlyOwnShape, "any_shape", "any_shape = True, but maps of"),
    (StatesNoShape, "any_shape", "any_shape = False, but maps of .* are taken"),
    (good_but(differentiable=False), "differentiability", "differentiable = False, so freeze and log_probs"),
    (Detached, "differentiability", "no gradient"),
    (OtherAnswers, "differentiability", r"exp\(log_probs\) and predict_proba"),
    (NeverFrozen, "differentiability", "a frozen evaluator's parameter gets a gradient"),
    (InfiniteGradient, "differentiability", r"not finite at maps of 0\.0"),
]


def run_suite(kind, part=""):
    suite = type("Suite", (EvaluatorConformance,), {"evaluator": kind})()
    names = [name for name in dir(suite) if name.startswith("test_") and part in name]
    assert len(names) == 1 or not part
    for name in names:
        getattr(suite, name)()


def test_the_suite_lets_a_good_one_pass():
    run_suite(Good)


@pytest.mark.parametrize(("kind", "part", "message"), FAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_the_suite_finds(kind, part, message):
    with pytest.raises(AssertionError, match=message):
        run_suite(kind, part)


def test_every_test_of_the_suite_finds_something():
    tests = [name for name in dir(EvaluatorConformance) if name.startswith("test_")]
    without = [name for name in tests if not any(part in name for _, part, _ in FAULTS)]
    assert without == []


# ---- the made-up maps


def test_tiny_maps_are_as_described():
    maps, again, other = tiny_map_set(0), tiny_map_set(0), tiny_map_set(1)
    np.testing.assert_array_equal(maps.maps_MDHW, again.maps_MDHW)
    assert (maps.maps_MDHW != other.maps_MDHW).any()
    assert maps.maps_MDHW.dtype == np.float16
    assert [len(np.unique(array)) for array in (maps.stages_M, maps.image_ids_M, maps.runs_M)] == [4, 24, 1]
    values = maps.maps_MDHW.astype(np.float64).reshape(4, 24, 6, -1)
    size, sparsity = np.sqrt((values**2).mean(axis=(1, 2, 3))), (values == 0).mean(axis=(1, 2, 3))
    assert (np.diff(size) > 0).all()
    assert (np.diff(sparsity) > 0).all()
    channels = values.transpose(0, 2, 1, 3).reshape(4, 6, -1)
    correlation = [np.abs(np.corrcoef(stage)[np.triu_indices(6, 1)]).mean() for stage in channels]
    assert (np.diff(correlation) > 0).all()
