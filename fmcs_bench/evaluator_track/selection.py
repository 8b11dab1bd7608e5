"""Fitted evaluators, found again: by their folder, their record, or dataset, name and seed in a workspace.

Flow: folder, record or names -> the one folder that is meant -> digest checked -> evaluator, ready to be asked. For
training: board -> chosen evaluator -> record of the fit that judges, or of its controls -> frozen evaluator.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from fmcs_bench.core.errors import ConfigError, DatasetError, MissingDataError
from fmcs_bench.core.seeding import derive
from fmcs_bench.core.workspace import Workspace
from fmcs_bench.evaluators.base import Evaluator
from fmcs_bench.evaluators.checkpoint import DESCRIPTION, load_fitted
from fmcs_bench.evaluators.network import NetworkEvaluator
from fmcs_bench.evaluators.registry import resolve_evaluator
from fmcs_bench.results.evaluator_board import evaluator_boards
from fmcs_bench.results.records import EvaluatorRecord
from fmcs_bench.results.store import RecordStore
from fmcs_bench.results.trials import EvaluatorTrial
from fmcs_bench.store.reader import FmcsDataset


def evaluator_for_training(dataset: FmcsDataset, workspace: Workspace, evaluator: str | None = None) -> EvaluatorRecord:
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
    evaluator = evaluator if evaluator is None else resolve_evaluator(evaluator)
    every = [r for r in RecordStore(workspace.records).all(EvaluatorRecord) if r.dataset_id == dataset.id]
    boards = {board.settings: board for board in evaluator_boards(every)}
    if not boards:
        raise MissingDataError(
            f"no evaluator was fitted on {dataset.id} yet; type `fmcs-bench evaluate {dataset.manifest.name}` first"
        )
    usual = EvaluatorTrial(evaluator="any", seed=0).settings
    if usual not in boards and len(boards) > 1:
        raise ConfigError(
            f"evaluators were fitted on {dataset.id} with several settings ({', '.join(boards)}), none of them the "
            "usual ones; type `fmcs-bench evaluate` without --limit, --test-limit and --grid first"
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
    if row.records[0].trial.labels != "true":
        raise ConfigError(
            f"{row.evaluator} is a control; name --evaluator without ~permuted, and --method ral-permuted"
        )
    return min(row.records, key=lambda record: (record.metrics["validation_run"].mae, record.seed))


def permuted_control(judge: EvaluatorRecord, workspace: Workspace) -> EvaluatorRecord:
    """The fit that is a judge's own but for its labels, which were permuted: the control of ``ral-permuted``.

    Raises:
        MissingDataError: there is none; the message says how to make it.
    """
    unit = judge.trial.permuted
    name = unit.method
    for record in RecordStore(workspace.records).all(EvaluatorRecord):
        if record.dataset_id == judge.dataset_id and record.trial == unit:
            return record
    raise MissingDataError(
        f"the control ral-permuted needs the fit {name} with seed {judge.seed} on {judge.dataset_id}, with the "
        f"settings {judge.settings}; type `fmcs-bench evaluate {judge.dataset} --evaluator {name} --seeds "
        f"{judge.seed + 1}` first"
    )


def random_control(fitted: Evaluator, seed: int) -> Evaluator:
    """A judge's network with fresh random weights, frozen: the control of ``ral-random``.

    It divides maps by what the judge divides them by, which is no knowledge of convergence.

    Args:
        fitted: the judge.
        seed: of the training; decides the weights.

    Raises:
        ConfigError: the judge is no network, so that nothing says what random weights of it are.
    """
    if not isinstance(fitted, NetworkEvaluator):
        raise ConfigError(
            f"the control ral-random needs a judge that is a network (NetworkEvaluator), and {fitted.config.method} is "
            "none; name another --evaluator"
        )
    config = fitted.config.model_copy(update={"seed": derive(seed, "random judge")})
    judge = type(fitted)(fitted.map_shape, fitted.num_stages, config, device=fitted.device)
    judge.network.scale.copy_(fitted.network.scale)
    judge.freeze()
    return judge


def load_fit(workspace: Workspace, record: EvaluatorRecord, *, device: torch.device, frozen: bool = True) -> Evaluator:
    """The fitted evaluator of a record, frozen for use in training unless it is only asked.

    Raises:
        ConfigError: it is to be frozen and not differentiable, a plug-in's that is not here or was changed, or the
            folder has another fit than the record says.
        DatasetError: its files are missing or damaged.
    """
    folder = workspace.fitted(record.dataset_id, record.settings, record.method, record.seed)
    fitted = load_fitted(folder, device=device)
    if fitted.info.sha256 != record.evaluator_digest:
        raise ConfigError(f"{folder} holds another fit than the record says; type `fmcs-bench evaluate` again")
    if frozen:
        fitted.evaluator.freeze()
    return fitted.evaluator


def load_from(folder: str | os.PathLike[str], *, device: torch.device) -> Evaluator:
    """The fitted evaluator of a folder with ``evaluator.json`` and ``evaluator.safetensors``.

    Raises:
        MissingDataError: there is none.
        DatasetError: its files are damaged, or not those that belong together.
        ConfigError: it is a plug-in's that is not here or was changed.
    """
    place = Path(folder)
    if not (place / DESCRIPTION).is_file():
        raise MissingDataError(
            f"{place} has no fitted evaluator ({DESCRIPTION}); name the folder of one seed, or dataset and evaluator"
        )
    return load_fitted(place, device=device).evaluator


def find_fitted(
    workspace: Workspace, dataset: str, evaluator: str, *, seed: int = 0, settings: str | None = None
) -> Path:
    """The folder of one fit in a workspace.

    Args:
        workspace: where it was made.
        dataset: name of the FMCS dataset it was fitted on, or its id ``name@digest`` where there were several versions.
        evaluator: its name on the board, such as ``set`` or ``conv+corn``, or ``FILE.py:Class``.
        seed: of the fit.
        settings: of the fit, as records and pages show them; only needed where there are several.

    Raises:
        MissingDataError: there is no such fit; the message says which there are.
        ConfigError: several fits are meant.
    """
    evaluator = resolve_evaluator(evaluator)
    root = workspace.root / "evaluators"
    every = [path.parent.relative_to(root).parts for path in sorted(root.glob(f"*/*/*/seed-*/{DESCRIPTION}"))]
    of_dataset = [parts for parts in every if dataset in (parts[0], parts[0].partition("@")[0])]
    of_settings = [parts for parts in of_dataset if settings in (None, parts[1])]
    of_evaluator = [parts for parts in of_settings if parts[2] == evaluator]
    wanted = [parts for parts in of_evaluator if parts[3] == f"seed-{seed}"]
    if len(wanted) == 1:
        return root.joinpath(*wanted[0])
    if wanted:
        ids, several = sorted({parts[0] for parts in wanted}), sorted({parts[1] for parts in wanted})
        what, choices = ("dataset", ids) if len(ids) > 1 else ("settings", several)
        raise ConfigError(
            f"there are {len(wanted)} fits of {evaluator} on {dataset} with seed {seed}; say which {what}: "
            f"{', '.join(choices)}"
        )
    for here, name, choices in (
        (of_evaluator, f"seed {seed} of {evaluator} on {dataset}", [parts[3] for parts in of_evaluator]),
        (of_settings, f"evaluator {evaluator} on {dataset}", [parts[2] for parts in of_settings]),
        (of_dataset, f"settings {settings} on {dataset}", [parts[1] for parts in of_dataset]),
        (every, f"evaluator on {dataset}", [parts[0] for parts in every]),
    ):
        if here:
            raise MissingDataError(
                f"{workspace.root} has no fitted {name}; there are {', '.join(sorted(set(choices)))}; "
                "`fmcs-bench evaluate` makes more"
            )
    raise MissingDataError(f"{workspace.root} has no fitted evaluators; type `fmcs-bench evaluate` first")


def load_evaluator(
    workspace: Workspace,
    place: str | os.PathLike[str] | EvaluatorRecord | None,
    *,
    dataset: str | None,
    evaluator: str | None,
    seed: int,
    settings: str | None,
    device: torch.device,
) -> Evaluator:
    """See ``fmcs_bench.load_evaluator``."""
    if isinstance(place, EvaluatorRecord):
        return load_fit(workspace, place, device=device, frozen=False)
    if place is not None:
        return load_from(place, device=device)
    if dataset is None or evaluator is None:
        raise ConfigError("say which evaluator: its folder, its record, or dataset= and evaluator=")
    folder = find_fitted(workspace, dataset, evaluator, seed=seed, settings=settings)
    fitted = load_fitted(folder, device=device)
    if fitted.info.config.method != folder.parent.name or fitted.info.dataset_id != folder.parent.parent.parent.name:
        raise DatasetError(
            f"{folder} holds a fit of {fitted.info.config.method} on {fitted.info.dataset_id}, which does not belong "
            "there; type `fmcs-bench evaluate` again"
        )
    return fitted.evaluator
