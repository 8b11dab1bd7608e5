"""Work on a disk that really becomes full says so, keeps what it has, and goes on when there is room."""

import json
import shutil
import subprocess
import sys

import pytest
from conftest import subprocess_environment
from helpers.building import BUILD

# In a mount namespace of its own: a disk of a few hundred KB, which grows after each attempt.
PROGRAM = """
mount -t tmpfs -o size=$2 tmpfs "$1" || exit 77
[ -z "$START" ] || cp -r "$START" "$DISK/w" || exit 78
shift 2
for size in "$@"; do
  if "$PYTHON" $COMMAND --workspace "$DISK/w" --json > "$OUTPUT" 2>> "$ERRORS"; then exit 0; fi
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


def on_a_growing_disk(command, sizes, tmp_path, start=""):
    """Type a command until it succeeds, each time with more room; returns its output and what it told."""
    disk, output, errors = tmp_path / "disk", tmp_path / "output", tmp_path / "errors"
    disk.mkdir()
    environment = subprocess_environment() | {
        "PYTHON": sys.executable,
        "COMMAND": " ".join(command),
        "DISK": str(disk),
        "START": str(start),
        "OUTPUT": str(output),
        "ERRORS": str(errors),
    }
    command = ["unshare", "--mount", "sh", "-c", PROGRAM, "sh", str(disk), *sizes]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    told = errors.read_text()
    assert done.returncode == 0, told[-3000:] + done.stderr
    assert told.count("free some space and type the command again") == told.count("the disk is full")
    assert "Traceback" not in told
    return output.read_text(), told


@pytest.mark.skipif(not can_mount(), reason="needs the right to mount a small disk")
def test_a_build_goes_on_after_the_disk_was_full(tiny_dataset, tmp_path):
    output, told = on_a_growing_disk(BUILD[1:], ["300k", "2600k", "4600k", "100m", "100m"], tmp_path)
    assert told.count("the disk is full") >= 2
    assert json.loads(output)["dataset_digest"] == tiny_dataset.manifest.dataset_digest


@pytest.mark.skipif(not can_mount(), reason="needs the right to mount a small disk")
def test_a_training_goes_on_after_the_disk_was_full(evaluated, tmp_path):
    page = 4096
    used = sum(-(-path.stat().st_size // page) for path in evaluated.rglob("*") if path.is_file()) * page // 1024
    command = "-m fmcs_bench train --method baseline --method label-smoothing --seeds 2 --epochs 1 --device cpu"
    sizes = [f"{used + 20}k", "100m", "100m"]
    output, told = on_a_growing_disk(command.split(), sizes, tmp_path, evaluated)
    assert told.count("the disk is full") == 1
    assert "of 4 were finished before" in told  # what was written is whole: a damaged record would be an error
    assert len(json.loads(output)) == 4
