"""Two real processes (gloo, CPU) train as one does."""

import itertools
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import subprocess_environment
from torch import nn

from fmcs_bench.core.errors import ConfigError
from fmcs_bench.processes import Processes
from fmcs_bench.training.augmentation import Augmentation
from fmcs_bench.training.loop import Batches, fit, predict
from fmcs_bench.training.recipes import Recipe

pytestmark = pytest.mark.xdist_group("processes")  # two processes start once, not once in every process of the tests

NUM, EPOCHS = 53, 3
RECIPE = Recipe(optimizer="sgd", lr=0.05, weight_decay=1e-3, batch_size=16, augmentation="crop-flip")
PARALLEL = {"rtol": 1e-4, "atol": 1e-5}
"""Float32 sums in another order, over 12 steps."""


class Net(nn.Module):
    """With a layer that nothing uses, as a classifier with RAF = 0."""

    def __init__(self, *, batch_norm=False):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Conv2d(3, 8, 3, stride=2)
            self.norm = nn.BatchNorm2d(8) if batch_norm else nn.Identity()
            self.head = nn.Linear(8, 10)
            self.unused = nn.Linear(8, 10)

    def forward(self, x):
        return self.head(torch.tanh(self.norm(self.body(x))).mean(dim=(2, 3)))


def data():
    """The targets are row numbers, so that a loss knows which examples it sees."""
    inputs = torch.randn(NUM, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return Batches(inputs, torch.arange(NUM), lambda x: x)


def cross_entropy(model, inputs, rows_B):
    return nn.functional.cross_entropy(model(inputs), rows_B % 10)


def train(seen=None, stop_at=None, *, batch_norm=False, recipe=RECIPE, **options):
    """A training; ``seen`` gets the rows of every step, and ``stop_at`` is the number of steps after which it ends."""
    model, batches, calls = Net(batch_norm=batch_norm), data(), []

    def loss(model, inputs, rows_B):
        calls.append(rows_B.tolist())
        if seen is not None:
            seen.append(rows_B.tolist())
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        return nn.functional.cross_entropy(model(inputs), rows_B % 10)

    def after_epoch(epoch, mean):
        score = [0.3, 0.8, 0.8][epoch - 1]  # the second is the first of the best
        answers = predict(model, batches).argmax(dim=1)
        return {"loss": mean, "score": score, "right": int((answers == batches.targets_N % 10).sum())}

    after_step = options.pop("after_step", lambda step: {"step": step} if step % 5 == 0 else None)
    history = fit(
        model, batches, loss, recipe, epochs=EPOCHS, seed=4, best_by="score", after_step=after_step,
        after_epoch=after_epoch, **options,
    )  # fmt: skip
    return model, history


SCRIPT = """
import json, sys
from dataclasses import asdict
from pathlib import Path
import torch
sys.path.insert(0, {tests!r})
from test_processes import RECIPE, Recipe, train, predict, data
from fmcs_bench import training
from fmcs_bench.errors import ConfigError, DivergedError
from fmcs_bench.training import fit
from test_processes import Net, cross_entropy
torch.set_num_threads(1)
training.SECONDS_BETWEEN_STATES = 0.0
folder, rank = Path(sys.argv[1]), int(sys.argv[2])
answer = {{"seen": [], "called": []}}

model, history = train(answer["seen"], after_step=lambda step: answer["called"].append(step))
answer["history"] = asdict(history)
torch.save(model.state_dict(), folder / f"weights-{{rank}}.pt")
torch.save(predict(model, data(), batch_size=7), folder / f"outputs-{{rank}}.pt")

state = folder / f"states-{{rank}}" / "state.pt"
try:
    train(stop_at=6, state_path=state)  # in the second epoch of four steps each
except KeyboardInterrupt:
    answer["states"] = state.exists()
resumed = []
again, history = train(resumed, state_path=state)
answer["resumed_steps"] = len(resumed)
answer["resumed_equal"] = all(a.equal(b) for a, b in zip(model.state_dict().values(), again.state_dict().values()))
answer["resumed_losses"] = history.losses
answer["states_left"] = [path.name for path in state.parent.iterdir()] if state.parent.exists() else []

normed, history = train(batch_norm=True)
torch.save(normed.state_dict(), folder / f"normed-{{rank}}.pt")
try:
    train(recipe=Recipe(batch_size=3))
except ConfigError as error:
    answer["error"] = str(error)


def refuse(error):
    def after_epoch(epoch, mean):
        raise error
    return after_epoch

answer["raised"] = []
for error in (DivergedError("of the main process", 1), ZeroDivisionError("of a plug-in")):
    try:
        fit(Net(), data(), cross_entropy, RECIPE, epochs=2, seed=0, after_epoch=refuse(error) if rank == 0 else None)
    except Exception as error:
        answer["raised"].append([type(error).__name__, str(error)])
(folder / f"answer-{{rank}}.json").write_text(json.dumps(answer))
torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Answers of two processes, and the folder with what they wrote."""
    folder = tmp_path_factory.mktemp("two")
    script = folder / "script.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    started = [
        subprocess.Popen(
            [sys.executable, script, folder, str(rank)], stderr=subprocess.PIPE, text=True,
            env=subprocess_environment() | place | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]  # fmt: skip
    errors = [process.communicate(timeout=500)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], errors
    return [json.loads((folder / f"answer-{rank}.json").read_text()) for rank in range(2)], folder


def load(folder, name):
    return [torch.load(folder / f"{name}-{rank}.pt", weights_only=True) for rank in range(2)]


def test_no_example_is_lost_or_doubled_and_the_batches_are_those_of_one_process(two):
    answers, _ = two
    alone = []
    train(alone)
    assert len(alone) == 12
    together = [a + b for a, b in zip(answers[0]["seen"], answers[1]["seen"], strict=True)]
    assert together == alone
    assert sorted(itertools.chain(*together[:4])) == list(range(NUM))
    sizes = {(len(a), len(b)) for a, b in zip(answers[0]["seen"], answers[1]["seen"], strict=True)}
    assert sizes == {(7, 7), (7, 6)}  # unequal shares too


def test_two_processes_end_with_the_weights_and_losses_of_one(two):
    answers, folder = two
    model, history = train(after_step=None)
    first, second = load(folder, "weights")
    for name, value in model.state_dict().items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], value, **PARALLEL)
    assert answers[0]["history"] == answers[1]["history"]
    assert answers[0]["history"]["losses"] == pytest.approx(history.losses, rel=1e-5)
    assert answers[0]["history"]["best_epoch"] == history.best_epoch == 2


def test_predict_is_right_on_each_process(two):
    _, folder = two
    model, _ = train()
    for outputs in load(folder, "outputs"):
        torch.testing.assert_close(outputs, predict(model, data()), **PARALLEL)


def test_only_the_main_process_is_called_and_writes(two):
    answers, _ = two
    assert answers[0]["called"] == list(range(1, 13))
    assert answers[1]["called"] == []
    assert [answer["states"] for answer in answers] == [True, False]
    assert [answer["states_left"] for answer in answers] == [[], []]


def test_two_processes_go_on_where_they_were(two):
    answers, _ = two
    for answer in answers:
        assert answer["resumed_steps"] == 8  # the first epoch was kept
        assert answer["resumed_equal"]
        assert answer["resumed_losses"] == answers[0]["history"]["losses"]


def test_batch_norm_has_equal_statistics_near_those_of_one_process(two):
    first, second = load(two[1], "normed")
    assert all(first[name].equal(second[name]) for name in first)
    alone = train(batch_norm=True)[0].state_dict()
    # Each share is normalised by itself, so this is near and not equal.
    torch.testing.assert_close(first["norm.running_mean"], alone["norm.running_mean"], rtol=0, atol=0.02)
    torch.testing.assert_close(first["norm.running_var"], alone["norm.running_var"], rtol=0.1, atol=0)
    assert not torch.equal(alone["norm.running_mean"], torch.zeros(8))


def test_what_the_main_process_raises_after_an_epoch_is_raised_in_all(two):
    first, second = (answer["raised"] for answer in two[0])
    assert first == [["DivergedError", "of the main process"], ["ZeroDivisionError", "of a plug-in"]]
    assert second == [first[0], ["RuntimeError", "ZeroDivisionError('of a plug-in')"]]


def test_a_batch_that_is_too_small_is_refused_by_all(two):
    for answer in two[0]:
        assert answer["error"].startswith("a batch of 3 examples for 2 processes; each needs 2")
    with pytest.raises(ConfigError, match="a batch of 5 examples for 3 processes"):
        Processes(3, 0).share(torch.arange(5))


def test_an_image_is_augmented_alike_in_every_share():
    images_BCHW = data().inputs
    augment = Augmentation("crop-flip", NUM, seed=3, device=torch.device("cpu"))
    whole = augment(images_BCHW, torch.arange(NUM))
    index_B = Processes(2, 1).share(torch.arange(NUM))
    assert torch.equal(augment(images_BCHW[index_B], index_B), whole[index_B])
