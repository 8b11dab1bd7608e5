"""The only training loop: it trains backbones for runs, RAL and DueHeadNet, and fits evaluator networks.

What happens after a step or an epoch (checkpoints, validation) is a function whose answer the history keeps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler

from fmcs_bench.core.errors import ConfigError, DivergedError
from fmcs_bench.core.seeding import derive
from fmcs_bench.training.augmentation import Augmentation
from fmcs_bench.training.recipes import Precision, Recipe

Loss = Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]
Reader = Callable[[Sequence[np.ndarray]], Iterator[torch.Tensor]]
"""Row numbers of each batch -> inputs of each batch, on the device, in this order."""
SECONDS_BETWEEN_STATES = 20.0


@dataclass(frozen=True)
class Batches:
    """Examples, and how they become the input of a network.

    Attributes:
        inputs: [N, ...], of any dtype, on the device; or a function that reads them batch by batch.
        targets_N: int64, on the device.
        prepare: inputs of a batch -> float32 input of the network.
    """

    inputs: torch.Tensor | Reader
    targets_N: torch.Tensor
    prepare: Callable[[torch.Tensor], torch.Tensor]

    def __len__(self) -> int:
        return len(self.targets_N)

    @property
    def device(self) -> torch.device:
        """Where the batches are."""
        return self.targets_N.device

    def num_steps(self, batch_size: int) -> int:
        """Steps of one epoch."""
        return -(-len(self) // batch_size)

    def in_order(
        self,
        order_N: torch.Tensor,
        batch_size: int,
        augment: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Input of the network and targets of each batch.

        The ``ceil(N / batch_size)`` batches differ by at most one example: nothing is dropped, and batch norm never
        sees a batch of one. ``augment`` takes prepared inputs and row numbers.
        """
        parts = order_N.to(self.device).tensor_split(self.num_steps(batch_size))
        found: Iterator[torch.Tensor]
        if isinstance(self.inputs, torch.Tensor):
            found = map(self.inputs.__getitem__, parts)
        else:
            found = self.inputs([part.cpu().numpy() for part in parts])
        for index_B, inputs in zip(parts, found, strict=True):
            prepared = self.prepare(inputs)
            yield prepared if augment is None else augment(prepared, index_B), self.targets_N[index_B]


@dataclass
class History:
    """The results of a training besides the weights.

    Attributes:
        losses: one training loss per step, in nats.
        step_notes: answers of ``after_step`` that are not None.
        epoch_notes: answers of ``after_epoch``; one per finished epoch.
        best_epoch: from 1, the epoch of the final weights; None where ``best_by`` was not used.
    """

    losses: list[float] = field(default_factory=list)
    step_notes: list[dict[str, Any]] = field(default_factory=list)
    epoch_notes: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int | None = None


def fit(
    model: nn.Module,
    data: Batches,
    loss: Loss,
    recipe: Recipe,
    *,
    epochs: int,
    seed: int,
    state_path: Path | None = None,
    after_step: Callable[[int], dict[str, Any] | None] | None = None,
    after_epoch: Callable[[int, float], dict[str, Any]] | None = None,
    best_by: str | None = None,
) -> History:
    """Train ``model`` in place.

    Order of batches, augmentation and noise (dropout) come from ``seed`` and the epoch alone: two methods with one seed
    see the same batches, and a resumed training goes on as if it had never stopped.

    Args:
        model: the network; only parameters that require gradients are trained.
        data: the training examples.
        loss: (model, inputs, targets) -> scalar, a mean over the batch.
        recipe: optimiser, schedule (annealed over ``epochs``, per step), batch size, precision and augmentation.
        epochs: at least 1.
        seed: of order, augmentation and noise; the caller has set the weights.
        state_path: where the state is saved about every 20 seconds, and found again after a kill; removed at the end.
        after_step: called with the number of steps done; the history keeps answers that are not None.
        after_epoch: called with the number of epochs done and the epoch's mean loss; the history keeps the answer, and
            ``"stop": True`` in it ends the training.
        best_by: key of the answers of ``after_epoch``: the model ends with the weights of the epoch with the highest
            value, the first of equals. None keeps those of the last epoch.

    Raises:
        DivergedError: a loss, or a value of ``best_by``, is NaN or infinite.
    """
    optimizer = _optimizer(model, recipe)
    scheduler = _scheduler(optimizer, recipe, epochs * data.num_steps(recipe.batch_size))
    state = _State(model, optimizer, scheduler)
    state.resume(state_path)
    history, saved = state.history, time.monotonic()
    for epoch in range(len(history.epoch_notes), epochs):
        order_N = torch.randperm(len(data), generator=torch.Generator().manual_seed(derive(seed, "order", epoch)))
        augment = Augmentation.of(recipe, len(data), seed=derive(seed, "augmentation", epoch), device=data.device)
        losses: list[torch.Tensor] = []
        with torch.random.fork_rng(devices=[data.device] if data.device.type == "cuda" else []):
            torch.manual_seed(derive(seed, "noise", epoch))
            model.train()
            for inputs, targets_B in data.in_order(order_N, recipe.batch_size, augment):
                optimizer.zero_grad(set_to_none=True)
                with autocast(inputs.device, recipe.precision):
                    value = loss(model, inputs, targets_B)
                value.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
                optimizer.step()
                scheduler.step()
                losses.append(value.detach())
                if after_step is not None and (note := after_step(len(history.losses) + len(losses))) is not None:
                    history.step_notes.append(note)
                    model.train()
        history.losses += _finite(torch.stack(losses), epoch)
        mean = sum(history.losses[-len(losses) :]) / len(losses)
        history.epoch_notes.append({} if after_epoch is None else after_epoch(epoch + 1, mean))
        if best_by is not None:
            state.keep_best(best_by)
        if history.epoch_notes[-1].get("stop"):
            break
        if state_path is not None and time.monotonic() - saved > SECONDS_BETWEEN_STATES:
            state.save(state_path)
            saved = time.monotonic()
    state.finish(state_path)
    return history


@torch.no_grad()
def predict(
    model: nn.Module, data: Batches, *, batch_size: int = 512, precision: Precision = "float32"
) -> torch.Tensor:
    """Outputs of ``model`` in eval mode for all examples in order, float32 [N, ...]; the model stays in eval mode."""
    model.eval()
    order = torch.arange(len(data))
    with autocast(data.device, precision):
        return torch.cat([model(inputs).float() for inputs, _ in data.in_order(order, batch_size)])


def accuracy(model: nn.Module, data: Batches, *, precision: Precision = "float32") -> float:
    """Share of the examples whose largest output is their target."""
    return float((predict(model, data, precision=precision).argmax(dim=1) == data.targets_N).double().mean())


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Where a network computes in this precision; with float32 it changes nothing."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def choose_device(name: str) -> torch.device:
    """The device of that name; ``auto`` is CUDA where torch has one, else the CPU.

    Raises:
        ConfigError: no such device, or torch cannot use it here; there is no fallback.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device {name!r} cannot be used here ({reason}); use auto, cpu or cuda") from None
    return device


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(parameters, recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, recipe.lr, weight_decay=recipe.weight_decay)


def _scheduler(optimizer: torch.optim.Optimizer, recipe: Recipe, num_steps: int) -> LRScheduler:
    if recipe.schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=num_steps)
    return ConstantLR(optimizer, factor=1.0)


def _finite(losses: torch.Tensor, epoch: int) -> list[float]:
    values = losses.double()
    if not bool(values.isfinite().all()):
        step = int((~values.isfinite()).nonzero()[0]) + 1
        message = f"the training loss is {float(values[step - 1])} at step {step} of epoch {epoch + 1}"
        raise DivergedError(message, epoch + 1)
    return [float(value) for value in values.tolist()]


@dataclass
class _State:
    """What a training needs to go on after a kill."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: LRScheduler
    history: History = field(default_factory=History)
    best: dict[str, torch.Tensor] | None = None

    def keep_best(self, best_by: str) -> None:
        """Keep the weights if the last epoch is the best so far."""
        notes, best_epoch = self.history.epoch_notes, self.history.best_epoch
        value = notes[-1][best_by]
        if not math.isfinite(value):
            raise DivergedError(f"{best_by} is {value} after epoch {len(notes)}", len(notes))
        if best_epoch is None or value > notes[best_epoch - 1][best_by]:
            self.history.best_epoch = len(notes)
            self.best = {name: weights.clone() for name, weights in self.model.state_dict().items()}

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        torch.save(
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict(),
                "history": asdict(self.history),
                "best": self.best,
            },
            part,
        )
        part.replace(path)

    def resume(self, path: Path | None) -> None:
        """Go on where ``path`` was saved, if it was."""
        if path is None or not path.exists():
            return
        found = torch.load(path, map_location="cpu", weights_only=True)
        self.model.load_state_dict(found["model"])
        self.optimizer.load_state_dict(found["optimizer"])
        self.scheduler.load_state_dict(found["scheduler"])
        self.history, self.best = History(**found["history"]), found["best"]

    def finish(self, path: Path | None) -> None:
        """Give the model its final weights, in eval mode, and remove the file."""
        if self.best is not None:
            self.model.load_state_dict(self.best)
        self.model.eval()
        if path is not None:
            path.unlink(missing_ok=True)
            path.with_suffix(".part").unlink(missing_ok=True)  # left by a kill during a save
