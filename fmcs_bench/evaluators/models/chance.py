"""``chance``: knows nothing; every stage is equally probable. The floor of the board."""

from __future__ import annotations

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fmcs_bench.core.errors import DatasetError
from fmcs_bench.evaluators.base import Evaluator
from fmcs_bench.results.records import Epoch
from fmcs_bench.store.selection import MapSet


class ChanceEvaluator(Evaluator):
    """Uniform probabilities; nothing is learned."""

    name = "chance"
    control = True
    differentiable = False
    channel_invariant = True
    any_shape = True
    deterministic = True
    num_parameters = 0

    def fit(self, train: MapSet, validation: MapSet) -> list[Epoch]:  # noqa: ARG002  (of the contract)
        """See ``Evaluator``: there is no curve."""
        return []

    def predict_proba(self, maps_MDHW: np.ndarray) -> np.ndarray:
        """See ``Evaluator``."""
        self.check_shape(maps_MDHW.shape)
        return np.full((len(maps_MDHW), self.num_stages), 1 / self.num_stages, dtype=np.float32)

    def to_bytes(self) -> bytes:
        """See ``Evaluator``: a safetensors file without tensors."""
        return save({})

    def from_bytes(self, data: bytes) -> None:
        """See ``Evaluator``."""
        try:
            found = load(data)
        except SafetensorError as error:
            raise DatasetError(f"these are no weights of the evaluator {self.name}: {error}") from None
        if found:
            raise DatasetError(f"these are no weights of the evaluator {self.name}: it has none, here are {len(found)}")
