"""Every evaluator of this package keeps the contract, by the suite that plug-ins run."""

import pytest

from fmcs_bench.evaluators.registry import EVALUATORS
from fmcs_bench.testing.conformance import EvaluatorConformance

MORE_CHANNELS_THAN_POSITIONS = (24, 3, 3)
CASES = {
    **{name: {} for name in EVALUATORS._own},
    "conv+corn": {"head": "corn"},
    "set+coral": {"head": "coral"},
    "boosting of two stages": {"num_stages": 2},
    "logistic of two stages": {"num_stages": 2},
    "spectrum of many channels": {"map_shape": MORE_CHANNELS_THAN_POSITIONS},
    "invariants of many channels": {"map_shape": MORE_CHANNELS_THAN_POSITIONS},
}
SUITES = {
    case: type("Suite", (EvaluatorConformance,), {"evaluator": EVALUATORS[case.split("+")[0].split()[0]], **options})
    for case, options in CASES.items()
}
TESTS = [name for name in dir(EvaluatorConformance) if name.startswith("test_")]


@pytest.mark.parametrize("test", TESTS)
@pytest.mark.parametrize("case", CASES)
def test_the_contract_holds(case, test):
    getattr(SUITES[case](), test)()
