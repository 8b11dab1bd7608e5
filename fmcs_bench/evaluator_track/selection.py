"""Which evaluator goes into training; and fitted evaluators, loaded again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from fmcs_bench.core.errors import ConfigError, DatasetError, MissingDataError
from fmcs_bench.core.seeding import derive
from fmcs_bench.core.workspace import PathLike, Workspace
from fmcs_bench.evaluators.base import Evaluator
from fmcs_bench.evaluators.checkpoint import DESCRIPTION, load_fitted
from fmcs_bench.evaluators.network import NetworkEvaluator
from fmcs_bench.evaluators.registry import resolve_evaluator
from fmcs_bench.results.evaluator_board import EvaluatorBoard, evaluator_boards
from fmcs_bench.results.records import EvaluatorRecord
from fmcs_bench.results.store import RecordStore
from fmcs_bench.results.trials import EvaluatorTrial, TrainingTrial
from fmcs_bench.store.reader import FmcsDataset
from fmcs_bench.training.loop import choose_device
from fmcs_bench.training.losses import FrozenEvaluator
from fmcs_bench.training.methods import Method


def evaluator_for_training(dataset: FmcsDataset, workspace: Workspace, evaluator: str | None = None) -> EvaluatorRecord:
    """The fit that goes into training: of the evaluator that was named, or else of ``EvaluatorBoard.chosen``.

    Of its seeds, the one with the lowest MAE on the validation run is taken. Test runs play no part.

    Raises:
        MissingDataError: nothing was evaluated on this dataset, or not this evaluator.
        ConfigError: the evaluator is not differentiable, is a control, or all fits have unusual settings.
    """
    name = None if evaluator is None else resolve_evaluator(evaluator)
    board = _board(dataset, workspace)
    if board is None:
        raise MissingDataError(
            f"no evaluator was fitted on {dataset.id} yet; type `fmcs-bench evaluate {dataset.manifest.name}` first"
        )
    row = board.chosen if name is None else next((row for row in board.rows if row.evaluator == name), None)
    if row is None:
        raise MissingDataError(
            f"no differentiable evaluator {name or ''} was fitted on {dataset.id}; fitted are "
            f"{', '.join(row.evaluator for row in board.rows)}; type `fmcs-bench evaluate --evaluator NAME` first"
        )
    if not row.records[0].differentiable:
        raise ConfigError(f"the evaluator {row.evaluator} is not differentiable; RAL needs one that is")
    if row.records[0].trial.is_control:
        raise ConfigError(
            f"{row.evaluator} is a control; name --evaluator without ~permuted, and --method ral-permuted"
        )
    return min(row.records, key=lambda record: (record.metrics["validation_run"].mae, record.seed))


def _board(dataset: FmcsDataset, workspace: Workspace) -> EvaluatorBoard | None:
    """The evaluators fitted on a dataset with the usual settings, or the only ones; None where there are none."""
    every = [r for r in RecordStore(workspace.records).all(EvaluatorRecord) if r.dataset_id == dataset.id]
    boards = {board.settings: board for board in evaluator_boards(every)}
    usual = EvaluatorTrial(evaluator="any", seed=0).settings
    if usual not in boards and len(boards) > 1:
        raise ConfigError(
            f"evaluators were fitted on {dataset.id} with several settings ({', '.join(boards)}), none of them the "
            "usual ones; type `fmcs-bench evaluate` without --limit, --test-limit and --grid first"
        )
    return boards.get(usual) or next(iter(boards.values()), None)


def permuted_control(fitted: EvaluatorRecord, workspace: Workspace) -> EvaluatorRecord:
    """The same fit on permuted labels: the control of ``ral-permuted``."""
    wanted = fitted.trial.permuted
    for record in RecordStore(workspace.records).all(EvaluatorRecord):
        if record.dataset_id == fitted.dataset_id and record.trial == wanted:
            return record
    raise MissingDataError(
        f"the control ral-permuted needs the fit {wanted.method} with seed {fitted.seed} on {fitted.dataset_id}, with "
        f"the settings {fitted.settings}; type `fmcs-bench evaluate {fitted.dataset} --evaluator {wanted.method} "
        f"--seeds {fitted.seed + 1}` first"
    )


def random_control(fitted: Evaluator, seed: int) -> Evaluator:
    """The evaluator's network with random weights from a training's seed, frozen: the control of ``ral-random``.

    It keeps the constant that maps are divided by, which holds no knowledge of convergence.
    """
    if not isinstance(fitted, NetworkEvaluator):
        raise ConfigError(
            f"the control ral-random needs an evaluator that is a network (NetworkEvaluator), and "
            f"{fitted.config.method} is not; name a different --evaluator"
        )
    # "random judge" is part of the seed, so results depend on these words.
    config = fitted.config.model_copy(update={"seed": derive(seed, "random judge")})
    control = type(fitted)(fitted.map_shape, fitted.num_stages, config, device=fitted.device)
    control.network.scale.copy_(fitted.network.scale)
    control.freeze()
    return control


@dataclass(frozen=True)
class TrainingEvaluators:
    """The evaluators that take part in the trainings on one dataset, loaded when they are first used.

    Attributes:
        fitted: of RAL; None where no method uses one.
        permuted: its control; None where no method uses it.
        watcher: the chosen evaluator, which scores validation maps after every epoch; None where nothing was evaluated.
    """

    workspace: Workspace
    device: torch.device
    fitted: EvaluatorRecord | None
    permuted: EvaluatorRecord | None
    watcher: EvaluatorRecord | None
    _loaded: dict[str, Evaluator] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def choose(
        cls,
        dataset: FmcsDataset,
        workspace: Workspace,
        device: torch.device,
        methods: Sequence[Method],
        evaluator: str | None,
    ) -> TrainingEvaluators:
        """Those that some methods need; see ``evaluator_for_training`` and ``permuted_control``."""
        fitted = permuted = watcher = None
        if any(method.uses_evaluator for method in methods):
            fitted = evaluator_for_training(dataset, workspace, evaluator)
            if any(method.evaluator_kind == "permuted" for method in methods):
                permuted = permuted_control(fitted, workspace)
        board = _board(dataset, workspace)
        if board is not None and board.chosen is not None:
            watcher = evaluator_for_training(dataset, workspace)
        return cls(workspace, device, fitted, permuted, watcher)

    @property
    def records(self) -> list[EvaluatorRecord]:
        """Of all of them."""
        return [record for record in (self.fitted, self.permuted, self.watcher) if record is not None]

    def record_of(self, method: Method) -> EvaluatorRecord | None:
        """The fit that a method uses; of ``ral-random`` the one whose network it is."""
        if not method.uses_evaluator:
            return None
        return self.permuted if method.evaluator_kind == "permuted" else self.fitted

    def of_loss(self, trial: TrainingTrial) -> FrozenEvaluator | None:
        """The frozen evaluator of a trial's loss; None where its loss has none."""
        record = self.record_of(trial.method)
        if trial.method.raf == 1 or record is None:
            return None
        evaluator = self.load(record)
        if trial.method.evaluator_kind == "random":
            evaluator = random_control(evaluator, trial.seed)
        return evaluator.log_probs

    def of_watcher(self, trial: TrainingTrial) -> FrozenEvaluator | None:
        """The frozen evaluator that scores a trial's maps; None where it has none."""
        return None if trial.watcher is None or self.watcher is None else self.load(self.watcher).log_probs

    def load(self, record: EvaluatorRecord) -> Evaluator:
        """One of ``records``, frozen; see ``load_fit``."""
        if record.key not in self._loaded:
            self._loaded[record.key] = load_fit(self.workspace, record, device=self.device)
        return self._loaded[record.key]


def load_fit(workspace: Workspace, record: EvaluatorRecord, *, device: torch.device, frozen: bool = True) -> Evaluator:
    """The fitted evaluator of a record, frozen for use in training unless ``frozen`` is False.

    Raises:
        ConfigError: it cannot be frozen, is a plug-in's that is missing or was changed, or is not that of the record.
        DatasetError: its files are missing or damaged.
    """
    folder = workspace.fitted(record.dataset_id, record.settings, record.method, record.seed)
    fitted = load_fitted(folder, device=device)
    if fitted.info.sha256 != record.evaluator_digest:
        raise ConfigError(f"{folder} holds a different fit than the record; type `fmcs-bench evaluate` again")
    if frozen:
        fitted.evaluator.freeze()
    return fitted.evaluator


def load_evaluator(
    source: PathLike | EvaluatorRecord | None = None,
    *,
    dataset: FmcsDataset | str | None = None,
    evaluator: str | None = None,
    seed: int = 0,
    settings: str | None = None,
    workspace: PathLike | None = None,
    device: str = "cpu",
) -> Evaluator:
    """A fitted evaluator, its digest checked, ready for ``predict_proba(maps_MDHW)``.

    Args:
        source: folder of one fit (with ``evaluator.json``), or its record (``row.records`` of a board); None finds it
            by the names.
        dataset: on which it was fitted: opened, its name, or its id where the workspace has several versions.
        evaluator: a name from the evaluator table, such as ``set`` or ``conv+corn``, or ``FILE.py:Class``, which runs
            that file.
        seed: of the fit.
        settings: of the fit; only needed where there are fits with several.
        workspace: where it was made; see ``Workspace``. A folder needs none.
        device: ``auto`` (CUDA where torch has it), ``cpu``, ``cuda``, ...

    Raises:
        MissingDataError: there is no such fit; the message lists those there are.
        ConfigError: nothing or too little was named, or the evaluator is a plug-in that is missing or was changed.
        DatasetError: its files are damaged, or not those that belong there.
    """
    place, on = Workspace(workspace), choose_device(device)
    if isinstance(source, EvaluatorRecord):
        return load_fit(place, source, device=on, frozen=False)
    if source is not None:
        folder = Path(source)
        if not (folder / DESCRIPTION).is_file():
            raise MissingDataError(
                f"{folder} has no fitted evaluator ({DESCRIPTION}); name the folder of one seed, or dataset and "
                "evaluator"
            )
        return load_fitted(folder, device=on).evaluator
    if dataset is None or evaluator is None:
        raise ConfigError("name the evaluator: by its folder, its record, or dataset= and evaluator=")
    name = dataset.id if isinstance(dataset, FmcsDataset) else dataset
    folder = _find_fit(place, name, resolve_evaluator(evaluator), seed, settings)
    fitted = load_fitted(folder, device=on)
    if fitted.info.config.method != folder.parent.name or fitted.info.dataset_id != folder.parent.parent.parent.name:
        raise DatasetError(
            f"{folder} holds a fit of {fitted.info.config.method} on {fitted.info.dataset_id}, which does not belong "
            "there; type `fmcs-bench evaluate` again"
        )
    return fitted.evaluator


def _find_fit(workspace: Workspace, dataset: str, evaluator: str, seed: int, settings: str | None) -> Path:
    """The folder of one fit, ``evaluators/<dataset id>/<settings>/<evaluator>/seed-<n>``."""
    root = workspace.root / "evaluators"
    found = [path.parent.relative_to(root).parts for path in sorted(root.glob(f"*/*/*/seed-*/{DESCRIPTION}"))]
    if not found:
        raise MissingDataError(f"{workspace.root} has no fitted evaluators; type `fmcs-bench evaluate` first")
    for part, wanted, what in (
        (0, dataset, "evaluator on"),
        (1, settings, "evaluator with the settings"),
        (2, evaluator, f"evaluator on {dataset} named"),
        (3, f"seed-{seed}", f"{evaluator} on {dataset} with"),
    ):
        known = sorted({parts[part] for parts in found})
        found = [parts for parts in found if wanted in (None, parts[part], parts[part].partition("@")[0])]
        if not found:
            raise MissingDataError(
                f"{workspace.root} has no fitted {what} {wanted}; there are {', '.join(known)}; "
                "`fmcs-bench evaluate` makes more"
            )
    if len(found) > 1:
        ids, several = sorted({parts[0] for parts in found}), sorted({parts[1] for parts in found})
        what, choices = ("dataset", ids) if len(ids) > 1 else ("settings", several)
        raise ConfigError(
            f"there are {len(found)} fits of {evaluator} on {dataset} with seed {seed}; give the {what}: "
            f"{', '.join(choices)}"
        )
    return root.joinpath(*found[0])
