from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import integrate, stats
from sklearn.base import BaseEstimator
from sklearn.model_selection import GridSearchCV, LeaveOneOut, cross_val_score

from fmcs_bench.results import statistics


def numbers(seed: int, num: int, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.3, scale, num)


@pytest.mark.parametrize("num", [2, 3, 5, 20])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_estimate_is_the_mean_with_students_t_interval(num: int, confidence: float) -> None:
    values = numbers(num, num)
    found = statistics.estimate(values, confidence=confidence)
    low, high = stats.t.interval(confidence, num - 1, loc=values.mean(), scale=stats.sem(values))
    assert found.mean == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((low, high))
    assert (found.std, found.num) == (pytest.approx(np.std(values, ddof=1)), num)


def test_one_value_has_a_mean_and_no_interval_and_one_pair_no_p_value() -> None:
    assert statistics.estimate([0.5]) == (0.5, None, None, None, 1)
    assert str(statistics.estimate([0.5])) == "0.500"
    assert statistics.paired_difference([1.0], [0.25]) == ((0.75, None, None, None, 1), None, None)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf], [[1.0]], [0.5, 1.01]])
def test_values_that_are_no_list_of_finite_numbers_or_cannot_be_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"finite numbers|\[0, 1\]"):
        statistics.estimate(values, statistics.SHARE)


@pytest.mark.parametrize("num", [2, 5, 9])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_paired_difference_has_the_interval_of_the_paired_t_test(num: int, confidence: float) -> None:
    values, baseline = numbers(1, num), numbers(2, num)
    found = statistics.paired_difference(values, baseline, confidence=confidence)
    expected = stats.ttest_rel(values, baseline).confidence_interval(confidence)
    assert (found.estimate.low, found.estimate.high) == pytest.approx((expected.low, expected.high))
    assert found.p_value == statistics.sign_flip_p_value(values - baseline)


def test_pairs_must_be_of_equal_number() -> None:
    with pytest.raises(ValueError, match="3 and 2"):
        statistics.paired_difference([1, 2, 3], [1, 2])


@pytest.mark.parametrize(
    "difference",
    [*(numbers(seed, num) for seed, num in enumerate([2, 3, 5, 8, 11])), [0.1, 0.2, -0.3], [2, 2, 2], [0, 0, 0]],
)
def test_sign_flip_agrees_with_scipys_exact_permutation_test(difference: list[float]) -> None:
    expected = stats.permutation_test(
        (np.asarray(difference, float),), np.mean, permutation_type="samples", n_resamples=np.inf, vectorized=True
    )
    assert statistics.sign_flip_p_value(difference) == pytest.approx(expected.pvalue, abs=1e-12)


@pytest.mark.parametrize("num", [2, 5, 9])
def test_the_smallest_p_is_that_of_differences_of_one_sign(num: int) -> None:
    found = statistics.paired_difference(np.arange(1, num + 1), np.zeros(num))
    assert found.smallest_p == statistics.smallest_p_value(num) == found.p_value
    assert statistics.sign_flip_p_value(numbers(num, num)) >= found.smallest_p


def test_sign_flip_enumerates_many_seeds_and_refuses_too_many() -> None:
    assert statistics.sign_flip_p_value(np.ones(20)) == 2 / 2**20
    many = numbers(0, 36)
    assert statistics.sign_flip_p_value(many) == pytest.approx(stats.ttest_1samp(many, 0).pvalue, abs=0.01)
    with pytest.raises(ValueError, match="41 pairs"):
        statistics.sign_flip_p_value(np.ones(41))


def test_holm_by_hand() -> None:
    # Sorted: 0.01 * 4, 0.02 * 3, 0.03 * 2 (raised to the one before), 0.2 * 1.
    assert statistics.holm([0.2, 0.03, 0.01, 0.02]) == pytest.approx([0.2, 0.06, 0.04, 0.06])
    assert statistics.holm([0.6, 0.7]) == [1, 1]
    assert statistics.holm([]) == []


@pytest.mark.parametrize("smaller_is_better", [True, False])
def test_ranks_go_from_those_that_welchs_test_finds_better_to_those_it_finds_worse(smaller_is_better: bool) -> None:
    rng = np.random.default_rng(3)
    values = {f"m{i}": rng.normal(i * 0.4, 0.2 + 0.3 * rng.random(), rng.integers(3, 7)) for i in range(8)}
    ranks = statistics.rank_ranges(values, smaller_is_better=smaller_is_better)

    def beaten(own: np.ndarray, side: str) -> int:
        tests = (stats.ttest_ind(other, own, equal_var=False, alternative=side) for other in values.values())
        return sum(test.pvalue < 0.025 for test in tests)

    better, worse = ("less", "greater") if smaller_is_better else ("greater", "less")
    assert ranks == {name: (1 + beaten(own, better), 8 - beaten(own, worse)) for name, own in values.items()}
    assert 2 < len(set(ranks.values())) < 8  # the example has ties and differences


def test_without_spread_ranks_follow_the_means_and_one_seed_tells_nothing_apart() -> None:
    values = {"a": [1, 1], "b": [2, 2], "c": [1, 1]}
    assert list(map(str, statistics.rank_ranges(values, smaller_is_better=False).values())) == ["2-3", "1", "2-3"]
    one = statistics.rank_ranges({"a": [1.0], "b": [2.0, 2.0], "c": [3.0, 3.0]}, smaller_is_better=True)
    assert one == {"a": (1, 3), "b": (1, 2), "c": (2, 3)}


@pytest.mark.parametrize(
    ("within", "draw"),
    [
        (statistics.SHARE, lambda rng, size: rng.beta(30, 1.5, size)),
        (statistics.SHARE, lambda rng, size: rng.beta(2, 2, size)),
        (statistics.ERROR, lambda rng, size: rng.gamma(1.5, 0.2, size)),
        (statistics.CORRELATION, lambda rng, size: np.tanh(rng.normal(1, 0.5, size))),
    ],
)
def test_an_interval_that_is_cut_off_holds_the_mean_as_often_as_one_that_is_not(within: Any, draw: Any) -> None:
    rng = np.random.default_rng(0)
    values, truth = draw(rng, (1500, 5)), draw(rng, 400_000).mean()
    cut, whole = ([statistics.estimate(each, limits) for each in values] for limits in (within, statistics.ANY))
    held = [item.low <= truth <= item.high for item in cut]
    assert held == [item.low <= truth <= item.high for item in whole]
    assert 0.85 < np.mean(held) < 0.98
    assert all(within[0] <= item.low <= item.mean <= item.high <= within[1] for item in cut)
    assert any(item.low < within[0] or item.high > within[1] for item in whole)


@pytest.mark.parametrize("num", [2, 3, 5, 12])
@pytest.mark.parametrize("confidence", [0.95, 0.99])
def test_detectable_effect_has_a_power_of_four_fifths(num: int, confidence: float) -> None:
    values = numbers(num, num, scale=0.02)
    detectable = statistics.paired_difference(values, np.zeros(num), confidence=confidence).detectable
    critical = stats.t.ppf((1 + confidence) / 2, num - 1)

    def power(effect: float) -> float:
        """Mean over the possible spreads (a scaled chi) of the chance that |t| is above the critical value."""
        shift = effect * math.sqrt(num) / values.std(ddof=1)

        def at(spread: float) -> float:
            found = stats.norm.sf(critical * spread - shift) + stats.norm.cdf(-critical * spread - shift)
            return float(found * stats.chi.pdf(spread * math.sqrt(num - 1), num - 1) * math.sqrt(num - 1))

        return float(integrate.quad(at, 0, 8, points=[0.1, 0.5, 1, 2], limit=200)[0])

    assert detectable is not None
    assert power(detectable) == pytest.approx(0.8, abs=1e-4)


def accuracies(seed: int, num_seeds: int, num_candidates: int) -> np.ndarray:
    """A common effect of each seed, small true differences, and noise: what a sweep of RAF looks like."""
    rng = np.random.default_rng(seed)
    common = rng.normal(0.9, 0.02, (num_seeds, 1))
    return common + rng.normal(0, 0.004, num_candidates) + rng.normal(0, 0.006, (num_seeds, num_candidates))


class Candidate(BaseEstimator):
    """An "estimator" whose score on some seeds is the mean of one column."""

    def __init__(self, column: int = 0) -> None:
        self.column = column

    def fit(self, _rows: np.ndarray, _y: object = None) -> Candidate:
        self.fitted_ = True
        return self

    def score(self, rows: np.ndarray, _y: object = None) -> float:
        return float(rows[:, self.column].mean())


@pytest.mark.parametrize("seed", range(3))
def test_it_agrees_with_scikit_learns_nested_cross_validation(seed: int) -> None:
    criterion_SC = accuracies(seed, 5, 6)

    def search(num: int) -> GridSearchCV:
        every = np.arange(num)
        return GridSearchCV(Candidate(), {"column": list(range(6))}, cv=[(every, every)])

    found = statistics.choice_optimism(criterion_SC)
    outer = search(5).fit(criterion_SC)
    assert (outer.best_params_["column"], outer.best_score_) == (found.picked, pytest.approx(found.apparent))
    nested = cross_val_score(search(4), criterion_SC, cv=LeaveOneOut(), error_score="raise")
    assert nested.mean() == pytest.approx(found.nested)


def test_of_equally_good_candidates_the_expectation_is_the_excess_of_the_best_mean() -> None:
    num_seeds, num_candidates, spread = 5, 9, 0.01
    rng = np.random.default_rng(0)
    tables = rng.normal(0.9, spread, (4000, num_seeds, num_candidates))
    found = np.array([statistics.choice_optimism(table).points for table in tables])

    def density(z: float) -> float:
        """Of the largest of C standard normals, times z."""
        return float(z * num_candidates * stats.norm.pdf(z) * stats.norm.cdf(z) ** (num_candidates - 1))

    excess = integrate.quad(density, -8, 8)[0] * spread / math.sqrt(num_seeds)
    assert found.mean() == pytest.approx(excess, abs=4 * found.std() / math.sqrt(len(found)))
    assert 4 * found.std() / math.sqrt(len(found)) < 0.15 * excess  # the test can tell


def test_of_equals_the_first_is_picked_however_they_were_added_up() -> None:
    assert np.mean([0.1, 0.2, 0.3]) != np.mean([0.3, 0.2, 0.1])
    assert statistics.best([np.mean([0.3, 0.2, 0.1]), np.mean([0.1, 0.2, 0.3])]) == 0
    assert statistics.best([0.5, 0.5 + 1e-6]) == 1


@pytest.mark.parametrize(
    ("criterion", "outcome"),
    [([1.0, 2.0], None), ([[1.0, 2.0]], None), ([[1.0], [2.0]], None), ([[1.0, math.nan], [1.0, 2.0]], None)],
)
def test_what_is_no_table_of_seeds_and_candidates_is_refused(criterion: object, outcome: object) -> None:
    with pytest.raises(ValueError, match="2 or more seeds"):
        statistics.choice_optimism(criterion, outcome)  # type: ignore[arg-type]
