"""Every evaluator of ours keeps the contract, by the suite that third parties run."""

from fmcs_bench.evaluators.registry import EVALUATORS
from fmcs_bench.testing.conformance import EvaluatorConformance


class TestChance(EvaluatorConformance):
    evaluator = EVALUATORS["chance"]


class TestNorm(EvaluatorConformance):
    evaluator = EVALUATORS["norm"]


class TestMoments(EvaluatorConformance):
    evaluator = EVALUATORS["moments"]


class TestLinear(EvaluatorConformance):
    evaluator = EVALUATORS["linear"]


class TestMlp(EvaluatorConformance):
    evaluator = EVALUATORS["mlp"]


class TestConv(EvaluatorConformance):
    evaluator = EVALUATORS["conv"]


class TestResNet(EvaluatorConformance):
    evaluator = EVALUATORS["resnet"]


class TestAttention(EvaluatorConformance):
    evaluator = EVALUATORS["attention"]


class TestSet(EvaluatorConformance):
    evaluator = EVALUATORS["set"]


class TestSpectrum(EvaluatorConformance):
    evaluator = EVALUATORS["spectrum"]


class TestInvariants(EvaluatorConformance):
    evaluator = EVALUATORS["invariants"]


class TestLogistic(EvaluatorConformance):
    evaluator = EVALUATORS["logistic"]


class TestBoosting(EvaluatorConformance):
    evaluator = EVALUATORS["boosting"]


class TestConvCorn(EvaluatorConformance):
    evaluator = EVALUATORS["conv"]
    head = "corn"


class TestSetCoral(EvaluatorConformance):
    evaluator = EVALUATORS["set"]
    head = "coral"


class TestBoostingOfTwoStages(EvaluatorConformance):
    evaluator = EVALUATORS["boosting"]
    num_stages = 2


class TestLogisticOfTwoStages(EvaluatorConformance):
    evaluator = EVALUATORS["logistic"]
    num_stages = 2


class TestSpectrumOfMoreChannelsThanPositions(EvaluatorConformance):
    evaluator = EVALUATORS["spectrum"]
    map_shape = (24, 3, 3)


class TestInvariantsOfMoreChannelsThanPositions(EvaluatorConformance):
    evaluator = EVALUATORS["invariants"]
    map_shape = (24, 3, 3)


def test_every_evaluator_of_ours_is_here():
    tested = {kind.evaluator.name for name, kind in globals().items() if name.startswith("Test")}
    assert tested == set(EVALUATORS._own)
