"""The networks of the training track: created for a trial, counted, and observed while they are trained.

Tensor names: B batch, C channels of images, D channels of maps, H height, W width, K stages, N images.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fmcs_bench.backbones import dueheadnet
from fmcs_bench.backbones.base import Backbone
from fmcs_bench.backbones.create import create_backbone, num_parameters
from fmcs_bench.backbones.options import BackboneOptions
from fmcs_bench.backbones.smallcnn import SmallCnn
from fmcs_bench.core.errors import ConfigError
from fmcs_bench.results.trials import Longer, TrainingTrial
from fmcs_bench.training.loop import Batches, autocast
from fmcs_bench.training.losses import FrozenEvaluator, Objective, run_network
from fmcs_bench.training.methods import Method
from fmcs_bench.training.recipes import Precision

FAMILIES = (
    ("seresnet18", "seresnet34", "seresnet50", "seresnet101", "seresnet152"),
    ("timm/resnet18", "timm/resnet34", "resnet50", "timm/resnet101", "timm/resnet152"),
    ("torchvision/resnet18", "torchvision/resnet34", "torchvision/resnet50", "torchvision/resnet101",
     "torchvision/resnet152"),
    ("torchvision/shufflenet_v2_x0_5", "shufflenet_v2", "torchvision/shufflenet_v2_x1_5",
     "torchvision/shufflenet_v2_x2_0"),
)  # fmt: skip
"""Backbones of one kind, from small to large; ``smallcnn`` comes in every width."""
TOLERANCE = 0.25
"""How far the control may be from DueHeadNet's number of parameters, as a share of it."""


def make_network(trial: TrainingTrial, num_classes: int) -> Backbone:
    """The network of a trial with its initial weights; a single network and a first head of one seed are equal."""
    return make(
        trial.method,
        trial.backbone,
        trial.backbone_options,
        num_classes=num_classes,
        image_size=trial.image_size,
        seed=trial.weights_seed,
    )


def make(
    method: Method, backbone: str, options: BackboneOptions, *, num_classes: int, image_size: int, seed: int
) -> Backbone:
    """The network of a method; the backbone and its options are the dataset's, for methods that name no other."""
    name, options = (backbone, options) if method.backbone is None else (method.backbone, BackboneOptions())
    if method.network == "single":
        return create_backbone(name, num_classes, seed=seed, image_size=image_size, options=options)
    assert method.fusion is not None  # checked by Method
    if method.pretrained_first:
        options = options.model_copy(update={"pretrained": True})
    return dueheadnet.create(name, num_classes, fusion=method.fusion, image_size=image_size, seed=seed, options=options)


def equal_parameters(backbone: str, options: BackboneOptions, *, num_classes: int, image_size: int) -> str:
    """The single backbone of the same kind whose number of parameters is nearest, as a ratio, to that of DueHeadNet.

    DueHeadNet is the one with the fusion ``add``: two heads and one classifier.

    Raises:
        ConfigError: no kind of this backbone is known, or no size is within 25 %.

    Example:
        >>> equal_parameters("smallcnn", BackboneOptions(), num_classes=10, image_size=32)
        'smallcnn/23'
    """
    # The count is that of two heads and one classifier, without making a DueHeadNet, which not every backbone can be.
    create = partial(create_backbone, num_classes=num_classes, seed=0, image_size=image_size)
    one, headless = create(backbone, options=options), create(backbone, options=options)
    headless.drop_head()
    wanted = num_parameters(one) + num_parameters(headless)
    if backbone == "smallcnn" or backbone.startswith("smallcnn/"):
        width = int(backbone.partition("/")[2] or SmallCnn.usual_width)
        candidates = tuple(f"smallcnn/{2 * width - i}" for i in range(width))
    else:
        plain = backbone.partition(".")[0]
        candidates = next((family for family in FAMILIES if plain in _names(family)), ())
    if not candidates:
        known = "; ".join(", ".join(family) for family in (("smallcnn",), *FAMILIES))
        raise ConfigError(
            f"equal-parameters knows no larger network of the kind of {backbone}, only of {known}; name one yourself: "
            "--method single-NAME"
        )
    counts = {name: num_parameters(create(name)) for name in candidates}
    name = min(counts, key=lambda name: (abs(math.log(counts[name] / wanted)), counts[name]))
    if abs(counts[name] - wanted) > TOLERANCE * wanted:
        raise ConfigError(
            f"DueHeadNet of {backbone} has {wanted:,} parameters, and the nearest network of its kind, {name}, has "
            f"{counts[name]:,}, which is more than {TOLERANCE:.0%} away; name another yourself: --method single-NAME"
        )
    return name


def _names(family: tuple[str, ...]) -> set[str]:
    """As they stand there, and as the library calls those with a short name."""
    library = {"shufflenet_v2": "torchvision/shufflenet_v2_x1_0"}
    return {*family, *(library.get(name, f"timm/{name}") for name in family if "/" not in name)}


def longer(
    backbone: str,
    options: BackboneOptions,
    evaluator: FrozenEvaluator,
    *,
    epochs: int,
    num_classes: int,
    image_size: int,
) -> Longer:
    """How long a baseline is trained to cost what RAL with an evaluator costs.

    The ratio is that of the FLOPs of one step, forward and backward, of matrix products and convolutions, counted by
    PyTorch on the CPU with two images. It does not depend on weights or time.
    """
    images_BCHW = torch.ones(2, 3, image_size, image_size)

    def flops(method: Method) -> int:
        model = create_backbone(backbone, num_classes, seed=0, image_size=image_size, options=options).train()
        counter = FlopCounterMode(display=False)
        # Attention as plain products: PyTorch counts some of the fused kernels and not others.
        with sdpa_kernel(SDPBackend.MATH), torch.random.fork_rng(devices=[]), counter:
            Objective(method, evaluator)(model, images_BCHW, torch.zeros(2, dtype=torch.int64)).backward()  # type: ignore[no-untyped-call]
        return int(counter.get_total_flops())

    ratio = flops(Method(raf=0.5)) / flops(Method())
    return Longer(flops_ratio=ratio, epochs=math.ceil(round(epochs * ratio, 9)))


@torch.no_grad()
def observe(
    model: nn.Module, data: Batches, watcher: FrozenEvaluator | None = None, *, precision: Precision = "float32"
) -> tuple[torch.Tensor, float | None]:
    """The classes that a network predicts, and the score of its maps; neither weights nor random state change.

    Returns:
        Predicted classes, int64 [N]; and the expected FMCS, in [1, K], mean over images (and over both scored heads),
        None without a ``watcher``. The model is in eval mode afterwards.
    """
    model.eval()
    predicted, total = [], 0.0
    with autocast(data.device, precision):
        for images_BCHW, _ in data.in_order(torch.arange(len(data)), 512):
            scored, _, logits_BC = run_network(model, images_BCHW)
            assert logits_BC is not None  # asked for
            predicted.append(logits_BC.float().argmax(dim=1))
            for maps in scored if watcher else ():
                assert watcher is not None
                probs_BK = watcher(maps).float().softmax(dim=1)
                steps_K = torch.arange(probs_BK.shape[1], dtype=torch.float32, device=data.device)
                total += float((probs_BK @ steps_K).sum()) / len(scored)
    return torch.cat(predicted), 1 + total / len(data) if watcher else None
