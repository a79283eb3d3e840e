"""Measures what the card of a data set says in numbers: counts, sizes and checksums. What is prose stays as it is.

    python datasets/measure_card.py ogbg-molesol            # writes the numbers into the card
    python datasets/measure_card.py ogbg-molesol --check    # writes nothing; exit status 1 where the card is wrong
    python datasets/measure_card.py ogbg-molhiv --root DIR --counts-only

Cards are graphattn/data/cards/*.json. --counts-only leaves the checksums alone, for files that are not official.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from graphattn import data
from graphattn.data import cards

CARDS = Path(cards.__file__).parent / "cards"
NOT_OFFICIAL = {"processed", "DOWNLOADED.json"}


def measure(dataset: data.GraphDataset) -> dict[str, Any]:
    """Returns the parts of a card that are numbers."""
    folder = Path(dataset.source)
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and name.parts[0] not in NOT_OFFICIAL:
            contents = path.read_bytes()
            files[name.as_posix()] = {"size": len(contents), "sha256": hashlib.sha256(contents).hexdigest()}
    counts = dataset.statistics()
    counts["num_bonds"] = counts["num_edges"] // 2  # the loader makes two edges of each
    return {"counts": counts, "files": files}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--root")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--counts-only", action="store_true")
    options = parser.parse_args()
    card = data.card(options.name)
    measured = measure(data.load(options.name, options.root, download=False))
    if options.counts_only:
        del measured["files"]
    wrong = [part for part, value in measured.items() if card.get(part) != value]
    for part in wrong:
        print(f"{options.name}: {part} {'differ from the card' if options.check else 'written'}")
    if not options.check:
        text = json.dumps(card | measured, indent=2, ensure_ascii=False)
        (CARDS / f"{options.name}.json").write_text(text + "\n", encoding="utf-8")
    return int(bool(options.check and wrong))


if __name__ == "__main__":
    sys.exit(main())
