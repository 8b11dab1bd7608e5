from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate, stats
from sklearn.base import BaseEstimator
from sklearn.model_selection import GridSearchCV, LeaveOneOut, cross_val_score

from fmcs_bench.results.statistics import best, choice_optimism


def accuracies(seed: int, num_seeds: int, num_candidates: int) -> np.ndarray:
    """A common effect of each seed, small true differences, and noise: what a sweep of RAF looks like."""
    rng = np.random.default_rng(seed)
    common = rng.normal(0.9, 0.02, (num_seeds, 1))
    return common + rng.normal(0, 0.004, num_candidates) + rng.normal(0, 0.006, (num_seeds, num_candidates))


def slow(criterion: np.ndarray, outcome: np.ndarray) -> tuple[float, float]:
    """Apparent and nested mean, one seed at a time in plain Python."""

    def pick(seeds: list[int]) -> int:
        means = [math.fsum(criterion[s][c] for s in seeds) / len(seeds) for c in range(len(criterion[0]))]
        return max(range(len(means)), key=lambda c: (round(means[c], 12), -c))

    every = list(range(len(criterion)))
    apparent = [outcome[s][pick(every)] for s in every]
    nested = [outcome[s][pick([other for other in every if other != s])] for s in every]
    return math.fsum(apparent) / len(every), math.fsum(nested) / len(every)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("num_seeds", "num_candidates"), [(2, 2), (5, 9), (7, 3)])
def test_it_agrees_with_a_slow_direct_computation(seed: int, num_seeds: int, num_candidates: int) -> None:
    criterion = accuracies(seed, num_seeds, num_candidates)
    outcome = criterion + np.random.default_rng(seed + 100).normal(0, 0.005, criterion.shape)
    for other in (criterion, outcome):
        found = choice_optimism(criterion, other)
        assert (found.apparent, found.nested) == pytest.approx(slow(criterion, other), abs=1e-12)
        assert found.points == found.apparent - found.nested
    assert choice_optimism(criterion) == choice_optimism(criterion, criterion)


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

    found = choice_optimism(criterion_SC)
    outer = search(5).fit(criterion_SC)
    assert (outer.best_params_["column"], outer.best_score_) == (found.picked, pytest.approx(found.apparent))
    nested = cross_val_score(search(4), criterion_SC, cv=LeaveOneOut(), error_score="raise")
    assert nested.mean() == pytest.approx(found.nested)


def test_of_equally_good_candidates_the_expectation_is_the_excess_of_the_best_mean() -> None:
    num_seeds, num_candidates, spread = 5, 9, 0.01
    rng = np.random.default_rng(0)
    found = np.array(
        [choice_optimism(0.9 + rng.normal(0, spread, (num_seeds, num_candidates))).points for _ in range(4000)]
    )

    def density(z: float) -> float:
        """Of the largest of C standard normals, times z."""
        return float(z * num_candidates * stats.norm.pdf(z) * stats.norm.cdf(z) ** (num_candidates - 1))

    excess = integrate.quad(density, -8, 8)[0] * spread / math.sqrt(num_seeds)
    assert found.mean() == pytest.approx(excess, abs=4 * found.std() / math.sqrt(len(found)))
    assert 4 * found.std() / math.sqrt(len(found)) < 0.15 * excess  # the test can tell


def test_it_is_never_negative_where_the_criterion_is_reported() -> None:
    rng = np.random.default_rng(1)
    changed = 0
    for _ in range(300):
        found = choice_optimism(rng.normal(0, 1, (rng.integers(2, 7), rng.integers(2, 11))))
        assert found.points >= -1e-12
        changed += len(set(found.picked_without)) > 1
    assert changed > 100


def test_a_candidate_that_always_wins_costs_nothing() -> None:
    criterion = accuracies(0, 5, 4)
    criterion[:, 2] += 1
    assert choice_optimism(criterion).points == pytest.approx(0, abs=1e-12)


def test_of_equals_the_first_is_picked_however_they_were_added_up() -> None:
    assert np.mean([0.1, 0.2, 0.3]) != np.mean([0.3, 0.2, 0.1])
    assert best([np.mean([0.3, 0.2, 0.1]), np.mean([0.1, 0.2, 0.3])]) == 0
    assert best([0.5, 0.5 + 1e-6]) == 1


@pytest.mark.parametrize(
    ("criterion", "outcome"),
    [([1.0, 2.0], None), ([[1.0, 2.0]], None), ([[1.0], [2.0]], None), ([[1.0, math.nan], [1.0, 2.0]], None)],
)
def test_what_is_no_table_of_seeds_and_candidates_is_refused(criterion: object, outcome: object) -> None:
    with pytest.raises(ValueError, match="2 or more seeds"):
        choice_optimism(criterion, outcome)  # type: ignore[arg-type]


def test_criterion_and_outcome_must_be_of_the_same_seeds_and_candidates() -> None:
    with pytest.raises(ValueError, match=r"\(2, 2\) and \(3, 2\)"):
        choice_optimism(np.ones((2, 2)), np.ones((3, 2)))
