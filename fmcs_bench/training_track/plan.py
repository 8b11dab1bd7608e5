"""From what is wanted to units of work, checked before anything runs.

Flow: FMCS dataset, ``TrainOptions`` -> methods, evaluators, watcher, recipe, length -> one ``TrainingTrial`` for each
method and seed. Every network that is not the dataset's is made once, to see whether the evaluators take its maps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from fmcs_bench.backbones.options import BackboneOptions
from fmcs_bench.core.environment import Environment
from fmcs_bench.core.errors import ConfigError
from fmcs_bench.core.workspace import Workspace
from fmcs_bench.evaluator_track.selection import evaluator_for_training, load_fit, permuted_control, random_control
from fmcs_bench.evaluators.base import Evaluator
from fmcs_bench.results import records
from fmcs_bench.results.evaluator_board import evaluator_boards
from fmcs_bench.results.records import EvaluatorRecord
from fmcs_bench.results.store import RecordStore
from fmcs_bench.results.trials import Longer, TrainingTrial
from fmcs_bench.store.reader import FmcsDataset
from fmcs_bench.training import recipes
from fmcs_bench.training.losses import FrozenEvaluator
from fmcs_bench.training.methods import Method, methods
from fmcs_bench.training.recipes import Recipe
from fmcs_bench.training_track import networks
from fmcs_bench.training_track.options import TrainOptions

FIRST_SEED = 100
"""Trainings start from seeds that no run of an FMCS dataset has."""


@dataclass(frozen=True)
class Judges:
    """The evaluators that take part in trainings.

    Attributes:
        judge: asked by RAL; None where no method asks.
        permuted: its control, fitted on permuted labels; None where no method asks.
        watcher: scores the maps of validation images after every epoch, and changes nothing; None where nothing was
            evaluated yet.
    """

    judge: EvaluatorRecord | None
    permuted: EvaluatorRecord | None
    watcher: EvaluatorRecord | None


@dataclass(frozen=True)
class Planned:
    """Units of work, and what all of them need.

    Attributes:
        units: seed by seed, each with every method.
    """

    dataset: FmcsDataset
    workspace: Workspace
    device: torch.device
    judges: Judges
    units: tuple[TrainingTrial, ...] = ()

    @cached_property
    def environment(self) -> Environment:
        """Of the trainings."""
        return Environment.current(str(self.device), torch.get_num_threads(), "training")

    @property
    def num_classes(self) -> int:
        """Of the image dataset."""
        return len(self.dataset.manifest.images.classes)

    def key(self, unit: TrainingTrial) -> str:
        """See ``records.unit_key``."""
        return records.unit_key(unit, self.dataset.manifest.dataset_digest, self.environment)

    def judge(self, unit: TrainingTrial) -> FrozenEvaluator | None:
        """The frozen judge of a unit's loss; None where its loss asks none."""
        if unit.method.raf == 1:
            return None
        if unit.method.evaluator_kind == "random":
            return random_control(self.fitted, unit.seed).log_probs
        return (self.fitted if unit.method.evaluator_kind == "fitted" else self.permuted).log_probs

    def watcher(self, unit: TrainingTrial) -> FrozenEvaluator | None:
        """Who scores a unit's maps; None where nobody does."""
        return None if unit.watcher is None else self._watcher.log_probs

    @cached_property
    def fitted(self) -> Evaluator:
        """The judge, frozen."""
        return self._load(self.judges.judge)

    @cached_property
    def permuted(self) -> Evaluator:
        """Its control, frozen."""
        return self._load(self.judges.permuted)

    @cached_property
    def _watcher(self) -> Evaluator:
        return self._load(self.judges.watcher)

    def _load(self, record: EvaluatorRecord | None) -> Evaluator:
        assert record is not None  # only units that name it ask for it
        return load_fit(self.workspace, record, device=self.device)


def plan_units(dataset: FmcsDataset, workspace: Workspace, sweep: TrainOptions, device: torch.device) -> Planned:
    """The units of a sweep, checked.

    Args:
        dataset: gives network, images, image size and, where the sweep names no other, recipe and length.
        workspace: with the records and fits of ``fmcs-bench evaluate``.
        sweep: what is wanted.
        device: where it will be trained.

    Raises:
        UnknownNameError: no such method, backbone or recipe, or an evaluator without a record.
        ConfigError: a RAF outside [0, 1] or given twice; seeds that are those of the dataset's runs; a judge that is
            not differentiable or does not take a network's maps; no network of equal parameters.
        MissingDataError: no evaluator was fitted on this dataset, a control of it was not, or published weights cannot
            be had.
    """
    manifest = dataset.manifest
    chosen = _chosen_methods(dataset, sweep)
    seeds = range(FIRST_SEED, FIRST_SEED + sweep.seeds)
    taken = sorted(set(seeds) & set(manifest.config.run_roles))
    if taken:
        raise ConfigError(f"the seeds {taken} are those of runs of {manifest.name}; training needs fresh ones")
    recipe = _recipe(dataset, sweep)
    epochs = sweep.epochs or (recipes.RECIPE_EPOCHS.get(recipe.name) if sweep.recipe else None)
    judges = _judges(dataset, workspace, sweep, chosen)
    planned = Planned(dataset, workspace, device, judges)
    kinds = {method.evaluator_kind for method in chosen if method.raf < 1}
    if "random" in kinds:
        random_control(planned.fitted, seeds[0])
    if "permuted" in kinds:
        planned.permuted  # noqa: B018  (its digest is checked)
    epochs = epochs or convergence_epochs(dataset)
    length = _longer(planned, epochs) if any(method.control == "longer" for method in chosen) else None
    shapes = {method: _map_shape(planned, method) for method in dict.fromkeys(map(_network_of, chosen))}
    for method in chosen:
        if method.raf < 1:
            _require_shape(planned, method, shapes[_network_of(method)])
    units = [
        _unit(planned, method, seed, recipe, epochs, sweep, length, shapes[_network_of(method)])
        for seed in seeds
        for method in chosen
    ]
    return replace(planned, units=tuple(units))


def convergence_epochs(dataset: FmcsDataset) -> int:
    """Length of a training: the latest convergence point of the training runs, in whole epochs (recipe ``fmce``)."""
    return max(math.ceil(run.convergence_epoch) for run in dataset.manifest.runs if run.role == "training")


def _chosen_methods(dataset: FmcsDataset, sweep: TrainOptions) -> list[Method]:
    own = dataset.manifest.config
    base = None if sweep.base == own.backbone else sweep.base
    equal = None
    if "equal-parameters" in sweep.methods:
        equal = networks.equal_parameters(
            base or own.backbone,
            own.backbone_options if base is None else BackboneOptions(),
            num_classes=len(dataset.manifest.images.classes),
            image_size=own.image_size,
        )
    chosen = methods(
        sweep.methods,
        sweep.rafs,
        base=base,
        constraint_weight=sweep.constraint_weight,
        pretrained_first=sweep.pretrained_first,
        equal_parameters=equal,
    )
    if not chosen:
        raise ConfigError("there is nothing to train: RAF = 1 is the baseline; name --method baseline or a RAF below 1")
    for method in chosen:
        if method.backbone == own.backbone and own.backbone_options == BackboneOptions():
            raise ConfigError(f"{method.backbone} is this dataset's own network; name --method baseline, or ral")
    return chosen


def _recipe(dataset: FmcsDataset, sweep: TrainOptions) -> Recipe:
    changes = sweep.recipe_changes
    if sweep.recipe is not None:
        return recipes.recipe(sweep.recipe, **changes)
    return Recipe.make(**(dict(dataset.manifest.config.recipe) | changes))


def _judges(dataset: FmcsDataset, workspace: Workspace, sweep: TrainOptions, chosen: list[Method]) -> Judges:
    judge = permuted = watcher = None
    if any(method.uses_evaluator for method in chosen):
        judge = evaluator_for_training(dataset, workspace, sweep.evaluator)
        if any(method.evaluator_kind == "permuted" for method in chosen):
            permuted = permuted_control(judge, workspace)
    every = [r for r in RecordStore(workspace.records).all(EvaluatorRecord) if r.dataset_id == dataset.id]
    if any(board.chosen for board in evaluator_boards(every)):
        watcher = evaluator_for_training(dataset, workspace)
    return Judges(judge, permuted, watcher)


def _network_of(method: Method) -> Method:
    """The method's network alone."""
    names = ("network", "backbone", "fusion", "pretrained_first")
    control = {"control": "equal-parameters"} if method.control == "equal-parameters" else {}
    return Method.make(**{name: getattr(method, name) for name in names}, **control)


def _map_shape(planned: Planned, method: Method) -> tuple[int, int, int]:
    """Of the maps that a judge is asked about; what cannot be made is told by this."""
    own = planned.dataset.manifest
    if method == Method():
        return own.map_shape
    network = networks.make(
        method,
        own.config.backbone,
        own.config.backbone_options,
        num_classes=planned.num_classes,
        image_size=own.config.image_size,
        seed=0,
    )
    return networks.scored_shape(network, own.config.image_size)


def _takes(planned: Planned, record: EvaluatorRecord, shape: tuple[int, int, int]) -> bool:
    return record.any_shape or shape == planned.dataset.manifest.map_shape


def _require_shape(planned: Planned, method: Method, shape: tuple[int, int, int]) -> None:
    record = planned.judges.judge
    assert record is not None  # the method uses it
    if not _takes(planned, record, shape):
        own, given = (" x ".join(map(str, size)) for size in (planned.dataset.manifest.map_shape, shape))
        raise ConfigError(
            f"the method {method.family} gives maps of {given} (channels, height, width), and the evaluator "
            f"{record.method} was fitted on maps of {own} and takes no others; name an --evaluator of any shape, such "
            "as set"
        )


def _longer(planned: Planned, epochs: int) -> Longer:
    own, record = planned.dataset.manifest.config, planned.judges.judge
    assert record is not None  # the method uses it
    judge = load_fit(planned.workspace, record, device=torch.device("cpu"))
    return networks.longer(
        own.backbone,
        own.backbone_options,
        judge.log_probs,
        epochs=epochs,
        num_classes=planned.num_classes,
        image_size=own.image_size,
    )


def _unit(
    planned: Planned,
    method: Method,
    seed: int,
    recipe: Recipe,
    epochs: int,
    sweep: TrainOptions,
    length: Longer | None,
    shape: tuple[int, int, int],
) -> TrainingTrial:
    own, judges = planned.dataset.manifest.config, planned.judges
    judge = judges.permuted if method.evaluator_kind == "permuted" else judges.judge if method.uses_evaluator else None
    watcher = judges.watcher if judges.watcher and _takes(planned, judges.watcher, shape) else None
    runs = planned.dataset.seeds("training")
    return TrainingTrial(
        backbone=own.backbone,
        backbone_options=own.backbone_options,
        method=method,
        recipe=recipe,
        epochs=epochs,
        image_size=own.image_size,
        limit=own.limit,
        seed=seed,
        evaluator=judge.method if judge else None,
        evaluator_digest=judge.evaluator_digest if judge else None,
        init=sweep.init,
        run=runs[(seed - FIRST_SEED) % len(runs)] if sweep.init == "same-run" else None,
        longer=length if method.control == "longer" else None,
        watcher=watcher.method if watcher else None,
        watcher_digest=watcher.evaluator_digest if watcher else None,
    )
