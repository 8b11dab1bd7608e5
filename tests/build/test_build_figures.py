"""The figure of a training run: loss, CQI, stages and accuracy."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

from fmcs_bench.build.figures import trajectory_figure


def trajectory() -> Figure:
    steps = np.arange(1, 201)
    return trajectory_figure(
        losses=2.3 * np.exp(-steps / 30) + 0.1,
        smoothed=2.3 * np.exp(-steps / 40) + 0.1,
        cqi=np.where(np.arange(199) == 150, 0.0, np.exp(-np.arange(199) / 25)),
        checkpoint_steps=np.array([1, 10, 50, 100, 200]),
        checkpoint_accuracy=np.array([0.1, 0.4, 0.7, 0.8, 0.9]),
        marker_steps=np.array([2, 4, 7, 50, 100]),
        threshold=0.05,
        convergence_step=95,
        steps_per_epoch=20,
    )


def test_steps_stand_where_their_epochs_are() -> None:
    upper, middle, lower = trajectory().axes
    raw, smoothed, stages = upper.lines[1:]
    assert raw.get_xdata()[[0, -1]].tolist() == [1 / 20, 10]
    assert stages.get_xdata().tolist() == [0.1, 0.2, 0.35, 2.5, 5.0]
    assert np.isin(stages.get_ydata(), smoothed.get_ydata()).all()
    cqi = middle.lines[1]
    assert cqi.get_xdata()[0] == 2 / 20
    assert np.isnan(cqi.get_ydata()[150])  # 0 has no place on a log scale
    assert lower.lines[-1].get_ydata() == pytest.approx([10, 40, 70, 80, 90])


def test_stage_numbers_do_not_lie_over_one_another() -> None:
    labels = [item for item in trajectory().axes[0].texts if isinstance(item, mpl.text.Annotation)]
    places = [label.xyann[0] for label in labels]
    assert [label.get_text() for label in labels] == ["1", "2", "3", "4", "5"]
    assert np.diff(places).min() > 0.02
    assert max(places) <= 1
