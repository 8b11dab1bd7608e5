"""What the protocol asks of one evaluator, under the contract, and what that costs.

Flow: evaluator, lent maps -> its own code, in a guard that names evaluator and split -> answers, checked -> predictions
in the order of the record, seconds, FLOPs.

M maps, N images, K stages.
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
from fmcs_bench.evaluator_track.permuted import with_permuted_labels
from fmcs_bench.evaluator_track.protocol import HeldMaps, spoken
from fmcs_bench.evaluators.base import Evaluator
from fmcs_bench.results import metrics
from fmcs_bench.results.records import Epoch
from fmcs_bench.store.selection import MapSet


@contextmanager
def guarded(evaluator: str, where: str) -> Iterator[None]:
    """Whatever an evaluator's code raises becomes an ``EvaluatorError`` that names it; its own error is the cause.

    Args:
        evaluator: its name on the board.
        where: what it was asked for, such as ``test run``.
    """
    try:
        yield
    except EvaluatorError:
        raise
    except Exception as error:  # code of a third party may raise anything
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise  # a full disk is nobody's fault here, and stops the others too
        said = str(error) if isinstance(error, FmcsBenchError) else f"{type(error).__name__}: {error}"
        raise EvaluatorError(f"evaluator {evaluator} on {where}: {said}") from error


def fit(evaluator: Evaluator, held: HeldMaps) -> tuple[list[Epoch], float]:
    """Fit on the training runs, with the validation run; the learning curve and the seconds.

    Where the configuration says so, the labels of both are permuted, and the curve's MAE is against permuted labels.

    Raises:
        EvaluatorError: its fit failed.
        ProtocolError: it changed the maps.
    """
    name = evaluator.config.method
    with held.lent(name, "train", "validation_run") as (train, validation), guarded(name, "training run (fit)"):
        begin = time.monotonic()
        if evaluator.config.labels == "permuted":  # the validation run too: true labels must not choose the epoch
            train, validation = (
                with_permuted_labels(maps, evaluator.num_stages, evaluator.config.seed, part)
                for maps, part in ((train, "train"), (validation, "validation"))
            )
        curve = [Epoch.model_validate(epoch) for epoch in evaluator.fit(train, validation)]
        return curve, time.monotonic() - begin


def answer(evaluator: Evaluator, held: HeldMaps, side: str, num_stages: int) -> tuple[dict[str, np.ndarray], float]:
    """Ask about one side, once.

    Returns:
        ``probs`` float32 [K, N, K] (true stage, image, probability), ``image`` and ``run`` int64 [N]; and the seconds.

    Raises:
        EvaluatorError: it failed.
        ProtocolError: its answer is none, or it changed the maps.
    """
    with held.lent(evaluator.config.method, side) as (maps,):
        begin = time.monotonic()
        probs_MK = ask(evaluator, maps.maps_MDHW, spoken(side), num_stages)
        seconds = time.monotonic() - begin
        return in_order(maps, probs_MK), seconds


def ask(evaluator: Evaluator, maps_MDHW: np.ndarray, where: str, num_stages: int) -> np.ndarray:
    """The evaluator's probabilities [M, K], if they are some.

    Raises:
        EvaluatorError: it failed.
        ProtocolError: wrong shape or type, NaN, or rows that do not sum to 1.
    """
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
    """Number of learned values, whichever kind of whole number the evaluator says it in.

    Raises:
        EvaluatorError: it failed.
        ProtocolError: that is no number of anything.
    """
    name = evaluator.config.method
    with guarded(name, "its learned values"):
        number: object = evaluator.num_parameters
    if isinstance(number, bool) or not isinstance(number, SupportsIndex) or number.__index__() < 0:
        raise ProtocolError(f"evaluator {name} on its learned values: num_parameters = {number!r}; a number, 0 or more")
    return number.__index__()


def flops_per_map(evaluator: Evaluator, map_shape: tuple[int, int, int]) -> int | None:
    """Floating-point operations of the matrix products and convolutions of one answer; a multiply-add counts as two.

    PyTorch counts them. Sorting, normalisation, elementwise work and eigenvalues are not in it, so it is a lower
    bound, and 0 for a network without products.

    Args:
        evaluator: fitted.
        map_shape: (D, H, W).

    Returns:
        None where the evaluator is not differentiable: there is no network that PyTorch could watch.

    Raises:
        EvaluatorError: it failed.
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
