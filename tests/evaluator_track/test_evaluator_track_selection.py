"""Fitted evaluators are found by folder, record, or names, and nothing guesses which is meant."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

import fmcs_bench as fb
from fmcs_bench.core.errors import ConfigError, DatasetError, MissingDataError
from fmcs_bench.core.workspace import Workspace


@pytest.fixture(scope="module")
def fits(tiny_dataset, tmp_path_factory):
    """Two seeds of ``norm`` and ``chance``; the tests that use them only read."""
    place = Workspace(tmp_path_factory.mktemp("fits"))
    (board,) = fb.evaluate(tiny_dataset, evaluators=["norm", "chance"], seeds=2, workspace=place.root, device="cpu")
    return place, [record for row in board.rows for record in row.records]


def test_a_fit_is_found_in_every_way(tiny_dataset, fits):
    place, records = fits
    record = next(record for record in records if (record.method, record.seed) == ("norm", 1))
    folder = place.fitted(record.dataset_id, record.settings, "norm", 1)
    maps = tiny_dataset.sel("test", split="test")[:20]
    found = [
        fb.load_evaluator(folder),
        fb.load_evaluator(record, workspace=place.root),
        fb.load_evaluator(dataset=tiny_dataset, evaluator="norm", seed=1, workspace=place.root),
        fb.load_evaluator(dataset=tiny_dataset.manifest.name, evaluator="norm", seed=1, workspace=place.root),
        fb.load_evaluator(
            dataset=tiny_dataset.id, evaluator="norm", seed=1, settings=record.settings, workspace=place.root
        ),
    ]
    for evaluator in found:
        assert (evaluator.name, evaluator.config.seed) == ("norm", 1)
        np.testing.assert_array_equal(evaluator.predict_proba(maps), found[0].predict_proba(maps))
    other = fb.load_evaluator(dataset=tiny_dataset, evaluator="norm", workspace=place.root)
    assert not np.array_equal(other.predict_proba(maps), found[0].predict_proba(maps))


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        ({}, ConfigError, "name the evaluator"),
        ({"source": "{root}"}, MissingDataError, "has no fitted evaluator"),
        ({"dataset": "x", "evaluator": "norm"}, MissingDataError, "on x; there are {id}"),
        ({"dataset": "{name}", "evaluator": "set"}, MissingDataError, "set; there are chance, norm"),
        ({"dataset": "{name}", "evaluator": "norm", "seed": 7}, MissingDataError, "seed-7; there are seed-0, seed-1"),
        ({"dataset": "{name}", "evaluator": "norm", "settings": "x"}, MissingDataError, "settings x; there are 12ep-"),
    ],
)
def test_an_unknown_fit_is_refused_with_the_known_ones(tiny_dataset, fits, names, error, message):
    place, _ = fits
    words = {"name": tiny_dataset.manifest.name, "id": tiny_dataset.id, "root": str(place.root)}
    given = {key: value.format(**words) if isinstance(value, str) else value for key, value in names.items()}
    with pytest.raises(error, match=message.format(**words)):
        fb.load_evaluator(**given, workspace=place.root)


def test_no_fits_at_all(tmp_path):
    with pytest.raises(MissingDataError, match="no fitted evaluators; type `fmcs-bench evaluate` first"):
        fb.load_evaluator(dataset="x", evaluator="norm", workspace=tmp_path)


def test_several_are_not_chosen_from(fits, tmp_path):
    shutil.copytree(fits[0].root, tmp_path, dirs_exist_ok=True)
    (of_dataset,) = (tmp_path / "evaluators").iterdir()
    (of_settings,) = of_dataset.iterdir()
    name = of_dataset.name.partition("@")[0]
    shutil.copytree(of_settings, of_dataset / "3ep-00000000")
    with pytest.raises(ConfigError, match=rf"2 fits of norm .* give the settings: {of_settings.name}, 3ep-00000000"):
        fb.load_evaluator(dataset=name, evaluator="norm", workspace=tmp_path)
    assert fb.load_evaluator(dataset=name, evaluator="norm", settings=of_settings.name, workspace=tmp_path)
    shutil.copytree(of_dataset, of_dataset.with_name(f"{name}@000000000000"))
    with pytest.raises(ConfigError, match=r"4 fits of norm .* give the dataset: .*@000000000000, "):
        fb.load_evaluator(dataset=name, evaluator="norm", workspace=tmp_path)
    with pytest.raises(DatasetError, match=f"holds a fit of norm on {of_dataset.name}, which does not belong"):
        fb.load_evaluator(
            dataset=f"{name}@000000000000", evaluator="norm", settings=of_settings.name, workspace=tmp_path
        )


def test_a_changed_fit_is_not_used(fits, tmp_path):
    place, records = fits
    shutil.copytree(place.root, tmp_path, dirs_exist_ok=True)
    record = next(record for record in records if (record.method, record.seed) == ("norm", 0))
    folder = Workspace(tmp_path).fitted(record.dataset_id, record.settings, "norm", 0)
    other = folder.with_name("seed-1")
    (folder / "evaluator.safetensors").write_bytes((other / "evaluator.safetensors").read_bytes())
    with pytest.raises(DatasetError, match=r"is not the file that evaluator\.json names"):
        fb.load_evaluator(folder)
    (folder / "evaluator.json").write_bytes((other / "evaluator.json").read_bytes())
    with pytest.raises(ConfigError, match="different fit"):
        fb.load_evaluator(record, workspace=tmp_path)
