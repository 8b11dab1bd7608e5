"""Evaluators: judges that look at feature maps and give a probability for each FMCS. One file each."""

from fmcs_bench.evaluators.attention import AttentionEvaluator
from fmcs_bench.evaluators.base import REGISTRY, Evaluator
from fmcs_bench.evaluators.boosting import BoostingEvaluator
from fmcs_bench.evaluators.chance import ChanceEvaluator
from fmcs_bench.evaluators.conv import ConvEvaluator
from fmcs_bench.evaluators.fitted import load_fitted, save_fitted
from fmcs_bench.evaluators.invariants import InvariantsEvaluator
from fmcs_bench.evaluators.linear import LinearEvaluator
from fmcs_bench.evaluators.logistic import LogisticEvaluator
from fmcs_bench.evaluators.lookup import code_of, create, find, resolve, wanted
from fmcs_bench.evaluators.mlp import MlpEvaluator
from fmcs_bench.evaluators.moments import MomentsEvaluator
from fmcs_bench.evaluators.network import NetworkEvaluator
from fmcs_bench.evaluators.norm import NormEvaluator
from fmcs_bench.evaluators.resnet import ResNetEvaluator
from fmcs_bench.evaluators.set import SetEvaluator
from fmcs_bench.evaluators.spectrum import SpectrumEvaluator

_OURS: tuple[type[Evaluator], ...] = (
    ChanceEvaluator,
    NormEvaluator,
    MomentsEvaluator,
    LinearEvaluator,
    MlpEvaluator,
    ConvEvaluator,
    ResNetEvaluator,
    AttentionEvaluator,
    SetEvaluator,
    SpectrumEvaluator,
    InvariantsEvaluator,
    LogisticEvaluator,
    BoostingEvaluator,
)
for _kind in _OURS:
    REGISTRY.add(_kind.name, _kind)

__all__ = [
    "REGISTRY",
    "Evaluator",
    "NetworkEvaluator",
    "code_of",
    "create",
    "find",
    "load_fitted",
    "resolve",
    "save_fitted",
    "wanted",
]
