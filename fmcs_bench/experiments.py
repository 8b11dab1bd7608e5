"""The training track: methods x RAF x seeds, paired, with the frozen judge.

Flow: FMCS dataset (network, images, recipe, length) and a chosen evaluator -> plan, a list of units -> each unit
trained from its seed, validated after every epoch, tested once at the end -> record.

N images, seeds as in ``TrainingUnit``.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from fmcs_bench import backbones, dueheadnet, environment, records
from fmcs_bench.backbones import Backbone
from fmcs_bench.boards import TrainingBoard, evaluator_boards, training_boards
from fmcs_bench.config import DEFAULT_RAFS, NUM_SEEDS, EvaluatorConfig, Method
from fmcs_bench.engine import run_units
from fmcs_bench.environment import Environment
from fmcs_bench.errors import ConfigError, DatasetError, MissingDataError, UnknownNameError, nearest
from fmcs_bench.evaluators import Evaluator, resolve
from fmcs_bench.images import ImageDataset, Preprocessor
from fmcs_bench.judges import load_judge
from fmcs_bench.objectives import Objective
from fmcs_bench.progress import SILENT, Progress
from fmcs_bench.records import EvaluatorRecord, RecordStore, TrainingRecord, TrainingUnit
from fmcs_bench.store import FmcsDataset
from fmcs_bench.training import Batches, accuracy, choose_device, fit, predict
from fmcs_bench.trajectory import image_batches
from fmcs_bench.workspace import Workspace

FIRST_SEED = 100
"""Trainings start from seeds that no run of an FMCS dataset has."""

NETWORKS = {
    "single": {},
    **{
        f"dueheadnet-{fusion}-{constraint}": {"network": "dueheadnet", "fusion": fusion, "constraint": constraint}
        for fusion in ("add", "concat")
        for constraint in ("none", "align", "diversify")
    },
}
METHODS = ("baseline", "ral", *(name + end for name in NETWORKS if name != "single" for end in ("", "-ral")))
DEFAULT_METHODS = ("baseline", "ral", "dueheadnet-add-none", "dueheadnet-add-align", "dueheadnet-add-align-ral")


def methods(names: Sequence[str], rafs: Sequence[float]) -> list[Method]:
    """The methods of some families, one for each RAF where the family has one.

    Args:
        names: of ``METHODS``.
        rafs: of the families whose name ends in ``ral``; 1 is the family without RAL.

    Raises:
        UnknownNameError: no such family.
        ConfigError: a RAF outside [0, 1], or given twice.

    Example:
        >>> [method.raf for method in methods(["baseline", "ral"], [0.9, 0.75])]
        [1.0, 0.9, 0.75]
    """
    if len(set(rafs)) != len(rafs):
        raise ConfigError(f"RAF values {', '.join(f'{raf:g}' for raf in rafs)}: one is given twice")
    checked = [Method.make(raf=float(raf)).raf for raf in rafs]
    found = []
    for name in dict.fromkeys(names):
        if name not in METHODS:
            raise UnknownNameError(f"unknown method {name!r}; {nearest(name, METHODS)}")
        network = NETWORKS["single" if name in ("baseline", "ral") else name.removesuffix("-ral")]
        own_rafs = [raf for raf in checked if raf != 1] if name.endswith("ral") else [1.0]
        found += [Method.make(**network, raf=raf) for raf in own_rafs]
    return found


def train_methods(
    dataset: FmcsDataset,
    workspace: Workspace,
    *,
    method_names: Sequence[str] = DEFAULT_METHODS,
    rafs: Sequence[float] = DEFAULT_RAFS,
    num_seeds: int = NUM_SEEDS,
    evaluator: str | None = None,
    epochs: int | None = None,
    data_dir: str | Path | None = None,
    image_source: str | None = None,
    stream_images: bool | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> TrainingBoard:
    """Train every method from every seed; what is finished is not repeated.

    Args:
        dataset: gives network, images, image size and recipe, and the length: the convergence point.
        workspace: where records go and evaluators lie; the caller holds its lock.
        method_names: of ``METHODS``.
        rafs: RAF values of the methods with RAL.
        num_seeds: seeds 100 .. 99 + num_seeds; every method has the same.
        evaluator: the judge; None takes the differentiable one with the lowest MAE on the validation run.
        epochs: another length than the convergence point.
        data_dir: folder with the files of the image dataset.
        image_source: ``folder:DIR`` or ``hub:NAME_OR_PATH`` that the dataset was built from.
        stream_images: see ``stream`` of ``images.load``.
        device: ``auto``, ``cpu``, ``cuda``, ...
        progress: shows finished trainings and the time left.

    Raises:
        UnknownNameError: no such method, or an evaluator without a record.
        ConfigError: a RAF outside [0, 1] or given twice; seeds that are those of the dataset's runs.
        MissingDataError: no evaluator was fitted on this dataset, or the image files are not there.
        DivergedError: a loss became NaN or infinite.
    """
    chosen = methods(method_names, rafs)
    if not chosen:
        raise ConfigError("there is nothing to train: RAF = 1 is the baseline; name --method baseline or a RAF below 1")
    if num_seeds < 1:
        raise ConfigError(f"{num_seeds} seeds; at least 1 is needed")
    if epochs is not None and epochs < 1:
        raise ConfigError(f"epochs = {epochs}; at least 1 is needed")
    seeds = range(FIRST_SEED, FIRST_SEED + num_seeds)
    taken = sorted(set(seeds) & set(dataset.manifest.config.run_roles))
    if taken:
        raise ConfigError(f"the seeds {taken} are those of runs of {dataset.manifest.name}; training needs fresh ones")
    judge = judge_record(dataset, workspace, evaluator) if any(method.raf < 1 for method in chosen) else None
    track = _Track(dataset, workspace, choose_device(device), data_dir, judge, image_source, stream_images, progress)
    units = [track.unit(method, seed, epochs) for seed in seeds for method in chosen]
    done = run_units(
        units, find=track.find, work=track.work, description=f"training on {dataset.manifest.name}", progress=progress
    )
    return training_boards(done.results)[0]


def judge_record(dataset: FmcsDataset, workspace: Workspace, evaluator: str | None = None) -> EvaluatorRecord:
    """The fit that judges in training: of the chosen evaluator, the seed with the lowest MAE on the validation run.

    Args:
        dataset: on which it was fitted.
        workspace: with the records of ``fmcs-bench evaluate``.
        evaluator: by its name on the board, or ``FILE.py:Class``; None takes the one that the board chose, on the
            validation run.

    Raises:
        MissingDataError: nothing was evaluated on this dataset, or not this evaluator.
        ConfigError: the evaluator is not differentiable.
    """
    evaluator = evaluator if evaluator is None else resolve(evaluator)
    every = [r for r in RecordStore(workspace.records).all(EvaluatorRecord) if r.dataset_id == dataset.id]
    boards = {board.settings: board for board in evaluator_boards(every)}
    if not boards:
        raise MissingDataError(
            f"no evaluator was fitted on {dataset.id} yet; type `fmcs-bench evaluate {dataset.manifest.name}` first"
        )
    usual = EvaluatorConfig(evaluator="any", seed=0).settings
    if usual not in boards and len(boards) > 1:
        raise ConfigError(
            f"evaluators were fitted on {dataset.id} with several settings ({', '.join(boards)}), none of them the "
            "usual ones; type `fmcs-bench evaluate` without --limit and --grid first"
        )
    board = boards.get(usual) or next(iter(boards.values()))
    row = board.chosen if evaluator is None else next((row for row in board.rows if row.evaluator == evaluator), None)
    if row is None:
        raise MissingDataError(
            f"no differentiable evaluator {evaluator or ''} was fitted on {dataset.id}; fitted are "
            f"{', '.join(row.evaluator for row in board.rows)}; type `fmcs-bench evaluate --evaluator NAME` first"
        )
    if not row.records[0].differentiable:
        raise ConfigError(f"the evaluator {row.evaluator} is not differentiable; RAL needs one that is")
    return min(row.records, key=lambda record: (record.metrics["validation_run"].mae, record.seed))


@dataclass(frozen=True)
class _Track:
    dataset: FmcsDataset
    workspace: Workspace
    device: torch.device
    data_dir: str | Path | None
    judge: EvaluatorRecord | None
    image_source: str | None = None
    stream_images: bool | None = None
    progress: Progress = SILENT

    @cached_property
    def store(self) -> RecordStore:
        return RecordStore(self.workspace.records)

    @cached_property
    def environment(self) -> Environment:
        return Environment.current(str(self.device), torch.get_num_threads())

    @cached_property
    def images(self) -> ImageDataset:
        source = self.dataset.load_images(
            self.data_dir, self.image_source, stream=self.stream_images, progress=self.progress
        )
        if source.sha256 != self.dataset.manifest.images.sha256:
            raise DatasetError(f"the images of {source.name} here are not those that {self.dataset.id} was built from")
        return source

    @cached_property
    def prepare(self) -> Preprocessor:
        return Preprocessor(self.images, self.dataset.manifest.config.image_size)

    @cached_property
    def evaluator(self) -> Evaluator | None:
        return load_judge(self.workspace, self.judge, device=self.device) if self.judge else None

    def unit(self, method: Method, seed: int, epochs: int | None) -> TrainingUnit:
        config = self.dataset.manifest.config
        judge = self.judge if method.raf < 1 else None
        return TrainingUnit(
            backbone=config.backbone,
            backbone_options=config.backbone_options,
            method=method,
            recipe=config.recipe,
            epochs=convergence_epochs(self.dataset) if epochs is None else epochs,
            image_size=config.image_size,
            limit=config.limit,
            seed=seed,
            evaluator=judge.method if judge else None,
            evaluator_digest=judge.evaluator_digest if judge else None,
        )

    def key(self, unit: TrainingUnit) -> str:
        return records.unit_key(unit, self.dataset.manifest.dataset_digest, self.environment)

    def find(self, unit: TrainingUnit) -> TrainingRecord | None:
        return self.store.finished(
            TrainingRecord, self.dataset.id, unit.settings, unit.label, unit.seed, self.key(unit)
        )

    def work(self, unit: TrainingUnit) -> TrainingRecord:
        manifest, key = self.dataset.manifest, self.key(unit)
        data = {
            split: image_batches(self.images, self.prepare, split, device=self.device)
            for split in ("train", "validation", "unseen")
        }
        judge = self.evaluator.log_probs if self.evaluator and unit.method.raf < 1 else None
        model = make_network(unit, len(self.images.classes)).to(self.device)
        begin = time.monotonic()
        history = fit(
            model,
            data["train"],
            Objective(unit.method, judge),
            unit.recipe,
            epochs=unit.epochs,
            seed=unit.seed,
            state_path=self.workspace.state(key),
            after_epoch=lambda _, loss: {
                "loss": loss,
                "validation": accuracy(model, data["validation"], precision=unit.recipe.precision),
            },
        )
        seconds = time.monotonic() - begin
        predictions = {
            f"{name}/{what}": values
            for name, split in (("validation", "validation"), ("test", "unseen"))
            for what, values in (
                ("predicted", self._answer(model, data[split], unit)),
                ("label", data[split].targets_N.cpu().numpy().astype(np.int32)),
                ("image", self.images.ids_N[self.images.indices(split)]),
            )
        }
        packed = records.pack_predictions(predictions)
        record = TrainingRecord(
            key=key,
            dataset=manifest.name,
            dataset_digest=manifest.dataset_digest,
            environment=self.environment,
            curve=tuple(
                records.Epoch(epoch=i, train_loss=note["loss"], validation=note["validation"])
                for i, note in enumerate(history.epoch_notes, start=1)
            ),
            cost=records.Cost(
                seconds=seconds,
                num_parameters=backbones.num_parameters(model),
                process_peak_bytes=environment.process_peak_bytes(),
            ),
            predictions_sha256=hashlib.sha256(packed).hexdigest(),
            created=environment.now(),
            unit=unit,
            metrics=recompute(predictions),
        )
        self.store.write(record, packed)
        return record

    @staticmethod
    def _answer(model: Backbone, data: Batches, unit: TrainingUnit) -> np.ndarray:
        """Predicted class of every image, int32 [N]."""
        predicted: np.ndarray = predict(model, data, precision=unit.recipe.precision).argmax(dim=1).cpu().numpy()
        return predicted.astype(np.int32)


def make_network(unit: TrainingUnit, num_classes: int) -> Backbone:
    """The network of a unit with its initial weights; a single network and a first head of one seed are equal."""
    method, size, options = unit.method, unit.image_size, unit.backbone_options
    if method.network == "single":
        return backbones.create(unit.backbone, num_classes, seed=unit.seed, image_size=size, options=options)
    assert method.fusion is not None  # Method has checked it
    return dueheadnet.create(
        unit.backbone, num_classes, fusion=method.fusion, image_size=size, seed=unit.seed, options=options
    )


def convergence_epochs(dataset: FmcsDataset) -> int:
    """Length of a training: the latest convergence point of the training runs, in whole epochs (recipe ``fmce``)."""
    return max(math.ceil(run.convergence_epoch) for run in dataset.manifest.runs if run.role == "training")


def recompute(predictions: dict[str, np.ndarray]) -> records.TrainingMetrics:
    """The metrics of a record, from its predictions alone.

    Args:
        predictions: ``predicted``, ``label`` and ``image`` [N] of ``validation`` and ``test``.
    """
    share = {
        name: float((predictions[f"{name}/predicted"] == predictions[f"{name}/label"]).mean())
        for name in ("validation", "test")
    }
    return records.TrainingMetrics(
        validation_accuracy=share["validation"],
        test_accuracy=share["test"],
        num_validation=len(predictions["validation/label"]),
        num_test=len(predictions["test/label"]),
    )
