"""Intervals, ranks, paired tests, and what picking the best of several gains on paper; see docs/statistics.md.

Values are one per seed (S). C candidates (values of RAF), M tests, P sums.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special, stats

Range = tuple[float, float]
ANY: Range = (-math.inf, math.inf)
SHARE: Range = (0.0, 1.0)
ERROR: Range = (0.0, math.inf)
CORRELATION: Range = (-1.0, 1.0)
"""What a quantity can be: the interval of its mean is cut off there."""
_MAX_PAIRS = 40
_SAME_DIGITS = 12
_ROUNDING = 1e-6


class Estimate(NamedTuple):
    """A mean with its interval; ``low`` and ``high`` are None where one value gives no interval."""

    mean: float
    low: float | None
    high: float | None
    std: float | None
    num: int

    def parts(self, spec: str = ".3f", scale: float = 1.0) -> tuple[str, str]:
        """Mean, and interval in brackets (empty where there is none), for a reader; ``scale`` changes the unit."""
        mean = f"{scale * self.mean:{spec}}"
        if self.low is None or self.high is None:
            return mean, ""
        return mean, f"[{scale * self.low:{spec}}, {scale * self.high:{spec}}]"

    def __str__(self) -> str:
        return " ".join(filter(None, self.parts()))


class Rank(NamedTuple):
    """The best and the worst rank that the intervals allow."""

    best: int
    worst: int

    def __str__(self) -> str:
        return str(self.best) if self.best == self.worst else f"{self.best}-{self.worst}"


class PairedDifference(NamedTuple):
    """Mean paired difference with interval, exact two-sided sign-flip p-value, smallest detectable effect."""

    estimate: Estimate
    p_value: float | None
    detectable: float | None

    @property
    def smallest_p(self) -> float:
        """The smallest p-value that so many pairs can give, whatever the effect."""
        return smallest_p_value(self.estimate.num)


def estimate(values: ArrayLike, within: Range = ANY, *, confidence: float = 0.95) -> Estimate:
    """Mean of ``values`` [seed] with Student's t interval, cut off where no mean can be.

    Args:
        values: one number per seed, finite, inside ``within``.
        within: the least and the greatest value that the quantity can have.
        confidence: in (0, 1).

    Raises:
        ValueError: no value, or one that is not finite or outside ``within``.
    """
    values_S = _checked(values)
    least, greatest = within
    if values_S.min() < least - _ROUNDING or values_S.max() > greatest + _ROUNDING:
        raise ValueError(f"values of this quantity lie in [{least:g}, {greatest:g}], not {values_S!r}")
    mean, num = float(np.clip(values_S.mean(), least, greatest)), len(values_S)
    if num == 1:
        return Estimate(mean, None, None, None, num)
    std = float(values_S.std(ddof=1))
    half = _critical_t(num - 1, confidence) * std / math.sqrt(num)
    return Estimate(mean, max(mean - half, least), min(mean + half, greatest), std, num)


def estimate_of_all(values: Sequence[float | None], within: Range = ANY) -> Estimate | None:
    """As ``estimate``; None where a seed has no value."""
    found = [value for value in values if value is not None]
    return estimate(found, within) if found and len(found) == len(values) else None


def paired_difference(
    values: ArrayLike, baseline: ArrayLike, within: Range = ANY, *, confidence: float = 0.95
) -> PairedDifference:
    """Difference of two methods at the same seeds.

    Args:
        values: of the method, one per seed.
        baseline: of what it is compared with, at the same seeds in the same order.
        within: what a difference can be, as for ``estimate``; of shares (-1, 1).
        confidence: of the interval, in (0, 1).

    Returns:
        Student's t interval of the differences; the p-value of all sign flips; ``detectable``: the true effect that a
        paired t-test at level 1 - confidence finds with a power of 0.8, given the spread seen.

    Raises:
        ValueError: different lengths, no value, or one that is not finite.
    """
    values_S, baseline_S = _checked(values), _checked(baseline)
    if len(values_S) != len(baseline_S):
        raise ValueError(f"paired values must be of equal number, not {len(values_S)} and {len(baseline_S)}")
    difference_S = values_S - baseline_S
    summary = estimate(difference_S, within, confidence=confidence)
    if summary.std is None:
        return PairedDifference(summary, None, None)
    detectable = _noncentrality(summary.num, confidence) * summary.std / math.sqrt(summary.num)
    return PairedDifference(summary, sign_flip_p_value(difference_S), detectable)


def sign_flip_p_value(difference: ArrayLike) -> float:
    """Exact two-sided p-value that paired differences [seed], at most 40, have mean 0, over all sign flips."""
    difference_S = _checked(difference)
    num = len(difference_S)
    if num > _MAX_PAIRS:
        raise ValueError(f"{num} pairs have too many sign flips to enumerate (at most {_MAX_PAIRS} are allowed)")
    # A sum of all flips is a sum of the left half's plus one of the right half's, so 2^(n/2) sums each are enough.
    left_P, right_P = _signed_sums(difference_S[: num // 2]), np.sort(_signed_sums(difference_S[num // 2 :]))
    tolerance = 1e-12 * np.abs(difference_S).sum()  # flips that are equal on paper differ by rounding
    least = abs(difference_S.sum()) - tolerance
    as_large = len(right_P) - np.searchsorted(right_P, least - left_P, side="left")
    as_small = np.searchsorted(right_P, -least - left_P, side="right")
    return min(1.0, float((as_large.sum() + as_small.sum()) / 2**num))


def smallest_p_value(num: int) -> float:
    """The smallest two-sided p-value that the sign-flip test of ``num`` pairs can give: 2 of the 2^num flips."""
    if num < 1:
        raise ValueError(f"{num} pairs; at least 1 is needed")
    return float(2.0 ** (1 - num))


def smallest_holm_p_value(smallest: Sequence[float]) -> float:
    """The smallest p-value that Holm's correction can leave, given the smallest that each test can give."""
    return min(holm(smallest))


def _signed_sums(values_S: np.ndarray) -> np.ndarray:
    sums_P = np.zeros(1)
    for value in values_S:
        sums_P = np.concatenate([sums_P + value, sums_P - value])
    return sums_P


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (Scand. J. Statist. 6, 1979), in the order given."""
    p_M = np.asarray(p_values, dtype=float)
    order_M = np.argsort(p_M)
    adjusted_M = np.maximum.accumulate(p_M[order_M] * np.arange(len(p_M), 0, -1)).clip(max=1)
    result_M = np.empty_like(p_M)
    result_M[order_M] = adjusted_M
    return [float(p) for p in result_M]


def rank_ranges(
    values: Mapping[str, ArrayLike], *, smaller_is_better: bool, confidence: float = 0.95
) -> dict[str, Rank]:
    """The range of ranks of each entry: 1 + the number that is better, to the number of all - those that are worse.

    Only pairs that Welch's interval tells apart count, without a correction for their number; one seed tells none.
    """
    sign = -1.0 if smaller_is_better else 1.0
    quality = {name: sign * _checked(numbers) for name, numbers in values.items()}
    return {
        name: Rank(
            1 + sum(_is_better(other, own, confidence) for other in quality.values()),
            len(quality) - sum(_is_better(own, other, confidence) for other in quality.values()),
        )
        for name, own in quality.items()
    }


def _is_better(a_S: np.ndarray, b_S: np.ndarray, confidence: float) -> bool:
    difference = a_S.mean() - b_S.mean()
    if min(len(a_S), len(b_S)) < 2:
        return False
    a, b = a_S.var(ddof=1) / len(a_S), b_S.var(ddof=1) / len(b_S)
    if a + b == 0:
        return bool(difference > 0)
    freedom = (a + b) ** 2 / (a**2 / (len(a_S) - 1) + b**2 / (len(b_S) - 1))
    return bool(difference > _critical_t(freedom, confidence) * np.sqrt(a + b))


def _critical_t(freedom: float, confidence: float) -> float:
    return float(special.stdtrit(freedom, (1 + confidence) / 2))


@cache
def _noncentrality(num: int, confidence: float, power: float = 0.8) -> float:
    """True effect, in standard errors, that a paired t-test of ``num`` pairs finds with this power."""
    critical = _critical_t(num - 1, confidence)
    # The other tail is left out: it adds less than 1e-5 to the power here, and SciPy answers NaN that far out.
    # With one degree of freedom the root is at 1.28 times the critical value, with many at the critical value + 0.84.
    return float(optimize.brentq(lambda x: stats.nct.sf(critical, num - 1, x) - power, 0.0, 2 * critical + 1))


def _checked(values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or array.size == 0 or not np.isfinite(array).all():
        raise ValueError(f"needs a list of one or more finite numbers, not {array!r}")
    return array


class Optimism(NamedTuple):
    """Outcome of the candidate picked on all seeds (``apparent``), of those picked without each (``nested``)."""

    picked: int
    apparent: float
    nested: float
    picked_without: tuple[int, ...]

    @property
    def points(self) -> float:
        """The optimism, ``apparent - nested``, in the unit of the outcomes."""
        return self.apparent - self.nested


def best(means: ArrayLike) -> int:
    """Index of the largest mean, of equals the first; means that differ only by rounding are equal."""
    return int(np.argmax(np.round(np.asarray(means, dtype=float), _SAME_DIGITS)))


def choice_optimism(criterion: ArrayLike, outcome: ArrayLike | None = None) -> Optimism:
    """Optimism of picking the candidate with the highest mean, by leaving out one seed at a time.

    Nested cross-validation with seeds as folds (Stone, J. R. Statist. Soc. B 36, 1974). With a[s, c] the criterion,
    y[s, c] the outcome and S seeds::

        pick(T)   = argmax over c of the mean of a[s, c] over the seeds s in T
        apparent  = mean over s of y[s, pick(all seeds)]
        nested    = mean over s of y[s, pick(all seeds but s)]

    Args:
        criterion: [S, C], what is picked by, larger is better; S >= 2 and C >= 2.
        outcome: [S, C], what is reported of the candidate that was picked; None is the criterion itself.

    Raises:
        ValueError: a different shape, or a number that is not finite.
    """
    criterion_SC = _checked_table(criterion)
    outcome_SC = criterion_SC if outcome is None else _checked_table(outcome)
    if outcome_SC.shape != criterion_SC.shape:
        raise ValueError(f"criterion and outcome are of {criterion_SC.shape} and {outcome_SC.shape} seeds, candidates")
    num_seeds = len(criterion_SC)
    picked = best(criterion_SC.mean(axis=0))
    without_SC = (criterion_SC.sum(axis=0) - criterion_SC) / (num_seeds - 1)
    picked_without = [best(means_C) for means_C in without_SC]
    nested = outcome_SC[np.arange(num_seeds), picked_without]
    return Optimism(picked, float(outcome_SC[:, picked].mean()), float(nested.mean()), tuple(picked_without))


def _checked_table(values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if array.ndim != 2 or min(array.shape) < 2 or not np.isfinite(array).all():
        raise ValueError(f"needs finite numbers of 2 or more seeds and 2 or more candidates, not {array!r}")
    return array
