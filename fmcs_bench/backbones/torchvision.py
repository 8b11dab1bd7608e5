"""Any classification network of torchvision as a backbone, without a table of networks.

torchvision's own trace shows the value before global pooling and outside the classifier; the network is cut there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F  # noqa: N812  (torch's own short name)

from fmcs_bench.backbones import pretrained
from fmcs_bench.backbones.base import Backbone, Library, NetworkRequest
from fmcs_bench.backbones.layers import Form, LayerBackbone
from fmcs_bench.core.errors import ConfigError, UnknownNameError, nearest

POOLING_MODULES = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
POOLING_FUNCTIONS = (F.adaptive_avg_pool2d, F.adaptive_max_pool2d, torch.mean, torch.flatten, "mean", "flatten")
STRIDES = {32: [False, False, False], 16: [False, False, True], 8: [False, True, True]}
"""Output stride -> the stages of a torchvision ResNet that are dilated instead of strided."""


class TorchvisionBackbone(Backbone):
    """A torchvision network, cut at its last map before global pooling."""

    def __init__(self, net: nn.Module, form: Form) -> None:
        from torchvision.models.feature_extraction import create_feature_extractor

        super().__init__()
        self.form, self.classifies_maps = form, form.loses_nothing
        trace = _Trace(net)
        cut = _last_features(net, trace)
        self.head: nn.Module = _from_node(net, trace, cut)
        self.body = create_feature_extractor(net, {trace.names[cut]: "features"})

    def features(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """See ``Backbone``."""
        return self.form.to_maps(self.body(images_BCHW)["features"], images_BCHW.shape)

    def classify(self, maps_BDHW: torch.Tensor) -> torch.Tensor:
        """See ``Backbone``."""
        if not self.classifies_maps:
            return super().classify(maps_BDHW)
        logits: torch.Tensor = self.head(self.form.from_maps(maps_BDHW))
        return logits

    def maps_and_logits(self, images_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See ``Backbone``."""
        features = self.body(images_BCHW)["features"]
        return self.form.to_maps(features, images_BCHW.shape), self.head(features)

    def drop_head(self) -> None:
        """See ``Backbone``."""
        self.head = nn.Identity()


@dataclass(frozen=True)
class Torchvision(Library):
    """The torchvision classification network of this name, such as ``convnext_tiny``."""

    name: str

    def make(self, request: NetworkRequest) -> Backbone:
        """See ``Library``."""
        net = self._network(request)
        if request.pretrained:
            self._load_published(net)
        if request.layer is not None:
            return LayerBackbone(net, request.layer, _form_of_layers(net), request.image_size)
        return TorchvisionBackbone(net, _form_of_features(net))

    def _network(self, request: NetworkRequest) -> nn.Module:
        from torchvision.models import get_model

        stride: dict[str, Any] = {}
        if request.output_stride is not None:
            stride["replace_stride_with_dilation"] = STRIDES[request.output_stride]
        # Networks differ in their arguments for the image size and for auxiliary classifiers.
        size = request.image_size
        attempts: list[dict[str, Any]] = [{"aux_logits": False, "init_weights": True}, {}]
        if size is not None:
            attempts = [{"image_size": size}, {"input_size": (size, size)}, *attempts]
        for options in attempts:
            try:
                net: nn.Module = get_model(
                    self.name, weights=None, num_classes=request.num_classes, **options, **stride
                )
            except (TypeError, NotImplementedError, ValueError, AssertionError, RuntimeError) as error:
                unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
                if unknown is not None and unknown[1] in options:
                    continue
                if stride and (unknown is not None or isinstance(error, NotImplementedError)):
                    raise ConfigError(
                        f"torchvision/{self.name} has no output stride {request.output_stride} ({error})"
                    ) from None
                raise ConfigError(f"torchvision/{self.name} cannot take images of {size} px ({error})") from None
            return net
        raise AssertionError("the last attempt has no options of its own")

    @torch.no_grad()
    def _load_published(self, net: nn.Module) -> None:
        from torchvision.models import VisionTransformer, get_model_weights
        from torchvision.models.vision_transformer import interpolate_embeddings

        random = {key: value.clone() for key, value in net.state_dict().items()}
        weights = get_model_weights(self.name).DEFAULT
        folder = f"{torch.hub.get_dir()}/checkpoints, the folder of TORCH_HOME"
        with pretrained.fetching(f"torchvision/{self.name}", weights.url, folder):
            pretrained.check_cached(weights.url)
            state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True, map_location="cpu")
            # Old files of densenets have dots in their names, which torchvision replaces as it loads them.
            state = {re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", key): v for key, v in state.items()}
            if isinstance(net, VisionTransformer):
                state = interpolate_embeddings(net.image_size, net.patch_size, state)
            head = _classifier(net)
            fitting = {key: value for key, value in state.items() if key not in head}
            missing, unexpected = net.load_state_dict(fitting, strict=False)
            wrong = [key for key in missing if key not in head and not key.endswith("num_batches_tracked")]
            wrong += [key for key in unexpected if not key.lower().startswith("aux")]
            if wrong:
                raise RuntimeError(f"these weights do not fit: {', '.join(wrong[:3])}")
        pretrained.keep_random(net, random, head, f"torchvision/{self.name}")


def find(name: str) -> Torchvision:
    """The maker of a torchvision network."""
    names = list_networks()
    if name not in names:
        raise UnknownNameError(f"torchvision has no classification network {name!r}; {nearest(name, names)}")
    return Torchvision(name)


def list_networks() -> list[str]:
    """Names of all classification networks of the installed torchvision."""
    import torchvision

    names: list[str] = torchvision.models.list_models(module=torchvision.models)
    return names


def _form_of_features(net: nn.Module) -> Form:
    """What torchvision says about the last features of a network: tokens of a ViT, maps of all others."""
    from torchvision.models import VisionTransformer

    if not isinstance(net, VisionTransformer):
        return Form()
    side = net.image_size // net.patch_size
    return Form("NLC", 1, lambda _height, _width: [(side, side)])


def _form_of_layers(net: nn.Module) -> Form:
    from torchvision.models import SwinTransformer

    return Form("NHWC") if isinstance(net, SwinTransformer) else _form_of_features(net)


def _classifier(net: nn.Module) -> tuple[str, str]:
    """Names of the weights of the layer that gives the logits: the last linear layer or, in SqueezeNet, convolution."""
    name = [name for name, module in net.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]
    return f"{name}.weight", f"{name}.bias"


class _Trace:
    """A network's operations, as torchvision traces them, and their names."""

    def __init__(self, net: nn.Module) -> None:
        import math

        import torchvision
        from torchvision.models.feature_extraction import NodePathTracer

        leaves = [
            kind for kind in vars(torchvision.ops).values() if isinstance(kind, type) and issubclass(kind, nn.Module)
        ]
        tracer = NodePathTracer(leaf_modules=leaves, autowrap_modules=(math, torchvision.ops))
        self.graph: fx.Graph = tracer.trace(net)
        self.names: dict[fx.Node, str] = tracer.node_to_qualname
        self.output = next(node for node in self.graph.nodes if node.op == "output")

    def needed(self, stop: fx.Node | None = None) -> list[fx.Node]:
        """The operations that the output depends on, in order; what only ``stop`` depends on is left out."""
        found, waiting = set(), [self.output]
        while waiting:
            node = waiting.pop()
            if node not in found:
                found.add(node)
                waiting += [] if node is stop else node.all_input_nodes
        return [node for node in self.graph.nodes if node in found]

    def narrows(self) -> list[fx.Node]:
        """The operations, in order, whose value is all that the rest of the network gets of the images."""
        images = next(node for node in self.graph.nodes if node.op == "placeholder")
        position = {node: i for i, node in enumerate(self.needed())}
        depends, found, last_use = {images}, [], 0
        for node in list(position)[:-1]:
            if node is not images and not depends.intersection(node.all_input_nodes):
                continue
            depends.add(node)
            if last_use <= position[node]:
                found.append(node)
            last_use = max([last_use, *(position[user] for user in node.users if user in position)])
        return found


def _last_features(net: nn.Module, trace: _Trace) -> fx.Node:
    """The value before global pooling and outside the classifier, which is the child that the logits come from."""
    from torchvision.models import VisionTransformer

    path = trace.narrows()
    head = [trace.names[node] for node in path if node.op == "call_module"][-1].split(".")[0]
    outside = [node for node in path if trace.names.get(node, head).split(".")[0] != head]
    if isinstance(net, VisionTransformer):  # pools nothing: the logits come from the class token of its encoder
        return [node for node in outside if trace.names[node].startswith("encoder.")][-1]
    pooling = next((i for i, node in enumerate(path) if _pools(net, node)), len(path))
    return [node for node in outside if node in path[:pooling]][-1]


def _pools(net: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(net.get_submodule(str(node.target)), POOLING_MODULES)
    return node.target in POOLING_FUNCTIONS


def _from_node(net: nn.Module, trace: _Trace, cut: fx.Node) -> fx.GraphModule:
    """The network behind a value: that value -> logits. It shares the modules of ``net``."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in trace.needed(stop=cut):
        if "training" in node.kwargs:
            raise ConfigError(f"the classifier of this network changes with the mode, in {node}; it cannot be cut off")
        copies[node] = graph.placeholder("features") if node is cut else graph.node_copy(node, copies.__getitem__)
    return fx.GraphModule(net, graph)
