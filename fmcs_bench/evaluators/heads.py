"""Heads: outputs of an evaluator's network -> probabilities of ordered stages, and their losses.

CORN and CORAL ask K - 1 times "is it above stage t?" instead of "which stage is it?".

B batch, K stages, T = K - 1 thresholds between them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  (torch's own short name)

from fmcs_bench.results.trials import Head as HeadName

SMALLEST_GAP = 1e-4
"""Between neighbouring thresholds of CORAL, so that no stage has the probability 0."""


class Head(nn.Module, ABC):
    """Outputs of a network -> probabilities of K ordered stages."""

    num_outputs: int
    """Number of outputs of the network."""

    def __init__(self, num_stages: int) -> None:
        super().__init__()
        self.num_stages = num_stages

    def forward(self, outputs: torch.Tensor) -> torch.Tensor:
        """Outputs of the network -> logits; the same where the head learns nothing itself."""
        return outputs

    @abstractmethod
    def log_probs(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits -> log-probabilities [B, K]."""

    @abstractmethod
    def loss(self, logits: torch.Tensor, stages_B: torch.Tensor) -> torch.Tensor:
        """What fitting minimises, a scalar; stages are int64, 0 .. K - 1."""

    def probs(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits -> probabilities [B, K]."""
        return self.log_probs(logits).exp()

    def stages(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits -> the most probable stage, int64 [B]."""
        return self.log_probs(logits).argmax(dim=1)


class SoftmaxHead(Head):
    """One output for each stage; cross-entropy (arXiv 2508.06109, eq. (2))."""

    def __init__(self, num_stages: int) -> None:
        super().__init__(num_stages)
        self.num_outputs = num_stages

    def log_probs(self, logits: torch.Tensor) -> torch.Tensor:
        """See ``Head``."""
        return logits.log_softmax(dim=1)

    def loss(self, logits: torch.Tensor, stages_B: torch.Tensor) -> torch.Tensor:
        """See ``Head``."""
        return F.cross_entropy(logits, stages_B)

    def probs(self, logits: torch.Tensor) -> torch.Tensor:
        """See ``Head``."""
        return logits.softmax(dim=1)


class CornHead(Head):
    """CORN (arXiv 2111.08851): output t is the logit of P(stage > t | stage > t - 1).

    The probability of stage k is the product of the conditional probabilities on the way to it.
    """

    def __init__(self, num_stages: int) -> None:
        super().__init__(num_stages)
        self.num_outputs = num_stages - 1

    def log_probs(self, logits: torch.Tensor) -> torch.Tensor:
        """See ``Head``."""
        none_B1 = torch.zeros_like(logits[:, :1])
        passed_BK = torch.cat([none_B1, F.logsigmoid(logits).cumsum(dim=1)], dim=1)
        stopped_BK = torch.cat([F.logsigmoid(-logits), none_B1], dim=1)
        return passed_BK + stopped_BK

    def loss(self, logits: torch.Tensor, stages_B: torch.Tensor) -> torch.Tensor:
        """See ``corn_loss``."""
        return corn_loss(logits, stages_B)


class CoralHead(Head):
    """CORAL (arXiv 1901.07884): one output and T thresholds; P(stage > t) = sigmoid(output + bias_t).

    The paper proves that the biases are ordered at the optimum (theorem 1). Here they always are: the first is free and
    each next one is lower by a learned positive gap, so no stage has a negative probability during a fit. They start
    evenly spaced from 1 to 1 / T, as in the authors' code.
    """

    num_outputs = 1

    def __init__(self, num_stages: int) -> None:
        super().__init__(num_stages)
        num_thresholds = num_stages - 1
        start = math.log(math.expm1(1 / num_thresholds - SMALLEST_GAP))
        self.first_bias = nn.Parameter(torch.ones(1))
        self.raw_gaps = nn.Parameter(torch.full((num_thresholds - 1,), start))

    @property
    def gaps(self) -> torch.Tensor:
        """Each bias minus the next, [T - 1], positive."""
        return F.softplus(self.raw_gaps) + SMALLEST_GAP

    def forward(self, outputs: torch.Tensor) -> torch.Tensor:
        """See ``Head``: logits of P(stage > t), [B, T], falling with t."""
        return outputs + torch.cat([self.first_bias, self.first_bias - self.gaps.cumsum(dim=0)])

    def log_probs(self, logits: torch.Tensor) -> torch.Tensor:
        """See ``Head``.

        sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)): no difference of rounded numbers near 1.
        """
        log_above_BT, log_below_BT = F.logsigmoid(logits), F.logsigmoid(-logits)
        between = log_above_BT[:, :-1] + log_below_BT[:, 1:] + (-torch.expm1(-self.gaps)).log()
        return torch.cat([log_below_BT[:, :1], between, log_above_BT[:, -1:]], dim=1)

    def loss(self, logits: torch.Tensor, stages_B: torch.Tensor) -> torch.Tensor:
        """See ``coral_loss``."""
        return coral_loss(logits, stages_B)


HEADS: dict[HeadName, type[Head]] = {"softmax": SoftmaxHead, "corn": CornHead, "coral": CoralHead}


def corn_loss(logits_BT: torch.Tensor, stages_B: torch.Tensor) -> torch.Tensor:
    """Loss of CORN (arXiv 2111.08851): task t sees only stages >= t; the mean is over all examples of all tasks."""
    thresholds_T = torch.arange(logits_BT.shape[1], device=logits_BT.device)
    seen_BT = (stages_B[:, None] >= thresholds_T).to(logits_BT.dtype)
    return (seen_BT * _threshold_losses(logits_BT, stages_B)).sum() / seen_BT.sum()


def coral_loss(logits_BT: torch.Tensor, stages_B: torch.Tensor) -> torch.Tensor:
    """Loss of CORAL (arXiv 1901.07884) with equal weights: summed over thresholds, mean over the batch."""
    return _threshold_losses(logits_BT, stages_B).sum(dim=1).mean()


def _threshold_losses(logits_BT: torch.Tensor, stages_B: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy of "above threshold t", [B, T]."""
    thresholds_T = torch.arange(logits_BT.shape[1], device=logits_BT.device)
    above_BT = (stages_B[:, None] > thresholds_T).to(logits_BT.dtype)
    return F.binary_cross_entropy_with_logits(logits_BT, above_BT, reduction="none")
