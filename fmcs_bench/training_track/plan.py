"""From options to the trainings they mean, checked before anything runs.

Every network that is not the dataset's is made once, to see whether the evaluators take its maps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch

from fmcs_bench.backbones.create import map_shape
from fmcs_bench.backbones.dueheadnet import DueHeadNet
from fmcs_bench.backbones.options import BackboneOptions
from fmcs_bench.core.environment import Environment
from fmcs_bench.core.errors import ConfigError
from fmcs_bench.core.workspace import Workspace
from fmcs_bench.evaluator_track.selection import TrainingEvaluators, load_fit, random_control
from fmcs_bench.results import records
from fmcs_bench.results.records import EvaluatorRecord, TrainingRecord
from fmcs_bench.results.store import FailedStore, FailedTraining, RecordStore
from fmcs_bench.results.trials import Longer, TrainingTrial
from fmcs_bench.store.reader import FmcsDataset
from fmcs_bench.training import recipes
from fmcs_bench.training.methods import Method, methods
from fmcs_bench.training.recipes import Recipe
from fmcs_bench.training_track import networks
from fmcs_bench.training_track.options import TrainOptions

FIRST_SEED = 100
"""Trainings start from seeds that no run of an FMCS dataset has."""
MapShape = tuple[int, int, int]


@dataclass(frozen=True)
class Trainings:
    """What the trainings on one dataset have in common, and what of them is finished."""

    dataset: FmcsDataset
    workspace: Workspace
    device: torch.device
    evaluators: TrainingEvaluators
    options: TrainOptions

    @cached_property
    def environment(self) -> Environment:
        """Of the trainings."""
        return Environment.current(str(self.device), torch.get_num_threads(), "training")

    @cached_property
    def store(self) -> RecordStore:
        """The workspace's records."""
        return RecordStore(self.workspace.records)

    @cached_property
    def failures(self) -> FailedStore:
        """The workspace's notes of failed trainings."""
        return FailedStore(self.workspace.records)

    @property
    def num_classes(self) -> int:
        """Of the image dataset."""
        return len(self.dataset.manifest.images.classes)

    def key(self, trial: TrainingTrial) -> str:
        """See ``records.unit_key``."""
        return records.unit_key(trial, self.dataset.manifest.dataset_digest, self.environment)

    def find_record(self, trial: TrainingTrial) -> TrainingRecord | None:
        """The record of a finished trial; None where there is none, or it lacks what the options ask for."""
        record = self.store.finished(
            TrainingRecord, self.dataset.id, trial.settings, trial.label, trial.seed, self.key(trial)
        )
        lacks = record is not None and self.options.best_epoch_on_test and record.metrics.best_test_accuracy is None
        return None if lacks else record

    def find_failure(self, trial: TrainingTrial) -> FailedTraining | None:
        """The note of a trial that failed before and is not to be trained again."""
        return None if self.options.retry else self.failures.find(self.dataset.id, trial, self.key(trial))


def plan_trials(
    dataset: FmcsDataset, workspace: Workspace, options: TrainOptions, device: torch.device
) -> tuple[Trainings, list[TrainingTrial]]:
    """The trials, checked; seed by seed, each with every method.

    Raises:
        UnknownNameError: no such method, backbone or recipe.
        ConfigError: seeds that are those of the dataset's runs; an evaluator that is not differentiable or does not
            take a network's maps; no network of equal parameters.
        MissingDataError: no evaluator, or not this one or its control, was fitted on this dataset, or published weights
            are not available.
    """
    chosen = _methods(dataset, options)
    seeds = range(FIRST_SEED, FIRST_SEED + options.seeds)
    taken = sorted(set(seeds) & set(dataset.manifest.config.run_roles))
    if taken:
        raise ConfigError(f"the seeds {taken} are those of runs of {dataset.manifest.name}; training needs new ones")
    recipe, epochs = _recipe(dataset, options)
    evaluators = TrainingEvaluators.choose(dataset, workspace, device, chosen, options.evaluator)
    trainings = Trainings(dataset, workspace, device, evaluators, options)
    _require_evaluators(evaluators, chosen)
    longer = _longer(trainings, epochs) if any(method.control == "longer" for method in chosen) else None
    shapes = {method: _map_shape(trainings, method) for method in dict.fromkeys(map(_network_of, chosen))}
    own, runs = dataset.manifest.config, dataset.seeds("training")
    trials: list[TrainingTrial] = []
    for seed in seeds:
        for method in chosen:
            shape = shapes[_network_of(method)]
            _require_shape(trainings, method, shape)
            evaluator = evaluators.record_of(method)
            watcher = evaluators.watcher if _takes(trainings, evaluators.watcher, shape) else None
            trials.append(
                TrainingTrial(
                    backbone=own.backbone,
                    backbone_options=own.backbone_options,
                    method=method,
                    recipe=recipe,
                    epochs=epochs,
                    image_size=own.image_size,
                    limit=own.limit,
                    seed=seed,
                    evaluator=evaluator.method if evaluator else None,
                    evaluator_digest=evaluator.evaluator_digest if evaluator else None,
                    init=options.init,
                    run=runs[(seed - FIRST_SEED) % len(runs)] if options.init == "same-run" else None,
                    longer=longer if method.control == "longer" else None,
                    watcher=watcher.method if watcher else None,
                    watcher_digest=watcher.evaluator_digest if watcher else None,
                )
            )
    return trainings, trials


def convergence_epochs(dataset: FmcsDataset) -> int:
    """Length of a training: the latest convergence point of the training runs, in whole epochs (recipe ``fmce``)."""
    return max(math.ceil(run.convergence_epoch) for run in dataset.manifest.runs if run.role == "training")


def _methods(dataset: FmcsDataset, options: TrainOptions) -> list[Method]:
    own = dataset.manifest.config
    base = None if options.base == own.backbone else options.base
    equal = None
    if "equal-parameters" in options.methods:
        equal = networks.equal_parameters(
            base or own.backbone,
            own.backbone_options if base is None else BackboneOptions(),
            num_classes=len(dataset.manifest.images.classes),
            image_size=own.image_size,
        )
    chosen = methods(
        options.methods,
        options.rafs,
        base=base,
        constraint_weight=options.constraint_weight,
        pretrained_first=options.pretrained_first,
        equal_parameters=equal,
    )
    if not chosen:
        raise ConfigError("there is nothing to train: RAF = 1 is the baseline; name --method baseline or a RAF below 1")
    for method in chosen:
        if method.backbone == own.backbone and own.backbone_options == BackboneOptions():
            raise ConfigError(f"{method.backbone} is this dataset's own network; name --method baseline, or ral")
    return chosen


def _recipe(dataset: FmcsDataset, options: TrainOptions) -> tuple[Recipe, int]:
    """The recipe, and the number of epochs."""
    epochs = options.epochs
    if options.recipe is None:
        recipe = Recipe.make(**(dict(dataset.manifest.config.recipe) | options.recipe_changes))
    else:
        recipe = recipes.recipe(options.recipe, **options.recipe_changes)
        epochs = epochs or recipes.RECIPE_EPOCHS.get(recipe.name)
    return recipe, epochs or convergence_epochs(dataset)


def _require_evaluators(evaluators: TrainingEvaluators, chosen: list[Method]) -> None:
    """Refuse fits that were changed, and controls that cannot be made."""
    for method in chosen:
        record = evaluators.record_of(method)
        if method.raf < 1 and record is not None:
            evaluator = evaluators.load(record)
            if method.evaluator_kind == "random":
                random_control(evaluator, FIRST_SEED)


def _network_of(method: Method) -> Method:
    """The method's network alone."""
    names = ("network", "backbone", "fusion", "pretrained_first")
    control = {"control": "equal-parameters"} if method.control == "equal-parameters" else {}
    return Method.make(**{name: getattr(method, name) for name in names}, **control)


def _map_shape(trainings: Trainings, method: Method) -> MapShape:
    """Shape of the maps that the evaluators get; a network that cannot be made is an error here."""
    manifest = trainings.dataset.manifest
    if method == Method():
        return manifest.map_shape
    own = manifest.config
    network = networks.make(
        method,
        own.backbone,
        own.backbone_options,
        num_classes=trainings.num_classes,
        image_size=own.image_size,
        seed=0,
    )
    # Of two heads, an evaluator scores the maps of one.
    return map_shape(network.first if isinstance(network, DueHeadNet) else network, own.image_size)


def _takes(trainings: Trainings, record: EvaluatorRecord | None, shape: MapShape) -> bool:
    return record is not None and (record.any_shape or shape == trainings.dataset.manifest.map_shape)


def _require_shape(trainings: Trainings, method: Method, shape: MapShape) -> None:
    record = trainings.evaluators.fitted
    if method.raf < 1 and record is not None and not _takes(trainings, record, shape):
        own, given = (" x ".join(map(str, size)) for size in (trainings.dataset.manifest.map_shape, shape))
        raise ConfigError(
            f"the method {method.family} has maps of {given} (channels, height, width), and the evaluator "
            f"{record.method} was fitted on maps of {own} and takes no others; name an --evaluator for any shape, such "
            "as set"
        )


def _longer(trainings: Trainings, epochs: int) -> Longer:
    own, record = trainings.dataset.manifest.config, trainings.evaluators.fitted
    assert record is not None  # the method uses it
    return networks.longer(
        own.backbone,
        own.backbone_options,
        load_fit(trainings.workspace, record, device=torch.device("cpu")).log_probs,
        epochs=epochs,
        num_classes=trainings.num_classes,
        image_size=own.image_size,
    )
