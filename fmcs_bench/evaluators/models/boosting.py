"""``boosting``: gradient-boosted trees on 26 statistics of a map; the strongest usual model for a few numbers.

M maps, F statistics, K stages, R rounds, N nodes of all trees.
"""

from __future__ import annotations

import numpy as np
import sklearn
from sklearn.ensemble import HistGradientBoostingClassifier

from fmcs_bench.core.errors import ProtocolError
from fmcs_bench.core.seeding import derive
from fmcs_bench.evaluators.features import NUM_STATISTICS
from fmcs_bench.evaluators.sklearn import (
    Arrays,
    StatisticEvaluator,
    log_loss,
    mean_absolute_error,
    softmax,
    with_two_classes,
)
from fmcs_bench.results.records import Epoch
from fmcs_bench.store.selection import MapSet

MAX_ROUNDS = 100
TOLERANCE = 1e-6


class BoostingEvaluator(StatisticEvaluator):
    """scikit-learn's ``HistGradientBoostingClassifier`` (as LightGBM, Ke et al., NIPS 2017) on map statistics.

    Each split looks at a random half of the statistics, drawn by the seed. The trees are kept as arrays of nodes and
    asked by our own code; every fit checks that it answers as scikit-learn does.
    """

    name = "boosting"

    def unfitted(self) -> Arrays:
        """See ``StatisticEvaluator``."""
        num_scores = 1 if self.num_stages == 2 else self.num_stages
        return {
            "baseline_X": np.zeros(num_scores),
            "root_RX": np.zeros((0, num_scores), dtype=np.int32),
            "statistic_N": np.zeros(0, dtype=np.int32),
            "threshold_N": np.zeros(0),
            "children_N2": np.zeros((0, 2), dtype=np.int32),
            "value_N": np.zeros(0),
        }

    def check(self, arrays: Arrays) -> bool:
        """See ``StatisticEvaluator``: indices lie inside, and children behind their node, so that every walk ends."""
        root_RX, children_N2, statistic_N = (arrays[name] for name in ("root_RX", "children_N2", "statistic_N"))
        num_scores, num_nodes = len(self.unfitted()["baseline_X"]), len(arrays["value_N"])
        if arrays["baseline_X"].shape != (num_scores,) or root_RX.shape[1] != num_scores:
            return False
        if children_N2.shape != (num_nodes, 2) or not num_nodes == len(statistic_N) == len(arrays["threshold_N"]):
            return False
        own_N1 = np.arange(num_nodes)[:, None]
        ends_N = (children_N2 == own_N1).all(axis=1) | (children_N2 > own_N1).all(axis=1)
        inside = (
            _inside(index, size)
            for index, size in ((root_RX, num_nodes), (children_N2, num_nodes), (statistic_N, NUM_STATISTICS))
        )
        return bool(ends_N.all()) and all(inside)

    @property
    def num_parameters(self) -> int:
        """See ``Evaluator``: a threshold or a value for each node."""
        return self.arrays["value_N"].size

    def fit(self, train: MapSet, validation: MapSet) -> list[Epoch]:
        """See ``Evaluator``. One entry of the curve for each round; all rounds are fitted, the best number is kept."""
        self.check_stages(train)
        train_MF, validation_MF = self.statistics(train.maps_MDHW), self.statistics(validation.maps_MDHW)
        model = HistGradientBoostingClassifier(
            max_iter=MAX_ROUNDS,
            max_leaf_nodes=15,
            max_features=0.5,
            early_stopping=False,
            random_state=derive(self.config.seed, "evaluator fit") % 2**32,
        ).fit(train_MF, train.stages_M)
        version = f"scikit-learn {sklearn.__version__}"
        try:
            self.arrays = _arrays(model)
        except (AttributeError, ValueError) as error:
            raise ProtocolError(
                f"the evaluator {self.name} finds no trees in {version} ({error}); install a different version"
            ) from error
        own_MK = softmax(self.scores(validation_MF))
        if not np.allclose(own_MK, model.predict_proba(validation_MF), rtol=0, atol=TOLERANCE):
            raise ProtocolError(
                f"{version} and its trees, as the evaluator {self.name} reads them, differ; install a different version"
            )
        curve, best = self._curve(train_MF, train.stages_M, validation_MF, validation.stages_M)
        self.arrays = _first_rounds(self.arrays, best)
        return curve

    def _curve(
        self, train_MF: np.ndarray, train_M: np.ndarray, validation_MF: np.ndarray, validation_M: np.ndarray
    ) -> tuple[list[Epoch], int]:
        """The curve, and the number of rounds with the lowest MAE; of equals, with the lowest log loss."""
        curve: list[Epoch] = []
        validation: list[tuple[float, float]] = []
        train_MX, validation_MX = (np.tile(self.arrays["baseline_X"], (len(s), 1)) for s in (train_MF, validation_MF))
        for i, root_X in enumerate(self.arrays["root_RX"], start=1):
            train_MX += self._values(train_MF, root_X)
            validation_MX += self._values(validation_MF, root_X)
            validation_MK = with_two_classes(validation_MX)
            validation.append((mean_absolute_error(validation_MK, validation_M), log_loss(validation_MK, validation_M)))
            train_loss = log_loss(with_two_classes(train_MX), train_M)
            curve.append(Epoch(epoch=i, train_loss=train_loss, validation=validation[-1][0]))
        return curve, validation.index(min(validation)) + 1

    def scores(self, statistics_MF: np.ndarray) -> np.ndarray:
        """See ``StatisticEvaluator``."""
        scores_MX = np.tile(self.arrays["baseline_X"], (len(statistics_MF), 1))
        for root_X in self.arrays["root_RX"]:
            scores_MX += self._values(statistics_MF, root_X)
        return with_two_classes(scores_MX)

    def _values(self, statistics_MF: np.ndarray, root_X: np.ndarray) -> np.ndarray:
        """The values [M, X] of the leaves that maps end in, in the trees with these roots. A leaf is its own child."""
        found = self.arrays
        node_MX = np.broadcast_to(root_X, (len(statistics_MF), len(root_X)))
        rows_M1 = np.arange(len(statistics_MF))[:, None]
        while True:
            goes_right_MX = statistics_MF[rows_M1, found["statistic_N"][node_MX]] > found["threshold_N"][node_MX]
            next_MX = found["children_N2"][node_MX, goes_right_MX.astype(np.int64)]
            if np.array_equal(next_MX, node_MX):
                values_MX: np.ndarray = found["value_N"][node_MX]
                return values_MX
            node_MX = next_MX


def _arrays(model: HistGradientBoostingClassifier) -> Arrays:
    """The trees of a fitted model, one behind the other. scikit-learn has no public name for them."""
    trees = [[tree.nodes for tree in trees_of_round] for trees_of_round in model._predictors]
    flat = [nodes for trees_of_round in trees for nodes in trees_of_round]
    starts = np.cumsum([0, *(len(nodes) for nodes in flat)])
    nodes_N = np.concatenate(flat)
    own_N = np.arange(len(nodes_N))
    start_N = np.repeat(starts[:-1], [len(nodes) for nodes in flat])
    is_leaf_N = nodes_N["is_leaf"].astype(bool)
    children_N2 = np.stack([nodes_N["left"], nodes_N["right"]], axis=1).astype(np.int64) + start_N[:, None]
    return {
        "baseline_X": np.asarray(model._baseline_prediction, dtype=np.float64).reshape(-1),
        "root_RX": starts[:-1].reshape(len(trees), -1).astype(np.int32),
        "statistic_N": np.where(is_leaf_N, 0, nodes_N["feature_idx"]).astype(np.int32),
        "threshold_N": np.where(is_leaf_N, 0.0, nodes_N["num_threshold"]),
        "children_N2": np.where(is_leaf_N[:, None], own_N[:, None], children_N2).astype(np.int32),
        "value_N": np.where(is_leaf_N, nodes_N["value"], 0.0),
    }


def _first_rounds(arrays: Arrays, num_rounds: int) -> Arrays:
    """The same trees without those of later rounds, which lie at the end."""
    root_RX = arrays["root_RX"]
    num_nodes = len(arrays["value_N"]) if num_rounds >= len(root_RX) else int(root_RX[num_rounds, 0])
    kept = {name: array[:num_nodes] for name, array in arrays.items() if name.endswith(("_N", "_N2"))}
    return arrays | kept | {"root_RX": root_RX[:num_rounds]}


def _inside(index: np.ndarray, size: int) -> bool:
    return bool(((index >= 0) & (index < size)).all())
