"""Grad-CAM by stage or by RAF, as a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from safetensors import SafetensorError, safe_open

from fmcs_bench.backbones.base import Backbone
from fmcs_bench.backbones.gradcam import Saliency, choose_images, explain_networks
from fmcs_bench.core.errors import ConfigError, DatasetError, MissingDataError, UnknownNameError, nearest
from fmcs_bench.core.figure_style import require_kind, save
from fmcs_bench.core.progress import SILENT, Progress
from fmcs_bench.core.workspace import PathLike, Workspace
from fmcs_bench.images.options import ImageOptions
from fmcs_bench.images.preprocessing import Preprocessor
from fmcs_bench.results.records import TrainingRecord
from fmcs_bench.results.store import RecordStore
from fmcs_bench.store import schema
from fmcs_bench.store.reader import FmcsDataset, find_dataset, only_dataset
from fmcs_bench.training.loop import choose_device
from fmcs_bench.training.losses import freeze
from fmcs_bench.training.trajectory import load_checkpoint
from fmcs_bench.training_track.explain_figure import saliency_figure
from fmcs_bench.training_track.networks import make_network
from fmcs_bench.training_track.options import ExplainOptions
from fmcs_bench.training_track.runner import load_images_of

Networks = dict[str, Callable[[], Backbone]]


@dataclass(frozen=True)
class Explanation:
    """What ``explain`` made: the maps, and the ``path`` of their picture."""

    title: str
    saliency: Saliency
    path: Path

    def __str__(self) -> str:
        num_networks, num_images = self.saliency.predicted_PN.shape
        return f"Grad-CAM, {self.title}: {num_images} images by {num_networks} networks\n{self.path}"

    def figure(self) -> Figure:
        """The contact sheet, for a notebook."""
        return saliency_figure(self.saliency, self.title)


def explain(
    dataset: FmcsDataset | PathLike | None = None,
    options: ExplainOptions | None = None,
    *,
    out: PathLike | None = None,
    workspace: PathLike | None = None,
    images: ImageOptions | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
    **values: Any,
) -> Explanation:
    """Draw where in some images a network finds evidence for a class, stage by stage or RAF by RAF (Grad-CAM).

    Args:
        dataset: opened, or a name or path; None is the workspace's only one.
        options: networks and images; None takes all of it from ``values``.
        out: the picture, ``.png``, ``.svg`` or ``.pdf``; None is one in the workspace.
        workspace: see ``Workspace``.
        images: where the image files are; None takes it from ``values``.
        device: ``auto`` (CUDA where torch has it), ``cpu``, ``cuda``, ...
        progress: shows the work; silent by default.
        **values: fields of ``ExplainOptions`` (``by``, ``run``, ``method``, ``num_images``, ...) and of
            ``ImageOptions`` (``data_dir``, ...).

    Raises:
        ConfigError: a wrong option, or the network's logits do not come from its maps.
        UnknownNameError: no such run, method, seed or settings.
        MissingDataError: images, checkpoints or kept weights are not here.
        DatasetError: the images, or kept weights, are not those of the dataset or of the record.
    """
    images = images or ImageOptions.take(values)
    options = ExplainOptions.make(**(dict(options or {}) | values))
    place = Workspace(workspace)
    opened = only_dataset(place) if dataset is None else find_dataset(place, dataset)
    if out is not None:
        require_kind(Path(out))
    on = choose_device(device)
    what, networks = _by_stage(opened, options.run) if options.by == "stage" else _by_raf(opened, place, options)
    source = load_images_of(opened, images, progress)
    found = explain_networks(
        networks,
        source,
        choose_images(source, options.num_images, options.image_ids),
        Preprocessor(source, opened.manifest.config.image_size),
        target=options.target,
        device=on,
        progress=progress,
    )
    path = Path(out) if out is not None else place.saliency / opened.id / f"{what.replace(' ', '-')}.png"
    explanation = Explanation(f"{opened.manifest.name}, {what}", found, path)
    save(explanation.figure(), path)
    return explanation


def _by_stage(dataset: FmcsDataset, run: int | None) -> tuple[str, Networks]:
    """The checkpoints of a run, by stage and validation accuracy."""
    runs = {info.seed: info for info in dataset.manifest.runs}
    seed = dataset.seeds("test")[0] if run is None else run
    if seed not in runs:
        known = ", ".join(f"{info.seed} ({info.role})" for info in runs.values())
        raise UnknownNameError(f"{dataset.id} has no run {seed}; its runs are {known}")
    config, num_classes = dataset.manifest.config, len(dataset.manifest.images.classes)

    def load(stage: int) -> Backbone:
        data = dataset.read_file(schema.checkpoint_name(seed, stage))
        return load_checkpoint(config, num_classes, data)

    networks: Networks = {
        f"stage {stage.stage}\n{stage.validation_accuracy:.1%}": partial(load, stage.stage)
        for stage in runs[seed].stages
    }
    return f"run {seed}", networks


def _by_raf(dataset: FmcsDataset, workspace: Workspace, options: ExplainOptions) -> tuple[str, Networks]:
    """The kept weights of a family at each RAF, with the same method without RAL, by RAF and validation accuracy."""
    every = [r for r in RecordStore(workspace.records).all(TrainingRecord) if r.dataset_id == dataset.id]
    with_raf = [record for record in every if record.trial.method.raf < 1]
    if not with_raf:
        raise MissingDataError(
            f"nothing was trained with RAL on {dataset.id} in {workspace.root}; type `fmcs-bench train --keep-weights "
            f"{dataset.manifest.name}` first"
        )
    method = _choose("method", options.method, [record.trial.family for record in with_raf])
    of_method = [record for record in with_raf if record.trial.family == method]
    settings = _choose("settings", options.settings, [record.settings for record in of_method])
    seeds = sorted({record.seed for record in of_method if record.settings == settings})
    seed = seeds[0] if options.seed is None else options.seed
    if seed not in seeds:
        raise UnknownNameError(f"{method} was not trained from seed {seed}; its seeds are {', '.join(map(str, seeds))}")
    plain = of_method[0].trial.method.model_copy(update={"raf": 1.0})
    chosen = [
        record
        for record in every
        if (record.settings, record.seed) == (settings, seed)
        and (record.trial.family == method or record.trial.method == plain)
    ]
    networks: Networks = {}
    for record in sorted(chosen, key=lambda record: -record.trial.method.raf):
        path = workspace.network(dataset.id, settings, record.method, seed)
        if not path.is_file():
            raise MissingDataError(
                f"the weights of {record.method}, seed {seed}, were not kept ({path} is not there); type `fmcs-bench "
                f"train --keep-weights {dataset.manifest.name}`"
            )
        name = f"RAF {record.trial.method.raf:.12g}\n{record.metrics.validation_accuracy:.1%}"
        networks[name] = partial(_kept_network, record, path, len(dataset.manifest.images.classes))
    return f"{method} seed {seed}", networks


def _choose(what: str, asked: str | None, known: Sequence[str]) -> str:
    """The one that was named, or the only one there is."""
    names = sorted(set(known))
    if asked is None:
        if len(names) > 1:
            raise ConfigError(
                f"there are trainings of more than one {what} ({', '.join(names)}); name one with --{what}"
            )
        return names[0]
    if asked not in names:
        raise UnknownNameError(f"nothing was trained with RAL and {what} {asked!r}; {nearest(asked, names)}")
    return asked


def _kept_network(record: TrainingRecord, path: Path, num_classes: int) -> Backbone:
    """The trained network of a record, frozen."""
    trial = record.trial
    try:
        with safe_open(path, framework="pt") as file:
            key = (file.metadata() or {}).get("key")
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is not a dictionary)
    except SafetensorError as error:
        raise DatasetError(f"{path} is damaged ({error}); remove it and train again with --keep-weights") from None
    if key != record.key:
        raise DatasetError(
            f"{path} holds the weights of a different training than the record of {record.method}, seed {record.seed}; "
            "remove it and train again with --keep-weights"
        )
    # Published weights would be fetched only to be replaced.
    options = trial.backbone_options.model_copy(update={"pretrained": False})
    network = make_network(trial.model_copy(update={"backbone_options": options}), num_classes)
    network.load_state_dict(state)
    return freeze(network)
