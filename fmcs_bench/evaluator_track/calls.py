"""Every call of an evaluator's own code, with its answers checked and its cost measured.

A fault of that code becomes an error that names the evaluator and the maps. M maps, N images, K stages.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import SupportsIndex

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fmcs_bench.core.errors import EvaluatorError, FmcsBenchError, ProtocolError
from fmcs_bench.evaluator_track.protocol import SharedMaps, in_words, with_permuted_labels
from fmcs_bench.evaluators.base import Evaluator
from fmcs_bench.results import metrics
from fmcs_bench.results.records import Epoch
from fmcs_bench.store.selection import MapSet


@contextmanager
def guarded(evaluator: str, where: str) -> Iterator[None]:
    """Turn any error in the block into an ``EvaluatorError`` that names evaluator and place; the error is its cause."""
    try:
        yield
    except EvaluatorError:
        raise
    except Exception as error:  # code of a third party may raise anything
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise  # a full disk is not the evaluator's fault, and stops the others too
        message = str(error) if isinstance(error, FmcsBenchError) else f"{type(error).__name__}: {error}"
        raise EvaluatorError(f"evaluator {evaluator} on {where}: {message}") from error


def fit(evaluator: Evaluator, maps: SharedMaps) -> tuple[list[Epoch], float]:
    """Fit on the training runs, with the validation run; the learning curve and the seconds.

    For a control, the labels of both are permuted, and the curve's MAE is against permuted labels.
    """
    name = evaluator.config.method
    with maps.use(name, "train", "validation_run") as (train, validation), guarded(name, "training run (fit)"):
        begin = time.monotonic()
        if evaluator.config.is_control:  # the validation run too: true labels must not choose the epoch
            train, validation = (
                with_permuted_labels(given, evaluator.num_stages, evaluator.config.seed, part)
                for given, part in ((train, "train"), (validation, "validation"))
            )
        curve = [Epoch.model_validate(epoch) for epoch in evaluator.fit(train, validation)]
        return curve, time.monotonic() - begin


def answer(evaluator: Evaluator, maps: SharedMaps, side: str, num_stages: int) -> tuple[dict[str, np.ndarray], float]:
    """The answers about one side of the protocol, asked for once, and the seconds.

    Answers are ``probs`` float32 [K, N, K] (true stage, image, probability), ``image`` and ``run`` int64 [N].
    """
    with maps.use(evaluator.config.method, side) as (given,):
        begin = time.monotonic()
        probs_MK = ask(evaluator, given.maps_MDHW, in_words(side), num_stages)
        seconds = time.monotonic() - begin
        return in_order(given, probs_MK), seconds


def ask(evaluator: Evaluator, maps_MDHW: np.ndarray, where: str, num_stages: int) -> np.ndarray:
    """The evaluator's probabilities [M, K], validated."""
    name = evaluator.config.method
    with guarded(name, where):
        probs_MK = evaluator.predict_proba(maps_MDHW)
    return metrics.check_probabilities(probs_MK, len(maps_MDHW), num_stages, evaluator=name, split=where)


def in_order(maps: MapSet, probs_MK: np.ndarray) -> dict[str, np.ndarray]:
    """Answers ordered by stage, run and image, as a predictions file has them; see ``answer``."""
    num_stages = probs_MK.shape[1]
    num_images = len(maps) // num_stages
    order_M = np.lexsort((maps.image_ids_M, maps.runs_M, maps.stages_M))
    first_N = order_M[:num_images]
    return {
        "probs": probs_MK[order_M].astype(np.float32).reshape(num_stages, num_images, num_stages),
        "image": maps.image_ids_M[first_N].astype(np.int64),
        "run": maps.runs_M[first_N].astype(np.int64),
    }


def num_parameters(evaluator: Evaluator) -> int:
    """Number of learned values, as an int, validated."""
    name = evaluator.config.method
    with guarded(name, "its learned values"):
        number: object = evaluator.num_parameters
    if isinstance(number, bool) or not isinstance(number, SupportsIndex) or number.__index__() < 0:
        raise ProtocolError(
            f"evaluator {name} on its learned values: num_parameters = {number!r} must be a whole number, 0 or more"
        )
    return number.__index__()


def flops_per_map(evaluator: Evaluator, map_shape: tuple[int, int, int]) -> int | None:
    """Floating-point operations of the matrix products and convolutions of one answer; a multiply-add counts as two.

    Counted by PyTorch, without sorting, normalisation, elementwise work and eigenvalues: a lower bound. None where the
    evaluator is not differentiable, so that there is no network to count.
    """
    if not evaluator.differentiable:
        return None
    map_1DHW = torch.ones((1, *map_shape), device=evaluator.device)
    # Attention as plain products: the fused kernels, which differ by device, are not all counted.
    with guarded(evaluator.config.method, "one map of ones"), sdpa_kernel(SDPBackend.MATH):
        counter = FlopCounterMode(display=False)
        with counter:
            evaluator.log_probs(map_1DHW)
    return int(counter.get_total_flops())
