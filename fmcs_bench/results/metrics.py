"""Metrics of an evaluator's answers, as pure functions on NumPy arrays.

M maps, K stages, N images (of one run; every image has a map at each stage), B bins of confidence.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import spearmanr
from sklearn.metrics import cohen_kappa_score
from sklearn.metrics import log_loss as sklearn_log_loss

from fmcs_bench.core.errors import ProtocolError
from fmcs_bench.results.records import Metrics

NUM_BINS = 15
PROBABILITY_TOLERANCE = 1e-3
SCORE_DECIMALS = 6
"""Scores that are equal to so many decimals are equal: what differs behind them is rounding."""


def stage_metrics(probs_MK: np.ndarray, stages_M: np.ndarray, groups_M: np.ndarray) -> Metrics:
    """All metrics of one set of maps; by ``predicted_stages``, and for the order of stages by ``expected_score``.

    Args:
        probs_MK: rows that sum to 1.
        stages_M: true stages, 0 .. K - 1.
        groups_M: maps with equal values are one image seen by one run at all K stages.

    Returns:
        ``accuracy``; ``within_one`` (share at most one stage off); ``mae`` in stages; ``kappa`` (Cohen's, quadratic
        weights); ``tau_b`` (Kendall's, of score and stage within an image, mean over images; 0 for an image with one
        score throughout); ``violations`` (share of neighbouring stages of an image whose score falls); ``log_loss`` in
        nats; ``ece`` (expected calibration error of the predicted stage, 15 equal bins of confidence).
    """
    num_stages = probs_MK.shape[1]
    predicted_M = predicted_stages(probs_MK)
    off_M = np.abs(predicted_M - stages_M)
    tau_b, violations = _order_within_images(expected_score(probs_MK), stages_M, groups_M)
    labels = np.arange(num_stages)
    return Metrics(
        accuracy=float((off_M == 0).mean()),
        within_one=float((off_M <= 1).mean()),
        mae=float(off_M.mean()),
        kappa=float(cohen_kappa_score(stages_M, predicted_M, labels=labels, weights="quadratic")),
        tau_b=tau_b,
        violations=violations,
        log_loss=float(sklearn_log_loss(stages_M, _normalised(probs_MK), labels=labels)),
        ece=calibration_error(probs_MK, stages_M),
        num_maps=len(stages_M),
    )


def of_answers(probs_KNK: np.ndarray) -> Metrics:
    """All metrics of answers as a predictions file has them: true stage, image of one run, probability."""
    num_stages, num_images, _ = probs_KNK.shape
    stages_M = np.repeat(np.arange(num_stages), num_images)
    groups_M = np.tile(np.arange(num_images), num_stages)
    return stage_metrics(probs_KNK.reshape(-1, num_stages), stages_M, groups_M)


def predicted_stages(probs_MK: np.ndarray) -> np.ndarray:
    """The most probable stage of each map, 0 .. K - 1; of several the middle one, which has the least error."""
    is_top_MK = probs_MK == probs_MK.max(axis=1, keepdims=True)
    middle_M1 = (is_top_MK.sum(axis=1, keepdims=True) + 1) // 2
    return np.asarray((is_top_MK.cumsum(axis=1) >= middle_M1).argmax(axis=1))


def expected_score(probs_MK: np.ndarray) -> np.ndarray:
    """Expected FMCS of each map, 1 .. K."""
    return _normalised(probs_MK) @ np.arange(1, probs_MK.shape[1] + 1)


def calibration_error(probs_MK: np.ndarray, stages_M: np.ndarray, num_bins: int = NUM_BINS) -> float:
    """Expected calibration error (Guo et al., ICML 2017) of the most probable stage, in bins (b / B, (b + 1) / B]."""
    confidence_M = probs_MK.max(axis=1)
    is_right_M = predicted_stages(probs_MK) == stages_M
    bin_M = np.clip(np.ceil(confidence_M * num_bins).astype(int) - 1, 0, num_bins - 1)
    confidence_B = np.bincount(bin_M, weights=confidence_M, minlength=num_bins)
    right_B = np.bincount(bin_M, weights=is_right_M, minlength=num_bins)
    return float(np.abs(confidence_B - right_B).sum() / len(stages_M))


def confusion(probs_MK: np.ndarray, stages_M: np.ndarray) -> np.ndarray:
    """Share of the maps of each true stage (row) that were called each stage (column); without maps NaN."""
    num_stages = probs_MK.shape[1]
    pairs_M = stages_M * num_stages + predicted_stages(probs_MK)
    counts_KK = np.bincount(pairs_M, minlength=num_stages**2).reshape(num_stages, num_stages)
    with np.errstate(invalid="ignore"):
        shares_KK: np.ndarray = counts_KK / counts_KK.sum(axis=1, keepdims=True)
    return shares_KK


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Spearman's rank correlation; None where one of the two never changes."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.clip(spearmanr(a, b).statistic, -1, 1))


def check_probabilities(probs: object, num_maps: int, num_stages: int, *, evaluator: str, split: str) -> np.ndarray:
    """The answer of an evaluator; ``ProtocolError`` where it is not one distribution over stages for each map."""
    name = f"evaluator {evaluator} on {split}"
    if not isinstance(probs, np.ndarray) or probs.shape != (num_maps, num_stages):
        shape = getattr(probs, "shape", type(probs).__name__)
        raise ProtocolError(f"{name}: an array of shape ({num_maps}, {num_stages}) is needed, not {shape}")
    if not np.issubdtype(probs.dtype, np.floating):
        raise ProtocolError(f"{name}: floating-point numbers are needed, not {probs.dtype}")
    if not np.isfinite(probs).all() or probs.min() < 0 or probs.max() > 1 + PROBABILITY_TOLERANCE:
        raise ProtocolError(f"{name}: probabilities must lie in [0, 1] and not be NaN")
    worst = float(np.abs(probs.sum(axis=1) - 1).max())
    if worst > PROBABILITY_TOLERANCE:
        raise ProtocolError(f"{name}: every row must sum to 1; one is off by {worst:.3g}")
    return probs


def _normalised(probs_MK: np.ndarray) -> np.ndarray:
    probs_MK = probs_MK.astype(np.float64)
    return np.asarray(probs_MK / probs_MK.sum(axis=1, keepdims=True))


def _order_within_images(score_M: np.ndarray, stages_M: np.ndarray, groups_M: np.ndarray) -> tuple[float, float]:
    """Mean tau-b of score and stage within an image, and share of neighbouring stages whose score falls."""
    score_M = score_M.round(SCORE_DECIMALS)
    order_M = np.lexsort((stages_M, groups_M))
    starts = np.flatnonzero(np.diff(groups_M[order_M], prepend=groups_M[order_M[0]] - 1))
    size_N = np.diff(starts, append=len(order_M))
    taus, falls = [], 0
    for size in np.unique(size_N):  # K for every image, unless maps were left out
        index_NK = order_M[starts[size_N == size][:, None] + np.arange(size)]
        taus.append(_tau_b(score_M[index_NK], stages_M[index_NK]))
        falls += int((np.diff(score_M[index_NK], axis=1) < 0).sum())
    pairs = len(order_M) - len(starts)
    return float(np.concatenate(taus).mean()), falls / pairs if pairs else 0.0


def _tau_b(score_NK: np.ndarray, stages_NK: np.ndarray) -> np.ndarray:
    """Kendall's tau-b of each row [N], 0 where one of the two never changes; all rows at once, pair by pair of K."""
    one, other = np.triu_indices(score_NK.shape[1], k=1)
    score_NP = np.sign(score_NK[:, other] - score_NK[:, one])
    stages_NP = np.sign(stages_NK[:, other] - stages_NK[:, one])
    untied_N = (score_NP != 0).sum(axis=1) * (stages_NP != 0).sum(axis=1)
    agreeing_N = (score_NP * stages_NP).sum(axis=1)
    return np.where(untied_N > 0, agreeing_N / np.sqrt(np.maximum(untied_N, 1)), 0.0)
