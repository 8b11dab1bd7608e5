"""How much is gained on paper by picking the best of several candidates by the numbers that are then reported.

Flow: accuracies [seed, candidate] -> the candidate that each choice of seeds picks -> its mean where it was picked, and
the mean of the left-out seeds at what was picked without them -> their difference, the optimism.

S seeds, C candidates (values of RAF).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

_SAME_DIGITS = 12


class Optimism(NamedTuple):
    """What ``choice_optimism`` found.

    Attributes:
        picked: index of the candidate picked on all seeds.
        apparent: its mean outcome over these same seeds.
        nested: mean outcome of each seed at the candidate that was picked without it.
        picked_without: for each seed, the candidate picked on the others.
    """

    picked: int
    apparent: float
    nested: float
    picked_without: tuple[int, ...]

    @property
    def points(self) -> float:
        """The optimism, ``apparent - nested``, in the unit of the outcomes."""
        return self.apparent - self.nested


def best(means: ArrayLike) -> int:
    """Index of the largest mean; of equals the first.

    Means that differ only by the order in which their seeds were added up are equal.

    Args:
        means: [C], finite.

    Example:
        >>> best([0.2, 0.1 + 0.2, 0.3])
        1
    """
    return int(np.argmax(np.round(np.asarray(means, dtype=float), _SAME_DIGITS)))


def choice_optimism(criterion: ArrayLike, outcome: ArrayLike | None = None) -> Optimism:
    """Optimism of picking the candidate with the highest mean, by leaving out one seed at a time.

    With a[s, c] the criterion, y[s, c] the outcome and S seeds::

        pick(T)   = argmax over c of the mean of a[s, c] over the seeds s in T
        apparent  = mean over s of y[s, pick(all seeds)]
        nested    = mean over s of y[s, pick(all seeds but s)]
        optimism  = apparent - nested

    This is nested cross-validation with seeds as folds: Stone, J. R. Statist. Soc. B 36 (1974), "cross-validatory
    choice and assessment"; for what it corrects see Varma and Simon, BMC Bioinformatics 7:91 (2006), and Cawley and
    Talbot, JMLR 11 (2010), section 5. There is no chance in it.

    Where the outcome is the criterion itself, the optimism is never negative: a seed that changes the pick by being
    left out has a higher outcome at the pick that it helped to make. Where all candidates are equally good on paper its
    expectation is exactly that of the excess of the best of C means. Otherwise it is a little too large, because nested
    picks are made on S - 1 seeds. What comes of the *images* being the same for all seeds is not in it.

    Args:
        criterion: [S, C], what is picked by, larger is better; S >= 2 and C >= 2.
        outcome: [S, C], what is reported of the candidate that was picked; None is the criterion itself, as where
            the test images choose and are reported.

    Raises:
        ValueError: another shape, or a number that is not finite.

    Example:
        Candidate 1 wins on all seeds, but without the first one candidate 0 would have been picked.

        >>> found = choice_optimism([[0.90, 0.96], [0.91, 0.90], [0.92, 0.90]])
        >>> found.picked, found.picked_without, round(found.points, 6)
        (1, (0, 1, 1), 0.02)
    """
    criterion_SC = _checked(criterion)
    outcome_SC = criterion_SC if outcome is None else _checked(outcome)
    if outcome_SC.shape != criterion_SC.shape:
        raise ValueError(f"criterion and outcome are of {criterion_SC.shape} and {outcome_SC.shape} seeds, candidates")
    num_seeds = len(criterion_SC)
    picked = best(criterion_SC.mean(axis=0))
    without_SC = (criterion_SC.sum(axis=0) - criterion_SC) / (num_seeds - 1)
    picked_without = [best(means_C) for means_C in without_SC]
    nested = outcome_SC[np.arange(num_seeds), picked_without]
    return Optimism(picked, float(outcome_SC[:, picked].mean()), float(nested.mean()), tuple(picked_without))


def _checked(values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if array.ndim != 2 or min(array.shape) < 2 or not np.isfinite(array).all():
        raise ValueError(f"needs finite numbers of 2 or more seeds and 2 or more candidates, not {array!r}")
    return array
