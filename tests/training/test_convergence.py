import numpy as np
import pytest
from scipy.signal import lfilter

from fmcs_bench.core.errors import ConvergenceError
from fmcs_bench.training.convergence import (
    Convergence,
    analyse,
    checkpoint_steps,
    convergence_point,
    cqi,
    smooth,
    stage_markers,
)
from fmcs_bench.training.recipes import ConvergenceRule


def test_smooth_equals_a_recursive_filter():
    losses = np.random.default_rng(0).random(50)
    keep = 0.5 ** (1 / 7)
    expected, _ = lfilter([1 - keep], [1, -keep], losses, zi=[keep * losses[0]])
    np.testing.assert_allclose(smooth(losses, half_life=7), expected, rtol=1e-12)


def test_cqi_equals_the_moving_average_of_differences_written_out():
    smoothed = np.random.default_rng(1).random(30)
    differences = np.diff(smoothed)
    expected = [abs(differences[max(0, i - 4) : i + 1].mean()) for i in range(29)]
    np.testing.assert_allclose(cqi(smoothed, window=5), expected, rtol=1e-9, atol=1e-15)


def test_hand_worked_sequence():
    # Half-life of one step (one epoch of one step), window of one difference: all can be done in the head.
    rule = ConvergenceRule(smoothing_epochs=1.0, window_epochs=1.0, threshold=0.3)
    result = analyse([8.0, 4.0, 2.0, 2.0, 2.0, 2.0, 2.0], steps_per_epoch=1, rule=rule)
    np.testing.assert_allclose(result.smoothed_T, [8, 6, 4, 3, 2.5, 2.25, 2.125])
    np.testing.assert_allclose(result.cqi_T, [2, 2, 1, 0.5, 0.25, 0.125])
    assert result.step == 6  # CQI 0.25 is the difference between steps 5 and 6
    # The fall is 8 - 2.25 = 5.75; thirds of it end at 6.083 and 4.167: steps 2 and 3.
    assert stage_markers(result, [1, 2, 3, 4, 5, 6, 7], 3, "loss") == [2, 3, 6]
    assert stage_markers(result, [1, 2, 3, 4, 5, 6, 7], 3, "epoch") == [2, 4, 6]


def test_cqi_is_per_epoch_whatever_the_batch_size():
    slope = 0.4  # nats per epoch
    rule = ConvergenceRule(smoothing_epochs=0.01, window_epochs=1.0, threshold=100.0)
    for steps_per_epoch in (10, 80):
        losses = 5 - slope * np.arange(5 * steps_per_epoch) / steps_per_epoch
        assert analyse(losses, steps_per_epoch, rule).cqi_T[-1] == pytest.approx(slope, rel=1e-6)


def test_convergence_means_staying_under_the_threshold():
    assert convergence_point([0.1, 0.1, 0.9, 0.1], threshold=0.5) == 5
    assert convergence_point([0.1, 0.1], threshold=0.5) == 2
    with pytest.raises(ConvergenceError, match=r"not converged.*0\.9.*0\.5.*--epochs"):
        convergence_point([0.1, 0.9], threshold=0.5)


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ([2.0] * 20, "does not fall"),
        (list(np.linspace(1, 1.2, 20)), "does not fall"),
        ([1.0], "at least 2 steps"),
        ([2.0, 1.0, float("nan"), 1.0], "step 3 is not finite"),
    ],
    ids=["flat", "rising", "one step", "nan"],
)
def test_sequences_without_stages_are_refused(losses, message):
    with pytest.raises(ConvergenceError, match=message):
        analyse(losses, steps_per_epoch=4, rule=ConvergenceRule(threshold=0.5))


def test_more_stages_than_checkpoints_is_refused():
    run = Convergence(np.linspace(3, 1, 10), np.zeros(9), step=4)
    assert stage_markers(run, [1, 2, 3, 4, 5], 4, "loss") == [1, 2, 3, 4]
    with pytest.raises(ConvergenceError, match=r"K = 5 .* there are 4; lower --stages"):
        stage_markers(run, [1, 2, 3, 4, 5], 5, "loss")


def test_a_loss_that_falls_at_once_still_gives_distinct_increasing_markers():
    smoothed = np.array([4.0, 0.1, 0.09, 0.08, 0.07, 0.06, 0.05, 0.0])
    run = Convergence(smoothed, np.zeros(7), step=8)
    assert stage_markers(run, [1, 2, 3, 4, 5, 6, 7, 8], 4, "loss") == [2, 3, 4, 8]
    late = Convergence(np.array([4.0, 3.9, 3.8, 3.7, 0.0]), np.zeros(4), step=5)
    assert stage_markers(late, [1, 2, 3, 4, 5], 4, "loss") == [2, 3, 4, 5]


def test_markers_are_the_first_checkpoints_past_each_level():
    rng = np.random.default_rng(3)
    for _ in range(20):
        smoothed = np.exp(-np.arange(200) / 40) + 0.01 * rng.random(200)
        run = Convergence(smoothed, np.zeros(199), step=180)
        steps = checkpoint_steps(200, about=80)
        markers = stage_markers(run, steps, 5, "loss")
        end = markers[-1]
        assert end == min(step for step in steps if step >= 180)
        for stage, marker in enumerate(markers[:-1], start=1):
            level = smoothed[0] - stage / 5 * (smoothed[0] - smoothed[end - 1])
            assert marker == min(step for step in steps if smoothed[step - 1] <= level)


def test_checkpoints_are_denser_at_the_start_and_hold_the_last_step():
    steps = checkpoint_steps(1000, about=60)
    assert steps[0] == 1
    assert steps[-1] == 1000
    assert steps == sorted(set(steps))
    assert sum(step <= 100 for step in steps) > sum(900 < step <= 1000 for step in steps)
    assert checkpoint_steps(1, about=60) == [1]
