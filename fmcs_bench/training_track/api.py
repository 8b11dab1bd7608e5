"""``fmcs_bench.train`` and its plan; part of ``api``.

Flow: names, paths and options -> workspace, opened dataset, ``TrainOptions`` -> board, or the plan of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from fmcs_bench.core.progress import SILENT, Progress
from fmcs_bench.core.workspace import PathLike
from fmcs_bench.jobs.local import Engine
from fmcs_bench.jobs.options import Execution
from fmcs_bench.jobs.ray import engine_of
from fmcs_bench.results.training_board import TrainingBoard
from fmcs_bench.store.reader import FmcsDataset
from fmcs_bench.store.resolve import find_dataset, image_folder, only_dataset, workspace_at
from fmcs_bench.training.methods import DEFAULT_METHODS, DEFAULT_RAFS, NUM_SEEDS
from fmcs_bench.training_track.estimate import Plan, plan_methods
from fmcs_bench.training_track.options import TrainOptions
from fmcs_bench.training_track.runner import train_methods


def train(
    dataset: FmcsDataset | PathLike | None = None,
    *,
    methods: Sequence[str] = DEFAULT_METHODS,
    rafs: Sequence[float | str] = DEFAULT_RAFS,
    seeds: int = NUM_SEEDS,
    evaluator: str | None = None,
    epochs: int | None = None,
    recipe: str | None = None,
    changes: Mapping[str, Any] | None = None,
    retry: bool = False,
    workspace: PathLike | None = None,
    data_dir: PathLike | None = None,
    image_source: str | None = None,
    stream_images: bool | None = None,
    device: str = "auto",
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    unit_cpus: int | None = None,
    unit_gpus: float | None = None,
    progress: Progress = SILENT,
    **options: Any,
) -> TrainingBoard:
    """Train the methods of the training track with the judge that was chosen on this dataset.

    Args:
        dataset: opened, or a name or path; None is the workspace's only one.
        methods: such as ``baseline``, ``ral``, ``dueheadnet-add-align-ral``, ``single-seresnet34``.
        rafs: RAF values of the methods with RAL; ``["paper"]`` for those of the paper.
        seeds: number of paired trainings of each method.
        evaluator: the judge, by its name on the board (``set``, ``conv+corn``) or ``FILE.py:Class``; None is the one
            with the lowest MAE on the validation run.
        epochs: another length than the recipe's, or than the convergence point.
        recipe: ``fmce``, ``dueheadnet-readme`` or ``dueheadnet-code``; None is the dataset's.
        changes: values of the recipe that differ, such as ``{"lr": 0.1}``.
        retry: train those again that failed before.
        workspace: see ``Workspace``.
        data_dir: folder with the files of the image dataset; ``FMCS_BENCH_DATA`` where it is None.
        image_source: ``folder:DIR`` or ``hub:NAME_OR_PATH`` that the dataset was built from.
        stream_images: as for ``build``.
        device: ``auto`` (CUDA where torch has it), ``cpu``, ``cuda``, ...
        engine: ``local``, or ``ray``: trainings at the same time, on one machine or many; the next three are as for
            ``evaluate``.
        address: of a Ray cluster.
        unit_cpus: CPUs and threads of each training.
        unit_gpus: GPUs of each training, or a share of one.
        progress: shows the work; silent by default.
        **options: of ``TrainOptions``: ``init``, ``base``, ``constraint_weight``, ``pretrained_first``,
            ``best_epoch_on_test``, ``keep_weights``.

    Raises:
        UnitsFailedError: some trainings diverged; everything else is done, and its boards are the error's ``finished``.
        FmcsBenchError: see ``fmcs_bench.training_track.runner.train_methods``.
    """
    place = workspace_at(workspace)
    opened = only_dataset(place) if dataset is None else find_dataset(place, dataset)
    sweep = _sweep(methods, rafs, changes, seeds=seeds, evaluator=evaluator, epochs=epochs, recipe=recipe, **options)
    typed = {"engine": engine, "address": address, "unit_cpus": unit_cpus, "unit_gpus": unit_gpus}
    chosen = engine_of(Execution.take(typed))

    def work(worker: Engine) -> TrainingBoard:
        with place.locked():
            return train_methods(
                opened,
                place,
                sweep,
                retry=retry,
                data_dir=image_folder(data_dir),
                image_source=image_source,
                stream_images=stream_images,
                device=device,
                progress=progress,
                engine=worker,
            )

    with chosen as worker:
        return work(worker)


def plan_training(
    dataset: FmcsDataset | PathLike | None = None,
    *,
    methods: Sequence[str] = DEFAULT_METHODS,
    rafs: Sequence[float | str] = DEFAULT_RAFS,
    changes: Mapping[str, Any] | None = None,
    retry: bool = False,
    workspace: PathLike | None = None,
    device: str = "auto",
    **options: Any,
) -> Plan:
    """What ``train`` with the same arguments would do, and about how long it would take; nothing is trained.

    Raises:
        FmcsBenchError: as for ``train``.
    """
    place = workspace_at(workspace)
    opened = only_dataset(place) if dataset is None else find_dataset(place, dataset)
    return plan_methods(opened, place, _sweep(methods, rafs, changes, **options), retry=retry, device=device)


def _sweep(
    methods: Sequence[str], rafs: Sequence[float | str], changes: Mapping[str, Any] | None, **options: Any
) -> TrainOptions:
    return TrainOptions.make(methods=tuple(methods), rafs=tuple(rafs), **(dict(changes or {}) | options))
