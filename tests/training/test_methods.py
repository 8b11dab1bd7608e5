import pytest
from helpers.record_factory import training_record

from fmcs_bench.core.errors import ConfigError, UnknownNameError
from fmcs_bench.results.trials import Longer, TrainingTrial
from fmcs_bench.training.methods import METHODS, PAPER_RAFS, Method, methods, parse_rafs
from fmcs_bench.training_track.options import TrainOptions


@pytest.mark.parametrize("name", METHODS)
def test_every_name_gives_methods_of_that_family(name):
    found = methods([name], [0.9, 0.5], equal_parameters="smallcnn/23")
    for method in found:
        assert method.family == name + ("-smallcnn_23" if name == "equal-parameters" else "")
    rafs = [0.9, 0.5] if "ral" in name else [0.0] if name == "fmcs-only" else [1.0]
    assert [method.raf for method in found] == rafs


def test_a_name_and_its_raf_give_the_same_method_again():
    names = (
        *METHODS,
        "single-timm/resnet18",
        "single-resnet50-ral",
        "dueheadnet-add-align-ral-permuted",
        "single-smallcnn/24-fmcs-only",
    )
    for method in methods(names, [0.9, 0.0], equal_parameters="smallcnn/23"):
        rafs = [method.raf] if method.has_raf else [0.3]
        if method.raf or method.constraint != "none":
            assert methods([method.name], rafs, equal_parameters="smallcnn/23") == [method]


def test_controls_are_other_recipes_and_single_networks_and_evaluators_that_know_nothing():
    controls = ["label-smoothing", "longer", "equal-parameters", "single-seresnet34", "ral-random", "ral-permuted",
                "dueheadnet-add-none-ral-random"]  # fmt: skip
    others = ["baseline", "ral", "fmcs-only", "dueheadnet-add-none", "dueheadnet-concat-align-ral",
              "single-resnet34-ral", "single-resnet34-fmcs-only"]  # fmt: skip
    assert all(method.is_control for method in methods(controls, [0.9, 0.0], equal_parameters="smallcnn/23"))
    assert not any(method.is_control for method in methods(others, [0.9]))


def test_the_names_are_what_they_were_and_the_controls():
    assert len(METHODS) == len(set(METHODS)) == 20
    assert {"baseline", "ral", "dueheadnet-add-none", "dueheadnet-concat-diversify-ral"} < set(METHODS)


@pytest.mark.parametrize(
    ("names", "options", "families"),
    [
        (["single-seresnet34"], {}, ["single-seresnet34"]),
        (["single-timm/resnet18.a1_in1k-ral"], {}, ["single-timm_resnet18.a1_in1k-ral"]),
        (["single-smallcnn/24-fmcs-only"], {}, ["single-smallcnn_24-fmcs-only"]),
        (["dueheadnet-add-align-ral-random"], {}, ["dueheadnet-add-align-ral-random"]),
        (["dueheadnet-concat-none-fmcs-only"], {}, ["dueheadnet-concat-none-fmcs-only"]),
        (["dueheadnet-add-none", "baseline"], {"base": "seresnet18"}, ["dueheadnet-seresnet18-add-none", "baseline"]),
        (["dueheadnet-add-none", "dueheadnet-add-align"], {"constraint_weight": 0.5},
         ["dueheadnet-add-none", "dueheadnet-add-align-w0.5"]),
        (["dueheadnet-concat-none"], {"pretrained_first": True}, ["dueheadnet-concat-none-pretrained"]),
        (["baseline", "baseline"], {}, ["baseline"]),
    ],
)  # fmt: skip
def test_names_with_networks_and_options(names, options, families):
    assert [method.family for method in methods(names, [0.9], **options)] == families


def test_raf_zero_is_a_family_of_its_own_and_not_a_candidate():
    found = methods(["ral", "fmcs-only"], [1.0, 0.9, 0.0])
    assert [(method.family, method.raf) for method in found] == [("ral", 0.9), ("fmcs-only", 0.0)]
    random = methods(["ral-random", "ral-permuted"], [0.9, 0.0])
    assert [m.family for m in random] == ["ral-random", "fmcs-only-random", "ral-permuted", "fmcs-only-permuted"]


def test_the_paper_s_rafs():
    assert parse_rafs(["paper"]) == PAPER_RAFS
    assert len(set(PAPER_RAFS)) == 10
    found = methods(["baseline", "ral"], PAPER_RAFS)
    assert [method.raf for method in found] == list(PAPER_RAFS)
    with pytest.raises(ConfigError, match="RAF 'papr'"):
        parse_rafs(["papr"])


@pytest.mark.parametrize("rafs", [[-0.1], [1.5], ["nan"], [float("nan")], [0.9, "0.9"], ["paper", 0.9]])
def test_rafs_outside_their_range_or_given_twice_are_refused(rafs):
    with pytest.raises(ConfigError, match=r"RAF|raf"):
        parse_rafs(rafs)
    with pytest.raises(ConfigError, match=r"RAF|raf"):
        TrainOptions.make(rafs=rafs)


@pytest.mark.parametrize(
    ("names", "rafs", "options", "error", "message"),
    [
        (["dueheadnet-add-alin"], [0.9], {}, UnknownNameError, "did you mean dueheadnet-add-align"),
        (["ral-randm"], [0.9], {}, UnknownNameError, "did you mean ral-random"),
        (["single-"], [0.9], {}, UnknownNameError, "unknown method 'single-'"),
        (["baseline"], [0.9], {"base": "resnet50"}, ConfigError, "the option base belongs to the methods dueheadnet"),
        (["dueheadnet-add-none"], [0.9], {"constraint_weight": 2.0}, ConfigError, "constraint weight belongs to"),
        (["baseline"], [0.9], {"pretrained_first": True}, ConfigError, "pretrained first belongs to"),
    ],
)
def test_bad_methods_are_refused(names, rafs, options, error, message):
    with pytest.raises(error, match=message):
        methods(names, rafs, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"evaluator_kind": "random"}, "random needs a RAF below 1"),
        ({"raf": -0.01}, "RAF"),
        ({"network": "dueheadnet"}, "dueheadnet needs a fusion"),
        ({"fusion": "add"}, "fusion"),
        ({"constraint": "align"}, "needs two heads"),
        ({"pretrained_first": True}, "pretrained_first needs two heads"),
        ({"label_smoothing": 0.1, "raf": 0.5}, "without RAL"),
        ({"control": "longer", "backbone": "resnet50"}, "longer has none"),
        ({"control": "equal-parameters"}, "equal-parameters needs a backbone"),
        ({"control": "longer", "label_smoothing": 0.1}, "label smoothing"),
    ],
)
def test_methods_that_make_no_sense(options, message):
    with pytest.raises(ConfigError, match=message):
        Method.make(**options)


def test_the_json_form_of_a_method_of_old_is_as_it_was():
    assert Method(raf=0.9).to_json() == {
        "network": "single", "fusion": None, "constraint": "none", "constraint_weight": 1.0, "raf": 0.9,
    }  # fmt: skip
    for method in methods(METHODS, [0.9], equal_parameters="smallcnn/23"):
        assert Method.from_json(method.to_json()) == method


def unit(**changes):
    usual = {"evaluator": "set", "evaluator_digest": "0" * 64} if changes.get("method", Method()).uses_evaluator else {}
    return TrainingTrial(**(dict(training_record().trial) | usual | changes))


def test_a_trial_is_named_by_method_and_evaluator():
    digest = {"evaluator_digest": "0" * 64}
    longer = Longer(flops_ratio=1.2, epochs=11)
    for found, family, label in (
        (unit(method=Method(raf=0.9)), "ral-set", "ral-set@0.9"),
        (unit(method=Method(raf=0.0)), "fmcs-only-set", "fmcs-only-set"),
        (unit(method=Method(raf=0.9, evaluator_kind="random")), "ral-random-set", "ral-random-set@0.9"),
        (
            unit(method=Method(raf=0.9, evaluator_kind="permuted"), evaluator="conv+corn~permuted", **digest),
            "ral-permuted-conv+corn",
            "ral-permuted-conv+corn@0.9",
        ),
        (unit(method=Method(control="longer"), evaluator="set", longer=longer, **digest), *["longer-set"] * 2),
    ):
        assert (found.family, found.label) == (family, label)
        assert TrainingTrial.from_json(found.to_json()) == found
    assert found.num_epochs == 11 != found.epochs


def test_weights_of_a_run_are_settings_of_their_own():
    fresh, same_run = unit(), unit(init="same-run", run=1)
    assert fresh.weights_seed == fresh.seed
    assert same_run.weights_seed == 1
    assert fresh.settings.split("-")[0] == same_run.settings.split("-")[0] == "9ep"
    assert "same-run" in same_run.settings
    assert "same-run" not in fresh.settings
    assert same_run.settings == unit(init="same-run", run=0, seed=7).settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run": 1}, "needs a run"),
        ({"init": "same-run"}, "needs a run"),
        ({"watcher": "set"}, "needs its digest"),
        ({"longer": Longer(flops_ratio=1.0, epochs=9)}, "needs its length"),
        ({"method": Method(raf=0.5), "evaluator": "set~permuted", "evaluator_digest": "0" * 64}, "is not fitted"),
    ],
)
def test_units_that_make_no_sense(changes, message):
    with pytest.raises(ValueError, match=message):
        unit(**changes)


def test_a_sweep_refuses_what_is_unknown():
    with pytest.raises(ConfigError, match=r"unknown option 'bse' of TrainOptions; did you mean base"):
        TrainOptions.make(bse="x")
    with pytest.raises(ConfigError, match="epochs = 0"):
        TrainOptions.make(epochs=0)


def test_without_a_classification_loss_the_constraint_plays_no_part():
    names = [f"dueheadnet-add-{constraint}-ral" for constraint in ("none", "align", "diversify")]
    found = methods(names, [0.9, 0.0], constraint_weight=0.5)
    kinds = [method.family.removeprefix("dueheadnet-add-") for method in found]
    assert kinds == ["none-ral", "none-fmcs-only", "align-w0.5-ral", "diversify-w0.5-ral"]
