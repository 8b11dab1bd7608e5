"""Several processes that train one network together, one device each; most often there is only this one.

Flow: ``torchrun`` or ``accelerate launch`` starts the same program several times -> each takes its share of every batch
-> gradients, losses and running statistics are averaged, and what the main process says is sent to the others.

Accelerate's ``PartialState`` finds the processes and joins them. Its ``Accelerator`` is not used: that keeps precision,
device and settings of the launcher for the whole life of a process, and here each training has its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from fmcs_bench.core.errors import ConfigError, FmcsBenchError

Value = TypeVar("Value")
SMALLEST_SHARE = 2
"""Examples of a batch that each process needs: batch norm cannot normalise one."""
WAIT = timedelta(hours=12)
"""That a process may wait for the others, as while the main one validates; the launcher notices those that died."""


@dataclass(frozen=True)
class Processes:
    """All processes of a training, seen from one of them.

    Attributes:
        num: how many there are.
        rank: of this one, from 0; 0 is the main process.
    """

    num: int = 1
    rank: int = 0

    @classmethod
    def join(cls, device: torch.device) -> Processes:
        """The processes that were started together; with no launcher, this one alone.

        Args:
            device: of this process, where its model and its data are.

        Raises:
            ConfigError: the launcher asks for something that is not supported, or this process got another device.

        Example:
            >>> Processes.join(torch.device("cpu"))
            Processes(num=1, rank=0)
        """
        from accelerate import DistributedType, PartialState  # most commands train nothing

        state = PartialState(cpu=device.type == "cpu", timeout=WAIT)
        if state.num_processes == 1:
            return cls()
        if state.distributed_type not in (DistributedType.MULTI_CPU, DistributedType.MULTI_GPU):
            raise ConfigError(
                f"several processes of the kind {state.distributed_type.value} are not supported; launch with "
                "torchrun, or with accelerate launch --multi_gpu or --cpu"
            )
        own = torch.device("cuda", torch.cuda.current_device()) if device == torch.device("cuda") else device
        if own != state.device and not own.type == state.device.type == "cpu":
            raise ConfigError(
                f"process {state.process_index} of {state.num_processes} trains on {own}, but was given "
                f"{state.device}; let choose_device find it (--device auto)"
            )
        return cls(state.num_processes, state.process_index)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def share(self, index_B: torch.Tensor) -> torch.Tensor:
        """What this process takes of a batch; shares differ by at most one example.

        Raises:
            ConfigError: the batch is too small for so many processes.

        Example:
            >>> [Processes(2, rank).share(torch.arange(5)).tolist() for rank in (0, 1)]
            [[0, 1, 2], [3, 4]]
        """
        if self.num == 1:
            return index_B
        if len(index_B) < SMALLEST_SHARE * self.num:
            raise ConfigError(
                f"a batch of {len(index_B)} examples for {self.num} processes; each needs {SMALLEST_SHARE}: use a "
                "larger --batch-size, more images or fewer processes"
            )
        return index_B.tensor_split(self.num)[self.rank]

    def weighted(self, loss: torch.Tensor, share: int, batch: int) -> torch.Tensor:
        """The mean loss over a share, so that the mean over the processes is the mean over the batch."""
        return loss if self.num == 1 else loss * (self.num * share / batch)

    def joined(self, module: nn.Module) -> nn.Module:
        """The module, with gradients that are averaged over the processes; its ``forward`` has to give the loss."""
        if self.num == 1:
            return module
        # RAF = 0 leaves the classifier without a gradient; batch statistics are averaged below, not the main one's.
        with warnings.catch_warnings():
            # Newer versions have another word for it, which the older ones do not know.
            warnings.filterwarnings("ignore", ".*broadcast_buffers.* is deprecated", FutureWarning)
            return DistributedDataParallel(module, find_unused_parameters=True, broadcast_buffers=False)

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean over the processes."""
        if self.num == 1:
            return values
        from accelerate.utils import reduce

        averaged: torch.Tensor = reduce(values, "mean")
        return averaged

    def average_statistics(self, model: nn.Module) -> None:
        """Give batch norm the mean of the processes' running statistics, in place; each saw its share only."""
        if self.num == 1:
            return
        layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
        own = [x for m in layers for x in (m.running_mean, m.running_var) if x is not None]
        if own:
            averaged = self.mean(torch.cat(own))
            for x in own:
                x.copy_(averaged[: len(x)])
                averaged = averaged[len(x) :]

    def done_by_main(self, do: Callable[[], Value]) -> Value:
        """What ``do`` gives in the main process, in all of them; what it raises there is raised in all of them.

        So that an error which ends this training, and not the others, leaves no process behind.
        """
        if self.num == 1:
            return do()
        value: Value | None = None
        error: Exception | None = None
        if self.is_main:
            try:
                value = do()
            except Exception as raised:  # noqa: BLE001  (raised below)
                error = raised
        told = error if isinstance(error, FmcsBenchError) or error is None else RuntimeError(repr(error))
        value, told = self.from_main((value, told))
        if told is not None:
            raise error or told
        return value  # type: ignore[return-value]  # None only where that is what it gave

    def from_main(self, value: Value) -> Value:
        """The main process's value, in all of them."""
        if self.num == 1:
            return value
        from accelerate.utils import broadcast_object_list

        box = [value]
        broadcast_object_list(box)
        return box[0]
