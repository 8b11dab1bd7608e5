"""Memory comes back when the last view of it is gone, and not before."""

import gc
import pickle

import numpy as np
import pytest
import torch

from fmcs_bench.store.lending import Lending

SHAPE = (4, 3, 2)


def address(array):
    return array.__array_interface__["data"][0]


def test_memory_is_lent_again():
    lending = Lending(SHAPE, 4)
    first = lending.lend(4)
    assert (first.shape, first.dtype) == (SHAPE, np.float16)
    assert first.flags.writeable
    place = address(first)
    assert address(lending.lend(4)) != place  # the first is still held
    del first
    small = lending.lend(1)
    assert small.shape == (1, 3, 2)
    assert address(small) == place


@pytest.mark.parametrize(
    "keep",
    [
        lambda array: array[1:3],
        lambda array: array[1:3][:, 1].T,
        lambda array: array.reshape(-1).view(np.uint8),
        torch.from_numpy,
        lambda array: torch.from_numpy(array)[2],
        lambda array: torch.from_numpy(array).numpy()[0],
        lambda array: torch.from_numpy(array).untyped_storage(),
        lambda array: np.from_dlpack(torch.from_numpy(array)),
        memoryview,
    ],
    ids=["slice", "view of view", "bytes", "tensor", "row", "array of tensor", "storage", "dlpack", "buffer"],
)
def test_what_is_still_held_is_not_lent(keep):
    lending = Lending(SHAPE, 4)
    array = lending.lend(4)
    place = address(array)
    kept = keep(array)
    del array
    gc.collect()
    others = [lending.lend(4) for _ in range(3)]
    assert place not in [address(other) for other in others]
    del kept
    gc.collect()
    assert address(lending.lend(4)) == place


def test_little_is_kept():
    lending = Lending(SHAPE, 4)
    lent = [lending.lend(4) for _ in range(10)]
    assert len({address(array) for array in lent}) == 10
    del lent
    assert len(lending._spare) == 4


def test_a_copy_for_another_process_has_no_memory():
    lending = Lending(SHAPE, 4)
    lending.lend(4)  # and given back at once
    assert len(lending._spare) == 1
    copy = pickle.loads(pickle.dumps(lending))
    assert (copy.shape, copy.max_spare, len(copy._spare)) == (SHAPE, 4, 0)
