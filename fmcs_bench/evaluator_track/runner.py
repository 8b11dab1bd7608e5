"""The evaluator track: fit, choose and test every evaluator on a fixed FMCS dataset.

Flow: FMCS dataset -> sides of the protocol, checked -> for each evaluator and seed: fit on the training runs, stop by
the validation run (with a grid: the best there of all combinations), answer every column once -> metrics, costs and
predictions -> record, or a failure that stops no other fit.

M maps, N images, K stages, P checkpoints.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fmcs_bench.core import environment
from fmcs_bench.core.environment import Environment
from fmcs_bench.core.errors import ConfigError, EvaluatorError, UnitsFailedError
from fmcs_bench.core.progress import SILENT, Progress
from fmcs_bench.core.workspace import Workspace
from fmcs_bench.evaluator_track import calls, grid_search, protocol
from fmcs_bench.evaluator_track.elsewhere import DatasetThere, EvaluatorThere
from fmcs_bench.evaluators.base import Evaluator
from fmcs_bench.evaluators.checkpoint import is_intact, load_fitted, save_fitted
from fmcs_bench.evaluators.registry import create_evaluator, evaluator_code, parse_evaluators
from fmcs_bench.jobs.local import LOCAL, Engine, Outcome, run_units
from fmcs_bench.results import metrics, records
from fmcs_bench.results.evaluator_board import EvaluatorBoard, evaluator_boards
from fmcs_bench.results.records import SUBSETS, EvaluatorRecord, Subset, Trajectory
from fmcs_bench.results.store import RecordStore, pack_predictions
from fmcs_bench.results.trials import EvaluatorTrial, GridValue, Head
from fmcs_bench.store.reader import FmcsDataset
from fmcs_bench.store.selection import MapSelection
from fmcs_bench.training.loop import choose_device
from fmcs_bench.training.methods import NUM_SEEDS


def evaluate_dataset(
    dataset: FmcsDataset,
    workspace: Workspace,
    *,
    evaluator_names: Sequence[str] = (),
    head: Head = "softmax",
    num_seeds: int = NUM_SEEDS,
    limit: int | None = None,
    test_limit: int | None = None,
    grid: Mapping[str, Sequence[GridValue]] | None = None,
    test_on: Sequence[FmcsDataset] = (),
    device: str = "auto",
    progress: Progress = SILENT,
    engine: Engine = LOCAL,
) -> EvaluatorBoard:
    """Fit and test evaluators on one FMCS dataset, with every seed; what is finished is not repeated.

    Args:
        dataset: opened for reading.
        workspace: where records and fitted evaluators go; the caller holds its lock.
        evaluator_names: which, see ``parse_evaluators``; none means all.
        head: of those that are named without one.
        num_seeds: seeds 0 .. num_seeds - 1.
        limit: at most this many images in each split of each run.
        test_limit: at most this many in every split but train; None is as ``limit`` says.
        grid: values of fields of the recipe to try: every combination is fitted, and the one with the lowest MAE on the
            validation run is tested. Evaluators that use no recipe are fitted once, and their records say so.
        test_on: other datasets, on whose test runs the fits are tested too, as they are; this one itself is left out,
            and so are evaluators that cannot take maps of the other shape.
        device: ``auto``, ``cpu``, ``cuda``, ...
        progress: shows finished fits and the time left.
        engine: who fits; see ``fmcs_bench.jobs.ray``.

    Raises:
        UnknownNameError: no such evaluator.
        ConfigError: fewer than one seed, no such head, a grid with unknown fields or too many combinations, an
            evaluator's file that cannot be used, maps that do not fit in memory, a dataset with too few images, or one
            in ``test_on`` with another number of stages.
        DatasetError: an image or a run stands on two sides of the protocol.
        MissingDataError: there is no such file of an evaluator.
        PluginError: a plug-in cannot be loaded.
        UnitsFailedError: some evaluators failed or broke their contract; every other fit is done and on its board.
    """
    if num_seeds < 1:
        raise ConfigError(f"{num_seeds} seeds; at least 1 is needed")
    wanted = parse_evaluators(evaluator_names, head)  # a wrong name is told before anything is fitted
    tried = {name: tuple(values) for name, values in (grid or {}).items()}
    options = {"limit": limit, "test_limit": test_limit, "grid": tried}
    units = [
        EvaluatorTrial.make(
            evaluator=fit.name,
            head=fit.head,
            labels=fit.labels,
            code=evaluator_code(fit.name),
            seed=seed,
            **options,
        )
        for fit in wanted
        for seed in range(num_seeds)
    ]
    used = EvaluatorThere.all_of(fit.name for fit in wanted)
    track = _Track.make(dataset, workspace, choose_device(device), units[0].limits, test_on, used)
    outcome = run_units(
        units,
        find=track.find,
        work=track.work,
        description=f"evaluators on {dataset.manifest.name}",
        survives=(EvaluatorError,),
        progress=progress,
        engine=engine,
        device=str(track.device),
        folder=workspace.root,
    )
    boards = evaluator_boards(outcome.results)
    if outcome.failures:
        raise UnitsFailedError(
            _told(outcome, dataset.id), [failure.error for failure in outcome.failures], boards
        ) from outcome.failures[0].error
    return boards[0]


def evaluate_datasets(datasets: Sequence[FmcsDataset], workspace: Workspace, **options: Any) -> list[EvaluatorBoard]:
    """Evaluators on several FMCS datasets; a failure on one stops no other.

    Args:
        datasets: opened for reading.
        workspace: the caller holds its lock.
        **options: of ``evaluate_dataset``.

    Raises:
        UnitsFailedError: some evaluators failed; its ``finished`` are the boards of everything else.
        FmcsBenchError: as ``evaluate_dataset``.
    """
    boards: list[EvaluatorBoard] = []
    failed: list[UnitsFailedError] = []
    for dataset in datasets:
        try:
            boards.append(evaluate_dataset(dataset, workspace, **options))
        except UnitsFailedError as error:
            failed.append(error)
            boards += error.finished
    if failed:
        every = [error for failure in failed for error in failure.errors]
        raise UnitsFailedError("\n".join(map(str, failed)), every, boards) from every[0]
    return boards


def _told(outcome: Outcome[EvaluatorTrial, EvaluatorRecord], dataset_id: str) -> str:
    """Every failure in a line, equal ones of several seeds in one."""
    seeds: dict[str, list[str]] = {}
    for failure in outcome.failures:
        seeds.setdefault(str(failure.error), []).append(str(failure.unit.seed))
    num = len(outcome.failures)
    lines = [f"- {message} (seed {', '.join(of)})" for message, of in seeds.items()]
    return "\n".join(
        [f"{num} of {num + len(outcome.results)} fits on {dataset_id} failed; the others are done:", *lines]
    )


def recompute(predictions: dict[str, np.ndarray]) -> dict[Subset, records.Metrics]:
    """The metrics of a record, from its predictions alone.

    Args:
        predictions: for each column ``<column>/probs`` [K, N, K] and ``<column>/image`` [N], ``<column>/run`` [N].
    """
    return {column: metrics.of_answers(predictions[f"{column}/probs"]) for column in SUBSETS}


def recompute_test_on(predictions: dict[str, np.ndarray]) -> dict[str, records.Metrics]:
    """The metrics on other datasets' test runs, by their ids, from the predictions alone.

    Args:
        predictions: as for ``recompute``, under ``test_on/<id>``.
    """
    places = [name.removesuffix("/probs") for name in sorted(predictions) if name.startswith(f"{_TEST_ON}/")]
    return {
        place.removeprefix(f"{_TEST_ON}/"): metrics.of_answers(predictions[f"{place}/probs"])
        for place in places
        if f"{place}/probs" in predictions
    }


_TEST_ON = "test_on"
"""In a predictions file: the folder of other datasets."""


@dataclass(frozen=True)
class _Track:
    """One dataset with its maps, read when the first unit needs them; and others that fits are tested on.

    Of it only inputs are pickled: another process opens the datasets and reads the maps itself.
    """

    dataset: FmcsDataset
    workspace: Workspace
    device: torch.device
    limits: protocol.Limits
    others: dict[str, FmcsDataset]
    used: tuple[EvaluatorThere, ...]
    held: protocol.HeldMaps

    @classmethod
    def make(
        cls,
        dataset: FmcsDataset,
        workspace: Workspace,
        device: torch.device,
        limits: tuple[int | None, int | None],
        test_on: Sequence[FmcsDataset],
        used: tuple[EvaluatorThere, ...],
    ) -> _Track:
        """The track, once the datasets are known to be fit for the protocol."""
        others = {other.id: other for other in test_on if other.id != dataset.id}
        allowed = protocol.Limits(*limits)
        selections: dict[str, MapSelection] = dict(protocol.select(dataset, allowed).items())
        selections |= {name: protocol.check_other(dataset, other, allowed) for name, other in others.items()}
        return cls(dataset, workspace, device, allowed, others, used, protocol.HeldMaps(selections))

    def __reduce__(self) -> tuple[Any, ...]:
        others = tuple(map(DatasetThere.of, self.others.values()))
        root = self.workspace.root.absolute()
        return _opened, (DatasetThere.of(self.dataset), root, str(self.device), self.limits, others, self.used)

    @cached_property
    def store(self) -> RecordStore:
        return RecordStore(self.workspace.records)

    @cached_property
    def environment(self) -> Environment:
        return Environment.current(str(self.device), torch.get_num_threads(), "evaluator")

    def key(self, unit: EvaluatorTrial) -> str:
        return records.unit_key(unit, self.dataset.manifest.dataset_digest, self.environment)

    def find(self, unit: EvaluatorTrial) -> EvaluatorRecord | None:
        record = self._fitted(unit)
        return None if record is None or self._missing(record) else record

    def work(self, unit: EvaluatorTrial) -> EvaluatorRecord:
        record = self._fitted(unit)
        return self._fit(unit) if record is None else self._test_on_more(record)

    def _fitted(self, unit: EvaluatorTrial) -> EvaluatorRecord | None:
        """The record of a finished fit that is there, whole."""
        record = self.store.finished(
            EvaluatorRecord, self.dataset.id, unit.settings, unit.method, unit.seed, self.key(unit)
        )
        return record if record is not None and is_intact(self._folder(unit), record.evaluator_digest) else None

    def _missing(self, of: Evaluator | EvaluatorRecord) -> list[str]:
        """Other datasets that it can be tested on and was not yet."""
        own, tested = self.dataset.manifest.map_shape, of.test_on if isinstance(of, EvaluatorRecord) else {}
        return [
            name
            for name, other in self.others.items()
            if name not in tested and (of.any_shape or other.manifest.map_shape == own)
        ]

    def _folder(self, unit: EvaluatorTrial) -> Path:
        return self.workspace.fitted(self.dataset.id, unit.settings, unit.method, unit.seed)

    def _fit(self, unit: EvaluatorTrial) -> EvaluatorRecord:
        manifest, num_stages = self.dataset.manifest, self.dataset.num_stages
        fit = grid_search.fit_unit(unit, self._make, self.held, num_stages)
        evaluator = fit.evaluator
        predictions = _under("validation_run", fit.validation)
        scoring_seconds: dict[str, float] = {}
        # The test run is not the first, so that its time is not that of a first call.
        for column in (column for column in SUBSETS if column != "validation_run"):
            answers, scoring_seconds[column] = calls.answer(evaluator, self.held, column, num_stages)
            predictions.update(_under(column, answers))
        trajectory, scores_PN = self._trajectory(evaluator)
        predictions["trajectory/score"] = scores_PN
        predictions.update(self._on_others(evaluator, self._missing(evaluator)))
        flops_per_map = calls.flops_per_map(evaluator, manifest.map_shape)
        num_parameters = calls.num_parameters(evaluator)
        # The last of its code to run, so that of one that fails nothing stays.
        with calls.guarded(unit.method, "its learned values"):
            digest = save_fitted(evaluator, self.dataset.id, self._folder(unit))
        packed = pack_predictions(predictions)
        record = EvaluatorRecord(
            key=self.key(unit),
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
            trial=unit,
            evaluator_digest=digest,
            num_stages=num_stages,
            differentiable=evaluator.differentiable,
            channel_invariant=evaluator.channel_invariant,
            any_shape=evaluator.any_shape,
            control=evaluator.control or unit.labels == "permuted",
            metrics=recompute(predictions),
            trajectory=trajectory,
            test_on=recompute_test_on(predictions),
            grid_search=fit.search,
        )
        self.store.write(record, packed)
        return record

    def _make(self, config: EvaluatorTrial) -> Evaluator:
        shape = self.dataset.manifest.map_shape
        with calls.guarded(config.method, f"maps of {shape} (made)"):
            return create_evaluator(config, shape, self.dataset.num_stages, device=self.device)

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
            answers, _ = calls.answer(evaluator, self.held, name, self.dataset.num_stages)
            predictions.update(_under(f"{_TEST_ON}/{name}", answers))
        return predictions

    def _trajectory(self, evaluator: Evaluator) -> tuple[Trajectory, np.ndarray]:
        """Mean score at every checkpoint of the test run, and the score of each image [P, N]."""
        seed = self.dataset.seeds("test")[0]
        checkpoints = self.dataset.run_file(seed).run.checkpoints
        maps_PNDHW = self.dataset.trajectory_maps(seed)
        num_checkpoints, num_images = maps_PNDHW.shape[:2]
        maps_MDHW = maps_PNDHW.reshape(-1, *maps_PNDHW.shape[2:])  # read for this evaluator alone, which may spoil them
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


def _opened(
    dataset: DatasetThere,
    root: Path,
    device: str,
    limits: protocol.Limits,
    others: tuple[DatasetThere, ...],
    used: tuple[EvaluatorThere, ...],
) -> _Track:
    """A track in another process than the one that made it."""
    for evaluator in used:
        evaluator.learn()
    test_on = [other.open() for other in others]
    return _Track.make(dataset.open(), Workspace(root), choose_device(device), limits, test_on, used)


def _under(place: str, answers: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{place}/{name}": array for name, array in answers.items()}
