"""Grad-CAM (arXiv 1610.02391), by captum: where in an image a network finds evidence for a class.

Tensor names: N images, P networks, B batch, C channels of images, D channels of maps, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from fmcs_bench.backbones.base import Backbone
from fmcs_bench.core.errors import ConfigError
from fmcs_bench.core.progress import SILENT, Progress
from fmcs_bench.images.dataset import SPLITS, ImageDataset, stable_hash
from fmcs_bench.images.preprocessing import Preprocessor

Target = Literal["predicted", "label"]
BATCH_SIZE = 16
MAX_IMAGES = 100


@dataclass(frozen=True)
class Saliency:
    """Grad-CAM of some images by some networks.

    Attributes:
        target: the class that is explained: the one that the network ``predicted``, or the image's ``label``.
        images_NHWC: float32 in [0, 1], the images as the networks see them.
        predicted_PN: int64, the class that each network gives each image.
        cams_PNHW: float32, not negative; not comparable between networks.
    """

    networks: tuple[str, ...]
    target: Target
    images_NHWC: np.ndarray
    image_ids_N: np.ndarray
    labels_N: np.ndarray
    classes: tuple[str, ...]
    predicted_PN: np.ndarray
    cams_PNHW: np.ndarray


class _Watched(nn.Module):
    """A backbone whose maps are the output of a module, as captum needs them."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone, self.maps = backbone, nn.Identity()

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        return self.backbone.logits_through(images_BCHW, self.maps)


def grad_cam(
    backbone: Backbone, images_NCHW: torch.Tensor, target_N: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Grad-CAM at the maps of a backbone, in eval mode and float32; the backbone stays as it was.

    The class that is explained is ``target_N``, or else the one that the backbone predicts.

    Returns:
        float32 [N, H, W], not negative, of the images' size, and int64 [N], the predicted class; both on the CPU.
    """
    from captum.attr import LayerAttribution, LayerGradCam

    modes: list[tuple[nn.Module, bool]] = [(module, module.training) for module in backbone.modules()]
    watched = _Watched(backbone).eval()
    method: Any = LayerGradCam(watched, watched.maps)
    cams, predicted = [], []
    try:
        for first in range(0, len(images_NCHW), BATCH_SIZE):
            part_BCHW = images_NCHW[first : first + BATCH_SIZE]
            with torch.no_grad():
                answer_B = watched(part_BCHW).argmax(dim=1)
            target_B = answer_B if target_N is None else target_N[first : first + BATCH_SIZE].to(answer_B.device)
            cams_B1HW = method.attribute(part_BCHW, target=target_B, relu_attributions=True).detach()
            size = tuple(part_BCHW.shape[-2:])
            cams.append(LayerAttribution.interpolate(cams_B1HW, size, "bilinear")[:, 0].cpu())
            predicted.append(answer_B.cpu())
    finally:
        for module, was_training in modes:
            module.training = was_training
    return torch.cat(cams), torch.cat(predicted)


def explain_networks(
    networks: Mapping[str, Callable[[], Backbone]],
    images: ImageDataset,
    image_N: np.ndarray,
    prepare: Preprocessor,
    *,
    target: Target = "predicted",
    device: torch.device | str = "cpu",
    progress: Progress = SILENT,
) -> Saliency:
    """Grad-CAM of the same images, at ``image_N``, by several networks, of which one at a time is in memory."""
    device = torch.device(device)
    prepare = prepare.to(device)
    labels_N = images.labels_N[image_N]
    input_NCHW = prepare(torch.from_numpy(np.ascontiguousarray(images.images_NCHW[image_N])).to(device)).contiguous()
    seen_NCHW = (input_NCHW * prepare.std_C[:, None, None] + prepare.mean_C[:, None, None]).clamp(0, 1)
    found = []
    with progress.task("Grad-CAM", len(networks)) as task:
        for load in networks.values():
            target_N = torch.from_numpy(labels_N) if target == "label" else None
            found.append(grad_cam(load().to(device), input_NCHW, target_N))
            task.advance()
    cams_PNHW = torch.stack([cams for cams, _ in found]).numpy()
    if not cams_PNHW.any():
        raise ConfigError(
            "Grad-CAM of these networks is zero everywhere, as behind the last block of a network with a class token; "
            "build the dataset with the maps of a different --layer"
        )
    return Saliency(
        networks=tuple(networks),
        target=target,
        images_NHWC=seen_NCHW.permute(0, 2, 3, 1).cpu().numpy(),
        image_ids_N=images.ids_N[image_N],
        labels_N=labels_N,
        classes=images.classes,
        predicted_PN=torch.stack([predicted for _, predicted in found]).numpy(),
        cams_PNHW=cams_PNHW,
    )


def choose_images(images: ImageDataset, num: int | None = None, image_ids: Sequence[int] = ()) -> np.ndarray:
    """Positions of the images to explain: those of ``image_ids``, or test images chosen by a hash of their ids.

    One of each class is chosen first, then a second of each, and so on; they are sorted by class. A larger number adds
    images to those of a smaller one; None is one for each class, at most ten.
    """
    if image_ids and num is not None:
        raise ConfigError(f"{num} images and {len(image_ids)} image ids; give the number or the ids, not both")
    if image_ids:
        row_of = {int(image_id): n for n, image_id in enumerate(images.ids_N)}
        unknown = [image_id for image_id in image_ids if image_id not in row_of]
        if unknown:
            raise ConfigError(
                f"{images.name} has no image with the id {unknown[0]}; ids are those of image_id in the dataset's "
                f"maps.zarr, such as {', '.join(str(i) for i in images.ids_N[images.indices('test')[:5]])}"
            )
        if len(set(image_ids)) != len(image_ids) or len(image_ids) > MAX_IMAGES:
            raise ConfigError(f"{len(image_ids)} image ids; give each once, at most {MAX_IMAGES} together")
        return np.array([row_of[image_id] for image_id in image_ids])
    test_M = images.indices("test")
    most = min(len(test_M), MAX_IMAGES)
    num = min(10, len(images.classes), most) if num is None else num
    if not 1 <= num <= most:
        raise ConfigError(
            f"{num} images; from 1 to {most} can be shown ({images.name} has {len(test_M)} {SPLITS[2]} images)"
        )
    rank_M = np.argsort(np.argsort([stable_hash(images.name, int(i), "explain") for i in images.ids_N[test_M]]))
    label_M = images.labels_N[test_M]
    turn_M = np.array(
        [int(((label_M == label) & (rank_M < rank)).sum()) for label, rank in zip(label_M, rank_M, strict=True)]
    )
    chosen = np.lexsort((rank_M, turn_M))[:num]
    return test_M[chosen[np.lexsort((turn_M[chosen], label_M[chosen]))]]
