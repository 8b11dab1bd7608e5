"""``invariants``: every statistic of this package that does not depend on the order of channels, together.

B batch, D channels, P positions, R = min(D, P).
"""

from __future__ import annotations

import torch
from torch import nn

from fmcs_bench.evaluators.features import NUM_STATISTICS, SMALLEST_SQUARE, statistics
from fmcs_bench.evaluators.models.deepsets import SetNetwork
from fmcs_bench.evaluators.models.spectrum import NUM_RANKS, log_ranks
from fmcs_bench.evaluators.network import NetworkEvaluator, perceptron

NUM_SPECTRA = 7
NUM_GRAM = NUM_SPECTRA * NUM_RANKS + 1
SMALLEST_NORM = 1e-4
"""Added to the square that a row or column is divided by, so that a dead one stays 0 and has a finite gradient."""


class InvariantsEvaluator(NetworkEvaluator):
    """The network of ``set``, the statistics of ``logistic`` and ``boosting``, and spectra of seven Gram matrices.

    Of several ideas it had the lowest MAE on the validation run; docs/evaluators.md has what was tried.
    """

    name = "invariants"
    channel_invariant = True
    any_shape = True
    width = 64

    def make_network(self) -> nn.Module:
        """See ``NetworkEvaluator``."""
        return _InvariantsNetwork(self.width, self.num_outputs)


class _InvariantsNetwork(nn.Module):
    def __init__(self, width: int, num_outputs: int) -> None:
        super().__init__()
        num_described = width // 2
        self.set = SetNetwork(width, num_described)
        num_inputs = num_described + NUM_STATISTICS + NUM_GRAM
        self.output = nn.Sequential(*perceptron(num_inputs, width, num_outputs))

    def forward(self, maps_BDHW: torch.Tensor) -> torch.Tensor:
        parts = [self.set(maps_BDHW), statistics(maps_BDHW), gram_spectra(maps_BDHW)]
        outputs: torch.Tensor = self.output(torch.cat(parts, dim=1))
        return outputs


def gram_spectra(maps_BDHW: torch.Tensor) -> torch.Tensor:
    """Logarithms of the normalised eigenvalues of seven Gram matrices of each map, and of the map's size.

    With X the map as a D x P matrix, divided by its root mean square: X itself; X without the mean of each channel; X
    without the mean of each position; X without both; channels of variance 1 (so that strong ones do not hide weak
    ones); positions of length 1 (cosines between positions); and where X is positive (which has no gradient). Each is
    decomposed as in ``spectrum.log_spectra``.

    Returns:
        [B, 113]: seven times 16 evenly spaced relative ranks, from the smallest to the largest eigenvalue, as
        log(eigenvalue / sum of eigenvalues + 1e-6); then the logarithm of the root mean square.
    """
    matrix_BDP = maps_BDHW.flatten(2).double()
    rms_B11 = (matrix_BDP.square().mean(dim=(1, 2), keepdim=True) + SMALLEST_SQUARE).sqrt()
    matrix_BDP = matrix_BDP / rms_B11
    channels_BDP = matrix_BDP - matrix_BDP.mean(dim=2, keepdim=True)
    positions_BDP = matrix_BDP - matrix_BDP.mean(dim=1, keepdim=True)
    both_BDP = channels_BDP - channels_BDP.mean(dim=1, keepdim=True)
    standard_BDP = channels_BDP / (channels_BDP.square().mean(dim=2, keepdim=True) + SMALLEST_NORM).sqrt()
    cosine_BDP = matrix_BDP / (matrix_BDP.square().sum(dim=1, keepdim=True) + SMALLEST_NORM).sqrt()
    positive_BDP = (matrix_BDP > 0).double()
    ranks_BN = log_ranks(matrix_BDP, channels_BDP, positions_BDP, both_BDP, standard_BDP, cosine_BDP, positive_BDP)
    return torch.cat([ranks_BN, rms_B11[:, :, 0].log()], dim=1).to(maps_BDHW.dtype)
