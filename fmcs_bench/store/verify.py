"""Checks an FMCS dataset from its bytes to its stages, and lists every fault.

``fmcs_bench.build.verify`` adds the check that needs images and backbones: maps computed again.
N images, K stages, R rows, D channels of maps, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from safetensors.torch import load

from fmcs_bench.images.dataset import SPLITS, assign_splits
from fmcs_bench.store import codecs, publication, schema
from fmcs_bench.store.publication import PART
from fmcs_bench.store.reader import FmcsDataset
from fmcs_bench.store.schema import choose_stages
from fmcs_bench.store.writer import DIMENSIONS

ROUNDING = 2.0**-10
"""Allowed difference of a map computed again, as a share of the value: one float16 step."""
OTHER_HARDWARE = 2.0**-7
"""And as a share of the map's largest value: the order of sums, TF32. The codec q8 adds half its scale."""

BESIDE = (schema.MANIFEST, PART, publication.FILE, schema.DOWNLOAD, ".gitattributes")
"""Files of the folder without a digest; the Hub's client also keeps a folder ``.cache``."""

Fault = Callable[[str], None]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: what it covered, and what is wrong with it."""

    name: str
    covered: str
    faults: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """Everything that was checked, and where; prints as one line per check, with the faults below."""

    path: str
    checks: tuple[Check, ...]

    @property
    def faults(self) -> tuple[str, ...]:
        """All faults, each with the name of its check."""
        return tuple(f"{check.name}: {fault}" for check in self.checks for fault in check.faults)

    def __str__(self) -> str:
        lines = []
        for check in self.checks:
            count = f"{len(check.faults):,} fault{'s' if len(check.faults) > 1 else ''}"
            word, text = ("FAULT", count) if check.faults else ("ok", check.covered)
            lines.append(f"{word:<6} {check.name:<13} {text}")
            lines += [f"         {line}" for fault in check.faults for line in fault.splitlines()]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        checks = [{"name": c.name, "covered": c.covered, "faults": list(c.faults)} for c in self.checks]
        return {"path": self.path, "ok": not self.faults, "checks": checks}


@contextmanager
def guarded(fault: Fault, what: str) -> Iterator[None]:
    """Make a fault of any error that a library raises for damaged bytes."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise  # this machine's fault, not the dataset's
    except Exception as error:  # noqa: BLE001
        fault(f"{what}: {type(error).__name__}: {error}")


class Verifier:
    """The checks of one dataset; each calls ``fault`` with every fault and returns what it covered, for a person."""

    def __init__(self, dataset: FmcsDataset) -> None:
        self.dataset, self.manifest, self.location = dataset, dataset.manifest, dataset.location
        self.config = dataset.manifest.config

    @cached_property
    def publication(self) -> publication.Publication | None:
        """What publishing added, if anything."""
        return publication.read(self.dataset.location, self.manifest)

    def check_manifest(self, fault: Fault) -> str:
        """Digest, name, and the numbers that follow from others."""
        manifest, config = self.manifest, self.config
        if not manifest.states_its_digest:
            fault(f"{schema.MANIFEST} was changed: its content does not have the digest {manifest.dataset_digest}")
        roles = {run.seed: run.role for run in manifest.runs}
        map_bytes = 2 * int(np.prod(manifest.map_shape))
        num_maps = self.dataset.num_maps + sum(run.num_trajectory_maps for run in manifest.runs)
        for what, stated, expected in (
            ("name", manifest.name, config.dataset_name),
            ("runs", roles, config.run_roles),
            ("raw_bytes", manifest.raw_bytes, num_maps * map_bytes),
            ("stored_bytes", manifest.stored_bytes, sum(entry.num_bytes for entry in manifest.files.values())),
            ("a map error", manifest.map_error is not None, config.codec == "q8"),
        ):
            if stated != expected:
                fault(f"{what}: {stated!r} is stated, and {expected!r} follows from the rest")
        return f"schema {manifest.schema_version}, digest {manifest.dataset_digest[:12]}"

    def check_files(self, fault: Fault) -> str:
        """SHA-256 and size of every file, also of those that publishing added, and no other files."""
        expected = {name: self.manifest.files[name] for name in sorted(self.dataset.files)}
        sizes = self.location.sizes()  # None where the protocol cannot list files
        own = (PART,) if schema.DOWNLOAD in (sizes or ()) else ()  # a download has a part.json of its own
        if self.publication is not None:
            expected |= {
                name: entry
                for name, entry in self.publication.files.items()
                if name not in own
                and ("parquet" in self.dataset.part.kinds or not name.startswith(f"{publication.PARQUET}/"))
            }
        for name, entry in expected.items():
            with guarded(fault, name):
                if not self.location.keeps_inside(name):
                    fault(f"{name!r} lies outside the folder")
                elif sizes is not None and name not in sizes:
                    fault(f"{name} is missing")
                elif sizes is not None and sizes[name] != entry.num_bytes:
                    fault(f"{name} has {sizes[name]:,} bytes, not {entry.num_bytes:,}")
                elif self.location.sha256(name) != entry.sha256:
                    fault(f"{name} was changed: its SHA-256 is not that of the manifest")
        for name in sorted(sizes or ()):
            if name not in expected and name not in BESIDE and not name.startswith(".cache/"):
                fault(f"{name} is not in the manifest")
        size = sum(entry.num_bytes for entry in expected.values())
        left_out = len(self.manifest.files) - len(self.dataset.files)
        also = f"; a part, without {left_out:,} files of the whole" if left_out else ""
        others = "no others" if sizes is not None else "others cannot be listed here"
        return f"{len(expected):,} files, {size / 1e6:,.1f} MB, {others}{also}"

    def check_images(self, fault: Fault) -> str:
        """Ids are unique, and the split of each image is the one that its id gives."""
        ids_N, labels_N, splits_N = (self.values(name) for name in ("image_id", "label", "split"))
        if len(np.unique(ids_N)) != len(ids_N):
            fault(f"{len(ids_N) - len(np.unique(ids_N)):,} image ids are there more than once, so splits may overlap")
        num_classes = len(self.manifest.images.classes)
        if len(labels_N) and not (labels_N.min() >= 0 and labels_N.max() < num_classes):
            fault(f"labels reach from {labels_N.min()} to {labels_N.max()}; there are {num_classes} classes")
        expected_N = assign_splits(self.config.image_dataset, ids_N, splits_N == SPLITS.index("unseen"))
        if (wrong_N := ids_N[expected_N != splits_N]).size:
            fault(f"{wrong_N.size:,} images are not in the split that their id gives, the first with id {wrong_N[0]}")
        counts = {split: int((splits_N == i).sum()) for i, split in enumerate(SPLITS)}
        if counts != self.manifest.images.num_images:
            fault(f"the images by split are {counts}, and {self.manifest.images.num_images} in the manifest")
        for i, split in enumerate(SPLITS):
            found = np.bincount(labels_N[splits_N == i], minlength=num_classes).tolist()
            if (stated := list(self.manifest.images.statistics.num_images.get(split, ()))) != found:
                fault(f"the images of the split {split} by class are {found}, and {stated} in the manifest")
        return f"{len(ids_N):,} unique ids, splits as the ids give them"

    def check_runs(self, fault: Fault) -> str:
        """Trajectory files: stages follow from the losses, increase, and are those of the manifest and the arrays."""
        for run in self.manifest.runs:
            name = schema.trajectory_name(run.seed)
            with guarded(fault, name):
                run_file = self.dataset.run_file(run.seed)
                again = choose_stages(run_file.run, run_file.role, self.config)
                checkpoints = run_file.run.checkpoints
                steps = [stage.step for stage in run.stages]
                same_cqi = len(again.cqi) == len(run_file.cqi) and np.allclose(again.cqi, run_file.cqi, rtol=1e-6)
                convergence_epoch = run_file.convergence_step / run_file.run.steps_per_epoch
                numbers = [stage.stage for stage in run.stages]
                for text, holds in {
                    "seed or role is not the manifest's": (run_file.run.seed, run_file.role) == (run.seed, run.role),
                    "its stages are not those of the manifest": run_file.stages == run.stages,
                    "stages not 1 to K": numbers == list(range(1, self.config.stages + 1)),
                    f"the stages end at the steps {steps}, which do not increase": steps == sorted(set(steps)),
                    "its stages do not follow from its losses": _same_stages(again, run_file),
                    "its CQI does not follow from its losses": same_cqi,
                    "its convergence point does not follow": again.convergence_step == run_file.convergence_step,
                    "not the manifest's number of checkpoints": len(checkpoints) == run.num_checkpoints,
                    "not the manifest's convergence epoch": np.isclose(convergence_epoch, run.convergence_epoch),
                }.items():
                    if not holds:
                        fault(f"{name}: {text}")
            for what in ("step", "epoch", "train_loss", "validation_accuracy"):
                array = f"{schema.run_group(run.seed)}/{what}"
                with guarded(fault, array):
                    if self.values(array).tolist() != [getattr(stage, what) for stage in run.stages]:
                        fault(f"{array} is not that of the stages in the manifest")
        return f"{len(self.manifest.runs)} runs, K = {self.config.stages} stages that follow from their losses"

    def check_arrays(self, fault: Fault) -> str:
        """Every array has its shape, type and names of dimensions; every run the images of its splits."""
        planned = self._planned_arrays()
        for name, (shape, dtype, dimensions) in planned.items():
            with guarded(fault, name):
                array = self.dataset.array(name)
                for what, found, expected in (
                    ("shape", array.shape, shape),
                    ("dimensions", getattr(array.metadata, "dimension_names", None), dimensions),
                ):
                    if tuple(found or ()) != expected:
                        fault(f"{name} has the {what} {found}, not {expected}")
                if str(array.dtype) != dtype:
                    fault(f"{name} has the type {array.dtype}, not {dtype}")
                whole = (1, *shape[2:])
                if len(shape) == 5 and any((n[0], *n[2:]) != whole for n in (array.shards or (0,), array.chunks)):
                    fault(f"{name} is not made of shards and chunks of whole maps of one row")
                if array.shards is not None:
                    # Zarr reads a missing shard as zeros.
                    grid = [range(-(-n // m)) for n, m in zip(array.shape[:2], array.shards[:2], strict=True)]
                    keys = {schema.shard_name(name, row, shard) for row in grid[0] for shard in grid[1]}
                    for key in sorted(keys - self.manifest.files.keys()):
                        fault(f"{key} is not in the manifest: a shard is missing")
        groups = {schema.run_group(run.seed) for run in self.manifest.runs}
        for name in self.manifest.files:
            if name.startswith(f"{schema.MAPS}/") and name.endswith("/zarr.json"):
                array_name = name.removeprefix(f"{schema.MAPS}/").removesuffix("zarr.json").rstrip("/")
                if array_name and array_name not in planned and array_name not in groups:
                    fault(f"{array_name} is no array of schema {self.manifest.schema_version}")
        splits_N = self.values("split")
        for run in self.manifest.runs:
            with guarded(fault, f"images of run {run.seed}"):
                image_N = self.values(f"{schema.run_group(run.seed)}/image")
                indices = [SPLITS.index(split) for split in schema.splits_of(run.role)]
                if not np.array_equal(image_N, np.concatenate([np.flatnonzero(splits_N == i) for i in indices])):
                    train = int((splits_N[image_N] == 0).sum())
                    also = f" and holds {train:,} train images" if train and run.role != "training" else ""
                    fault(f"run {run.seed} ({run.role}) does not hold the images of its splits, each once{also}")
                if run.role == "test":
                    few_N = np.flatnonzero(splits_N == SPLITS.index("test"))[: schema.NUM_TRAJECTORY_IMAGES]
                    if not np.array_equal(self.values(f"{schema.run_group(run.seed)}/trajectory_image"), few_N):
                        fault(f"run {run.seed}: trajectory_image are not the first test images")
        return f"{len(planned)} arrays of the right shape, type and dimensions; held-out runs without train images"

    def check_maps(self, fault: Fault) -> str:
        """All values are finite, the scale and error of q8 fit, and maps along the test run agree with its stages."""
        num_maps, largest, part = 0, 0.0, self.dataset.part
        for run in self.manifest.runs:
            for array in ("feature_maps", "trajectory_maps") if run.role == "test" else ("feature_maps",):
                name = f"{schema.run_group(run.seed)}/{array}"
                with guarded(fault, name):
                    stored = self.dataset.array(name)
                    if self.config.codec == "q8":
                        scale_RSD = self.values(codecs.scale_name(name))
                        if not (np.isfinite(scale_RSD).all() and (scale_RSD >= 0).all()):
                            fault(f"{codecs.scale_name(name)} has values that are not finite or are below 0")
                        largest = max(largest, schema.MapError.from_json(stored.attrs["error"]).largest)
                    per_read = stored.shards[1] if stored.shards else stored.shape[1]
                    for row in range(stored.shape[0]):
                        for shard, start in enumerate(range(0, stored.shape[1], per_read)):
                            if schema.shard_name(name, row, shard) not in self.dataset.files:
                                continue  # not of this part
                            where = f"{name}, position {row}, images from {start}"
                            with guarded(fault, where):
                                maps_NDHW = self.dataset.read_maps(run.seed, array, row, start, start + per_read)
                                num_maps += len(maps_NDHW)
                                if not np.isfinite(maps_NDHW).all():
                                    fault(f"{where}: there are values that are not finite")
            if run.role == "test" and run.seed in part.runs and "maps" in part.kinds and "test" in part.splits:
                with guarded(fault, f"trajectory maps of run {run.seed}"):
                    self._compare_trajectory(fault, run)
        if self.manifest.map_error is not None and largest != self.manifest.map_error.largest:
            stated = self.manifest.map_error.largest
            fault(f"the arrays state a largest error of {largest:.6g}, the manifest {stated:.6g}")
        return f"{num_maps:,} maps, all values finite; maps along the test run agree with its stages"

    def check_checkpoints(self, fault: Fault) -> str:
        """Weights of every stage can be read and are finite."""
        num, part = 0, self.dataset.part
        for seed in part.runs if "checkpoints" in part.kinds else ():
            for stage in part.stages:
                name = schema.checkpoint_name(seed, stage)
                num += 1
                with guarded(fault, name):
                    if name not in self.manifest.files:
                        fault(f"{name} is not in the manifest")
                    tensors = load(self.location.read_bytes(name))
                    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
                        fault(f"{name} has weights that are not finite")
        return f"{num} checkpoints with finite weights"

    def _compare_trajectory(self, fault: Fault, run: schema.RunInfo) -> None:
        """Maps at the checkpoints that end a stage are in two arrays, which must agree."""
        group = schema.run_group(run.seed)
        steps = [checkpoint.step for checkpoint in self.dataset.run_file(run.seed).run.checkpoints]
        place = {int(image): i for i, image in enumerate(self.values(f"{group}/image"))}
        place_N = np.array([place[int(image)] for image in self.values(f"{group}/trajectory_image")])
        first = int(place_N.min())  # the images of a split are side by side
        for row, stage in enumerate(run.stages):
            if row + 1 not in self.dataset.part.stages:
                continue
            along = steps.index(stage.step)
            near_NDHW = self.dataset.read_maps(run.seed, "feature_maps", row, first, int(place_N.max()) + 1)
            of_stage_NDHW = near_NDHW[place_N - first]
            along_NDHW = self.dataset.read_maps(run.seed, "trajectory_maps", along)
            half_step_NDHW = self.half_step(run.seed, "feature_maps", row, place_N) + self.half_step(
                run.seed, "trajectory_maps", along, np.arange(len(place_N))
            )
            if (excess(of_stage_NDHW, along_NDHW.astype(np.float32), half_step_NDHW) > 1).any():
                fault(
                    f"run {run.seed}: the maps of stage {row + 1} are not those of the trajectory's checkpoint {along}"
                )

    def half_step(self, seed: int, array: str, row: int, place_N: np.ndarray) -> np.ndarray:
        """Half of q8's scale for images at these places of the run [N, D, 1, 1]; 0 for the other codecs."""
        if self.config.codec != "q8":
            return np.zeros((1, 1, 1, 1), np.float32)
        name = f"{schema.run_group(seed)}/{array}"
        shards = self.dataset.array(name).shards
        assert shards is not None  # check_arrays has found any other layout
        scale_SD = self.values(codecs.scale_name(name))[row]
        return np.asarray(scale_SD[place_N // shards[1], :, None, None] / 2)

    def values(self, name: str) -> np.ndarray:
        """All values of a small array."""
        return np.asarray(self.dataset.array(name)[...])

    def _planned_arrays(self) -> dict[str, tuple[tuple[int, ...], str, tuple[str, ...]]]:
        """Shape, dtype and names of the dimensions of every array of the store, as schema 1 has it."""
        num_images = sum(self.manifest.images.num_images.values())
        num_held_out = num_images - self.manifest.images.num_images.get("train", 0)
        plan: dict[str, tuple[tuple[int, ...], str, tuple[str, ...]]] = {
            name: ((num_images,), dtype, ("image",))
            for name, dtype in (("image_id", "int64"), ("label", "int64"), ("split", "uint8"))
        }
        num_stages = self.config.stages
        for run in self.manifest.runs:
            group = schema.run_group(run.seed)
            num = num_images if run.role == "training" else num_held_out
            plan[f"{group}/image"] = ((num,), "int64", ("image",))
            plan[f"{group}/step"] = ((num_stages,), "int64", ("stage",))
            for name in ("epoch", "train_loss", "validation_accuracy"):
                plan[f"{group}/{name}"] = ((num_stages,), "float64", ("stage",))
            sizes = {"feature_maps": (num_stages, num)}
            if run.role == "test":
                num_few = run.num_trajectory_maps // max(1, run.num_checkpoints)
                plan[f"{group}/trajectory_image"] = ((num_few,), "int64", ("trajectory_image",))
                sizes["trajectory_maps"] = (run.num_checkpoints, num_few)
            for name, size in sizes.items():
                dimensions = (*DIMENSIONS[name], "channel", "y", "x")
                dtype = codecs.DTYPES[self.config.codec]
                plan[f"{group}/{name}"] = ((*size, *self.manifest.map_shape), dtype, dimensions)
                if self.config.codec == "q8":
                    shards = self.dataset.array(f"{group}/{name}").shards
                    small = (size[0], -(-size[1] // shards[1]) if shards else 0, self.manifest.map_shape[0])
                    for of, small_dtype in ((codecs.scale_name, "float32"), (codecs.zero_point_name, "uint8")):
                        plan[of(f"{group}/{name}")] = (small, small_dtype, (dimensions[0], "shard", "channel"))
        return plan


def _same_stages(a: schema.RunFile, b: schema.RunFile) -> bool:
    """Whether two files have the same stages; numbers may differ in the last digits, as between machines."""
    if [(s.stage, s.step) for s in a.stages] != [(s.stage, s.step) for s in b.stages]:
        return False
    of_a, of_b = ([(s.epoch, s.train_loss, s.validation_accuracy, s.progress) for s in f.stages] for f in (a, b))
    return bool(np.allclose(of_a, of_b, rtol=1e-6, atol=1e-9))


def excess(stored_NDHW: np.ndarray, again_NDHW: np.ndarray, half_step_NDHW: np.ndarray) -> np.ndarray:
    """Largest difference of each map, as a multiple of what is allowed [N]; infinite where a value is not finite."""
    largest_N = np.abs(again_NDHW).max(axis=(1, 2, 3))
    allowed_NDHW = ROUNDING * np.abs(again_NDHW) + OTHER_HARDWARE * largest_N[:, None, None, None] + half_step_NDHW
    difference_NDHW = np.abs(stored_NDHW.astype(np.float32) - again_NDHW)
    otherwise_NDHW = np.where(difference_NDHW == 0, np.float32(0), np.float32(np.inf))
    share_NDHW = np.divide(difference_NDHW, allowed_NDHW, out=otherwise_NDHW, where=allowed_NDHW > 0)
    return np.asarray(np.nan_to_num(share_NDHW.max(axis=(1, 2, 3)), nan=np.inf, posinf=np.inf))
