"""The training track: methods x RAF x seeds, paired, with a frozen evaluator.

A training is validated and watched after every epoch, and tested once with the weights of its best epoch. A failure
stops no other. N images, E epochs, seeds as in ``TrainingTrial``.
"""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fmcs_bench.backbones.create import num_parameters
from fmcs_bench.core import environment
from fmcs_bench.core.errors import DatasetError, DivergedError, UnitsFailedError
from fmcs_bench.core.progress import PRINTED, SILENT, Progress
from fmcs_bench.core.workspace import PathLike, Workspace
from fmcs_bench.evaluator_track.runner import References
from fmcs_bench.evaluator_track.selection import TrainingEvaluators
from fmcs_bench.images.dataset import ImageDataset
from fmcs_bench.images.load import absolute_source
from fmcs_bench.images.options import ImageOptions
from fmcs_bench.images.preprocessing import Preprocessor
from fmcs_bench.jobs.local import LOCAL, Engine, Failure, Outcome, run_trials
from fmcs_bench.jobs.options import Execution
from fmcs_bench.jobs.ray import engine_of
from fmcs_bench.results import records
from fmcs_bench.results.records import EvaluatorRecord, TrainingRecord
from fmcs_bench.results.store import FailedTraining, pack_predictions
from fmcs_bench.results.training_board import TrainingBoard, training_boards
from fmcs_bench.results.trials import TrainingTrial
from fmcs_bench.store.reader import FmcsDataset, find_dataset, only_dataset
from fmcs_bench.training.loop import choose_device, fit
from fmcs_bench.training.losses import Objective
from fmcs_bench.training.trajectory import checkpoint_key, image_batches, save_checkpoint
from fmcs_bench.training_track.networks import make_network, observe
from fmcs_bench.training_track.options import TrainOptions
from fmcs_bench.training_track.plan import Trainings, plan_trials

EVERY_EPOCH = "test/predicted_by_epoch"
"""In a predictions file: the predicted class of every test image after every epoch [E, N]."""


def train(
    dataset: FmcsDataset | PathLike | None = None,
    options: TrainOptions | None = None,
    *,
    workspace: PathLike | None = None,
    images: ImageOptions | None = None,
    execution: Execution | None = None,
    progress: Progress = SILENT,
    **values: Any,
) -> TrainingBoard:
    """Train the methods of the training track with the evaluator that was chosen on this dataset.

    Args:
        dataset: opened, or a name or path; None is the workspace's only one.
        options: what is trained; None takes all of it from ``values``.
        workspace: see ``Workspace``.
        images: where the image files are; None takes it from ``values``.
        execution: device, and whether trainings are done one after another or on Ray; None takes it from ``values``.
        progress: shows the work; silent by default.
        **values: fields of ``TrainOptions`` (``methods``, ``rafs``, where ``["paper"]`` stands for those of the paper,
            ``seeds``, ``evaluator``, ``epochs``, ``recipe``, ``lr``, ...), of ``ImageOptions`` (``data_dir``, ...) and
            of ``Execution`` (``device``, ``engine``, ...).

    Raises:
        UnitsFailedError: some trainings diverged; everything else is done, and its boards are the error's ``finished``.
        FmcsBenchError: see ``train_dataset``.
    """
    images, execution = images or ImageOptions.take(values), execution or Execution.take(values)
    options = TrainOptions.make(**(dict(options or {}) | values))
    place = Workspace(workspace)
    opened = only_dataset(place) if dataset is None else find_dataset(place, dataset)
    with engine_of(execution) as engine, place.locked():
        return train_dataset(opened, place, options, images, device=execution.device, progress=progress, engine=engine)


def load_images_of(dataset: FmcsDataset, images: ImageOptions, progress: Progress = SILENT) -> ImageDataset:
    """The images that a dataset was built from; it is a ``DatasetError`` where they differ."""
    source = dataset.load_images(images, progress=progress)
    if source.sha256 != dataset.manifest.images.sha256:
        raise DatasetError(f"the images of {source.name} here are not those that {dataset.id} was built from")
    return source


def train_dataset(
    dataset: FmcsDataset,
    workspace: Workspace,
    options: TrainOptions | None = None,
    images: ImageOptions | None = None,
    *,
    device: str = "auto",
    progress: Progress = SILENT,
    engine: Engine = LOCAL,
) -> TrainingBoard:
    """``train`` on one dataset in a workspace whose lock the caller holds."""
    trainings, trials = plan_trials(dataset, workspace, options or TrainOptions(), choose_device(device))
    training = _Training(trainings, images or ImageOptions(), progress)
    outcome = run_trials(
        trials,
        find=training.find,
        work=training.work,
        description=f"training on {dataset.manifest.name}",
        survives=(DivergedError,),
        progress=progress,
        engine=engine,
        device=str(trainings.device),
        folder=workspace.root,
    )
    boards = training_boards(outcome.results)
    if outcome.failures:
        raise UnitsFailedError(
            _summary(outcome, dataset.id), [failure.error for failure in outcome.failures], boards
        ) from outcome.failures[0].error
    return boards[0]


def _summary(outcome: Outcome[TrainingTrial, TrainingRecord], dataset_id: str) -> str:
    num = len(outcome.failures)
    lines = [f"- {failure.error}" for failure in outcome.failures]
    return "\n".join(
        [f"{num} of {num + len(outcome.results)} trainings on {dataset_id} failed; the others are done:", *lines]
    )


@dataclass(frozen=True)
class _Training:
    """Finds and does the trials of one dataset. It is pickled as references, as ``evaluator_track.runner._Fitting``."""

    trainings: Trainings
    image_options: ImageOptions
    progress: Progress

    def __reduce__(self) -> tuple[Any, ...]:
        evaluators, image_options = self.trainings.evaluators, self.image_options
        folder = image_options.data_dir
        absolute = {
            "data_dir": None if folder is None else Path(folder).absolute(),
            "image_source": absolute_source(image_options.image_source),
        }
        return _reopen, (
            References.to([self.trainings.dataset], [record.trial.evaluator for record in evaluators.records]),
            self.trainings.workspace.root.absolute(),
            str(self.trainings.device),
            (evaluators.fitted, evaluators.permuted, evaluators.watcher),
            self.trainings.options,
            self.image_options.model_copy(update=absolute),
        )

    @cached_property
    def images(self) -> ImageDataset:
        return load_images_of(self.trainings.dataset, self.image_options, self.progress)

    @cached_property
    def prepare(self) -> Preprocessor:
        return Preprocessor(self.images, self.trainings.dataset.manifest.config.image_size)

    def find(self, trial: TrainingTrial) -> TrainingRecord | Failure[TrainingTrial] | None:
        record = self.trainings.find_record(trial)
        keep_weights = self.trainings.options.keep_weights
        if record is not None and (not keep_weights or checkpoint_key(self._weights(trial)) == record.key):
            return record
        known = self.trainings.find_failure(trial)
        if known is None:
            return None
        message = f"{trial.label} with seed {trial.seed}: {known.reason} (on {known.created}; --retry trains it again)"
        return Failure(trial, DivergedError(message, known.epoch))

    def _weights(self, trial: TrainingTrial) -> Path:
        return self.trainings.workspace.network(self.trainings.dataset.id, trial.settings, trial.label, trial.seed)

    def work(self, trial: TrainingTrial) -> TrainingRecord:
        """Train a trial; of one that diverges a note is kept, and the error goes on."""
        key, manifest = self.trainings.key(trial), self.trainings.dataset.manifest
        every_epoch = self.trainings.options.best_epoch_on_test
        state = self.trainings.workspace.state(f"{key}-every-test" if every_epoch else key)
        try:
            record = self._train(trial, key, state)
        except DivergedError as error:
            state.unlink(missing_ok=True)  # from it, the same would happen again
            self.trainings.failures.write(
                FailedTraining(
                    key=key,
                    dataset=manifest.name,
                    dataset_digest=manifest.dataset_digest,
                    environment=self.trainings.environment,
                    trial=trial,
                    reason=str(error),
                    epoch=error.epoch,
                    created=environment.now(),
                )
            )
            raise DivergedError(f"{trial.label} with seed {trial.seed}: {error}", error.epoch) from error
        self.trainings.failures.remove(self.trainings.dataset.id, trial)
        return record

    def _train(self, trial: TrainingTrial, key: str, state: Path) -> TrainingRecord:
        trainings, manifest, precision = self.trainings, self.trainings.dataset.manifest, trial.recipe.precision
        every_epoch = trainings.options.best_epoch_on_test
        data = {
            split: image_batches(self.images, self.prepare, split, device=trainings.device)
            for split in ("train", "validation", "unseen")
        }
        model = make_network(trial, trainings.num_classes).to(trainings.device)
        watcher = trainings.evaluators.of_watcher(trial)
        small = torch.uint8 if trainings.num_classes <= 256 else torch.int16
        since = time.monotonic()

        def after_epoch(epoch: int, loss: float) -> dict[str, Any]:
            nonlocal since
            predicted_N, score = observe(model, data["validation"], watcher, precision=precision)
            right_N = predicted_N == data["validation"].targets_N
            note: dict[str, Any] = {"loss": loss, "validation": float(right_N.double().mean())}
            if score is not None:
                if not math.isfinite(score):
                    raise DivergedError(f"the score of the maps is {score} after epoch {epoch}", epoch)
                note["score"] = score
            if every_epoch:
                note["test"] = observe(model, data["unseen"], precision=precision)[0].to(small).cpu()
            note["seconds"], since = time.monotonic() - since, time.monotonic()
            return note

        history = fit(
            model,
            data["train"],
            Objective(trial.method, trainings.evaluators.of_loss(trial)),
            trial.recipe,
            epochs=trial.num_epochs,
            seed=trial.seed,
            best_by="validation",
            state_path=state,
            after_epoch=after_epoch,
        )
        predictions: dict[str, np.ndarray] = {"epoch": np.array([history.best_epoch], dtype=np.int32)}
        for name, split in (("validation", "validation"), ("test", "unseen")):
            predicted_N, _ = observe(model, data[split], precision=precision)
            predictions[f"{name}/predicted"] = predicted_N.cpu().numpy().astype(np.int32)
            predictions[f"{name}/label"] = data[split].targets_N.cpu().numpy().astype(np.int32)
            predictions[f"{name}/image"] = self.images.ids_N[self.images.indices(split)]
        if every_epoch:
            predictions[EVERY_EPOCH] = torch.stack([note["test"] for note in history.epoch_notes]).numpy()
        packed = pack_predictions(predictions)
        record = TrainingRecord(
            key=key,
            dataset=manifest.name,
            dataset_digest=manifest.dataset_digest,
            environment=trainings.environment,
            curve=tuple(
                records.Epoch(epoch=i, train_loss=note["loss"], validation=note["validation"], score=note.get("score"))
                for i, note in enumerate(history.epoch_notes, start=1)
            ),
            cost=records.Cost(
                seconds=sum(note["seconds"] for note in history.epoch_notes),
                num_parameters=num_parameters(model),
                process_peak_bytes=environment.process_peak_bytes(),
            ),
            predictions_sha256=hashlib.sha256(packed).hexdigest(),
            created=environment.now(),
            trial=trial,
            num_stages=trainings.dataset.num_stages,
            metrics=recompute(predictions),
        )
        if trainings.options.keep_weights:
            save_checkpoint(model, self._weights(trial), key=key)
        trainings.store.write(record, packed)
        return record


def _reopen(
    references: References,
    root: Path,
    device: str,
    chosen: tuple[EvaluatorRecord | None, EvaluatorRecord | None, EvaluatorRecord | None],
    options: TrainOptions,
    image_options: ImageOptions,
) -> _Training:
    """The same in another process."""
    (dataset,) = references.resolve()
    workspace, on = Workspace(root), choose_device(device)
    evaluators = TrainingEvaluators(workspace, on, *chosen)
    return _Training(Trainings(dataset, workspace, on, evaluators, options), image_options, PRINTED)


def recompute(predictions: dict[str, np.ndarray]) -> records.TrainingMetrics:
    """The metrics of a record from its predictions, as ``_train`` writes them."""
    share = {
        name: float((predictions[f"{name}/predicted"] == predictions[f"{name}/label"]).mean())
        for name in ("validation", "test")
    }
    best = None
    if EVERY_EPOCH in predictions:
        best = float((predictions[EVERY_EPOCH] == predictions["test/label"]).mean(axis=1).max())
    return records.TrainingMetrics(
        validation_accuracy=share["validation"],
        test_accuracy=share["test"],
        num_validation=len(predictions["validation/label"]),
        num_test=len(predictions["test/label"]),
        epoch=int(predictions["epoch"][0]) if "epoch" in predictions else None,
        best_test_accuracy=best,
    )
