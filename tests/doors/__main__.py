"""`python -m tests.doors [WORD …]` walks and prints the matrix, or its cells in whose names all the words are."""

from __future__ import annotations

import sys
import warnings

import keyguard
from tests.doors.matrix import cells, table, walk
from tests.doors.vendors import World


def main(words: list[str]) -> int:
    """Walk, print, and return how many cells have a fault."""
    # Stripe's own use of httpx.
    warnings.filterwarnings("ignore", "Use 'content=", DeprecationWarning)
    with World() as world:
        found = {(door.name, situation.name): walk(world, door, situation) for door, situation in cells(tuple(words))}
    keyguard.uninstall()
    print(table(found))
    faults = [(*names, fault) for names, cell in found.items() if cell is not None for fault in cell.faults]
    for fault in faults:
        print(*fault, sep=" · ")
    return min(len(faults), 100)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
