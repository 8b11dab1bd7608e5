"""The road as Python functions; each does what the command of its name does and returns an object that prints."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fmcs_bench import convergence, images, leaderboard, plots, verification
from fmcs_bench.boards import EvaluatorBoard, TrainingBoard
from fmcs_bench.builder import build_dataset
from fmcs_bench.config import DEFAULT_RAFS, NUM_SEEDS, BuildConfig, Head
from fmcs_bench.errors import ConfigError, MissingDataError
from fmcs_bench.evaluation import all_datasets, evaluate_dataset
from fmcs_bench.experiments import DEFAULT_METHODS, train_methods
from fmcs_bench.progress import SILENT, Progress
from fmcs_bench.store import FmcsDataset, is_url, open_dataset, schema
from fmcs_bench.store.verify import Report
from fmcs_bench.workspace import Workspace

PathLike = str | os.PathLike[str]


def default_workspace() -> str:
    """``FMCS_BENCH_WORKSPACE``, or ``fmcs-workspace`` in the current folder."""
    return os.environ.get("FMCS_BENCH_WORKSPACE") or "fmcs-workspace"


def open(path: PathLike) -> FmcsDataset:  # noqa: A001  (as zarr.open and PIL.Image.open are)
    """Open a finished FMCS dataset for reading.

    Args:
        path: its folder, or a URL of a protocol that fsspec knows, such as ``hf://datasets/owner/name``.

    Raises:
        ConfigError: the URL's protocol is unknown or needs a package.
        MissingDataError: there is no such folder.
        DatasetError: it is unfinished, damaged, or of another schema, or the place cannot be reached.
    """
    return open_dataset(os.fspath(path))


def build(
    *,
    workspace: PathLike | None = None,
    data_dir: PathLike | None = None,
    skip_broken: bool = False,
    download: bool = False,
    stream_images: bool | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
    **options: Any,
) -> FmcsDataset:
    """Build an FMCS dataset, go on with an unfinished one, or open it where it is finished.

    Args:
        workspace: folder of everything that is made; see ``default_workspace``.
        data_dir: folder with the files of the image dataset; ``FMCS_BENCH_DATA`` where it is None.
        skip_broken: leave out images that cannot be decoded; the manifest has their number.
        download: fetch missing files of a named image dataset into ``data_dir``.
        stream_images: decode images when they are needed instead of holding them in memory; None does so where they
            would take more than half of the free memory.
        device: ``auto`` (CUDA where torch has it), ``cpu``, ``cuda``, ...
        progress: shows the work; silent by default.
        **options: of ``BuildConfig``: ``backbone``, ``image_dataset`` (also ``folder:DIR`` and ``hub:NAME_OR_PATH``),
            ``image_size``, ``stages``, ``epochs``, ...

    Raises:
        FmcsBenchError: see ``fmcs_bench.builder.build_dataset``.
    """
    typed = options.get("image_dataset")
    image_source = typed if isinstance(typed, str) and ":" in typed else None
    if image_source is not None:
        options["image_dataset"] = images.plain_name(image_source)
    config = BuildConfig.create(**options)
    place = _workspace(workspace)
    with place.locked():
        return build_dataset(
            config,
            place,
            data_dir=_data_dir(data_dir),
            image_source=image_source,
            skip_broken=skip_broken,
            download=download,
            stream_images=stream_images,
            device=device,
            progress=progress,
        )


def evaluate(
    datasets: FmcsDataset | PathLike | Iterable[FmcsDataset | PathLike] | None = None,
    *,
    evaluators: Sequence[str] = (),
    head: Head = "softmax",
    seeds: int = NUM_SEEDS,
    limit: int | None = None,
    workspace: PathLike | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> list[EvaluatorBoard]:
    """Fit and test evaluators on FMCS datasets; one board for each dataset.

    Args:
        datasets: opened, or names or paths; None is every dataset of the workspace.
        evaluators: names, or ``FILE.py:Class`` for one of your own, which runs that file; none means all.
        head: ``softmax``, or ``corn`` or ``coral``, which know that stages are ordered; of evaluators that are
            networks.
        seeds: number of fits of each evaluator.
        limit: at most this many images in each split of each run.
        workspace: see ``default_workspace``.
        device: ``auto`` (CUDA where torch has it), ``cpu``, ``cuda``, ...
        progress: shows the work; silent by default.

    Raises:
        FmcsBenchError: see ``fmcs_bench.evaluation.evaluate_dataset``.
    """
    place = _workspace(workspace)
    if datasets is None:
        opened = all_datasets(place)
    else:
        several = [datasets] if isinstance(datasets, FmcsDataset | str | os.PathLike) else datasets
        opened = [find_dataset(place, dataset) for dataset in several]
    with place.locked():
        return [
            evaluate_dataset(
                dataset,
                place,
                evaluator_names=evaluators,
                head=head,
                num_seeds=seeds,
                limit=limit,
                device=device,
                progress=progress,
            )
            for dataset in opened
        ]


def train(
    dataset: FmcsDataset | PathLike | None = None,
    *,
    methods: Sequence[str] = DEFAULT_METHODS,
    rafs: Sequence[float] = DEFAULT_RAFS,
    seeds: int = NUM_SEEDS,
    evaluator: str | None = None,
    epochs: int | None = None,
    workspace: PathLike | None = None,
    data_dir: PathLike | None = None,
    image_source: str | None = None,
    stream_images: bool | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> TrainingBoard:
    """Train the methods of the training track with the judge that was chosen on this dataset.

    Args:
        dataset: opened, or a name or path; None is the workspace's only one.
        methods: families such as ``baseline``, ``ral``, ``dueheadnet-add-align-ral``.
        rafs: RAF values of the families with RAL.
        seeds: number of paired trainings of each method.
        evaluator: the judge, by its name on the board (``set``, ``conv+corn``) or ``FILE.py:Class``; None is the one
            with the lowest MAE on the validation run.
        epochs: another length than the convergence point.
        workspace: see ``default_workspace``.
        data_dir: folder with the files of the image dataset; ``FMCS_BENCH_DATA`` where it is None.
        image_source: ``folder:DIR`` or ``hub:NAME_OR_PATH`` that the dataset was built from.
        stream_images: as for ``build``.
        device: ``auto`` (CUDA where torch has it), ``cpu``, ``cuda``, ...
        progress: shows the work; silent by default.

    Raises:
        FmcsBenchError: see ``fmcs_bench.experiments.train_methods``.
    """
    place = _workspace(workspace)
    opened = only_dataset(place) if dataset is None else find_dataset(place, dataset)
    with place.locked():
        return train_methods(
            opened,
            place,
            method_names=methods,
            rafs=rafs,
            num_seeds=seeds,
            evaluator=evaluator,
            epochs=epochs,
            data_dir=_data_dir(data_dir),
            image_source=image_source,
            stream_images=stream_images,
            device=device,
            progress=progress,
        )


def build_leaderboard(*, workspace: PathLike | None = None) -> Path:
    """Make the page of all records of the workspace; returns the path of its ``index.html``.

    Raises:
        MissingDataError: there is no record yet.
        RecordError: a record is not valid.
    """
    place = _workspace(workspace)
    with place.locked():
        return leaderboard.build(place.records, place.leaderboard)


def verify(
    dataset: FmcsDataset | PathLike,
    *,
    recompute: int = 0,
    seed: int = 0,
    workspace: PathLike | None = None,
    data_dir: PathLike | None = None,
    image_source: str | None = None,
    stream_images: bool | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> Report:
    """Check every file, array and stage of an FMCS dataset; the report lists all faults.

    Args:
        dataset: opened, or a name or path.
        recompute: also compute so many maps of every run and stage again, from the images and the stored checkpoints.
        seed: of the draw of these maps.
        workspace: see ``default_workspace``.
        data_dir: folder with the files of the image dataset; ``FMCS_BENCH_DATA`` where it is None.
        image_source: ``folder:DIR`` or ``hub:NAME_OR_PATH`` that the dataset was built from, for ``recompute``.
        stream_images: as for ``build``.
        device: ``auto`` (CUDA where torch has it), ``cpu``, ``cuda``, ...
        progress: shows the work; silent by default.

    Raises:
        FmcsBenchError: wrong use; see ``fmcs_bench.verification.verify``. A fault of the dataset raises nothing.
    """
    path = dataset.path if isinstance(dataset, FmcsDataset) else _dataset_path(_workspace(workspace), dataset)
    return verification.verify(
        path,
        recompute=recompute,
        data_dir=_data_dir(data_dir),
        image_source=image_source,
        stream_images=stream_images,
        device=device,
        seed=seed,
        progress=progress,
    )


def plot_runs(dataset: FmcsDataset, folder: PathLike) -> list[Path]:
    """Draw loss, CQI, stages and validation accuracy of every run; returns the files, ``run-<seed>.svg``.

    Args:
        dataset: opened for reading.
        folder: where the files go.
    """
    written = []
    rule = dataset.manifest.config.convergence
    for run in dataset.manifest.runs:
        run_file = dataset.run_file(run.seed)
        found = convergence.analyse(run_file.run.losses, run_file.run.steps_per_epoch, rule)
        figure = plots.trajectory_figure(
            losses=np.asarray(run_file.run.losses),
            smoothed=found.smoothed_T,
            cqi=np.asarray(run_file.cqi),
            checkpoint_steps=np.array([checkpoint.step for checkpoint in run_file.run.checkpoints]),
            checkpoint_accuracy=np.array([checkpoint.validation_accuracy for checkpoint in run_file.run.checkpoints]),
            marker_steps=np.array([stage.step for stage in run_file.stages]),
            threshold=rule.threshold,
            convergence_step=run_file.convergence_step,
            steps_per_epoch=run_file.run.steps_per_epoch,
        )
        written.append(Path(folder) / f"{schema.run_group(run.seed)}.svg")
        plots.save(figure, written[-1])
    return written


def find_dataset(workspace: Workspace, dataset: FmcsDataset | PathLike) -> FmcsDataset:
    """A dataset by its name in the workspace, by its path or by its URL.

    Raises:
        MissingDataError: neither; the message has the nearest names.
    """
    if isinstance(dataset, FmcsDataset):
        return dataset
    if is_url(dataset):
        return open_dataset(os.fspath(dataset))
    return open_dataset(_dataset_path(workspace, dataset))


def _dataset_path(workspace: Workspace, dataset: PathLike) -> Path:
    for path in (workspace.dataset(str(dataset)), Path(dataset)):
        if path.is_dir():
            return path
    known = sorted(path.name for path in workspace.datasets.glob("*") if path.is_dir())
    close = difflib.get_close_matches(str(dataset), known, n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else f"it holds: {', '.join(known) or 'none'}"
    raise MissingDataError(f"there is no FMCS dataset {dataset} in {workspace.datasets}, nor a folder; {hint}")


def only_dataset(workspace: Workspace) -> FmcsDataset:
    """The workspace's only finished dataset.

    Raises:
        MissingDataError: there is none.
        ConfigError: there are several; nothing guesses which is meant.
    """
    found = all_datasets(workspace)
    if len(found) > 1:
        names = ", ".join(dataset.manifest.name for dataset in found)
        raise ConfigError(f"{workspace.datasets} holds several datasets ({names}); name the one to train on")
    return found[0]


def unfinished(workspace: Workspace) -> list[str]:
    """Names of the datasets of the workspace whose build was not finished."""
    return sorted(p.name for p in workspace.datasets.glob("*") if p.is_dir() and not (p / schema.MANIFEST).exists())


def _workspace(workspace: PathLike | None) -> Workspace:
    return Workspace(os.fspath(workspace) if workspace is not None else default_workspace())


def _data_dir(data_dir: PathLike | None) -> Path | None:
    value = data_dir if data_dir is not None else os.environ.get("FMCS_BENCH_DATA")
    return Path(value) if value else None
