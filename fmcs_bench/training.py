"""The only training loop: it trains backbones for runs, RAL and DueHeadNet, and fits evaluator networks.

Flow: uint8 images or float16 maps on the device -> batches in an order that the seed decides -> loss of the objective
-> optimiser -> history. What happens after a step or an epoch (checkpoints, validation) comes in as a function whose
answer the history keeps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fmcs_bench.config import Precision, Recipe
from fmcs_bench.errors import ConfigError, DivergedError
from fmcs_bench.seeding import derive

Loss = Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]
SECONDS_BETWEEN_STATES = 20.0


@dataclass(frozen=True)
class Batches:
    """Examples on a device, and how they become the input of a network.

    Attributes:
        inputs: [N, ...], of any dtype.
        targets_N: int64.
        prepare: inputs of a batch -> float32 input of the network.
    """

    inputs: torch.Tensor
    targets_N: torch.Tensor
    prepare: Callable[[torch.Tensor], torch.Tensor]

    def __len__(self) -> int:
        return len(self.targets_N)

    def num_steps(self, batch_size: int) -> int:
        """Steps of one epoch."""
        return -(-len(self) // batch_size)

    def in_order(self, order_N: torch.Tensor, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Every example once, in ``ceil(N / batch_size)`` batches whose sizes differ by at most one.

        Equal parts instead of a small rest: nothing is dropped, and batch norm never sees a batch of one.
        """
        for index_B in order_N.tensor_split(self.num_steps(batch_size)):
            yield self.prepare(self.inputs[index_B]), self.targets_N[index_B]


@dataclass
class History:
    """What a training leaves behind besides the weights.

    Attributes:
        losses: one training loss per step, in nats.
        step_notes: answers of ``after_step`` that are not None.
        epoch_notes: answers of ``after_epoch``; one per finished epoch.
    """

    losses: list[float] = field(default_factory=list)
    step_notes: list[dict[str, Any]] = field(default_factory=list)
    epoch_notes: list[dict[str, Any]] = field(default_factory=list)


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
) -> History:
    """Train ``model`` in place.

    Order of batches and noise (dropout) come from ``seed`` and the epoch alone: two methods with one seed see the same
    batches, and a resumed training goes on as if it had never stopped.

    Args:
        model: the network; only parameters that require gradients are trained.
        data: the training examples.
        loss: (model, inputs, targets) -> scalar.
        recipe: optimiser, schedule (annealed over ``epochs``, per step) and batch size.
        epochs: at least 1.
        seed: of order and noise; weights are the caller's affair.
        state_path: where the state is kept about every 20 seconds, and found again after a kill; removed at the end.
        after_step: called with the number of steps done; its answer, if any, is kept.
        after_epoch: called with the number of epochs done and the epoch's mean loss; its answer is kept, and one with
            ``"stop": True`` ends the training.

    Raises:
        DivergedError: a loss is NaN or infinite.
    """
    optimizer, scheduler = _optimizer(model, recipe, epochs * data.num_steps(recipe.batch_size))
    history, first_epoch = _resume(state_path, model, optimizer, scheduler)
    saved = time.monotonic()
    for epoch in range(first_epoch, epochs):
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(derive(seed, "order", epoch)))
        losses: list[torch.Tensor] = []
        with torch.random.fork_rng(devices=_cuda_devices(data.inputs.device)):
            torch.manual_seed(derive(seed, "noise", epoch))
            model.train()
            for inputs, targets_B in data.in_order(order.to(data.inputs.device), recipe.batch_size):
                optimizer.zero_grad(set_to_none=True)
                with autocast(inputs.device, recipe.precision):
                    value = loss(model, inputs, targets_B)
                value.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
                optimizer.step()
                scheduler.step()
                losses.append(value.detach())
                note = after_step(len(history.losses) + len(losses)) if after_step else None
                if note is not None:
                    history.step_notes.append(note)
                    model.train()
        history.losses.extend(_finite(losses, epoch))
        mean = sum(history.losses[-len(losses) :]) / len(losses)
        history.epoch_notes.append(after_epoch(epoch + 1, mean) if after_epoch else {})
        if history.epoch_notes[-1].get("stop"):
            break
        if state_path is not None and time.monotonic() - saved > SECONDS_BETWEEN_STATES:
            _save(state_path, model, optimizer, scheduler, history)
            saved = time.monotonic()
    if state_path is not None:
        state_path.unlink(missing_ok=True)
    model.eval()
    return history


@torch.no_grad()
def predict(
    model: nn.Module, data: Batches, *, batch_size: int = 512, precision: Precision = "float32"
) -> torch.Tensor:
    """Outputs of ``model`` in eval mode for all examples in order, float32 [N, ...]; the model stays in eval mode."""
    model.eval()
    order = torch.arange(len(data), device=data.inputs.device)
    with autocast(data.inputs.device, precision):
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
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device {name!r} cannot be used here ({reason}); use auto, cpu or cuda") from None
    return device


def _optimizer(
    model: nn.Module, recipe: Recipe, num_steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer: torch.optim.Optimizer
    if recipe.optimizer == "sgd":
        optimizer = torch.optim.SGD(parameters, recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    else:
        kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
        optimizer = kind(parameters, recipe.lr, weight_decay=recipe.weight_decay)
    if recipe.schedule == "cosine":
        return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=num_steps)
    return optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)


def _finite(losses: list[torch.Tensor], epoch: int) -> list[float]:
    values = torch.stack(losses).double()
    if not bool(values.isfinite().all()):
        step = int((~values.isfinite()).nonzero()[0]) + 1
        raise DivergedError(f"the training loss is {float(values[step - 1])} at step {step} of epoch {epoch + 1}")
    return [float(value) for value in values.tolist()]


def _cuda_devices(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []


def _save(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    history: History,
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "history": asdict(history),
    }
    torch.save(state, part)
    part.replace(path)


def _resume(
    path: Path | None,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
) -> tuple[History, int]:
    if path is None or not path.exists():
        return History(), 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    history = History(**state["history"])
    return history, len(history.epoch_notes)
