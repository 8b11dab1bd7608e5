"""The road as Python functions; each does what the command of its name does and returns an object that prints.

What takes a second to import, as statistics and figures do, is imported where it is needed: many only read maps. That
is also why ``train``, ``explain`` and ``load`` are not here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fmcs_bench.build import recompute as verification
from fmcs_bench.core.progress import SILENT, Progress
from fmcs_bench.core.workspace import PathLike
from fmcs_bench.jobs.local import Engine
from fmcs_bench.jobs.options import Execution
from fmcs_bench.jobs.ray import engine_of
from fmcs_bench.results.trials import GridValue, Head
from fmcs_bench.store.location import Location
from fmcs_bench.store.reader import FmcsDataset, open_dataset
from fmcs_bench.store.resolve import (
    all_datasets,
    dataset_location,
    find_dataset,
    find_datasets,
    image_folder,
    workspace_at,
)
from fmcs_bench.store.verify import Report
from fmcs_bench.training.loop import choose_device
from fmcs_bench.training.methods import NUM_SEEDS

if TYPE_CHECKING:
    from fmcs_bench.evaluators.base import Evaluator
    from fmcs_bench.hub.publish import Published
    from fmcs_bench.results.evaluator_board import EvaluatorBoard
    from fmcs_bench.results.records import EvaluatorRecord


def open(  # noqa: A001  (as zarr.open and PIL.Image.open are)
    path: PathLike, *, storage_options: Mapping[str, Any] | None = None
) -> FmcsDataset:
    """Open a finished FMCS dataset for reading.

    Args:
        path: its folder, or a URL of a protocol that fsspec knows, such as ``hf://datasets/owner/name``.
        storage_options: of a URL, for the package of its protocol, as ``{"anon": True}`` for a public bucket; what is
            left out comes from the environment, see docs/scale.md.

    Raises:
        ConfigError: the URL's protocol is unknown or needs a package, or options were given for a folder.
        MissingDataError: there is no such folder.
        DatasetError: it is unfinished, damaged, or of another schema, or the place cannot be reached.
    """
    return open_dataset(Location(os.fspath(path), storage_options))


def evaluate(
    datasets: FmcsDataset | PathLike | Iterable[FmcsDataset | PathLike] | None = None,
    *,
    evaluators: Sequence[str] = (),
    head: Head = "softmax",
    seeds: int = NUM_SEEDS,
    limit: int | None = None,
    test_limit: int | None = None,
    grid: Mapping[str, Sequence[GridValue]] | None = None,
    test_on: FmcsDataset | PathLike | Iterable[FmcsDataset | PathLike] = (),
    workspace: PathLike | None = None,
    device: str = "auto",
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    unit_cpus: int | None = None,
    unit_gpus: float | None = None,
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
        test_limit: at most this many in every split but train; None is as ``limit`` says.
        grid: values of fields of ``EvaluatorTrial.recipe`` to try, as ``{"lr": [1e-3, 3e-4]}``, at most 12
            combinations; of each fit the best on the validation run is tested, and the record lists all.
        test_on: other datasets, opened, or names or paths: the fits are tested on their test runs too, as they are.
        workspace: see ``Workspace``.
        device: ``auto`` (CUDA where torch has it), ``cpu``, ``cuda``, ...
        engine: ``local``, or ``ray``: fits at the same time, on one machine or many; see ``fmcs_bench.jobs.ray``.
        address: of a Ray cluster, ``HOST:PORT`` or ``auto``; None is a Ray of this machine alone.
        unit_cpus: with Ray, CPUs and threads of each fit; None is 1.
        unit_gpus: with Ray, GPUs of each fit, or a share of one; None is 1 on CUDA, else 0.
        progress: shows the work; silent by default.

    Raises:
        UnitsFailedError: some evaluators failed; everything else is done, and its boards are the error's ``finished``.
        FmcsBenchError: see ``fmcs_bench.evaluator_track.runner.evaluate_dataset``.
    """
    from fmcs_bench.evaluator_track.runner import evaluate_datasets

    place = workspace_at(workspace)
    opened = all_datasets(place) if datasets is None else find_datasets(place, datasets)
    others = find_datasets(place, test_on)
    typed = {"engine": engine, "address": address, "unit_cpus": unit_cpus, "unit_gpus": unit_gpus}
    chosen = engine_of(Execution.take(typed))

    def work(worker: Engine) -> list[EvaluatorBoard]:
        with place.locked():
            return evaluate_datasets(
                opened,
                place,
                evaluator_names=evaluators,
                head=head,
                num_seeds=seeds,
                limit=limit,
                test_limit=test_limit,
                grid=grid,
                test_on=others,
                device=device,
                progress=progress,
                engine=worker,
            )

    with chosen as worker:
        return work(worker)


def load_evaluator(
    place: PathLike | EvaluatorRecord | None = None,
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
        place: folder of one fit, or its record (``row.records`` of a board); None looks it up by the names.
        dataset: that it was fitted on: opened, its name, or its id where the workspace has several versions.
        evaluator: its name on the board, such as ``set`` or ``conv+corn``, or ``FILE.py:Class``, which runs that file.
        seed: of the fit.
        settings: of the fit; only needed where there are fits with several.
        workspace: where it was made; see ``Workspace``. A folder needs none.
        device: ``auto`` (CUDA where torch has it), ``cpu``, ``cuda``, ...

    Raises:
        MissingDataError: there is no such fit; the message says which there are.
        ConfigError: nothing or too little was named, or the evaluator is a plug-in that is not here or was changed.
        DatasetError: its files are damaged.
    """
    from fmcs_bench.evaluator_track import selection

    return selection.load_evaluator(
        workspace_at(workspace),
        place,
        dataset=dataset.id if isinstance(dataset, FmcsDataset) else dataset,
        evaluator=evaluator,
        seed=seed,
        settings=settings,
        device=choose_device(device),
    )


def publish(
    dataset: FmcsDataset | PathLike,
    *,
    to: PathLike | None = None,
    repo: str | None = None,
    public: bool = False,
    kinds: Iterable[str] | None = None,
    runs: Iterable[int] | None = None,
    stages: Iterable[int] | None = None,
    splits: Iterable[str] | None = None,
    superseded_by: str | None = None,
    fidelity: PathLike | None = None,
    workspace: PathLike | None = None,
    agree: Callable[[str], bool] | None = None,
    progress: Progress = SILENT,
) -> Published:
    """Make a Hugging Face dataset repository of an FMCS dataset, in a folder, on the Hub or at a URL such as a bucket.

    Args:
        dataset: opened, or a name or path.
        to: the folder or URL; new, empty, or an earlier publication of the same. With a URL, or ``repo`` alone, the
            folder lies in the workspace.
        repo: ``owner/name`` on the Hub; private unless ``public``.
        public: let everyone see the repository, once everything is there.
        kinds: ``maps``, ``parquet``, ``checkpoints``; None is all.
        runs: seeds; None is every run.
        stages: FMCS, 1 .. K; None is every stage.
        splits: ``train``, ``validation``, ``test``, ``unseen``; None is every split.
        superseded_by: repository or URL of the version to use instead; a notice is shown to whoever opens this one.
        fidelity: file with the line of ``benchmarks/fidelity.py`` about this dataset; its card shows it.
        workspace: see ``Workspace``.
        agree: asked before anything is sent, with what is about to be sent; None sends.
        progress: shows the work; silent by default.

    Raises:
        FmcsBenchError: see ``fmcs_bench.hub.publish`` and ``fmcs_bench.hub.upload``.
    """
    from fmcs_bench.hub import publish as publishing

    place = workspace_at(workspace)
    return publishing.publish(
        find_dataset(place, dataset),
        place,
        to=None if to is None else Location(os.fspath(to)),
        repo=repo,
        public=public,
        wanted={"kinds": kinds, "runs": runs, "stages": stages, "splits": splits},
        superseded_by=superseded_by,
        fidelity=None if fidelity is None else Path(fidelity),
        agree=agree,
        progress=progress,
    )


def build_leaderboard(*, workspace: PathLike | None = None, root: PathLike | None = None) -> Path:
    """Make the page of all records of the workspace; returns the path of its ``index.html``.

    Args:
        workspace: with ``records/``; the page goes to ``leaderboard/`` there.
        root: another folder with ``records/``, and perhaps ``claims/``; the page goes into it, and data cards are those
            in ``data_cards/`` beside it.

    Raises:
        MissingDataError: there is no record yet.
        LeftOutError: the page is made, and its path is the error's ``page``, but some records are not valid.
    """
    from fmcs_bench.leaderboard import build as leaderboard

    if root is not None:
        folder = Path(root)
        return leaderboard.build(folder / "records", folder, datasets=[folder.resolve().parent / "data_cards"])
    place = workspace_at(workspace)
    with place.locked():
        return leaderboard.build(place.records, place.leaderboard, datasets=[place.datasets])


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
        workspace: see ``Workspace``.
        data_dir: folder with the files of the image dataset; ``FMCS_BENCH_DATA`` where it is None.
        image_source: ``folder:DIR`` or ``hub:NAME_OR_PATH`` that the dataset was built from, for ``recompute``.
        stream_images: as for ``build``.
        device: ``auto`` (CUDA where torch has it), ``cpu``, ``cuda``, ...
        progress: shows the work; silent by default.

    Raises:
        FmcsBenchError: wrong use; see ``fmcs_bench.build.recompute.verify``. A fault of the dataset raises nothing.
    """
    where = dataset_location(workspace_at(workspace), dataset)
    return verification.verify(
        where,
        recompute=recompute,
        data_dir=image_folder(data_dir),
        image_source=image_source,
        stream_images=stream_images,
        device=device,
        seed=seed,
        progress=progress,
    )
