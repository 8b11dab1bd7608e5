"""The claims board and the board of datasets as tables; see ``tables``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from urllib.parse import quote

from fmcs_bench.leaderboard.cells import EMPTY, NONE, Cell, Column, Link, Row, Table, address, anchor
from fmcs_bench.leaderboard.claims import Claim
from fmcs_bench.leaderboard.verdicts import Judged
from fmcs_bench.store.schema import Manifest

_MINUS = "\N{MINUS SIGN}"

CLAIM_COLUMNS = (
    Column("Claim", "", "name of the claim, and of its file below claims/", False),
    Column("Run", "", "images, backbone, method and RAF that the figure is about", False),
    Column("Published", "", "accuracy in percent, or gain in percentage points (pp) over the reference"),
    Column("Ours", "", "mean over seeds with 95 % interval; a gain is paired by seed"),
    Column("Seeds", "", "trainings of the method (a gain has as many of its reference)"),
    Column("Verdict", "", "reproduced: our interval contains the figure and, of a gain, not 0; within noise: it "
           "contains both, or an accuracy within more than 1 point to each side; not reproduced: it does not contain "
           "the figure; inconsistent in the source: it contradicts itself; not tested: fewer than five seeds of this "
           "kind, or runs that deviate from what the source states, whose value says nothing about the figure", False),
    Column("Deviations", "", "how our runs differ from the source's; those in what it states come first", False),
    Column("The source also says", "", "another value that the same source gives for the same thing", False),
    Column("Remarks", "", "other faults of the source that touch the figure", False),
    Column("Source", "", "paper or repository, and the place in it", False),
    Column("Records", "", "one link per training", False),
)  # fmt: skip

DATASET_COLUMNS = (
    Column("Dataset", "", "name and first digits of the digest, as records name it", False),
    Column("Images", "", "image dataset", False),
    Column("Images", "number", "images used, over all splits"),
    Column("Backbone", "", "network whose maps they are", False),
    Column("Size", "px", "side of the square input"),
    Column("K", "", "number of stages"),
    Column("Runs", "", "trainings of the backbone: training runs, and two held out"),
    Column("Maps", "", "feature maps of all runs and stages, and their shape (channels, height, width)"),
    Column("Stored", "MB", "size of all files"),
    Column("Codec", "", "how maps are stored; q8 loses a little, the others nothing", False),
    Column("Licence", "", "of the images, as their owners state it", False),
    Column("Card", "", "the data card", False),
)


def claims_table(judged: Sequence[Judged]) -> Table:
    """Published figures beside what was measured, in the order given."""
    return Table(
        anchor="claims",
        caption="Published figures, and what the records here say about them",
        columns=CLAIM_COLUMNS,
        rows=tuple(_claim_row(item) for item in judged),
    )


def datasets_table(manifests: Sequence[Manifest], cards: Mapping[str, str] | None = None) -> Table:
    """The known FMCS datasets.

    Args:
        manifests: in the order of the rows.
        cards: address of the data card, as the page can link to it, by name of the dataset.
    """
    return Table(
        anchor="datasets",
        caption="FMCS datasets",
        columns=DATASET_COLUMNS,
        rows=tuple(_dataset_row(manifest, (cards or {}).get(manifest.name)) for manifest in manifests),
    )


def _claim_row(item: Judged) -> Row:
    claim, run, ours = item.claim, item.claim.run, item.estimate
    raf = "RAF not stated" if run.raf is None else "" if run.raf == 1 else f"RAF {run.raf:g}"
    where = (run.image_dataset or "images not stated", run.backbone or "backbone not stated", " or ".join(run.methods))
    interval = ""
    if ours is not None and ours.low is not None and ours.high is not None:
        interval = f"[{_number(ours.low, claim.unit)}, {_number(ours.high, claim.unit)}]"
    contradictions = (f"{_number(c.value, claim.unit)} {claim.unit} ({c.place})" for c in claim.contradictions)
    cells = (
        Cell(claim.id, is_name=True, links=(Link(claim.id, f"claims/{quote(claim.id)}.json"),)),
        Cell(", ".join(part for part in (*where, raf) if part)),
        Cell(f"{_published(claim)} {claim.unit}", value=claim.value / 100),
        EMPTY
        if ours is None
        else Cell(
            f"{_number(ours.mean, claim.unit)} {claim.unit}",
            value=ours.mean / 100,
            low=None if ours.low is None else ours.low / 100,
            high=None if ours.high is None else ours.high / 100,
            interval=interval,
        ),
        EMPTY if ours is None else Cell(str(ours.num), value=ours.num),
        Cell(item.verdict, mark="ours deviates" if item.deviations else ""),
        Cell("; ".join(deviation.text for deviation in item.deviations) or ("none" if item.records else NONE)),
        Cell("; ".join(contradictions) or NONE),
        Cell(" ".join(claim.remarks) or NONE),
        Cell(f"{claim.source.reference}, {claim.source.place}"),
        Cell("", links=tuple(Link(str(r.seed), f"records/{quote(address(r))}") for r in item.records)),
    )
    return Row(anchor("claim", claim.id), cells)


def _published(claim: Claim) -> str:
    """With as many digits as were published, and the range where one was."""
    if claim.tolerance >= 1:
        ends = (claim.value - claim.tolerance, claim.value + claim.tolerance)
        return " to ".join(_number(end, claim.unit, 0) for end in sorted(ends, key=abs))
    return _number(claim.value, claim.unit, round(-math.log10(2 * claim.tolerance)))


def _number(value: float, unit: str, digits: int = 2) -> str:
    return f"{value:{'+' if unit == 'pp' else ''}.{digits}f}".replace("-", _MINUS)


def _dataset_row(manifest: Manifest, card: str | None) -> Row:
    config = manifest.config
    num_images, shape = sum(manifest.images.num_images.values()), " x ".join(map(str, manifest.map_shape))
    cells = (
        Cell(manifest.id, is_name=True),
        Cell(config.image_dataset),
        Cell(f"{num_images:,}", value=num_images),
        Cell(config.backbone),
        Cell(str(config.image_size), value=config.image_size),
        Cell(str(config.stages), value=config.stages),
        Cell(str(len(manifest.runs)), value=len(manifest.runs)),
        Cell(f"{manifest.num_maps:,}", value=manifest.num_maps, interval=f"({shape})"),
        Cell(f"{manifest.stored_bytes / 1e6:,.1f}", value=manifest.stored_bytes / 1e6),
        Cell(config.codec),
        Cell(manifest.images.licence),
        Cell("", links=() if card is None else (Link("card", card),)),
    )
    return Row(anchor("dataset", manifest.id), cells)
