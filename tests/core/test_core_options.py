import math
from itertools import product
from pathlib import PurePosixPath

import pytest
from helpers import record_factory as factory
from pydantic import ValidationError

from fmcs_bench.backbones.options import BackboneOptions
from fmcs_bench.core.errors import ConfigError, UnknownNameError
from fmcs_bench.core.options import Options
from fmcs_bench.results.trials import EvaluatorTrial, Longer
from fmcs_bench.store.config import BuildConfig
from fmcs_bench.training.methods import Method
from fmcs_bench.training.recipes import RECIPE_EPOCHS, RECIPES, ConvergenceRule, Recipe, recipe

CONFIG = BuildConfig.create(backbone="smallcnn")
SPECIMENS = [
    Recipe(),
    recipe("dueheadnet-readme", augmentation="crop-flip"),
    Recipe(name="x", optimizer="sgd", lr=1 / 3, momentum=0.0, weight_decay=1e-4, schedule="constant", batch_size=7),
    ConvergenceRule(smoothing_epochs=0.1, window_epochs=2.5, threshold=1e-9),
    CONFIG,
    BuildConfig.create(backbone="timm/resnet10t", image_dataset="mnist", limit=3, recipe=Recipe(lr=0.5), name="v2.1_x"),
    BackboneOptions(layer="layer3.0", output_stride=8, pretrained=True),
    BuildConfig.create(backbone="resnet50", backbone_options=BackboneOptions(output_stride=16)),
    EvaluatorTrial(evaluator="conv", seed=3, limit=10),
    Method(),
    Method(raf=0.1 + 0.2),
    Method(network="dueheadnet", fusion="concat", constraint="align", constraint_weight=0.3, raf=0.0),
    factory.environment(),
    factory.metrics(0.5),
    factory.evaluator_record(spearman=None),
    factory.training_record(0.9),
]


@pytest.mark.parametrize("options", SPECIMENS, ids=lambda options: type(options).__name__)
def test_options_come_back_from_json_equal_and_with_an_equal_digest(options):
    again = type(options).from_json(options.to_json())
    assert again == options
    assert again.digest == options.digest
    assert again.to_json() == options.to_json()


def test_a_configuration_without_backbone_options_is_written_as_before_there_were_any():
    for options in (CONFIG, factory.training_record(0.9).trial):
        assert "backbone_options" not in options.to_json()
        assert type(options).from_json(options.to_json()).backbone_options == BackboneOptions()
    # Published data and records are named by these digests.
    assert CONFIG.digest == "9e9640fe87a085e14786febe25e4d3a919c465dc6d96a94d19d74024d8d417c1"
    assert factory.training_record().trial.settings == "9ep-dfded3bb"
    assert EvaluatorTrial(evaluator="conv", seed=0).settings == "12ep-199dc323"


def test_options_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        CONFIG.seed = CONFIG.seed


def test_every_field_enters_the_digest():
    changes = {
        "image_dataset": "mnist", "backbone": "resnet50", "image_size": 64, "stages": 5, "runs": 3, "epochs": 2,
        "checkpoints": 10, "limit": 9, "markers": "epoch", "recipe": Recipe(lr=0.1),
        "convergence": ConvergenceRule(threshold=0.5), "seed": 4, "name": "other",
        "backbone_options": BackboneOptions(layer="layer3"),
    }  # fmt: skip
    unchangeable = {"codec", "held_out_runs"}  # one value each, so far
    assert changes.keys() | unchangeable == BuildConfig.model_fields.keys()
    assert len({options.digest for options in SPECIMENS}) == len(SPECIMENS)
    digests = {CONFIG.model_copy(update={name: value}).digest for name, value in changes.items()}
    assert len(digests | {CONFIG.digest}) == len(changes) + 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Recipe.make(learning_rte=1), r"'learning_rte' of Recipe; known are: augmentation, batch_size,.* lr"),
        (lambda: Recipe.make(batchsize=8), r"unknown option 'batchsize' of Recipe; did you mean batch_size\?"),
        (
            lambda: BuildConfig.from_json(CONFIG.to_json() | {"recipe": {"schedul": "cosine"}}),
            r"unknown option 'recipe\.schedul' of Recipe; did you mean schedule\?",
        ),
        (
            lambda: type(SPECIMENS[-2]).from_json(
                SPECIMENS[-2].to_json() | {"metrics": {"unseen": factory.metrics(0.5).to_json() | {"mea": 1.0}}}
            ),
            r"unknown option 'metrics\.unseen\.mea' of Metrics; did you mean mae\?",
        ),
    ],
)
def test_an_unknown_option_comes_with_the_nearest_of_where_it_stands(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Recipe.make(lr=0), r"^lr = 0: .*greater than 0$"),
        (lambda: Recipe.make(lr=math.nan), r"^lr = nan: .*finite"),
        (lambda: Recipe.make(batch_size=8.5), r"^batch_size = 8\.5: .*integer"),
        (lambda: Recipe.make(optimizer="lion"), r"^optimizer = 'lion': .*'adam', 'adamw' or 'sgd'$"),
        (lambda: EvaluatorTrial.make(evaluator="../x", seed=0), r"^evaluator = '\.\./x': "),
        (lambda: EvaluatorTrial.make(seed=0), r"^EvaluatorTrial lacks 'evaluator'$"),
        (lambda: BuildConfig.create(backbone="smallcnn", stages="7"), r"^stages = '7': .*integer"),
        (lambda: BuildConfig.create(backbone="smallcnn", image_size=2000), r"^image_size = 2000: .*to 1024$"),
        (lambda: BuildConfig.create(), r"^BuildConfig lacks 'backbone'$"),
    ],
)
def test_a_value_out_of_range_names_option_value_and_what_is_allowed(make, message):
    with pytest.raises(ConfigError, match=message) as caught:
        make()
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("value", [None, [], "x", 3, {"lr": math.nan}, {"lr": math.inf}, {"name": "\ud800"}])
def test_what_json_cannot_hold_or_is_no_object_is_refused(value):
    with pytest.raises(ConfigError, match="Recipe"):
        Recipe.from_json(value)


def test_digits_are_small_and_other_images_are_large():
    for options, sizes in (
        ({}, (32, 7, 20)),
        ({"image_dataset": None}, (32, 7, 20)),
        ({"image_dataset": "mnist"}, (224, 9, 30)),
        ({"image_dataset": "mnist", "image_size": 28, "stages": None, "epochs": 4}, (28, 9, 4)),
    ):
        config = BuildConfig.create(backbone="smallcnn", **options)
        assert (config.image_size, config.stages, config.epochs) == sizes


def test_roles_of_runs_training_first_then_validation_then_test():
    assert CONFIG.run_roles == {0: "training", 1: "training", 2: "validation", 3: "test"}
    one = BuildConfig.create(backbone="smallcnn", runs=1, seed=40)
    assert one.run_roles == {40: "training", 41: "validation", 42: "test"}


def test_the_name_of_a_dataset_says_what_it_is():
    assert CONFIG.dataset_name == "digits-smallcnn-32px-base"
    config = BuildConfig.create(backbone="timm/resnet10t", image_dataset="mnist", image_size=64, name="v2")
    assert config.dataset_name == "mnist-timm_resnet10t-64px-v2"


HOSTILE = ["a\\b", "a\0b", "a\nb", "a b", "~", "x" * 200, "é"]


PATHS = ["../../x", "..", ".", "/etc/x", "a/b", "", ".x"]


@pytest.mark.parametrize(
    ("option", "value"),
    [*product(["image_dataset", "name", "backbone"], HOSTILE), *product(["image_dataset", "name"], PATHS)],
)
def test_no_name_leads_out_of_its_folder(option, value):
    with pytest.raises(ConfigError, match="name"):
        BuildConfig.create(**({"backbone": "smallcnn"} | {option: value}))


@pytest.mark.parametrize("value", ["timm/../../x", "../../x", "/etc/x", "a/b", ".."])
def test_a_backbone_with_path_parts_becomes_one_plain_folder_name(value):
    config = BuildConfig.create(backbone=value)
    assert PurePosixPath(config.dataset_name).parts == (config.dataset_name,)
    assert factory.evaluator_record(dataset=config.dataset_name).dataset == config.dataset_name


TOGETHER = {
    "watcher": {"watcher_digest": "1" * 64}, "watcher_digest": {"watcher": "a"},
    "longer": {"method": Method(control="longer")},
}  # fmt: skip


OTHER = {
    "epochs": 99, "patience": 9, "limit": 77, "test_limit": 78, "recipe": Recipe(lr=0.123), "backbone": "resnet50",
    "image_size": 99, "backbone_options": BackboneOptions(pretrained=True), "grid": {"lr": (0.1, 0.2)},
}  # fmt: skip
COMPARED = {
    "method": Method(raf=0.5), "seed": 1, "evaluator": "b", "evaluator_digest": "0" * 64, "watcher": "b",
    "watcher_digest": "0" * 64, "longer": Longer(flops_ratio=1.5, epochs=14),
}  # fmt: skip


@pytest.mark.parametrize(
    ("unit", "varied"),
    [
        (
            EvaluatorTrial(evaluator="a", seed=0),
            {"evaluator": "b", "head": "corn", "code": "0" * 64, "labels": "permuted", "seed": 1},
        ),
        (
            factory.training_record(0.9).trial,
            COMPARED,
        ),
        (
            factory.training_record(0.9).trial.model_copy(update={"init": "same-run", "run": 0}),
            COMPARED | {"run": 1},
        ),
    ],
    ids=["evaluator", "training", "same-run"],
)  # fmt: skip
def test_settings_name_everything_but_what_is_compared(unit, varied):
    def with_value(name: str, value: object) -> Options:
        return type(unit).from_json(unit.model_copy(update={name: value} | TOGETHER.get(name, {})).to_json())

    assert {with_value(name, value).settings for name, value in varied.items()} == {unit.settings}
    rest = [name for name in type(unit).model_fields if name not in varied and name != "run"]
    found = {with_value(name, OTHER[name]).settings for name in rest if name != "init"}
    if "init" in rest:
        other = {"init": "fresh", "run": None} if unit.init == "same-run" else {"init": "same-run", "run": 0}
        found.add(type(unit)(**(dict(unit) | other)).settings)
    assert len(found | {unit.settings}) == len(rest) + 1
    assert all(PurePosixPath(text).parts == (text,) for text in found)


def test_the_named_recipes_are_those_of_the_sources():
    assert recipe("fmce") == Recipe() == RECIPES["fmce"]
    readme, code = RECIPES["dueheadnet-readme"], RECIPES["dueheadnet-code"]
    assert (readme.optimizer, readme.lr, readme.weight_decay, readme.batch_size) == ("adamw", 4e-4, 5e-4, 64)
    assert (code.optimizer, code.lr, code.momentum, code.weight_decay, code.batch_size) == ("sgd", 0.1, 0.9, 5e-4, 128)
    assert {named.schedule for named in RECIPES.values()} == {"cosine"}
    assert RECIPE_EPOCHS == {"fmce": None, "dueheadnet-readme": 30, "dueheadnet-code": 200}
    assert all(name == named.name for name, named in RECIPES.items())


CHANGES = {
    "optimizer": "sgd", "lr": 0.5, "momentum": 0.1, "weight_decay": 0.25, "schedule": "constant", "batch_size": 8,
    "precision": "bfloat16", "augmentation": "flip",
}  # fmt: skip


def test_every_field_of_a_named_recipe_can_be_changed_and_is_then_listed():
    assert CHANGES.keys() | {"name"} == Recipe.model_fields.keys()
    for field, value in CHANGES.items():
        changed = recipe("dueheadnet-readme", **{field: value})
        assert changed.differences == {field: value}
        assert changed.label == f"dueheadnet-readme ({field} {value})"
        assert {key for key, left in dict(changed).items() if left != dict(RECIPES[changed.name])[key]} == {field}
    assert recipe("dueheadnet-code", lr=0.1, momentum=None).differences == {}
    assert Recipe(name="evaluator", batch_size=256).label == "evaluator (batch_size 256)"


def test_a_bad_recipe_names_the_value_and_what_is_allowed():
    with pytest.raises(UnknownNameError, match="'dueheadnet-cod'; did you mean dueheadnet-code or dueheadnet-readme"):
        recipe("dueheadnet-cod")
    with pytest.raises(ConfigError, match=r"^lr = -1\.0: .*greater than 0\nunknown option 'epoch'"):
        recipe("fmce", lr=-1.0, epoch=3)
