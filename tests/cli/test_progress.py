import os
import pty
import re
import subprocess
import sys

import pytest
from conftest import subprocess_environment

from fmcs_bench.cli import progress as display

NESTED = """
import sys, time
from fmcs_bench.cli import progress as display
display.SECONDS_BETWEEN_LINES = {seconds}
with display.shown() as progress, progress.task("outer [of] work", 2) as outer:
    for part in range(2):
        with progress.task(f"inner {{part}}", 3) as inner:
            for _ in range(3):
                time.sleep(0.01)
                inner.advance()
        progress.say("part [bold]" + str(part))
        outer.advance()
print("the result")
"""


def run_in_a_pipe(code, **environment):
    environment = subprocess_environment() | environment
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)


def without_seconds(text):
    return re.sub(r"\d+ s\b", "N s", text).splitlines()


def run_on_a_terminal(code):
    """Run it with standard error on a real pseudo-terminal; returns standard output and what the terminal got."""
    ours, theirs = pty.openpty()
    environment = subprocess_environment() | {"TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=theirs, stdin=theirs, env=environment
    )
    os.close(theirs)
    got = b""
    while True:
        try:
            block = os.read(ours, 65_536)
        except OSError:  # Linux's way to say that the other end was closed
            break
        if not block:
            break
        got += block
    os.close(ours)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, got.decode()
    return output.decode(), got.decode()


def test_a_pipe_gets_a_line_for_each_outer_task_and_the_messages():
    done = run_in_a_pipe(NESTED.format(seconds=10))
    assert done.returncode == 0
    assert done.stdout == "the result\n"
    assert without_seconds(done.stderr) == ["part [bold]0", "part [bold]1", "outer [of] work: done in N s"]


def test_a_pipe_gets_a_line_now_and_then_with_the_time_left():
    lines = without_seconds(run_in_a_pipe(NESTED.format(seconds=0)).stderr)
    assert lines[:3] == [f"inner 0: {i}/3, about N s left" for i in (1, 2, 3)]
    assert lines[3:5] == ["part [bold]0", "outer [of] work: 1/2, about N s left"]
    assert len(lines) == 11


def test_the_time_left_is_that_of_the_steps_that_are_left(monkeypatch, capsys):
    now = iter([0.0, 0.0, 30.0, 40.0])  # begin, last line, after the steps, end
    monkeypatch.setattr(display.time, "monotonic", lambda: next(now))
    with display._Lines().task("work", 100) as task:
        task.advance(5)
    assert capsys.readouterr().err.splitlines() == ["work: 5/100, about 570 s left", "work: done in 40 s"]


def test_a_task_that_fails_is_not_called_done_and_an_empty_one_says_nothing():
    code = (
        "from fmcs_bench.cli import progress as display\n"
        "with display.shown() as progress:\n"
        "    try:\n"
        "        with progress.task('broken', 2): raise KeyError\n"
        "    except KeyError: pass\n"
        "    with progress.task('nothing', 0): pass\n"
        "    with progress.task('whole', 2): pass"
    )
    assert without_seconds(run_in_a_pipe(code).stderr) == ["whole: done in N s"]


def frames(text):
    """The lines that a terminal was given, without its control codes."""
    return [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", part).rstrip() for part in re.split(r"[\r\n]+", text)]


@pytest.mark.skipif(not sys.platform.startswith(("linux", "darwin")), reason="needs a pseudo-terminal")
def test_a_terminal_gets_nested_bars_and_the_messages_above_them():
    output, text = run_on_a_terminal(NESTED.format(seconds=10))
    assert output == "the result\n"
    lines = frames(text)
    assert "part [bold]0" in lines  # as it is, not as markup
    assert any(re.match(r"outer \[of\] work .*0/2", line) for line in lines)
    for part in range(2):
        assert any(re.match(rf"  inner {part} +.*/3 .* left ", line) for line in lines), part
    # Inner bars go when they end; what stays on the screen is the outer one, full.
    final = [line for line in lines if line][-1]
    assert re.match(r"outer \[of\] work .*2/2", final)
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor is hidden, and comes back


def test_a_pipe_that_wants_colours_is_treated_as_a_terminal():
    text = run_in_a_pipe(NESTED.format(seconds=10), FORCE_COLOR="1", COLUMNS="100").stderr
    assert any(re.match(r"outer \[of\] work .*2/2", line) for line in frames(text))
