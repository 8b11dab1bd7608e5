"""Fitted evaluators, found again: by their folder, their record, or dataset, name and seed in a workspace.

Flow: folder, record or names -> the one folder that is meant -> digest checked -> evaluator, ready to be asked.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from fmcs_bench import evaluators
from fmcs_bench.errors import ConfigError, DatasetError, MissingDataError
from fmcs_bench.evaluators import Evaluator
from fmcs_bench.evaluators.fitted import DESCRIPTION, load_fitted
from fmcs_bench.records import EvaluatorRecord
from fmcs_bench.workspace import Workspace


def load_judge(
    workspace: Workspace, record: EvaluatorRecord, *, device: torch.device, frozen: bool = True
) -> Evaluator:
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
    evaluator = evaluators.resolve(evaluator)
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
        return load_judge(workspace, place, device=device, frozen=False)
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
