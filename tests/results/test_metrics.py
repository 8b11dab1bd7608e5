import itertools
import math

import numpy as np
import pytest
from scipy import stats
from sklearn.calibration import calibration_curve
from sklearn.metrics import confusion_matrix

from fmcs_bench.core.errors import ProtocolError
from fmcs_bench.results import metrics
from fmcs_bench.results.metrics import check_probabilities, rank_correlation, stage_metrics

NUM_STAGES, NUM_IMAGES = 5, 40
TRUE = np.repeat(np.arange(4), 5)


def random_answers(seed=0, *, num_stages=NUM_STAGES, num_images=NUM_IMAGES, skill=1.5):
    """Answers that are better than chance, with ties; stage by stage."""
    rng = np.random.default_rng(seed)
    stages_M = np.repeat(np.arange(num_stages), num_images)
    groups_M = np.tile(rng.permutation(1000)[:num_images], num_stages)
    logits_MK = rng.integers(-2, 3, (len(stages_M), num_stages)).astype(float)
    logits_MK[np.arange(len(stages_M)), stages_M] += skill
    probs_MK = np.exp(logits_MK) / np.exp(logits_MK).sum(axis=1, keepdims=True)
    return probs_MK, stages_M, groups_M


def kappa_by_formula(true, predicted, num_stages):
    found = np.zeros((num_stages, num_stages))
    np.add.at(found, (true, predicted), 1)
    weights = np.subtract.outer(np.arange(num_stages), np.arange(num_stages)) ** 2
    by_chance = np.outer(found.sum(axis=1), found.sum(axis=0)) / len(true)
    return 1 - (weights * found).sum() / (weights * by_chance).sum()


def predicted_by_loop(row):
    tied = [stage for stage, p in enumerate(row) if p == max(row)]
    return tied[(len(tied) - 1) // 2]


@pytest.mark.parametrize("num_stages", [2, 5, 9])
def test_all_metrics_equal_their_definitions(num_stages):
    probs, stages, groups = random_answers(num_stages, num_stages=num_stages)
    found = stage_metrics(probs, stages, groups)
    predicted = [predicted_by_loop(row) for row in probs.tolist()]
    off = [abs(p - s) for p, s in zip(predicted, stages.tolist(), strict=True)]
    num = len(off)
    assert found.num_maps == num
    assert found.accuracy == pytest.approx(sum(o == 0 for o in off) / num)
    assert found.within_one == pytest.approx(sum(o <= 1 for o in off) / num)
    assert found.mae == pytest.approx(sum(off) / num)
    assert found.kappa == pytest.approx(kappa_by_formula(stages.tolist(), predicted, num_stages))
    assert found.log_loss == pytest.approx(-sum(math.log(probs[m, stages[m]]) for m in range(num)) / num)
    assert found.ece == metrics.calibration_error(probs, stages)

    scores = [sum(k * p for k, p in enumerate(row, start=1)) for row in probs.tolist()]
    taus, falls = [], []
    for group in np.unique(groups):
        own = {stages[m]: round(scores[m], 9) for m in np.flatnonzero(groups == group)}
        in_order = [own[k] for k in range(num_stages)]
        taus.append(np.nan_to_num(stats.kendalltau(range(num_stages), in_order).statistic))
        falls += [later < earlier for earlier, later in itertools.pairwise(in_order)]
    assert found.tau_b == pytest.approx(np.mean(taus), abs=1e-6)
    assert found.violations == pytest.approx(np.mean(falls), abs=1e-6)


@pytest.mark.parametrize(
    ("probs", "expected"),
    [
        (np.eye(4)[TRUE], {"accuracy": 1, "mae": 0, "kappa": 1, "tau_b": 1, "violations": 0, "ece": 0}),
        (np.eye(4)[3 - TRUE], {"accuracy": 0, "mae": 2, "tau_b": -1, "violations": 1, "ece": 1}),
        (np.tile([0.1, 0.2, 0.6, 0.1], (20, 1)),
         {"accuracy": 0.25, "within_one": 0.75, "mae": 1, "kappa": 0, "tau_b": 0, "violations": 0, "ece": 0.35}),
    ],
)  # fmt: skip
def test_an_evaluator_that_is_always_right_or_wrong_or_answers_the_same(probs, expected):
    found = stage_metrics(probs, TRUE, np.tile(np.arange(5), 4)).to_json()
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["log_loss"] < 1000  # also where it is sure and wrong


def test_the_order_of_the_maps_changes_nothing():
    probs, stages, groups = random_answers()
    expected = stage_metrics(probs, stages, groups).to_json()
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(stages))
        assert stage_metrics(probs[order], stages[order], groups[order]).to_json() == pytest.approx(expected)


def test_rounding_makes_no_order_of_equal_answers():
    stages, groups = np.repeat(np.arange(4), 50), np.tile(np.arange(50), 4)
    probs = np.full((200, 4), 0.25) + np.random.default_rng(0).normal(0, 1e-8, (200, 4))
    found = stage_metrics(probs, stages, groups)
    assert (found.tau_b, found.violations) == (0, 0)


def test_confidence_on_the_edge_of_a_bin_belongs_below():
    probs = np.array([[0.2, 0.8], [0.19, 0.81]])
    stages = np.array([1, 0])
    assert metrics.calibration_error(probs, stages, num_bins=5) == pytest.approx((0.2 + 0.81) / 2)
    assert metrics.calibration_error(probs, stages, num_bins=1) == pytest.approx(abs(1.61 / 2 - 0.5))


def test_rank_correlation_equals_pearson_of_mean_ranks():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 8, 50).astype(float), rng.integers(0, 8, 50).astype(float)
    assert rank_correlation(a, b) == pytest.approx(np.corrcoef(stats.rankdata(a), stats.rankdata(b))[0, 1])
    assert rank_correlation(a, np.ones(50)) is None


GOOD = np.array([[0.25, 0.75], [1.0, 0.0], [0.5, 0.5]], dtype=np.float32)


@pytest.mark.parametrize("probs", [GOOD, GOOD.astype(np.float64), GOOD + np.float32(4e-4), GOOD.astype(np.float16)])
def test_answers_that_keep_the_contract_are_passed_on(probs):
    assert check_probabilities(probs, 3, 2, evaluator="e", split="s") is probs


@pytest.mark.parametrize(
    ("probs", "message"),
    [
        (GOOD[:2], r"\(2, 2\)"),
        (GOOD.tolist(), "list"),
        (GOOD.astype(object), "object"),
        (np.where(GOOD == 1, np.nan, GOOD), "NaN"),
        (np.where(GOOD == 1, np.inf, GOOD), r"\[0, 1\]"),
        (np.where(GOOD == 0, -1e-6, GOOD), r"\[0, 1\]"),
        (np.where(GOOD == 1, 1.1, GOOD), r"\[0, 1\]"),
        (np.where(GOOD == 0.25, 0.26, GOOD), r"off by 0\.01"),
    ],
)
def test_answers_that_break_the_contract_are_refused_by_name(probs, message):
    with pytest.raises(ProtocolError, match=r"^evaluator mine on test run: ") as caught:
        check_probabilities(probs, 3, 2, evaluator="mine", split="test run")
    caught.match(message)


@pytest.mark.parametrize(("num_stages", "guess"), [(2, 0), (3, 1), (4, 1), (7, 3)])
def test_an_evaluator_that_knows_nothing_predicts_the_middle(num_stages, guess):
    stages_M = np.arange(num_stages)
    probs_MK = np.full((num_stages, num_stages), 1 / num_stages, np.float32)
    assert metrics.predicted_stages(probs_MK).tolist() == [guess] * num_stages
    found = metrics.stage_metrics(probs_MK, stages_M, np.zeros(num_stages, int))
    assert found.mae == min(np.abs(stages_M - constant).mean() for constant in range(num_stages))


def test_confusion_and_calibration_are_those_of_scikit_learn():
    probs_MK = np.random.default_rng(0).dirichlet(np.full(5, 0.5), 600).astype(np.float32)
    stages_M = np.tile(np.arange(5), 120)
    expected = confusion_matrix(stages_M, probs_MK.argmax(axis=1), normalize="true")
    np.testing.assert_allclose(metrics.confusion(probs_MK, stages_M), expected)
    right_M = probs_MK.argmax(axis=1) == stages_M
    accuracy, confidence = calibration_curve(right_M, probs_MK.max(axis=1), n_bins=metrics.NUM_BINS)
    num_B, _ = np.histogram(probs_MK.max(axis=1), bins=metrics.NUM_BINS, range=(0, 1))
    error = (num_B[num_B > 0] / num_B.sum() * np.abs(accuracy - confidence)).sum()
    assert error == pytest.approx(metrics.calibration_error(probs_MK, stages_M))
