import hashlib
import json
import math
import os
import stat
import subprocess
import sys

import pytest
from conftest import subprocess_environment

from fmcs_bench.core import files


def test_a_file_and_its_folders_are_written_whole_and_can_be_read_by_others(tmp_path):
    path = tmp_path / "a" / "b" / "c.bin"
    files.write_atomically(path, b"\x00\r\n\xff")
    assert path.read_bytes() == b"\x00\r\n\xff"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [item.name for item in path.parent.iterdir()] == ["c.bin"]


@pytest.mark.parametrize("interruption", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["replace", "fsync"])
def test_an_interrupted_write_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch, where, interruption):
    path = tmp_path / "c.bin"
    files.write_atomically(path, b"old")

    def interrupt(*_args):
        raise interruption

    with monkeypatch.context() as patch:
        patch.setattr(os, where, interrupt)
        with pytest.raises(type(interruption)):
            files.write_atomically(path, b"new")
    assert {item.name: item.read_bytes() for item in tmp_path.iterdir()} == {"c.bin": b"old"}
    files.write_atomically(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_killed_process_leaves_the_old_file(tmp_path):
    path = tmp_path / "c.bin"
    path.write_bytes(b"old")
    code = (
        "import os, sys; from pathlib import Path; from fmcs_bench.core import files\n"
        "os.fsync = lambda _: os.kill(os.getpid(), 9)\n"
        "files.write_atomically(Path(sys.argv[1]), b'new')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], env=subprocess_environment(), check=False)
    assert done.returncode == -9
    assert path.read_bytes() == b"old"
    files.write_atomically(path, b"newer")
    assert path.read_bytes() == b"newer"


def test_digest_is_sha256_of_sorted_json_without_spaces():
    text = '{"a":[1,2.5,null,true],"b":{"ä":"x y"}}'
    value = {"b": {"ä": "x y"}, "a": [1, 2.5, None, True]}
    assert files.digest(value) == hashlib.sha256(text.encode()).hexdigest()
    assert files.digest(value) != files.digest({"b": {"ä": "x y"}, "a": [2.5, 1, None, True]})


@pytest.mark.parametrize("write", [files.digest, files.to_json])
def test_what_is_no_json_is_refused(write):
    with pytest.raises(ValueError, match="JSON compliant"):
        write({"a": [-math.inf]})


def test_json_is_readable_sorted_and_comes_back():
    data = files.to_json({"b": 1, "a": "é"})
    assert data.decode("utf-8") == '{\n "a": "é",\n "b": 1\n}\n'
    assert json.loads(data) == {"a": "é", "b": 1}
