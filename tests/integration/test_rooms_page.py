"""The page of the rooms is true: its picture is that of the imports, and every file and name in it exists."""

import ast
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/rooms.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`([a-z_]+(?:/\w+)*/\w+\.py)(?::([\w.]+))?`", TEXT)))


def names_in(path: Path) -> set[str]:
    """Functions, classes and constants of a file, and methods as ``Class.method``."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found |= {node.name} | {f"{node.name}.{part.name}" for part in node.body if hasattr(part, "name")}
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


def test_there_are_files_to_look_for():
    assert len(NAMED) > 30


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_every_file_and_name_exists(file, name):
    path = ROOT / file if file.startswith(("tests/", "docs/", "benchmarks/")) else ROOT / "fmcs_bench" / file
    assert path.is_file()
    assert not name or name in names_in(path)


def test_every_room_has_a_row():
    rows = re.findall(r"^\| (\w+) \| .* \| `\w+/", TEXT, flags=re.MULTILINE)
    assert sorted(rows) == sorted({path.parent.name for path in (ROOT / "fmcs_bench").glob("*/*.py")})


def test_the_picture_is_that_of_the_imports():
    made = runpy.run_path(str(ROOT / "docs/pictures/rooms.py"))
    shown = (ROOT / "docs/pictures/rooms.svg").read_text(encoding="utf-8")
    assert made["drawing"]() == shown, "type `python docs/pictures/rooms.py`"
