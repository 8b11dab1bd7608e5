"""What an evaluator answered, in more detail than its metrics: from predictions files alone.

Flow: predictions of each seed -> confusion of the stages and bins of confidence -> one ``Breakdown`` over the seeds.

K stages, N images, S seeds, B bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fmcs_bench.results import metrics, statistics
from fmcs_bench.results.evaluator_table import Column
from fmcs_bench.results.records import Predictions
from fmcs_bench.results.statistics import Estimate


class Bin(NamedTuple):
    """Maps whose most probable stage has about the same probability."""

    confidence: float
    """Mean of that probability."""
    accuracy: float
    """Share of them whose most probable stage is right."""
    share: float
    """Of all maps."""


@dataclass(frozen=True)
class Breakdown:
    """Answers of one evaluator on one column, over its seeds.

    Attributes:
        confusion_KK: share of the maps of each true stage (row) that were called each stage (column); mean over seeds.
        recall: of each stage: share of its maps that were named right, with the interval over seeds.
        bins: of the calibration curve; the answers of all seeds together, without empty bins.
    """

    confusion_KK: np.ndarray
    recall: tuple[Estimate, ...]
    bins: tuple[Bin, ...]


def break_down(predictions: Sequence[Predictions], column: Column = "test_run") -> Breakdown:
    """The breakdown of one evaluator.

    Args:
        predictions: of each seed: ``<column>/probs`` [K, N, K].
        column: which maps.

    Example:
        >>> answers = {"test_run/probs": np.array([[[0.9, 0.1], [0.6, 0.4]], [[0.6, 0.4], [0.2, 0.8]]])}
        >>> found = break_down([answers])
        >>> found.confusion_KK.tolist(), [round(part.accuracy, 2) for part in found.bins]
        ([[1.0, 0.0], [0.5, 0.5]], [0.5, 1.0, 1.0])
    """
    probs_SMK = [each[f"{column}/probs"].reshape(-1, each[f"{column}/probs"].shape[-1]) for each in predictions]
    stages_SM = [np.repeat(np.arange(probs.shape[1]), len(probs) // probs.shape[1]) for probs in probs_SMK]
    pairs = list(zip(probs_SMK, stages_SM, strict=True))
    confusion_SKK = np.stack([metrics.confusion(probs, stages) for probs, stages in pairs])
    num_B, confidence_B, correct_B = metrics.calibration_bins(np.concatenate(probs_SMK), np.concatenate(stages_SM))
    return Breakdown(
        confusion_KK=confusion_SKK.mean(axis=0),
        recall=tuple(statistics.estimate(confusion_SKK[:, k, k]) for k in range(confusion_SKK.shape[1])),
        bins=tuple(
            Bin(float(confidence_B[b] / num_B[b]), float(correct_B[b] / num_B[b]), float(num_B[b] / num_B.sum()))
            for b in np.flatnonzero(num_B)
        ),
    )
