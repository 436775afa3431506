"""Prefect's server for a whole test session, in a process of its own: prints its API's URL, and ends when the watched process has."""

from __future__ import annotations

import os
import select
import sys


def main(watched: int) -> None:
    """Serve while a process lives; it is watched by its descriptor, so that another one with its number is not taken for it."""
    ended = os.pidfd_open(watched)
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=90):
        print(PREFECT_API_URL.value(), flush=True)
        select.select([ended], [], [])


if __name__ == "__main__":
    main(int(sys.argv[1]))
