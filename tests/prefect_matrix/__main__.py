"""`python -m tests.prefect_matrix [WORD …]` plays and prints the matrix, or its cells in whose `stage room way` all the words are."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from keyguard.testing.double import DoubleProcess
from tests.prefect_matrix.matrix import table, walk
from tests.prefect_matrix.rooms import cells
from tests.support_prefect import ENVIRONMENT


def main(words: list[str]) -> int:
    """Play, print, and return how many cells are not as they must be."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        place = Path(folder)
        os.environ.update({**ENVIRONMENT, "PREFECT_HOME": str(place / "prefect")})
        from prefect.settings import PREFECT_API_URL
        from prefect.testing.utilities import prefect_test_harness

        with DoubleProcess(place / "truth.jsonl") as double, prefect_test_harness(server_startup_timeout=300):
            found = walk(cells(tuple(words)), double, place, str(PREFECT_API_URL.value()))
    print(table(found))
    faults = [(*names, fault) for names, cell in found.items() if cell is not None for fault in cell.faults]
    for fault in faults:
        print(*fault, sep=" · ")
    return min(len(faults), 100)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
