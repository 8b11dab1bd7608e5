"""Every example in a docstring runs and says the truth."""

import doctest
import importlib
import pkgutil

import pytest

import fmcs_bench

MODULES = ["fmcs_bench", *(module.name for module in pkgutil.walk_packages(fmcs_bench.__path__, "fmcs_bench."))]
EXAMPLES_AT_LEAST = 25


def examples(name):
    if name.endswith("__main__"):
        return []  # importing it starts the program
    return [test for test in doctest.DocTestFinder().find(importlib.import_module(name)) if test.examples]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # an example that writes files must not do so here
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for test in examples(name):
        report: list[str] = []
        runner.run(test, out=report.append)
        assert not report, "".join(report)


def test_there_are_examples_to_run():
    assert sum(len(test.examples) for name in MODULES for test in examples(name)) >= EXAMPLES_AT_LEAST
