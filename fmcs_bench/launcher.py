"""What ``torchrun``, or ``accelerate launch``, says to each process that it starts; without it there is one alone."""

from __future__ import annotations

import os

_SAID = ("WORLD_SIZE", "RANK", "LOCAL_RANK")


def num_processes() -> int:
    """How many processes were started together.

    Example:
        >>> num_processes()
        1
    """
    return int(os.environ["WORLD_SIZE"]) if all(name in os.environ for name in _SAID) else 1


def is_main() -> bool:
    """Whether this is the process that prints and writes; of those started together it is the first."""
    return num_processes() == 1 or os.environ["RANK"] == "0"
