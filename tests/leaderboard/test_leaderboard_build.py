from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from helpers import record_factory as factory
from helpers.page_reader import Cell, Page, build, name_of, tree
from scipy import optimize, stats

from fmcs_bench.core.errors import PluginError
from fmcs_bench.leaderboard import build as leaderboard
from fmcs_bench.leaderboard import datatables, markdown, sections
from fmcs_bench.leaderboard.sift import LeftOut
from fmcs_bench.results.evaluator_board import evaluator_boards
from fmcs_bench.results.records import AnyRecord
from fmcs_bench.results.store import unpack_predictions
from fmcs_bench.results.training_board import training_boards

ROOT = Path(__file__).parents[2]
OTHER = "cifar10-resnet50-224px-base"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """A page with everything; the tests that use it only read."""
    return Page(build(tmp_path_factory.mktemp("page"), [*factory.evaluator_records(), *factory.training_records()]))


def linked_records(page: Page, row: dict[str, Cell]) -> list[dict]:  # type: ignore[type-arg]
    (href,) = row["Records"].links
    details = Page(page.path.parent / unquote(href))
    links = [details.path.parent / unquote(href) for href in details.hrefs if href.endswith(".json")]
    return [json.loads(path.read_bytes()) for path in links]


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


def test_every_row_with_a_number_leads_to_records(page: Page) -> None:
    """By a link of its name or at its end: to a page of details, and from there to records and their predictions."""
    for table in page.tables:
        for row in table.rows[1:]:
            if any("data-value" in cell.attributes for cell in row):
                hrefs = {href for cell in row for href in cell.links if not href.startswith("#")}
                assert hrefs, (table.caption, row[0].text)
                for href in hrefs:
                    details = Page(page.path.parent / unquote(href))
                    files = [details.path.parent / unquote(each) for each in details.hrefs if "records/" in each]
                    assert {path.suffix for path in files} == {".json", ".safetensors"}
                    assert all(path.is_file() for path in files)
    choice = page.table("What choosing")
    assert all(len(row[-1].links) == 3 for row in choice.rows[1:])  # one for each RAF


def test_each_record_has_an_address_on_its_page(page: Page) -> None:
    (details,) = (page.path.parent / "details").rglob("ral-set@0.9.html")
    assert {f"seed-{seed}" for seed in range(5)} <= set(Page(details).ids)


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
                    hrefs = [href.removeprefix("details/").removesuffix(".html") for href in cell.links]
                    assert re.findall(r"\]\((.*?)\)", shown) == [f"records/{href}" for href in hrefs]
                elif cell.tag == "td":
                    assert shown == " ".join(cell.text.split())
                else:
                    shown = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", shown)
                    assert re.sub(r"[`()]", "", shown) == re.sub(r"[()]", "", name_of(cell))


def test_all_links_lead_to_files_and_anchors_of_the_folder(page: Page) -> None:
    out = page.path.parent
    details = sorted((out / "details").rglob("*.html"))
    assert len(details) == len(factory.EVALUATORS) + 9
    ids = {page.path: page.ids}
    for each in [page, *map(Page, details)]:
        assert len(each.ids) == len(set(each.ids))
        for address in [*each.hrefs, *each.sources]:
            name, _, fragment = unquote(address).partition("#")
            target = Path(os.path.normpath(each.path.parent / name)) if name else each.path
            assert target.exists(), (each.path, address)
            assert target.is_relative_to(out)
            if fragment:
                assert fragment in ids.setdefault(target, each.ids if target == each.path else []), (each.path, address)
    for address in re.findall(r"(?:\]\(|src=\")(.*?)[)\"]", (out / "README.md").read_text(encoding="utf-8")):
        assert (out / unquote(address)).exists()
    assert tree(out / "records") == tree(out.with_name("records"))


def test_the_page_needs_no_network_and_no_inline_script(page: Page) -> None:
    details = sorted((page.path.parent / "details").rglob("*.html"))
    for each in [page, *map(Page, details)]:
        text = each.path.read_text(encoding="utf-8")
        assert not {"iframe", "object", "form", "style"} & set(each.tags)
        assert not [address for address in [*each.hrefs, *each.sources] if ":" in address]
        assert not re.search(r"url\(|@import|https?:|style=|\son[a-z]+=", text)
        assert re.findall(r"<script(.*?)>(.*?)</script>", text) == [
            (f' defer src="{root}assets/{name}"', "")
            for root in ["../" * (len(each.path.relative_to(page.path.parent).parts) - 1)]
            for name in ("datatables.js", "page.js")
        ]
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in text


def test_the_licences_of_what_is_not_ours_travel_with_the_site(page: Page) -> None:
    script = (page.path.parent / "assets/datatables.js").read_text(encoding="utf-8")
    assert "datatables.net/license" in script
    assert not re.search(r"^(import|export)\b", script, flags=re.MULTILINE)


def test_another_itables_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "html").mkdir()
    (tmp_path / "html/dt_bundle.js").write_text("window.DataTable = 1; // Bundled license information")
    monkeypatch.setattr(datatables, "files", lambda package: tmp_path if package == "itables" else None)
    with pytest.raises(PluginError, match="install itables"):
        datatables.script()


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
    assert [row[1].text for row in board.rows if "chosen" in row[1].text] == ["set chosen #"]


def with_epochs(record: AnyRecord, epochs: int) -> AnyRecord:
    return record.model_copy(update={"trial": record.trial.model_copy(update={"epochs": epochs})})


def test_records_of_other_settings_stand_on_boards_of_their_own(tmp_path: Path) -> None:
    short = [*factory.evaluator_records(2), *factory.training_records(2)]
    long = [with_epochs(record, 77) for record in short]
    page = Page(build(tmp_path, [*short, *long]))
    text = page.path.with_name("README.md").read_text(encoding="utf-8")
    assert len(page.tables) == 2 * 5 + 1
    assert len(page.ids) == len(set(page.ids))
    for address in [*page.hrefs, *page.sources]:
        assert address[1:] in page.ids if address.startswith("#") else (page.path.parent / unquote(address)).exists()
    figures = [source for source in page.sources if source.startswith("figures/")]
    assert len(set(figures)) == len(figures) == 2 * 7  # two boards, seven figures
    for example in (short[0], short[-1], long[0], long[-1]):
        start = "Evaluators on" if isinstance(example, factory.EvaluatorRecord) else "Training methods on"
        table = page.table(f"{start} {example.dataset_id}, settings {example.settings}:")
        for row in table.named_rows():
            units = {record["unit"]["epochs"] for record in linked_records(page, row)}
            assert units == {example.trial.epochs}
        assert markdown.escape(table.caption) in text
    # In Markdown a block that follows a table without an empty line would be one more row of it.
    paragraphs = [paragraph.splitlines() for paragraph in re.split(r"\n{2,}", text)]
    blocks = [lines for lines in paragraphs if lines[0].startswith("|")]
    assert [len(lines) - 2 for lines in blocks] == [len(table.rows) - 1 for table in page.tables[:-1]]
    assert all(line.startswith("|") for lines in blocks for line in lines)
    assert sum(lines[0].startswith("<img alt=") for lines in paragraphs) == 4


def test_a_dataset_without_records_of_one_track_names_the_command(tmp_path: Path) -> None:
    records = [*factory.evaluator_records(2), *factory.training_records(2, dataset=OTHER)]
    path = build(tmp_path, records)
    for name in ("index.html", "README.md"):
        text = path.with_name(name).read_text(encoding="utf-8")
        ours, other = (text.index(f"{dataset}@") for dataset in (factory.DATASET, OTHER))
        assert other < ours  # ordered by name
        assert text.count("fmcs-bench evaluate") == text.count("fmcs-bench train") == 1
        assert text.index("fmcs-bench evaluate") < text.index("fmcs-bench train")


def test_claims_and_datasets_have_their_boards(tmp_path: Path) -> None:
    factory.write(tmp_path / "records", [factory.training_record()])
    shutil.copytree(ROOT / "leaderboard/claims", tmp_path / "claims")
    path = leaderboard.build(tmp_path / "records", tmp_path / "out", datasets=[ROOT / "data_cards"])
    page = Page(path)
    assert {"board-claims", "board-datasets"} <= set(page.ids)
    assert {"#board-claims", "#board-datasets"} <= set(page.hrefs)
    captions = [table.caption for table in page.tables]
    claims, datasets = (
        next(t for t in page.tables if words in t.caption) for words in ("Published figures", "FMCS datasets")
    )
    assert len(claims.rows) - 1 == len(list((tmp_path / "claims").glob("*.json"))), captions
    assert len(datasets.rows) - 1 == len(list((ROOT / "data_cards").glob("*/dataset.json")))
    files = [unquote(row[0].links[0]) for row in claims.rows[1:]]
    assert sorted(files) == sorted(f"claims/{path.name}" for path in (tmp_path / "claims").iterdir())
    assert tree(path.parent / "claims") == tree(tmp_path / "claims")
    leaderboard.build(path.parent / "records", path.parent)  # where copies are the source, they stay
    assert tree(path.parent / "claims") == tree(tmp_path / "claims")
    cards = [unquote(row[-1].links[0]) for row in datasets.rows[1:]]
    assert len(cards) == len(datasets.rows) - 1
    assert all((path.parent / card).is_file() for card in cards)


def test_without_claims_and_datasets_their_boards_are_not_there(page: Page) -> None:
    assert not {"board-claims", "board-datasets"} & set(page.ids)


def test_names_are_text_and_never_markup() -> None:
    hostile = "<img src=x onerror=alert(1)>\"'|`[a](b)</script>"
    predictions = unpack_predictions(factory.PREDICTIONS)
    (evaluators,) = evaluator_boards(factory.evaluator_records(2))
    (trainings,) = training_boards(factory.training_records(2))

    def with_hostile_names(board, name):
        rows = tuple(
            row if getattr(row, name) == "baseline" else dataclasses.replace(row, **{name: hostile})
            for row in board.rows
        )
        return dataclasses.replace(board, dataset_id=hostile, settings=hostile, rows=rows)

    section = sections.Section(
        f"{hostile}@0123",
        (sections.evaluator_panel(with_hostile_names(evaluators, "evaluator"), lambda _: predictions),),
        (sections.training_panel(with_hostile_names(trainings, "family")),),
        sections.tables.environment_table(hostile, factory.training_records(1)),
    )
    content = leaderboard.Content([section], left_out=[LeftOut(hostile, hostile)])
    page = leaderboard.render("page.html.j2", content=content, root="")
    assert "<img src=x" not in page
    assert page.count("</script>") == 2
    assert page.count("&lt;img src=x onerror=alert(1)&gt;&#34;&#39;") > 20
    text = leaderboard.render("README.md.j2", content=content)
    outside_code = re.sub(r"`[^`\n]*`", "", text)
    assert "<img src=x" not in outside_code.replace("\\<img", "")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) > 3  # columns of every table are kept
