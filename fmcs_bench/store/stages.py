"""A run's loss sequence -> its stages, by the CQI rule. The builder chooses with it, and ``verify`` checks with it."""

from __future__ import annotations

from fmcs_bench.store import schema
from fmcs_bench.store.config import BuildConfig
from fmcs_bench.store.schema import RunFile, Stage
from fmcs_bench.training import convergence
from fmcs_bench.training.trajectory import Run


def choose_stages(run: Run, role: schema.Role, config: BuildConfig) -> RunFile:
    """The trajectory file of a run: its convergence point and the K checkpoints at which its stages end.

    Raises:
        ConvergenceError: the run has no convergence point, or too few checkpoints for K stages.
    """
    found = convergence.analyse(run.losses, run.steps_per_epoch, config.convergence)
    steps_M = [checkpoint.step for checkpoint in run.checkpoints]
    markers = convergence.stage_markers(found, steps_M, config.stages, config.markers)
    progress_T = convergence.progress_along(found, markers[-1], config.markers)
    by_step = {checkpoint.step: checkpoint for checkpoint in run.checkpoints}
    stages = tuple(
        Stage(
            stage=stage,
            step=step,
            epoch=by_step[step].epoch,
            train_loss=float(found.smoothed_T[step - 1]),
            validation_accuracy=by_step[step].validation_accuracy,
            progress=float(progress_T[step - 1]),
        )
        for stage, step in enumerate(markers, start=1)
    )
    cqi = tuple(float(value) for value in found.cqi_T)
    return RunFile(role=role, run=run, cqi=cqi, convergence_step=found.step, stages=stages)
