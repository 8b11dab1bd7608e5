"""Builds that are killed at random moments, until they end: the digest is always that of an undisturbed build."""

import json
import subprocess
import sys

import pytest
from conftest import subprocess_environment

NUM_KILLS = 50
CODECS = ("zstd", "q8")

# A process that has imported everything forks a child for each attempt, so that an attempt costs no second of imports.
PROGRAM = """
import json, os, random, signal, sys, time, traceback
import torch
import fmcs_bench as fb
from fmcs_bench.images.load import load_images
from fmcs_bench.training import loop
from fmcs_bench.training.recipes import ConvergenceRule, Recipe
from fmcs_bench.store import writer

torch.set_num_threads(1)
root, num_kills, codecs = sys.argv[1], int(sys.argv[2]), sys.argv[3].split(",")
OPTIONS = dict(
    backbone="smallcnn", image_size=16, stages=3, epochs=6, limit=100, checkpoints=12, name="killed", device="cpu",
    recipe=Recipe(batch_size=16, lr=3e-3), convergence=ConvergenceRule(threshold=0.3),
)
load_images("digits")  # so that no attempt spends its time on imports
writer.LARGEST_SHARD = 2**15  # 64 maps in a shard, so that a run has several blocks

def build(folder, codec):
    loop.SECONDS_BETWEEN_STATES = 0.0  # a state after every epoch: more moments at which a kill can strike
    return fb.build(**OPTIONS, codec=codec, workspace=folder).manifest.dataset_digest

def attempt(folder, codec, seconds):
    "Exit status of a child that builds, or None where it was killed after so many seconds."
    child = os.fork()
    if child == 0:
        status = 1
        try:
            build(folder, codec)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None

generator = random.Random(0)
whole, killed, kills, rounds = {}, [], 0, 0
for codec in codecs:
    begin = time.monotonic()
    status = attempt(f"{root}/whole-{codec}", codec, 600)
    assert status == 0, status
    whole[codec] = build(f"{root}/whole-{codec}", codec), time.monotonic() - begin
while kills < num_kills:
    codec = codecs[rounds % len(codecs)]
    folder = f"{root}/killed-{rounds}"
    digest, seconds = whole[codec]
    rounds += 1
    while True:
        # Short attempts at first, then longer ones: a build whose every attempt is short need never end.
        status = attempt(folder, codec, generator.uniform(0.02, seconds))
        if status is not None:
            break
        kills += 1
    assert status == 0, status
    killed.append([codec, build(folder, codec) == digest])
    left = [path for path in os.listdir(f"{folder}/datasets/digits-smallcnn-16px-killed") if path == "work"]
    assert not left, left
seconds = {codec: round(s, 2) for codec, (_, s) in whole.items()}
print(json.dumps({"kills": kills, "builds": killed, "seconds": seconds}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
def test_fifty_random_kills_end_in_equal_digests(tmp_path):
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), str(NUM_KILLS), ",".join(CODECS)]
    done = subprocess.run(command, capture_output=True, text=True, env=subprocess_environment())
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    print(result)
    assert result["kills"] >= NUM_KILLS
    assert {codec for codec, _ in result["builds"]} == set(CODECS)
    assert all(equal for _, equal in result["builds"]), result
