from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import record_factory as factory
from scipy import optimize, stats

from fmcs_bench import leaderboard
from fmcs_bench.errors import ConfigError, MissingDataError, RecordError
from fmcs_bench.leaderboard import markdown
from fmcs_bench.records import AnyRecord, unpack_predictions

VOID = {"img", "link", "meta", "source", "br"}
OTHER = "cifar10-resnet50-224px-base"


class Page(HTMLParser):
    """A page's tables, links and ids; fails where a tag is not closed in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.tables: list[Table] = []
        self.hrefs: list[str] = []
        self.sources: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.images_without_text = 0
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.ids += [values["id"]] if "id" in values else []
        self.hrefs += [values["href"]] if tag == "a" else []
        self.sources += [values[name] for name in ("src", "srcset") if name in values]
        self.images_without_text += tag == "img" and not values.get("alt")
        if tag == "table":
            self.tables.append(Table())
        elif tag == "tr":
            self.tables[-1].rows.append([])
        elif tag in ("td", "th"):
            self.tables[-1].rows[-1].append(Cell(tag, values))
        elif tag == "a" and self.open[-1] in ("td", "th"):
            self.tables[-1].rows[-1][-1].links.append(values["href"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "caption" in self.open:
            self.tables[-1].caption += data
        elif "td" in self.open or "th" in self.open:
            self.tables[-1].rows[-1][-1].text += data

    def table(self, start: str) -> Table:
        (found,) = [table for table in self.tables if table.caption.startswith(start)]
        return found


@dataclasses.dataclass
class Cell:
    tag: str
    attributes: dict[str, str]
    text: str = ""
    links: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Table:
    caption: str = ""
    rows: list[list[Cell]] = dataclasses.field(default_factory=list)

    def named_rows(self) -> list[dict[str, Cell]]:
        heads = [" ".join(cell.text.split()) for cell in self.rows[0]]
        return [dict(zip(heads, row, strict=True)) for row in self.rows[1:]]


def build(tmp_path: Path, records: list[factory.EvaluatorRecord | factory.TrainingRecord]) -> Path:
    factory.write(tmp_path / "records", records)
    return leaderboard.build(tmp_path / "records", tmp_path / "out")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """A page with everything; the tests that use it only read."""
    return Page(build(tmp_path_factory.mktemp("page"), [*factory.evaluator_records(), *factory.training_records()]))


def linked_records(page: Page, row: dict[str, Cell]) -> list[dict]:  # type: ignore[type-arg]
    paths = [page.path.parent / unquote(href) for href in row["Records"].links]
    return [json.loads(path.read_bytes()) for path in paths]


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def numbers_of(cell: Cell) -> list[float]:
    names = ("data-value", "data-low", "data-high")
    return [float(cell.attributes[name]) for name in names if name in cell.attributes]


def with_interval(values: list[float]) -> list[float]:
    mean = float(np.mean(values))
    if len(values) == 1:
        return [mean]
    return [mean, *stats.t.interval(0.95, len(values) - 1, loc=mean, scale=stats.sem(values))]


def holm(p_values: list[float]) -> list[float]:
    result = []
    for p in p_values:
        smaller = [q for q in p_values if q <= p]
        result.append(max(min(1.0, q * sum(other >= q for other in p_values)) for q in smaller))
    return result


def detectable(differences: list[float]) -> float:
    """By the noncentral F distribution, the square of the noncentral t."""
    num = len(differences)
    critical = stats.f.ppf(0.95, 1, num - 1)
    root = optimize.brentq(lambda x: stats.ncf.sf(critical, 1, num - 1, x**2) - 0.8, 0.1, 40)
    return float(root * np.std(differences, ddof=1) / np.sqrt(num))


def expected_evaluator_numbers(page: Page, rows: list[dict[str, Cell]]) -> list[dict[str, list[float]]]:
    groups = [linked_records(page, row) for row in rows]
    maes = [[record["metrics"]["test_run"]["mae"] for record in group] for group in groups]

    def clearly_better(one: list[float], other: list[float]) -> bool:
        return bool(stats.ttest_ind(one, other, equal_var=False, alternative="less").pvalue < 0.025)

    expected = []
    for group, own in zip(groups, maes, strict=True):
        numbers = {
            f"{title} {images.replace('_', ' ')}": with_interval([r["metrics"][images][key] for r in group])
            for title, key, images in [
                ("MAE", "mae", "same_run"),
                ("MAE", "mae", "test_run"),
                ("MAE", "mae", "unseen"),
                ("Accuracy", "accuracy", "same_run"),
                ("Accuracy", "accuracy", "test_run"),
            ]
        }
        spearman = [record["trajectory"]["spearman"] for record in group]
        expected.append({
            **numbers,
            "Rank": [1 + sum(clearly_better(other, own) for other in maes)],
            "Evaluator": [],
            "Spearman": [] if None in spearman else with_interval(spearman),
            "Parameters": [group[0]["cost"]["num_parameters"]],
            "FLOPs per map": [v for v in [group[0]["cost"].get("flops_per_map")] if v is not None],
            "Speed maps/s": with_interval([r["cost"]["scoring_maps"] / r["cost"]["scoring_seconds"] for r in group]),
            "Fit seconds": [np.mean([record["cost"]["seconds"] for record in group])],
            "Seeds": [len(group)],
            "Records": [],
        })  # fmt: skip
    return expected


def expected_training_numbers(page: Page, rows: list[dict[str, Cell]]) -> list[dict[str, list[float]]]:
    groups = [linked_records(page, row) for row in rows]
    base = {record["unit"]["seed"]: record["metrics"]["test_accuracy"] for record in groups[0]}
    differences = [[r["metrics"]["test_accuracy"] - base[r["unit"]["seed"]] for r in group] for group in groups]
    tests = [
        stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
        for d in differences[1:]
    ]
    expected = []
    for group, difference, raw, p in zip(groups, differences, [None, *tests], [None, *holm(tests)], strict=True):
        expected.append({
            "Method": [],
            "RAF chosen": [group[0]["unit"]["method"]["raf"]],
            "Accuracy validation": with_interval([r["metrics"]["validation_accuracy"] for r in group]),
            "Accuracy test": with_interval([r["metrics"]["test_accuracy"] for r in group]),
            "Spread test, pp": [np.std([r["metrics"]["test_accuracy"] for r in group], ddof=1)],
            "Difference pp": [] if p is None else with_interval(difference),
            "p": [] if raw is None else [raw],
            "p smallest": [] if p is None else [2 / 2 ** len(group)],
            "p Holm": [] if p is None else [p],
            "Detectable pp": [] if p is None else [detectable(difference)],
            "Parameters": [group[0]["cost"]["num_parameters"]],
            "Training seconds": [np.mean([record["cost"]["seconds"] for record in group])],
            "Seeds": [len(group)],
            "Records": [],
        })  # fmt: skip
    return expected


def expected_sweep_numbers(page: Page, rows: list[dict[str, Cell]]) -> list[dict[str, list[float]]]:
    groups = [linked_records(page, row) for row in rows]
    base = {record["unit"]["seed"]: record["metrics"]["test_accuracy"] for record in groups[0]}
    differences = [[r["metrics"]["test_accuracy"] - base[r["unit"]["seed"]] for r in group] for group in groups]
    return [
        {
            "Method": [],
            "RAF": [group[0]["unit"]["method"]["raf"]],
            "Accuracy validation": with_interval([r["metrics"]["validation_accuracy"] for r in group]),
            "Accuracy test": with_interval([r["metrics"]["test_accuracy"] for r in group]),
            "Spread test, pp": [np.std([r["metrics"]["test_accuracy"] for r in group], ddof=1)],
            "Difference pp": with_interval(difference) if i else [],
            "Detectable pp": [detectable(difference)] if i else [],
            "Seeds": [len(group)],
            "Records": [],
        }
        for i, (group, difference) in enumerate(zip(groups, differences, strict=True))
    ]


def test_every_number_on_the_page_follows_from_the_records_that_its_row_links_to(page: Page) -> None:
    checked = 0
    for start, expect in (
        ("Evaluators on", expected_evaluator_numbers),
        ("Training methods on", expected_training_numbers),
        ("All RAF values", expected_sweep_numbers),
    ):
        rows = page.table(start).named_rows()
        for row, expected in zip(rows, expect(page, rows), strict=True):
            assert row.keys() == expected.keys()
            for name, cell in row.items():
                assert numbers_of(cell) == pytest.approx(expected[name], rel=1e-6), (start, name)
                checked += "data-value" in cell.attributes
    (made_with,) = page.table("Software and hardware").named_rows()
    assert numbers_of(made_with["Records"]) == [len(factory.EVALUATORS) * 5 + 9 * 5]
    shown = [
        table for table in page.tables if not table.caption.startswith(("What choosing", "Test accuracy of every"))
    ]
    assert checked + 1 == sum("data-value" in c.attributes for table in shown for row in table.rows for c in row)
    assert checked > 100


def test_every_number_is_shown_as_it_is_stored(page: Page) -> None:
    for table in page.tables[:-1]:
        for row in table.named_rows():
            for name, cell in row.items():
                text = cell.text.replace("\N{MINUS SIGN}", "-")
                text = re.sub(r"(?<=\d),(?=\d{3})", "", text)  # a separator of thousands
                if "data-value" in cell.attributes:
                    shown = [float(number) for number in re.findall(r"[-+]?[\d.]+", text)]
                    scale = 100 if "Accuracy" in name or name.endswith("pp") or name.startswith("Seed ") else 1
                    digits = len(re.split(r"\.", re.findall(r"[\d.]+", text)[0] + ".")[1])
                    expected = [scale * number for number in numbers_of(cell)]
                    assert shown == pytest.approx(expected, abs=0.5001 * 10**-digits if digits or "[" in text else 0), (
                        name
                    )


def test_the_markdown_has_the_same_numbers_as_the_page(page: Page) -> None:
    text = page.path.with_name("README.md").read_text(encoding="utf-8")
    tables = page.tables[:-1]
    blocks = [block.splitlines() for block in re.findall(r"(?:^\|.*\|$\n?)+", text, flags=re.MULTILINE)]
    assert len(blocks) == len(tables) == 5
    for table, block in zip(tables, blocks, strict=True):
        assert len(block) == len(table.rows) + 1
        for row, line in zip(table.rows[1:], block[2:], strict=True):
            cells = [item.strip() for item in line.strip("|").split("|")]
            for cell, shown in zip(row, cells, strict=True):
                if cell.links and cell.tag == "td":
                    assert re.findall(r"\]\((.*?)\)", shown) == cell.links
                elif cell.tag == "td":
                    assert shown == " ".join(cell.text.split())
                else:
                    assert shown.replace("`", "").replace("(", "").replace(")", "") == " ".join(cell.text.split())


def test_all_links_lead_to_files_and_anchors_of_the_folder(page: Page) -> None:
    out = page.path.parent
    for address in [*page.hrefs, *page.sources]:
        if address.startswith("#"):
            assert address[1:] in page.ids
        else:
            assert (out / unquote(address)).is_file()
    assert len(page.ids) == len(set(page.ids))
    for address in re.findall(r"(?:\]\(|src=\"|srcset=\")(.*?)[)\"]", (out / "README.md").read_text(encoding="utf-8")):
        assert (out / unquote(address)).exists()
    assert tree(out / "records") == tree(out.with_name("records"))


def test_the_page_needs_no_network_and_no_script(page: Page) -> None:
    assert not {"script", "iframe", "object"} & set(page.tags)
    assert not [address for address in [*page.hrefs, *page.sources] if ":" in address]
    assert not re.search(r"url\(|@import|https?:", page.path.read_text(encoding="utf-8"))


def test_the_page_can_be_used_without_seeing_it(page: Page) -> None:
    text = page.path.read_text(encoding="utf-8")
    assert '<html lang="en">' in text
    assert '<a class="skip" href="#main">' in text
    assert page.images_without_text == 0
    for table in page.tables:
        assert table.caption
        assert all(cell.attributes["scope"] == "col" for cell in table.rows[0])
    for table in page.tables[:-1]:
        assert all(
            [cell.attributes.get("scope") for cell in row if cell.tag == "th"] == ["row"] for row in table.rows[1:]
        )


def test_rows_have_permanent_anchors_and_the_chosen_one_is_marked(page: Page) -> None:
    board = page.table("Evaluators on")
    record = factory.evaluator_record()
    anchors = {f"evaluator-{record.dataset_id}-{record.settings}-{name}" for name in factory.EVALUATORS}
    assert anchors <= set(page.ids)
    assert [row[1].text for row in board.rows if "chosen" in row[1].text] == ["set chosen"]


def with_epochs(record: AnyRecord, epochs: int) -> AnyRecord:
    return record.model_copy(update={"unit": record.unit.model_copy(update={"epochs": epochs})})


def test_records_of_other_settings_stand_on_boards_of_their_own(tmp_path: Path) -> None:
    short = [*factory.evaluator_records(2), *factory.training_records(2)]
    long = [with_epochs(record, 77) for record in short]
    page = Page(build(tmp_path, [*short, *long]))
    text = page.path.with_name("README.md").read_text(encoding="utf-8")
    assert len(page.tables) == 2 * 5 + 1
    assert len(page.ids) == len(set(page.ids))
    for address in [*page.hrefs, *page.sources]:
        assert address[1:] in page.ids if address.startswith("#") else (page.path.parent / unquote(address)).is_file()
    assert len(set(page.sources)) == len(page.sources) == 2 * 7 * 2  # two boards, seven figures, two colour schemes
    for example in (short[0], short[-1], long[0], long[-1]):
        start = "Evaluators on" if isinstance(example, factory.EvaluatorRecord) else "Training methods on"
        table = page.table(f"{start} {example.dataset_id}, settings {example.settings}:")
        for row in table.named_rows():
            units = {record["unit"]["epochs"] for record in linked_records(page, row)}
            assert units == {example.unit.epochs}
        assert markdown.escape(table.caption) in text
    # In Markdown a block that follows a table without an empty line would be one more row of it.
    paragraphs = [paragraph.splitlines() for paragraph in re.split(r"\n{2,}", text)]
    blocks = [lines for lines in paragraphs if lines[0].startswith("|")]
    assert [len(lines) - 2 for lines in blocks] == [len(table.rows) - 1 for table in page.tables[:-1]]
    assert all(line.startswith("|") for lines in blocks for line in lines)
    assert sum(lines[0] == "<picture>" for lines in paragraphs) == 4


def test_a_dataset_without_records_of_one_track_names_the_command(tmp_path: Path) -> None:
    records = [*factory.evaluator_records(2), *factory.training_records(2, dataset=OTHER)]
    path = build(tmp_path, records)
    for name in ("index.html", "README.md"):
        text = path.with_name(name).read_text(encoding="utf-8")
        ours, other = (text.index(f"{dataset}@") for dataset in (factory.DATASET, OTHER))
        assert other < ours  # ordered by name
        assert text.count("fmcs-bench evaluate") == text.count("fmcs-bench train") == 1
        assert text.index("fmcs-bench evaluate") < text.index("fmcs-bench train")


def test_without_any_record_the_error_names_both_commands(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"fmcs-bench evaluate.*fmcs-bench train"):
        leaderboard.build(tmp_path / "records", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_broken_record_stops_the_build_and_leaves_the_old_page(tmp_path: Path) -> None:
    path = build(tmp_path, factory.evaluator_records(2))
    before = tree(path.parent)
    broken = next((tmp_path / "records").rglob("seed-1.json"))
    broken.write_text(broken.read_text().replace('"mae"', '"mea"', 1))
    with pytest.raises(RecordError, match="seed-1"):
        leaderboard.build(tmp_path / "records", tmp_path / "out")
    assert tree(path.parent) == before


def test_names_are_text_and_never_markup() -> None:
    hostile = "<img src=x onerror=alert(1)>\"'|`[a](b)"
    (section,) = leaderboard.sections(
        factory.evaluator_records(2), factory.training_records(2), lambda _: unpack_predictions(factory.PREDICTIONS)
    )

    def with_hostile_names(board, pictures, name):
        rows = tuple(dataclasses.replace(row, **{name: hostile}) for row in board.rows)
        board = dataclasses.replace(board, dataset_id=hostile, settings=hostile, rows=rows)
        return board, {key: dataclasses.replace(picture, alt=hostile) for key, picture in pictures.items()}

    section = dataclasses.replace(
        section,
        dataset_id=f"{hostile}@0123",
        evaluators=tuple(with_hostile_names(*pair, "evaluator") for pair in section.evaluators),
        training=tuple(with_hostile_names(*pair, "family") for pair in section.training),
    )
    page = leaderboard.render("page.html.j2", [section])
    assert "<img src=x" not in page
    assert page.count("&lt;img src=x onerror=alert(1)&gt;&#34;&#39;") > 20
    text = leaderboard.render("README.md.j2", [section])
    outside_code = re.sub(r"`[^`\n]*`", "", text)
    assert "<img src=x" not in outside_code.replace("\\<img", "")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {14 + 1, 9 + 1, 7 + 1, 4 + 1}  # columns are kept


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    records = [*factory.evaluator_records(2), *factory.training_records(2)]
    first = tree(build(tmp_path / "a", records).parent)
    second = tree(build(tmp_path / "b", records[::-1]).parent)
    assert first == second
    leaderboard.build(tmp_path / "a" / "records", tmp_path / "a" / "out")
    assert tree(tmp_path / "a" / "out") == first


def test_what_an_earlier_build_wrote_does_not_linger_and_other_files_stay(tmp_path: Path) -> None:
    out = build(tmp_path, [*factory.evaluator_records(2), *factory.training_records(2)]).parent
    (out / "notes.txt").write_text("mine")
    (out / "records" / "mine.json").write_text("{}")
    shutil.rmtree(tmp_path / "records" / "training")
    leaderboard.build(tmp_path / "records", out)
    fresh = tmp_path / "fresh"
    leaderboard.build(tmp_path / "records", fresh)
    assert tree(out) == tree(fresh) | {"notes.txt": b"mine", "records/mine.json": b"{}"}
    assert not (out / "records" / "training").exists()


def test_files_that_no_build_wrote_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "README.md").write_text("mine")
    with pytest.raises(ConfigError, match=r"README\.md, which no earlier build"):
        build(tmp_path, factory.evaluator_records(1))
    assert tree(tmp_path / "out") == {"README.md": b"mine"}


@pytest.mark.parametrize("content", ['["../precious"]', '["/etc/passwd"]', "{}", "[1]", "no JSON", '[""]'])
def test_a_list_of_files_that_no_build_wrote_removes_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "files.json").write_text(content)
    with pytest.raises(ConfigError, match=r"files\.json"):
        build(tmp_path, factory.evaluator_records(1))
    assert (tmp_path / "precious").read_text() == "mine"


def test_the_page_can_lie_beside_the_records_it_shows(tmp_path: Path) -> None:
    store = factory.write(tmp_path / "records", factory.evaluator_records(2))
    records = tree(store.root)
    path = leaderboard.build(store.root, tmp_path)
    assert tree(store.root) == records
    assert all((tmp_path / unquote(href)).is_file() for href in Page(path).hrefs if href.startswith("records/"))
    # Even copies of an earlier build are records now, and stay when they are the source.
    other = factory.write(tmp_path / "other", factory.evaluator_records(2))
    out = tmp_path / "out"
    leaderboard.build(other.root, out)
    leaderboard.build(out / "records", out)
    assert tree(out / "records") == records


def test_a_build_that_is_killed_leaves_the_old_page_and_the_next_one_goes_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = build(tmp_path, factory.evaluator_records(1)).parent
    before = (out / "index.html").read_bytes()
    factory.write(tmp_path / "records", factory.training_records(2))
    whole, replace = iter(range(12)), os.replace

    def killed(*args: str) -> None:
        if next(whole, None) is None:
            raise KeyboardInterrupt
        replace(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        patch.setattr(Path, "replace", lambda self, target: killed(str(self), str(target)))
        with pytest.raises(KeyboardInterrupt):
            leaderboard.build(tmp_path / "records", out)
    assert (out / "index.html").read_bytes() == before
    leaderboard.build(tmp_path / "records", out)
    leaderboard.build(tmp_path / "records", tmp_path / "fresh")
    assert tree(out) == tree(tmp_path / "fresh")
