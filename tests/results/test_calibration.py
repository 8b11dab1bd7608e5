"""Confusion, recall and calibration from predictions alone, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import confusion_matrix, recall_score

from fmcs_bench.results import metrics
from fmcs_bench.results.metrics import break_down

NUM_STAGES, NUM_IMAGES = 5, 30


def answers(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.full(NUM_STAGES, 0.5), (NUM_STAGES, NUM_IMAGES)).astype(np.float32)


def test_confusion_and_recall_are_those_of_scikit_learn() -> None:
    seeds = [answers(seed) for seed in range(4)]
    found = break_down([{"test_run/probs": probs_KNK} for probs_KNK in seeds])
    true = np.repeat(np.arange(NUM_STAGES), NUM_IMAGES)
    named = [probs_KNK.reshape(-1, NUM_STAGES).argmax(axis=1) for probs_KNK in seeds]
    expected = np.mean([confusion_matrix(true, each, normalize="true") for each in named], axis=0)
    np.testing.assert_allclose(found.confusion_KK, expected)
    recalls = np.array([recall_score(true, each, average=None) for each in named])
    np.testing.assert_allclose([each.mean for each in found.recall], recalls.mean(axis=0))
    assert [each.num for each in found.recall] == [4] * NUM_STAGES


def test_the_curve_has_the_bins_of_the_calibration_error() -> None:
    seeds = [answers(seed) for seed in range(3)]
    found = break_down([{"test_run/probs": probs_KNK} for probs_KNK in seeds])
    probs_MK = np.concatenate([probs_KNK.reshape(-1, NUM_STAGES) for probs_KNK in seeds])
    stages_M = np.tile(np.repeat(np.arange(NUM_STAGES), NUM_IMAGES), 3)
    right_M = probs_MK.argmax(axis=1) == stages_M
    accuracy, confidence = calibration_curve(right_M, probs_MK.max(axis=1), n_bins=metrics.NUM_BINS)
    np.testing.assert_allclose([part.accuracy for part in found.bins], accuracy)
    np.testing.assert_allclose([part.confidence for part in found.bins], confidence, rtol=1e-6)
    error = sum(part.share * abs(part.accuracy - part.confidence) for part in found.bins)
    assert error == pytest.approx(metrics.calibration_error(probs_MK, stages_M))
