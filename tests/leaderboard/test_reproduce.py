"""The command on a method's page makes the same unit of work."""

from __future__ import annotations

import pytest
from helpers import record_factory as factory

from fmcs_bench.leaderboard.reproduce import evaluator_again, training_again, typed_name
from fmcs_bench.results.fit_config import EvaluatorConfig
from fmcs_bench.training.methods import METHODS, Method, methods
from fmcs_bench.training.recipes import recipe


def test_an_evaluator_with_everything_that_the_command_can_say() -> None:
    unit = EvaluatorConfig(evaluator="conv", seed=4, head="corn", limit=50)
    record = factory.evaluator_record("conv", 4, test_on={"mnist-smallcnn-32px-base@0123456789ab": 0.5})
    found = evaluator_again([record.model_copy(update={"unit": unit})])
    assert found.command == (
        "fmcs-bench evaluate digits-smallcnn-32px-base --evaluator conv --head corn --seeds 5 --limit 50 "
        "--test-on mnist-smallcnn-32px-base --device cpu"
    )
    assert record.dataset_digest in found.notes[0]
    assert len(found.notes) == 1


def test_what_the_command_cannot_say_is_said_in_words() -> None:
    unit = EvaluatorConfig(evaluator="mine", seed=0, epochs=77, code="0" * 64)
    found = evaluator_again([factory.evaluator_record("mine").model_copy(update={"unit": unit})])
    assert any("no option for epochs" in note for note in found.notes)
    assert any("0" * 64 in note for note in found.notes)


def test_a_training_names_judge_raf_length_and_seeds_from_the_first() -> None:
    records = [factory.training_record(0.9, seed, method=Method(raf=0.9)) for seed in (100, 104)]
    found = training_again(records)
    assert found.command == (
        "fmcs-bench train digits-smallcnn-32px-base --method ral --raf 0.9 --evaluator set --recipe fmce "
        "--epochs 9 --seeds 5 "
        "--device cpu"
    )
    assert records[0].unit.evaluator_digest in found.notes[1]
    assert not any("--data-dir" in note for note in found.notes)


@pytest.mark.parametrize("judge", ["fitted", "random", "permuted"])
@pytest.mark.parametrize("raf", [0.75, 0.0])
@pytest.mark.parametrize("network", [{}, {"backbone": "resnet18"}, {"network": "dueheadnet", "fusion": "add"}], ids=str)
def test_a_judged_method_is_typed_as_it_is_parsed(judge: str, raf: float, network: dict[str, str]) -> None:
    method = Method.make(raf=raf, judge=judge, **network)
    assert methods([typed_name(method)], [raf]) == [method]


def test_every_other_method_is_typed_as_it_is_parsed() -> None:
    names = [name for name in METHODS if not name.endswith(("ral", "random", "permuted", "fmcs-only"))]
    for method in methods([*names, "single-resnet18"], [1.0], equal_parameters="smallcnn/23"):
        assert methods([typed_name(method)], [1.0], equal_parameters="smallcnn/23") == [method]


def test_recipe_start_and_options_of_a_training_are_said() -> None:
    method = Method.make(
        network="dueheadnet", fusion="concat", constraint="align", constraint_weight=0.5, backbone="seresnet18",
        raf=0.9, judge="permuted",
    )  # fmt: skip
    record = factory.training_record(0.9, 100, method=method, evaluator="set~permuted", best_test=0.9)
    unit = record.unit.model_copy(
        update={"recipe": recipe("dueheadnet-code", lr=0.05, momentum=0.8), "init": "same-run"}
    )
    found = training_again([record.model_copy(update={"unit": unit})])
    assert found.command == (
        "fmcs-bench train digits-smallcnn-32px-base --method dueheadnet-concat-align-ral-permuted --raf 0.9 "
        "--evaluator set --base seresnet18 --constraint-weight 0.5 --init same-run --recipe dueheadnet-code --lr 0.05 "
        "--epochs 9 --seeds 1 --best-epoch-on-test --device cpu"
    )
    assert any("no option for momentum" in note for note in found.notes)


def test_the_options_of_a_fit_are_said() -> None:
    unit = EvaluatorConfig(evaluator="conv", seed=0, labels="permuted", limit=9, test_limit=5, grid={"lr": (0.01, 0.1)})
    found = evaluator_again([factory.evaluator_record("conv").model_copy(update={"unit": unit})])
    assert "--evaluator 'conv~permuted' --grid lr=0.01,0.1 --seeds 1 --limit 9 --test-limit 5" in found.command
    assert len(found.notes) == 1


def test_images_that_are_not_embedded_must_be_brought() -> None:
    found = training_again([factory.training_record(seed=100, dataset="cifar10-resnet50-224px-base")])
    assert "--evaluator" not in found.command
    assert any("--data-dir" in note for note in found.notes)
