"""The evaluator track: fit, choose and test every evaluator on fixed FMCS datasets.

Every subset is asked about once. A failure is named and stops no other fit.
M maps, N images, K stages, P checkpoints.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fmcs_bench.core import environment
from fmcs_bench.core.environment import Environment
from fmcs_bench.core.errors import DatasetError, EvaluatorError, PluginError, UnitsFailedError
from fmcs_bench.core.progress import SILENT, Progress
from fmcs_bench.core.workspace import PathLike, Workspace
from fmcs_bench.evaluator_track import calls, grid_search, protocol
from fmcs_bench.evaluator_track.options import EvaluateOptions
from fmcs_bench.evaluators.base import Evaluator
from fmcs_bench.evaluators.checkpoint import is_intact, load_fitted, save_fitted
from fmcs_bench.evaluators.registry import (
    create_evaluator,
    evaluator_code,
    evaluator_file,
    parse_evaluators,
    resolve_evaluator,
)
from fmcs_bench.jobs.local import LOCAL, Engine, Outcome, run_trials
from fmcs_bench.jobs.options import Execution
from fmcs_bench.jobs.ray import engine_of
from fmcs_bench.results import metrics, records
from fmcs_bench.results.evaluator_board import EvaluatorBoard, evaluator_boards
from fmcs_bench.results.records import SUBSETS, EvaluatorRecord, Subset, Trajectory
from fmcs_bench.results.store import RecordStore, pack_predictions
from fmcs_bench.results.trials import EvaluatorTrial
from fmcs_bench.store.location import Location
from fmcs_bench.store.reader import FmcsDataset, all_datasets, find_datasets, open_dataset
from fmcs_bench.store.selection import MapSelection
from fmcs_bench.training.loop import choose_device

_TEST_ON = "test_on"
"""In a predictions file: the folder of other datasets."""


def evaluate(
    datasets: FmcsDataset | PathLike | Iterable[FmcsDataset | PathLike] | None = None,
    options: EvaluateOptions | None = None,
    *,
    test_on: FmcsDataset | PathLike | Iterable[FmcsDataset | PathLike] = (),
    workspace: PathLike | None = None,
    execution: Execution | None = None,
    progress: Progress = SILENT,
    **values: Any,
) -> list[EvaluatorBoard]:
    """Fit and test evaluators on FMCS datasets; one board for each dataset.

    Args:
        datasets: opened, or names or paths; None is every dataset of the workspace.
        options: which evaluators, and how; None takes them from ``values``.
        test_on: further datasets, opened, or names or paths: the fits are tested on their test runs too, unchanged;
            evaluators that cannot take maps of their shape are left out.
        workspace: see ``Workspace``.
        execution: device, and whether fits are done one after another or on Ray; None takes it from ``values``.
        progress: shows the work; silent by default.
        **values: fields of ``EvaluateOptions`` (``evaluators``, ``head``, ``seeds``, ``limit``, ``test_limit``,
            ``grid``, as ``{"lr": [1e-3, 3e-4]}``) and of ``Execution`` (``device``, ``engine``, ...).

    Raises:
        UnitsFailedError: some evaluators failed; everything else is done, and its boards are the error's ``finished``.
        FmcsBenchError: see ``evaluate_dataset``.
    """
    execution = execution or Execution.take(values)
    options = EvaluateOptions.make(**(dict(options or {}) | values))
    place = Workspace(workspace)
    opened = all_datasets(place) if datasets is None else find_datasets(place, datasets)
    others = find_datasets(place, test_on)
    boards: list[EvaluatorBoard] = []
    failed: list[UnitsFailedError] = []
    with engine_of(execution) as engine, place.locked():
        for dataset in opened:
            try:
                board = evaluate_dataset(
                    dataset, place, options, test_on=others, device=execution.device, progress=progress, engine=engine
                )
                boards.append(board)
            except UnitsFailedError as error:
                failed.append(error)
                boards += error.finished
    if failed:
        every = [error for failure in failed for error in failure.errors]
        raise UnitsFailedError("\n".join(map(str, failed)), every, boards) from every[0]
    return boards


def evaluate_dataset(
    dataset: FmcsDataset,
    workspace: Workspace,
    options: EvaluateOptions | None = None,
    *,
    test_on: Sequence[FmcsDataset] = (),
    device: str = "auto",
    progress: Progress = SILENT,
    engine: Engine = LOCAL,
) -> EvaluatorBoard:
    """``evaluate`` on one dataset in a workspace whose lock the caller holds.

    Raises:
        UnknownNameError: no such evaluator.
        ConfigError: too few images, or a dataset in ``test_on`` with a different number of stages.
        DatasetError: an image or a run is on two sides of the protocol.
        PluginError: a plug-in cannot be loaded.
        UnitsFailedError: some evaluators failed or broke their contract; every other fit is done and on its board.
    """
    options = options or EvaluateOptions()
    fits = parse_evaluators(options.evaluators, options.head)  # a wrong name is an error before anything is fitted
    trials = [
        EvaluatorTrial.make(
            evaluator=fit.name,
            head=fit.head,
            labels=fit.labels,
            code=evaluator_code(fit.name),
            seed=seed,
            limit=options.limit,
            test_limit=options.test_limit,
            grid=options.grid,
        )
        for fit in fits
        for seed in range(options.seeds)
    ]
    others = [other for other in test_on if other.id != dataset.id]
    limits = protocol.Limits(*trials[0].limits)
    fitting = _Fitting(dataset, workspace, choose_device(device), limits, others, [fit.name for fit in fits])
    outcome = run_trials(
        trials,
        find=fitting.find,
        work=fitting.work,
        description=f"evaluators on {dataset.manifest.name}",
        survives=(EvaluatorError,),
        progress=progress,
        engine=engine,
        device=str(fitting.device),
        folder=workspace.root,
    )
    boards = evaluator_boards(outcome.results)
    if outcome.failures:
        raise UnitsFailedError(
            _summary(outcome, dataset.id), [failure.error for failure in outcome.failures], boards
        ) from outcome.failures[0].error
    return boards[0]


def _summary(outcome: Outcome[EvaluatorTrial, EvaluatorRecord], dataset_id: str) -> str:
    """A line for every failure, and one for equal failures of several seeds."""
    seeds: dict[str, list[str]] = {}
    for failure in outcome.failures:
        seeds.setdefault(str(failure.error), []).append(str(failure.trial.seed))
    num = len(outcome.failures)
    lines = [f"- {message} (seed {', '.join(of)})" for message, of in seeds.items()]
    return "\n".join(
        [f"{num} of {num + len(outcome.results)} fits on {dataset_id} failed; the others are done:", *lines]
    )


def recompute(predictions: dict[str, np.ndarray]) -> dict[Subset, records.Metrics]:
    """The metrics of a record from its predictions, ``<subset>/probs`` [K, N, K]."""
    return {subset: metrics.of_answers(predictions[f"{subset}/probs"]) for subset in SUBSETS}


def recompute_test_on(predictions: dict[str, np.ndarray]) -> dict[str, records.Metrics]:
    """The metrics on other datasets' test runs, by their ids, from the predictions ``test_on/<id>/probs``."""
    return {
        name.removeprefix(f"{_TEST_ON}/").removesuffix("/probs"): metrics.of_answers(predictions[name])
        for name in sorted(predictions)
        if name.startswith(f"{_TEST_ON}/") and name.endswith("/probs")
    }


@dataclass(frozen=True)
class References:
    """Datasets and evaluators for a trial in a different process: by place and by name, each with its digest."""

    datasets: tuple[tuple[Location, str], ...]
    evaluators: tuple[tuple[str, str | None, str | None], ...]

    @classmethod
    def to(cls, datasets: Iterable[FmcsDataset], evaluators: Iterable[str]) -> References:
        """References to opened datasets, and to evaluators by their names without head and labels."""
        return cls(
            tuple(
                (Location(one.location.local.absolute()) if one.location.local else one.location, one.id)
                for one in datasets
            ),
            tuple((name, evaluator_file(name), evaluator_code(name)) for name in dict.fromkeys(evaluators)),
        )

    def resolve(self) -> list[FmcsDataset]:
        """The datasets, opened in this process, which then knows the evaluators by their names."""
        for name, file, code in self.evaluators:
            if file is not None:
                resolve_evaluator(file)
            if evaluator_code(name) != code:
                raise PluginError(
                    f"the code of the evaluator {name} differs between this machine and the one where the command was "
                    "started; install, or copy, one version everywhere"
                )
        found = []
        for place, expected in self.datasets:
            found.append(open_dataset(place))
            if found[-1].id != expected:
                raise DatasetError(f"{place} holds {found[-1].id}, not {expected}; all machines need the same files")
        return found


class _Fitting:
    """The trials of one dataset. It is pickled as references; maps are read when the first trial needs them."""

    def __init__(
        self,
        dataset: FmcsDataset,
        workspace: Workspace,
        device: torch.device,
        limits: protocol.Limits,
        others: Sequence[FmcsDataset],
        evaluators: Sequence[str],
    ) -> None:
        self.dataset, self.workspace, self.device, self.limits = dataset, workspace, device, limits
        self.others = {other.id: other for other in others}
        self.evaluators = evaluators
        selections: dict[str, MapSelection] = dict(protocol.select(dataset, limits).items())
        selections |= {name: protocol.check_other(dataset, other, limits) for name, other in self.others.items()}
        self.maps = protocol.SharedMaps(selections)
        self.store = RecordStore(workspace.records)

    def __reduce__(self) -> tuple[Any, ...]:
        references = References.to([self.dataset, *self.others.values()], self.evaluators)
        return _reopen, (references, self.workspace.root.absolute(), str(self.device), self.limits)

    @cached_property
    def environment(self) -> Environment:
        return Environment.current(str(self.device), torch.get_num_threads(), "evaluator")

    def key(self, trial: EvaluatorTrial) -> str:
        return records.unit_key(trial, self.dataset.manifest.dataset_digest, self.environment)

    def find(self, trial: EvaluatorTrial) -> EvaluatorRecord | None:
        record = self._fitted(trial)
        return None if record is None or self._missing(record) else record

    def work(self, trial: EvaluatorTrial) -> EvaluatorRecord:
        record = self._fitted(trial)
        return self._fit(trial) if record is None else self._test_on_more(record)

    def _fitted(self, trial: EvaluatorTrial) -> EvaluatorRecord | None:
        """The record of a finished fit that is there, whole."""
        record = self.store.finished(
            EvaluatorRecord, self.dataset.id, trial.settings, trial.method, trial.seed, self.key(trial)
        )
        return record if record is not None and is_intact(self._folder(trial), record.evaluator_digest) else None

    def _missing(self, of: Evaluator | EvaluatorRecord) -> list[str]:
        """Other datasets that it can be tested on and was not yet."""
        own, tested = self.dataset.manifest.map_shape, of.test_on if isinstance(of, EvaluatorRecord) else {}
        return [
            name
            for name, other in self.others.items()
            if name not in tested and (of.any_shape or other.manifest.map_shape == own)
        ]

    def _folder(self, trial: EvaluatorTrial) -> Path:
        return self.workspace.fitted(self.dataset.id, trial.settings, trial.method, trial.seed)

    def _fit(self, trial: EvaluatorTrial) -> EvaluatorRecord:
        manifest, num_stages = self.dataset.manifest, self.dataset.num_stages
        fit = grid_search.fit_trial(trial, self._make, self.maps, num_stages)
        evaluator = fit.evaluator
        predictions = _under("validation_run", fit.validation)
        scoring_seconds: dict[str, float] = {}
        # The test run is not the first, so that its time is not that of a first call.
        for subset in (subset for subset in SUBSETS if subset != "validation_run"):
            answers, scoring_seconds[subset] = calls.answer(evaluator, self.maps, subset, num_stages)
            predictions.update(_under(subset, answers))
        trajectory, scores_PN = self._trajectory(evaluator)
        predictions["trajectory/score"] = scores_PN
        predictions.update(self._on_others(evaluator, self._missing(evaluator)))
        flops_per_map = calls.flops_per_map(evaluator, manifest.map_shape)
        num_parameters = calls.num_parameters(evaluator)
        # Saved last, so that an evaluator that fails leaves no files.
        with calls.guarded(trial.method, "its learned values"):
            digest = save_fitted(evaluator, self.dataset.id, self._folder(trial))
        packed = pack_predictions(predictions)
        record = EvaluatorRecord(
            key=self.key(trial),
            dataset=manifest.name,
            dataset_digest=manifest.dataset_digest,
            environment=self.environment,
            curve=tuple(fit.curve),
            cost=records.Cost(
                seconds=fit.seconds,
                num_parameters=num_parameters,
                process_peak_bytes=environment.process_peak_bytes(),
                flops_per_map=flops_per_map,
                scoring_seconds=scoring_seconds["test_run"],
                scoring_maps=predictions["test_run/image"].size * num_stages,
            ),
            predictions_sha256=hashlib.sha256(packed).hexdigest(),
            created=environment.now(),
            trial=trial,
            evaluator_digest=digest,
            num_stages=num_stages,
            differentiable=evaluator.differentiable,
            channel_invariant=evaluator.channel_invariant,
            any_shape=evaluator.any_shape,
            control=evaluator.control or trial.is_control,
            metrics=recompute(predictions),
            trajectory=trajectory,
            test_on=recompute_test_on(predictions),
            grid_search=fit.search,
        )
        self.store.write(record, packed)
        return record

    def _make(self, trial: EvaluatorTrial) -> Evaluator:
        shape = self.dataset.manifest.map_shape
        with calls.guarded(trial.method, f"maps of {shape} (made)"):
            return create_evaluator(trial, shape, self.dataset.num_stages, device=self.device)

    def _test_on_more(self, record: EvaluatorRecord) -> EvaluatorRecord:
        """The same fit, tested on datasets that its record lacks; the record without them is set aside."""
        predictions = self.store.predictions(record)
        evaluator = load_fitted(self._folder(record.trial), device=self.device).evaluator
        predictions.update(self._on_others(evaluator, self._missing(record)))
        packed = pack_predictions(predictions)
        more = record.model_copy(
            update={
                "predictions_sha256": hashlib.sha256(packed).hexdigest(),
                "created": environment.now(),
                "test_on": recompute_test_on(predictions),
            }
        )
        self.store.write(more, packed)
        return more

    def _on_others(self, evaluator: Evaluator, names: Sequence[str]) -> dict[str, np.ndarray]:
        predictions: dict[str, np.ndarray] = {}
        for name in names:
            answers, _ = calls.answer(evaluator, self.maps, name, self.dataset.num_stages)
            predictions.update(_under(f"{_TEST_ON}/{name}", answers))
        return predictions

    def _trajectory(self, evaluator: Evaluator) -> tuple[Trajectory, np.ndarray]:
        """Mean score at every checkpoint of the test run, and the score of each image [P, N]."""
        seed = self.dataset.seeds("test")[0]
        checkpoints = self.dataset.run_file(seed).run.checkpoints
        maps_PNDHW = self.dataset.trajectory_maps(seed)
        num_checkpoints, num_images = maps_PNDHW.shape[:2]
        maps_MDHW = maps_PNDHW.reshape(-1, *maps_PNDHW.shape[2:])  # read for this evaluator alone
        probs_MK = calls.ask(evaluator, maps_MDHW, "the trajectory of the test run", self.dataset.num_stages)
        scores_PN = metrics.expected_score(probs_MK).reshape(num_checkpoints, num_images)
        score_P = scores_PN.mean(axis=1)
        accuracy_P = np.array([checkpoint.validation_accuracy for checkpoint in checkpoints])
        trajectory = Trajectory(
            step=tuple(checkpoint.step for checkpoint in checkpoints),
            score=tuple(float(score) for score in score_P),
            validation_accuracy=tuple(float(value) for value in accuracy_P),
            spearman=metrics.rank_correlation(score_P, accuracy_P),
        )
        return trajectory, scores_PN.astype(np.float32)


def _reopen(references: References, root: Path, device: str, limits: protocol.Limits) -> _Fitting:
    dataset, *others = references.resolve()
    names = [name for name, _, _ in references.evaluators]
    return _Fitting(dataset, Workspace(root), choose_device(device), limits, others, names)


def _under(folder: str, answers: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{folder}/{name}": array for name, array in answers.items()}
