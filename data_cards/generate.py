"""Makes the data card of a published dataset, from what its folder says of it.

    python data_cards/generate.py FOLDER [--repo owner/name]

Flow: published folder -> its manifest, ``publication.json`` and ``part.json`` in ``data_cards/<name>/``, its repository
in ``repositories.json`` -> card without figures, ``README.md``. Without FOLDER all cards are written again.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from fmcs_bench.core import files
from fmcs_bench.hub.card import FILE, Facts, card
from fmcs_bench.store import publication, schema

CARDS = Path(__file__).parent
REPOSITORIES = CARDS / "repositories.json"
"""Name of each dataset -> its repository on the Hub; null where it is in none."""


def facts_of(name: str) -> Facts:
    """What ``data_cards/<name>`` knows of its dataset."""
    folder = CARDS / name
    manifest = schema.Manifest.from_json(json.loads((folder / schema.MANIFEST).read_bytes()))
    published = publication.Publication.from_json(json.loads((folder / publication.FILE).read_bytes()))
    some = folder / publication.PART
    part = publication.Part.from_json(json.loads(some.read_bytes())) if some.exists() else None
    repo = repositories()[name]
    part = part or publication.Part.of(manifest)
    return Facts(manifest=manifest, publication=published, part=part, repo=repo, figures=False)


def repositories() -> dict[str, str | None]:
    """The datasets that have a card here."""
    found: dict[str, str | None] = json.loads(REPOSITORIES.read_bytes())
    return found


def take(source: Path, repo: str | None) -> str:
    """Copy what the card of a published folder is made of; returns the dataset's name."""
    name = schema.Manifest.from_json(json.loads((source / schema.MANIFEST).read_bytes())).name
    target = CARDS / name
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for file in (schema.MANIFEST, publication.FILE, publication.PART):
        if (source / file).exists():
            shutil.copyfile(source / file, target / file)
    files.write_atomically(REPOSITORIES, files.to_json(repositories() | {name: repo}))
    return name


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description="Make the data card of a published dataset, or all cards again.")
    parser.add_argument("folder", type=Path, nargs="?", metavar="FOLDER", help="a published folder")
    parser.add_argument("--repo", metavar="owner/name", help="its repository on the Hugging Face Hub")
    options = parser.parse_args()
    if options.repo and not options.folder:
        parser.error("--repo belongs to a FOLDER")
    names = [take(options.folder, options.repo)] if options.folder else list(repositories())
    for name in names:
        files.write_atomically(CARDS / name / FILE, card(facts_of(name)).encode())
        print(CARDS / name / FILE)


if __name__ == "__main__":
    main()
