"""Evaluators: judges that look at feature maps and give a probability for each FMCS. One file each."""

from fmcs_bench.evaluators.base import REGISTRY, Evaluator
from fmcs_bench.evaluators.checkpoint import load_fitted, save_fitted
from fmcs_bench.evaluators.lookup import code_of, create, find, resolve, wanted
from fmcs_bench.evaluators.models.attention import AttentionEvaluator
from fmcs_bench.evaluators.models.boosting import BoostingEvaluator
from fmcs_bench.evaluators.models.chance import ChanceEvaluator
from fmcs_bench.evaluators.models.conv import ConvEvaluator
from fmcs_bench.evaluators.models.deepsets import SetEvaluator
from fmcs_bench.evaluators.models.invariants import InvariantsEvaluator
from fmcs_bench.evaluators.models.linear import LinearEvaluator
from fmcs_bench.evaluators.models.logistic import LogisticEvaluator
from fmcs_bench.evaluators.models.mlp import MlpEvaluator
from fmcs_bench.evaluators.models.moments import MomentsEvaluator
from fmcs_bench.evaluators.models.norm import NormEvaluator
from fmcs_bench.evaluators.models.resnet import ResNetEvaluator
from fmcs_bench.evaluators.models.spectrum import SpectrumEvaluator
from fmcs_bench.evaluators.network import NetworkEvaluator

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
