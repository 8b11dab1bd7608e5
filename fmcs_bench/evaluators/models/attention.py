"""``attention``: the positions of a map as tokens of a small transformer encoder."""

from __future__ import annotations

import torch
from torch import nn

from fmcs_bench.evaluators.network import NetworkEvaluator


class AttentionEvaluator(NetworkEvaluator):
    """Transformer encoder (arXiv 1706.03762; pre-norm and learned positions as in ViT, arXiv 2010.11929, eqs. (1)-(4)).

    The tokens are averaged at the end, where ViT has a class token.
    """

    name = "attention"
    channel_invariant = False
    any_shape = False
    width = 64
    num_heads = 4
    num_layers = 2

    def make_network(self) -> nn.Module:
        """See ``NetworkEvaluator``."""
        return AttentionNetwork(self.map_shape, self.width, self.num_heads, self.num_layers, self.num_outputs)


class AttentionNetwork(nn.Module):
    """Maps [B, D, H, W] -> outputs. E is the width of a token, P the number of positions."""

    def __init__(
        self, map_shape: tuple[int, int, int], width: int, num_heads: int, num_layers: int, num_outputs: int
    ) -> None:
        super().__init__()
        num_channels, height, map_width = map_shape
        self.embed = nn.Linear(num_channels, width)
        self.position_PE = nn.Parameter(0.02 * torch.randn(height * map_width, width))
        self.blocks = nn.Sequential(*(EncoderBlock(width, num_heads) for _ in range(num_layers)))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, num_outputs)

    def forward(self, maps_BDHW: torch.Tensor) -> torch.Tensor:
        """See the class."""
        tokens_BPE = self.embed(maps_BDHW.flatten(2).transpose(1, 2)) + self.position_PE
        outputs: torch.Tensor = self.output(self.norm(self.blocks(tokens_BPE)).mean(dim=1))
        return outputs


class EncoderBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    ``nn.TransformerEncoderLayer`` takes a different path where no gradient is needed, so the answers in RAL and in
    evaluation would differ.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, tokens_BPE: torch.Tensor) -> torch.Tensor:
        """See the class."""
        attended_BPE = tokens_BPE + self._attend(self.norm_1(tokens_BPE))
        outputs_BPE: torch.Tensor = attended_BPE + self.mlp(self.norm_2(attended_BPE))
        return outputs_BPE

    def _attend(self, tokens_BPE: torch.Tensor) -> torch.Tensor:
        heads = self.to_qkv(tokens_BPE).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = heads  # each [B, heads, P, E / heads]
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        projected_BPE: torch.Tensor = self.project(mixed.transpose(1, 2).flatten(2))
        return projected_BPE
