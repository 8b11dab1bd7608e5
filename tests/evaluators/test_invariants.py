"""The spectra of ``invariants`` against NumPy, and what its judgement must not see."""

import numpy as np
import pytest
import torch

from fmcs_bench.evaluators.models.invariants import NUM_GRAM, gram_spectra
from fmcs_bench.evaluators.registry import create_evaluator
from fmcs_bench.results.trials import EvaluatorTrial

SIZES = [(1, 1, 1), (2, 1, 3), (4, 5, 3), (24, 3, 3)]


def seven_matrices(map_DHW):
    """The docstring's words, in NumPy."""
    whole = map_DHW.reshape(len(map_DHW), -1)
    whole = whole / np.sqrt((whole**2).mean() + 1e-6)
    no_channel_mean = whole - whole.mean(axis=1, keepdims=True)
    no_position_mean = whole - whole.mean(axis=0, keepdims=True)
    neither = no_channel_mean - no_channel_mean.mean(axis=0, keepdims=True)
    standard = no_channel_mean / np.sqrt(no_channel_mean.var(axis=1, keepdims=True) + 1e-4)
    cosine = whole / np.sqrt((whole**2).sum(axis=0, keepdims=True) + 1e-4)
    return whole, no_channel_mean, no_position_mean, neither, standard, cosine, (whole > 0).astype(float)


@pytest.mark.parametrize("size", SIZES)
def test_spectra_are_the_squared_singular_values_of_the_seven_matrices(size):
    maps = np.random.default_rng(0).exponential(size=(3, *size)) - 0.5
    found = gram_spectra(torch.from_numpy(maps).float()).double().numpy()
    assert found.shape == (3, NUM_GRAM)
    np.testing.assert_allclose(found[:, -1], 0.5 * np.log((maps**2).mean(axis=(1, 2, 3)) + 1e-6), atol=1e-5)
    for one, map_DHW in zip(found[:, :-1].reshape(3, 7, 16), maps, strict=True):
        for spectrum, matrix in zip(one, seven_matrices(map_DHW), strict=True):
            squares = np.linalg.svd(matrix, compute_uv=False) ** 2
            shares = squares / (squares.sum() + 1e-6)
            expected = np.quantile(np.log(shares + 1e-6), np.linspace(0, 1, 16))
            # Shares below 1e-6 are rounding, and the logarithm makes much of it.
            np.testing.assert_allclose(np.exp(spectrum), np.exp(expected), atol=2e-6, rtol=2e-2)


@pytest.mark.parametrize("value", [0.0, 1e-4, 1.0, 65504.0])
def test_gradients_at_constant_maps_are_finite(value):
    maps = torch.full((2, 5, 4, 3), value, requires_grad=True)
    gram_spectra(maps).sum().backward()
    assert maps.grad.isfinite().all()


def test_gradients_of_equal_eigenvalues_and_dead_channels_are_finite():
    orthogonal = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(0)))[0]
    maps = torch.cat([torch.eye(16), orthogonal]).view(2, 16, 4, 4)
    maps[:, 3] = 0
    maps.requires_grad_()
    gram_spectra(maps).square().sum().backward()
    assert maps.grad.isfinite().all()
    assert maps.grad.abs().max() > 0


def test_positions_may_be_in_any_order_too():
    generator = torch.Generator().manual_seed(0)
    judge = create_evaluator(EvaluatorTrial(evaluator="invariants", seed=0), (6, 5, 4), 4)
    judge.freeze()
    maps = torch.rand(3, 6, 5, 4, generator=generator)
    order = torch.randperm(20, generator=generator)
    shuffled = maps.flatten(2)[:, :, order].view_as(maps)
    torch.testing.assert_close(judge.log_probs(maps), judge.log_probs(shuffled), atol=1e-4, rtol=0)
