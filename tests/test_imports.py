"""A module may import only from rows above itself, and --help loads nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import subprocess_environment

import fmcs_bench

ROOT = Path(fmcs_bench.__file__).parent
ROWS = [
    "errors", "registry", "seeding", "retries", "urls", "launcher", "files", "markdown", "progress", "options",
    "config", "methods", "environment", "grid", "units", "records", "failed", "bucket_lock", "workspace", "metrics",
    "statistics", "optimism", "boards", "breakdown", "svg", "plot_style", "plot_parts", "answer_plots",
    "training_plots", "curve_plots", "plots", "engine", "remote", "cluster", "images", "backbones", "dueheadnet",
    "objectives", "processes", "augmentation", "training", "together", "networks", "convergence", "trajectory",
    "store", "extraction", "build_units", "builder", "verification", "hub", "evaluators", "elsewhere", "protocol",
    "contract", "search", "judges", "evaluation", "planning", "experiments", "forecast", "saliency", "saliency_plots",
    "leaderboard", "quickstart", "testing", "places", "explanation", "train_api", "in_bucket", "api", "listing",
    "display", "terminal", "command", "evaluating", "explaining", "sharing", "leaderboard_commands",
    "train_command", "cli", "__main__",
]  # fmt: skip
NO_TORCH = ROWS[: ROWS.index("cluster") + 1]
MODULES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def row_of(module: str) -> str:
    return module.removeprefix("fmcs_bench.").split(".")[0]


def imported_modules(path: Path) -> set[str]:
    """Modules of this package that a file imports anywhere, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("fmcs_bench.")}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "fmcs_bench":
            names = (
                {f"fmcs_bench.{alias.name}" for alias in node.names} if node.module == "fmcs_bench" else {node.module}
            )
            found |= {
                name for name in names if (ROOT / row_of(name)).is_dir() or (ROOT / f"{row_of(name)}.py").exists()
            }
    return {row_of(name) for name in found}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_modules_import_only_from_rows_above(path):
    own = row_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
    assert own in ROWS, f"{own} has no row: give it one, and say why in docs/decisions.md"
    below = {name for name in imported_modules(path) - {own} if ROWS.index(name) > ROWS.index(own)}
    assert not below, f"{own} imports {sorted(below)}, which stand below it"


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=subprocess_environment(), check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_rows_above_the_images_do_without_torch():
    imports = "; ".join(f"import fmcs_bench.{name}" for name in NO_TORCH)
    assert run_python(f"{imports}; import sys; print('torch' in sys.modules)").strip() == "False"


def test_a_named_image_dataset_does_without_the_hub_library():
    code = "from fmcs_bench import images; images.load('digits'); import sys; print('datasets' in sys.modules)"
    assert run_python(code).strip() == "False"


def test_reading_maps_loads_neither_statistics_nor_figures_nor_networks():
    code = (
        "import fmcs_bench as fb, sys; fb.open, fb.build, fb.download, fb.verify, fb.load\n"
        "print([m for m in ('sklearn', 'scipy', 'matplotlib', 'jinja2', 'timm', 'torchvision', 'datasets', 'ray')"
        " if m in sys.modules])"
    )
    assert run_python(code).strip() == "[]"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["build"],
        ["evaluate"],
        ["train"],
        ["leaderboard", "build"],
        ["leaderboard", "check"],
        ["leaderboard", "submit"],
        ["quickstart"],
        ["verify"],
        ["download"],
        ["explain"],
    ],
)
def test_help_loads_nothing_heavy(arguments):
    code = (
        "import sys; from fmcs_bench.cli import main\n"
        f"try: main({[*arguments, '--help']!r})\n"
        "except SystemExit: print([m for m in ('torch', 'datasets', 'scipy', 'matplotlib', 'pydantic', "
        "'rich', 'huggingface_hub', 'ray') if m in sys.modules])"
    )
    output = run_python(code)
    assert "Usage:" in output
    assert output.strip().endswith("[]")
