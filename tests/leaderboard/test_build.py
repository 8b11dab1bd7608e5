"""The pages show what the records say, hostile names are text, and what cannot be shown is left out by name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from click.testing import CliRunner
from helpers import record_factory as factory
from helpers.page_reader import Page, tree
from markdown_it import MarkdownIt

import fmcs_bench as fb
from fmcs_bench.cli.main import main as cli
from fmcs_bench.core.errors import ConfigError, MissingDataError, PluginError
from fmcs_bench.leaderboard import build, page
from fmcs_bench.results.board import Column, Table
from fmcs_bench.results.evaluator_board import evaluator_boards
from fmcs_bench.results.records import EvaluatorRecord
from fmcs_bench.results.store import predictions_path
from fmcs_bench.results.training_board import training_boards

OTHER = "cifar10-resnet50-224px-base"
ROOT = Path(__file__).parents[2]
HOSTILE = "</script><img src=x onerror=alert(1)>\"'|`[a](b)"


def workspace(root: Path, records: list[Any]) -> Path:
    factory.write(root / "records", records)
    return root


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """Pages of both tracks; the tests that use them only read."""
    root = workspace(tmp_path_factory.mktemp("site"), [*factory.evaluator_records(3), *factory.training_records(3)])
    return Page(fb.build_leaderboard(workspace=root))


def shown(table: Any) -> list[list[str]]:
    """Texts of the cells, as a board has them."""
    return [[re.sub(r"\s+", " ", cell.text.replace("#", "")).strip() for cell in row] for row in table.rows[1:]]


def of_board(table: Table[Any]) -> list[list[str]]:
    return [[" ".join(filter(None, (cell.text, cell.interval, cell.mark))) for cell in row] for row in table.cells]


def test_every_table_shows_the_cells_of_its_board(site: Page) -> None:
    (evaluators,) = evaluator_boards(factory.evaluator_records(3))
    (trainings,) = training_boards(factory.training_records(3))
    boards = [evaluators.table("page"), *(trainings.table(view) for view in ("page", "choice", "sweep", "seeds"))]
    for board in boards:
        table = site.table(board.title)
        assert shown(table) == of_board(board)
        for row, cells in zip(table.rows[1:], board.cells, strict=True):
            for cell, expected in zip(row, cells, strict=True):
                if expected.value is not None:
                    assert float(cell.attributes["data-value"]) == pytest.approx(expected.value, rel=1e-8)


def test_every_row_leads_to_a_page_with_all_that_its_records_say(site: Page) -> None:
    rows = [row for table in site.tables for row in table.rows[1:]]
    hrefs = {href for row in rows for cell in row for href in cell.links if not href.startswith("#")}
    assert len(hrefs) == len(factory.EVALUATORS) + 9
    for record in (factory.evaluator_records(3)[0], factory.training_records(3)[3]):
        (href,) = [href for href in hrefs if unquote(href).endswith(f"/{record.method}.html")]
        details = Page(site.path.parent / unquote(href))
        texts = {cell.text for table in details.tables for row in table.rows for cell in row}
        numbers = record.metrics["test_run"] if isinstance(record, EvaluatorRecord) else record.metrics
        assert {f"{value:.4g}" for value in numbers.to_json().values() if isinstance(value, float)} <= texts
        assert f"{record.cost.num_parameters:,}" in texts
        assert record.environment.processor in texts
        assert "fmcs-bench" in (site.path.parent / unquote(href)).read_text(encoding="utf-8")


def test_all_links_lead_to_files_and_anchors_of_the_folder(site: Page) -> None:
    out = site.path.parent
    pages = [site, *(Page(path) for path in sorted(out.rglob("details/**/*.html")))]
    ids = {each.path.resolve(): each.ids for each in pages}
    for each in pages:
        assert len(each.ids) == len(set(each.ids))
        for address in [*each.hrefs, *each.sources]:
            name, _, fragment = unquote(address).partition("#")
            target = (each.path.parent / name).resolve() if name else each.path.resolve()
            assert target.is_file(), (each.path, address)
            assert target.is_relative_to(out.resolve())
            assert not fragment or fragment in ids[target], (each.path, address)


def test_the_pages_need_no_network_and_no_inline_script(site: Page) -> None:
    for path in site.path.parent.rglob("*.html"):
        text, each = path.read_text(encoding="utf-8"), Page(path)
        assert not {"iframe", "object", "form", "style"} & set(each.tags)
        assert not [address for address in [*each.hrefs, *each.sources] if ":" in address]
        assert not re.search(r"url\(|@import|https?:|style=|\son[a-z]+=", text)
        assert [content for _, content in re.findall(r"<script(.*?)>(.*?)</script>", text)] == ["", ""]
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in text
        assert each.images_without_text == 0


def test_the_licence_of_datatables_travels_with_the_pages(site: Page) -> None:
    script = (site.path.parent / "assets/datatables.js").read_text(encoding="utf-8")
    assert "datatables.net/license" in script
    assert not re.search(r"^(import|export)\b", script, flags=re.MULTILINE)


def test_an_itables_without_datatables_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "html").mkdir()
    (tmp_path / "html/dt_bundle.js").write_text("window.DataTable = 1; // Bundled license information")
    monkeypatch.setattr(page, "package_files", lambda package: tmp_path if package == "itables" else None)
    with pytest.raises(PluginError, match="itables"):
        page.datatables()


def test_the_same_records_give_the_same_bytes_and_old_pages_go(tmp_path: Path) -> None:
    one = workspace(tmp_path / "one", [*factory.evaluator_records(1), *factory.training_records(1)])
    two = workspace(tmp_path / "two", [*factory.training_records(1), *factory.evaluator_records(1)])
    out = tmp_path / "out"
    (out / "details").mkdir(parents=True)
    (out / "details/old.html").write_text("of an earlier build")
    fb.build_leaderboard(one, out)
    assert tree(out) == tree(fb.build_leaderboard(two, tmp_path / "other").parent)


def test_a_folder_with_files_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    root = workspace(tmp_path, factory.training_records(1))
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.tex").write_text("x")
    with pytest.raises(ConfigError, match=r"chapter\.tex"):
        fb.build_leaderboard(root, tmp_path / "thesis")
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]


def test_without_any_record_the_error_names_both_commands(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"evaluate.*train"):
        fb.build_leaderboard(workspace=tmp_path)


def test_different_settings_and_datasets_have_boards_of_their_own(tmp_path: Path) -> None:
    def longer(record: Any) -> Any:
        return record.model_copy(update={"trial": record.trial.model_copy(update={"epochs": 77})})

    short = [*factory.evaluator_records(1), *factory.training_records(1)]
    root = workspace(tmp_path, [*short, *map(longer, short), *factory.training_records(1, dataset=OTHER)])
    site = Page(fb.build_leaderboard(workspace=root))
    captions = [table.caption for table in site.tables]
    assert sum(caption.startswith("Evaluators on") for caption in captions) == 2
    assert sum(caption.startswith("Training methods on") for caption in captions) == 3
    assert len(site.ids) == len(set(site.ids))
    assert "fmcs-bench evaluate" in site.path.read_text(encoding="utf-8")  # the other dataset has no evaluators
    assert len(set(site.sources)) == len(site.sources)


def test_claims_and_datasets_have_their_tables(tmp_path: Path) -> None:
    root = workspace(tmp_path, [factory.training_record()])
    (root / "claims.csv").write_bytes((ROOT / "leaderboard/claims.csv").read_bytes())
    (root / "datasets").symlink_to(ROOT / "data_cards")
    site = Page(fb.build_leaderboard(root, tmp_path / "out"))
    assert len(site.table("Published figures").rows) == 1 + 102
    datasets = shown(site.table("FMCS datasets"))
    assert len(datasets) == len(list((ROOT / "data_cards").glob("*/dataset.json")))
    (digits,) = [row for row in datasets if row[1] == "digits"]
    assert digits[2:6] == ["1,797", "smallcnn", "32", "7"]


def hostile_records() -> list[Any]:
    """Records from a machine whose names are markup."""
    found = []
    for record in (*factory.evaluator_records(1), *factory.training_records(1)):
        made = record.environment.model_copy(update={"processor": HOSTILE, "device": HOSTILE})
        found.append(record.model_copy(update={"environment": made, "created": HOSTILE}))
    return found


def test_hostile_names_are_text_on_every_page_and_in_markdown(tmp_path: Path) -> None:
    root = workspace(tmp_path, hostile_records())
    site = Page(fb.build_leaderboard(workspace=root))
    for path in site.path.parent.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert "<img src=x" not in text
        assert text.count("</script>") == 2
    columns = (Column("name", "Name", lambda row: row, numeric=False, mark=lambda row: row),)
    table = page.TableItem(HOSTILE, Table(HOSTILE, columns, (HOSTILE,), "page", HOSTILE), (HOSTILE,), (HOSTILE,))
    fold = page.Fold(HOSTILE, (page.Text(HOSTILE), page.Code("code", HOSTILE), page.Meanings(columns), table))
    text = page.html(page.Page("x.html", HOSTILE, (HOSTILE,), (page.Section("s", HOSTILE, (fold,)),)))
    assert "<img src=x" not in text
    assert text.count("&lt;img src=x onerror=alert(1)&gt;&#34;&#39;") >= 10
    rendered = MarkdownIt("gfm-like", {"linkify": False}).render(page.as_markdown((fold,)))
    assert "<img" not in rendered
    assert "<a " not in rendered
    assert rendered.count("<td>") == 1


def nested(path: Path) -> None:
    path.write_text('{"schema_version": 1, "a": ' + "[" * 100_000)


def edited(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        value = json.loads(path.read_bytes())
        change(value)
        path.write_text(json.dumps(value))

    return edit


DAMAGE: dict[str, Callable[[Path], object]] = {
    "not JSON": lambda path: path.write_text("{"),
    "endless nesting": nested,
    "not Unicode": lambda path: path.write_bytes(b"\xff\xfe{}"),
    "too large": lambda path: path.write_bytes(b" " * 1_000_001),
    "a list": lambda path: path.write_text("[]"),
    "a later schema": edited(lambda value: value.update(schema_version=2)),
    "an unknown field": edited(lambda value: value.update(more=1)),
    "no predictions": lambda path: predictions_path(path).unlink(),
    "other predictions": lambda path: predictions_path(path).write_bytes(b"x"),
    "a different place": lambda path: path.rename(path.with_name("seed-77.json")),
    "no trajectory": edited(lambda value: value["trajectory"].update(step=[], score=[], validation_accuracy=[])),
    "other checkpoints": edited(lambda value: value["trajectory"]["step"].__setitem__(0, 0)),
    "a metric less": edited(lambda value: value["metrics"].pop("unseen")),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_record_is_left_out_and_named_and_the_rest_is_shown(damage: str, tmp_path: Path) -> None:
    records = [factory.evaluator_record(name, seed) for name in ("conv", "set") for seed in (0, 1)]
    store = factory.write(tmp_path / "records", records)
    DAMAGE[damage](store.path(records[0]))
    with pytest.raises(build.LeftOutError) as caught:
        fb.build_leaderboard(workspace=tmp_path)
    (fault,) = caught.value.left_out
    assert "conv/seed-" in fault.where
    assert str(tmp_path) not in f"{fault.where}{fault.what}"
    site = Page(caught.value.page)
    assert "left-out" in site.ids
    table = site.table("Evaluators on")
    seeds = [row["Seeds"].text for row in sorted(table.named_rows(), key=lambda row: row["Evaluator"].text)]
    assert seeds == ["1", "2"]


def test_the_command_prints_the_page_names_what_is_left_out_and_exits_with_1(tmp_path: Path) -> None:
    records = factory.training_records(1)
    store = factory.write(tmp_path / "records", records)
    arguments = ["leaderboard", "build", "--workspace", str(tmp_path)]
    done = CliRunner().invoke(cli, arguments)
    assert (done.exit_code, done.stdout.strip()) == (0, str(tmp_path / "leaderboard/index.html"))
    edited(lambda value: value["curve"][0].update(validation=5.0))(store.path(records[0]))
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 1
    assert done.stdout.strip() == str(tmp_path / "leaderboard/index.html")
    assert "baseline/seed-0.json" in done.stderr


def test_the_command_prints_all_tables_as_markdown(tmp_path: Path) -> None:
    root = workspace(tmp_path, [*factory.evaluator_records(2), *factory.training_records(2)])
    done = CliRunner().invoke(cli, ["leaderboard", "build", str(root), "--markdown", "--workspace", str(root)])
    assert done.exit_code == 0
    assert not (root / "leaderboard").exists()
    (board,) = evaluator_boards(factory.evaluator_records(2))
    assert board.table("page").markdown() in done.stdout
    html = MarkdownIt("gfm-like", {"linkify": False}).render(done.stdout)
    assert html.count("<table>") == 5
