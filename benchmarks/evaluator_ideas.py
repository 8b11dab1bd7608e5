"""Ideas for an evaluator, by their error on the validation run. One JSON line.

    python benchmarks/evaluator_ideas.py DATASET [DATASET ...] [--limit 500] [--ask 200] [--out FILE]

Each idea, and some evaluators beside them, is fitted once on every dataset with the default recipe; what stands in the
line is the lowest MAE of its epochs on the validation run. The test run is not read. `invariants` is what came of it.

B batch, D channels, P positions, E features.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch
from result import report
from torch import nn

import fmcs_bench as fb
from fmcs_bench.evaluator_track import protocol
from fmcs_bench.evaluators.base import Evaluator
from fmcs_bench.evaluators.models.attention import EncoderBlock
from fmcs_bench.evaluators.models.conv import ConvEvaluator
from fmcs_bench.evaluators.models.deepsets import channel_statistics
from fmcs_bench.evaluators.models.invariants import NUM_GRAM, gram_spectra
from fmcs_bench.evaluators.network import NetworkEvaluator
from fmcs_bench.evaluators.registry import EVALUATORS
from fmcs_bench.results.trials import EvaluatorTrial
from fmcs_bench.store.reader import FmcsDataset

BESIDE = ("norm", "moments", "set", "spectrum", "conv", "invariants")


def perceptron(num_inputs: int, num_outputs: int) -> nn.Module:
    """As in ``moments`` and ``spectrum``."""
    layers = nn.BatchNorm1d(num_inputs), nn.Linear(num_inputs, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()
    return nn.Sequential(*layers, nn.Linear(64, num_outputs))


class SortedTransformer(NetworkEvaluator):
    """Channels, described as by ``set``, in the order of their means, with a learned place for each rank."""

    name = "sorted-transformer"
    channel_invariant = True
    any_shape = False

    def make_network(self) -> nn.Module:
        return _SortedNetwork(self.map_shape[0], self.num_outputs)


class _SortedNetwork(nn.Module):
    def __init__(self, num_channels: int, num_outputs: int, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Linear(19, width)
        self.rank = nn.Parameter(0.02 * torch.randn(num_channels, width))
        self.blocks = nn.Sequential(EncoderBlock(width, 4), EncoderBlock(width, 4))
        self.norm, self.answer = nn.LayerNorm(width), nn.Linear(width, num_outputs)

    def forward(self, maps_BDHW: torch.Tensor) -> torch.Tensor:
        described_BDE = channel_statistics(maps_BDHW)
        order_BD = described_BDE[..., 16].argsort(dim=1)
        described_BDE = torch.gather(described_BDE, 1, order_BD[..., None].expand_as(described_BDE))
        outputs: torch.Tensor = self.answer(self.norm(self.blocks(self.embed(described_BDE) + self.rank)).mean(dim=1))
        return outputs


class SevenSpectra(NetworkEvaluator):
    """The seven Gram spectra of ``invariants`` alone."""

    name = "seven-spectra"
    channel_invariant = any_shape = True

    def make_network(self) -> nn.Module:
        return nn.Sequential(_Function(gram_spectra), perceptron(NUM_GRAM, self.num_outputs))


class CollapseStatistics(NetworkEvaluator):
    """Fifteen numbers in the spirit of neural collapse (arXiv 2008.08186)."""

    name = "collapse-statistics"
    channel_invariant = any_shape = True

    def make_network(self) -> nn.Module:
        return nn.Sequential(_Function(collapse_statistics), perceptron(15, self.num_outputs))


class ConvOfPermutedChannels(ConvEvaluator):
    """``conv``, each map of a fit with its channels in another random order: augmentation instead of invariance."""

    name = "conv-permuted-channels"

    def make_network(self) -> nn.Module:
        return nn.Sequential(_Permute(), super().make_network())


class _Function(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, maps_BDHW: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.function(maps_BDHW)
        return result


class _Permute(nn.Module):
    def forward(self, maps_BDHW: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return maps_BDHW
        order_BD = torch.rand(maps_BDHW.shape[:2], device=maps_BDHW.device).argsort(dim=1)
        return torch.gather(maps_BDHW, 1, order_BD[:, :, None, None].expand_as(maps_BDHW))


def collapse_statistics(maps_BDHW: torch.Tensor) -> torch.Tensor:
    """Size, spread within and between channels, their ratio, cosine of positions, entropy and participation of channel
    means, their peaks, shares of zeros, and what the strongest 2, 5, 10, 25 and 50 % of the channels hold: [B, 15]."""
    tiny = 1e-6
    values_BDP = maps_BDHW.flatten(2)
    rms_B11 = (values_BDP.square().mean(dim=(1, 2), keepdim=True) + tiny).sqrt()
    values_BDP = values_BDP / rms_B11
    mean_BD = values_BDP.mean(dim=2)
    between_B, within_B = mean_BD.var(dim=1), values_BDP.var(dim=2).nan_to_num(0).mean(dim=1)
    unit_BDP = values_BDP / (values_BDP.square().sum(dim=1, keepdim=True) + tiny).sqrt()
    num_positions = values_BDP.shape[2]
    cosine_B = (unit_BDP.sum(dim=2).square().sum(dim=1) - num_positions) / max(1, num_positions * (num_positions - 1))
    share_BD = (mean_BD.abs() + tiny) / (mean_BD.abs() + tiny).sum(dim=1, keepdim=True)
    held_BD = mean_BD.sort(dim=1, descending=True).values.cumsum(dim=1) / (mean_BD.sum(dim=1, keepdim=True) + tiny)
    strongest = [held_BD[:, max(0, int(mean_BD.shape[1] * part) - 1)] for part in (0.02, 0.05, 0.1, 0.25, 0.5)]
    columns = [
        rms_B11[:, 0, 0].log(),
        (within_B + tiny).log(),
        (between_B + tiny).log(),
        (within_B / (between_B + tiny)).clamp(max=1e4).log1p(),
        cosine_B,
        -(share_BD * share_BD.log()).sum(dim=1),
        mean_BD.square().sum(dim=1).square() / (mean_BD.pow(4).sum(dim=1) + tiny) / mean_BD.shape[1],
        (values_BDP.amax(dim=2) / (mean_BD.abs() + 0.05)).mean(dim=1).log1p(),
        (values_BDP <= 0).float().mean(dim=(1, 2)),
        (mean_BD <= 0.01).float().mean(dim=1),
    ]
    return torch.stack([*columns, *strongest], dim=1)


IDEAS: tuple[type[Evaluator], ...] = (SortedTransformer, SevenSpectra, CollapseStatistics, ConvOfPermutedChannels)


def validation_mae(dataset: FmcsDataset, kinds: list[type[Evaluator]], limits: protocol.Limits) -> dict[str, Any]:
    """Of each kind: lowest MAE of the epochs on the validation run, parameters and seconds of its fit."""
    train, validation = (protocol.side(dataset, name, limits).load() for name in ("train", "validation_run"))
    found: dict[str, Any] = {"train_maps": len(train), "validation_maps": len(validation), "mae": {}, "fit_seconds": {}}
    for kind in kinds:
        config = EvaluatorTrial(evaluator=kind.name if kind.name in EVALUATORS else "idea", seed=0)
        evaluator = kind(dataset.manifest.map_shape, dataset.num_stages, config)
        begin = time.process_time()
        curve = evaluator.fit(train, validation)
        found["mae"][kind.name] = round(min(epoch.validation for epoch in curve), 3)
        found["fit_seconds"][kind.name] = round(time.process_time() - begin, 1)
        print(f"{dataset.id}: {kind.name} {found['mae'][kind.name]}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", nargs="+", help="folder of a finished FMCS dataset")
    parser.add_argument("--limit", type=int, default=500, help="images of each training run")
    parser.add_argument("--ask", type=int, default=200, help="images of the validation run")
    parser.add_argument("--evaluator", action="append", default=[], help="only this idea or evaluator; repeat")
    parser.add_argument("--out", type=Path, help="also write the line to this file")
    arguments = parser.parse_args()
    kinds = {kind.name: kind for kind in (*IDEAS, *(EVALUATORS[name] for name in BESIDE))}
    wanted = [kinds[name] for name in arguments.evaluator or kinds]
    limits = protocol.Limits(arguments.limit, arguments.ask)
    figures = {}
    for path in arguments.dataset:
        dataset = fb.open(path)
        figures[dataset.id] = validation_mae(dataset, wanted, limits)
    report("evaluator_ideas", figures, device="cpu", out=arguments.out)


if __name__ == "__main__":
    main()
