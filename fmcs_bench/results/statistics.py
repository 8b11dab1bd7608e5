"""Intervals, paired tests and ties. Plain functions on NumPy arrays; SciPy does the statistics.

Values are one per seed. With few seeds these are small-sample methods: Student's t for intervals, an exact sign-flip
test for paired differences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

_MAX_PAIRS = 40


class Estimate(NamedTuple):
    """A mean with its interval; ``low`` and ``high`` are None where one value gives no interval."""

    mean: float
    low: float | None
    high: float | None
    std: float | None
    num: int

    def __str__(self) -> str:
        return f"{self.mean:.3f}" if self.low is None else f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


class PairedDifference(NamedTuple):
    """Mean paired difference with interval, exact two-sided sign-flip p-value, smallest detectable effect."""

    estimate: Estimate
    p_value: float | None
    detectable: float | None

    @property
    def smallest_p(self) -> float:
        """The smallest p-value that so many pairs can give, whatever the effect."""
        return smallest_p_value(self.estimate.num)


def estimate(values: ArrayLike, *, confidence: float = 0.95) -> Estimate:
    """Mean of ``values`` [seed] with Student's t interval.

    Args:
        values: one number per seed, finite.
        confidence: in (0, 1).

    Raises:
        ValueError: no value, or one that is not finite.

    Example:
        >>> print(estimate([1.0, 2.0, 3.0]))
        2.000 [-0.484, 4.484]
    """
    values_S = _checked(values)
    mean, num = float(values_S.mean()), len(values_S)
    if num == 1:
        return Estimate(mean, None, None, None, num)
    std = float(values_S.std(ddof=1))
    half = float(stats.t.ppf((1 + confidence) / 2, num - 1)) * std / np.sqrt(num)
    return Estimate(mean, float(mean - half), float(mean + half), std, num)


def paired_difference(values: ArrayLike, baseline: ArrayLike, *, confidence: float = 0.95) -> PairedDifference:
    """Difference of two methods at the same seeds.

    Args:
        values: of the method, one per seed.
        baseline: of what it is compared with, at the same seeds in the same order.
        confidence: of the interval, in (0, 1).

    Returns:
        The interval is Student's t on the differences. ``p_value`` enumerates all sign flips of the differences
        (two-sided), so five seeds cannot give less than 1/16. ``detectable`` is the true effect that a paired t-test
        at level 1 - confidence would find with a power of 0.8, given the spread seen.

    Raises:
        ValueError: different lengths, no value, or one that is not finite.
    """
    values_S, baseline_S = _checked(values), _checked(baseline)
    if len(values_S) != len(baseline_S):
        raise ValueError(f"paired values must be of equal number, not {len(values_S)} and {len(baseline_S)}")
    difference_S = values_S - baseline_S
    summary = estimate(difference_S, confidence=confidence)
    if summary.std is None:
        return PairedDifference(summary, None, None)
    detectable = _detectable(summary.std, len(difference_S), level=1 - confidence)
    return PairedDifference(summary, sign_flip_p_value(difference_S), detectable)


def sign_flip_p_value(difference: ArrayLike) -> float:
    """Exact two-sided p-value that paired differences [seed] have mean 0, over all 2^n sign flips.

    Args:
        difference: one number per seed, at most 40 of them.

    Example:
        >>> sign_flip_p_value([1, 2, 3, 4, 5])
        0.0625
    """
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
    """The smallest two-sided p-value that the exact sign-flip test can give: 2 of the 2^num flips.

    These are the differences as they are, all of one sign, and all of them flipped.

    Args:
        num: number of pairs, at least 1.

    Example:
        >>> [smallest_p_value(num) for num in (1, 5, 10)]
        [1.0, 0.0625, 0.001953125]
    """
    if num < 1:
        raise ValueError(f"{num} pairs; at least 1 is needed")
    return float(2.0 ** (1 - num))


def smallest_holm_p_value(smallest: Sequence[float]) -> float:
    """The smallest p-value that Holm's correction can leave, where each test can give no less than this.

    Args:
        smallest: for each test of the family its smallest p-value (``smallest_p_value``), at least one.

    Example:
        Five seeds show nothing among 24 methods, ten do.

        >>> smallest_holm_p_value([1 / 16] * 24), smallest_holm_p_value([2 / 2**10] * 24)
        (1.0, 0.046875)
    """
    return min(holm(smallest))


def _signed_sums(values_S: np.ndarray) -> np.ndarray:
    """The sums of ``values_S`` under all 2^n choices of signs."""
    sums_P = np.zeros(1)
    for value in values_S:
        sums_P = np.concatenate([sums_P + value, sums_P - value])
    return sums_P


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (Scand. J. Statist. 6, 1979), in the order given.

    Example:
        >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]
    """
    p_M = np.asarray(p_values, dtype=float)
    order_M = np.argsort(p_M)
    adjusted_M = np.maximum.accumulate(p_M[order_M] * np.arange(len(p_M), 0, -1)).clip(max=1)
    result_M = np.empty_like(p_M)
    result_M[order_M] = adjusted_M
    return [float(p) for p in result_M]


def tied_ranks(values: Mapping[str, ArrayLike], *, smaller_is_better: bool, confidence: float = 0.95) -> dict[str, int]:
    """Ranks in which what cannot be told apart is tied.

    The rank of an entry is 1 plus the number of entries that are better than it, where better means that Welch's
    interval of the difference of means excludes zero. With one seed on either side only equal values tie.

    Args:
        values: for each entry its numbers, one per seed.
        smaller_is_better: True for an error, False for an accuracy.
        confidence: of each difference's interval, in (0, 1); not corrected for the number of pairs.

    Example:
        >>> tied_ranks({"a": [1.0, 1.1], "b": [1.05, 1.0], "c": [9.0, 9.1]}, smaller_is_better=True)
        {'a': 1, 'b': 1, 'c': 3}
    """
    sign = -1.0 if smaller_is_better else 1.0
    quality = {name: sign * _checked(numbers) for name, numbers in values.items()}
    return {
        name: 1 + sum(_is_better(other, own, confidence) for key, other in quality.items() if key != name)
        for name, own in quality.items()
    }


def _is_better(a_S: np.ndarray, b_S: np.ndarray, confidence: float) -> bool:
    difference = a_S.mean() - b_S.mean()
    if min(len(a_S), len(b_S)) < 2:
        return bool(difference > 0)
    a, b = a_S.var(ddof=1) / len(a_S), b_S.var(ddof=1) / len(b_S)
    if a + b == 0:
        return bool(difference > 0)
    freedom = (a + b) ** 2 / (a**2 / (len(a_S) - 1) + b**2 / (len(b_S) - 1))
    return bool(difference > stats.t.ppf((1 + confidence) / 2, freedom) * np.sqrt(a + b))


def _detectable(std: float, num: int, *, level: float, power: float = 0.8) -> float:
    """Effect at which a paired t-test of ``num`` pairs with spread ``std`` has the given power."""
    critical = stats.t.ppf(1 - level / 2, num - 1)
    # The other tail is left out: it adds less than 1e-5 to the power here, and SciPy answers NaN that far out.
    # With one degree of freedom the root is at 1.28 times the critical value, with many at the critical value + 0.84.
    noncentrality = optimize.brentq(lambda x: stats.nct.sf(critical, num - 1, x) - power, 0.0, 2 * critical + 1)
    return float(noncentrality * std / np.sqrt(num))


def _checked(values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or array.size == 0 or not np.isfinite(array).all():
        raise ValueError(f"needs a list of one or more finite numbers, not {array!r}")
    return array
