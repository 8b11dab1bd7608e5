"""A layer's maps, output stride, published weights."""

import hashlib
import http.server
import json
import threading
from functools import partial

import huggingface_hub
import pytest
import timm
import torch
from click.testing import CliRunner
from conftest import build_tiny
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torchvision.models import ShuffleNet_V2_X0_5_Weights, get_model

from fmcs_bench.backbones import dueheadnet
from fmcs_bench.backbones.create import create_backbone, map_shape
from fmcs_bench.backbones.layers import Form, LayerBackbone
from fmcs_bench.backbones.options import BackboneOptions
from fmcs_bench.cli.main import main
from fmcs_bench.core.errors import ConfigError, MissingDataError, UnknownNameError
from fmcs_bench.store.config import BuildConfig
from fmcs_bench.training.trajectory import load_checkpoint, save_checkpoint
from fmcs_bench.training_track.networks import make_network

SIZE = 64
IMAGES = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
SHUFFLE = "torchvision/shufflenet_v2_x0_5"


def create(name, *, seed=0, size=SIZE, num_classes=7, **options):
    return create_backbone(name, num_classes, seed=seed, image_size=size, options=BackboneOptions(**options))


# ---- layer


@pytest.mark.parametrize(
    ("name", "layer", "shape"),
    [
        ("timm/resnet10t", "layer3", (256, 4, 4)),
        ("torchvision/resnet18", "layer3", (256, 4, 4)),
        ("torchvision/resnet18", "layer3.1.bn1", (256, 4, 4)),
        ("timm/test_vit", "blocks.2", (64, 4, 4)),
        ("timm/test_vit", "patch_embed.proj", (64, 4, 4)),
        ("timm/test_vit", "blocks.0.mlp.fc2", (64, 4, 4)),
        ("timm/test_mambaout", "stages.2", (48, 4, 4)),
        ("timm/test_convnext", "stages.0.blocks.0.mlp.fc1", (96, 16, 16)),  # channels last, in a network that is not
        ("torchvision/swin_t", "features.3", (192, 8, 8)),
        ("torchvision/swin_t", "features.0.0", (96, 16, 16)),
        ("torchvision/vit_b_32", "encoder.layers.encoder_layer_5", (768, 2, 2)),
        ("smallcnn", "body.1", (32, 16, 16)),
        ("shufflenet_v2", "body.3", (232, 4, 4)),
    ],
)
def test_a_layers_maps_are_its_output_and_the_logits_those_of_the_whole_network(name, layer, shape):
    model, whole = create(name, layer=layer).eval(), create(name).eval()
    assert map_shape(model, SIZE) == shape
    with torch.no_grad():
        maps, logits = model.maps_and_logits(IMAGES)
        torch.testing.assert_close(logits, whole(IMAGES))
        assert torch.equal(model.features(IMAGES), maps)
    assert not model.classifies_maps


@pytest.mark.parametrize("name", ["timm/resnet10t", "torchvision/resnet18"])
def test_an_activation_in_place_does_not_reach_the_captured_maps(name):
    model = create(name, layer="layer3.0.bn1").train()
    activation = dict(model.net.named_modules())["layer3.0.relu" if "torchvision" in name else "layer3.0.act1"]
    assert activation.inplace
    maps, logits = model.maps_and_logits(IMAGES)
    assert maps.min() < 0  # behind batch norm and not behind ReLU
    (maps.square().mean() + logits.square().mean()).backward()
    assert model.net.layer3[0].conv1.weight.grad.abs().sum() > 0
    assert model.net.fc.weight.grad.abs().sum() > 0
    model.eval()
    with torch.no_grad():
        assert torch.equal(model.features(IMAGES), model.maps_and_logits(IMAGES)[0])


def test_features_stop_at_the_layer():
    model = create("torchvision/resnet18", layer="layer2").eval()
    ran = []
    model.net.layer3.register_forward_hook(lambda *_: ran.append("layer3"))
    with torch.no_grad():
        model.features(IMAGES)  # the first pass finds out how often the layer runs
        ran.clear()
        model.features(IMAGES)
        assert ran == []
        model.maps_and_logits(IMAGES)
        assert ran == ["layer3"]


def test_a_layer_that_runs_twice_gives_its_last_output():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.ReLU()

        def forward(self, images):
            return self.act(self.act(images) - 1).mean(dim=(2, 3))

    model = LayerBackbone(Twice(), "act", Form(), SIZE)
    for _ in range(2):
        assert torch.equal(model.features(IMAGES), (IMAGES.relu() - 1).relu())


def test_an_unknown_layer_comes_with_the_nearest():
    with pytest.raises(UnknownNameError, match=r"no layer 'layr3'; did you mean layer3"):
        create("timm/resnet10t", layer="layr3")
    with pytest.raises(UnknownNameError, match=r"no layer 'zzz'; known are: .*conv1.*layer4") as caught:
        create("torchvision/resnet18", layer="zzz")
    assert "layer4.0" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "layer", "message"),
    [
        ("timm/resnet10t", "global_pool", r"layer 'global_pool': features of the shape \(1, 512\) are no maps"),
        ("torchvision/resnet18", "fc", r"layer 'fc': features of the shape \(1, 7\) are no maps"),
        ("timm/test_vit", "blocks.0.attn.q_norm", r"shape \(1, \d, 17, \d+\) are no maps"),
    ],
)
def test_a_layer_whose_output_is_no_map_is_refused_with_its_shape(name, layer, message):
    with pytest.raises(ConfigError, match=message):
        map_shape(create(name, layer=layer), SIZE)


def test_a_container_that_never_runs_is_refused():
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([nn.Conv2d(3, 4, 1)])

        def forward(self, images):
            return self.blocks[0](images).mean(dim=(2, 3))

    with pytest.raises(ConfigError, match=r"the layer 'blocks' never runs as a module of its own"):
        map_shape(LayerBackbone(Loop(), "blocks", Form(), SIZE), SIZE)


def test_dueheadnet_takes_a_layer_and_keeps_no_parameter_that_it_does_not_use():
    options = BackboneOptions(layer="layer2")
    with pytest.raises(ConfigError, match=r"fusion add .* LayerBackbone cannot compute logits from maps"):
        dueheadnet.create("timm/resnet10t", 7, fusion="add", image_size=SIZE, seed=0, options=options)
    model = dueheadnet.create("timm/resnet10t", 7, fusion="concat", image_size=SIZE, seed=0, options=options).train()
    maps, logits = model.maps_and_logits(IMAGES)
    assert maps.shape == (2, 256, 8, 8)
    F.cross_entropy(logits, torch.tensor([0, 1])).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    single = create_backbone("timm/resnet10t", 7, seed=0, image_size=SIZE, options=options)
    assert torch.equal(model.first.net.layer2[0].conv1.weight, single.net.layer2[0].conv1.weight)


# ---- output stride


@pytest.mark.parametrize("name", ["resnet50", "torchvision/resnet50", "timm/test_efficientnet"])
def test_an_output_stride_makes_the_maps_larger(name):
    sides = {stride: map_shape(create(name, output_stride=stride), SIZE)[1] for stride in (8, 16, 32)}
    assert sides == {8: 8, 16: 4, 32: 2}
    strided, plain = (create(name, output_stride=stride).state_dict() for stride in (8, None))
    assert strided.keys() == plain.keys()
    assert all(torch.equal(strided[key], value) for key, value in plain.items())


@pytest.mark.parametrize(
    "name", ["smallcnn", "shufflenet_v2", "torchvision/resnet18", SHUFFLE, "timm/test_vit", "timm/test_maxvit"]
)
def test_a_network_without_that_output_stride_says_so(name):
    with pytest.raises(ConfigError, match=rf"output stride of {name}|{name} has no output stride"):
        create(name, output_stride=8)


# ---- published weights


@pytest.fixture
def served(tmp_path, monkeypatch):
    """torchvision's own loading, from a server here: a random network stands for the published one."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "web"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()

        def publish(value, digest=None):
            torch.save(value, folder / "weights")
            sha256 = hashlib.sha256((folder / "weights").read_bytes()).hexdigest()
            name = f"net-{digest or sha256[:8]}.pth"
            (folder / "weights").rename(folder / name)
            url = f"http://127.0.0.1:{server.server_port}/{name}"
            monkeypatch.setattr(ShuffleNet_V2_X0_5_Weights.DEFAULT.value, "url", url)
            return tmp_path / "torch" / "hub" / "checkpoints" / name

        yield publish
        server.shutdown()
        thread.join()


def published_shufflenet():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        return get_model("shufflenet_v2_x0_5", weights=None).state_dict()


def test_torchvision_weights_are_the_body_and_the_seed_decides_the_head(served, capfd):
    published = published_shufflenet()
    cached = served(published)
    first, again, other = (create(SHUFFLE, seed=seed, pretrained=True).state_dict() for seed in (3, 3, 4))
    plain = create(SHUFFLE, seed=3).state_dict()
    assert cached.exists()
    assert capfd.readouterr().out == ""  # torch.hub says "Downloading" there, where results go
    for key, value in first.items():
        assert torch.equal(value, again[key])
        if key.startswith("head."):
            assert torch.equal(value, plain[key])
            assert not torch.equal(value, other[key])
        else:
            assert torch.equal(value, published[key.removeprefix("body.")])
            assert torch.equal(value, other[key])


def test_a_checkpoint_of_a_pretrained_run_is_read_without_the_published_weights(served, tmp_path):
    cached = served(published_shufflenet())
    options = BackboneOptions(pretrained=True)
    config = BuildConfig.create(backbone=SHUFFLE, backbone_options=options, image_size=SIZE)
    model = create(SHUFFLE, pretrained=True)
    save_checkpoint(model, tmp_path / "c.safetensors")
    cached.unlink()
    with torch.no_grad():
        loaded = load_checkpoint(config, 7, tmp_path / "c.safetensors")
        torch.testing.assert_close(loaded(IMAGES), model.eval()(IMAGES))
    assert not cached.exists()


def test_weights_that_lack_a_part_or_have_another_are_refused(served):
    state = published_shufflenet()
    served({key: value for key, value in state.items() if not key.startswith("conv5")})
    with pytest.raises(ConfigError, match=r"cannot be used: these weights do not fit: conv5\.0\.weight"):
        create(SHUFFLE, pretrained=True)
    served(state | {"extra.weight": torch.zeros(1)})
    with pytest.raises(ConfigError, match=r"these weights do not fit: extra\.weight"):
        create(SHUFFLE, pretrained=True)


def test_a_pickle_is_not_run(served, tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("sprung").touch, ())

    served({"conv1.0.weight": Trap()})
    with pytest.raises(ConfigError, match=r"are no plain weights"):
        create(SHUFFLE, pretrained=True)
    assert not (tmp_path / "sprung").exists()


def test_a_file_that_is_not_the_published_one_is_refused(served):
    cached = served(published_shufflenet(), digest="0" * 8)
    with pytest.raises(ConfigError, match="cannot be used: invalid hash value"):
        create(SHUFFLE, pretrained=True)
    cached.parent.mkdir(parents=True, exist_ok=True)
    cached.write_bytes(b"half a file")
    with pytest.raises(ConfigError, match=r"damaged: its SHA-256 does not begin with 0{8}; delete it"):
        create(SHUFFLE, pretrained=True)


def test_weights_that_cannot_be_fetched_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(ShuffleNet_V2_X0_5_Weights.DEFAULT.value, "url", "http://127.0.0.1:9/net-00000000.pth")
    command = ["build", "--backbone", SHUFFLE, "--pretrained", "--workspace", str(tmp_path / "w"), "--device", "cpu"]
    result = CliRunner().invoke(main, [*command, "--limit", "60"])
    assert result.exit_code == 2
    assert "cannot be fetched from http://127.0.0.1:9/net-00000000.pth" in result.stderr
    assert "refused" in result.stderr
    for way in ("connect this machine", "TORCH_HOME", "leave out --pretrained"):
        assert way in result.stderr
    assert "Traceback" not in result.output


def test_timm_weights_are_the_body_and_the_seed_decides_the_head(hub):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        published = timm.create_model("test_resnet").state_dict()
    hub("timm/test_resnet.r160_in1k", published)
    for num_classes in (7, 1000):
        options = {"num_classes": num_classes, "pretrained": True}
        first, other = (create("timm/test_resnet", seed=seed, **options).state_dict() for seed in (3, 4))
        plain = create("timm/test_resnet", seed=3, num_classes=num_classes).state_dict()
        for key, value in first.items():
            if key.startswith("net.fc."):
                assert torch.equal(value, plain[key])
                assert not torch.equal(value, other[key]) or "bias" in key
            else:
                assert torch.equal(value, published[key.removeprefix("net.")])
    pair = dueheadnet.create(
        "timm/test_resnet", 7, fusion="concat", image_size=SIZE, seed=0, options=BackboneOptions(pretrained=True)
    )
    assert torch.equal(pair.first.net.layer1[0].conv1.weight, published["layer1.0.conv1.weight"])
    assert not torch.equal(pair.second.net.layer1[0].conv1.weight, published["layer1.0.conv1.weight"])


def test_timm_weights_that_leave_the_body_random_are_refused(hub):
    state = timm.create_model("test_resnet").state_dict()
    hub("timm/test_resnet.r160_in1k", {key: value for key, value in state.items() if not key.startswith("layer3")})
    with pytest.raises(ConfigError, match=r"timm/test_resnet lack layer3\.0\.conv1\.weight.* partly random"):
        create("timm/test_resnet", pretrained=True)


def test_without_a_connection_the_cache_is_used_at_once(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    message = r"cannot be fetched from huggingface.co/timm/test_resnet.r160_in1k \(127\.0\.0\.1: .*refused\).*HF_HOME"
    with pytest.raises(MissingDataError, match=message):
        create("timm/test_resnet", pretrained=True)
    hub("timm/test_resnet.r160_in1k", timm.create_model("test_resnet").state_dict())
    create("timm/test_resnet", pretrained=True)
    assert not huggingface_hub.constants.HF_HUB_OFFLINE


@pytest.mark.parametrize("name", ["smallcnn", "shufflenet_v2", "timm/seresnet18"])
def test_a_network_without_published_weights_says_so(name):
    with pytest.raises(ConfigError, match=r"no (published )?weights.*leave out --pretrained"):
        create(name, pretrained=True)


# ---- the whole way


def test_a_dataset_of_a_layer_is_built_trained_on_and_verified(tmp_path):
    import fmcs_bench as fb

    options = BackboneOptions(layer="body.1")
    dataset = build_tiny(tmp_path, backbone_options=options, name="layer")
    assert dataset.manifest.map_shape == (32, 4, 4)
    assert dataset.manifest.to_json()["config"]["backbone_options"]["layer"] == "body.1"
    assert build_tiny(tmp_path, backbone_options=options, name="layer").id == dataset.id
    with pytest.raises(ConfigError, match=r"backbone_options: .*body\.1.* there, None wanted"):
        build_tiny(tmp_path, name="layer")
    report = fb.verify(dataset.path, recompute=2, device="cpu")
    assert not report.faults, report
    fb.evaluate(dataset, evaluators=["set"], seeds=1, workspace=tmp_path, device="cpu")
    board = fb.train(
        dataset, methods=["baseline", "ral", "dueheadnet-concat-none"], rafs=[0.9], seeds=1, epochs=1,
        workspace=tmp_path, device="cpu",
    )  # fmt: skip
    units = [record.trial for row in board.rows for point in row.sweep for record in point.records]
    assert {unit.backbone_options for unit in units} == {options}
    assert isinstance(make_network(units[0], 10), LayerBackbone)
    with pytest.raises(ConfigError, match="fusion add"):
        fb.train(dataset, methods=["dueheadnet-add-none"], seeds=1, epochs=1, workspace=tmp_path, device="cpu")


def test_build_takes_the_options(tmp_path):
    command = ["build", "--backbone", "resnet50", "--layer", "layr3", "--image-size", "32", "--limit", "60"]
    result = CliRunner().invoke(main, [*command, "--workspace", str(tmp_path), "--device", "cpu"])
    assert result.exit_code == 2
    assert "no layer 'layr3'; did you mean layer3" in result.stderr
    result = CliRunner().invoke(main, [*command[:3], "--output-stride", "12", "--workspace", str(tmp_path)])
    assert result.exit_code == 2
    assert "12" in result.stderr
    assert "16" in result.stderr


def test_list_backbones_shows_maps_and_why_there_are_none():
    command = ["list", "backbones", "--size", "70", "--name", "smallcnn", "--name", "timm/test_vit"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    small, vit = (line for line in result.stdout.splitlines() if line.startswith(("smallcnn", "timm/")))
    assert small.split()[1:8] == ["64", "x", "9", "x", "9", "24,346", "10,368"]
    assert "divisible by patch size" in vit
    rows = json.loads(CliRunner().invoke(main, [*command, "--json"]).stdout)
    assert rows[0]["map_shape"] == [64, 9, 9]
    assert rows[0]["map_bytes"] == 2 * 64 * 81
    assert rows[1]["map_shape"] is None
    for wrong in (["list", "methods", "--size", "70"], ["list", "backbones", "--name", "smallcnn"]):
        assert CliRunner().invoke(main, wrong).exit_code == 2
