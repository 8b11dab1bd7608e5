"""A conformance suite for evaluators, and small maps to try one on.

The suite tests each sentence of the contract (``fmcs_bench.evaluators.base``) on ``tiny_map_set``.

Example:
    A whole test file::

        from fmcs_bench.testing.conformance import EvaluatorConformance
        from my_package import MyEvaluator

        class TestMyEvaluator(EvaluatorConformance):
            evaluator = MyEvaluator

M maps, D channels, H height, W width, K stages, C hidden causes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from torch import nn

from fmcs_bench.core.errors import ConfigError, DatasetError
from fmcs_bench.core.options import NAME_PATTERN
from fmcs_bench.core.seeding import derive
from fmcs_bench.evaluators.base import DEFAULT_TRAITS, TRAITS, Evaluator
from fmcs_bench.results.records import Epoch
from fmcs_bench.results.trials import EvaluatorTrial, Head
from fmcs_bench.store.selection import MapSet
from fmcs_bench.training.recipes import Recipe

NUM_CAUSES = 3


def tiny_map_set(
    run: int = 0, *, num_images: int = 24, map_shape: tuple[int, int, int] = (6, 5, 4), num_stages: int = 4
) -> MapSet:
    """Made-up maps that change from stage to stage as real ones do; the same for the same arguments, on any machine.

    Every image has a few hidden causes at each position, the same in every run. Each run mixes them into channels with
    its own weights and gains. From stage to stage the causes grow against the noise, so channels become correlated; the
    values grow, and fewer of them are above 0.

    Args:
        run: its seed; every run has different channels for the same images.
        num_images: number of images; each has one map at every stage.
        map_shape: (D, H, W).
        num_stages: K.

    Returns:
        ``num_images * num_stages`` maps, ordered by stage and then by image.

    Example:
        >>> maps = tiny_map_set(num_images=10)
        >>> maps.maps_MDHW.shape, maps.maps_MDHW.dtype, maps.stages_M[[0, 9, 10]].tolist()
        ((40, 6, 5, 4), dtype('float16'), [0, 0, 1])
    """
    num_channels, height, width = map_shape
    causes_NCP = np.random.default_rng(0).normal(size=(num_images, NUM_CAUSES, height * width))
    rng = np.random.default_rng(derive(run, "tiny map set"))
    mixing_DC = rng.normal(size=(num_channels, NUM_CAUSES))
    gain_D1 = rng.permutation(np.geomspace(0.5, 2, num_channels))[:, None]
    signal_NDP = mixing_DC @ causes_NCP
    stages = []
    for stage in range(num_stages):
        progress = stage / (num_stages - 1)
        noise_NDP = rng.normal(size=signal_NDP.shape)
        values_NDP = (0.2 + progress) * signal_NDP + (1.2 - progress) * noise_NDP - 0.6 * progress
        stages.append(np.maximum(values_NDP, 0) * gain_D1 * 1.5**stage)
    maps_MDHW = np.concatenate(stages).reshape(-1, *map_shape).astype(np.float16)
    return MapSet(
        maps_MDHW,
        np.repeat(np.arange(num_stages), num_images),
        np.tile(np.arange(num_images), num_stages),
        np.full(len(maps_MDHW), run),
    )


class EvaluatorConformance:
    """Tests of the contract; subclass it in a test file under a name that starts with ``Test``.

    Attributes:
        evaluator: the class under test.
        head: fit it with this head.
        epochs: upper bound of a fit; two are enough where fitting is slow.
        num_stages: K of the made-up maps.
        map_shape: (D, H, W) of the made-up maps.
        tolerance: largest difference of probabilities that are to be equal.
    """

    evaluator: ClassVar[type[Evaluator]]
    head: ClassVar[Head] = "softmax"
    epochs: ClassVar[int] = 4
    num_stages: ClassVar[int] = 4
    map_shape: ClassVar[tuple[int, int, int]] = (6, 5, 4)
    tolerance: ClassVar[float] = 1e-5

    @classmethod
    def maps(cls, run: int, *, map_shape: tuple[int, int, int] | None = None, num_images: int = 24) -> MapSet:
        """Maps of one run: 0 for training, 1 for validation, 2 for the test."""
        shape = map_shape or cls.map_shape
        return tiny_map_set(run, num_images=num_images, map_shape=shape, num_stages=cls.num_stages)

    @classmethod
    def make(cls, seed: int = 0) -> Evaluator:
        """An unfitted evaluator."""
        recipe = Recipe(lr=0.01, batch_size=32)
        config = EvaluatorTrial(
            evaluator=cls.evaluator.name, seed=seed, epochs=cls.epochs, recipe=recipe, head=cls.head
        )
        return cls.evaluator(cls.map_shape, cls.num_stages, config)

    @classmethod
    def fitted(cls) -> Evaluator:
        """A new evaluator with the learned values of one fit, shared by all tests of the class."""
        if "_fit" not in vars(cls):
            evaluator = cls.make()
            curve = evaluator.fit(cls.maps(0), cls.maps(1))
            cls._fit = (evaluator.to_bytes(), curve, evaluator.predict_proba(cls.maps(2).maps_MDHW))
        again = cls.make()
        again.from_bytes(cls._fit[0])
        return again

    _fit: ClassVar[tuple[bytes, list[Epoch], np.ndarray]]
    """Learned values, curve, and answers for the test run, of the one fit."""

    # ---- the contract

    def test_it_states_what_it_is(self) -> None:
        """Name and traits."""
        name: object = getattr(self.evaluator, "name", None)
        _check(isinstance(name, str) and re.fullmatch(NAME_PATTERN, name) is not None, f"name = {name!r} is no name")
        for trait in (*TRAITS, *DEFAULT_TRAITS):
            value = getattr(self.evaluator, trait, None)
            _check(isinstance(value, bool), f"{trait} = {value!r} must be True or False")
        number: object = self.fitted().num_parameters
        _check(type(number) is int and number >= 0, f"num_parameters = {number!r} must be a number, 0 or more")

    def test_the_curve_counts_its_epochs(self) -> None:
        """Epochs 1, 2, ... or none."""
        self.fitted()
        epochs = [epoch.epoch for epoch in self._fit[1]]
        _check(epochs == list(range(1, len(epochs) + 1)), f"the curve has the epochs {epochs}")

    def test_answers_are_probabilities(self) -> None:
        """Before and after the fit."""
        for evaluator in (self.make(), self.fitted()):
            maps_MDHW = self.maps(2).maps_MDHW
            self._check_probs(evaluator.predict_proba(maps_MDHW), len(maps_MDHW))

    def test_each_map_is_answered_alone(self) -> None:
        """Batches, order and memory layout change no answer."""
        evaluator, maps_MDHW = self.fitted(), self.maps(2).maps_MDHW
        probs_MK = evaluator.predict_proba(maps_MDHW)
        for rows in (slice(5, 8), slice(0, 1), slice(None, None, -1)):
            self._check_equal(evaluator.predict_proba(maps_MDHW[rows]), probs_MK[rows], f"maps[{rows}] alone")
        transposed = np.ascontiguousarray(maps_MDHW.transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2)
        self._check_equal(evaluator.predict_proba(transposed), probs_MK, "the same maps in a different memory layout")

    def test_the_seed_decides_the_fit(self) -> None:
        """Equal seeds give equal bytes, whatever the global generators did before; other seeds give other bytes."""
        self.fitted()
        torch.rand(7)
        torch_state, numpy_state = torch.random.get_rng_state(), str(np.random.get_state())  # noqa: NPY002  (a global)
        again, other = self.make(), self.make(seed=1)
        again.fit(self.maps(0), self.maps(1))
        _check(torch.equal(torch.random.get_rng_state(), torch_state), "the fit moved torch's global generator")
        _check(str(np.random.get_state()) == numpy_state, "the fit moved NumPy's global generator")  # noqa: NPY002
        _check(again.to_bytes() == self._fit[0], "two fits with one seed have different learned values")
        other.fit(self.maps(0), self.maps(1))
        same = other.to_bytes() == self._fit[0]
        _check(
            same == self.evaluator.deterministic,
            f"deterministic = {self.evaluator.deterministic}, but a second seed gives "
            f"{'the same' if same else 'other'} learned values",
        )

    def test_use_of_the_recipe_is_as_stated(self) -> None:
        """A different recipe gives a different fit, exactly where ``uses_recipe`` is True."""
        self.fitted()
        config = self.make().config.model_copy(update={"recipe": Recipe(lr=0.003, batch_size=16)})
        other = self.evaluator(self.map_shape, self.num_stages, config)
        other.fit(self.maps(0), self.maps(1))
        differs = other.to_bytes() != self._fit[0]
        _check(
            differs == self.evaluator.uses_recipe,
            f"uses_recipe = {self.evaluator.uses_recipe}, but a second recipe gives "
            f"{'other' if differs else 'the same'} learned values",
        )

    def test_learned_values_travel_as_safetensors(self) -> None:
        """A round trip through bytes changes nothing, and no pickle is in them."""
        evaluator, maps_MDHW = self.fitted(), self.maps(2).maps_MDHW
        data = evaluator.to_bytes()
        try:
            load_safetensors(data)
        except SafetensorError as error:
            raise AssertionError(f"to_bytes gives no safetensors file: {error}") from None
        again = self.make(seed=1)
        again.from_bytes(data)
        _check(again.to_bytes() == data, "to_bytes, from_bytes, to_bytes gives other bytes")
        _check(
            np.array_equal(again.predict_proba(maps_MDHW), self._fit[2]),
            "answers change in a round trip through to_bytes and from_bytes",
        )

    def test_other_bytes_are_refused(self) -> None:
        """Nothing, pickle, and a cut file raise DatasetError and leave the evaluator as it was."""
        evaluator = self.fitted()
        data = evaluator.to_bytes()
        for wrong in (b"", b"\x80\x04]q.", data[:-1]):
            try:
                evaluator.from_bytes(wrong)
            except DatasetError:
                _check(evaluator.to_bytes() == data, f"from_bytes({wrong[:8]!r}...) changed the learned values")
            else:
                raise AssertionError(f"from_bytes({wrong[:8]!r}...) must raise DatasetError")

    def test_nothing_changes_its_inputs(self) -> None:
        """Maps and labels stay as they are, and ``predict_proba`` learns nothing."""
        sets = [self.maps(0), self.maps(1)]
        evaluator = self.make()
        evaluator.fit(*sets)
        data = evaluator.to_bytes()
        for i, (found, expected) in enumerate(zip(sets, (self.maps(0), self.maps(1)), strict=True)):
            evaluator.predict_proba(found.maps_MDHW)
            for field in ("maps_MDHW", "stages_M", "image_ids_M", "runs_M"):
                unchanged = np.array_equal(getattr(found, field), getattr(expected, field))
                _check(unchanged, f"{field} of the {('training', 'validation')[i]} maps was changed")
        _check(evaluator.to_bytes() == data, "predict_proba changed learned values")

    def test_extreme_maps_get_probabilities(self) -> None:
        """Dead, constant, tiny and very large maps; also a fit on dead maps."""
        size = (2, *self.map_shape)
        largest = float(np.finfo(np.float16).max)
        dead = self.make()
        zero = [replace(s, maps_MDHW=np.zeros_like(s.maps_MDHW)) for s in (self.maps(0), self.maps(1))]
        dead.fit(*zero)
        spike = np.zeros(size, dtype=np.float16)
        spike[:, 0, 0, 0] = largest
        for evaluator in (self.fitted(), dead):
            for value in (0.0, 1.0, -1.0, 6e-8, largest, -largest):
                self._check_probs(
                    evaluator.predict_proba(np.full(size, value, dtype=np.float16)), 2, f"maps of {value}"
                )
            self._check_probs(evaluator.predict_proba(spike), 2, "maps with one very large value")

    def test_channel_invariance_is_as_stated(self) -> None:
        """The order of the channels changes answers, exactly where ``channel_invariant`` is False."""
        evaluator, maps_MDHW = self.fitted(), self.maps(2).maps_MDHW
        probs_MK = evaluator.predict_proba(maps_MDHW)
        for seed in range(3):
            order_D = np.random.default_rng(seed).permutation(maps_MDHW.shape[1])
            difference = float(np.abs(evaluator.predict_proba(maps_MDHW[:, order_D]) - probs_MK).max())
            stated = self.evaluator.channel_invariant
            _check(
                (difference <= self.tolerance) == stated,
                f"channel_invariant = {stated}, but a new order of the channels changes answers by {difference:.1e}",
            )

    def test_any_shape_is_as_stated(self) -> None:
        """Maps of other shapes are taken, or refused with a ConfigError."""
        evaluator = self.fitted()
        depth, height, width = self.map_shape
        for shape in ((depth + 3, height, width), (depth, height + 2, width), (1, height, width), (depth, 1, 1)):
            maps_MDHW = self.maps(2, map_shape=shape, num_images=2).maps_MDHW
            try:
                probs_MK = evaluator.predict_proba(maps_MDHW)
            except ConfigError as error:
                _check(not self.evaluator.any_shape, f"any_shape = True, but maps of {shape} raise: {error}")
            else:
                _check(self.evaluator.any_shape, f"any_shape = False, but maps of {shape} are taken")
                self._check_probs(probs_MK, len(maps_MDHW), f"maps of {shape}")

    def test_differentiability_is_as_stated(self) -> None:
        """Frozen: a finite gradient to the maps, also to dead ones, and none to learned values. Or a ConfigError."""
        evaluator, maps_MDHW = self.fitted(), self.maps(2).maps_MDHW[::7]
        if not self.evaluator.differentiable:
            for call in (evaluator.freeze, lambda: evaluator.log_probs(torch.from_numpy(maps_MDHW).float())):
                try:
                    call()
                except ConfigError:
                    continue
                raise AssertionError("differentiable = False, so freeze and log_probs must raise ConfigError")
            return
        evaluator.freeze()
        maps_BDHW = torch.from_numpy(maps_MDHW).float().requires_grad_()
        log_probs_BK = evaluator.log_probs(maps_BDHW)
        self._check_equal(
            log_probs_BK.detach().exp().numpy(), evaluator.predict_proba(maps_MDHW), "exp(log_probs) and predict_proba"
        )
        gradient = _gradient(log_probs_BK, maps_BDHW)
        _check(bool(gradient.isfinite().all()), "the gradient to the maps is not finite")
        _check(bool((gradient.abs().amax(dim=(1, 2, 3)) > 0).all()), "no gradient reaches some of the maps")
        for value in (0.0, 1.0, float(np.finfo(np.float16).max)):
            still = torch.full((3, *self.map_shape), value, requires_grad=True)
            _check(
                bool(_gradient(evaluator.log_probs(still), still).isfinite().all()), f"not finite at maps of {value}"
            )
        for parameter in _parameters(evaluator):
            _check(
                parameter.grad is None and not parameter.requires_grad, "a frozen evaluator's parameter gets a gradient"
            )

    # ---- helpers

    def _check_probs(self, probs_MK: np.ndarray, num_maps: int, what: str = "the test maps") -> None:
        _check(isinstance(probs_MK, np.ndarray) and probs_MK.dtype == np.float32, f"{what}: answers must be float32")
        expected = (num_maps, self.num_stages)
        _check(probs_MK.shape == expected, f"{what}: answers have the shape {probs_MK.shape}, not {expected}")
        _check(bool(np.isfinite(probs_MK).all()), f"{what}: an answer is NaN or infinite")
        _check(bool((probs_MK >= 0).all()), f"{what}: a probability is negative")
        off = float(np.abs(probs_MK.sum(axis=1, dtype=np.float64) - 1).max())
        _check(off <= 1e-4, f"{what}: rows sum to 1 but for {off:.1e}")

    def _check_equal(self, found: np.ndarray, expected: np.ndarray, what: str) -> None:
        difference = float(np.abs(found - expected).max())
        _check(difference <= self.tolerance, f"{what}: answers differ by {difference:.1e}")


def _check(holds: bool, message: str) -> None:
    """Assert, also under ``python -O`` and outside of pytest's rewriting."""
    if not holds:
        raise AssertionError(message)


def _gradient(log_probs_BK: torch.Tensor, maps_BDHW: torch.Tensor) -> torch.Tensor:
    """Of the last stage's log-probability, as in RAL."""
    if log_probs_BK.requires_grad:
        log_probs_BK[:, -1].sum().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    if maps_BDHW.grad is None:
        raise AssertionError("log_probs passes no gradient to the maps")
    return maps_BDHW.grad


def _parameters(evaluator: Evaluator) -> Iterator[nn.Parameter]:
    for value in vars(evaluator).values():
        if isinstance(value, nn.Module):
            yield from value.parameters()
        elif isinstance(value, nn.Parameter):
            yield value
