import numpy as np
import pytest
import torch

from fmcs_bench.core.errors import ConfigError, DatasetError
from fmcs_bench.evaluators.heads import HEADS, coral_loss, corn_loss
from fmcs_bench.evaluators.network import NetworkEvaluator
from fmcs_bench.evaluators.registry import EVALUATORS, create_evaluator, parse_evaluators
from fmcs_bench.results.trials import EvaluatorTrial
from fmcs_bench.testing.conformance import tiny_map_set
from fmcs_bench.training.recipes import Recipe

ORDINAL = pytest.mark.parametrize("head", ["corn", "coral"])
ALL_HEADS = pytest.mark.parametrize("head", list(HEADS))
NETWORKS = [name for name, kind in EVALUATORS._own.items() if issubclass(kind, NetworkEvaluator)]


def logits_of(head, num_stages, factor=1.0, num_maps=50):
    made = HEADS[head](num_stages)
    outputs = torch.randn(num_maps, made.num_outputs, generator=torch.Generator().manual_seed(0)) * factor
    return made, made(outputs)


@ALL_HEADS
@pytest.mark.parametrize("num_stages", [2, 3, 9, 99])
@pytest.mark.parametrize("factor", [0, 1, 30, 1e5])
def test_probabilities_are_positive_and_sum_to_1(head, num_stages, factor):
    made, logits = logits_of(head, num_stages, factor)
    log_probs = made.log_probs(logits)
    assert log_probs.shape == (50, num_stages)
    assert log_probs.isfinite().all()
    torch.testing.assert_close(log_probs.double().exp().sum(dim=1), torch.ones(50).double(), atol=2e-5, rtol=0)
    torch.testing.assert_close(made.probs(logits), log_probs.exp())


def test_corn_multiplies_conditional_probabilities():
    made, logits = logits_of("corn", 4)
    above = logits.double().sigmoid()
    expected = torch.stack(
        [1 - above[:, 0], above[:, 0] * (1 - above[:, 1]), above[:, 0] * above[:, 1] * (1 - above[:, 2]),
         above.prod(dim=1)], dim=1)  # fmt: skip
    torch.testing.assert_close(made.log_probs(logits).exp().double(), expected, atol=1e-6, rtol=0)


def test_coral_subtracts_cumulative_probabilities():
    made, logits = logits_of("coral", 4)
    above = logits.double().sigmoid()
    padded = torch.cat([torch.ones(50, 1).double(), above, torch.zeros(50, 1).double()], dim=1)
    torch.testing.assert_close(made.log_probs(logits).exp().double(), padded[:, :-1] - padded[:, 1:], atol=1e-6, rtol=0)


@pytest.mark.parametrize("value", [-100.0, 0.0, 100.0])
def test_coral_is_monotone_whatever_its_values(value):
    made = HEADS["coral"](7)
    with torch.no_grad():
        made.raw_gaps.fill_(value)
    logits = made(torch.linspace(-5, 5, 11)[:, None])
    assert (logits.diff(dim=1) < 0).all()
    assert made.log_probs(logits).isfinite().all()


@pytest.mark.parametrize("num_stages", [2, 4, 9])
def test_losses_are_those_of_the_authors_code(num_stages):
    losses = pytest.importorskip("coral_pytorch.losses")
    levels = pytest.importorskip("coral_pytorch.dataset").levels_from_labelbatch
    generator = torch.Generator().manual_seed(num_stages)
    for factor in (1, 20):
        logits = torch.randn(64, num_stages - 1, generator=generator) * factor
        stages = torch.randint(num_stages, (64,), generator=generator)
        torch.testing.assert_close(corn_loss(logits, stages), losses.corn_loss(logits, stages, num_stages))
        torch.testing.assert_close(
            coral_loss(logits, stages), losses.coral_loss(logits, levels(stages, num_classes=num_stages))
        )


def test_coral_starts_from_the_authors_biases():
    layers = pytest.importorskip("coral_pytorch.layers")
    theirs = layers.CoralLayer(size_in=3, num_classes=7).coral_bias
    torch.testing.assert_close(HEADS["coral"](7)(torch.zeros(1, 1))[0], theirs)


@ORDINAL
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_takes_every_head(name, head):
    train, validation = tiny_map_set(0), tiny_map_set(1)
    recipe = Recipe(lr=0.01, batch_size=32)
    config = EvaluatorTrial(evaluator=name, seed=0, epochs=3, recipe=recipe, head=head)
    evaluator = create_evaluator(config, (6, 5, 4), 4)
    curve = evaluator.fit(train, validation)
    assert curve[-1].train_loss < curve[0].train_loss
    np.testing.assert_allclose(evaluator.predict_proba(train.maps_MDHW).sum(axis=1), 1, atol=1e-5)


def test_weights_of_another_head_are_refused():
    softmax, coral = (
        create_evaluator(EvaluatorTrial(evaluator="norm", seed=0, head=head), (6, 5, 4), 4)
        for head in ("softmax", "coral")
    )
    with pytest.raises(DatasetError, match=r"no weights of the evaluator norm\+coral"):
        coral.from_bytes(softmax.to_bytes())


# ---- names of fits


def test_the_head_is_part_of_the_fit_s_name_and_softmax_of_none():
    plain = EvaluatorTrial(evaluator="conv", seed=0)
    corn = EvaluatorTrial(evaluator="conv", seed=0, head="corn")
    assert (plain.method, corn.method) == ("conv", "conv+corn")
    assert plain.settings == corn.settings == "12ep-199dc323"  # that of committed records
    assert plain.digest != corn.digest
    assert "head" not in plain.to_json()
    assert "code" not in plain.to_json()
    assert EvaluatorTrial.from_json(corn.to_json()) == corn


def test_typed_names_become_fits():
    assert parse_evaluators([]) == [
        *((name, "softmax", "true") for name in EVALUATORS),
        ("conv", "softmax", "permuted"),
    ]
    assert parse_evaluators([], "corn") == [
        *((name, "corn", "true") for name in NETWORKS),
        ("conv", "corn", "permuted"),
    ]
    assert parse_evaluators(["conv", "conv+corn", "conv", "set+softmax"], "coral") == [
        ("conv", "coral", "true"), ("conv", "corn", "true"), ("set", "softmax", "true"),
    ]  # fmt: skip
    with pytest.raises(ConfigError, match=r"unknown head 'korn' in 'conv\+korn'; did you mean corn"):
        parse_evaluators(["conv+korn"])
    with pytest.raises(ConfigError, match="unknown head 'cora'; did you mean coral"):
        parse_evaluators(["conv"], "cora")
    with pytest.raises(ConfigError, match=r"boosting .*no head 'corn'"):
        parse_evaluators(["boosting"], "corn")
