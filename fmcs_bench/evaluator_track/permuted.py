"""Labels that mean nothing: the control ``NAME~permuted`` of any evaluator.

Flow: maps with stages -> the K stages of each image relabelled by a random permutation of its own -> fit as usual.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fmcs_bench.core.seeding import derive
from fmcs_bench.store.selection import MapSet


def with_permuted_labels(maps: MapSet, num_stages: int, seed: int, part: str) -> MapSet:
    """The same maps with permuted stages.

    Each image keeps one map of every stage, so that nothing but the meaning of the labels is lost: what an evaluator
    that was fitted on them reaches on true labels is what the protocol gives away for free.

    Args:
        maps: in any order, which does not matter.
        num_stages: K.
        seed: of the fit.
        part: names the draw: ``train`` or ``validation``.
    """
    rng = np.random.default_rng(derive(seed, "permuted labels", part))
    return replace(maps, stages_M=permute_stages(maps, num_stages, rng))


def permute_stages(maps: MapSet, num_stages: int, rng: np.random.Generator) -> np.ndarray:
    """New stages, int64 [M]: for each image of each run, the old ones under one random permutation of 0 .. K - 1.

    The order of the maps does not matter.
    """
    images_M2 = np.stack([maps.runs_M, maps.image_ids_M], axis=1)
    groups, group_M = np.unique(images_M2, axis=0, return_inverse=True)
    permutation_GK = rng.permuted(np.tile(np.arange(num_stages), (len(groups), 1)), axis=1)
    new_M: np.ndarray = permutation_GK[group_M.reshape(-1), maps.stages_M]
    return new_M
