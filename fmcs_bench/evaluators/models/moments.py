"""``moments``: six moments of a map's values; a step above ``norm``, still without any structure."""

from __future__ import annotations

from torch import nn

from fmcs_bench.evaluators.features import NUM_MOMENTS, moments
from fmcs_bench.evaluators.network import Apply, NetworkEvaluator, perceptron


class MomentsEvaluator(NetworkEvaluator):
    """Log root mean square, mean, standard deviation, skewness, kurtosis and share of zeros over the whole map."""

    name = "moments"
    channel_invariant = True
    any_shape = True
    width = 32

    def make_network(self) -> nn.Module:
        """See ``NetworkEvaluator``."""
        return nn.Sequential(Apply(moments), *perceptron(NUM_MOMENTS, self.width, self.num_outputs))
