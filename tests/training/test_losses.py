import numpy as np
import pytest
import torch
from helpers.small_training import frozen_evaluator
from torch.nn import functional as F  # noqa: N812

from fmcs_bench.backbones import dueheadnet
from fmcs_bench.backbones.create import create_backbone
from fmcs_bench.training.losses import Objective, cosine_constraint, fmcs_loss, ral
from fmcs_bench.training.methods import Method

IMAGES = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3, 4, 5])


def loss_and_gradients(method, *, evaluator=None, seed=0):
    model = network(method, seed)
    model.train()
    loss = Objective(method, evaluator)(model, IMAGES, LABELS)
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters()}


def network(method, seed=0):
    if method.network == "single":
        return create_backbone("smallcnn", 10, seed=seed)
    return dueheadnet.create("smallcnn", 10, fusion=method.fusion, image_size=16, seed=seed)


def test_fmcs_loss_is_cross_entropy_against_the_last_stage():
    logits_BK = np.random.default_rng(0).normal(size=(5, 7))
    probs_BK = np.exp(logits_BK) / np.exp(logits_BK).sum(axis=1, keepdims=True)
    target_BK = np.zeros((5, 7))
    target_BK[:, 6] = 1
    expected = -(target_BK * np.log(probs_BK)).sum(axis=1).mean()  # eq. (4), written out
    assert float(fmcs_loss(torch.from_numpy(logits_BK).log_softmax(dim=1))) == pytest.approx(expected, rel=1e-12)


def test_ral_weighs_value_and_gradient_with_raf_as_one_minus_alpha():
    alpha = 0.3
    x = torch.tensor(2.0, requires_grad=True)
    base, fmcs = x**2, 5 * x
    mixed = ral(base, fmcs, raf=1 - alpha)
    mixed.backward()
    assert float(mixed.detach()) == pytest.approx((1 - alpha) * 4 + alpha * 10)
    assert float(x.grad) == pytest.approx((1 - alpha) * 4 + alpha * 5)


def test_raf_one_is_the_baseline_bit_for_bit_and_never_calls_the_evaluator():
    def refuse(_maps):
        raise AssertionError("the evaluator was called")

    loss, gradients = loss_and_gradients(Method(raf=1.0), evaluator=refuse)
    plain = create_backbone("smallcnn", 10, seed=0).train()
    expected = F.cross_entropy(plain(IMAGES), LABELS)
    expected.backward()
    assert torch.equal(loss, expected.detach())
    for name, parameter in plain.named_parameters():
        assert torch.equal(gradients[name], parameter.grad)


def test_raf_zero_leaves_the_classifier_untouched():
    _, gradients = loss_and_gradients(Method(raf=0.0), evaluator=frozen_evaluator().log_probs)
    assert gradients["head.weight"] is None
    assert gradients["head.bias"] is None
    assert gradients["body.0.0.weight"].abs().sum() > 0


@pytest.mark.parametrize("name", ["conv", "set", "norm"])
def test_the_frozen_evaluator_never_changes_and_passes_gradients_on(name):
    evaluator = frozen_evaluator(name=name)
    before = {key: value.clone() for key, value in evaluator.network.state_dict().items()}
    model = create_backbone("smallcnn", 10, seed=0).train()
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        Objective(Method(raf=0.0), evaluator.log_probs)(model, IMAGES, LABELS).backward()
        assert model.body[0][0].weight.grad.abs().sum() > 0
        optimizer.step()
    assert not any(module.training for module in evaluator.network.modules())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in evaluator.network.parameters())
    for key, value in evaluator.network.state_dict().items():
        assert torch.equal(value, before[key]), f"{key} changed (running statistics of batch norm, perhaps)"


def test_cosine_constraint_equals_numpy():
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=(2, 3, 5, 4, 4))
    cosines = [
        [(a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()) for a, b in zip(image_a, image_b, strict=True)]
        for image_a, image_b in zip(first, second, strict=True)
    ]
    mean = np.mean(cosines)
    a, b = torch.from_numpy(first), torch.from_numpy(second)
    assert float(cosine_constraint(a, b, "diversify")) == pytest.approx(mean)
    assert float(cosine_constraint(a, b, "align")) == pytest.approx(1 - mean)


def test_label_smoothing_equals_its_formula():
    model = network(Method()).eval()
    logits = model(IMAGES).detach().double().numpy()
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    target = np.full((6, 10), 0.1 / 10)
    target[np.arange(6), LABELS] += 0.9
    loss = Objective(Method(label_smoothing=0.1))(model, IMAGES, LABELS)
    assert float(loss.detach()) == pytest.approx(-(target * log_probs).sum(axis=1).mean(), rel=1e-5)


@pytest.mark.parametrize("fusion", ["add", "concat"])
@pytest.mark.parametrize("constraint", ["none", "align", "diversify"])
def test_dueheadnet_loss_is_cross_entropy_plus_constraint(fusion, constraint):
    method = Method(network="dueheadnet", fusion=fusion, constraint=constraint, constraint_weight=0.5)
    model = network(method).eval()  # eval: concat's dropout would make two passes differ
    first, second = (maps.detach().double().numpy() for maps in model.heads(IMAGES))
    fused = first + second if fusion == "add" else np.concatenate([first, second], axis=1)
    torch.testing.assert_close(model.features(IMAGES).detach().double(), torch.from_numpy(fused))
    logits = model.classify(torch.from_numpy(fused).float()).detach().double().numpy()
    expected = np.mean([np.log(np.exp(row).sum()) - row[label] for row, label in zip(logits, LABELS, strict=True)])
    norm = np.linalg.norm(first.reshape(6, 64, -1), axis=2) * np.linalg.norm(second.reshape(6, 64, -1), axis=2)
    dot = (first * second).reshape(6, 64, -1).sum(axis=2)
    cosine = np.divide(dot, norm, out=np.zeros_like(dot), where=norm > 0).mean()
    expected += {"none": 0, "align": 0.5 * (1 - cosine), "diversify": 0.5 * cosine}[constraint]
    loss = Objective(method)(model, IMAGES, LABELS)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)


def test_ral_on_concat_scores_each_head_and_on_add_the_sum():
    evaluator = frozen_evaluator()
    for fusion in ("add", "concat"):
        method = Method(network="dueheadnet", fusion=fusion, raf=0.0)
        model = network(method).eval()
        first, second = model.heads(IMAGES)
        scored = [first + second] if fusion == "add" else [first, second]
        expected = np.mean([float(-evaluator.log_probs(maps.detach())[:, -1].mean()) for maps in scored])
        assert float(Objective(method, evaluator.log_probs)(model, IMAGES, LABELS).detach()) == pytest.approx(
            expected, rel=1e-6
        )


def test_raf_below_one_without_an_evaluator_is_refused():
    with pytest.raises(ValueError, match=r"RAF = 0\.9 needs an evaluator"):
        Objective(Method(raf=0.9))
