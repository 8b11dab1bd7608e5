"""A module may import only from rows above itself, and --help loads nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import subprocess_environment

import fmcs_bench

ROOT = Path(fmcs_bench.__file__).parent
ROOMS = [
    "core",
    "jobs",
    "images",
    "backbones",
    "training",
    "store",
    "build",
    "hub",
    "results",
    "evaluators",
    "evaluator_track",
    "scoring",
    "training_track",
    "leaderboard",
    "testing",
    "cli",
]
TORCH_FREE = (
    "core.options",
    "jobs.ray",
    "training.methods",
    "training.recipes",
    "backbones.options",
    "store.config",
    "results.records",
    "results.statistics",
    "results.tables",
    "leaderboard.figures.evaluators",
)
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
    if path != ROOT / "__init__.py"
}


def imported_modules(path: Path) -> set[str]:
    """Modules of this package that a file imports anywhere, also inside functions; without ``fmcs_bench.``."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = set()
        if isinstance(node, ast.Import):
            names = {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        found |= {name.removeprefix("fmcs_bench.") for name in names if name.startswith("fmcs_bench.")}
    return found & set(MODULES)


def room_of(module: str) -> str:
    return module.split(".")[0]


@pytest.mark.parametrize("module", MODULES)
def test_modules_import_only_from_rooms_above(module):
    if room_of(module) not in ROOMS:
        return
    order = {room: i for i, room in enumerate(ROOMS)}
    later = {name for name in imported_modules(MODULES[module]) if order.get(room_of(name), 0) > order[room_of(module)]}
    assert not later, f"{module} imports {sorted(later)}, of later rooms"


def test_there_is_no_circle_of_imports():
    packages = {module for module, path in MODULES.items() if path.name == "__init__.py"}
    left = {module: imported_modules(path) - packages - {module} for module, path in MODULES.items()}
    while free := {
        module
        for module, names in left.items()
        if not names & set(left) or not any(module in others for others in left.values())
    }:
        left = {module: names for module, names in left.items() if module not in free}
    assert not left, f"these import each other in a circle: {sorted(left)}"


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=subprocess_environment(), check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_options_records_and_figures_do_without_torch():
    imports = "; ".join(f"import fmcs_bench.{name}" for name in TORCH_FREE)
    assert run_python(f"{imports}; import sys; print('torch' in sys.modules)").strip() == "False"


def test_a_named_image_dataset_does_without_the_hub_library():
    code = (
        "from fmcs_bench.images.load import load_images; load_images('digits')\n"
        "import sys; print('datasets' in sys.modules)"
    )
    assert run_python(code).strip() == "False"


def test_reading_maps_loads_neither_statistics_nor_figures_nor_networks():
    code = (
        "import fmcs_bench as fb, sys; fb.open, fb.build, fb.download, fb.verify\n"
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
        ["results"],
        ["leaderboard", "build"],
        ["leaderboard", "check"],
        ["leaderboard", "add"],
        ["quickstart"],
        ["verify"],
        ["download"],
        ["explain"],
    ],
)
def test_help_loads_nothing_heavy(arguments):
    code = (
        "import sys; from fmcs_bench.cli.main import main\n"
        f"try: main({[*arguments, '--help']!r})\n"
        "except SystemExit: print([m for m in ('torch', 'datasets', 'scipy', 'matplotlib', 'pandas', "
        "'timm', 'rich', 'huggingface_hub', 'ray') if m in sys.modules])"
    )
    output = run_python(code)
    assert "Usage:" in output
    assert output.strip().endswith("[]")
