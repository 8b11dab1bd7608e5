"""Speed of training. One JSON line.

    python benchmarks/train.py [--device cuda] [--precision bfloat16] [--images hub:DIR] [--seconds 20] [--out FILE]

For smallcnn at 32 px and ShuffleNet v2 at 224 px, batches of 64, ratios of things measured by turns in one process:
- loop: images per second of `training.fit`, from uint8 images on the device, against a bare PyTorch loop that does the
  same work (goal: 0.95), and against one that always trains on the same prepared batch.
- ral_conv, ral_set: seconds of a step of RAL with a frozen evaluator, against the baseline's, a step of each by turns.
  Goal for the share that conv adds on ShuffleNet v2: below 0.05.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from result import by_turns, per_second, report, seconds
from torch.nn import functional as F  # noqa: N812

from fmcs_bench.backbones.create import create_backbone, map_shape
from fmcs_bench.core import environment
from fmcs_bench.evaluators.registry import create_evaluator
from fmcs_bench.images.dataset import ImageDataset
from fmcs_bench.images.load import load_images
from fmcs_bench.images.preprocessing import Preprocessor
from fmcs_bench.results.trials import EvaluatorTrial
from fmcs_bench.training.loop import Batches, autocast, choose_device, fit
from fmcs_bench.training.losses import Objective
from fmcs_bench.training.methods import Method
from fmcs_bench.training.recipes import Recipe

NETWORKS = {"smallcnn": 32, "shufflenet_v2": 224}
BATCH_SIZE = 64
NUM_STAGES = 9
EVALUATORS = ("conv", "set")
RAF = 0.9


def batches(source: ImageDataset, size: int, num: int, device: torch.device) -> Batches:
    """So many train images on the device, some of them several times if there are fewer."""
    rows = np.resize(source.indices("train"), num)
    labels = torch.from_numpy(source.labels_N[rows]).to(device)
    return Batches(torch.from_numpy(source.images_NCHW[rows]).to(device), labels, Preprocessor(source, size).to(device))


def bare_loop(name: str, num_classes: int, data: Batches, recipe: Recipe, *, prepared: bool) -> None:
    """One epoch as one would write it for one network; ``prepared``: always with the same prepared batch."""
    assert isinstance(data.inputs, torch.Tensor)
    model = create_backbone(name, num_classes, seed=0).to(data.device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.lr)
    parts = torch.randperm(len(data)).to(data.device).split(BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=len(parts))
    batch, labels_B = data.prepare(data.inputs[parts[0]]), data.targets_N[parts[0]]
    for index_B in parts:
        if not prepared:
            batch, labels_B = data.prepare(data.inputs[index_B]), data.targets_N[index_B]
        optimizer.zero_grad()
        with autocast(data.device, recipe.precision):
            loss = F.cross_entropy(model(batch), labels_B)
        loss.backward()
        optimizer.step()
        schedule.step()
    loss.detach().item()  # waits for the device


def step_of(name: str, num_classes: int, data: Batches, objective: Objective, recipe: Recipe) -> Callable[[], float]:
    """A function that trains a network for a step and says what it took; the first step is done."""
    assert isinstance(data.inputs, torch.Tensor)
    model = create_backbone(name, num_classes, seed=0).to(data.device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.lr)
    batch, labels_B = data.prepare(data.inputs[:BATCH_SIZE]), data.targets_N[:BATCH_SIZE]

    def step() -> None:
        optimizer.zero_grad()
        with autocast(data.device, recipe.precision):
            loss = objective(model, batch, labels_B)
        loss.backward()
        optimizer.step()
        loss.detach().item()  # waits for the device

    step()
    return lambda: seconds(step)


def measure(
    name: str,
    size: int,
    source: ImageDataset,
    device: torch.device,
    recipe: Recipe,
    *,
    turn_seconds: float,
    rounds: int,
) -> dict[str, Any]:
    """All figures of one network."""
    num_classes = len(source.classes)
    shape = map_shape(create_backbone(name, num_classes, seed=0), size)
    objectives = {"baseline": Objective(Method())}
    for kind in EVALUATORS:
        evaluator = create_evaluator(EvaluatorTrial(evaluator=kind, seed=0), shape, NUM_STAGES, device=device)
        evaluator.freeze()
        objectives[kind] = Objective(Method(raf=RAF), evaluator.log_probs)

    def training(objective: str, data: Batches) -> Callable[[], Any]:
        def work() -> None:
            model = create_backbone(name, num_classes, seed=0).to(device)
            fit(model, data, objectives[objective], recipe, epochs=1, seed=0)

        return work

    def bare(data: Batches, *, prepared: bool = False) -> Callable[[], None]:
        return lambda: bare_loop(name, num_classes, data, recipe, prepared=prepared)

    few = batches(source, size, 2 * BATCH_SIZE, device)
    for work in (bare(few), *(training(objective, few) for objective in objectives)):
        work()  # kernels are chosen and memory is taken now
    num_steps = max(4, int(2 * turn_seconds / seconds(bare(few))))
    data = batches(source, size, num_steps * BATCH_SIZE, device)

    def rate(work: Callable[[], Any]) -> Callable[[], float]:
        return lambda: per_second(len(data), work)

    ours = training("baseline", data)
    our_rate, bare_rate, ratio = by_turns(rate(ours), rate(bare(data)), rounds)
    _, prepared_rate, prepared_ratio = by_turns(rate(ours), rate(bare(data, prepared=True)), rounds)
    found: dict[str, Any] = {
        "image_size": size,
        "map_shape": shape,
        "batch_size": BATCH_SIZE,
        "steps": num_steps,
        "rounds": rounds,
        "loop": {
            "images_per_second": round(our_rate, 1),
            "bare_images_per_second": round(bare_rate, 1),
            "ratio_to_bare": round(ratio, 4),
            "prepared_images_per_second": round(prepared_rate, 1),
            "ratio_to_prepared": round(prepared_ratio, 4),
        },
    }
    steps = {key: step_of(name, num_classes, few, objective, recipe) for key, objective in objectives.items()}
    for kind in EVALUATORS:
        step, base_step, ratio = by_turns(steps[kind], steps["baseline"], num_steps * rounds)
        found[f"ral_{kind}"] = {
            "pairs_of_steps": num_steps * rounds,
            "step_seconds": round(step, 5),
            "baseline_step_seconds": round(base_step, 5),
            "share_added": round(ratio - 1, 4),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", action="append", choices=NETWORKS, help="which; repeat.  [default: all]")
    parser.add_argument("--images", default="digits", help="image dataset: a name, folder:DIR or hub:NAME_OR_PATH")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--seconds", type=float, default=10, help="about as long as one measured training")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="also write the line to this file")
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    recipe = Recipe(batch_size=BATCH_SIZE, precision=arguments.precision)
    source = load_images(arguments.images, arguments.data_dir, image_size=max(NETWORKS.values()))
    figures: dict[str, Any] = {"images": source.name, "precision": arguments.precision}
    for name in arguments.network or NETWORKS:
        figures[name] = measure(
            name, NETWORKS[name], source, device, recipe, turn_seconds=arguments.seconds, rounds=arguments.rounds
        )
        print(json.dumps({name: figures[name]}), file=sys.stderr, flush=True)
    if device.type == "cuda":
        figures["peak_device_bytes"] = torch.cuda.max_memory_allocated(device)
    figures["peak_process_bytes"] = environment.process_peak_bytes()
    report("train", figures, device=arguments.device, out=arguments.out)


if __name__ == "__main__":
    main()
