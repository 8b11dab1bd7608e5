"""Losses of the training track: FMCS loss, RAL, cosine constraint.

The functions are the mathematics; ``Objective`` applies them to a network for one method.
Tensor names: B batch, C channels of images, D channels of maps, H height, W width, K stages.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeVar

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  (torch's own short name)

from fmcs_bench.backbones.base import Backbone
from fmcs_bench.backbones.dueheadnet import DueHeadNet
from fmcs_bench.training.methods import Method

FrozenEvaluator = Callable[[torch.Tensor], torch.Tensor]
"""A frozen evaluator: maps [B, D, H, W] -> log-probabilities of the K stages [B, K]."""

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def fmcs_loss(log_probs_BK: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the evaluator's answer against stage K, the most converged (arXiv 2508.06109, eq. (4)).

    The last column is stage K; the mean over the batch is in nats.

    Example:
        >>> float(fmcs_loss(torch.tensor([[0.5, 0.5], [0.75, 0.25]]).log()))  # (ln 2 + ln 4) / 2
        1.0397207736968994
    """
    return -log_probs_BK[:, -1].mean()


def ral(base: torch.Tensor, fmcs: torch.Tensor, raf: float) -> torch.Tensor:
    """Representation auxiliary loss: ``raf * base + (1 - raf) * fmcs``.

    RAF as in Table I of arXiv 2508.06109, where 1 is pure classification; that paper's eq. (5) has alpha = 1 - RAF.
    """
    return raf * base + (1 - raf) * fmcs


def cosine_constraint(
    first_BDHW: torch.Tensor, second_BDHW: torch.Tensor, kind: Literal["align", "diversify"]
) -> torch.Tensor:
    """Constraint between the maps of DueHeadNet's two heads, from the cosine of each channel's positions.

    ``align`` is 1 - mean cosine, as in the source's script, and pulls the maps together; ``diversify`` is the mean
    cosine, and pushes them apart, as the source's README and notebooks do (the notebooks take the cosine over the
    channels at each position). The mean is over batch and channels; a channel that is zero everywhere has the cosine 0.

    Example:
        >>> maps = torch.ones(1, 1, 2, 2)
        >>> float(cosine_constraint(maps, maps, "align")), float(cosine_constraint(maps, maps, "diversify"))
        (0.0, 1.0)
    """
    cosine = F.cosine_similarity(first_BDHW.flatten(2), second_BDHW.flatten(2), dim=2).mean()
    return 1 - cosine if kind == "align" else cosine


def freeze(module: AnyModule) -> AnyModule:
    """Put a module in eval mode and take its parameters out of training; gradients still pass through it."""
    return module.requires_grad_(False).eval()


class Pass(NamedTuple):
    """What one pass of a network gives.

    ``scored`` are the maps that an evaluator of one network's maps scores: the map; with two heads the sum of their
    maps (fusion add), or the map of each head (concat: nothing was fitted on maps of twice as many channels).
    ``heads`` are the maps of two heads, and ``logits_BC`` is None where the classifier was not run.
    """

    scored: tuple[torch.Tensor, ...]
    heads: tuple[torch.Tensor, torch.Tensor] | None
    logits_BC: torch.Tensor | None


def run_network(model: nn.Module, images_BCHW: torch.Tensor, *, classify: bool = True) -> Pass:
    """One pass of images through a backbone, with all that losses and evaluators look at."""
    if isinstance(model, DueHeadNet):
        heads = model.heads(images_BCHW)
        maps_BDHW = model.fuse(*heads)
        scored = (maps_BDHW,) if model.fusion == "add" else heads
        return Pass(scored, heads, model.classify(maps_BDHW) if classify else None)
    if not isinstance(model, Backbone):
        raise TypeError(f"the model must be a Backbone, not {type(model).__name__}")
    if not classify:
        return Pass((model.features(images_BCHW),), None, None)
    maps_BDHW, logits_BC = model.maps_and_logits(images_BCHW)
    return Pass((maps_BDHW,), None, logits_BC)


class Objective:
    """The loss of one method on one batch; below RAF 1 it needs a frozen evaluator."""

    def __init__(self, method: Method, evaluator: FrozenEvaluator | None = None) -> None:
        if method.raf < 1 and evaluator is None:
            raise ValueError(f"RAF = {method.raf} needs an evaluator")
        self.method = method
        self.evaluator = evaluator

    def __call__(self, model: nn.Module, images_BCHW: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
        """The loss, a scalar. With RAF = 1 the evaluator is not run, with RAF = 0 the classifier is not."""
        method = self.method
        scored, heads, logits_BC = run_network(model, images_BCHW, classify=method.raf > 0)
        base = fmcs = None
        if logits_BC is not None:
            base = F.cross_entropy(logits_BC, labels_B, label_smoothing=method.label_smoothing)
            if heads is not None and method.constraint != "none":
                base = base + method.constraint_weight * cosine_constraint(*heads, method.constraint)
        if method.raf < 1 and self.evaluator is not None:
            fmcs = torch.stack([fmcs_loss(self.evaluator(maps)) for maps in scored]).mean()
        if base is None or fmcs is None:
            loss = base if base is not None else fmcs
            assert loss is not None  # RAF is in [0, 1] and below 1 there is an evaluator
            return loss
        return ral(base, fmcs, method.raf)
