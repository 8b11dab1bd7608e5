"""The contract of an evaluator: maps in, a probability for each FMCS out.

Most evaluators are one network. They subclass ``NetworkEvaluator``, which has the loss, the fit, early stopping and
saving; this is a whole one, which looks at the largest value of a map::

    from torch import nn

    from fmcs_bench.evaluators.network import NetworkEvaluator


    class PeakEvaluator(NetworkEvaluator):
        name = "peak"
        channel_invariant = True
        any_shape = True

        def make_network(self):
            largest = nn.Sequential(nn.AdaptiveMaxPool3d(1), nn.Flatten(), nn.BatchNorm1d(1))
            return nn.Sequential(largest, nn.Linear(1, 32), nn.ReLU(), nn.Linear(32, self.num_outputs))

An evaluator without a network subclasses ``Evaluator`` and gives its five abstract members.
``fmcs_bench.testing.conformance.EvaluatorConformance`` tests every sentence of this contract.

Tensor names: M maps, B batch, D channels, H height, W width, K stages.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch

from fmcs_bench.core.errors import ConfigError
from fmcs_bench.results.records import Epoch
from fmcs_bench.results.trials import EvaluatorTrial
from fmcs_bench.store.selection import MapSet

MapShape = tuple[int, int, int]
TRAITS = ("differentiable", "channel_invariant", "any_shape")
"""Traits that every evaluator states."""
DEFAULT_TRAITS = ("deterministic", "takes_heads", "uses_recipe", "control")
"""Traits with a default."""


class Evaluator(ABC):
    """Estimates the FMCS of feature maps.

    A fit sees maps of the training runs with their stages, and stops or chooses by the maps of the validation run. The
    same configuration (and seed) always gives the same learned values. Nothing here may change its inputs or the global
    random state.

    Class attributes state the traits of an evaluator; the board shows them.

    Args:
        map_shape: (D, H, W) of the maps.
        num_stages: K.
        config: seed, budget and recipe of the fit.
        device: for the computations; None is the CPU.

    Raises:
        ConfigError: the configuration names an ordinal head, and this evaluator has none.
    """

    name: ClassVar[str]
    """As typed on the command line."""
    differentiable: ClassVar[bool]
    """``log_probs`` passes a gradient to the maps, so RAL can use it."""
    channel_invariant: ClassVar[bool]
    """Any order of the channels gives the same answer."""
    any_shape: ClassVar[bool]
    """Takes maps of any D, H and W, not only of the shape it was fitted on."""
    deterministic: ClassVar[bool] = False
    """The fit does not depend on the seed."""
    takes_heads: ClassVar[bool] = False
    """Has the heads of ``fmcs_bench.evaluators.heads``, not softmax alone."""
    uses_recipe: ClassVar[bool] = False
    """The fit depends on ``config.recipe``, so a grid over it applies; true of all networks."""
    control: ClassVar[bool] = False
    """A reference to beat: it is on the board, and never chosen for training."""

    def __init__(
        self, map_shape: MapShape, num_stages: int, config: EvaluatorTrial, *, device: torch.device | None = None
    ) -> None:
        if config.head != "softmax" and not self.takes_heads:
            raise ConfigError(
                f"the evaluator {self.name} is no network, so it has no head {config.head!r}; leave the head out "
                "(softmax)"
            )
        self.map_shape, self.num_stages, self.config = map_shape, num_stages, config
        self.device = device or torch.device("cpu")

    @abstractmethod
    def fit(self, train: MapSet, validation: MapSet) -> list[Epoch]:
        """Learn from the training runs; stop or choose by the validation run.

        Returns:
            The learning curve; empty where nothing is learned.
        """

    @abstractmethod
    def predict_proba(self, maps_MDHW: np.ndarray) -> np.ndarray:
        """Probabilities of the stages. Each map's answer depends on that map alone.

        Args:
            maps_MDHW: float16; must not be changed.

        Returns:
            float32 [M, K]; every row sums to 1.

        Raises:
            ConfigError: the maps have a different shape and the evaluator is not of ``any_shape``.
        """

    @property
    @abstractmethod
    def num_parameters(self) -> int:
        """Number of learned values."""

    @abstractmethod
    def to_bytes(self) -> bytes:
        """The learned values as a safetensors file."""

    @abstractmethod
    def from_bytes(self, data: bytes) -> None:
        """Take the learned values of ``to_bytes``.

        Raises:
            DatasetError: these bytes are no such values; the evaluator stays as it was.
        """

    def log_probs(self, maps_BDHW: torch.Tensor) -> torch.Tensor:  # noqa: ARG002  (for subclasses)
        """Float32 maps -> log-probabilities of the stages [B, K], with a gradient to the maps.

        Raises:
            ConfigError: the evaluator is not differentiable, or as for ``predict_proba``.
        """
        raise ConfigError(f"the evaluator {self.name} is not differentiable; RAL needs one that is")

    def freeze(self) -> None:
        """Prepare for RAL: ``log_probs`` answers as ``predict_proba`` does, and learned values get no gradient.

        Raises:
            ConfigError: the evaluator is not differentiable.
        """
        raise ConfigError(f"the evaluator {self.name} is not differentiable; RAL needs one that is")

    def check_shape(self, maps_shape: Sequence[int]) -> None:
        """Check that the evaluator takes maps of this shape [M, D, H, W].

        Raises:
            ConfigError: it does not.
        """
        if len(maps_shape) != 4:
            raise ConfigError(f"maps have the shape [map, channel, y, x]; these have {list(maps_shape)}")
        if not self.any_shape and tuple(maps_shape[1:]) != self.map_shape:
            own, given = (" x ".join(map(str, shape)) for shape in (self.map_shape, maps_shape[1:]))
            raise ConfigError(
                f"the evaluator {self.name} takes maps of {own} (channels, height, width), not {given}; fit it on "
                "maps of that shape, or use an evaluator of any shape, such as set"
            )
