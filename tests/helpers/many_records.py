"""Made-up records as many, and as long, as those of a real leaderboard."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fmcs_bench.results.records import AnyRecord, Epoch, EvaluatorRecord
from fmcs_bench.training.methods import Method
from helpers import record_factory as factory

EVALUATORS = (
    "attention", "boosting", "chance", "conv", "conv~permuted", "invariants", "linear", "logistic", "mlp", "moments",
    "norm", "resnet", "set", "spectrum",
)  # fmt: skip
SEEDS = 5
_EPOCHS, _BOOSTING_ROUNDS, _CHECKPOINTS = 9, 150, 61
_LIBRARIES = (
    "numcodecs",
    "numpy",
    "pillow",
    "safetensors",
    "scikit-learn",
    "scipy",
    "timm",
    "torch",
    "torchvision",
    "zarr",
)


def evaluators(names: Sequence[str] = EVALUATORS) -> list[EvaluatorRecord]:
    """Five fits of each evaluator."""
    rng = np.random.default_rng(0)
    steps = np.unique(np.geomspace(1, 5000, _CHECKPOINTS + 12).astype(int))[:_CHECKPOINTS]
    found = []
    for i, name in enumerate(names):
        for seed in range(SEEDS):
            mae = 0.8 + 0.1 * i + float(rng.normal(0, 0.05))
            record = factory.evaluator_record(name, seed, mae=mae, step=[int(step) for step in steps],
                                              maps_per_second=3000.0 * 1.6**i)  # fmt: skip
            noise = rng.normal(0, 0.05, len(steps)) + record.trajectory.score
            losses = rng.random(_BOOSTING_ROUNDS if name == "boosting" else _EPOCHS)
            curve = [Epoch(epoch=e, train_loss=loss, validation=loss + 0.1) for e, loss in enumerate(losses, start=1)]
            trajectory = record.trajectory.model_copy(update={"score": tuple(map(float, noise))})
            found.append(record.model_copy(update={"curve": tuple(curve), "trajectory": trajectory}))
    return found


def trainings(plans: Sequence[tuple[Method, str | None, float]] = ()) -> list[AnyRecord]:
    """Five trainings of each method, of 51 methods in 25 families where none are named."""
    if plans:
        return list(factory.watched_records(plans, SEEDS))
    more = [(Method(raf=raf), "set", 0.0) for raf in (0.7, 0.5)]
    return [*factory.large_grid(SEEDS, rafs=(0.95, 0.75, 0.0)), *factory.watched_records(more, SEEDS)]


def on(dataset: str, records: Sequence[AnyRecord]) -> list[AnyRecord]:
    """The same records about a dataset, with the libraries of a real environment."""
    digest = factory.evaluator_record(dataset=dataset).dataset_digest
    plain = factory.environment()
    libraries = dict.fromkeys(_LIBRARIES, "1.23.4")
    made = plain.model_copy(update={"libraries": libraries, "platform": "Linux-6.8.0-45-generic-x86_64-with-glibc2.36"})
    about = {"dataset": dataset, "dataset_digest": digest, "environment": made}
    return [record.model_copy(update=about) for record in records]
