"""A few random images to train on, a loss, and a frozen evaluator."""

import torch
from torch.nn import functional as F  # noqa: N812

from fmcs_bench.backbones.create import create_backbone, map_shape
from fmcs_bench.evaluators.registry import create_evaluator
from fmcs_bench.results.trials import EvaluatorTrial
from fmcs_bench.training.loop import Batches

NUM_STAGES = 4


def data(num=50):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(num, 3, 16, 16, generator=generator)
    return Batches(inputs, torch.arange(num) % 10, lambda x: x)


def cross_entropy(model, inputs, targets):
    return F.cross_entropy(model(inputs), targets)


def frozen_evaluator(name="conv", image_size=16):
    """An evaluator of the maps of ``smallcnn`` with random weights."""
    shape = map_shape(create_backbone("smallcnn", 10, seed=0), image_size)
    evaluator = create_evaluator(EvaluatorTrial(evaluator=name, seed=3), shape, NUM_STAGES)
    evaluator.freeze()
    return evaluator
