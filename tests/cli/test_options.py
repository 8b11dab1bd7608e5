"""Click options from the fields of ``Options`` classes."""

import click
import pytest
from click.testing import CliRunner

from fmcs_bench.backbones.options import BackboneOptions
from fmcs_bench.cli.options import made, options_of, typed
from fmcs_bench.core.errors import ConfigError
from fmcs_bench.core.options import typed_words
from fmcs_bench.images.options import ImageOptions
from fmcs_bench.store.config import BuildConfig
from fmcs_bench.training.recipes import ConvergenceRule, Recipe
from fmcs_bench.training_track.options import TrainOptions


def type_words(kind, words):
    found = []

    @click.command()
    @options_of(kind)
    def command(**values):
        found.append(typed(kind, values))
        assert values == {}

    result = CliRunner().invoke(command, words)
    assert result.exit_code == 0, result.output
    return found[0]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"image_dataset": "cifar10", "limit": 9, "codec": "q8", "markers": "epoch", "seed": 3, "name": "v2"},
        {"recipe": Recipe(optimizer="sgd", lr=1 / 3, momentum=0.5, augmentation="flip"), "stages": 5},
        {"convergence": ConvergenceRule(smoothing_epochs=1.0, window_epochs=2.5, threshold=0.3)},
        {"backbone_options": BackboneOptions(layer="a b'; rm -rf ~ #", output_stride=8, pretrained=True)},
    ],
    ids=str,
)
def test_the_words_of_a_configuration_give_it_again(options):
    config = BuildConfig.create(backbone="smallcnn", **options)
    words = typed_words(config, BuildConfig.create(backbone="smallcnn", image_dataset=config.image_dataset))
    given = ["--backbone", "smallcnn", "--dataset", config.image_dataset, *words]
    assert BuildConfig.create(**type_words(BuildConfig, given)) == config


def test_what_no_option_sets_is_an_error():
    base = BuildConfig.create(backbone="smallcnn")
    with pytest.raises(ConfigError, match=r"recipe\.name"):
        typed_words(BuildConfig.create(backbone="smallcnn", recipe=Recipe(name="mine")), base)


@pytest.mark.parametrize("streams", [True, False])
def test_a_switch_has_three_states(streams):
    words = ["--stream-images" if streams else "--no-stream-images"]
    assert type_words(ImageOptions, words)["stream_images"] is streams
    assert "stream_images" not in type_words(ImageOptions, [])


def test_an_option_that_is_repeated_becomes_a_tuple():
    words = ["--method", "ral", "--method", "baseline", "--raf", "0.9", "--raf", "0.5"]
    options = made(TrainOptions, type_words(TrainOptions, words))
    assert (options.methods, options.rafs) == (("ral", "baseline"), (0.9, 0.5))
