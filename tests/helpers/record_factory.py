"""Valid synthetic records for tests. Their numbers are made up and stand for nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from fmcs_bench.results.records import (
    Cost,
    Environment,
    Epoch,
    EvaluatorRecord,
    Metrics,
    TrainingMetrics,
    TrainingRecord,
    TrainingTrial,
    Trajectory,
)
from fmcs_bench.results.store import RecordStore, pack_predictions
from fmcs_bench.results.trials import EvaluatorTrial
from fmcs_bench.training.methods import Method
from fmcs_bench.training.recipes import Recipe

NUM_STAGES = 7
DATASET = "digits-smallcnn-32px-base"
STEPS = (1, 2, 3, 5, 8, 12, 18, 27, 40, 60, 90, 130, 190, 280, 400, 600)
PROBS_KNK = np.random.default_rng(0).dirichlet(np.ones(NUM_STAGES), (NUM_STAGES, 12)).astype(np.float32)
PREDICTIONS = pack_predictions({"test_run/probs": PROBS_KNK})
EVALUATORS = {
    "conv": 0.62, "set": 0.41, "resnet": 0.44, "linear": 0.83, "norm": 1.12, "conv~permuted": 1.71, "chance": 1.75,
}  # fmt: skip


def environment() -> Environment:
    return Environment(
        fmcs_bench="0.1.0",
        code_digest=_sha256("code"),
        python="3.11.7",
        libraries={"torch": "2.6.0", "numpy": "2.0.0"},
        platform="Linux",
        processor="a processor, 2 logical cores",
        device="cpu",
        threads=2,
    )


def metrics(mae: float, accuracy: float | None = None) -> Metrics:
    share = max(0.0, 0.95 - mae / 2) if accuracy is None else accuracy
    return Metrics(
        accuracy=share,
        within_one=min(1.0, share + 0.2),
        mae=mae,
        kappa=max(-1.0, 1 - mae / 2),
        tau_b=max(-1.0, 1 - mae / 2),
        violations=min(1.0, mae / 4),
        log_loss=mae,
        ece=0.1,
        num_maps=1260,
    )


def evaluator_record(
    evaluator: str = "conv",
    seed: int = 0,
    *,
    mae: float = 0.6,
    same_run: float | None = None,
    validation_run: float | None = None,
    unseen: float | None = None,
    differentiable: bool = True,
    control: bool = False,
    spearman: float | None = 0.9,
    dataset: str = DATASET,
    step: Sequence[int] = STEPS,
    maps_per_second: float | None = 1000.0,
    test_on: dict[str, float] | None = None,
) -> EvaluatorRecord:
    """One fit with this MAE on the test run; what is not given follows from it."""
    rise = 1 - np.exp(-np.asarray(step) / 130)
    score = 4 + (1 + (NUM_STAGES - 1) * rise - 4) * max(0.0, 1 - mae / 1.8)
    return EvaluatorRecord(
        key=_sha256(f"{dataset} {evaluator} {seed}"),
        dataset=dataset,
        dataset_digest=_sha256(dataset),
        environment=environment(),
        curve=(Epoch(epoch=1, train_loss=1.5, validation=mae + 0.1), Epoch(epoch=2, train_loss=1.1, validation=mae)),
        cost=Cost(
            seconds=10 * mae + seed,
            num_parameters=12_345,
            process_peak_bytes=2**28,
            flops_per_map=None if evaluator == "chance" else 54_321,
            scoring_maps=None if maps_per_second is None else 1260,
            scoring_seconds=None if maps_per_second is None else 1260 / (maps_per_second * (1 + seed / 100)),
        ),
        predictions_sha256=hashlib.sha256(PREDICTIONS).hexdigest(),
        created="2025-01-01T00:00:00+00:00",
        trial=EvaluatorTrial(
            evaluator=evaluator.partition("~")[0],
            labels="permuted" if "~" in evaluator else "true",
            seed=seed,
        ),
        evaluator_digest=_sha256(f"{evaluator} {seed}"),
        num_stages=NUM_STAGES,
        differentiable=differentiable,
        channel_invariant=False,
        any_shape=False,
        control=control,
        metrics={
            "validation_run": metrics(mae * 1.05 if validation_run is None else validation_run),
            "same_run": metrics(mae * 0.6 if same_run is None else same_run),
            "test_run": metrics(mae),
            "unseen": metrics(mae * 1.02 if unseen is None else unseen),
        },
        trajectory=Trajectory(
            step=tuple(step),
            score=tuple(float(value) for value in score),
            validation_accuracy=tuple(float(value) for value in 0.1 + 0.85 * rise),
            spearman=spearman,
        ),
        test_on={name: metrics(value) for name, value in (test_on or {}).items()},
    )


def training_record(
    raf: float = 1.0,
    seed: int = 0,
    *,
    validation: float = 0.9,
    test: float = 0.9,
    evaluator: str | None = None,
    dataset: str = DATASET,
    method: Method | None = None,
    curve: Sequence[tuple[float, float | None]] = (),
    epoch: int | None = None,
    best_test: float | None = None,
) -> TrainingRecord:
    """One training; a RAF below 1 gets the evaluator ``set`` unless another is given.

    ``curve`` has validation accuracy and score of each epoch; without it there is one epoch, not watched.
    """
    method = method or Method(raf=raf)
    name = evaluator or ("set" if method.uses_evaluator else None)
    return TrainingRecord(
        key=_sha256(f"{dataset} {method} {name} {seed}"),
        dataset=dataset,
        dataset_digest=_sha256(dataset),
        environment=environment(),
        curve=tuple(
            Epoch(epoch=i, train_loss=1 / i, validation=accuracy, score=score)
            for i, (accuracy, score) in enumerate(curve or [(validation, None)], start=1)
        ),
        cost=Cost(seconds=30.0 + seed, num_parameters=98_765, process_peak_bytes=2**28),
        predictions_sha256=hashlib.sha256(PREDICTIONS).hexdigest(),
        created="2025-01-01T00:00:00+00:00",
        trial=TrainingTrial(
            backbone="smallcnn",
            method=method,
            recipe=Recipe(),
            epochs=9,
            image_size=32,
            limit=None,
            seed=seed,
            evaluator=name,
            evaluator_digest=_sha256(name) if name else None,
        ),
        num_stages=NUM_STAGES,
        metrics=TrainingMetrics(
            validation_accuracy=validation,
            test_accuracy=test,
            num_validation=200,
            num_test=360,
            epoch=epoch,
            best_test_accuracy=best_test,
        ),
    )


def evaluator_records(num_seeds: int = 5, *, dataset: str = DATASET, seed: int = 0) -> list[EvaluatorRecord]:
    """Several evaluators with some spread over seeds; ``norm`` and ``chance`` are not differentiable."""
    rng = np.random.default_rng(seed)
    return [
        evaluator_record(
            name,
            fit,
            mae=float(mae + rng.normal(0, 0.03)),
            same_run=float(0.6 * mae + rng.normal(0, 0.02)),
            differentiable=name not in ("norm", "chance"),
            spearman=None if name == "chance" else float(np.clip(1.05 - mae / 2 + rng.normal(0, 0.02), -1, 1)),
            dataset=dataset,
        )
        for name, mae in EVALUATORS.items()
        for fit in range(num_seeds)
    ]


def training_records(num_seeds: int = 5, *, dataset: str = DATASET, seed: int = 1) -> list[TrainingRecord]:
    """A baseline, RAL with two evaluators at three RAFs, and two networks with two heads."""
    rng = np.random.default_rng(seed)
    base = rng.normal(0.9, 0.01, num_seeds)
    plans: list[tuple[Method, str | None, float]] = [(Method(), None, 0.0)]
    plans += [(Method(raf=raf), "set", gain) for raf, gain in ((0.95, 0.008), (0.9, 0.012), (0.75, -0.01))]
    plans += [
        (Method(raf=raf, evaluator_kind="random"), "set", gain)
        for raf, gain in ((0.95, -0.001), (0.9, -0.004), (0.75, -0.02))
    ]
    plans += [(Method(network="dueheadnet", fusion="add", constraint=c), None, 0.004) for c in ("none", "align")]
    return [
        training_record(
            method.raf,
            fit,
            validation=float(base[fit] + gain + rng.normal(0, 0.003)),
            test=float(base[fit] + gain + (rng.normal(0, 0.004) if gain else 0)),
            evaluator=name,
            dataset=dataset,
            method=method,
        )
        for method, name, gain in plans
        for fit in range(num_seeds)
    ]


def watched_records(
    methods: Iterable[tuple[Method, str | None, float]], num_seeds: int = 5, *, num_epochs: int = 18, seed: int = 2
) -> list[TrainingRecord]:
    """Watched trainings whose epoch was chosen, as real ones look: method, evaluator and gain in accuracy of each.

    RAL raises the score, the more the smaller RAF is; at RAF 0 nothing is learned about the classes.
    """
    rng = np.random.default_rng(seed)
    base_S = rng.normal(0.94, 0.008, num_seeds)
    epoch_E = np.arange(1, num_epochs + 1)
    found = []
    for method, name, gain in methods:
        speed = 1 + 0.4 * rng.random()
        for fit in range(num_seeds):
            last = 0.1 if method.raf == 0 else min(0.995, base_S[fit] + gain + rng.normal(0, 0.003))
            rise_E = 1 - np.exp(-epoch_E / (2.5 * speed))
            noise_E = rng.normal(0, 0.012, num_epochs) * np.linspace(2.5, 0.3, num_epochs)
            validation_E = (0.1 + (last - 0.1) * rise_E + noise_E).clip(0.02, 0.9975)
            test_E = (validation_E + rng.normal(-0.004, 0.005, num_epochs)).clip(0, 1)
            top = 5.2 + (0 if name is None else 1.6 * (1 - method.raf) ** 0.3) + rng.normal(0, 0.12)
            score_E = (1.2 + (top - 1.2) * rise_E + rng.normal(0, 0.06, num_epochs)).clip(1, NUM_STAGES)
            chosen = int(np.argmax(validation_E))
            found.append(
                training_record(
                    method.raf,
                    fit,
                    validation=float(validation_E[chosen]),
                    test=float(test_E[chosen]),
                    evaluator=name,
                    method=method,
                    curve=[(float(v), float(s)) for v, s in zip(validation_E, score_E, strict=True)],
                    epoch=chosen + 1,
                    best_test=float(test_E.max()),
                )
            )
    return found


NETWORKS = tuple(
    {"network": "dueheadnet", "fusion": fusion, "constraint": constraint}
    for fusion in ("add", "concat")
    for constraint in ("none", "align", "diversify")
)


def write(root: Path, records: Iterable[EvaluatorRecord | TrainingRecord]) -> RecordStore:
    """Store records under ``root``."""
    store = RecordStore(root)
    for record in records:
        store.write(record, PREDICTIONS)
    return store


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
