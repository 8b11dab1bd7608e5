"""A build on a disk that really becomes full says so, keeps what it has, and goes on when there is room."""

import json
import shutil
import subprocess
import sys

import pytest
from conftest import subprocess_environment
from test_builder import BUILD

# In a mount namespace of its own: a disk of a few hundred KB, which grows after each attempt.
PROGRAM = """
mount -t tmpfs -o size=$2 tmpfs "$1" || exit 77
shift 2
for size in "$@"; do
  if "$PYTHON" $BUILD --workspace "$DISK/w" --json > "$OUTPUT" 2>> "$ERRORS"; then exit 0; fi
  echo "size $size" >> "$ERRORS"
  mount -o remount,size=$size "$DISK"
done
exit 1
"""


def can_mount() -> bool:
    if not (shutil.which("unshare") and shutil.which("mount")):
        return False
    probe = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(probe, capture_output=True).returncode == 0


@pytest.mark.skipif(not can_mount(), reason="needs the right to mount a small disk")
def test_a_build_goes_on_after_the_disk_was_full(tiny_dataset, tmp_path):
    disk, output, errors = tmp_path / "disk", tmp_path / "output", tmp_path / "errors"
    disk.mkdir()
    environment = subprocess_environment() | {
        "PYTHON": sys.executable,
        "BUILD": " ".join(BUILD[1:]),
        "DISK": str(disk),
        "OUTPUT": str(output),
        "ERRORS": str(errors),
    }
    sizes = ["300k", "2600k", "4600k", "100m", "100m"]
    command = ["unshare", "--mount", "sh", "-c", PROGRAM, "sh", str(disk), *sizes]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    told = errors.read_text()
    assert done.returncode == 0, told[-3000:]
    assert told.count("the disk is full") >= 2
    assert told.count("free some space and type the command again") == told.count("the disk is full")
    assert "Traceback" not in told
    digest = json.loads(output.read_text())["dataset_digest"]
    assert digest == tiny_dataset.manifest.dataset_digest
