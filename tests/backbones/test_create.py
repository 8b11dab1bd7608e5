import pytest
import timm
import torch
from torch import nn
from torchvision.models import shufflenet_v2_x1_0

from fmcs_bench.backbones import dueheadnet
from fmcs_bench.backbones.create import BACKBONES, create_backbone, find_backbone, map_shape, num_parameters
from fmcs_bench.core.errors import ConfigError, UnknownNameError
from fmcs_bench.core.seeding import derive

SIZE = 64
IMAGES = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
LARGE = {"seresnet34", "seresnet50", "seresnet101", "seresnet152"}
SHAPES = {
    "smallcnn": (64, 8, 8),
    "resnet50": (2048, 2, 2),
    "shufflenet_v2": (1024, 2, 2),
    "seresnet18": (512, 2, 2),
}


def underlying(name, num_classes):
    if name == "shufflenet_v2":
        return shufflenet_v2_x1_0(weights=None, num_classes=num_classes)
    return timm.create_model(name.removeprefix("timm/"), num_classes=num_classes)


@torch.no_grad()
def run_batch_norm(module):
    """Make running statistics that are not those of a fresh network, so that eval mode is told from train mode."""
    module.train()(IMAGES)
    return module.eval()


def test_every_name_is_tested_here_or_known_to_timm():
    assert set(BACKBONES) == SHAPES.keys() | LARGE
    for name in LARGE:
        assert timm.is_model(name)
        find_backbone(name)


@pytest.mark.parametrize("name", SHAPES)
def test_maps_are_spatial_and_classify_gives_the_logits(name):
    model = create_backbone(name, 7, seed=0).eval()
    with torch.no_grad():
        maps = model.features(IMAGES)
        logits = model.classify(maps)
        assert maps.shape == (2, *SHAPES[name])
        assert map_shape(model, SIZE) == SHAPES[name]
        assert logits.shape == (2, 7)
        assert torch.equal(model(IMAGES), logits)
    assert maps.min() >= 0  # the last map is behind a ReLU


@pytest.mark.parametrize("name", ["resnet50", "shufflenet_v2", "seresnet18", "timm/resnet10t"])
def test_a_backbone_is_the_network_it_is_named_after(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(5, "weights"))
        plain = run_batch_norm(underlying(name, 7))
    model = run_batch_norm(create_backbone(name, 7, seed=5))
    assert num_parameters(model) == sum(p.numel() for p in plain.parameters())
    with torch.no_grad():
        torch.testing.assert_close(model(IMAGES), plain(IMAGES))


@pytest.mark.parametrize("name", ["smallcnn", "shufflenet_v2", "timm/resnet10t"])
def test_the_seed_alone_decides_the_weights(name):
    torch.manual_seed(1)
    first = create_backbone(name, 10, seed=3).state_dict()
    torch.manual_seed(2)
    again, other = (create_backbone(name, 10, seed=seed).state_dict() for seed in (3, 4))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_the_global_random_state_stays_as_it_was():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    create_backbone("smallcnn", 10, seed=3)
    dueheadnet.create("smallcnn", 10, fusion="concat", image_size=16, seed=3)
    assert torch.equal(torch.rand(3), expected)


def test_an_unknown_backbone_comes_with_the_nearest():
    for name, message in (
        ("resnet5", "unknown backbone 'resnet5'; did you mean .*resnet50"),
        ("timm/resnet5", "timm has no network 'resnet5'; did you mean .*resnet50"),
        ("timm/../../x", r"timm has no network '\.\./\.\./x'; known are"),
        ("timm/resnet50.a1_in2k", "no weights 'a1_in2k' of 'resnet50'; did you mean .*a1_in1k"),
        ("torchvision/resnet5", "no classification network 'resnet5'; did you mean .*resnet50"),
        ("torchvision/fcn_resnet50", "no classification network 'fcn_resnet50'"),  # it is there, but it segments
        ("timn/resnet50", "unknown backbone 'timn/resnet50'"),
    ):
        with pytest.raises(UnknownNameError, match=message):
            find_backbone(name)


def test_a_size_that_a_network_cannot_take_is_refused():
    with pytest.raises(ConfigError, match=r"this backbone cannot take images of 224 px: .*window"):
        map_shape(create_backbone("timm/test_maxvit", 10, seed=0), 224)


def test_finding_the_shape_changes_nothing():
    model = create_backbone("smallcnn", 10, seed=0).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert map_shape(model, 32) == (64, 4, 4)
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert map_shape(model.eval(), 30) == (64, 4, 4)
    assert not model.training


@pytest.mark.parametrize("name", ["smallcnn", "shufflenet_v2", "timm/resnet10t"])
def test_a_dropped_head_takes_its_parameters_and_leaves_the_maps(name):
    model = create_backbone(name, 10, seed=0).eval()
    num_channels = map_shape(model, SIZE)[0]
    before = num_parameters(model)
    with torch.no_grad():
        maps = model.features(IMAGES)
        model.drop_head()
        assert torch.equal(model.features(IMAGES), maps)
    assert before - num_parameters(model) == 10 * num_channels + 10


# ---- DueHeadNet


@pytest.mark.parametrize("base", ["smallcnn", "timm/resnet10t"])
@pytest.mark.parametrize("fusion", ["add", "concat"])
def test_the_first_head_is_the_single_network_of_the_same_seed_and_the_second_another(base, fusion):
    single = create_backbone(base, 10, seed=6).state_dict()
    model = dueheadnet.create(base, 10, fusion=fusion, image_size=SIZE, seed=6)
    first, second = model.first.state_dict(), model.second.state_dict()
    missing = single.keys() - first.keys()
    assert len(missing) == (0 if fusion == "add" else 2)
    assert all(torch.equal(single[key], value) for key, value in first.items())
    assert second.keys() < single.keys()
    weights = [key for key, value in second.items() if value.ndim == 4]
    assert not any(torch.equal(first[key], second[key]) for key in weights)


@pytest.mark.parametrize("base", ["smallcnn", "shufflenet_v2"])
def test_no_parameter_is_left_that_the_logits_do_not_use(base):
    num_channels = SHAPES[base][0]
    single = num_parameters(create_backbone(base, 10, seed=0))
    body = single - (num_channels * 10 + 10)
    sizes = {
        "add": 2 * body + num_channels * 10 + 10,
        "concat": 2 * body + (2 * num_channels * 512 + 512) + (512 * 10 + 10),
    }
    for fusion, expected in sizes.items():
        model = dueheadnet.create(base, 10, fusion=fusion, image_size=SIZE, seed=0).train()
        model(IMAGES).square().sum().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        assert num_parameters(model) == expected


def test_add_sums_the_maps_and_concat_puts_them_side_by_side():
    for fusion, num_channels in (("add", 64), ("concat", 128)):
        model = dueheadnet.create("smallcnn", 10, fusion=fusion, image_size=SIZE, seed=0).eval()
        with torch.no_grad():
            first, second = model.heads(IMAGES)
            maps = model.features(IMAGES)
            assert torch.equal(model(IMAGES), model.classify(maps))
            assert fusion == "concat" or torch.equal(model.classify(maps), model.first.classify(maps))
        assert maps.shape[1] == num_channels
        assert torch.equal(maps, first + second if fusion == "add" else torch.cat([first, second], dim=1))
        assert map_shape(model, SIZE) == (num_channels, 8, 8)
    assert [type(layer) for layer in model.head] == [nn.Linear, nn.GELU, nn.Dropout, nn.Linear]
    assert model.head[2].p == 0.5


@pytest.mark.parametrize("fusion", ["add", "concat"])
def test_a_dueheadnet_can_lose_its_head_too(fusion):
    model = dueheadnet.create("smallcnn", 10, fusion=fusion, image_size=SIZE, seed=0)
    model.drop_head()
    body = num_parameters(create_backbone("smallcnn", 10, seed=0)) - 650
    assert num_parameters(model) == 2 * body
