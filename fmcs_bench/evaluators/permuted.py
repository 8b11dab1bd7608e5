"""``permuted``: a control. The network of ``conv``, fitted on labels that mean nothing.

Flow: maps with stages -> the K stages of each image relabelled by a random permutation of its own -> fit of ``conv``.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fmcs_bench.evaluators.conv import ConvEvaluator
from fmcs_bench.records import Epoch
from fmcs_bench.seeding import derive
from fmcs_bench.store import MapSet


class PermutedEvaluator(ConvEvaluator):
    """``conv`` with permuted labels; the same weights at the start and the same batches for a seed.

    Each image keeps one map of every stage, so that nothing but the meaning of the labels is lost: what this evaluator
    reaches on true labels is what the protocol gives away for free. The epoch is chosen on permuted labels too.
    """

    name = "permuted"
    control = True

    def fit(self, train: MapSet, validation: MapSet) -> list[Epoch]:
        """See ``Evaluator``; the curve's MAE is against permuted labels."""
        return super().fit(*(self._permuted(maps, part) for maps, part in ((train, "train"), (validation, "val"))))

    def _permuted(self, maps: MapSet, part: str) -> MapSet:
        rng = np.random.default_rng(derive(self.config.seed, "permuted labels", part))
        return replace(maps, stages_M=permute_stages(maps, self.num_stages, rng))


def permute_stages(maps: MapSet, num_stages: int, rng: np.random.Generator) -> np.ndarray:
    """New stages, int64 [M]: for each image of each run, the old ones under one random permutation of 0 .. K - 1.

    The order of the maps does not matter.
    """
    images_M2 = np.stack([maps.runs_M, maps.image_ids_M], axis=1)
    groups, group_M = np.unique(images_M2, axis=0, return_inverse=True)
    permutation_GK = rng.permuted(np.tile(np.arange(num_stages), (len(groups), 1)), axis=1)
    new_M: np.ndarray = permutation_GK[group_M.reshape(-1), maps.stages_M]
    return new_M
