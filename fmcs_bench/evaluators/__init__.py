"""Evaluators: judges that look at feature maps and give a probability for each FMCS. One file each."""

from fmcs_bench.evaluators.base import REGISTRY, Evaluator, NetworkEvaluator, create, load_fitted
from fmcs_bench.evaluators.conv import ConvEvaluator
from fmcs_bench.evaluators.norm import NormEvaluator
from fmcs_bench.evaluators.set import SetEvaluator

for _kind in (NormEvaluator, ConvEvaluator, SetEvaluator):
    REGISTRY.add(_kind.name, _kind)

__all__ = ["REGISTRY", "Evaluator", "NetworkEvaluator", "create", "load_fitted"]
