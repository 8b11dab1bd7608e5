"""Evaluators on 26 statistics of a map, fitted by scikit-learn. They keep named arrays: safetensors, never pickle.

M maps, F statistics, K stages.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fmcs_bench.core.errors import ConfigError, DatasetError
from fmcs_bench.evaluators.base import Evaluator, MapShape
from fmcs_bench.evaluators.features import NUM_STATISTICS, statistics
from fmcs_bench.results.trials import EvaluatorTrial
from fmcs_bench.store.selection import MapSet

BATCH_VALUES = 2**24
"""Values of maps that are in float64 at once: 128 MB."""
Arrays = dict[str, np.ndarray]


class StatisticEvaluator(Evaluator):
    """An evaluator on the 26 statistics of ``features.statistics``.

    Computed in float64: a tree's answer jumps at a threshold, and rounding that depends on the order of the channels or
    on the batch must not carry a map across it.
    """

    differentiable = False
    channel_invariant = True
    any_shape = True

    def __init__(
        self, map_shape: MapShape, num_stages: int, config: EvaluatorTrial, *, device: torch.device | None = None
    ) -> None:
        super().__init__(map_shape, num_stages, config, device=device)
        self.arrays = self.unfitted()

    @abstractmethod
    def unfitted(self) -> Arrays:
        """Arrays before a fit; every stage is equally probable."""

    @abstractmethod
    def check(self, arrays: Arrays) -> bool:
        """Whether arrays of the right names and types are valid: shapes fit together, indices are in range."""

    @abstractmethod
    def scores(self, statistics_MF: np.ndarray) -> np.ndarray:
        """Raw scores of the stages, float64 [M, K], before the softmax."""

    def predict_proba(self, maps_MDHW: np.ndarray) -> np.ndarray:
        """See ``Evaluator``."""
        return softmax(self.scores(self.statistics(maps_MDHW))).astype(np.float32)

    def statistics(self, maps_MDHW: np.ndarray) -> np.ndarray:
        """Statistics of maps, float64 [M, F]."""
        self.check_shape(maps_MDHW.shape)
        step = max(1, BATCH_VALUES // max(1, int(np.prod(maps_MDHW.shape[1:]))))
        found = np.empty((len(maps_MDHW), NUM_STATISTICS))
        for start in range(0, len(maps_MDHW), step):
            maps = torch.from_numpy(np.require(maps_MDHW[start : start + step], requirements=["C", "W"]))
            found[start : start + step] = statistics(maps.to(self.device).double()).cpu().numpy()
        return found

    def check_stages(self, maps: MapSet) -> None:
        """Refuse a fit without a training map of every stage."""
        missing = sorted(set(range(self.num_stages)) - set(np.unique(maps.stages_M).tolist()))
        if missing:
            raise ConfigError(
                f"the evaluator {self.name} cannot be fitted: no training map has the FMCS "
                f"{', '.join(str(stage + 1) for stage in missing)}"
            )

    def to_bytes(self) -> bytes:
        """See ``Evaluator``."""
        return save({name: np.ascontiguousarray(array) for name, array in sorted(self.arrays.items())})

    def from_bytes(self, data: bytes) -> None:
        """See ``Evaluator``."""
        try:
            found = load(data)
        except SafetensorError as error:
            raise DatasetError(f"these are no weights of the evaluator {self.name}: {error}") from None
        expected = {name: (array.dtype, array.ndim) for name, array in self.unfitted().items()}
        if {name: (array.dtype, array.ndim) for name, array in found.items()} != expected or not self.check(found):
            raise DatasetError(f"these are no weights of the evaluator {self.name} for {self.num_stages} stages")
        self.arrays = found


def softmax(scores_MK: np.ndarray) -> np.ndarray:
    """Probabilities, rows that sum to 1."""
    powers_MK = np.exp(scores_MK - scores_MK.max(axis=1, keepdims=True))
    probs_MK: np.ndarray = powers_MK / powers_MK.sum(axis=1, keepdims=True)
    return probs_MK


def log_loss(scores_MK: np.ndarray, stages_M: np.ndarray) -> float:
    """Mean cross-entropy of the true stages, in nats."""
    shifted_MK = scores_MK - scores_MK.max(axis=1, keepdims=True)
    log_sums_M = np.log(np.exp(shifted_MK).sum(axis=1))
    return float((log_sums_M - shifted_MK[np.arange(len(stages_M)), stages_M]).mean())


def mean_absolute_error(scores_MK: np.ndarray, stages_M: np.ndarray) -> float:
    """Mean distance of the most probable stage from the true one, in stages."""
    return float(np.abs(scores_MK.argmax(axis=1) - stages_M).mean())


def with_two_classes(scores_MX: np.ndarray) -> np.ndarray:
    """scikit-learn gives one score where there are two classes, the log odds of the second: [M, 1] -> [M, 2]."""
    return np.hstack([np.zeros_like(scores_MX), scores_MX]) if scores_MX.shape[1] == 1 else scores_MX
