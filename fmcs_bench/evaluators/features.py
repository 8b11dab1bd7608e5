"""Statistics of a map that no order of channels or positions can change. Gradients are finite everywhere.

B batch, D channels, P positions (height x width).
"""

from __future__ import annotations

import torch
from torch.nn import functional as F  # noqa: N812  (torch's own short name)

SMALLEST_SQUARE = 1e-6
SMALLEST_VARIANCE = 1e-8
"""Below the square roots, whose gradient is infinite at 0, where a dead map lies."""
NUM_MOMENTS = 6
NUM_CHANNEL_QUANTILES = 5
NUM_STATISTICS = NUM_MOMENTS + 4 * NUM_CHANNEL_QUANTILES


def moments(maps_BDHW: torch.Tensor) -> torch.Tensor:
    """Six moments of all values of each map.

    Returns:
        [B, 6]: logarithm of the root mean square; then, of the map divided by it: mean, standard deviation, asinh of
        the skewness and of the excess kurtosis (E[z^3] and E[z^4] - 3 of the standardised values z), and the share of
        values that are 0 or less. asinh keeps the last two, which grow with the size of a sparse map, in range.
    """
    values_BN, log_rms_B1 = _normalised(maps_BDHW.flatten(1))
    mean_B1 = values_BN.mean(dim=1, keepdim=True)
    centred_BN = values_BN - mean_B1
    std_B1 = (centred_BN.square().mean(dim=1, keepdim=True) + SMALLEST_VARIANCE).sqrt()
    standard_BN = centred_BN / std_B1
    skewness_B1 = standard_BN.pow(3).mean(dim=1, keepdim=True)
    kurtosis_B1 = standard_BN.pow(4).mean(dim=1, keepdim=True) - 3
    zeros_B1 = (values_BN <= 0).to(values_BN.dtype).mean(dim=1, keepdim=True)
    return torch.cat([log_rms_B1, mean_B1, std_B1, skewness_B1.asinh(), kurtosis_B1.asinh(), zeros_B1], dim=1)


def statistics(maps_BDHW: torch.Tensor) -> torch.Tensor:
    """The six moments, and how four numbers are distributed over the channels.

    Returns:
        [B, 26]: ``moments``; then the minimum, the quartiles and the maximum over the channels of each channel's mean,
        standard deviation, largest value (all of the map divided by its root mean square) and share of values that are
        0 or less.
    """
    values_BN, _ = _normalised(maps_BDHW.flatten(1))
    values_BDP = values_BN.view(*maps_BDHW.shape[:2], -1)
    mean_BD = values_BDP.mean(dim=2)
    std_BD = ((values_BDP - mean_BD[:, :, None]).square().mean(dim=2) + SMALLEST_VARIANCE).sqrt()
    zeros_BD = (values_BDP <= 0).to(values_BDP.dtype).mean(dim=2)
    channels_B4D = torch.stack([mean_BD, std_BD, values_BDP.amax(dim=2), zeros_BD], dim=1)
    return torch.cat([moments(maps_BDHW), quantiles(channels_B4D, NUM_CHANNEL_QUANTILES).flatten(1)], dim=1)


def quantiles(values_BXN: torch.Tensor, number: int) -> torch.Tensor:
    """``number`` evenly spaced quantiles of the last axis, from the smallest to the largest value: [B, X, number]."""
    sorted_BXN = values_BXN.sort(dim=2).values
    if sorted_BXN.shape[2] == number:
        return sorted_BXN
    # align_corners=True keeps smallest and largest value: linear interpolation between order statistics.
    return F.interpolate(sorted_BXN, size=number, mode="linear", align_corners=True)


def _normalised(values_BN: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Values divided by their root mean square, and its logarithm [B, 1]."""
    square_B1 = values_BN.square().mean(dim=1, keepdim=True) + SMALLEST_SQUARE
    return values_BN / square_B1.sqrt(), 0.5 * square_B1.log()
