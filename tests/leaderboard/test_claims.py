"""Published figures are transcribed without contradiction, and every verdict follows from made-up records."""

import csv
import math
import re
from pathlib import Path

import numpy as np
import pytest
from helpers import record_factory as factory

from fmcs_bench.core.errors import RecordError
from fmcs_bench.leaderboard.claims import (
    CLAIM_COLUMNS,
    HELD_OUT,
    VERDICTS,
    Deviation,
    compare,
    load_claims,
    verdict,
)
from fmcs_bench.leaderboard.load import find_manifests
from fmcs_bench.results.board import Table
from fmcs_bench.results.statistics import Estimate
from fmcs_bench.training.methods import Method
from fmcs_bench.training.recipes import Recipe

ROOT = Path(__file__).parents[2]
FILE = ROOT / "leaderboard/claims.csv"
CLAIMS = {claim.id: claim for claim in load_claims(FILE)}
PAPER, README = "arXiv:2508.06109", "github.com/hibana2077/Feature-Map-Constraints-Enhance-Learning"
DATASET = "cifar10-resnet50-224px-base"
GAIN = CLAIMS["fmce-net-pp.gain.resnet50.cifar10"]  # +1.16 at RAF 0.75
ACCURACY = CLAIMS["fmce-net-pp.table-1.resnet50.cifar10.raf-1"]  # 90.29 %


def test_every_published_figure_has_its_claim():
    counts = {reference: sum(c.source == reference for c in CLAIMS.values()) for reference in (PAPER, README)}
    assert counts == {PAPER: 53 + 8 + 2 + 1 + 5 + 3, README: 3 * 8 + 3 * 2}
    table = [claim for claim in CLAIMS.values() if ".table-1." in claim.id]
    assert len(table) == 53  # cells of Table I that are not dashes
    assert all(claim.std is not None and claim.seeds == 5 for claim in table)
    assert len([c for c in CLAIMS if c.startswith("fmce-net-pp.gain.")]) == 8  # of the text
    assert len([c for c in CLAIMS if c.startswith("fmce-net-pp.text.")]) == 2  # ShuffleNet v2 on CIFAR-100
    assert len([c for c in CLAIMS if c.startswith("fmce-net-pp.fig-6.")]) == 5  # one range for two image sets
    assert len([c for c in CLAIMS if c.startswith("fmce-net-pp.fig-1.")]) == 3
    assert {c.recipes[0].optimizer for c in CLAIMS.values() if c.source == README} == {"adamw"}


def test_figures_of_the_audit_that_contradict_each_other_are_marked():
    inconsistent = {name: [other.value for other in claim.contradictions] for name, claim in CLAIMS.items()}
    assert {name: values for name, values in inconsistent.items() if values} == {
        "fmce-net-pp.abstract.shufflenet_v2.cifar100": [0.56],
        "fmce-net-pp.fig-1.caption.resnet50": [0.6],
        "fmce-net-pp.fig-1.text": [0.7],
        "fmce-net-pp.fig-6.drop.resnet50.cifar10.raf-0.5": [0.14],
        "fmce-net-pp.fig-6.drop.resnet50.mnist.raf-0.5": [0.06],
        "fmce-net-pp.fig-6.gain.resnet50.cifar10.raf-0.75": [1.16],
        "fmce-net-pp.fig-6.resnet50.cifar10.raf-0.75": [91.45],
        "fmce-net-pp.fig-6.resnet50.mnist.raf-0.95": [99.38],
        "fmce-net-pp.gain.resnet50.fashionmnist": [0.54],
        "fmce-net-pp.gain.shufflenet_v2.cifar100": [1.08],
        "fmce-net-pp.table-1.resnet50.cifar100.raf-0": [1.0],
        "fmce-net-pp.table-1.resnet50.mnist.raf-0.95": [99.36],
    }


def test_a_gain_is_the_difference_of_its_accuracies_or_is_marked():
    checked = 0
    for claim in CLAIMS.values():
        if claim.difference_of:
            accuracy, reference = (CLAIMS[name] for name in claim.difference_of)
            difference = accuracy.value - reference.value
            agrees = abs(difference - claim.value) <= claim.tolerance + 1e-9
            assert agrees or any(abs(other.value - difference) < 0.005 for other in claim.contradictions), claim.id
            assert (accuracy.image_dataset, accuracy.backbone) == (claim.image_dataset, claim.backbone)
            assert accuracy.raf == claim.raf
            checked += 1
    assert checked == 8 + 1 + 6


def trainings(gains, *, base=90.3, spread=0.05, raf=0.75, dataset=DATASET, evaluator="conv", **unit):
    """A baseline of five seeds, and RAL whose seeds differ from it by ``gains``, in points."""
    noise = np.random.default_rng(0).normal(0, spread, len(gains))
    records = []
    for seed, gain in enumerate(gains):
        test = (base + noise[seed]) / 100
        records.append(factory.training_record(seed=100 + seed, test=test, dataset=dataset))
        records.append(
            factory.training_record(raf, 100 + seed, test=test + gain / 100, evaluator=evaluator, dataset=dataset)
        )
    values = {"backbone": "resnet50", "image_size": 224} | unit
    return [r.model_copy(update={"trial": r.trial.model_copy(update=values)}) for r in records]


def one(claim, records, manifests=None):
    (found,) = compare([claim], records, manifests)
    return found


def texts(found):
    return [deviation.text for deviation in found.deviations]


def cells_of(comparison):
    table = Table("Claims", CLAIM_COLUMNS, (comparison,), "page")
    return {column.label: cell for column, cell in zip(table.columns, table.cells[0], strict=True)}


OURS = (Deviation(HELD_OUT, False),)
"""What every training here does, and no source."""


TOGETHER = Deviation("both heads trained together; the source trains the first one first and freezes it", True)


def test_reproduced():
    found = one(GAIN, trainings([1.1, 1.2, 1.15, 1.25, 1.1]))
    assert found.verdict == "reproduced"
    assert found.estimate.mean == pytest.approx(1.16)
    assert found.deviations == OURS
    assert len(found.records) == 10
    base = one(ACCURACY, trainings([0] * 5))
    assert base.verdict == "reproduced"
    assert (base.estimate.num, len(base.records)) == (5, 5)


def test_not_reproduced():
    assert one(GAIN, trainings([0.1, -0.1, 0.05, 0, -0.05])).verdict == "not reproduced"
    assert one(ACCURACY, trainings([0] * 5, base=80)).verdict == "not reproduced"


def test_inconsistent_whatever_was_measured():
    claim = CLAIMS["fmce-net-pp.fig-6.gain.resnet50.cifar10.raf-0.75"]
    found = one(claim, trainings([0.4, 0.5, 0.45, 0.55, 0.5]))
    assert found.verdict == "inconsistent in the source"
    assert found.estimate.mean == pytest.approx(0.48)
    assert one(claim, []).verdict == "inconsistent in the source"


def test_not_tested():
    full = [1.1, 1.2, 1.15, 1.25, 1.1]
    four = one(GAIN, trainings(full[:4]))
    assert (four.verdict, four.estimate.num) == ("not tested", 4)  # shown all the same
    for records in (
        [],
        trainings(full, dataset="digits-resnet50-224px-base"),
        trainings(full, dataset="cifar100-resnet50-224px-base"),
        trainings(full, raf=0.9),
        trainings(full, dataset="cifar10-shufflenet_v2-224px-base", backbone="shufflenet_v2"),
        trainings(full)[1::2],  # no baseline
        [r for r in trainings(full) if r.trial.method.raf == 1 or r.seed < 104],  # four pairs
    ):
        found = one(GAIN, records)
        assert found.verdict == "not tested"


def test_every_verdict_follows_from_the_written_rules():
    def at(claim, low, high, num=5):
        return verdict(claim, Estimate((low + high) / 2, low, high, 1.0, num))

    assert at(GAIN, 1.16, 2) == at(GAIN, 0.001, 1.16) == "reproduced"
    assert at(GAIN, 1.1649, 2) == "reproduced"  # contains 1.1649, which is rounded to 1.16
    assert at(GAIN, 1.1651, 2) == at(GAIN, 0.1, 1.1549) == "not reproduced"
    assert at(GAIN, 0, 1.2) == at(GAIN, -1, 3) == "within noise"
    assert at(GAIN, -1, 1) == "not reproduced"
    assert at(GAIN, 1, 2, num=4) == "not tested"
    loss = GAIN.model_copy(update={"value": -1.0})
    assert at(loss, -2, -0.5) == "reproduced"
    assert at(loss, -2, 0.5) == "within noise"
    assert at(ACCURACY, 89.5, 91) == "reproduced"
    assert at(ACCURACY, 89, 91.1) == "within noise"
    assert at(ACCURACY, 90.3, 91) == "not reproduced"
    assert verdict(GAIN, Estimate(1.16, None, None, None, 1)) == "not tested"
    assert len(VERDICTS) == 5


def test_deviations_are_named():
    gains = [1.1, 1.2, 1.15, 1.25, 1.1]
    other = trainings(
        gains,
        dataset="hub_uoft-cs_cifar10-resnet50-32px-base",
        evaluator="set",
        image_size=32,
        limit=1000,
        recipe=Recipe(lr=0.01, optimizer="adamw"),
    )
    words = texts(one(GAIN, other))
    for text in (
        "a copy of the images (hub_uoft-cs_cifar10)",
        "images of 32 px, not 224",
        "at most 1,000 images in each split, of 50,000 for training",
        "optimizer adamw, not adam (paper, IV-A)",
        "lr 0.01, not 0.001",
        "the evaluator set, not conv",
    ):
        assert any(text in deviation for deviation in words), text
    assert len(words) == 6
    cells = cells_of(one(GAIN, other))
    assert (cells["Verdict"].text, cells["Verdict"].mark) == ("not tested", "ours deviates")
    both = one(GAIN, [*other, *trainings(gains)])
    assert both.deviations == OURS  # the group that deviates least
    few = one(GAIN, [*other, *trainings(gains[:3])])
    assert texts(few) == words  # but not where it has too few seeds


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image_size": 64}, "images of 64 px"),
        ({"limit": 2000}, "at most 2,000 images"),
        ({"recipe": Recipe(lr=0.01)}, "lr 0.01"),
        ({"init": "same-run", "run": 0}, "all seeds start from the same weights"),
    ],
)
def test_what_a_source_states_must_be_so_or_its_figure_is_not_tested(change, words):
    gains = [1.1, 1.2, 1.15, 1.25, 1.1]
    for claim in (GAIN, ACCURACY):
        found = one(claim, trainings(gains, **change))
        assert found.verdict == "not tested"
        assert words in texts(found)[0]
        assert found.deviations[0].decides
    other = one(GAIN, trainings(gains, evaluator="set"))
    assert (other.verdict, texts(other)[0]) == ("not tested", "the evaluator set, not conv")
    assert one(ACCURACY, trainings(gains, evaluator="set")).verdict == "reproduced"  # a baseline has no evaluator
    copied = one(GAIN, trainings(gains, dataset="hub_cifar10-resnet50-224px-base"))
    assert copied.verdict == "reproduced"  # beside which the copy stands
    assert len(copied.deviations) == 2


def test_a_training_that_ends_before_the_convergence_point_tests_nothing():
    manifest = next(m for m in find_manifests([ROOT / "data_cards"]).values() if m.config.image_dataset == "mnist")
    claim = CLAIMS["fmce-net-pp.table-1.resnet50.mnist.raf-1"]
    point = max(math.ceil(run.convergence_epoch) for run in manifest.runs if run.role == "training")
    for epochs, tests in ((point - 1, False), (point, True), (point + 1, True)):
        records = trainings([0] * 5, base=99.2, dataset="mnist-resnet50-224px-base", epochs=epochs)
        found = one(claim, records, {records[0].dataset_id: manifest})
        assert (found.verdict != "not tested") == tests
        assert any("the convergence point" in text for text in texts(found)) == (epochs != point)


def test_raf_0_which_is_a_family_of_its_own_here_tests_the_figures_of_raf_0():
    claim = CLAIMS["fmce-net-pp.table-1.resnet50.cifar10.raf-0"]
    found = one(claim, trainings([-80.06] * 5, raf=0.0))
    assert found.estimate is not None
    assert {record.trial.method.family for record in found.records} == {"fmcs-only"}
    assert found.verdict == "reproduced"
    assert one(CLAIMS["fmce-net-pp.table-1.resnet50.cifar10.raf-0.5"], trainings([0] * 5, raf=0.0)).estimate is None


def test_a_copy_of_fashionmnist_is_none_of_mnist():
    claim = CLAIMS["fmce-net-pp.gain.resnet50.mnist"]
    for name, tests in (("hub_zalando_fashion_mnist", False), ("hub_ylecun_mnist", True), ("mnist", True)):
        records = trainings([0.1] * 5, raf=0.7, dataset=f"{name}-resnet50-224px-base")
        assert (one(claim, records).estimate is not None) == tests


def test_dueheadnet_is_compared_with_its_own_fusion_and_by_the_nearer_recipe():
    claim = CLAIMS["dueheadnet.cifar10.gain.seresnet18"]  # +0.14
    records = []
    for fusion, constraint, test in (("add", "align", 0.7711), ("add", "none", 0.7697), ("concat", "none", 0.70)):
        method = Method(network="dueheadnet", fusion=fusion, constraint=constraint)
        for seed in range(100, 105):
            record = factory.training_record(
                seed=seed, test=test + seed / 1e6, dataset="cifar10-seresnet18-32px-base", method=method
            )
            recipe = Recipe(name="code", optimizer="sgd", lr=0.1, weight_decay=5e-4, batch_size=128)
            unit = {"backbone": "seresnet18", "recipe": recipe, "epochs": 200}
            best = {"best_test_accuracy": record.metrics.test_accuracy + 0.01}
            records.append(
                record.model_copy(
                    update={
                        "trial": record.trial.model_copy(update=unit),
                        "metrics": record.metrics.model_copy(update=best),
                    }
                )
            )
    found = one(claim, records)
    assert found.estimate.mean == pytest.approx(0.14)
    assert found.deviations == (TOGETHER, *OURS)
    assert found.verdict == "not tested"
    accuracy = one(CLAIMS["dueheadnet.cifar10.fmce.seresnet18"], records)
    assert accuracy.estimate.mean == pytest.approx(78.11, abs=0.02)  # the best epoch on test, as the source reports
    plain = [
        r.model_copy(update={"metrics": r.metrics.model_copy(update={"best_test_accuracy": None})}) for r in records
    ]
    assert "weights chosen on validation images, not on the test images" in texts(one(claim, plain))
    assert one(claim, plain).verdict == "not tested"


def test_the_claims_table():
    found = compare([GAIN, ACCURACY, *CLAIMS.values()], trainings([1.1, 1.2, 1.15, 1.25, 1.1]))
    gain, accuracy = map(cells_of, found[:2])
    assert gain["Published"].text == "+1.16 pp"
    assert re.fullmatch(r"\+1\.16 \[\+1\.\d\d, \+1\.\d\d\] pp", gain["Ours"].text)
    assert gain["Verdict"].text == "reproduced"
    assert accuracy["Published"].text == "90.29 %"
    assert gain["Seeds"].text == accuracy["Seeds"].text == "5"
    table = Table("Claims", CLAIM_COLUMNS, tuple(found[2:]), "page").markdown()
    assert len(table.splitlines()) == len(CLAIMS) + 2
    assert "-8 to -10 pp" in table


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unit": "%"}, "has reference methods"),
        ({"contradictions": "1.163: x"}, "does not contradict"),
        ({"difference_of": "a b"}, "a difference of a, which is not listed"),
        ({"value": "0"}, "no direction"),
        ({"value": "much"}, "value = 'much'"),
        ({"id": "../x"}, "id = '../x'"),
        ({"recipes": "paper: lr=0.1 speed=2"}, "speed"),
        ({"valeu": "1"}, "columns"),
    ],
)
def test_a_wrong_claim_is_refused(change, message, tmp_path):
    with FILE.open(newline="") as lines:
        row = next(row for row in csv.DictReader(lines) if row["id"] == GAIN.id) | {"difference_of": ""} | change
    write([row], tmp_path / "claims.csv")
    with pytest.raises(RecordError, match=re.escape(message)):
        load_claims(tmp_path / "claims.csv")


def test_a_damaged_file_and_a_claim_that_is_listed_twice_are_refused(tmp_path):
    with FILE.open(newline="") as lines:
        row = next(csv.DictReader(lines)) | {"difference_of": ""}
    write([row, row], tmp_path / "claims.csv")
    with pytest.raises(RecordError, match="twice"):
        load_claims(tmp_path / "claims.csv")
    (tmp_path / "claims.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecordError, match="cannot be read"):
        load_claims(tmp_path / "claims.csv")


def write(rows, path):
    with path.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
