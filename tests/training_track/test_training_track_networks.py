import numpy as np
import pytest
import timm
import torch
from helpers.small_training import frozen_evaluator

from fmcs_bench.backbones import dueheadnet
from fmcs_bench.backbones.create import create_backbone, find_backbone, num_parameters
from fmcs_bench.backbones.options import BackboneOptions
from fmcs_bench.core.errors import ConfigError, MissingDataError, UnknownNameError
from fmcs_bench.training.loop import Batches
from fmcs_bench.training.methods import Method
from fmcs_bench.training_track import networks
from fmcs_bench.training_track.networks import equal_parameters, longer, observe

NONE = BackboneOptions()
IMAGES = torch.randn(20, 3, 16, 16, generator=torch.Generator().manual_seed(0))
DATA = Batches(IMAGES, torch.arange(20) % 10, lambda inputs: inputs)


def test_a_wider_smallcnn_has_the_parameters_of_dueheadnet():
    name = equal_parameters("smallcnn", NONE, num_classes=10, image_size=16)
    due = num_parameters(dueheadnet.create("smallcnn", 10, fusion="add", image_size=16, seed=0))
    own = num_parameters(create_backbone(name, 10, seed=0))
    assert abs(own / due - 1) < 0.05
    others = [num_parameters(create_backbone(f"smallcnn/{w}", 10, seed=0)) for w in range(17, 33)]
    assert abs(np.log(own / due)) == min(abs(np.log(np.array(others) / due)))


def test_a_network_of_a_family_has_the_parameters_of_dueheadnet():
    kind = "torchvision/shufflenet_v2_x1_5"
    assert equal_parameters("shufflenet_v2", NONE, num_classes=10, image_size=32) == kind
    assert equal_parameters("torchvision/shufflenet_v2_x1_0", NONE, num_classes=10, image_size=32) == kind


def test_where_no_network_is_near_the_message_says_so():
    with pytest.raises(ConfigError, match=r"DueHeadNet of torchvision/shufflenet_v2_x2_0 has .* more than 25% away"):
        equal_parameters("torchvision/shufflenet_v2_x2_0", NONE, num_classes=10, image_size=32)
    with pytest.raises(ConfigError, match=r"no larger network of the kind of timm/test_resnet.* --method single-NAME"):
        equal_parameters("timm/test_resnet", NONE, num_classes=10, image_size=32)


@pytest.mark.parametrize("width", ["0", "x", "", "2000", "1.5", "016"])
def test_a_width_is_a_number(width):
    with pytest.raises(UnknownNameError, match=f"no width '{width}'"):
        find_backbone(f"smallcnn/{width}")


def test_longer_costs_what_ral_costs():
    options = {"epochs": 10, "num_classes": 10, "image_size": 16}
    conv = longer("smallcnn", NONE, frozen_evaluator(name="conv").log_probs, **options)
    assert conv == longer("smallcnn", NONE, frozen_evaluator(name="conv").log_probs, **options)
    # By hand, in multiply-adds of an image of 16 px: the first layer gets no gradient of its input, the evaluator
    # none of its weights.
    own = [8 * 8 * 27 * 16, 4 * 4 * 9 * 16 * 32, 2 * 2 * 9 * 32 * 64, 64 * 10]
    evaluator = [2 * 2 * 9 * 64 * 64, 2 * 2 * 9 * 64 * 64, 64 * 4]
    expected = 1 + 2 * sum(evaluator) / (2 * own[0] + 3 * sum(own[1:]))
    assert conv.flops_ratio == pytest.approx(expected, rel=1e-6)
    assert conv.epochs == int(np.ceil(10 * conv.flops_ratio))


def test_observing_counts_and_scores_and_changes_nothing():
    model = create_backbone("smallcnn", 10, seed=0)
    evaluator = frozen_evaluator(name="conv")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(3)
    expected_next = torch.rand(1)
    torch.manual_seed(3)
    predicted, score = observe(model, DATA, evaluator.log_probs)
    assert torch.equal(torch.rand(1), expected_next)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        maps = model.eval().features(IMAGES)
        assert torch.equal(predicted, model(IMAGES).argmax(dim=1))
        probs = evaluator.log_probs(maps).exp().double().numpy()
    assert score == pytest.approx((probs @ np.arange(1, 5)).mean())
    assert observe(model, DATA)[1] is None


@pytest.mark.parametrize("fusion", ["add", "concat"])
def test_two_heads_are_scored_as_they_are_judged(fusion):
    model = dueheadnet.create("smallcnn", 10, fusion=fusion, image_size=16, seed=0).eval()
    evaluator = frozen_evaluator(name="conv")
    with torch.no_grad():
        first, second = model.heads(IMAGES)
        evaluated = [first + second] if fusion == "add" else [first, second]
        expected = np.mean([(evaluator.log_probs(m).exp() @ torch.arange(1.0, 5.0)).mean() for m in evaluated])
    assert observe(model, DATA, evaluator.log_probs)[1] == pytest.approx(expected, rel=1e-5)


def test_the_score_of_a_certain_evaluator_is_its_stage():
    model = create_backbone("smallcnn", 10, seed=0)
    for stage in (0, 3):
        certain = torch.full((4,), -torch.inf)
        certain[stage] = 0
        score = observe(model, DATA, lambda maps, c=certain: c.expand(len(maps), 4))[1]
        assert score == stage + 1


PUBLISHED = Method(network="dueheadnet", fusion="concat", backbone="timm/test_resnet", pretrained_first=True)


def test_the_first_head_is_published_and_the_second_is_not(hub):
    published = timm.create_model("test_resnet").state_dict()
    hub("timm/test_resnet.r160_in1k", published)
    network = networks.make(PUBLISHED, "smallcnn", NONE, num_classes=10, image_size=32, seed=1)
    assert torch.equal(network.first.net.layer1[0].conv1.weight, published["layer1.0.conv1.weight"])
    assert not torch.equal(network.second.net.layer1[0].conv1.weight, published["layer1.0.conv1.weight"])


@pytest.mark.usefixtures("hub")
def test_published_weights_that_cannot_be_had_are_an_error():
    with pytest.raises(MissingDataError, match=r"cannot be fetched from huggingface\.co/timm/test_resnet"):
        networks.make(PUBLISHED, "smallcnn", NONE, num_classes=10, image_size=32, seed=1)
    method = PUBLISHED.model_copy(update={"backbone": None})
    with pytest.raises(ConfigError, match="smallcnn has no published weights"):
        networks.make(method, "smallcnn", NONE, num_classes=10, image_size=32, seed=1)
