"""The contract of an evaluator.

Flow: maps of the training runs -> fit, stopped or chosen by the MAE on the validation run -> probabilities of the K
stages for any maps; or, where it is differentiable, log-probabilities with a gradient to the maps.

``fmcs_bench.testing.conformance.EvaluatorConformance`` checks every sentence of this file.
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


class Evaluator(ABC):
    """A judge of convergence.

    Subclasses state what they are in class attributes; the board shows it.

    Args:
        map_shape: (D, H, W) of the maps.
        num_stages: K.
        config: seed, budget and recipe of the fit.
        device: where it computes.

    Raises:
        ConfigError: the configuration names an ordinal head, and this evaluator has none.
    """

    name: ClassVar[str]
    """As typed on the command line."""
    differentiable: ClassVar[bool]
    """``log_probs`` passes a gradient to the maps, so that RAL can use it."""
    channel_invariant: ClassVar[bool]
    """Any order of the channels gives the same answer."""
    any_shape: ClassVar[bool]
    """Takes maps of any D, H and W, not only of the shape it was fitted on."""
    deterministic: ClassVar[bool] = False
    """The seed decides nothing: every seed gives the same fit."""
    takes_heads: ClassVar[bool] = False
    """Has the heads of ``fmcs_bench.evaluators.heads``, not softmax alone."""
    uses_recipe: ClassVar[bool] = False
    """``config.recipe`` decides the fit, so that a grid over it applies; all networks do."""
    control: ClassVar[bool] = False
    """Made to be beaten; it is on the board, and never chosen for training."""

    def __init__(
        self, map_shape: MapShape, num_stages: int, config: EvaluatorTrial, *, device: torch.device | None = None
    ) -> None:
        if config.head != "softmax" and not self.takes_heads:
            raise ConfigError(
                f"the evaluator {self.name} has no network that the head {config.head!r} could sit on; "
                "leave the head out (softmax)"
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
        """Probabilities of the stages, float32 [M, K], of float16 maps, which stay as they are; every row sums to 1.

        A map's answer depends on that map alone.

        Raises:
            ConfigError: the maps have another shape and the evaluator is not of ``any_shape``.
        """

    def log_probs(self, maps_BDHW: torch.Tensor) -> torch.Tensor:  # noqa: ARG002  (for subclasses)
        """Float32 maps -> log-probabilities of the stages [B, K], with a gradient to the maps.

        Raises:
            ConfigError: the evaluator is not differentiable, or as for ``predict_proba``.
        """
        raise ConfigError(f"the evaluator {self.name} is not differentiable; RAL needs one that is")

    def freeze(self) -> None:
        """Make it a judge: ``log_probs`` answers as ``predict_proba`` does, and learned values get no gradient.

        Raises:
            ConfigError: the evaluator is not differentiable.
        """
        raise ConfigError(f"the evaluator {self.name} is not differentiable; RAL needs one that is")

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
            DatasetError: these are none; the evaluator stays as it was.
        """

    def check_shape(self, maps_shape: Sequence[int]) -> None:
        """Maps of this shape [M, D, H, W] can be judged.

        Raises:
            ConfigError: they cannot.
        """
        if len(maps_shape) != 4:
            raise ConfigError(f"maps have the shape [map, channel, y, x]; these have {list(maps_shape)}")
        if not self.any_shape and tuple(maps_shape[1:]) != self.map_shape:
            own, given = (" x ".join(map(str, shape)) for shape in (self.map_shape, maps_shape[1:]))
            raise ConfigError(
                f"the evaluator {self.name} takes maps of {own} (channels, height, width), not {given}; fit it on "
                "maps of that shape, or use an evaluator of any shape, such as set"
            )
