"""The figure of a training run: loss, CQI, stages and accuracy."""

import numpy as np
import pytest
from matplotlib.text import Annotation

from fmcs_bench.build.figures import run_figure


@pytest.fixture(scope="module")
def run_file(tiny_dataset):
    return tiny_dataset.run_file(0)


@pytest.fixture
def figure(tiny_dataset, run_file):
    found = run_file.model_copy(update={"cqi": (*run_file.cqi[:-1], 0.0)})
    return run_figure(found, tiny_dataset.manifest.config.convergence)


def test_steps_stand_where_their_epochs_are(figure, run_file):
    upper, middle, lower = figure.axes
    run = run_file.run
    raw, smoothed, stages = upper.lines[1:]
    assert raw.get_xdata()[[0, -1]].tolist() == [1 / run.steps_per_epoch, len(run.losses) / run.steps_per_epoch]
    assert stages.get_xdata().tolist() == [stage.step / run.steps_per_epoch for stage in run_file.stages]
    assert np.isin(stages.get_ydata(), smoothed.get_ydata()).all()
    cqi = middle.lines[1]
    assert cqi.get_xdata()[0] == 2 / run.steps_per_epoch
    assert np.isnan(cqi.get_ydata()[-1])  # 0 has no place on a log scale
    assert lower.lines[-1].get_ydata() == pytest.approx([100 * each.validation_accuracy for each in run.checkpoints])


def test_stage_numbers_do_not_lie_over_one_another(figure):
    labels = [item for item in figure.axes[0].texts if isinstance(item, Annotation)]
    places = [label.xyann[0] for label in labels]
    assert [label.get_text() for label in labels] == ["1", "2", "3"]
    assert np.diff(places).min() > 0.02
    assert max(places) <= 1
