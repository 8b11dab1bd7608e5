"""A command that was made from a configuration gives that configuration when it is typed."""

import shlex

import pytest
from click.testing import CliRunner

from fmcs_bench.backbones.options import BackboneOptions
from fmcs_bench.build import runner
from fmcs_bench.cli.main import main
from fmcs_bench.core.errors import ConfigError
from fmcs_bench.hub.build_command import FLAGS, build_call, build_command
from fmcs_bench.store.config import BuildConfig
from fmcs_bench.training.recipes import ConvergenceRule, Recipe

CONFIGS = [
    {},
    {"stages": 9, "seed": 7},
    {"image_dataset": "cifar10", "backbone": "resnet50"},
    {"image_dataset": "cifar10", "image_size": 32, "stages": 7, "epochs": 20},
    {"image_dataset": "hub_uoft-cs_cifar10", "image_size": 64},
    {"image_dataset": "hub_train.parquet"},
    {"image_dataset": "folder_My_Flowers", "limit": 100},
    {"backbone": "timm/vit_tiny_patch16_224", "codec": "q8", "markers": "epoch", "name": "other_1.0"},
    {"runs": 1, "checkpoints": 12, "recipe": Recipe(batch_size=16, lr=3e-3)},
    {"convergence": ConvergenceRule(threshold=0.3)},
    {"recipe": Recipe(lr=1 / 3, precision="bfloat16"), "codec": "q8"},
    {"backbone_options": BackboneOptions(layer="layer3", output_stride=8, pretrained=True)},
    {"backbone_options": BackboneOptions(layer="a b'; rm -rf ~ #")},
]
PYTHON_ONLY = [
    {"recipe": Recipe(optimizer="sgd", momentum=0.5, weight_decay=1e-4), "stages": 5},
    {"recipe": Recipe(name="mine", schedule="constant"), "image_dataset": "folder_x"},
    {"convergence": ConvergenceRule(smoothing_epochs=1.0, window_epochs=2.5)},
]


class ReachedBuilderError(Exception):
    """Ends a command where the work would start."""


@pytest.fixture
def built(monkeypatch):
    """Configurations that reach the builder, in place of building them."""
    found = []

    def note(config, _path, images, *_):
        found.append((config, images.skip_broken))
        raise ReachedBuilderError

    monkeypatch.setattr(runner, "_Build", note)
    return found


def type_command(command, tmp_path):
    words = shlex.split(command)
    assert words[0] == "fmcs-bench"
    result = CliRunner().invoke(main, [*words[1:], "--workspace", str(tmp_path)])
    assert isinstance(result.exception, ReachedBuilderError), result.output


@pytest.mark.parametrize("options", CONFIGS, ids=str)
def test_a_command_gives_its_configuration(options, built, tmp_path):
    config = BuildConfig.create(**({"backbone": "smallcnn"} | options))
    type_command(build_command(config), tmp_path)
    type_command(build_command(config, skip_broken=True), tmp_path)
    assert built == [(config, False), (config, True)]


@pytest.mark.parametrize("options", CONFIGS + PYTHON_ONLY, ids=str)
def test_a_call_gives_its_configuration(options, built, tmp_path, monkeypatch):
    monkeypatch.setenv("FMCS_BENCH_WORKSPACE", str(tmp_path))
    config = BuildConfig.create(**({"backbone": "smallcnn"} | options))
    with pytest.raises(ReachedBuilderError):
        exec(build_call(config, skip_broken=True), {})  # noqa: S102  (our own code is what is tested)
    assert built == [(config, True)]


@pytest.mark.parametrize("options", PYTHON_ONLY, ids=str)
def test_what_has_no_option_is_said(options):
    config = BuildConfig.create(**({"backbone": "smallcnn"} | options))
    with pytest.raises(ConfigError, match=r"has no option for (recipe|convergence)\.\w+.*fmcs_bench\.build in Python"):
        build_command(config)


def test_only_what_differs_from_the_defaults_is_typed():
    assert build_command(BuildConfig.create(backbone="smallcnn")) == "fmcs-bench build --backbone smallcnn"
    config = BuildConfig.create(backbone="resnet50", image_dataset="mnist", stages=9, image_size=32)
    assert build_command(config) == "fmcs-bench build --backbone resnet50 --dataset mnist --image-size 32"


def test_every_option_of_the_command_that_decides_the_data_is_known():
    """A new option of ``fmcs-bench build`` belongs into the commands of cards, or is named here."""
    elsewhere = {"--backbone", "--dataset", "--download", "--skip-broken", "--stream-images", "--data-dir"}
    elsewhere |= {"--workspace", "--device", "--json", "--engine", "--address", "--unit-cpus", "--unit-gpus"}
    options = {option.opts[0] for option in main.commands["build"].params} - elsewhere
    assert options >= set(FLAGS.values())
