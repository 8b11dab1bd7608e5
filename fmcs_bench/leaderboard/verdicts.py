"""What the training records say about published figures.

Flow: claim, training records -> groups of records that test it (image dataset, backbone, method and RAF are equal) ->
the group that deviates least (``deviations``) -> our value with interval -> verdict by the rules of ``verdict``.

Values are in percent and percentage points here, as they were published.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from fmcs_bench.leaderboard.claims import Claim, ClaimedRun
from fmcs_bench.leaderboard.deviations import Deviation, deviations, image_dataset, takes_best
from fmcs_bench.results import statistics
from fmcs_bench.results.records import TrainingRecord
from fmcs_bench.results.statistics import Estimate
from fmcs_bench.store.schema import Manifest
from fmcs_bench.training.methods import NUM_SEEDS

Verdict = Literal["reproduced", "within noise", "not reproduced", "inconsistent in the source", "not tested"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
WIDE = 1.0
"""Half of an interval of an accuracy, in percentage points, from which on containing a value says little."""


@dataclass(frozen=True)
class Judged:
    """A claim beside what was measured.

    Attributes:
        claim: as published.
        verdict: see ``verdict``.
        estimate: ours, with its 95 % interval, in the claim's unit; None where no record tests it.
        deviations: how the runs differ from the claimed one, those that keep them from testing it first.
        records: that the estimate is made of; of a gain first those of the method, then of the reference.
    """

    claim: Claim
    verdict: Verdict
    estimate: Estimate | None
    deviations: tuple[Deviation, ...]
    records: tuple[TrainingRecord, ...]


@dataclass(frozen=True)
class _Test:
    """Records that test a claim, of the seeds that method and reference share."""

    method: tuple[TrainingRecord, ...]
    reference: tuple[TrainingRecord, ...]
    deviations: tuple[Deviation, ...]


def judge(
    claims: Iterable[Claim], records: Iterable[TrainingRecord], manifests: Mapping[str, Manifest] | None = None
) -> list[Judged]:
    """Every claim with its verdict, in the order given.

    Args:
        claims: published figures.
        records: of the training track; none are left out, whatever they say.
        manifests: of their datasets by id, for deviations that stand there alone (the codec).
    """
    groups: dict[tuple[str, str, str], list[TrainingRecord]] = {}
    for record in sorted(records, key=lambda record: record.seed):
        groups.setdefault((record.dataset_id, record.settings, record.method), []).append(record)
    return [_judge(claim, groups, manifests or {}) for claim in claims]


def verdict(claim: Claim, estimate: Estimate | None, *, decided: bool = False) -> Verdict:
    """The verdict on a claim, from our value alone, if there is one.

    Args:
        claim: as published.
        estimate: ours.
        decided: our runs deviate from what the source states, so that they do not test its figure.

    - inconsistent in the source: the source gives another value for the same thing.
    - not tested: no records of this kind, fewer than five (paired) seeds, or runs that deviate from what is stated.
    - Of a gain: not reproduced where our interval does not contain it; within noise where it contains the gain and 0;
      reproduced where it contains the gain and not 0, which is then in the claimed direction.
    - Of an accuracy: not reproduced where our interval does not contain it; within noise where it does, but is wider
      than 1 point to each side; reproduced where it does and is not.

    An interval contains a value if it contains any number that is rounded to it.
    """
    if claim.contradictions:
        return "inconsistent in the source"
    if decided or estimate is None or estimate.low is None or estimate.high is None or estimate.num < NUM_SEEDS:
        return "not tested"
    if not estimate.low - claim.tolerance <= claim.value <= estimate.high + claim.tolerance:
        return "not reproduced"
    if claim.kind == "gain":
        away = estimate.low > 0 if claim.value > 0 else estimate.high < 0
        return "reproduced" if away else "within noise"
    return "reproduced" if (estimate.high - estimate.low) / 2 <= WIDE else "within noise"


def _judge(
    claim: Claim, groups: Mapping[tuple[str, str, str], list[TrainingRecord]], manifests: Mapping[str, Manifest]
) -> Judged:
    tests = []
    for key, group in groups.items():
        if image_dataset(group[0]) is None or not _is_claimed(claim.run, group[0]):
            continue
        references = [()] if claim.kind == "accuracy" else _references(claim.run, key, groups)
        for reference in references:
            test = _test(claim, group, reference, manifests.get(group[0].dataset_id))
            if test.method:
                few, decide = len(test.method) < NUM_SEEDS, _num_deciding(test)
                tests.append(((few, decide, len(test.deviations), -len(test.method), key), test))
    if not tests:
        return Judged(claim, verdict(claim, None), None, (), ())
    _, test = min(tests, key=lambda item: item[0])
    best = takes_best(claim, [*test.method, *test.reference])
    values = [_accuracy(record, best) for record in test.method]
    if claim.kind == "gain":
        estimate = statistics.paired_difference(values, [_accuracy(r, best) for r in test.reference]).estimate
    else:
        estimate = statistics.estimate(values)
    found = verdict(claim, estimate, decided=_num_deciding(test) > 0)
    return Judged(claim, found, estimate, test.deviations, (*test.method, *test.reference))


def _num_deciding(test: _Test) -> int:
    return sum(deviation.decides for deviation in test.deviations)


def _is_claimed(run: ClaimedRun, record: TrainingRecord) -> bool:
    method = record.trial.method
    # Papers count RAF 0, where only the FMCS loss is left, among the values of RAL; here it is a family of its own.
    family = method.ral_family if run.raf == 0 else method.family
    return (
        run.image_dataset is not None
        and run.image_dataset == image_dataset(record)
        and run.backbone is not None
        and run.backbone == record.trial.backbone
        and family in run.methods
        and (run.raf is None or run.raf == method.raf)
    )


def _references(
    run: ClaimedRun, key: tuple[str, str, str], groups: Mapping[tuple[str, str, str], list[TrainingRecord]]
) -> list[Sequence[TrainingRecord]]:
    """The groups that a gain can be over: of the same dataset, settings and fusion."""
    fusion = groups[key][0].trial.method.fusion
    return [
        group
        for other, group in groups.items()
        if other[:2] == key[:2]
        and group[0].trial.method.family in run.reference_methods
        and group[0].trial.method.fusion == fusion
    ]


def _test(
    claim: Claim, group: Sequence[TrainingRecord], reference: Sequence[TrainingRecord], manifest: Manifest | None
) -> _Test:
    if claim.kind == "accuracy":
        return _Test(tuple(group), (), deviations(claim, group, manifest))
    seeds = {record.seed for record in group} & {record.seed for record in reference}
    method, base = (tuple(r for r in side if r.seed in seeds) for side in (group, reference))
    return _Test(method, base, deviations(claim, (*method, *base), manifest) if method else ())


def _accuracy(record: TrainingRecord, best: bool) -> float:
    value = record.metrics.best_test_accuracy if best else None
    return 100 * (record.metrics.test_accuracy if value is None else value)
