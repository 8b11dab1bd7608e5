"""``logistic``: logistic regression on 26 statistics of a map; the simplest evaluator that sees more than the size."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression

from fmcs_bench.evaluators.features import NUM_STATISTICS
from fmcs_bench.evaluators.sklearn import Arrays, StatisticEvaluator, log_loss, mean_absolute_error, with_two_classes
from fmcs_bench.results.records import Epoch
from fmcs_bench.store.selection import MapSet

STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)
"""scikit-learn's C: the smaller, the more regularised."""
MAX_ITERATIONS = 5_000


class LogisticEvaluator(StatisticEvaluator):
    """scikit-learn's ``LogisticRegression`` (multinomial, L2, L-BFGS) on ``features.statistics``."""

    name = "logistic"
    deterministic = True

    def unfitted(self) -> Arrays:
        """See ``StatisticEvaluator``."""
        return {
            "mean_F": np.zeros(NUM_STATISTICS),
            "scale_F": np.ones(NUM_STATISTICS),
            "coefficient_FK": np.zeros((NUM_STATISTICS, self.num_stages)),
            "intercept_K": np.zeros(self.num_stages),
        }

    def check(self, arrays: Arrays) -> bool:
        """See ``StatisticEvaluator``."""
        shapes = {name: array.shape for name, array in self.unfitted().items()}
        return shapes == {name: array.shape for name, array in arrays.items()}

    @property
    def num_parameters(self) -> int:
        """See ``Evaluator``: coefficients and intercepts."""
        return self.arrays["coefficient_FK"].size + self.arrays["intercept_K"].size

    def fit(self, train: MapSet, validation: MapSet) -> list[Epoch]:
        """See ``Evaluator``. One entry of the curve for each strength; of equal MAEs the lowest log loss is kept."""
        self.check_stages(train)
        train_MF, validation_MF = self.statistics(train.maps_MDHW), self.statistics(validation.maps_MDHW)
        mean_F, std_F = train_MF.mean(axis=0), train_MF.std(axis=0)
        scale_F = np.where(std_F > 1e-9, std_F, 1.0)  # a statistic that never changes says nothing
        curve: list[Epoch] = []
        candidates: list[tuple[float, float, Arrays]] = []
        for i, strength in enumerate(STRENGTHS, start=1):
            model = LogisticRegression(C=strength, max_iter=MAX_ITERATIONS)
            model.fit((train_MF - mean_F) / scale_F, train.stages_M)
            self.arrays = {
                "mean_F": mean_F,
                "scale_F": scale_F,
                "coefficient_FK": with_two_classes(model.coef_.T),
                "intercept_K": with_two_classes(model.intercept_[None])[0],
            }
            scores_MK = self.scores(validation_MF)
            mae = mean_absolute_error(scores_MK, validation.stages_M)
            candidates.append((mae, log_loss(scores_MK, validation.stages_M), self.arrays))
            train_loss = log_loss(self.scores(train_MF), train.stages_M)
            curve.append(Epoch(epoch=i, train_loss=train_loss, validation=mae))
        self.arrays = min(candidates, key=lambda candidate: candidate[:2])[2]
        return curve

    def scores(self, statistics_MF: np.ndarray) -> np.ndarray:
        """See ``StatisticEvaluator``."""
        found = self.arrays
        standard_MF = (statistics_MF - found["mean_F"]) / found["scale_F"]
        scores_MK: np.ndarray = standard_MF @ found["coefficient_FK"] + found["intercept_K"]
        return scores_MK
