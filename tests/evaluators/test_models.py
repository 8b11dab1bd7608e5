"""The mathematics inside single evaluators, against NumPy, SciPy and scikit-learn."""

import numpy as np
import pytest
import scipy.stats
import torch
from safetensors.numpy import load, save
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

from fmcs_bench.core.errors import ConfigError, DatasetError, ProtocolError
from fmcs_bench.evaluator_track.protocol import permute_stages, with_permuted_labels
from fmcs_bench.evaluators.features import NUM_STATISTICS, moments, statistics
from fmcs_bench.evaluators.models import boosting, logistic
from fmcs_bench.evaluators.models.invariants import NUM_GRAM, gram_spectra
from fmcs_bench.evaluators.models.spectrum import log_spectra
from fmcs_bench.evaluators.registry import create_evaluator
from fmcs_bench.evaluators.sklearn import log_loss, softmax
from fmcs_bench.results.trials import EvaluatorTrial
from fmcs_bench.store.selection import MapSet
from fmcs_bench.testing.conformance import tiny_map_set
from fmcs_bench.training.recipes import Recipe

SIZES = [(1, 1, 1), (2, 1, 3), (4, 5, 3), (24, 3, 3)]


def random_maps(size, seed=0):
    """Positive values, of which none are equal."""
    return np.random.default_rng(seed).exponential(size=(5, *size)) * 3


def evaluator(name, num_stages=4):
    return create_evaluator(EvaluatorTrial(evaluator=name, seed=0, epochs=2), (6, 5, 4), num_stages)


# ---- statistics


@pytest.mark.parametrize("size", SIZES[1:])
def test_moments_equal_scipy(size):
    maps = random_maps(size)
    flat = maps.reshape(5, -1)
    rms = np.sqrt((flat**2).mean(axis=1))
    flat = flat / rms[:, None]
    skewness, kurtosis = scipy.stats.skew(flat, axis=1), scipy.stats.kurtosis(flat, axis=1)
    expected = [np.log(rms), flat.mean(axis=1), flat.std(axis=1), np.arcsinh(skewness), np.arcsinh(kurtosis)]
    found = moments(torch.from_numpy(maps)).numpy()
    np.testing.assert_allclose(found[:, :5], np.stack(expected, axis=1), atol=1e-4)
    shifted = maps - 1
    np.testing.assert_allclose(moments(torch.from_numpy(shifted))[:, 5], (shifted <= 0).reshape(5, -1).mean(axis=1))


@pytest.mark.parametrize("size", SIZES)
def test_statistics_equal_numpy(size):
    maps = random_maps(size) - 1
    rms = np.sqrt((maps**2).mean(axis=(1, 2, 3), keepdims=True) + 1e-6)
    channels = (maps / rms).reshape(5, size[0], -1)
    expected = [
        np.quantile(values, np.linspace(0, 1, 5), axis=1).T
        for values in (channels.mean(2), np.sqrt(channels.var(2) + 1e-8), channels.max(2), (channels <= 0).mean(2))
    ]
    found = statistics(torch.from_numpy(maps)).numpy()
    assert found.shape == (5, NUM_STATISTICS)
    np.testing.assert_allclose(found[:, 6:], np.concatenate(expected, axis=1), atol=1e-9)


@pytest.mark.parametrize("function", [moments, statistics, log_spectra, gram_spectra])
@pytest.mark.parametrize("value", [0.0, 1e-4, 1.0, 65504.0])
def test_gradients_at_constant_maps_are_finite(function, value):
    maps = torch.full((2, 5, 4, 3), value, requires_grad=True)
    function(maps).sum().backward()
    assert maps.grad.isfinite().all()


# ---- spectrum


@pytest.mark.parametrize("size", SIZES)
def test_spectra_are_the_eigenvalues_of_both_covariances(size):
    maps = random_maps(size)
    found = log_spectra(torch.from_numpy(maps).float()).double().numpy().reshape(5, 2, 16)
    for i, matrix in enumerate((maps / np.sqrt((maps**2).mean(axis=(1, 2, 3), keepdims=True))).reshape(5, size[0], -1)):
        num_values = min(matrix.shape)
        for j, centred in enumerate((matrix - matrix.mean(1, keepdims=True), matrix - matrix.mean(0, keepdims=True))):
            singular = np.linalg.svd(centred, compute_uv=False) ** 2
            shares = singular / singular.sum() if singular.sum() > 1e-9 else np.zeros(num_values)
            expected = np.quantile(np.log(shares + 1e-6), np.linspace(0, 1, 16))
            np.testing.assert_allclose(found[i, j], expected, atol=2e-2 if num_values > 1 else 1e-4)


@pytest.mark.parametrize("function", [log_spectra, gram_spectra])
@pytest.mark.parametrize("dead", [False, True])
def test_gradients_of_equal_eigenvalues_and_dead_channels_are_finite(function, dead):
    orthogonal = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(0)))[0]
    maps = torch.cat([torch.eye(16), orthogonal]).view(2, 16, 4, 4)
    maps[:, 3] *= 1 - dead
    maps.requires_grad_()
    function(maps).square().sum().backward()
    assert maps.grad.isfinite().all()
    assert maps.grad.abs().max() > 0


def seven_matrices(map_DHW):
    """The docstring of ``gram_spectra``, in NumPy."""
    whole = map_DHW.reshape(len(map_DHW), -1)
    whole = whole / np.sqrt((whole**2).mean() + 1e-6)
    no_channel_mean = whole - whole.mean(axis=1, keepdims=True)
    no_position_mean = whole - whole.mean(axis=0, keepdims=True)
    neither = no_channel_mean - no_channel_mean.mean(axis=0, keepdims=True)
    standard = no_channel_mean / np.sqrt(no_channel_mean.var(axis=1, keepdims=True) + 1e-4)
    cosine = whole / np.sqrt((whole**2).sum(axis=0, keepdims=True) + 1e-4)
    return whole, no_channel_mean, no_position_mean, neither, standard, cosine, (whole > 0).astype(float)


@pytest.mark.parametrize("size", SIZES)
def test_spectra_are_the_squared_singular_values_of_the_seven_matrices(size):
    maps = np.random.default_rng(0).exponential(size=(3, *size)) - 0.5
    found = gram_spectra(torch.from_numpy(maps).float()).double().numpy()
    assert found.shape == (3, NUM_GRAM)
    np.testing.assert_allclose(found[:, -1], 0.5 * np.log((maps**2).mean(axis=(1, 2, 3)) + 1e-6), atol=1e-5)
    for one, map_DHW in zip(found[:, :-1].reshape(3, 7, 16), maps, strict=True):
        for spectrum, matrix in zip(one, seven_matrices(map_DHW), strict=True):
            squares = np.linalg.svd(matrix, compute_uv=False) ** 2
            shares = squares / (squares.sum() + 1e-6)
            expected = np.quantile(np.log(shares + 1e-6), np.linspace(0, 1, 16))
            # Shares below 1e-6 are rounding, and the logarithm makes much of it.
            np.testing.assert_allclose(np.exp(spectrum), np.exp(expected), atol=2e-6, rtol=2e-2)


# ---- permuted labels


def test_permuted_labels_keep_one_map_of_every_stage():
    maps = MapSet.concatenate([tiny_map_set(run, num_images=50) for run in (0, 1)])
    new = permute_stages(maps, 4, np.random.default_rng(0))
    for run in (0, 1):
        for image in range(50):
            rows = (maps.runs_M == run) & (maps.image_ids_M == image)
            assert sorted(new[rows]) == [0, 1, 2, 3]
    assert 0.15 < (new == maps.stages_M).mean() < 0.35
    order = np.random.default_rng(1).permutation(len(maps))
    shuffled = MapSet(*(a[order] for a in (maps.maps_MDHW, maps.stages_M, maps.image_ids_M, maps.runs_M)))
    np.testing.assert_array_equal(permute_stages(shuffled, 4, np.random.default_rng(0)), new[order])


def test_permuted_labels_are_hard_to_learn():
    train, validation = (tiny_map_set(run, num_images=80) for run in (0, 1))
    permuted = with_permuted_labels(train, 4, 0, "train")
    assert permuted.maps_MDHW is train.maps_MDHW
    assert np.array_equal(permuted.stages_M, with_permuted_labels(train, 4, 0, "train").stages_M)
    for other in (with_permuted_labels(train, 4, 1, "train"), with_permuted_labels(train, 4, 0, "validation")):
        assert not np.array_equal(permuted.stages_M, other.stages_M)
    config = EvaluatorTrial(evaluator="conv", seed=0, epochs=12, patience=12, recipe=Recipe(lr=0.01, batch_size=32))
    losses = [create_evaluator(config, (6, 5, 4), 4).fit(maps, validation)[-1].train_loss for maps in (train, permuted)]
    assert losses[1] > 1.1 > 2 * losses[0]


# ---- scikit-learn's models, asked without scikit-learn


@pytest.mark.parametrize("num_stages", [2, 4])
def test_boosting_answers_as_scikit_learn_does(num_stages, monkeypatch):
    models = []
    original = HistGradientBoostingClassifier.fit
    monkeypatch.setattr(
        HistGradientBoostingClassifier, "fit", lambda self, *data: models.append(self) or original(self, *data)
    )
    train, validation, test = (tiny_map_set(run, num_images=60, num_stages=num_stages) for run in range(3))
    fitted = evaluator("boosting", num_stages)
    curve = fitted.fit(train, validation)
    assert len(curve) == 100
    num_rounds = len(fitted.arrays["root_RX"])
    assert 1 <= num_rounds <= 100
    maps_MF = fitted.statistics(test.maps_MDHW)
    stages = list(models[0].staged_predict_proba(maps_MF))
    np.testing.assert_allclose(softmax(fitted.scores(maps_MF)), stages[num_rounds - 1], atol=1e-12)
    assert len({float(probs[0, 0]) for probs in stages}) > 50  # the number of rounds matters
    on_validation = list(models[0].staged_predict_proba(fitted.statistics(validation.maps_MDHW)))
    for epoch in (curve[19], curve[-1]):  # of the first rounds, some scores are equal but for rounding
        mae = np.abs(on_validation[epoch.epoch - 1].argmax(axis=1) - validation.stages_M).mean()
        assert epoch.validation == pytest.approx(mae)


def test_trees_that_scikit_learn_keeps_in_another_way_are_noticed(monkeypatch):
    read = boosting._arrays
    monkeypatch.setattr(boosting, "_arrays", lambda model: read(model) | {"threshold_N": -read(model)["threshold_N"]})
    with pytest.raises(ProtocolError, match=r"scikit-learn .* differ; install"):
        evaluator("boosting").fit(tiny_map_set(0), tiny_map_set(1))
    original = HistGradientBoostingClassifier.fit

    def fit_without_trees(self, *data):
        del original(self, *data)._predictors
        return self

    monkeypatch.setattr(boosting, "_arrays", read)
    monkeypatch.setattr(HistGradientBoostingClassifier, "fit", fit_without_trees)
    with pytest.raises(ProtocolError, match=r"finds no trees in scikit-learn .*_predictors"):
        evaluator("boosting").fit(tiny_map_set(0), tiny_map_set(1))


@pytest.mark.parametrize("num_stages", [2, 4])
def test_logistic_answers_as_scikit_learn_does(num_stages, monkeypatch):
    models = []
    original = LogisticRegression.fit
    monkeypatch.setattr(LogisticRegression, "fit", lambda self, *data: models.append(self) or original(self, *data))
    train, validation, test = (tiny_map_set(run, num_stages=num_stages) for run in range(3))
    fitted = evaluator("logistic", num_stages)
    curve = fitted.fit(train, validation)
    assert [model.C for model in models] == list(logistic.STRENGTHS)
    chosen = next(
        i for i, model in enumerate(models) if np.array_equal(model.coef_[-1], fitted.arrays["coefficient_FK"][:, -1])
    )
    assert curve[chosen].validation == min(epoch.validation for epoch in curve)
    standard = (fitted.statistics(test.maps_MDHW) - fitted.arrays["mean_F"]) / fitted.arrays["scale_F"]
    np.testing.assert_allclose(
        softmax(fitted.scores(fitted.statistics(test.maps_MDHW))), models[chosen].predict_proba(standard), atol=1e-12
    )


def test_log_loss_is_the_mean_of_minus_log_probability():
    scores = np.random.default_rng(0).normal(size=(20, 3)) * 500  # probabilities that are 0 in float64
    stages = np.random.default_rng(1).integers(0, 3, 20)
    expected = -torch.from_numpy(scores).log_softmax(dim=1)[torch.arange(20), torch.from_numpy(stages)].mean()
    assert log_loss(scores, stages) == pytest.approx(float(expected))


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a.pop("value_N"),
        lambda a: a.update(value_N=a["value_N"].astype(np.float32)),
        lambda a: a.update(value_N=a["value_N"][:-1]),
        lambda a: a.update(baseline_X=a["baseline_X"][:-1]),
        lambda a: a.update(root_RX=a["root_RX"][:, :-1]),
        lambda a: a.update(root_RX=a["root_RX"] + 10**6),
        lambda a: a.update(statistic_N=a["statistic_N"] + NUM_STATISTICS),
        lambda a: a.update(children_N2=a["children_N2"] - 1),
        lambda a: a.update(children_N2=np.zeros_like(a["children_N2"])),  # a walk without an end
        lambda a: a.update(children_N2=a["children_N2"][:, :1]),
    ],
)
def test_trees_that_cannot_be_walked_are_refused(change):
    fitted = evaluator("boosting")
    fitted.fit(tiny_map_set(0), tiny_map_set(1))
    before = fitted.to_bytes()
    arrays = load(before)
    change(arrays)
    with pytest.raises(DatasetError, match="no weights of the evaluator boosting for 4 stages"):
        fitted.from_bytes(save(arrays))
    assert fitted.to_bytes() == before


def test_coefficients_of_other_stages_are_refused():
    with pytest.raises(DatasetError, match="no weights of the evaluator logistic for 5 stages"):
        evaluator("logistic", 5).from_bytes(evaluator("logistic").to_bytes())
    with pytest.raises(DatasetError, match="no weights of the evaluator chance"):
        evaluator("chance").from_bytes(evaluator("logistic").to_bytes())


@pytest.mark.parametrize("name", ["chance", "logistic", "boosting"])
def test_what_has_no_network_has_no_head(name):
    config = EvaluatorTrial(evaluator=name, seed=0, head="corn")
    with pytest.raises(ConfigError, match=f"evaluator {name} .*no head 'corn'"):
        create_evaluator(config, (6, 5, 4), 4)


@pytest.mark.parametrize("name", ["logistic", "boosting"])
def test_of_equal_errors_the_better_probabilities_are_kept(name, monkeypatch):
    monkeypatch.setattr(f"fmcs_bench.evaluators.models.{name}.mean_absolute_error", lambda *_: 1.0)
    train, validation = tiny_map_set(0), tiny_map_set(1)
    losses = []
    original = log_loss

    def kept_log_loss(scores_MK, stages_M):
        losses.append(original(scores_MK, stages_M))
        return losses[-1]

    monkeypatch.setattr(f"fmcs_bench.evaluators.models.{name}.log_loss", kept_log_loss)
    fitted = evaluator(name)
    fitted.fit(train, validation)
    of_validation = losses[0::2]
    kept = original(fitted.scores(fitted.statistics(validation.maps_MDHW)), validation.stages_M)
    assert kept == pytest.approx(min(of_validation))
    assert kept < of_validation[0]
