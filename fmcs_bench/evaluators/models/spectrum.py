"""``spectrum``: how many directions a map uses, whatever the order of its channels and its size.

B batch, D channels, P positions, R = min(D, P).
"""

from __future__ import annotations

import torch
from torch import nn

from fmcs_bench.evaluators.features import SMALLEST_SQUARE, quantiles
from fmcs_bench.evaluators.network import Apply, NetworkEvaluator, perceptron

NUM_RANKS = 16
SMALLEST_SHARE = 1e-6
"""Added to an eigenvalue's share: rounding of float16 maps lies below, and the logarithm of 0 has no gradient."""


class SpectrumEvaluator(NetworkEvaluator):
    """Eigenvalue spectra of the channels' and of the positions' covariance.

    RankMe (arXiv 2210.02885) reads the quality of representations from their spectrum (normalised by the sum, plus a
    small number, as here); in neural collapse (arXiv 2008.08186) the spectrum changes until the end of training.
    """

    name = "spectrum"
    channel_invariant = True
    any_shape = True
    width = 64

    def make_network(self) -> nn.Module:
        """See ``NetworkEvaluator``."""
        return nn.Sequential(Apply(log_spectra), *perceptron(2 * NUM_RANKS, self.width, self.num_outputs))


def log_spectra(maps_BDHW: torch.Tensor) -> torch.Tensor:
    """Logarithms of the normalised eigenvalues of both covariances, from the smallest to the largest.

    With X the map as a D x P matrix, X X^T and X^T X have the same eigenvalues besides zeros, so two Gram matrices of X
    would be one spectrum twice. They are centred, and differently: the covariance of channels takes each channel's mean
    over the positions away (what is left varies in space), that of positions each position's mean over the channels
    (what is left tells channels apart). Of each the smaller Gram matrix, R x R, is decomposed, in float64: the error of
    an eigenvalue is relative to the largest one, and small ones matter here.

    The gradient of eigenvalues alone is finite also where they are equal (that of eigenvectors is not).

    Returns:
        [B, 32]: 16 evenly spaced relative ranks of each spectrum, linearly interpolated:
        log(eigenvalue / sum of eigenvalues + 1e-6). A map that does not vary has log(1e-6) throughout.
    """
    matrix_BDP = maps_BDHW.flatten(2).double()
    matrix_BDP = matrix_BDP / (matrix_BDP.square().mean(dim=(1, 2), keepdim=True) + SMALLEST_SQUARE).sqrt()
    channels_BDP = matrix_BDP - matrix_BDP.mean(dim=2, keepdim=True)
    positions_BDP = matrix_BDP - matrix_BDP.mean(dim=1, keepdim=True)
    return log_ranks(channels_BDP, positions_BDP).to(maps_BDHW.dtype)


def log_ranks(*matrices_BDP: torch.Tensor) -> torch.Tensor:
    """Logarithms of the normalised eigenvalues of each matrix's Gram matrix at 16 relative ranks: [B, 16 each]."""
    spectra_BXR = torch.stack([_eigenvalue_shares(matrix_BDP) for matrix_BDP in matrices_BDP], dim=1)
    return quantiles((spectra_BXR + SMALLEST_SHARE).log(), NUM_RANKS).flatten(1)


def _eigenvalue_shares(matrix_BDP: torch.Tensor) -> torch.Tensor:
    """Eigenvalues of the smaller Gram matrix, divided by their sum: [B, R]."""
    if matrix_BDP.shape[1] > matrix_BDP.shape[2]:
        matrix_BDP = matrix_BDP.transpose(1, 2)
    gram_BRR = matrix_BDP @ matrix_BDP.transpose(1, 2) / matrix_BDP.shape[2]
    eigenvalues_BR: torch.Tensor = torch.linalg.eigvalsh(gram_BRR).clamp(min=0)
    return eigenvalues_BR / (eigenvalues_BR.sum(dim=1, keepdim=True) + SMALLEST_SQUARE)
