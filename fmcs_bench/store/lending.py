"""Memory that is lent again when nobody holds it any more: new memory costs an eighth of reading an epoch.

Flow: spare memory, or new -> an array on it, which all tensors and views made of it hold -> the last of them is gone ->
spare again.
"""

from __future__ import annotations

import math
import weakref
from collections import deque

import numpy as np


class Lending:
    """Lends memory for float16 arrays of one shape, or of fewer rows; threads may share it, and a pickled one is empty.

    Args:
        shape: of the largest array.
        max_spare: arrays whose memory is kept while nobody holds it.
    """

    def __init__(self, shape: tuple[int, ...], max_spare: int) -> None:
        self.shape, self.max_spare = shape, max_spare
        self._spare: deque[np.ndarray] = deque(maxlen=max_spare)

    def __reduce__(self) -> tuple[type[Lending], tuple[tuple[int, ...], int]]:
        return Lending, (self.shape, self.max_spare)

    def lend(self, rows: int) -> np.ndarray:
        """An array [rows, ...] with any content, for as long as it, or a view or tensor made of it, is held."""
        try:
            memory = self._spare.pop()
        except IndexError:
            memory = np.empty(math.prod(self.shape), np.float16)
        num = rows * math.prod(self.shape[1:])
        # NumPy lets views of a view hold what owns the memory; behind a memoryview that is this array, not ours.
        lent = np.frombuffer(memory.data, np.float16, count=num)
        weakref.finalize(lent, self._spare.append, memory).atexit = False
        return lent.reshape(rows, *self.shape[1:])
