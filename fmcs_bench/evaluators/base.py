"""The contract of an evaluator, and what all evaluators made of one network share.

Flow: maps of the training runs -> fit, stopped early by the MAE on the validation run -> probabilities of the K stages
for any maps; or, frozen, log-probabilities with a gradient to the maps.

Tensor names: M maps, B batch, D channels, H height, W width, K stages.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn
from torch.nn import functional as F  # noqa: N812  (torch's own short name)

from fmcs_bench import files
from fmcs_bench.config import EvaluatorConfig, Options
from fmcs_bench.errors import ConfigError, DatasetError
from fmcs_bench.objectives import freeze
from fmcs_bench.records import Epoch
from fmcs_bench.registry import Registry
from fmcs_bench.seeding import derive
from fmcs_bench.store import MapSet
from fmcs_bench.training import Batches, fit, predict

MapShape = tuple[int, int, int]
WEIGHTS = "evaluator.safetensors"
DESCRIPTION = "evaluator.json"


class Evaluator(ABC):
    """A judge of convergence.

    Subclasses state what they are in class attributes; the board shows it.

    Args:
        map_shape: (D, H, W) of the maps.
        num_stages: K.
        config: seed, budget and recipe of the fit.
        device: where it computes.
    """

    name: ClassVar[str]
    """As typed on the command line."""
    differentiable: ClassVar[bool]
    """``log_probs`` passes a gradient to the maps, so that RAL can use it."""
    channel_invariant: ClassVar[bool]
    """Any order of the channels gives the same answer."""
    any_shape: ClassVar[bool]
    """Takes maps of any D, H and W, not only of the shape it was fitted on."""

    def __init__(
        self, map_shape: MapShape, num_stages: int, config: EvaluatorConfig, *, device: torch.device | None = None
    ) -> None:
        self.map_shape, self.num_stages, self.config = map_shape, num_stages, config
        self.device = device or torch.device("cpu")

    @abstractmethod
    def fit(self, train: MapSet, validation: MapSet) -> list[Epoch]:
        """Learn from the training runs; stop or choose by the validation run. Returns the learning curve."""

    @abstractmethod
    def predict_proba(self, maps_MDHW: np.ndarray) -> np.ndarray:
        """Probabilities of the stages, float32 [M, K], of float16 maps, which stay as they are; every row sums to 1."""

    @property
    @abstractmethod
    def num_parameters(self) -> int:
        """Number of learned values."""

    @abstractmethod
    def to_bytes(self) -> bytes:
        """The learned values as a safetensors file."""

    @abstractmethod
    def from_bytes(self, data: bytes) -> None:
        """Take the learned values of ``to_bytes``."""


REGISTRY: Registry[type[Evaluator]] = Registry("evaluator", group="fmcs_bench.evaluators")


class NetworkEvaluator(Evaluator):
    """An evaluator made of one network: maps -> logits of the K stages.

    The maps are divided by the root mean square of the training maps before the network sees them. Fitting minimises
    cross-entropy (arXiv 2508.06109, eq. (2)) and keeps the weights of the epoch with the lowest validation MAE.
    A subclass gives ``make_network``.
    """

    differentiable = True

    def __init__(
        self, map_shape: MapShape, num_stages: int, config: EvaluatorConfig, *, device: torch.device | None = None
    ) -> None:
        super().__init__(map_shape, num_stages, config, device=device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(config.seed, "evaluator weights"))
            network = self.make_network()
        self.network = _Scaled(network).to(self.device)
        self.network.eval()

    @abstractmethod
    def make_network(self) -> nn.Module:
        """A network float32 [B, D, H, W] -> logits [B, K] with fresh random weights from torch's generator."""

    @property
    def num_parameters(self) -> int:
        """See ``Evaluator``."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    def fit(self, train: MapSet, validation: MapSet) -> list[Epoch]:
        """See ``Evaluator``."""
        squares = np.square(train.maps_MDHW, dtype=np.float32)
        self.network.scale.fill_(float(np.sqrt(squares.mean(dtype=np.float64))) or 1.0)
        train_batches, validation_batches = self._batches(train), self._batches(validation)
        best_mae, best_epoch, best_state = float("inf"), 0, self.network.state_dict()

        def validate(epoch: int, loss: float) -> dict[str, float | bool]:
            nonlocal best_mae, best_epoch, best_state
            stages_M = predict(self.network, validation_batches).argmax(dim=1)
            mae = float((stages_M - validation_batches.targets_N).abs().double().mean())
            if mae < best_mae:
                best_mae, best_epoch = mae, epoch
                best_state = {name: value.clone() for name, value in self.network.state_dict().items()}
            return {"loss": loss, "mae": mae, "stop": epoch - best_epoch >= self.config.patience}

        history = fit(
            self.network,
            train_batches,
            lambda model, maps, stages: F.cross_entropy(model(maps), stages),
            self.config.recipe,
            epochs=self.config.epochs,
            seed=derive(self.config.seed, "evaluator fit"),
            after_epoch=validate,
        )
        self.network.load_state_dict(best_state)
        self.network.eval()
        return [
            Epoch(epoch=i, train_loss=note["loss"], validation=note["mae"])
            for i, note in enumerate(history.epoch_notes, start=1)
        ]

    def predict_proba(self, maps_MDHW: np.ndarray) -> np.ndarray:
        """See ``Evaluator``."""
        maps = torch.from_numpy(np.require(maps_MDHW, requirements=["C", "W"])).to(self.device)
        batches = Batches(maps, torch.zeros(len(maps), dtype=torch.int64, device=self.device), _as_float)
        probs_MK: np.ndarray = predict(self.network, batches).softmax(dim=1).cpu().numpy()
        return probs_MK

    def log_probs(self, maps_BDHW: torch.Tensor) -> torch.Tensor:
        """Maps -> log-probabilities of the stages [B, K], with a gradient to the maps."""
        log_probs_BK: torch.Tensor = self.network(maps_BDHW).log_softmax(dim=1)
        return log_probs_BK

    def freeze(self) -> None:
        """Make the network a judge: eval mode, no gradient to its parameters."""
        freeze(self.network)

    def to_bytes(self) -> bytes:
        """See ``Evaluator``."""
        return save({name: value.contiguous().cpu() for name, value in self.network.state_dict().items()})

    def from_bytes(self, data: bytes) -> None:
        """See ``Evaluator``."""
        try:
            self.network.load_state_dict(load(data))
        except (SafetensorError, RuntimeError) as error:
            raise DatasetError(f"these are no weights of the evaluator {self.name}: {error}") from None
        self.network.eval()

    def _batches(self, maps: MapSet) -> Batches:
        return Batches(
            torch.from_numpy(maps.maps_MDHW).to(self.device),
            torch.from_numpy(maps.stages_M).to(self.device),
            _as_float,
        )


class _Scaled(nn.Module):
    """Divides by the root mean square of the training maps, then applies the network."""

    scale: torch.Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(()))
        self.network = network

    def forward(self, maps_BDHW: torch.Tensor) -> torch.Tensor:
        logits_BK: torch.Tensor = self.network(maps_BDHW / self.scale)
        return logits_BK


def _as_float(maps: torch.Tensor) -> torch.Tensor:
    return maps.float()


class FittedInfo(Options):
    """Content of ``evaluator.json`` beside the learned values: what is needed to make the evaluator again."""

    config: EvaluatorConfig
    map_shape: MapShape
    num_stages: int
    dataset_id: str
    sha256: str


@dataclass(frozen=True)
class Fitted:
    """A fitted evaluator that was loaded, with its digest."""

    evaluator: Evaluator
    info: FittedInfo


def create(
    config: EvaluatorConfig, map_shape: MapShape, num_stages: int, *, device: torch.device | None = None
) -> Evaluator:
    """An unfitted evaluator by name.

    Raises:
        UnknownNameError: no such evaluator.

    Example:
        >>> create(EvaluatorConfig(evaluator="norm", seed=0), (8, 4, 4), 7).channel_invariant
        True
    """
    return REGISTRY[config.evaluator](map_shape, num_stages, config, device=device)


def save_fitted(evaluator: Evaluator, dataset_id: str, folder: Path) -> str:
    """Write a fitted evaluator to a folder; returns the SHA-256 of its learned values."""
    data = evaluator.to_bytes()
    path = folder / WEIGHTS
    files.write_atomically(path, data)
    info = FittedInfo(
        config=evaluator.config,
        map_shape=evaluator.map_shape,
        num_stages=evaluator.num_stages,
        dataset_id=dataset_id,
        sha256=files.sha256_of_file(path),
    )
    files.write_atomically(folder / DESCRIPTION, files.to_json(info.to_json()))
    return info.sha256


def load_fitted(folder: Path, *, device: torch.device | None = None) -> Fitted:
    """Read an evaluator that ``save_fitted`` wrote; its digest is checked first.

    Raises:
        DatasetError: files are missing, damaged, or not those that the description names.
    """
    try:
        info = FittedInfo.from_json(json.loads((folder / DESCRIPTION).read_bytes()))
        data = (folder / WEIGHTS).read_bytes()
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, ConfigError) as error:
        raise DatasetError(f"there is no fitted evaluator in {folder}: {error}") from None
    if files.sha256_of_file(folder / WEIGHTS) != info.sha256:
        raise DatasetError(f"{folder / WEIGHTS} is not the file that evaluator.json names")
    evaluator = create(info.config, info.map_shape, info.num_stages, device=device)
    evaluator.from_bytes(data)
    return Fitted(evaluator, info)
