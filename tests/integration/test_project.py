"""What a repository needs besides code: citation, workflows, forms, and the navigation of the documentation."""

import re
import runpy
import tomllib
from pathlib import Path

import pytest
import yaml

import fmcs_bench

ROOT = Path(__file__).parents[2]
YAML = sorted([*(ROOT / ".github").rglob("*.yml"), ROOT / "CITATION.cff"])


class _Loader(yaml.SafeLoader):
    """Takes the tags of mkdocs' settings as text."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda _loader, suffix, _node: suffix)


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.name)
def test_yaml_is_valid(path):
    assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict)


def test_citation_and_changelog_have_the_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == fmcs_bench.__version__
    assert f"## {fmcs_bench.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_page_stands_in_the_navigation_once():
    settings = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), _Loader)  # noqa: S506  (a safe loader)
    named = re.findall(r"[\w-]+\.md", str(settings["nav"]))
    assert sorted(named) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


def test_scripts_that_workflows_run_exist():
    scripts = {
        script
        for path in (ROOT / ".github/workflows").glob("*.yml")
        for script in re.findall(r"bash (\S+)", path.read_text(encoding="utf-8"))
    }
    assert scripts == {".ci/run", ".ci/wheel"}
    assert all((ROOT / script).is_file() for script in scripts)


def test_every_dependency_has_a_reason_and_no_other_package_has_one():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    needed = {re.split(r"[\[>=<]", item)[0] for items in lists for item in items} - {"fmcs-bench"}
    section = (ROOT / "docs/decisions.md").read_text(encoding="utf-8").split("## Dependencies")[1].split("\n## ")[0]
    words = set(re.findall(r"[\w-]+", section.lower()))
    assert sorted(needed - words) == []
    bold = [
        re.split(r", | and ", text)
        for text in re.findall(r"\*\*([^*]+)\*\*", section)
        if text[:4] not in ("For ", "Lowe")
    ]
    named = {name.lower() for names in bold for name in names}
    assert sorted(named - needed) == []


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_every_benchmark_finds_what_it_imports(path, monkeypatch):
    monkeypatch.syspath_prepend(path.parent)
    runpy.run_path(str(path), run_name="benchmark")
