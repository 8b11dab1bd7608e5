"""What the whole published grid would cost: trainings, hours, bytes. It measures nothing; it multiplies.

    python benchmarks/grid_cost.py
    python benchmarks/grid_cost.py --training shufflenet_v2=FILE#shufflenet_v2/loop/images_per_second

Flow: figures, each measured (a path in a JSON of `benchmarks/`) or assumed (a number) -> grid of
`fmcs_bench.training.methods`
-> Markdown: a table of the inputs, which says of each where it comes from, and one of what follows from them.

The grid is that of arXiv 2508.06109: ResNet-50 and ShuffleNet v2, four image datasets at 224 px, ten RAF values, five
seeds; with the controls of docs/training.md, and the FMCS datasets on which the evaluators are fitted.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

from fmcs_bench.training.methods import PAPER_RAFS, methods

RESULTS = Path(__file__).parent / "results"
SEEDS, STAGES, EPOCHS = 5, 9, 30
CONTROLS = ("ral-random", "ral-permuted", "label-smoothing", "longer")
BACKBONES = {"resnet50": (2048, 7, 7), "shufflenet_v2": (1024, 7, 7)}
IMAGES = {
    "mnist": (60_000, 10_000),
    "fashionmnist": (60_000, 10_000),
    "cifar10": (50_000, 10_000),
    "cifar100": (50_000, 10_000),
}
"""Training and test images of each source; of the first, 80 / 10 / 10 % are train, validation and test."""
TRAINING_RUNS, HELD_OUT_RUNS = 2, 2
FORWARD = {
    name: f"{RESULTS / 'extraction-2core-cpu.json'}#extraction_{name}/bare_maps_per_second" for name in BACKBONES
}
SMALLER = f"{RESULTS / 'build-2core-cpu.json'}#codecs/zstd/times_smaller"


@dataclass(frozen=True)
class Figure:
    """A number and where it comes from."""

    value: float
    source: str
    device: str | None = None

    @classmethod
    def of(cls, text: str) -> Figure:
        """A number, which is assumed, or ``FILE#path/in/it``, which was measured."""
        file, found, path = text.partition("#")
        if not found:
            return cls(float(text), "assumed")
        value = record = json.loads(Path(file).read_text(encoding="utf-8"))
        for key in path.split("/"):
            value = value[key]
        environment = record["environment"]
        machine = environment["processor"] if environment["device"] == "cpu" else environment["device"]
        return cls(float(value), f"measured: `{Path(file).name}`, `{path}`", f"{environment['device']} ({machine})")


@dataclass(frozen=True)
class Inputs:
    """Figures by backbone, and those of all."""

    forward: dict[str, Figure]
    training: dict[str, Figure]
    ral: Figure
    epochs: Figure
    smaller: Figure


@dataclass(frozen=True)
class Part:
    """One row of what follows."""

    what: str
    trainings: int
    hours: float
    bytes: float = 0


def training_hours(inputs: Inputs, backbone: str, dataset: str, *, ral: bool) -> float:
    """One training: every epoch all train images, and the validation images forward; test images once."""
    source, test = IMAGES[dataset]
    step = inputs.ral.value if ral else 1.0
    seconds = inputs.epochs.value * 0.8 * source * step / inputs.training[backbone].value
    seconds += (inputs.epochs.value * 0.1 * source + test) / inputs.forward[backbone].value
    return seconds / 3600


def parts(inputs: Inputs, backbone: str) -> list[Part]:
    """The grid, its controls, and the datasets of one backbone."""
    found = []
    for what, names in (("baseline and RAL, ten RAF", ("baseline", "ral")), ("controls", CONTROLS)):
        wanted = methods(names, PAPER_RAFS)
        hours = sum(
            SEEDS * training_hours(inputs, backbone, dataset, ral=method.uses_evaluator)
            for dataset in IMAGES
            for method in wanted
        )
        found.append(Part(what, SEEDS * len(IMAGES) * len(wanted), hours))
    runs = TRAINING_RUNS + HELD_OUT_RUNS
    hours = num_maps = 0.0
    for dataset, (source, test) in IMAGES.items():
        of_runs = TRAINING_RUNS * (source + test) + HELD_OUT_RUNS * (0.2 * source + test)
        num_maps += STAGES * of_runs
        hours += runs * training_hours(inputs, backbone, dataset, ral=False)
        hours += STAGES * of_runs / inputs.forward[backbone].value / 3600
    depth, height, width = BACKBONES[backbone]
    size = num_maps * 2 * depth * height * width / inputs.smaller.value
    return [*found, Part("FMCS datasets: four runs each, maps of nine stages", runs * len(IMAGES), hours, size)]


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def report(inputs: Inputs) -> str:
    """Both tables."""
    given = [(f"{name}: images a second, forward", figure) for name, figure in inputs.forward.items()]
    given += [(f"{name}: images a second, training", figure) for name, figure in inputs.training.items()]
    given += [
        ("step of RAL by that of the baseline", inputs.ral),
        ("epochs of a training", inputs.epochs),
        ("maps smaller than float16, zstd", inputs.smaller),
    ]
    shown = [[what, f"{figure.value:.4g}", figure.source, figure.device or ""] for what, figure in given]
    rates = [*inputs.forward.values(), *inputs.training.values()]
    on_gpu = all(figure.device is None or figure.device.startswith("cuda") for figure in rates)
    unit = "GPU-hours" if on_gpu and any(figure.device for figure in rates) else "hours of one such machine"
    rows, total = [], Part("all", 0, 0.0)
    for backbone in BACKBONES:
        for part in parts(inputs, backbone):
            rows.append([f"{backbone}: {part.what}", *cells(part)])
            total = Part("all", total.trainings + part.trainings, total.hours + part.hours, total.bytes + part.bytes)
    rows.append([total.what, *cells(total)])
    follows = table(["part", "trainings", unit, "GB of maps"], rows)
    return f"{table(['input', 'value', 'where from', 'on'], shown)}\n\n{follows}"


def cells(part: Part) -> list[str]:
    return [f"{part.trainings:,}", f"{part.hours:,.0f}", f"{part.bytes / 1e9:,.0f}" if part.bytes else ""]


def named(given: list[str]) -> dict[str, str]:
    found = dict(text.split("=", 1) for text in given)
    unknown = sorted(set(found) - set(BACKBONES))
    if unknown:
        raise SystemExit(f"unknown backbone {unknown[0]!r}; the grid has {', '.join(BACKBONES)}")
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    value = "NAME=NUMBER|FILE#PATH"
    parser.add_argument("--forward", action="append", default=[], metavar=value, help="images a second; repeat")
    parser.add_argument("--training", action="append", default=[], metavar=value, help="[default: a third of forward]")
    parser.add_argument("--ral", default="1.05", help="step of RAL by that of the baseline")
    parser.add_argument("--epochs", default=str(EPOCHS), help="of a training")
    parser.add_argument("--smaller", default=SMALLER, help="how many times smaller than float16 the maps are stored")
    typed = parser.parse_args(arguments)
    forward = {name: Figure.of(text) for name, text in (FORWARD | named(typed.forward)).items()}
    training = {
        name: Figure(figure.value / 3, "assumed: a third of forward, as backward costs twice as much", figure.device)
        for name, figure in forward.items()
    } | {name: Figure.of(text) for name, text in named(typed.training).items()}
    print(report(Inputs(forward, training, Figure.of(typed.ral), Figure.of(typed.epochs), Figure.of(typed.smaller))))


if __name__ == "__main__":
    main()
