"""`python -m tests.endings [WORD …]` walks and prints the matrix, or its cells in whose names all the words are."""

from __future__ import annotations

import sys
import time
import warnings

import keyguard
from tests.endings.matrix import bare, cells, table, walk
from tests.endings.world import World


def main(words: list[str]) -> int:
    """Walk, print, and return how many cells have a fault."""
    # Stripe's own use of httpx, Twilio's of aiohttp.
    warnings.simplefilter("ignore", DeprecationWarning)
    begun, wanted = time.perf_counter(), list(cells(tuple(words)))
    with World() as world:
        without = [bare(world, *cell) for cell in wanted]
        found = {(cell[0].name, cell[1].name): walk(world, *cell, before) for cell, before in zip(wanted, without, strict=True)}
    keyguard.uninstall()
    print(table(found))
    faults = [(*names, fault) for names, cell in found.items() for fault in cell.wrong]
    for fault in faults:
        print(*fault, sep=" · ")
    print(f"{time.perf_counter() - begun:.1f} s")
    return min(len(faults), 100)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
