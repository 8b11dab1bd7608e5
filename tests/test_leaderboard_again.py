"""The command on a method's page makes the same unit of work."""

from __future__ import annotations

import record_factory as factory

from fmcs_bench.config import EvaluatorConfig, Method
from fmcs_bench.leaderboard.again import evaluator_again, training_again


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
        "fmcs-bench train digits-smallcnn-32px-base --method ral --raf 0.9 --evaluator set --epochs 9 --seeds 5 "
        "--device cpu"
    )
    assert records[0].unit.evaluator_digest in found.notes[1]
    assert not any("--data-dir" in note for note in found.notes)


def test_images_that_are_not_embedded_must_be_brought() -> None:
    found = training_again([factory.training_record(seed=100, dataset="cifar10-resnet50-224px-base")])
    assert "--evaluator" not in found.command
    assert any("--data-dir" in note for note in found.notes)
