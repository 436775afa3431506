"""`python -m tests.neighbours [NAME …]` prints the matrix; `--json NAME …` is the batch of a child process."""

from __future__ import annotations

import json
import sys

from tests.neighbours import known_neighbours
from tests.neighbours.matrix import batch, run, table


def main(arguments: list[str]) -> int:
    """Run, print, and return how many cells have a fault."""
    if arguments[:1] == ["--json"]:
        print(json.dumps(batch(arguments[1:])))
        return 0
    found = run(arguments or known_neighbours())
    print(table(found))
    faults = [(name, *key, fault) for name, cells in found.items() for key, cell in cells.items() for fault in cell.faults]
    for fault in faults:
        print(*fault, sep=" · ")
    return min(len(faults), 100)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
