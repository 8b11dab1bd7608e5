"""Every evaluator of ours keeps the contract, by the suite that third parties run."""

from fmcs_bench.evaluators.base import REGISTRY
from fmcs_bench.testing.conformance import EvaluatorConformance


class TestChance(EvaluatorConformance):
    evaluator = REGISTRY["chance"]


class TestNorm(EvaluatorConformance):
    evaluator = REGISTRY["norm"]


class TestMoments(EvaluatorConformance):
    evaluator = REGISTRY["moments"]


class TestLinear(EvaluatorConformance):
    evaluator = REGISTRY["linear"]


class TestMlp(EvaluatorConformance):
    evaluator = REGISTRY["mlp"]


class TestConv(EvaluatorConformance):
    evaluator = REGISTRY["conv"]


class TestResNet(EvaluatorConformance):
    evaluator = REGISTRY["resnet"]


class TestAttention(EvaluatorConformance):
    evaluator = REGISTRY["attention"]


class TestSet(EvaluatorConformance):
    evaluator = REGISTRY["set"]


class TestSpectrum(EvaluatorConformance):
    evaluator = REGISTRY["spectrum"]


class TestInvariants(EvaluatorConformance):
    evaluator = REGISTRY["invariants"]


class TestLogistic(EvaluatorConformance):
    evaluator = REGISTRY["logistic"]


class TestBoosting(EvaluatorConformance):
    evaluator = REGISTRY["boosting"]


class TestConvCorn(EvaluatorConformance):
    evaluator = REGISTRY["conv"]
    head = "corn"


class TestSetCoral(EvaluatorConformance):
    evaluator = REGISTRY["set"]
    head = "coral"


class TestBoostingOfTwoStages(EvaluatorConformance):
    evaluator = REGISTRY["boosting"]
    num_stages = 2


class TestLogisticOfTwoStages(EvaluatorConformance):
    evaluator = REGISTRY["logistic"]
    num_stages = 2


class TestSpectrumOfMoreChannelsThanPositions(EvaluatorConformance):
    evaluator = REGISTRY["spectrum"]
    map_shape = (24, 3, 3)


class TestInvariantsOfMoreChannelsThanPositions(EvaluatorConformance):
    evaluator = REGISTRY["invariants"]
    map_shape = (24, 3, 3)


def test_every_evaluator_of_ours_is_here():
    tested = {kind.evaluator.name for name, kind in globals().items() if name.startswith("Test")}
    assert tested == set(REGISTRY._own)
