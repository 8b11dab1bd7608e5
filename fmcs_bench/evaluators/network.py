"""Evaluators made of one network."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from fmcs_bench.core.errors import ConfigError, DatasetError
from fmcs_bench.core.seeding import derive
from fmcs_bench.evaluators.base import Evaluator, MapShape
from fmcs_bench.evaluators.heads import HEADS, Head
from fmcs_bench.results.records import Epoch
from fmcs_bench.results.trials import EvaluatorTrial
from fmcs_bench.store.selection import MapSet
from fmcs_bench.training.loop import Batches, fit, predict
from fmcs_bench.training.losses import freeze

PART_VALUES = 2**24
"""Values of maps that are squared at once: 64 MB."""


class NetworkEvaluator(Evaluator):
    """An evaluator made of one network: maps -> outputs, which the head turns into probabilities of the K stages.

    The maps are divided by the root mean square of the training maps before the network sees them. Fitting minimises
    the loss of the head (softmax: cross-entropy, arXiv 2508.06109, eq. (2)) and keeps the weights of the epoch with the
    lowest validation MAE. A subclass gives ``make_network`` and its class attributes.
    """

    differentiable = True
    takes_heads = True
    uses_recipe = True

    def __init__(
        self, map_shape: MapShape, num_stages: int, config: EvaluatorTrial, *, device: torch.device | None = None
    ) -> None:
        super().__init__(map_shape, num_stages, config, device=device)
        self.head = HEADS[config.head](num_stages)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(config.seed, "evaluator weights"))
            network = self.make_network()
        self.network = _Scaled(network, self.head).to(self.device)
        self.network.eval()

    @abstractmethod
    def make_network(self) -> nn.Module:
        """A network float32 [B, D, H, W] -> [B, ``num_outputs``] with fresh random weights from torch's generator."""

    @property
    def num_outputs(self) -> int:
        """Number of outputs of the network: K with softmax, fewer with the ordinal heads."""
        return self.head.num_outputs

    @property
    def num_parameters(self) -> int:
        """See ``Evaluator``."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    def fit(self, train: MapSet, validation: MapSet) -> list[Epoch]:
        """See ``Evaluator``."""
        train_batches, validation_batches = self._batches(train), self._batches(validation)
        self.network.scale.fill_(_root_mean_square(train.maps_MDHW) or 1.0)
        best_mae, best_epoch = float("inf"), 0

        def validate(epoch: int, loss: float) -> dict[str, float | bool]:
            nonlocal best_mae, best_epoch
            stages_M = self.head.stages(predict(self.network, validation_batches))
            mae = float((stages_M - validation_batches.targets_N).abs().double().mean())
            if mae < best_mae:
                best_mae, best_epoch = mae, epoch
            stop = epoch - best_epoch >= self.config.patience
            return {"loss": loss, "mae": mae, "minus_mae": -mae, "stop": stop}

        history = fit(
            self.network,
            train_batches,
            lambda model, maps, stages: self.head.loss(model(maps), stages),
            self.config.recipe,
            epochs=self.config.epochs,
            seed=derive(self.config.seed, "evaluator fit"),
            after_epoch=validate,
            best_by="minus_mae",
        )
        self.network.zero_grad()  # left by the last step
        return [
            Epoch(epoch=i, train_loss=note["loss"], validation=note["mae"])
            for i, note in enumerate(history.epoch_notes, start=1)
        ]

    @torch.no_grad()
    def predict_proba(self, maps_MDHW: np.ndarray) -> np.ndarray:
        """See ``Evaluator``."""
        self.check_shape(maps_MDHW.shape)
        maps = torch.from_numpy(np.require(maps_MDHW, requirements=["C", "W"])).to(self.device)
        batches = Batches(maps, torch.zeros(len(maps), dtype=torch.int64, device=self.device), _as_float)
        probs_MK: np.ndarray = self.head.probs(predict(self.network, batches)).cpu().numpy()
        return probs_MK

    def log_probs(self, maps_BDHW: torch.Tensor) -> torch.Tensor:
        """See ``Evaluator``."""
        self.check_shape(maps_BDHW.shape)
        return self.head.log_probs(self.network(maps_BDHW))

    def freeze(self) -> None:
        """See ``Evaluator``: eval mode, no gradient to the parameters."""
        freeze(self.network)

    def to_bytes(self) -> bytes:
        """See ``Evaluator``."""
        return save({name: value.contiguous().cpu() for name, value in self.network.state_dict().items()})

    def from_bytes(self, data: bytes) -> None:
        """See ``Evaluator``."""
        try:
            self.network.load_state_dict(load(data))
        except (SafetensorError, RuntimeError) as error:
            raise DatasetError(f"these are no weights of the evaluator {self.config.method}: {error}") from None
        self.network.eval()

    def _batches(self, maps: MapSet) -> Batches:
        self.check_shape(maps.maps_MDHW.shape)
        return Batches(
            torch.from_numpy(maps.maps_MDHW).to(self.device),
            torch.from_numpy(maps.stages_M).to(self.device),
            _as_float,
        )


class _Scaled(nn.Module):
    """Divides by the root mean square of the training maps, then applies network and head."""

    scale: torch.Tensor

    def __init__(self, network: nn.Module, head: Head) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(()))
        self.network = network
        self.head = head

    def forward(self, maps_BDHW: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.network(maps_BDHW / self.scale)
        if outputs.shape[1:] != (self.head.num_outputs,):
            raise ConfigError(
                f"a network gives {list(outputs.shape[1:])} values for each map, and {type(self.head).__name__} needs "
                f"[{self.head.num_outputs}]; end the network with nn.Linear(width, self.num_outputs)"
            )
        logits: torch.Tensor = self.head(outputs)
        return logits


class Apply(nn.Module):
    """A function of maps without parameters, as a module."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, maps_BDHW: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return self.function(maps_BDHW)


def perceptron(num_inputs: int, width: int, num_outputs: int) -> tuple[nn.Module, ...]:
    """Batch norm, two hidden layers, a linear layer."""
    hidden = (nn.Linear(num_inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
    return nn.BatchNorm1d(num_inputs), *hidden, nn.Linear(width, num_outputs)


def _root_mean_square(maps_MDHW: np.ndarray) -> float:
    """Of all values, in parts: their squares in float32 would take twice the memory of the maps."""
    step = max(1, PART_VALUES // max(1, int(np.prod(maps_MDHW.shape[1:]))))
    parts = (maps_MDHW[start : start + step] for start in range(0, len(maps_MDHW), step))
    total = sum(float(np.square(part, dtype=np.float32).sum(dtype=np.float64)) for part in parts)
    return math.sqrt(total / maps_MDHW.size)


def _as_float(maps: torch.Tensor) -> torch.Tensor:
    return maps.float()
