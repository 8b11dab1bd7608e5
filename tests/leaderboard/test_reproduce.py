"""The command on a method's page makes the same unit of work."""

from __future__ import annotations

from helpers import record_factory as factory

from fmcs_bench.leaderboard.method_page import command
from fmcs_bench.results.trials import EvaluatorTrial
from fmcs_bench.training.methods import Method
from fmcs_bench.training.recipes import recipe


def test_an_evaluator_with_everything_that_the_command_can_say() -> None:
    unit = EvaluatorTrial(evaluator="conv", seed=4, head="corn", limit=50)
    record = factory.evaluator_record("conv", 4, test_on={"mnist-smallcnn-32px-base@0123456789ab": 0.5})
    found = command([record.model_copy(update={"trial": unit})])
    assert found.line == (
        "fmcs-bench evaluate digits-smallcnn-32px-base --evaluator conv+corn --seeds 5 --limit 50 "
        "--test-on mnist-smallcnn-32px-base --device cpu"
    )
    assert record.dataset_digest in found.notes[0]
    assert len(found.notes) == 1


def test_what_the_command_cannot_say_is_said_in_words() -> None:
    unit = EvaluatorTrial(evaluator="mine", seed=0, epochs=77, code="0" * 64)
    found = command([factory.evaluator_record("mine").model_copy(update={"trial": unit})])
    assert any("no option for epochs" in note for note in found.notes)
    assert any("0" * 64 in note for note in found.notes)


def test_a_training_names_judge_raf_length_and_seeds_from_the_first() -> None:
    records = [factory.training_record(0.9, seed, method=Method(raf=0.9)) for seed in (100, 104)]
    found = command(records)
    assert found.line == (
        "fmcs-bench train digits-smallcnn-32px-base --method ral --raf 0.9 --evaluator set --recipe fmce "
        "--epochs 9 --seeds 5 "
        "--device cpu"
    )
    assert records[0].trial.evaluator_digest in found.notes[1]
    assert not any("--data-dir" in note for note in found.notes)


def test_recipe_start_and_options_of_a_training_are_said() -> None:
    method = Method.make(
        network="dueheadnet", fusion="concat", constraint="align", constraint_weight=0.5, backbone="seresnet18",
        raf=0.9, evaluator_kind="permuted",
    )  # fmt: skip
    record = factory.training_record(0.9, 100, method=method, evaluator="set~permuted", best_test=0.9)
    unit = record.trial.model_copy(
        update={"recipe": recipe("dueheadnet-code", lr=0.05, momentum=0.8), "init": "same-run"}
    )
    found = command([record.model_copy(update={"trial": unit})])
    assert found.line == (
        "fmcs-bench train digits-smallcnn-32px-base --method dueheadnet-concat-align-ral-permuted --raf 0.9 "
        "--evaluator set --base seresnet18 --constraint-weight 0.5 --init same-run --recipe dueheadnet-code --lr 0.05 "
        "--epochs 9 --seeds 1 --best-epoch-on-test --device cpu"
    )
    assert any("no option for momentum" in note for note in found.notes)


def test_the_options_of_a_fit_are_said() -> None:
    unit = EvaluatorTrial(evaluator="conv", seed=0, labels="permuted", limit=9, test_limit=5, grid={"lr": (0.01, 0.1)})
    found = command([factory.evaluator_record("conv").model_copy(update={"trial": unit})])
    assert "--evaluator 'conv~permuted' --grid lr=0.01,0.1 --seeds 1 --limit 9 --test-limit 5" in found.line
    assert len(found.notes) == 1


def test_images_that_are_not_embedded_must_be_brought() -> None:
    found = command([factory.training_record(seed=100, dataset="cifar10-resnet50-224px-base")])
    assert "--evaluator" not in found.line
    assert any("--data-dir" in note for note in found.notes)
