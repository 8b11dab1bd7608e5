import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import subprocess_environment
from helpers.small_training import cross_entropy, data
from torch.nn import functional as F  # noqa: N812

from fmcs_bench.backbones import dueheadnet
from fmcs_bench.backbones.create import create_backbone
from fmcs_bench.core.errors import ConfigError, DivergedError
from fmcs_bench.training.loop import choose_device, fit, predict
from fmcs_bench.training.recipes import Recipe


def test_every_example_is_seen_once_and_no_batch_is_a_lone_rest():
    batches = data(num=65)
    parts = [targets for _, targets in batches.in_order(torch.randperm(65), 64)]
    assert [len(part) for part in parts] == [33, 32]
    assert torch.cat(parts).sort().values.equal(batches.targets_N.sort().values)


def test_the_order_depends_on_the_seed_alone():
    def seen(model, seed):
        order = []

        def loss(model, inputs, targets):
            order.append(targets.tolist())
            return cross_entropy(model, inputs, targets)

        fit(model, data(), loss, Recipe(batch_size=16), epochs=2, seed=seed)
        return order

    single = seen(create_backbone("smallcnn", 10, seed=0), 5)
    due = seen(dueheadnet.create("smallcnn", 10, fusion="concat", image_size=16, seed=0), 5)
    assert single == due
    assert single[:4] != single[4:]  # another order in the second epoch
    assert single != seen(create_backbone("smallcnn", 10, seed=0), 6)


def test_the_loop_equals_a_bare_pytorch_loop():
    recipe = Recipe(batch_size=25, lr=0.01)
    model = create_backbone("smallcnn", 10, seed=0)
    orders = []

    def loss(model, inputs, targets):
        orders.append(inputs)
        return cross_entropy(model, inputs, targets)

    history = fit(model, data(), loss, recipe, epochs=3, seed=0)
    bare = create_backbone("smallcnn", 10, seed=0).train()
    optimizer = torch.optim.Adam(bare.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=6)
    targets = {tuple(x.flatten()[:3].tolist()): y for x, y in zip(data().inputs, data().targets_N, strict=True)}
    losses = []
    for inputs in orders:
        labels = torch.stack([targets[tuple(x.flatten()[:3].tolist())] for x in inputs])
        optimizer.zero_grad()
        value = F.cross_entropy(bare(inputs), labels)
        value.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(value.detach()))
    assert history.losses == pytest.approx(losses, rel=1e-6)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, bare.state_dict()[name])


def test_the_global_random_state_is_left_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    model = dueheadnet.create("smallcnn", 10, fusion="concat", image_size=16, seed=0)
    fit(model, data(), cross_entropy, Recipe(batch_size=16), epochs=1, seed=0)
    assert torch.equal(torch.rand(3), expected)


def test_nan_stops_the_training_and_names_the_step():
    def loss(model, inputs, targets):
        return cross_entropy(model, inputs, targets) * (float("nan") if 3 in targets else 1.0)

    with pytest.raises(DivergedError, match=r"training loss is nan at step \d of epoch 1"):
        fit(create_backbone("smallcnn", 10, seed=0), data(), loss, Recipe(batch_size=16), epochs=2, seed=0)


SCRIPT = """
import hashlib, json, os, sys
from pathlib import Path
import torch
sys.path.insert(0, {tests!r})
from helpers.small_training import cross_entropy, data
from fmcs_bench.backbones import dueheadnet
from fmcs_bench.training import loop
from fmcs_bench.training.recipes import Recipe
torch.set_num_threads(1)
loop.SECONDS_BETWEEN_STATES = 0.0
kill_after = int(sys.argv[2])
def after_step(step):
    if step == kill_after:
        os.kill(os.getpid(), 9)
model = dueheadnet.create("smallcnn", 10, fusion="concat", image_size=16, seed=0)  # has dropout
scores = [0.1, 0.7, 0.2, 0.7]  # the best epoch lies behind the first kill and before the second
history = loop.fit(
    model, data(), cross_entropy, Recipe(batch_size=16, augmentation="crop-flip"), epochs=4, seed=2,
    state_path=Path(sys.argv[1]), after_step=after_step, best_by="score",
    after_epoch=lambda e, loss: {{"loss": loss, "score": scores[e - 1]}})
assert history.best_epoch == 2
digest = hashlib.sha256(b"".join(v.numpy().tobytes() for v in model.state_dict().values())).hexdigest()
print(json.dumps([digest, history.losses, history.epoch_notes]))
"""


def test_a_killed_training_goes_on_to_the_same_bits(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parents[1])))

    def start(state, kill_after):
        return subprocess.run(
            [sys.executable, script, tmp_path / state, str(kill_after)],
            capture_output=True, text=True, env=subprocess_environment(), check=False,
        )  # fmt: skip

    undisturbed = start("a.pt", 0)
    assert undisturbed.returncode == 0, undisturbed.stderr
    for kill_after in (6, 11):  # in the second and in the third epoch of four steps each
        assert start("b.pt", kill_after).returncode == -9
    assert (tmp_path / "b.pt").exists()
    resumed = start("b.pt", 0)
    assert json.loads(resumed.stdout) == json.loads(undisturbed.stdout)
    assert [path.name for path in tmp_path.iterdir()] == ["script.py"]


def weights_after(epochs, **options):
    """Weights of each epoch and at the end, and the history."""
    model, kept = create_backbone("smallcnn", 10, seed=0), []
    scores = options.pop("scores", None)

    def after_epoch(epoch, loss):
        kept.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"loss": loss} | ({"score": scores[epoch - 1]} if scores else {})

    history = fit(
        model, data(), cross_entropy, Recipe(batch_size=16), epochs=epochs, seed=0, after_epoch=after_epoch, **options
    )
    assert not model.training
    return kept, model.state_dict(), history


def equal(first, second):
    return all(first[name].equal(second[name]) for name in first)


@pytest.mark.parametrize(
    ("scores", "best"), [([0.2, 0.9, 0.9, 0.1], 2), ([0.5, 0.5, 0.5, 0.5], 1), ([-4.0, -3.0, -2.0, -1.0], 4)]
)
def test_the_model_ends_with_the_weights_of_the_first_best_epoch(scores, best):
    kept, final, history = weights_after(4, scores=scores, best_by="score")
    assert history.best_epoch == best
    assert [equal(final, weights) for weights in kept] == [epoch == best for epoch in (1, 2, 3, 4)]
    assert len(history.epoch_notes) == 4


def test_without_best_by_the_last_epoch_stays():
    kept, final, history = weights_after(3)
    assert history.best_epoch is None
    assert equal(final, kept[-1])


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_ends_the_training(score):
    with pytest.raises(DivergedError, match=rf"score is {score} after epoch 2"):
        weights_after(3, scores=[0.5, score, 0.6], best_by="score")


def test_float32_and_bfloat16_trainings_live_in_one_process():
    found = {}
    for turn in range(2):
        for precision in ("float32", "bfloat16"):
            model = create_backbone("smallcnn", 10, seed=0)
            history = fit(model, data(), cross_entropy, Recipe(batch_size=16, precision=precision), epochs=1, seed=0)
            assert all(value.dtype != torch.bfloat16 for value in model.state_dict().values())
            found[turn, precision] = history.losses
    assert found[0, "float32"] == found[1, "float32"]
    assert found[0, "bfloat16"] == found[1, "bfloat16"]
    assert found[0, "float32"] != found[0, "bfloat16"]
    assert found[0, "float32"] == pytest.approx(found[0, "bfloat16"], rel=0.05)


def test_predict_keeps_order_and_leaves_eval_mode():
    model = create_backbone("smallcnn", 10, seed=0)
    batches = data()
    outputs = predict(model, batches, batch_size=7)
    assert not model.training
    with torch.no_grad():
        torch.testing.assert_close(outputs, model(batches.inputs), rtol=1e-4, atol=1e-5)


def test_an_unusable_device_is_an_error_not_a_fallback():
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(ConfigError, match="'nonsense' cannot be used"):
        choose_device("nonsense")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="'cuda' cannot be used"):
            choose_device("cuda")
        assert choose_device("auto").type == "cpu"
