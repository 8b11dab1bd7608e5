"""Writes the README's tables, findings and picture from the committed results. Usage: python docs/readme.py.

Flow: results tables -> one estimate for each number -> sentences between their marks in README.md, and
pictures/evaluators.svg. A test compares both.
"""

from __future__ import annotations

import textwrap
from functools import cache
from pathlib import Path

import pandas as pd

import fmcs_bench as fb
from fmcs_bench.cli.quickstart import EVALUATORS
from fmcs_bench.results.evaluator_board import evaluator_boards
from fmcs_bench.results.records import EvaluatorRecord
from fmcs_bench.results.statistics import ERROR, Estimate, estimate, paired_difference
from fmcs_bench.results.tables import read

ROOT = Path(__file__).parents[1]
DIGITS, MNIST = "digits-smallcnn-32px-base", "mnist-smallcnn-32px-base"
MNIST_SHUFFLENET, CIFAR = "mnist-shufflenet_v2-48px-base", "hub_cifar10_jpeg-shufflenet_v2-48px-base"
DIFFERENCES = {
    "score": (DIGITS, "ral-invariants@0.95", "baseline", "score"),
    "ral": (DIGITS, "ral-invariants@0.95", "baseline"),
    "mnist_ral": (MNIST_SHUFFLENET, "ral-conv@0.5", "baseline"),
    "mnist_permuted": (MNIST_SHUFFLENET, "ral-permuted-conv@0.5", "baseline"),
    "add": (DIGITS, "dueheadnet-add-align", "dueheadnet-add-none"),
    "concat": (DIGITS, "dueheadnet-concat-align", "dueheadnet-concat-none"),
    "seresnet": (CIFAR, "dueheadnet-seresnet18-add-align", "dueheadnet-seresnet18-add-none"),
    "no_constraint": (DIGITS, "dueheadnet-add-none", "baseline"),
    "longer": (DIGITS, "longer-conv", "baseline"),
}
"""Name of a number of the findings, and the dataset, method, other method and column that give it."""
FINDINGS = """
**Some evaluators only recognise the runs they were fitted on.** On digits, `conv`, the published kind of evaluator, has
a mean error of {digits_conv_same_run} stages on new images of those runs, and {digits_conv_test_run} on a run from an
unseen seed; always answering the middle stage has {digits_chance_test_run}. `invariants`, which does not depend on the
order of channels, carries over: {digits_invariants_same_run} and {digits_invariants_test_run}. On MNIST `conv` goes
from {mnist_conv_same_run} to {mnist_conv_test_run} (middle stage: {mnist_chance_test_run}), `invariants` from
{mnist_invariants_same_run} to {mnist_invariants_test_run}. Ignoring the order is not enough: `spectrum` does so too and
has {mnist_spectrum_test_run} there.

**RAL raised the score and not the accuracy.** On digits with `invariants` and RAF 0.95, both chosen on validation data,
the score of the maps changed by {score} stages and the test accuracy by {ral} points. On MNIST with ShuffleNet v2, RAL
with `conv` at RAF 0.5 gave {mnist_ral} points, and its control, fitted on permuted labels, {mnist_permuted}.

**Aligning the two heads of DueHeadNet cost accuracy.** `align` minus no constraint is {add} points on digits when maps
are added, {concat} when they are concatenated, and {seresnet} with two SE-ResNet-18 on CIFAR-10 (JPEG). Without
constraint (added) it differs from plain training on digits by {no_constraint} points; longer training of one network
does by {longer}.

Intervals are 95 % (Student's t): in 1 over five fits, in 2 and 3 over five seeds, paired. Each dataset has **one** test
run, so the intervals in 1 leave out how runs differ. With five seeds an exact paired test gives no p-value below 1/16,
and many more comparisons were made than these: read a single difference as a hint.
"""
STYLE = (
    ".t{fill:#1d2a32}.u{fill:#4a5a66;font-size:12.5px}.g{stroke:#cfd8dc}.c{stroke:#b1503c;stroke-dasharray:5 4}"
    ".l{stroke:#1b7f6b;stroke-width:2}.f{fill:#1b7f6b}.o{fill:none;stroke:#1b7f6b;stroke-width:1.5}"
    "@media (prefers-color-scheme: dark){.t{fill:#eef4f7}.u{fill:#b9c8d1}.g{stroke:#3a4852}.c{stroke:#e58b76}"
    ".l,.o{stroke:#5fc7b0}.f{fill:#5fc7b0}}"
)


@cache
def table(track: str) -> pd.DataFrame:
    """A row per trial; of trainings only those from fresh weights."""
    found = fb.results(ROOT / "leaderboard", track=track)
    return found[found.init == "fresh"] if track == "training" else found


def mae(dataset: str, evaluator: str, subset: str) -> Estimate:
    """MAE of an evaluator in stages, over its fits."""
    rows = table("evaluator")
    return estimate(rows.loc[(rows.dataset == dataset) & (rows.method == evaluator), f"mae_{subset}"], ERROR)


def difference(dataset: str, method: str, other: str, column: str = "test_accuracy") -> Estimate:
    """A method minus another, paired by seed; accuracies in points."""
    rows = table("training")
    rows = rows[rows.dataset == dataset].set_index("seed").sort_index()
    values = rows[rows.method == method]
    # A dataset may have trainings with several recipes; a method is compared with those of its own.
    others = rows[(rows.method == other) & (rows.settings == values.settings.iloc[0])]
    assert list(values.index) == list(others.index)
    scale = 100 if column == "test_accuracy" else 1
    return paired_difference(scale * values[column], scale * others[column]).estimate


def findings() -> str:
    """The three findings as Markdown."""
    shown = {
        f"{name}_{evaluator}_{subset}": " ".join(mae(dataset, evaluator, subset).parts(".2f"))
        for name, dataset in (("digits", DIGITS), ("mnist", MNIST))
        for evaluator in ("conv", "invariants", "spectrum", "chance")
        for subset in ("same_run", "test_run")
    }
    shown |= {name: " ".join(difference(*about).parts("+.2f")) for name, about in DIFFERENCES.items()}
    shown |= {name: text.split(" ")[0] for name, text in shown.items() if "_chance_" in name}
    paragraphs = FINDINGS.format(**shown).strip().split("\n\n")
    options = {"width": 138, "subsequent_indent": "   ", "break_on_hyphens": False}
    lines = [
        textwrap.fill(" ".join(text.split()), initial_indent=f"{i}. ", **options)
        for i, text in enumerate(paragraphs[:-1], 1)
    ]
    return "\n".join([*lines, "", textwrap.fill(" ".join(paragraphs[-1].split()), 138)])


def picture() -> str:
    """MAE on digits: open dots on the runs of the fit, filled dots with intervals on the unseen run."""
    rows = table("evaluator")
    names = [name for name in rows.method[rows.dataset == DIGITS].unique() if "~" not in name]
    measured = sorted((mae(DIGITS, name, "test_run"), mae(DIGITS, name, "same_run"), name) for name in names)
    left, row, width, top = 110, 24, 720, 34
    height = top + row * len(measured) + 46

    def x(value: float) -> str:
        return f"{left + value * (width - left - 20) / 2.2:.1f}"

    bottom = height - 40
    look = 'role="img" aria-label="Error on known and unseen runs" font-family="system-ui, sans-serif" font-size="14"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {look}>',
        f"<style>{STYLE}</style>",
    ]
    for tick in (0, 0.5, 1, 1.5, 2):
        lines.append(f'<path class="g" d="M{x(tick)} {top - 10}V{bottom}"/>')
        lines.append(f'<text class="u" x="{x(tick)}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>')
    chance = next(test.mean for test, _, name in measured if name == "chance")
    lines.append(f'<path class="c" d="M{x(chance)} {top - 10}V{bottom}"/>')
    lines.append(f'<text class="u" x="{x(chance)}" y="{top - 16}" text-anchor="middle">chance</text>')
    lines.append(f'<text class="u" x="{x(1.1)}" y="{bottom + 34}" text-anchor="middle">mean absolute error, in stages: '
                 "○ runs used for fitting  ● an unseen run, 95 % interval</text>")  # fmt: skip
    for i, (test, same, name) in enumerate(measured):
        y = top + row * i + 8
        lines += [
            f'<text class="t" x="{left - 12}" y="{y + 5}" text-anchor="end">{name}</text>',
            f'<path class="l" d="M{x(test.low)} {y}H{x(test.high)}"/>',
            f'<circle class="o" cx="{x(same.mean)}" cy="{y}" r="5"/>',
            f'<circle class="f" cx="{x(test.mean)}" cy="{y}" r="5"/>',
        ]
    return "\n".join([*lines, "</svg>\n"])


def quickstart() -> str:
    """The first table that the quickstart prints: its three evaluators on digits."""
    records = [
        record
        for record in read(ROOT / "leaderboard", "evaluator")
        if isinstance(record, EvaluatorRecord) and record.dataset == DIGITS and record.method in EVALUATORS
    ]
    (board,) = evaluator_boards(records)
    return f"```\n{board.table('narrow')}\n```"


def readme(text: str) -> str:
    """The README with what stands between its marks made again."""
    for name, made in (("quickstart", quickstart()), ("findings", findings())):
        start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        before, _, rest = text.partition(start)
        text = f"{before}{start}\n{made}\n\n{end}{rest.partition(end)[2]}"
    return text


if __name__ == "__main__":
    file = ROOT / "README.md"
    file.write_text(readme(file.read_text(encoding="utf-8")), encoding="utf-8")
    (ROOT / "docs/pictures/evaluators.svg").write_text(picture(), encoding="utf-8")
