"""Published figures beside our trainings: each row of ``claims.csv`` gets a verdict.

The group of our trainings that deviates least from what the source states is compared. Trainings that change what it
states (images, network, recipe, length, evaluator) do not test its figure; what it leaves open changes no verdict.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self, get_args

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from fmcs_bench.backbones.options import BackboneOptions
from fmcs_bench.core.errors import RecordError
from fmcs_bench.core.options import NAME_PATTERN, Options
from fmcs_bench.results import statistics
from fmcs_bench.results.board import COUNT, Column, Form
from fmcs_bench.results.records import TrainingRecord
from fmcs_bench.results.statistics import Estimate
from fmcs_bench.store.schema import Manifest
from fmcs_bench.training.methods import NUM_SEEDS

NAME = "claims.csv"
MAX_BYTES = 5_000_000
Verdict = Literal["reproduced", "within noise", "not reproduced", "inconsistent in the source", "not tested"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
WIDE = 1.0
"""Half of an interval of an accuracy, in percentage points, from which on containing a value says little."""
IMAGE_DATASETS = ("mnist", "fashionmnist", "cifar10", "cifar100", "caltech101", "flowers102")
HELD_OUT = "trained on four fifths of the training images; half of the others choose the epoch"
_NUM_TRAINING = {"mnist": 60_000, "fashionmnist": 60_000, "cifar10": 50_000, "cifar100": 50_000}
_TEST_IMAGES = {
    "caltech101": "a fifth of the images, by a hash, is for testing; the random split of the source cannot be repeated",
    "flowers102": "all 6,149 test images; the source has 1,020",
}


class Contradiction(Options):
    """A different value that the same source gives for the same thing, or that follows from its own numbers."""

    value: float
    place: str


class StatedRecipe(Options):
    """What a source says about its training; None where it does not say."""

    name: str
    optimizer: Literal["adam", "adamw", "sgd"] | None = None
    lr: float | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    schedule: Literal["cosine", "constant"] | None = None
    batch_size: int | None = None
    epochs: int | None = None


def _split(separator: str) -> BeforeValidator:
    return BeforeValidator(lambda cell: tuple(filter(None, cell.split(separator))))


def _pairs(cell: str) -> list[tuple[str, str]]:
    """``README: lr=0.1 | script: lr=0.2`` as pairs."""
    return [(part.partition(": ")[0], part.partition(": ")[2]) for part in cell.split(" | ") if part]


def _recipes(cell: str) -> list[dict[str, str]]:
    return [{"name": name} | dict(item.split("=", 1) for item in text.split()) for name, text in _pairs(cell)]


def _contradictions(cell: str) -> list[dict[str, str]]:
    return [{"value": value, "place": place} for value, place in _pairs(cell)]


class Claim(Options):
    """One published figure and the kind of training that would test it; None where the source does not say.

    ``methods`` are families of ``fmcs_bench.training.methods``. Any of several will do: the source contradicts itself
    about which one it ran. A gain is over a reference method of the same fusion.
    """

    id: str = Field(pattern=NAME_PATTERN)
    value: float
    unit: Literal["%", "pp"] = Field(description="% of an accuracy, pp of a gain over a reference method")
    tolerance: float = Field(gt=0, description="half of the last published digit, or of the range where one was given")
    std: float | None = Field(ge=0, description="standard deviation over the seeds of the source")
    seeds: int = Field(ge=1)
    image_dataset: str | None
    image_size: int | None
    backbone: str | None
    methods: Annotated[tuple[str, ...], _split(" ")] = Field(min_length=1)
    raf: float | None = Field(ge=0, le=1)
    reference_methods: Annotated[tuple[str, ...], _split(" ")]
    evaluator: str | None
    accuracy: Literal["not stated", "best on test"] = Field(description="of which epoch's weights")
    recipes: Annotated[tuple[StatedRecipe, ...], BeforeValidator(_recipes)] = Field(min_length=1)
    difference_of: Annotated[tuple[str, ...], _split(" ")] = Field(
        description="of a gain, the claims of the accuracy and of its reference, where the source gives both"
    )
    contradictions: Annotated[tuple[Contradiction, ...], BeforeValidator(_contradictions)]
    remarks: Annotated[tuple[str, ...], _split(" | ")] = Field(description="other faults of the source")
    source: str = Field(description="arXiv identifier or repository")
    title: str
    place: str = Field(description="table, figure or section; every place where the same figure stands")

    @property
    def is_gain(self) -> bool:
        """Whether it is a difference to a reference method."""
        return self.unit == "pp"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.is_gain != bool(self.reference_methods):
            raise ValueError("a gain (pp) has reference methods, an accuracy (%) has none")
        if self.is_gain and self.value == 0:
            raise ValueError("a gain of 0 has no direction that could be tested")
        for other in self.contradictions:
            if abs(other.value - self.value) <= self.tolerance + 1e-9:
                raise ValueError(f"{other.value} does not contradict {self.value}: both are the same when rounded")
        return self


class Deviation(NamedTuple):
    """A difference between our trainings and the source's; where it ``decides``, ours do not test its figure."""

    text: str
    decides: bool


@dataclass(frozen=True)
class Comparison:
    """A claim beside our trainings; the estimate is in the claim's unit, None where no training is comparable."""

    claim: Claim
    verdict: Verdict
    estimate: Estimate | None = None
    deviations: tuple[Deviation, ...] = ()
    records: tuple[TrainingRecord, ...] = ()


def load_claims(path: Path) -> list[Claim]:
    """The claims of a file in its order; none where there is no such file. A row that is no claim is an error."""
    if not path.exists():
        return []
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES:,} bytes")
        with path.open(newline="", encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines, strict=True))
    except (OSError, ValueError, csv.Error) as error:
        raise RecordError(f"{path} cannot be read as CSV: {error}") from None
    claims: dict[str, Claim] = {}
    for number, row in enumerate(rows, start=1):
        claim = _claim(row, f"row {number} of {path}")
        if claims.setdefault(claim.id, claim) is not claim:
            raise RecordError(f"row {number} of {path}: the claim {claim.id} is listed twice; keep one")
    for claim in claims.values():
        for missing in sorted(set(claim.difference_of) - claims.keys()):
            raise RecordError(f"{path}: the claim {claim.id} is a difference of {missing}, which is not listed")
    return list(claims.values())


def _claim(row: Mapping[Any, Any], where: str) -> Claim:
    if list(row) != list(Claim.model_fields) or None in row.values():
        raise RecordError(f"{where}: the columns are not {', '.join(Claim.model_fields)}")
    optional = (float | None, int | None, str | None)
    kinds = {name: field.annotation for name, field in Claim.model_fields.items()}
    values = {name: None if cell == "" and kinds[name] in optional else cell for name, cell in row.items()}
    try:
        return Claim.model_validate(values, strict=False)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, item['loc']))} = {item['input']!r}: {item['msg']}" for item in error.errors()]
        raise RecordError(f"{where} is not a valid claim: {'; '.join(faults)}") from None


def compare(
    claims: Iterable[Claim], records: Iterable[TrainingRecord], manifests: Mapping[str, Manifest] | None = None
) -> list[Comparison]:
    """Every claim with its verdict; the manifests, by dataset id, give the codec and the convergence point."""
    groups: _Groups = {}
    for record in sorted(records, key=lambda record: record.seed):
        groups.setdefault((record.dataset_id, record.settings, record.method), []).append(record)
    return [_compare(claim, groups, manifests or {}) for claim in claims]


def verdict(claim: Claim, estimate: Estimate | None, *, decided: bool = False) -> Verdict:
    """The verdict on a claim from our value alone; ``decided``: our trainings do not test its figure.

    An interval contains a figure if it contains any number that is rounded to it.
    """
    if claim.contradictions:
        return "inconsistent in the source"
    if decided or estimate is None or estimate.low is None or estimate.high is None or estimate.num < NUM_SEEDS:
        return "not tested"
    if not estimate.low - claim.tolerance <= claim.value <= estimate.high + claim.tolerance:
        return "not reproduced"
    if claim.is_gain:
        away = estimate.low > 0 if claim.value > 0 else estimate.high < 0
        return "reproduced" if away else "within noise"
    return "reproduced" if (estimate.high - estimate.low) / 2 <= WIDE else "within noise"


_Groups = dict[tuple[str, str, str], list[TrainingRecord]]
"""Our trainings by dataset, settings and method, ordered by seed."""


def _compare(claim: Claim, groups: _Groups, manifests: Mapping[str, Manifest]) -> Comparison:
    found: list[tuple[tuple[Any, ...], Comparison]] = []
    for key, group in groups.items():
        if not _is_claimed(claim, group[0]):
            continue
        for reference in _references(claim, key, groups):
            seeds = {record.seed for record in (reference or group)}
            own = [record for record in group if record.seed in seeds]
            base = [record for record in reference if record.seed in {record.seed for record in own}]
            if own:
                test = _test(claim, own, base, manifests.get(key[0]))
                num_deciding = sum(deviation.decides for deviation in test.deviations)
                found.append(((len(own) < NUM_SEEDS, num_deciding, len(test.deviations), -len(own), key), test))
    return min(found, key=lambda item: item[0])[1] if found else Comparison(claim, verdict(claim, None))


def _test(
    claim: Claim, own: Sequence[TrainingRecord], base: Sequence[TrainingRecord], manifest: Manifest | None
) -> Comparison:
    every = (*own, *base)
    values, base_values = ([_accuracy(claim, every, record) for record in side] for side in (own, base))
    estimate = (
        statistics.paired_difference(values, base_values).estimate if claim.is_gain else statistics.estimate(values)
    )
    found = [*_stated(claim, every, manifest), *_unstated(claim, every, manifest)]
    deviations = tuple(sorted(found, key=lambda deviation: not deviation.decides))
    decided = any(deviation.decides for deviation in deviations)
    return Comparison(claim, verdict(claim, estimate, decided=decided), estimate, deviations, every)


def _is_claimed(claim: Claim, record: TrainingRecord) -> bool:
    method = record.trial.method
    # Papers count RAF 0, where only the FMCS loss is left, among the values of RAL; here it is a family of its own.
    family = method.ral_family if claim.raf == 0 else method.family
    return (
        claim.image_dataset is not None
        and claim.image_dataset == image_dataset(record)
        and claim.backbone == record.trial.backbone
        and family in claim.methods
        and claim.raf in (None, method.raf)
    )


def _references(claim: Claim, key: tuple[str, str, str], groups: _Groups) -> list[Sequence[TrainingRecord]]:
    """The groups that a gain can be over: of the same dataset, settings and fusion."""
    if not claim.is_gain:
        return [()]
    fusion = groups[key][0].trial.method.fusion
    methods = [(group, group[0].trial.method) for other, group in groups.items() if other[:2] == key[:2]]
    return [group for group, method in methods if method.family in claim.reference_methods and method.fusion == fusion]


def _takes_best(claim: Claim, records: Sequence[TrainingRecord]) -> bool:
    """Whether the accuracy is that of the best epoch on the test images, as the source reports it."""
    return claim.accuracy == "best on test" and all(r.metrics.best_test_accuracy is not None for r in records)


def _accuracy(claim: Claim, records: Sequence[TrainingRecord], record: TrainingRecord) -> float:
    best = record.metrics.best_test_accuracy if _takes_best(claim, records) else None
    return 100 * (record.metrics.test_accuracy if best is None else best)


def image_dataset(record: TrainingRecord) -> str | None:
    """The published image dataset of a record, or the one that it is a copy of; None for any other."""
    source = _source_name(record)
    if source in IMAGE_DATASETS:
        return source
    plain = re.sub("[^a-z0-9]", "", source.lower())
    ends = [name for name in IMAGE_DATASETS if plain.endswith(name)]
    return max(ends, key=len) if ends and source.startswith(("hub_", "folder_")) else None


def _source_name(record: TrainingRecord) -> str:
    return record.dataset.split(f"-{record.trial.backbone.replace('/', '_')}-")[0]


def _stated(claim: Claim, records: Sequence[TrainingRecord], manifest: Manifest | None) -> Iterator[Deviation]:
    """What the source states, or any reader takes for granted, and our trainings do otherwise."""
    unit = records[0].trial
    if claim.image_size is not None and unit.image_size != claim.image_size:
        yield Deviation(f"images of {unit.image_size} px, not {claim.image_size}", True)
    if unit.limit is not None and _is_limited(unit.limit, manifest):
        num = _NUM_TRAINING.get(claim.image_dataset or "")
        of = "" if num is None else f", of {num:,} for training"
        yield Deviation(f"at most {unit.limit:,} images in each split{of}", True)
    if unit.backbone_options != BackboneOptions():
        yield Deviation("different layer, stride or initial weights of the backbone", True)
    if unit.init != "fresh":
        yield Deviation("all seeds start from the same weights", True)
    if unit.method.network == "dueheadnet":
        yield Deviation("both heads trained together; the source trains the first one first and freezes it", True)
    recipes = [list(_recipe(recipe, records[0], manifest)) for recipe in claim.recipes]
    yield from min(recipes, key=lambda found: (sum(deviation.decides for deviation in found), len(found)))
    evaluators = {record.trial.evaluator for record in records} - {None, claim.evaluator}
    if evaluators:
        yield Deviation(f"the evaluator {', '.join(sorted(map(str, evaluators)))}, not {claim.evaluator}", True)
    if claim.accuracy == "best on test" and not _takes_best(claim, records):
        yield Deviation("weights chosen on validation images, not on the test images", True)


def _unstated(claim: Claim, records: Sequence[TrainingRecord], manifest: Manifest | None) -> Iterator[Deviation]:
    """What the source leaves open, or what all our trainings do."""
    unit, source = records[0].trial, _source_name(records[0])
    if source != claim.image_dataset:
        yield Deviation(f"a copy of the images ({source}), which may be encoded again", False)
    if claim.image_dataset in _TEST_IMAGES:
        yield Deviation(_TEST_IMAGES[claim.image_dataset], False)
    if unit.limit is None or not _is_limited(unit.limit, manifest):
        yield Deviation(HELD_OUT, False)
    if claim.raf is None:
        yield Deviation(f"RAF {unit.method.raf:g}; the source does not say which", False)
    if manifest is not None and manifest.config.codec == "q8" and any(r.trial.evaluator for r in records):
        yield Deviation("an evaluator fitted on maps stored with loss (q8)", False)


def _recipe(stated: StatedRecipe, record: TrainingRecord, manifest: Manifest | None) -> Iterator[Deviation]:
    recipe, epochs = record.trial.recipe, record.trial.epochs
    for name in ("optimizer", "lr", "weight_decay", "schedule", "batch_size", "momentum"):
        claimed, own = getattr(stated, name), getattr(recipe, name)
        if claimed is not None and own != claimed and (name != "momentum" or recipe.optimizer == "sgd"):
            yield Deviation(f"{name} {own}, not {claimed} ({stated.name})", True)
    if stated.epochs is not None and epochs != stated.epochs:
        yield Deviation(f"{epochs} epochs, not {stated.epochs} ({stated.name})", True)
    if stated.epochs is None and manifest is not None:  # then the length is the convergence point
        point = max(math.ceil(run.convergence_epoch) for run in manifest.runs if run.role == "training")
        if epochs != point:
            text = f"{epochs} epochs; the convergence point of these images and this network is {point}"
            yield Deviation(text, epochs < point)


def _is_limited(limit: int, manifest: Manifest | None) -> bool:
    """Whether images were left out; a limit that no split reaches leaves out none."""
    return manifest is None or max(manifest.images.num_images.values()) >= limit


def _published(claim: Claim) -> str:
    """With as many digits as were published, and the range where one was."""
    if claim.tolerance >= 1:
        ends = sorted((claim.value - claim.tolerance, claim.value + claim.tolerance), key=abs)
        return f"{ends[0]:{_form(claim, 0).spec}} to {ends[1]:{_form(claim, 0).spec}} {claim.unit}"
    return f"{claim.value:{_form(claim, round(-math.log10(2 * claim.tolerance))).spec}} {claim.unit}"


def _form(claim: Claim, digits: int = 2) -> Form:
    return Form(f"{'+' if claim.is_gain else ''}.{digits}f")


def _ours(item: Comparison) -> str | None:
    found = item.estimate
    return None if found is None else " ".join((*found.parts(_form(item.claim).spec), item.claim.unit))


def _join(parts: Iterable[str], between: str = "; ") -> str | None:
    return between.join(parts) or None


def _run(claim: Claim) -> str:
    raf = "RAF not stated" if claim.raf is None else "" if claim.raf == 1 else f"RAF {claim.raf:g}"
    images, backbone = claim.image_dataset or "images not stated", claim.backbone or "backbone not stated"
    return ", ".join(filter(None, (images, backbone, " or ".join(claim.methods), raf)))


CLAIM_COLUMNS: tuple[Column[Comparison], ...] = (
    Column("claim", "Claim", lambda item: item.claim.id, "its row in claims.csv", numeric=False),
    Column("run", "Trained", lambda item: _run(item.claim), "images, backbone, method and RAF", numeric=False),
    Column("published", "Published", lambda item: _published(item.claim), "accuracy in per cent, or gain in percentage "
           "points (pp) over the reference", numeric=False),
    Column("ours", "Ours", _ours, "mean over seeds with 95 % interval; a gain is paired by seed", numeric=False),
    Column("seeds", "Seeds", lambda item: item.estimate and item.estimate.num, "our trainings of the method", COUNT),
    Column("verdict", "Verdict", lambda item: item.verdict, "reproduced: our interval contains the figure and, of a "
           "gain, not 0. Within noise: it contains both, or an accuracy within more than 1 point to each side. Not "
           "reproduced: it does not contain the figure. Inconsistent in the source: the source contradicts itself. Not "
           "tested: fewer than five seeds, or trainings that deviate from what the source states", numeric=False,
           mark=lambda item: "ours deviates" if item.deviations else ""),
    Column("deviations", "Deviations", lambda item: _join(d.text for d in item.deviations), "how our trainings differ "
           "from those of the source; those in what it states come first", numeric=False),
    Column("contradictions", "The source also says", lambda item: _join(
           f"{c.value:{_form(item.claim).spec}} ({c.place})" for c in item.claim.contradictions),
           "a different value that the same source gives for the same thing", numeric=False),
    Column("remarks", "Remarks", lambda item: _join(item.claim.remarks, " "), "other faults of the source",
           numeric=False),
    Column("source", "Source", lambda item: f"{item.claim.source}, {item.claim.place}", "", numeric=False),
)  # fmt: skip
