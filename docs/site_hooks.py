"""Hooks of the documentation site (`mkdocs build`): links that leave the folder `docs`.

Pages are read in the repository and on the site. There, a link to a file elsewhere in the repository leads to a copy of
that file; the leaderboard is copied whole, without its predictions and with DataTables, which no repository of ours
holds; a link to a folder becomes plain text.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from fmcs_bench.leaderboard import datatables

ROOT = Path(__file__).parent.parent
COPIES = "repository"
LINK = re.compile(r"\[([^\]]*)\]\(\.\./([^)#]+)(#[^)]*)?\)")
BOARD_FILES = {".html", ".css", ".js", ".svg", ".json", ".txt", ".png"}


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Adds the leaderboard and every file that a page links to."""
    for page in list(files.documentation_pages()):
        for _, target, _ in LINK.findall(page.content_string):
            if (ROOT / target).is_file() and not target.startswith("leaderboard/"):
                _add(files, config, f"{COPIES}/{_name(target)}", ROOT / target)
    for path in sorted((ROOT / "leaderboard").rglob("*")):
        if path.is_file() and path.suffix in BOARD_FILES:
            _add(files, config, path.relative_to(ROOT).as_posix(), path)
    script = f"leaderboard/assets/{datatables.NAME}"
    if files.get_file_from_path(script) is None:
        files.append(File.generated(config, script, content=datatables.script()))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Turns links out of the folder into links to the copies."""

    def turned(match: re.Match[str]) -> str:
        text, target, fragment = match.groups()
        if not (ROOT / target).exists():
            raise FileNotFoundError(f"{page.file.src_uri} links to {target}, which is not there")
        if target.startswith("leaderboard/"):
            return f"[{text}](leaderboard/index.html{fragment or ''})"
        return f"[{text}]({COPIES}/{_name(target)})" if (ROOT / target).is_file() else text

    return LINK.sub(turned, markdown)


def _name(target: str) -> str:
    """Markdown outside the folder is shown as it is, as text: its own links lead elsewhere."""
    return f"{target}.txt" if target.endswith(".md") else target


def _add(files: Files, config: MkDocsConfig, src_uri: str, path: Path) -> None:
    if files.get_file_from_path(src_uri) is None:
        files.append(File.generated(config, src_uri, abs_src_path=str(path)))
