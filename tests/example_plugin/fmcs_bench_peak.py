"""An example of an evaluator in a package of its own: it looks at the largest value of a map."""

from torch import nn

from fmcs_bench.evaluators.network import NetworkEvaluator


class PeakEvaluator(NetworkEvaluator):
    name = "peak"
    channel_invariant = True
    any_shape = True

    def make_network(self):
        largest = nn.Sequential(nn.AdaptiveMaxPool3d(1), nn.Flatten(), nn.BatchNorm1d(1))
        return nn.Sequential(largest, nn.Linear(1, 32), nn.ReLU(), nn.Linear(32, self.num_outputs))
