"""Numbers that each training path must give again: first losses and validation accuracies on digits, on a CPU.

TOLERANCE is ten times what rounding can do in so few steps: with the last bits of all initial weights changed (20
draws) and without oneDNN the losses moved by up to 8.8e-6 of their value. With three times the learning rate it was
1.2e-4, because Adam turns a gradient of nearly 0 into a whole step; so accuracies are counted apart from losses.
"""

import pytest
import torch

from fmcs_bench.backbones import dueheadnet
from fmcs_bench.backbones.create import create_backbone, map_shape
from fmcs_bench.core.seeding import derive
from fmcs_bench.evaluators.registry import create_evaluator
from fmcs_bench.images.load import load_images
from fmcs_bench.images.preprocessing import Preprocessor
from fmcs_bench.results.trials import EvaluatorTrial
from fmcs_bench.training import loop
from fmcs_bench.training import losses as objectives
from fmcs_bench.training.loop import accuracy, fit
from fmcs_bench.training.losses import Objective, cosine_constraint, fmcs_loss, ral
from fmcs_bench.training.methods import Method
from fmcs_bench.training.recipes import Recipe, recipe
from fmcs_bench.training.trajectory import image_batches

CPU = torch.device("cpu")
TOLERANCE = 1e-4
SIZE, NUM_STAGES, EPOCHS = 16, 7, 2
RECIPE = Recipe(batch_size=32)
FASTER = Recipe(batch_size=32, lr=3e-3)
METHODS = {
    "baseline": Method(),
    "ral": Method(raf=0.75),
    "dueheadnet-add-align": Method(network="dueheadnet", fusion="add", constraint="align"),
    "dueheadnet-concat-align-ral": Method(network="dueheadnet", fusion="concat", constraint="align", raf=0.75),
}


def network(method):
    if method.network == "single":
        return create_backbone("smallcnn", 10, seed=0)
    return dueheadnet.create("smallcnn", 10, fusion=method.fusion, image_size=SIZE, seed=0)


def evaluator():
    shape = map_shape(create_backbone("smallcnn", 10, seed=0), SIZE)
    found = create_evaluator(EvaluatorTrial(evaluator="conv", seed=0), shape, NUM_STAGES)
    found.freeze()
    return found


def train(method, chosen=RECIPE):
    """Loss of every step, and the number of right answers on the validation images after every epoch."""
    source = load_images("digits", limit=128)
    prepare = Preprocessor(source, SIZE)
    data = {split: image_batches(source, prepare, split, device=CPU) for split in ("train", "validation")}
    model = network(method)
    history = fit(
        model, data["train"], Objective(method, evaluator().log_probs if method.raf < 1 else None), chosen,
        epochs=EPOCHS, seed=0, after_epoch=lambda *_: {"validation": accuracy(model, data["validation"])},
    )  # fmt: skip
    num = len(data["validation"])
    return history.losses, [round(note["validation"] * num) for note in history.epoch_notes]


LOSSES = {
    "baseline": [2.400312, 2.26687, 2.163204, 2.078726, 1.952408, 2.006249, 1.889685, 1.965327],
    "ral": [2.300563, 2.200094, 2.122246, 2.059246, 1.964787, 2.005186, 1.917526, 1.974627],
    "dueheadnet-add-align": [3.177629, 2.853277, 2.652934, 2.486818, 2.223855, 2.321675, 2.114835, 2.188119],
    "dueheadnet-concat-align-ral": [2.702274, 2.598049, 2.500492, 2.474508, 2.382184, 2.32819, 2.318539, 2.314943],
}
"""Of the steps, in nats (torch 2.15, x86-64)."""

RIGHT = {
    "baseline": [30, 38],
    "ral": [30, 39],
    "dueheadnet-add-align": [48, 76],
    "dueheadnet-concat-align-ral": [22, 45],
}
"""Right answers among the validation images after each epoch, with ``FASTER``."""


def is_golden(name, losses):
    return losses == pytest.approx(LOSSES[name], rel=TOLERANCE)


@pytest.mark.parametrize("name", METHODS)
def test_each_path_gives_its_losses_again(name):
    assert train(METHODS[name])[0] == pytest.approx(LOSSES[name], rel=TOLERANCE)


@pytest.mark.parametrize("name", METHODS)
def test_each_path_gives_its_accuracies_again(name):
    # No change of rounding moved one; an image may still lie on the border of two classes.
    assert train(METHODS[name], FASTER)[1] == pytest.approx(RIGHT[name], abs=2)


FAULTS = {
    "RAF and 1 - RAF exchanged": (objectives, "ral", lambda base, fmcs, raf: ral(fmcs, base, raf), "ral"),
    "the FMCS loss asks for stage 1": (objectives, "fmcs_loss", lambda logs_BK: fmcs_loss(logs_BK.flip(1)), "ral"),
    "the FMCS loss has the wrong sign": (objectives, "fmcs_loss", lambda logs_BK: -fmcs_loss(logs_BK), "ral"),
    "the constraint has the wrong sign": (
        objectives, "cosine_constraint", lambda *maps_and_kind: -cosine_constraint(*maps_and_kind),
        "dueheadnet-add-align",
    ),
    "align and diversify exchanged": (
        objectives, "cosine_constraint", lambda first, second, _: cosine_constraint(first, second, "diversify"),
        "dueheadnet-concat-align-ral",
    ),
    "another order of the batches": (
        loop, "derive", lambda seed, *words: derive(seed, *(["other"] if words[0] == "order" else words)),
        "baseline",
    ),
    "one order for all epochs": (
        loop, "derive", lambda seed, *words: derive(seed, *(["order", 0] if words[0] == "order" else words)),
        "baseline",
    ),
    "another stream of noise": (
        loop, "derive", lambda seed, *words: derive(seed, *(["other"] if words[0] == "noise" else words)),
        "dueheadnet-concat-align-ral",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_moves_the_numbers(fault, monkeypatch):
    module, name, wrong, method = FAULTS[fault]
    monkeypatch.setattr(module, name, wrong)
    assert not is_golden(method, train(METHODS[method])[0])


@pytest.mark.parametrize("changed", [{"lr": 1.02e-3}, {"schedule": "constant"}, {"optimizer": "sgd"}], ids=str)
def test_another_recipe_moves_the_numbers(changed):
    assert not is_golden("baseline", train(METHODS["baseline"], recipe("fmce", batch_size=32, **changed))[0])
