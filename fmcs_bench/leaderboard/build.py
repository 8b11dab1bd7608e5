"""Records -> a site of tables and figures that works from disk, and the same tables as Markdown.

Flow: files -> records that can be shown, and those that cannot -> sections (tables, pictures), a page of details for
each method -> ``index.html``, ``details/``, ``README.md``, figures, assets and copies of the records. The same records
give the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from fmcs_bench import __version__
from fmcs_bench.core.errors import MissingDataError
from fmcs_bench.leaderboard import board_tables, citation, datatables, markdown, site, tables
from fmcs_bench.leaderboard.cells import Table
from fmcs_bench.leaderboard.claims import load_claims
from fmcs_bench.leaderboard.figures import evaluators
from fmcs_bench.leaderboard.known import cards_in, find_manifests
from fmcs_bench.leaderboard.method_page import Details, details
from fmcs_bench.leaderboard.sections import Fold, Picture, Section, sections
from fmcs_bench.leaderboard.sift import LeftOut, LeftOutError, sift
from fmcs_bench.leaderboard.verdicts import judge
from fmcs_bench.results.records import EvaluatorRecord, TrainingRecord
from fmcs_bench.results.store import RecordStore, predictions_path

__all__ = ["Content", "Details", "LeftOut", "LeftOutError", "Section", "build", "render", "sections"]

ASSETS = ("page.css", "page.js")
"""Files of ours beside the page; see ``datatables`` for the one that is not."""


@dataclass(frozen=True)
class Content:
    """All that the page shows.

    Attributes:
        sections: one for each FMCS dataset.
        claims: published figures beside ours; no table, no section.
        datasets: what is known of the FMCS datasets; no table, no section.
        left_out: records that could not be shown.
        num_evaluators: records of the evaluator track that are shown.
        num_trainings: records of the training track that are shown.
    """

    sections: Sequence[Section]
    claims: Sequence[Table] = ()
    datasets: Sequence[Table] = ()
    left_out: Sequence[LeftOut] = ()
    num_evaluators: int = 0
    num_trainings: int = 0


def build(records_root: Path, out: Path, *, datasets: Sequence[Path] = ()) -> Path:
    """Build the leaderboard of all records under ``records_root``.

    Args:
        records_root: folder of a ``RecordStore``. It may be ``out/records`` itself; otherwise the records and their
            predictions are copied there. Claims are in the folder ``claims`` beside it, if it is there, and are
            copied like records.
        out: folder for the page; files in it that no build wrote are left alone.
        datasets: folders with FMCS datasets, or with their data cards, for the board of datasets.

    Returns:
        Path of the page, ``out/index.html``.

    Raises:
        MissingDataError: there is no record.
        LeftOutError: the page is made, but some records are not valid; the page names them too.
        ConfigError: ``out`` holds a file, not from a build, where one of ours must go.
    """
    store = RecordStore(records_root)
    sifted = sift(store)
    every: list[EvaluatorRecord | TrainingRecord] = [*sifted.evaluators, *sifted.trainings]
    if not every and not sifted.left_out:
        raise MissingDataError(
            f"there are no records under {records_root}; make some with `fmcs-bench evaluate` or `fmcs-bench train`"
        )
    manifests = find_manifests(datasets)
    claims_root = records_root.parent / "claims"
    claims = judge(load_claims(claims_root), sifted.trainings, manifests)
    shown = Content(
        sections(sifted.evaluators, sifted.trainings, store.predictions),
        [board_tables.claims_table(claims)] if claims else [],
        [board_tables.datasets_table(list(manifests.values()), cards_in(datasets, out))] if manifests else [],
        sifted.left_out,
        len(sifted.evaluators),
        len(sifted.trainings),
    )
    contents: dict[str, bytes | Path] = {}
    for section in shown.sections:
        for picture in section.pictures:
            contents[f"{picture.name}.svg"] = evaluators.encode(picture.figure, "svg")
    sources = {"records": records_root, "claims": claims_root}
    in_place = [name for name, folder in sources.items() if (out / name).resolve() == folder.resolve()]
    for address in [] if "records" in in_place else map(tables.address, every):
        path = records_root / address
        for copied in (predictions_path(path), path):
            contents[f"records/{copied.relative_to(records_root).as_posix()}"] = copied
    for judged in [] if "claims" in in_place else claims:
        contents[f"claims/{judged.claim.id}.json"] = claims_root / f"{judged.claim.id}.json"
    for name in ASSETS:
        contents[f"assets/{name}"] = (package_files(__name__) / "assets" / name).read_bytes()
    contents[f"assets/{datatables.NAME}"] = datatables.script()
    for page in details(sifted.evaluators, sifted.trainings):
        contents[page.name] = render("details.html.j2", page=page, root=page.root).encode()
    contents["README.md"] = render("README.md.j2", content=shown).encode()
    contents["index.html"] = render("page.html.j2", content=shown, root="").encode()
    site.publish(out, contents, leave=in_place)
    if sifted.left_out:
        raise LeftOutError(out / "index.html", sifted.left_out)
    return out / "index.html"


def render(template: str, **values: object) -> str:
    """The page, a page of details or the Markdown file.

    Args:
        template: file in ``templates``.
        **values: that it shows.
    """
    environment = Environment(
        loader=PackageLoader("fmcs_bench.leaderboard", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["exact"] = _exact
    environment.globals |= {"tables": tables, "markdown": markdown, "version": __version__, "bibtex": citation.bibtex}
    tests: dict[str, Any] = environment.tests  # whose type is inferred from jinja2's own tests, plain functions
    tests.update((kind.__name__, partial(_is, kind)) for kind in (Table, Picture, Fold))
    return environment.get_template(template).render(**values)


def _exact(value: float) -> str:
    """Of a mean nine digits, by which tables are sorted; of a whole number all."""
    return str(value) if isinstance(value, int) else f"{value:.9g}"


def _is(kind: type, value: object) -> bool:
    return isinstance(value, kind)
