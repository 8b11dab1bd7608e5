"""Hooks of the documentation site (`mkdocs build`): leaderboard, tables of results, links that leave the folder `docs`.

The leaderboard is built from `leaderboard/`. A line `<!-- results: TRACK DATASET -->` becomes the tables of that track
and dataset. A link to a file elsewhere in the repository leads to a copy of that file, a link to a folder becomes text.
"""

from __future__ import annotations

import re
import tempfile
from functools import cache
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from fmcs_bench.leaderboard import build
from fmcs_bench.results.evaluator_board import evaluator_boards
from fmcs_bench.results.training_board import training_boards

ROOT = Path(__file__).parent.parent
COPIES = "repository"
LINK = re.compile(r"\[([^\]]*)\]\(\.\./([^)#]+)(#[^)]*)?\)")
TABLE = re.compile(r"<!-- results: (evaluators|training) (\S+) -->")


@cache
def results() -> build.Results:
    """The committed results."""
    return build.load(ROOT / "leaderboard")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Adds the leaderboard and every file that a page links to."""
    for page in list(files.documentation_pages()):
        for _, target, _ in LINK.findall(page.content_string):
            if (ROOT / target).is_file() and not target.startswith("leaderboard/"):
                _add(files, config, f"{COPIES}/{_name(target)}", (ROOT / target).read_bytes())
    with tempfile.TemporaryDirectory() as folder:
        build.write(results(), Path(folder))
        for path in sorted(Path(folder).rglob("*.*")):
            _add(files, config, f"leaderboard/{path.relative_to(folder).as_posix()}", path.read_bytes())
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Fills in tables, and turns links out of the folder into links to the copies."""

    def linked(match: re.Match[str]) -> str:
        text, target, fragment = match.groups()
        if not (ROOT / target).exists():
            raise FileNotFoundError(f"{page.file.src_uri} links to {target}, which is not there")
        if target.startswith("leaderboard/"):
            return f"[{text}](leaderboard/index.html{fragment or ''})"
        return f"[{text}]({COPIES}/{_name(target)})" if (ROOT / target).is_file() else text

    return LINK.sub(linked, TABLE.sub(lambda match: tables(*match.groups()), markdown))


def tables(track: str, dataset: str) -> str:
    """All boards of a track on a dataset as Markdown.

    Raises:
        KeyError: there is none.
    """
    every = evaluator_boards(results().evaluators) if track == "evaluators" else training_boards(results().trainings)
    found = [board for board in every if board.dataset_id.partition("@")[0] == dataset]
    if not found:
        raise KeyError(f"no results of {track} on {dataset}")
    return "\n\n".join(f"**{board.settings}**\n\n{board.table('readme').markdown()}" for board in found)


def _name(target: str) -> str:
    """Markdown outside the folder is shown as it is, as text: its own links lead elsewhere."""
    return f"{target}.txt" if target.endswith(".md") else target


def _add(files: Files, config: MkDocsConfig, src_uri: str, content: bytes) -> None:
    if files.get_file_from_path(src_uri) is None:
        files.append(File.generated(config, src_uri, content=content))
