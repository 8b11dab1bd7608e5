"""Makes a folder that is a Hugging Face dataset repository of an FMCS dataset, or of a part of it.

Flow: dataset, part -> beside the folder: files, each compared with its SHA-256; Parquet; figures; card and Croissant ->
``publication.json``, with the SHA-256 of all that -> the folder, by one rename.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from fmcs_bench import __version__
from fmcs_bench.core import environment, files
from fmcs_bench.core.errors import ConfigError, DatasetError
from fmcs_bench.core.progress import SILENT, Progress
from fmcs_bench.hub import parquet
from fmcs_bench.hub.card import FIGURES, card, draw_figures
from fmcs_bench.hub.card import FILE as CARD
from fmcs_bench.hub.croissant import FILE as CROISSANT
from fmcs_bench.hub.croissant import croissant, encode
from fmcs_bench.hub.facts import Facts
from fmcs_bench.store import publication, schema
from fmcs_bench.store.location import Location
from fmcs_bench.store.publication import PART, Fidelity, ParquetSplit, Part, Publication
from fmcs_bench.store.reader import FmcsDataset, check_files, read_part


def estimate(dataset: FmcsDataset, part: Part) -> int:
    """About how many bytes a published folder takes: the dataset's files exactly, and what Parquet may take."""
    of_dataset = sum(dataset.manifest.files[name].num_bytes for name in part_files(dataset, part))
    return of_dataset + (parquet.estimate(dataset.manifest, part) if "parquet" in part.kinds else 0)


def part_files(dataset: FmcsDataset, part: Part) -> list[str]:
    """Names of the dataset's files that belong to a part, in order.

    Raises:
        ConfigError: some of them are not here: the dataset itself is a smaller part.
    """
    wanted = part.files(dataset.manifest, dataset.maps_per_shard)
    if missing := wanted - dataset.files:
        raise ConfigError(
            f"{dataset.location} is a part of {dataset.id} without {len(missing):,} of the files to publish, such as "
            f"{min(missing)}; publish what is there (--select), or `fmcs-bench download` the rest first"
        )
    return sorted(wanted)


def make(
    dataset: FmcsDataset,
    folder: Path,
    *,
    part: Part | None = None,
    repo: str | None = None,
    superseded_by: str | None = None,
    fidelity: Fidelity | None = None,
    progress: Progress = SILENT,
) -> Publication:
    """Make the folder, or bring the texts of a finished one up to date; what is published stays as it is.

    A killed call goes on with the files that are whole.

    Args:
        dataset: opened for reading.
        folder: where it goes; new, empty, or an earlier publication of the same part.
        part: what to publish; None is all that is there.
        repo: ``owner/name`` on the Hub, for the examples of the card.
        superseded_by: the version to use instead; a notice is shown where the dataset is opened.
        fidelity: of this dataset, for the card.
        progress: shows the work.

    Raises:
        ConfigError: the folder holds something else, the disk has too little room, or the part is not there.
        DatasetError: a file of the dataset is damaged.
    """
    part = part or dataset.part
    if folder.is_dir() and any(folder.iterdir()):
        return _bring_up_to_date(dataset, folder, part, repo, superseded_by, fidelity)
    if (folder.exists() and not folder.is_dir()) or folder.is_symlink():
        raise ConfigError(f"{folder} is no folder; choose another place to publish to")
    work = folder.absolute().with_name(
        f".{folder.name}.{dataset.manifest.dataset_digest[:12]}-{part.digest[:8]}.unfinished"
    )
    names = part_files(dataset, part)
    _require_room(work, estimate(dataset, part))
    for leftover in work.rglob("*.part"):
        leftover.unlink()
    with progress.task(f"copying and checking {dataset.manifest.name}", len(names)) as task:
        for name in names:
            if not (work / name).is_file():  # a file is whole, or not there
                files.write_atomically(work / name, dataset.read_file(name))
            task.advance()
    splits = parquet.export(dataset, work, part, resume=True, progress=progress) if "parquet" in part.kinds else ()
    draw_figures(dataset, work)
    files.write_atomically(work / schema.MANIFEST, dataset.location.read_bytes(schema.MANIFEST))
    if not part.is_whole(dataset.manifest):
        files.write_atomically(work / PART, files.to_json(part.to_json()))
    extra = [schema.MANIFEST, *(name for split in splits for name in split.files)]
    extra += [f"{FIGURES}/{file.name}" for file in sorted((work / FIGURES).iterdir())]
    if (work / PART).is_file():
        extra.append(PART)
    entries = {name: schema.FileEntry.of(work / name) for name in extra}
    made = _write_texts(dataset, work, part, splits, entries, repo, superseded_by, fidelity, environment.now())
    if folder.is_dir():
        folder.rmdir()
    work.replace(folder)
    return made


def _bring_up_to_date(
    dataset: FmcsDataset,
    folder: Path,
    part: Part,
    repo: str | None,
    superseded_by: str | None,
    fidelity: Fidelity | None,
) -> Publication:
    """Nothing of the data changes; card, ``superseded_by`` and ``fidelity`` may."""
    place = Location(folder)
    old = publication.read(place, dataset.manifest)
    if old is None:
        raise ConfigError(f"{folder} holds other files; choose a new or empty folder to publish to")
    there = read_part(place, dataset.manifest)
    if there != part:
        raise ConfigError(
            f"{folder} holds another part of {dataset.id}, and published data stays as it is; choose another folder"
        )
    check_files(place, dataset.manifest, frozenset(part_files(dataset, part)))
    entries = {name: entry for name, entry in old.files.items() if name not in (CARD, CROISSANT)}
    for name, entry in entries.items():
        if not _is_whole(folder / name, entry):
            raise DatasetError(f"{folder / name} is missing or was changed; remove {folder} and publish again")
    newer, scores = superseded_by or old.superseded_by, fidelity or old.fidelity
    return _write_texts(dataset, folder, part, old.parquet, entries, repo, newer, scores, old.created)


def _is_whole(file: Path, entry: schema.FileEntry) -> bool:
    return file.is_file() and file.stat().st_size == entry.num_bytes and files.sha256_of_file(file) == entry.sha256


def _write_texts(
    dataset: FmcsDataset,
    folder: Path,
    part: Part,
    splits: tuple[ParquetSplit, ...],
    entries: dict[str, schema.FileEntry],
    repo: str | None,
    superseded_by: str | None,
    fidelity: Fidelity | None,
    created: str,
) -> Publication:
    """Card, Croissant metadata and, last, ``publication.json``."""
    facts = Facts(
        manifest=dataset.manifest,
        parquet=splits,
        files=entries,
        created=created,
        part=None if part.is_whole(dataset.manifest) else part,
        repo=repo,
        superseded_by=superseded_by,
        fidelity=fidelity,
    )
    texts = {CARD: card(facts).encode()}
    if splits:
        texts[CROISSANT] = encode(croissant(facts))
    for name, content in texts.items():
        files.write_atomically(folder / name, content)
        entries = entries | {name: schema.FileEntry.of(folder / name)}
    made = Publication(
        dataset_id=dataset.id,
        dataset_digest=dataset.manifest.dataset_digest,
        parquet=splits,
        files=dict(sorted(entries.items())),
        superseded_by=superseded_by,
        fidelity=fidelity,
        fmcs_bench=__version__,
        created=created,
    )
    files.write_atomically(folder / publication.FILE, files.to_json(made.to_json()))
    return made


def _require_room(work: Path, num_bytes: int) -> None:
    """Refuse before anything is written what the disk cannot take."""
    parent = next(folder for folder in work.parents if folder.is_dir())
    there = sum(file.stat().st_size for file in work.rglob("*") if file.is_file())
    free = shutil.disk_usage(parent).free
    if num_bytes - there > free:
        raise ConfigError(
            f"publishing to {work.parent} needs about {(num_bytes - there) / 1e6:,.0f} MB and {free / 1e6:,.0f} MB are "
            "free; make room, choose another --to, or publish a part (--select)"
        )
