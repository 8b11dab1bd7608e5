"""Networks of timm and torchvision, whatever the form of their features: maps, logits, gradients."""

import math

import pytest
import timm
import torch
from torch.nn import functional as F  # noqa: N812
from torchvision.models import get_model

from fmcs_bench.backbones import dueheadnet
from fmcs_bench.backbones.base import Backbone
from fmcs_bench.backbones.create import create_backbone, map_shape, num_parameters
from fmcs_bench.backbones.torchvision import list_networks
from fmcs_bench.core.errors import ConfigError
from fmcs_bench.core.seeding import derive
from fmcs_bench.evaluators.registry import create_evaluator
from fmcs_bench.results.trials import EvaluatorTrial
from fmcs_bench.training.losses import Objective
from fmcs_bench.training.methods import Method

MAPS = {
    # name: image size, map shape, whether logits follow from the maps alone
    "timm/test_resnet": (64, (96, 2, 2), True),
    "timm/test_mambaout": (64, (64, 2, 2), True),  # channels come last
    "timm/test_vit": (64, (64, 4, 4), False),  # a class token
    "timm/test_vit_relpos": (64, (96, 4, 4), False),  # tokens without one
    "timm/test_maxvit": (64, (128, 2, 2), True),  # made for one size of images
    "timm/levit_128s": (64, (384, 1, 1), False),  # a grid of tokens that shrinks on the way
    "timm/vit_tiny_patch16_dinov3_qkvb": (64, (192, 4, 4), False),  # a class token and registers
    "timm/pit_ti_224": (64, (256, 2, 2), False),  # the features are the class token alone
    "timm/efficientvim_m1": (128, (320, 2, 2), False),  # a list of several grids
    "torchvision/shufflenet_v2_x0_5": (64, (1024, 2, 2), True),
    "torchvision/mnasnet0_5": (64, (1280, 2, 2), True),  # pools by mean()
    "torchvision/mobilenet_v3_small": (64, (576, 2, 2), True),
    "torchvision/regnet_y_400mf": (64, (440, 2, 2), True),
    "torchvision/densenet121": (64, (1024, 2, 2), True),  # its last ReLU is no module
    "torchvision/squeezenet1_1": (64, (512, 3, 3), True),  # its classifier pools
    "torchvision/googlenet": (64, (1024, 2, 2), True),  # auxiliary classifiers
    "torchvision/inception_v3": (96, (2048, 1, 1), True),
    "torchvision/swin_t": (64, (768, 2, 2), True),  # channels come last inside
    "torchvision/vit_b_32": (64, (768, 2, 2), False),
}


def make_backbone(name, *, seed=0):
    return create_backbone(name, 7, seed=seed, image_size=MAPS[name][0])


def images(name, num=2):
    size = MAPS[name][0]
    return torch.randn(num, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", MAPS)
def test_maps_and_logits_come_from_one_pass(name):
    size, shape, classifies = MAPS[name]
    model, batch = make_backbone(name).eval(), images(name)
    assert map_shape(model, size) == shape
    assert model.classifies_maps == classifies
    maps, logits = model.maps_and_logits(batch)
    assert maps.shape == (2, *shape)
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()
    torch.testing.assert_close(model.features(batch), maps)
    torch.testing.assert_close(model(batch), logits)
    if classifies:
        torch.testing.assert_close(model.classify(maps), logits)
    else:
        with pytest.raises(ConfigError, match=r"cannot be computed from its maps of shape"):
            model.classify(maps)
    (gradient,) = torch.autograd.grad(logits.sum(), maps, retain_graph=True, allow_unused=True)
    assert (gradient is not None) == classifies
    reached = torch.autograd.grad(maps.square().sum(), list(model.parameters()), allow_unused=True)
    assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in reached)


@pytest.mark.parametrize("name", [name for name in MAPS if name.startswith("torchvision/")])
def test_a_torchvision_backbone_is_the_network_it_is_named_after(name):
    short, size = name.removeprefix("torchvision/"), MAPS[name][0]
    options = {"googlenet": {"aux_logits": False, "init_weights": True}, "vit_b_32": {"image_size": size}}
    options["inception_v3"] = options["googlenet"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(5, "weights"))
        plain = get_model(short, weights=None, num_classes=7, **options.get(short, {}))
    model = make_backbone(name, seed=5)
    assert num_parameters(model) == num_parameters(plain)
    for kind in ("train", "eval"):
        for one in (model, plain):
            getattr(one, kind)()
        logits = []
        for one in (model, plain):
            torch.manual_seed(0)  # dropout and stochastic depth draw the same; batch norm sees the same
            logits.append(one(images(name)))
        torch.testing.assert_close(*logits)


def test_torchvision_maps_are_what_goes_into_its_pooling():
    """Also where what comes before is no module: DenseNet's last ReLU, the concatenation in GoogLeNet."""
    for name, pooling in (
        ("densenet121", None),
        ("squeezenet1_1", None),
        ("googlenet", "avgpool"),
        ("swin_t", "avgpool"),
    ):
        full = f"torchvision/{name}"
        model, seen = make_backbone(full).eval(), []
        if pooling:
            model.head.get_submodule(pooling).register_forward_pre_hook(
                lambda _, inputs, seen=seen: seen.append(inputs[0])
            )
        with torch.no_grad():
            maps, _ = model.maps_and_logits(images(full))
        if pooling:
            assert torch.equal(seen[0], maps)
        else:
            assert maps.min() == 0  # behind its ReLU


def test_class_and_register_tokens_are_dropped_and_the_others_stand_where_their_patch_is():
    for name, num_prefix in (("timm/test_vit", 1), ("timm/vit_tiny_patch16_dinov3_qkvb", 5)):
        model, batch = make_backbone(name).eval(), images(name)
        with torch.no_grad():
            tokens, maps = model.net.forward_features(batch), model.features(batch)
        assert tokens.shape[1] == num_prefix + 16
        torch.testing.assert_close(maps[:, :, 1, 2], tokens[:, num_prefix + 1 * 4 + 2])
    model, batch = make_backbone("torchvision/vit_b_32").eval(), images("torchvision/vit_b_32")
    with torch.no_grad():
        tokens, maps = model.body(batch)["features"], model.features(batch)
    assert torch.equal(maps[:, :, 1, 0], tokens[:, 1 + 1 * 2 + 0])


def test_a_change_of_one_corner_of_the_image_shows_there_first():
    """Axes that were swapped or tokens that were scrambled would show it elsewhere."""
    for name in ("timm/test_mambaout", "torchvision/swin_t", "timm/test_vit"):
        model, size = create_backbone(name, 7, seed=0, image_size=128).eval(), 128
        plain = torch.zeros(1, 3, size, size)
        changed = plain.clone()
        changed[:, :, :32, -32:] = 3  # upper right
        with torch.no_grad():
            difference = (model.features(changed) - model.features(plain)).square().sum(dim=1)[0]
        row, column = divmod(int(difference.argmax()), difference.shape[1])
        assert row < difference.shape[0] / 2 <= column, name


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("timm/test_vit", 70, r"timm/test_vit cannot take images of 70 px: .*70.*divisible by patch size"),
        ("torchvision/vit_b_32", 70, r"torchvision/vit_b_32 cannot take images of 70 px .*indivisible by patch size"),
        ("torchvision/maxvit_t", 64, r"torchvision/maxvit_t cannot take images of 64 px .*partition size"),
    ],
)
def test_a_size_that_a_network_cannot_be_made_for_is_refused(name, size, message):
    with pytest.raises(ConfigError, match=message):
        create_backbone(name, 7, seed=0, image_size=size)


def test_features_that_are_no_maps_are_refused_with_their_shape():
    class Flat(Backbone):
        def features(self, images_BCHW):
            return images_BCHW.flatten(1)

        def drop_head(self):
            pass

    model = Flat()
    model.weight = torch.nn.Parameter(torch.zeros(1))
    with pytest.raises(ConfigError, match=r"shape \(1, 192\); spatial maps \[B, D, H, W\] are needed"):
        map_shape(model, 8)


def test_all_classification_networks_of_torchvision_have_a_name():
    names = list_networks()
    assert len(names) >= 80
    assert not [name for name in names if "fcn" in name or "rcnn" in name or "r3d" in name or "raft" in name]


@pytest.mark.parametrize("name", ["timm/test_vit", "timm/test_mambaout", "torchvision/shufflenet_v2_x0_5"])
def test_ral_trains_any_backbone(name):
    shape = MAPS[name][1]
    evaluator = create_evaluator(EvaluatorTrial(evaluator="set", seed=0), shape, 4)
    evaluator.freeze()
    gradients = {}
    for raf in (1.0, 0.5, 0.0):
        model = make_backbone(name).train()
        torch.manual_seed(0)
        loss = Objective(Method(raf=raf), evaluator.log_probs)(model, images(name, 4), torch.tensor([0, 1, 2, 3]))
        loss.backward()
        gradients[raf] = {key: parameter.grad for key, parameter in model.named_parameters()}
    first = next(key for key, gradient in gradients[0.0].items() if gradient is not None and gradient.abs().sum() > 0)
    for raf in (1.0, 0.5):
        assert gradients[raf][first].abs().sum() > 0
    mixed = 0.5 * gradients[1.0][first] + 0.5 * gradients[0.0][first]
    torch.testing.assert_close(gradients[0.5][first], mixed, rtol=1e-3, atol=1e-6)


def test_dueheadnet_adds_only_where_maps_can_be_classified():
    options = {"image_size": 64, "seed": 0}
    with pytest.raises(
        ConfigError, match=r"fusion add .* TimmBackbone cannot compute logits from maps .*use fusion concat"
    ):
        dueheadnet.create("timm/test_vit", 7, fusion="add", **options)
    for name, fusion in (("timm/test_vit", "concat"), ("timm/test_mambaout", "add")):
        model = dueheadnet.create(name, 7, fusion=fusion, **options).train()
        maps, logits = model.maps_and_logits(images(name))
        assert maps.shape == (2, MAPS[name][1][0] * (2 if fusion == "concat" else 1), *MAPS[name][1][1:])
        F.cross_entropy(logits, torch.tensor([0, 1])).backward()
        for head in (model.first, model.second):
            assert any(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in head.parameters())


def test_every_small_architecture_of_timm_gives_maps():
    """The networks that timm keeps for tests: one of each of its larger families."""
    names = timm.list_models("test_*")
    assert len(names) > 10
    for name in names:
        size = timm.get_pretrained_cfg(name).input_size[-1]
        model = create_backbone(f"timm/{name}", 7, seed=0, image_size=size).eval()
        batch = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
        maps, logits = model.maps_and_logits(batch)
        assert maps.ndim == 4, name
        assert maps.shape[2] == maps.shape[3] > 1, name
        torch.testing.assert_close(model.features(batch), maps, msg=name)
        torch.testing.assert_close(model.net(batch), logits, msg=name)
        assert math.isfinite(float(logits.sum().detach())), name
