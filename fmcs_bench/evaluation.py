"""The evaluator track: fit, choose and test every evaluator on a fixed FMCS dataset.

Flow: FMCS dataset -> maps of each column -> for each evaluator and seed: fit on the training runs, stop by the
validation run, answer every column once -> metrics and predictions -> record.

M maps, N images, K stages, P checkpoints.
"""

from __future__ import annotations

import hashlib
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from fmcs_bench import environment, evaluators, files, metrics, records
from fmcs_bench.boards import COLUMNS, Column, EvaluatorBoard, evaluator_boards
from fmcs_bench.config import NUM_SEEDS, EvaluatorConfig, Head
from fmcs_bench.engine import run_units
from fmcs_bench.environment import Environment
from fmcs_bench.errors import ConfigError, MissingDataError, ProtocolError
from fmcs_bench.evaluators import Evaluator
from fmcs_bench.evaluators.fitted import WEIGHTS, load_fitted, save_fitted
from fmcs_bench.progress import SILENT, Progress
from fmcs_bench.records import EvaluatorRecord, RecordStore, Trajectory
from fmcs_bench.store import FmcsDataset, MapSet, open_dataset, schema
from fmcs_bench.training import choose_device
from fmcs_bench.workspace import Workspace


def evaluate_dataset(
    dataset: FmcsDataset,
    workspace: Workspace,
    *,
    evaluator_names: Sequence[str] = (),
    head: Head = "softmax",
    num_seeds: int = NUM_SEEDS,
    limit: int | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> EvaluatorBoard:
    """Fit and test evaluators on one FMCS dataset, with every seed; what is finished is not repeated.

    Args:
        dataset: opened for reading.
        workspace: where records and fitted evaluators go; the caller holds its lock.
        evaluator_names: which, see ``fmcs_bench.evaluators.wanted``; none means all.
        head: of those that are named without one.
        num_seeds: seeds 0 .. num_seeds - 1.
        limit: at most this many images in each split of each run.
        device: ``auto``, ``cpu``, ``cuda``, ...
        progress: shows finished fits and the time left.

    Raises:
        UnknownNameError: no such evaluator.
        ConfigError: fewer than one seed, no such head, an evaluator's file that cannot be used, or maps that do not
            fit in memory.
        MissingDataError: there is no such file of an evaluator.
        PluginError: a plug-in cannot be loaded.
        ProtocolError: an evaluator broke its contract.
    """
    if num_seeds < 1:
        raise ConfigError(f"{num_seeds} seeds; at least 1 is needed")
    wanted = evaluators.wanted(evaluator_names, head)  # a wrong name is told before anything is fitted
    track = _Track(dataset, workspace, choose_device(device), limit)
    units = [
        EvaluatorConfig.make(evaluator=name, head=chosen, code=evaluators.code_of(name), seed=seed, limit=limit)
        for name, chosen in wanted
        for seed in range(num_seeds)
    ]
    done = run_units(
        units, find=track.find, work=track.work, description=f"evaluators on {dataset.manifest.name}", progress=progress
    )
    return evaluator_boards(done)[0]


def all_datasets(workspace: Workspace) -> list[FmcsDataset]:
    """Every finished FMCS dataset of the workspace, by name.

    Raises:
        MissingDataError: there is none; the message says how to build one.
    """
    paths = sorted(path.parent for path in workspace.datasets.glob(f"*/{schema.MANIFEST}"))
    if not paths:
        raise MissingDataError(
            f"no FMCS dataset is in {workspace.datasets}; build one with `fmcs-bench build --backbone smallcnn`"
        )
    return [open_dataset(path) for path in paths]


def recompute(predictions: dict[str, np.ndarray]) -> dict[Column, records.Metrics]:
    """The metrics of a record, from its predictions alone.

    Args:
        predictions: for each column ``<column>/probs`` [K, N, K] and ``<column>/image`` [N], ``<column>/run`` [N].
    """
    return {column: _column_metrics(predictions, column) for column in COLUMNS}


def load_judge(workspace: Workspace, record: EvaluatorRecord, *, device: torch.device) -> Evaluator:
    """The fitted evaluator of a record, frozen, for use in training.

    Raises:
        ConfigError: it is not differentiable, or a plug-in's that is not here or was changed.
        DatasetError: its files are missing or not those of the record.
    """
    folder = workspace.fitted(record.dataset_id, record.settings, record.method, record.seed)
    fitted = load_fitted(folder, device=device)
    if fitted.info.sha256 != record.evaluator_digest:
        raise ConfigError(f"{folder} holds another fit than the record says; type `fmcs-bench evaluate` again")
    fitted.evaluator.freeze()
    return fitted.evaluator


@dataclass(frozen=True)
class _Track:
    """One dataset with its maps, read when the first unit needs them."""

    dataset: FmcsDataset
    workspace: Workspace
    device: torch.device
    limit: int | None

    @cached_property
    def store(self) -> RecordStore:
        return RecordStore(self.workspace.records)

    @cached_property
    def environment(self) -> Environment:
        return Environment.current(str(self.device), torch.get_num_threads())

    @cached_property
    def train(self) -> MapSet:
        return self._maps("training", "train")

    @cached_property
    def columns(self) -> dict[Column, MapSet]:
        return {
            "validation_run": self._maps("validation", "validation"),
            "same_run": self._maps("training", "test"),
            "test_run": self._maps("test", "test"),
            "unseen": self._maps("test", "unseen"),
        }

    def _maps(self, role: schema.Role, split: str) -> MapSet:
        return MapSet.concatenate(
            [self.dataset.select(seed, split, limit=self.limit) for seed in self.dataset.seeds(role)]
        )

    def key(self, unit: EvaluatorConfig) -> str:
        return records.unit_key(unit, self.dataset.manifest.dataset_digest, self.environment)

    def find(self, unit: EvaluatorConfig) -> EvaluatorRecord | None:
        record = self.store.finished(
            EvaluatorRecord, self.dataset.id, unit.settings, unit.method, unit.seed, self.key(unit)
        )
        if record is None:
            return None
        weights = self.workspace.fitted(self.dataset.id, unit.settings, unit.method, unit.seed) / WEIGHTS
        intact = weights.is_file() and files.sha256_of_file(weights) == record.evaluator_digest
        return record if intact else None

    def work(self, unit: EvaluatorConfig) -> EvaluatorRecord:
        manifest = self.dataset.manifest
        train, columns = self.train, self.columns  # read before the clock starts
        evaluator = evaluators.create(unit, manifest.map_shape, manifest.config.stages, device=self.device)
        begin = time.monotonic()
        curve = evaluator.fit(train, columns["validation_run"])
        seconds = time.monotonic() - begin
        digest = save_fitted(
            evaluator, self.dataset.id, self.workspace.fitted(self.dataset.id, unit.settings, unit.method, unit.seed)
        )
        predictions: dict[str, np.ndarray] = {}
        for column, maps in columns.items():
            predictions.update(self._answer(evaluator, column, maps))
        trajectory, scores_PN = self._trajectory(evaluator)
        predictions["trajectory/score"] = scores_PN
        packed = records.pack_predictions(predictions)
        record = EvaluatorRecord(
            key=self.key(unit),
            dataset=manifest.name,
            dataset_digest=manifest.dataset_digest,
            environment=self.environment,
            curve=tuple(curve),
            cost=records.Cost(
                seconds=seconds,
                num_parameters=evaluator.num_parameters,
                process_peak_bytes=environment.process_peak_bytes(),
            ),
            predictions_sha256=hashlib.sha256(packed).hexdigest(),
            created=environment.now(),
            unit=unit,
            evaluator_digest=digest,
            num_stages=manifest.config.stages,
            differentiable=evaluator.differentiable,
            channel_invariant=evaluator.channel_invariant,
            any_shape=evaluator.any_shape,
            metrics=recompute(predictions),
            trajectory=trajectory,
        )
        self.store.write(record, packed)
        return record

    def _answer(self, evaluator: Evaluator, column: str, maps: MapSet) -> dict[str, np.ndarray]:
        """Ask the evaluator about one column, once, and order its answers [stage, image, stage probability]."""
        num_stages = self.dataset.num_stages
        probs_MK = self._ask(evaluator, maps.maps_MDHW, column.replace("_", " "))
        order_M = np.lexsort((maps.image_ids_M, maps.runs_M, maps.stages_M))
        num_images = len(maps) // num_stages
        first_N = order_M[:num_images]
        return {
            f"{column}/probs": probs_MK[order_M].astype(np.float32).reshape(num_stages, num_images, num_stages),
            f"{column}/image": maps.image_ids_M[first_N].astype(np.int64),
            f"{column}/run": maps.runs_M[first_N].astype(np.int64),
        }

    def _ask(self, evaluator: Evaluator, maps_MDHW: np.ndarray, split: str) -> np.ndarray:
        """The evaluator's probabilities [M, K], if it keeps the contract; a changed input would spoil the next's."""
        before = zlib.crc32(np.ascontiguousarray(maps_MDHW).data)
        answer = evaluator.predict_proba(maps_MDHW)
        if zlib.crc32(np.ascontiguousarray(maps_MDHW).data) != before:
            raise ProtocolError(f"evaluator {evaluator.name} on {split}: it changed the maps that it was asked about")
        num_stages = self.dataset.num_stages
        return metrics.check_probabilities(answer, len(maps_MDHW), num_stages, evaluator=evaluator.name, split=split)

    def _trajectory(self, evaluator: Evaluator) -> tuple[Trajectory, np.ndarray]:
        """Mean score at every checkpoint of the test run, and the score of each image [P, N]."""
        seed = self.dataset.seeds("test")[0]
        checkpoints = self.dataset.run_file(seed).run.checkpoints
        maps_PNDHW = self.dataset.trajectory_maps(seed)
        num_checkpoints, num_images = maps_PNDHW.shape[:2]
        probs_MK = self._ask(evaluator, maps_PNDHW.reshape(-1, *maps_PNDHW.shape[2:]), "trajectory")
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


def _column_metrics(predictions: dict[str, np.ndarray], column: str) -> records.Metrics:
    probs_KNK = predictions[f"{column}/probs"]
    num_stages, num_images, _ = probs_KNK.shape
    stages_M = np.repeat(np.arange(num_stages), num_images)
    groups_M = np.tile(np.arange(num_images), num_stages)  # image n of the file is one image of one run
    return metrics.stage_metrics(probs_KNK.reshape(-1, num_stages), stages_M, groups_M)
