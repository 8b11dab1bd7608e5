"""`fmcs-bench explain`: from names to the picture, by stage and by RAF."""

import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import fmcs_bench as fb
from fmcs_bench.backbones.gradcam import grad_cam
from fmcs_bench.cli.main import main
from fmcs_bench.core.errors import ConfigError, DatasetError, MissingDataError, UnknownNameError
from fmcs_bench.core.workspace import Workspace
from fmcs_bench.images.preprocessing import Preprocessor
from fmcs_bench.results.records import TrainingRecord
from fmcs_bench.results.store import RecordStore
from fmcs_bench.store import schema
from fmcs_bench.training.trajectory import load_checkpoint, save_checkpoint
from fmcs_bench.training_track.networks import make_network

NAME = "digits-smallcnn-16px-tiny"


@pytest.fixture(scope="module")
def trained(tiny_workspace, tmp_path_factory):
    """A workspace with trainings, the weights of two of them kept."""
    place = Workspace(tmp_path_factory.mktemp("trained") / "ws")
    shutil.copytree(tiny_workspace, place.root)
    fb.evaluate(NAME, evaluators=["norm"], seeds=1, workspace=place.root, device="cpu")
    fb.train(NAME, methods=["baseline", "ral"], rafs=[0.9, 0.5], seeds=2, epochs=1, workspace=place.root, device="cpu")
    for record in RecordStore(place.records).all(TrainingRecord):
        if record.seed == 100:
            path = place.network(record.dataset_id, record.settings, record.method, record.seed)
            save_checkpoint(make_network(record.trial, 10), path, key=record.key)
    return place


def test_by_stage_every_checkpoint_of_the_test_run(tiny_workspace, tiny_dataset, tmp_path):
    out = tmp_path / "deep" / "sheet.png"
    found = fb.explain(NAME, num_images=5, workspace=tiny_workspace, out=out, device="cpu")
    assert found.path == out
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "run 3" in str(found)
    assert found.saliency.cams_PNHW.shape == (3, 5, 16, 16)
    stages = tiny_dataset.manifest.runs[3].stages
    assert found.saliency.networks == tuple(f"stage {s.stage}\n{s.validation_accuracy:.1%}" for s in stages)
    source = tiny_dataset.load_images()
    image_N = np.searchsorted(source.ids_N, found.saliency.image_ids_N)
    prepared = Preprocessor(source, 16)(torch.from_numpy(source.images_NCHW[image_N]))
    for stage in (1, 3):
        path = tiny_dataset.path / schema.checkpoint_name(3, stage)
        cams, predicted = grad_cam(load_checkpoint(tiny_dataset.manifest.config, 10, path), prepared)
        np.testing.assert_allclose(found.saliency.cams_PNHW[stage - 1], cams, atol=1e-6)
        assert found.saliency.predicted_PN[stage - 1].tolist() == predicted.tolist()
    other = fb.explain(NAME, run=0, num_images=5, workspace=tiny_workspace, out=out, device="cpu")
    assert other.saliency.image_ids_N.tolist() == found.saliency.image_ids_N.tolist()
    assert not np.allclose(other.saliency.cams_PNHW, found.saliency.cams_PNHW)


def test_by_raf_from_the_baseline_down(trained):
    found = fb.explain(NAME, by="raf", num_images=3, workspace=trained.root, device="cpu")
    assert [name.split("\n")[0] for name in found.saliency.networks] == ["RAF 1", "RAF 0.9", "RAF 0.5"]
    assert found.path.parent.parent == trained.saliency
    assert found.path.name == "ral-norm-seed-100.png"
    assert found.path.is_file()
    # Untrained weights of one seed are the same at each RAF.
    np.testing.assert_array_equal(found.saliency.cams_PNHW[0], found.saliency.cams_PNHW[1])


def test_by_raf_with_weights_that_were_not_kept(trained, tiny_workspace):
    with pytest.raises(MissingDataError, match=r"type `fmcs-bench train --keep-weights"):
        fb.explain(NAME, by="raf", workspace=tiny_workspace, device="cpu")
    with pytest.raises(MissingDataError, match=r"weights of baseline, seed 101, were not kept .* --keep-weights"):
        fb.explain(NAME, by="raf", seed=101, workspace=trained.root, device="cpu")


def test_by_raf_with_weights_of_another_training_or_damaged(trained, tmp_path):
    place = Workspace(tmp_path / "ws")
    shutil.copytree(trained.root, place.root)
    record = next(r for r in RecordStore(place.records).all(TrainingRecord) if r.method == "ral-norm@0.9")
    path = place.network(record.dataset_id, record.settings, record.method, record.seed)
    save_checkpoint(make_network(record.trial, 10), path, key="0" * 64)
    with pytest.raises(DatasetError, match=r"different training than the record of ral-norm@0\.9"):
        fb.explain(NAME, by="raf", workspace=place.root, device="cpu")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DatasetError, match=r"is damaged .* --keep-weights"):
        fb.explain(NAME, by="raf", workspace=place.root, device="cpu")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"run": 9}, UnknownNameError, r"no run 9; its runs are 0 \(training\), .*3 \(test\)"),
        ({"by": "raf", "method": "ral-nrom"}, UnknownNameError, "did you mean ral-norm"),
        ({"by": "raf", "seed": 7}, UnknownNameError, "not trained from seed 7; its seeds are 100, 101"),
        ({"by": "raf", "settings": "9ep"}, UnknownNameError, "settings '9ep'"),
        ({"by": "raf", "run": 3}, ConfigError, "run = 3 has no meaning"),
        ({"seed": 100}, ConfigError, "seed = 100 has no meaning"),
        ({"out": "sheet.jpg"}, ConfigError, r"sheet\.jpg; the name must end in"),
        ({"num_images": 1000}, ConfigError, "1000 images; from 1 to"),
        ({"device": "gpu7"}, ConfigError, "device 'gpu7' cannot be used here"),
    ],
)
def test_a_wrong_option_is_refused(trained, options, error, message):
    with pytest.raises(error, match=message):
        fb.explain(NAME, workspace=trained.root, **({"device": "cpu"} | options))


def test_other_images_are_refused(tiny_dataset, tiny_workspace, monkeypatch):
    images = tiny_dataset.load_images()
    fewer = images.take(images.indices("test"))
    monkeypatch.setattr(type(tiny_dataset), "load_images", lambda *_args, **_options: fewer)
    with pytest.raises(DatasetError, match="are not those that"):
        fb.explain(NAME, workspace=tiny_workspace, device="cpu")


def test_the_command(trained, tmp_path):
    out = tmp_path / "sheet.svg"
    common = ["explain", NAME, "--workspace", str(trained.root), "--device", "cpu", "--out", str(out)]
    by_stage = ["--run", "3", "--target", "label", "--num-images", "2"]
    for options in (by_stage, ["--by", "raf", "--method", "ral-norm", "--seed", "100"]):
        out.unlink(missing_ok=True)
        done = CliRunner().invoke(main, [*common, *options])
        assert done.exit_code == 0, done.output
        assert done.stdout.splitlines()[-1] == str(out)
        assert out.is_file()
    done = CliRunner().invoke(main, [*common, "--image-id", "77777"])
    assert done.exit_code == 2
    assert "no image with the id 77777" in done.stderr
