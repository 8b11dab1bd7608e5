"""From a loss sequence to the K stages (arXiv 2405.04041). NumPy only.

A step is counted from 1; ``losses_T[i]`` is the loss of step ``i + 1``. T steps, K stages, M checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from fmcs_bench.core.errors import ConvergenceError
from fmcs_bench.training.recipes import ConvergenceRule

Floats = np.ndarray[tuple[int], np.dtype[np.float64]]


@dataclass(frozen=True)
class Convergence:
    """Smoothed losses of one run in nats, CQI of steps 2 .. T in nats per epoch, and the convergence point."""

    smoothed_T: Floats
    cqi_T: Floats
    step: int


def smooth(losses: ArrayLike, half_life: float) -> Floats:
    """Exponential moving average [T] that starts at the first loss; after ``half_life`` steps a loss counts half.

    Example:
        >>> smooth([4.0, 2.0, 2.0], half_life=1).tolist()
        [4.0, 3.0, 2.5]
    """
    losses_T = np.asarray(losses, dtype=np.float64)
    keep = 0.5 ** (1 / half_life)
    smoothed_T = np.empty_like(losses_T)
    level = losses_T[0]
    for i, loss in enumerate(losses_T):
        level = keep * level + (1 - keep) * loss
        smoothed_T[i] = level
    return smoothed_T


def cqi(smoothed: ArrayLike, window: int) -> Floats:
    """Convergence quantification indicator of a smoothed loss sequence [T].

    Args:
        smoothed: at least 2 losses.
        window: number of differences averaged, at least 1; the first entries average those there are.

    Returns:
        [T - 1], in the loss's unit per step: entry i is the absolute mean of the differences up to step i + 2.

    Example:
        >>> cqi([4.0, 3.0, 2.5, 2.5], window=2).tolist()
        [1.0, 0.75, 0.25]
    """
    smoothed_T = np.asarray(smoothed, dtype=np.float64)
    end_T = np.arange(1, len(smoothed_T))
    start_T = np.maximum(end_T - window, 0)
    # The mean of neighbouring differences telescopes to the difference of the window's two ends.
    return np.asarray(np.abs((smoothed_T[end_T] - smoothed_T[start_T]) / (end_T - start_T)))


def convergence_point(cqi_T: ArrayLike, threshold: float) -> int:
    """Number of the first step from which CQI stays under the threshold to the end; else a ``ConvergenceError``.

    Example:
        >>> convergence_point([1.0, 0.1, 0.75, 0.25, 0.2], threshold=0.5)  # entry 3 belongs to step 5
        5
    """
    above_T = np.flatnonzero(np.asarray(cqi_T) >= threshold)
    first = int(above_T[-1]) + 1 if len(above_T) else 0
    if first == len(np.asarray(cqi_T)):
        raise ConvergenceError(
            f"the run has not converged: CQI is {np.asarray(cqi_T)[-1]:.4g} at its last step and must stay under "
            f"{threshold:.4g}; train longer (--epochs) or raise the threshold (--cqi-threshold)"
        )
    return first + 2


def analyse(losses: ArrayLike, steps_per_epoch: int, rule: ConvergenceRule) -> Convergence:
    """Smooth, CQI and convergence point of one run's losses, one per step, in nats.

    Raises:
        ConvergenceError: fewer than 2 losses, one that is not finite, a loss that does not fall, or no convergence.
    """
    losses_T = np.asarray(losses, dtype=np.float64)
    if losses_T.ndim != 1 or len(losses_T) < 2:
        raise ConvergenceError(f"a loss sequence of at least 2 steps is needed, not of shape {losses_T.shape}")
    if not np.isfinite(losses_T).all():
        raise ConvergenceError(f"the loss of step {int(np.flatnonzero(~np.isfinite(losses_T))[0]) + 1} is not finite")
    smoothed_T = smooth(losses_T, rule.smoothing_epochs * steps_per_epoch)
    cqi_T = cqi(smoothed_T, max(1, round(rule.window_epochs * steps_per_epoch))) * steps_per_epoch
    step = convergence_point(cqi_T, rule.threshold)
    if smoothed_T[step - 1] >= smoothed_T[0]:
        raise ConvergenceError(
            f"the smoothed loss does not fall: {smoothed_T[0]:.4g} at the start, {smoothed_T[step - 1]:.4g} at the "
            f"convergence point (step {step}); check the recipe (learning rate, data)"
        )
    return Convergence(smoothed_T, cqi_T, step)


def checkpoint_steps(num_steps: int, about: int) -> list[int]:
    """Steps after which a checkpoint is kept: half of them spaced evenly in log time, half evenly in time.

    Learning is fastest at the start, so most of the loss's fall lies among the first; the last step is always kept.

    Example:
        >>> checkpoint_steps(20, about=8)
        [1, 3, 5, 7, 10, 15, 20]
    """
    half = max(2, about // 2)
    early = np.geomspace(1, num_steps, half)
    even = np.linspace(num_steps / half, num_steps, half)
    return [int(step) for step in np.unique(np.rint(np.concatenate([early, even])).clip(min=1))]


def progress_along(convergence: Convergence, end_step: int, by: Literal["loss", "epoch"]) -> Floats:
    """How far each step is on the way from the start to ``end_step``: 0 at the start, 1 at ``end_step``.

    By loss it is the share of the smoothed loss's fall, by epoch the share of the steps.
    """
    if by == "epoch":
        return np.arange(1, len(convergence.smoothed_T) + 1) / end_step
    start, end = convergence.smoothed_T[0], convergence.smoothed_T[end_step - 1]
    return np.asarray((start - convergence.smoothed_T) / (start - end))


def stage_markers(
    convergence: Convergence, steps_M: list[int], num_stages: int, by: Literal["loss", "epoch"]
) -> list[int]:
    """The checkpoints at the ends of the K stages: K step numbers, strictly increasing.

    Stage K ends at the first checkpoint at or after the convergence point. Stage k < K ends at the first checkpoint,
    later than that of stage k - 1, that has gone k / K of the way there; it is taken earlier where otherwise too few
    checkpoints would be left for the stages after it.

    Args:
        convergence: of the run.
        steps_M: steps with a checkpoint, increasing.
        num_stages: K.
        by: ``loss``: equal parts of the smoothed loss's fall; ``epoch``: equal parts of the time.

    Raises:
        ConvergenceError: fewer than K distinct checkpoints up to the convergence point.
    """
    after = [step for step in steps_M if step >= convergence.step]
    if not after:
        raise ConvergenceError(f"no checkpoint at or after the convergence point (step {convergence.step})")
    end_step = after[0]
    candidates = [step for step in steps_M if step < end_step]
    if len(candidates) + 1 < num_stages:
        raise ConvergenceError(
            f"K = {num_stages} stages need {num_stages} distinct checkpoints up to the convergence point (step "
            f"{end_step}), and there are {len(candidates) + 1}; lower --stages or raise --checkpoints"
        )
    progress_T = progress_along(convergence, end_step, by)
    markers: list[int] = []
    first = 0
    for stage in range(1, num_stages):
        last = len(candidates) - (num_stages - 1 - stage) - 1
        reached = (i for i in range(first, last) if progress_T[candidates[i] - 1] >= stage / num_stages)
        index = next(reached, last)
        markers.append(candidates[index])
        first = index + 1
    return [*markers, end_step]
