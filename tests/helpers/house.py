"""Counts what keeps the repository small; ``python tests/integration/test_house.py`` prints them."""

import ast
import subprocess
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
ROOMS = (
    "core", "jobs", "images", "backbones", "training", "store", "build", "hub", "results", "evaluators",
    "evaluator_track", "scoring", "training_track", "leaderboard", "testing", "cli",
)  # fmt: skip
SMALL = 80
"""Lines; a shorter file that only one other file imports should be part of it."""


class Count(NamedTuple):
    """A number and the most that it may be."""

    what: str
    value: float
    limit: float


def num_lines(path: Path) -> int:
    with path.open("rb") as stream:
        return sum(1 for _ in stream)


def imported_names(path: Path) -> set[str]:
    """Dotted names that a file imports, and for ``from a import b`` also ``a.b``."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update([node.module, *(f"{node.module}.{alias.name}" for alias in node.names)])
    return names


def small_files_of_one(package: Path) -> list[str]:
    """Files under ``SMALL`` lines that one other file imports; not ``__init__.py``, and not the evaluators' models."""
    names = {".".join(path.relative_to(package.parent).with_suffix("").parts): path for path in package.rglob("*.py")}
    users: dict[str, int] = dict.fromkeys(names, 0)
    for path in names.values():
        for name in imported_names(path) & set(names):
            users[name] += names[name] != path
    return sorted(
        name
        for name, path in names.items()
        if users[name] == 1 and num_lines(path) < SMALL and path.name != "__init__.py" and "models" not in path.parts
    )


def counts(root: Path = ROOT) -> list[Count]:
    """All counts of a checkout, with their limits."""
    package = root / "fmcs_bench"
    files, tests = list(package.rglob("*.py")), list((root / "tests").rglob("*.py"))
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, check=True).stdout.decode()
    tracked = {name: (root / name).stat().st_size for name in listing.split("\0") if name and (root / name).is_file()}
    shown = {name: size for name, size in tracked.items() if name.startswith("leaderboard/")}
    folders = {path.relative_to(package).parts[0] for path in files if path.parent != package}
    return [
        Count("modules at the package's root", sum(path.parent == package for path in files), 2),
        Count("folders of the package that are no room", len(folders - set(ROOMS)), 0),
        Count("files of the package", len(files), 150),
        Count("lines of the package", sum(map(num_lines, files)), 22_000),
        Count("lines of its longest file", max(map(num_lines, files)), 600),
        Count(f"files under {SMALL} lines that one file imports", len(small_files_of_one(package)), 12),
        Count("lines of the tests", sum(map(num_lines, tests)), 17_000),
        Count("lines of the README", num_lines(root / "README.md"), 150),
        Count("files of the leaderboard", len(shown), 60),
        Count("MB of the leaderboard", round(sum(shown.values()) / 1e6, 1), 25),
        Count("MB of the checkout", round(sum(tracked.values()) / 1e6, 1), 40),
    ]


def report(found: list[Count]) -> str:
    """A line for each count."""
    return "\n".join(
        f"{count.value:>10,} of {count.limit:>6,}  {count.what}{'  OVER' if count.value > count.limit else ''}"
        for count in found
    )
