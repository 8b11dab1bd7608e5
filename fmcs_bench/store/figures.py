"""A picture of every run of a dataset.

Flow: trajectory file -> loss, CQI, stages and validation accuracy as one figure -> ``run-<seed>.svg`` or ``.png``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.figure import Figure

from fmcs_bench import convergence, plots
from fmcs_bench.config import ConvergenceRule
from fmcs_bench.store import schema
from fmcs_bench.store.reader import FmcsDataset


def run_figure(run_file: schema.RunFile, rule: ConvergenceRule) -> Figure:
    """Loss with its stages, CQI with the convergence point, validation accuracy at all checkpoints.

    Args:
        run_file: of the run.
        rule: by which the stages were found.
    """
    found = convergence.analyse(run_file.run.losses, run_file.run.steps_per_epoch, rule)
    return plots.trajectory_figure(
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


def draw_runs(dataset: FmcsDataset, folder: Path, kind: Literal["svg", "png"], *, dpi: int = 200) -> list[Path]:
    """Draw every run; the same dataset gives the same bytes.

    Args:
        dataset: opened for reading.
        folder: where the files go.
        kind: of the files.
        dpi: dots per inch; PNG only.

    Returns:
        Their paths, ``run-<seed>.<kind>``, in the order of the runs.
    """
    written = []
    for run in dataset.manifest.runs:
        written.append(folder / f"{schema.run_group(run.seed)}.{kind}")
        plots.save(run_figure(dataset.run_file(run.seed), dataset.manifest.config.convergence), written[-1], dpi=dpi)
    return written
