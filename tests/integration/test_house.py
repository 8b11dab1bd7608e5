"""The repository stays small: run with ``pytest -s``, or this file with Python, to see the counts."""

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # for a run without pytest

from helpers import house


@pytest.mark.skipif(not (shutil.which("git") and (house.ROOT / ".git").exists()), reason="counts what git tracks")
def test_every_count_is_within_its_limit():
    found = house.counts()
    print("\n" + house.report(found))
    assert [count for count in found if count.value > count.limit] == []


def test_a_small_file_that_one_file_imports_is_found(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "user.py").write_text("from package import small\nfrom package.shared import x\n")
    (package / "other.py").write_text("import package.shared\nimport package.long\n")
    (package / "small.py").write_text("")
    (package / "shared.py").write_text("x = 1\n")
    (package / "long.py").write_text("\n" * house.SMALL)
    assert house.small_files_of_one(package) == ["package.small"]


if __name__ == "__main__":
    print(house.report(house.counts()))
