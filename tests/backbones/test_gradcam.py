"""Grad-CAM against the formula of its paper, on every form of network; which images are shown; the picture."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from fmcs_bench.backbones import dueheadnet
from fmcs_bench.backbones.create import create_backbone, map_shape
from fmcs_bench.backbones.gradcam import BATCH_SIZE, Saliency, choose_images, explain_networks, grad_cam
from fmcs_bench.backbones.layers import LayerBackbone
from fmcs_bench.backbones.options import BackboneOptions
from fmcs_bench.core.errors import ConfigError
from fmcs_bench.core.figure_style import encode, save
from fmcs_bench.images.load import load_images
from fmcs_bench.images.preprocessing import Preprocessor
from fmcs_bench.training.losses import freeze
from fmcs_bench.training_track.explain_figure import overlay, saliency_figure

NETWORKS = {
    "smallcnn": 32,
    "timm/test_resnet": 64,
    "timm/test_mambaout": 64,  # channels come last
    "torchvision/squeezenet1_1": 64,  # its classifier pools
    "torchvision/mobilenet_v3_small": 64,
}
LAYERS = {
    ("smallcnn", "body.1"): 32,
    ("timm/test_resnet", "layer3"): 64,
    ("timm/test_resnet", "bn1"): 64,  # the network goes on in place
    ("timm/test_mambaout", "stages.2"): 64,  # channels come last
    ("timm/test_vit", "blocks.2"): 64,  # tokens, of which one is the class token
}


def batch(size, num=3):
    return torch.randn(num, 3, size, size, generator=torch.Generator().manual_seed(0))


def by_hand(maps, logits, target, size):
    """Equations (1) and (2) of arXiv 1610.02391, and the upsampling of its section 3."""
    (gradient,) = torch.autograd.grad(logits.gather(1, target[:, None]).sum(), maps)
    weights = gradient.mean(dim=(2, 3))
    cams = torch.relu(torch.einsum("bd,bdhw->bhw", weights, maps.detach()))
    return F.interpolate(cams[:, None], (size, size), mode="bilinear", align_corners=False)[:, 0]


def close(found, expected):
    """By the largest value: that of a network with random weights may be 1e-10."""
    most = expected.abs().max()
    torch.testing.assert_close(found / most, expected / most, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_the_formula_of_the_paper(name):
    size = NETWORKS[name]
    model = create_backbone(name, 7, seed=0, image_size=size).eval()
    cams, predicted = grad_cam(model, batch(size))
    maps, logits = model.maps_and_logits(batch(size))
    assert torch.equal(predicted, logits.argmax(dim=1))
    close(cams, by_hand(maps, logits, predicted, size))
    assert cams.max() > 0
    label = torch.tensor([6, 0, 3])
    labelled, _ = grad_cam(model, batch(size), label)
    maps, logits = model.maps_and_logits(batch(size))
    close(labelled, by_hand(maps, logits, label, size))
    assert not torch.equal(labelled, cams)


@pytest.mark.parametrize(("name", "layer"), LAYERS)
def test_a_layer_inside_is_watched_where_the_network_uses_it(name, layer):
    size = LAYERS[name, layer]
    model = create_backbone(name, 7, seed=0, image_size=size, options=BackboneOptions(layer=layer)).eval()
    assert isinstance(model, LayerBackbone)
    cams, predicted = grad_cam(model, batch(size))
    maps, gradients = [], []

    def keep(_module, _inputs, output):
        maps.append(output.detach().clone())
        output.register_hook(lambda gradient: gradients.append(gradient.clone()))

    handle = model.net.get_submodule(layer).register_forward_hook(keep)
    logits = model(batch(size))
    handle.remove()
    logits.gather(1, predicted[:, None]).sum().backward()
    maps, gradient = (model._maps(values[-1], batch(size)) for values in (maps, gradients))
    small = torch.relu((gradient.mean(dim=(2, 3), keepdim=True) * maps).sum(dim=1, keepdim=True))
    expected = F.interpolate(small, (size, size), mode="bilinear")[:, 0]
    close(cams, expected)
    assert cams.max() > 0


@pytest.mark.parametrize(("name", "layer"), [*((name, None) for name in NETWORKS), *LAYERS])
def test_maps_put_back_unchanged_give_the_same_logits_and_others_do_not(name, layer):
    size = NETWORKS.get(name) or LAYERS[name, layer]
    model = create_backbone(name, 7, seed=0, image_size=size, options=BackboneOptions(layer=layer)).eval()
    shapes = []

    def watch(maps):
        shapes.append(tuple(maps.shape[1:]))
        return maps

    logits = model.logits_through(batch(size), watch)
    close(logits, model(batch(size)))
    assert shapes == [map_shape(model, size)]
    assert not torch.allclose(logits, model.logits_through(batch(size), lambda maps: maps * 2), atol=0)


@pytest.mark.parametrize("fusion", ["add", "concat"])
def test_the_fused_map_of_two_heads(fusion):
    model = dueheadnet.create("smallcnn", 7, fusion=fusion, image_size=32, seed=0).eval()
    cams, predicted = grad_cam(model, batch(32))
    maps, logits = model.maps_and_logits(batch(32))
    close(cams, by_hand(maps, logits, predicted, 32))


@pytest.mark.parametrize("name", ["timm/test_vit", "timm/test_vit_relpos"])
def test_logits_that_do_not_come_from_the_maps_are_refused(name):
    model = create_backbone(name, 7, seed=0, image_size=64)
    with pytest.raises(ConfigError, match=r"do not come from its maps.*class token.* \(--layer\)"):
        grad_cam(model, batch(64))


@pytest.mark.parametrize("frozen", [True, False])
def test_the_network_stays_as_it_was(frozen):
    model = create_backbone("timm/test_resnet", 7, seed=0, image_size=64)
    if frozen:
        freeze(model)
    model.train()
    model.net.layer2.eval()
    modes = [module.training for module in model.modules()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pixels = batch(64)
    with torch.no_grad():  # whoever calls it may have gradients switched off
        cams, _ = grad_cam(model, pixels)
    assert not cams.requires_grad
    assert not pixels.requires_grad
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad != frozen for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    close(cams, grad_cam(model.eval(), pixels)[0])


def test_no_image_depends_on_the_others():
    model = create_backbone("smallcnn", 7, seed=0)
    pixels = batch(32, BATCH_SIZE + 3)
    cams, predicted = grad_cam(model, pixels)
    assert len(cams) == BATCH_SIZE + 3
    for n in (0, BATCH_SIZE - 1, BATCH_SIZE, BATCH_SIZE + 2):
        cam, (own,) = grad_cam(model, pixels[n : n + 1])
        assert own == predicted[n]
        close(cam[0], cams[n])


def two_networks(digits, target="predicted"):
    networks = {name: lambda s=s: create_backbone("smallcnn", 10, seed=s) for s, name in enumerate(("one\n10%", "two"))}
    return explain_networks(networks, digits, choose_images(digits, 4), Preprocessor(digits, 32), target=target)


@pytest.fixture(scope="module")
def digits():
    return load_images("digits")


def test_several_networks_on_the_same_images(digits):
    found = two_networks(digits)
    assert found.cams_PNHW.shape == (2, 4, 32, 32)
    assert found.cams_PNHW.dtype == found.images_NHWC.dtype == np.float32
    chosen = choose_images(digits, 4)
    assert found.image_ids_N.tolist() == digits.ids_N[chosen].tolist()
    stored = torch.from_numpy(digits.images_NCHW[chosen]).float() / 255
    seen = F.interpolate(stored, (32, 32), mode="bilinear").expand(-1, 3, -1, -1).permute(0, 2, 3, 1)
    np.testing.assert_allclose(found.images_NHWC, seen, atol=1e-5)
    alone, predicted = grad_cam(
        create_backbone("smallcnn", 10, seed=1), Preprocessor(digits, 32)(torch.from_numpy(digits.images_NCHW[chosen]))
    )
    np.testing.assert_allclose(found.cams_PNHW[1], alone, atol=1e-6)
    assert found.predicted_PN[1].tolist() == predicted.tolist()
    labelled = two_networks(digits, "label")
    wrong = found.predicted_PN != found.labels_N
    assert wrong.any()
    assert not np.allclose(labelled.cams_PNHW[wrong], found.cams_PNHW[wrong])


def test_maps_that_nothing_comes_from_are_an_error_and_no_blank_picture(digits):
    options = BackboneOptions(layer="blocks.5")  # the last: the logits come from its class token alone
    networks = {"vit": lambda: create_backbone("timm/test_vit", 10, seed=0, image_size=64, options=options)}
    with pytest.raises(ConfigError, match=r"zero everywhere.*class token"):
        explain_networks(networks, digits, choose_images(digits, 2), Preprocessor(digits, 64))


def test_images_are_chosen_by_class_and_by_the_hash_of_their_ids(digits):
    first = choose_images(digits)
    assert digits.labels_N[first].tolist() == list(range(10))
    assert np.isin(first, digits.indices("test")).all()
    few, more = choose_images(digits, 3), choose_images(digits, 25)
    assert set(few) < set(first) < set(more)
    assert set(np.bincount(digits.labels_N[more])) == {2, 3}
    backwards = digits.take(np.arange(len(digits.ids_N))[::-1])
    assert backwards.ids_N[choose_images(backwards, 25)].tolist() == digits.ids_N[more].tolist()
    ids = [int(digits.ids_N[5]), int(digits.ids_N[2])]
    assert choose_images(digits, image_ids=ids).tolist() == [5, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num": 0}, "0 images; from 1 to 100"),
        ({"num": 101}, "101 images; from 1 to 100 .* has 174 test images"),
        ({"image_ids": [10**6]}, "digits has no image with the id 1000000; .* such as "),
        ({"image_ids": [1, 1]}, "give each once"),
        ({"num": 2, "image_ids": [1]}, "give the number or the ids"),
    ],
)
def test_images_that_cannot_be_chosen(digits, options, message):
    with pytest.raises(ConfigError, match=message):
        choose_images(digits, **options)


def test_an_overlay_is_brightest_where_the_map_is_largest_and_has_no_scale_of_its_own():
    image = np.full((4, 4, 3), 0.5, dtype=np.float32)
    cam = np.zeros((4, 4), dtype=np.float32)
    cam[3, 0] = 7
    cell = overlay(image, cam)
    assert cell.shape == (128, 128, 3)
    assert np.unravel_index(cell.sum(axis=2).argmax(), (128, 128))[0] > 110
    np.testing.assert_allclose(cell, overlay(image, cam * 1000), atol=1e-6)
    nothing = overlay(image, np.zeros((4, 4), dtype=np.float32))
    assert np.ptp(nothing, axis=(0, 1)).max() == 0
    np.testing.assert_allclose(nothing[0, 0], cell[0, -1])


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_the_sheet_is_a_file_of_each_kind_with_the_same_bytes_each_time(digits, tmp_path, ending):
    found = two_networks(digits)
    figure = saliency_figure(found, "digits, run 3")
    save(figure, tmp_path / f"sheet.{ending}")
    data = (tmp_path / f"sheet.{ending}").read_bytes()
    assert data.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[ending])
    assert data == encode(saliency_figure(found, "digits, run 3"), ending)
    with pytest.raises(ConfigError, match=r"must end in \.svg, \.png or \.pdf"):
        save(figure, Path("sheet.jpg"))


def test_the_sheet_names_networks_labels_answers_and_ids(digits):
    found: Saliency = two_networks(digits)
    figure = saliency_figure(found, "digits, run 3")
    cells = np.array(figure.axes[:-1]).reshape(4, 3)  # the last axes are the colour scale
    assert figure.get_suptitle() == "Grad-CAM: digits, run 3"
    assert [axes.get_title() for axes in cells[0, 1:]] == list(found.networks)
    for n in range(4):
        assert cells[n, 0].get_xlabel() == f"id {found.image_ids_N[n]}"
        assert cells[n, 0].get_ylabel() == found.classes[found.labels_N[n]]
    wrong = [[axes.xaxis.label.get_color() == "#d55e00" for axes in row] for row in cells[:, 1:]]
    np.testing.assert_array_equal(wrong, (found.predicted_PN != found.labels_N).T)
