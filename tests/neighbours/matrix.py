"""Runs the walks, each in a process of its own, and prints the table; knows nothing of any neighbour."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.neighbours import ALONE, ORDERS, Cell, neighbour_named

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.neighbours import Order

Found = dict[tuple[str, str], Cell]
_ROOT = Path(__file__).parents[2]


def run(name: str) -> Found:
    """Run one neighbour's walks in a fresh interpreter (in an environment of its own where it needs one): (order, client) → cell."""
    done = subprocess.run(
        [*_python(name), "-W", "error", "-m", "tests.neighbours", "--json", name],
        cwd=_ROOT, env=_environment(), capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"the walks beside {name} did not end well:\n{done.stderr}")
    return {
        (order, client): Cell(cell["calls"], cell["reservations"], tuple(cell["faults"])) for order, client, cell in json.loads(done.stdout)
    }


def _python(name: str) -> list[str]:
    if name not in ALONE:
        return [sys.executable]
    return [
        shutil.which("uv") or "uv",
        "run",
        "--quiet",
        "--isolated",
        "--no-dev",
        "--extra",
        "stripe",
        "--group",
        f"neighbours-{name}",
        "python",
    ]


def _environment() -> dict[str, str]:
    # A setting or proxy of the machine would change whom the clients talk to; bytecode is kept, or each walk would compile anew.
    out = ("KEYGUARD_", "OTEL_", "DD_", "SENTRY_", "LOGFIRE_", "STRIPE_", "COVERAGE_", "PYTHONDONTWRITEBYTECODE")
    return {name: value for name, value in os.environ.items() if not name.startswith(out) and not name.lower().endswith("_proxy")}


def batch(name: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Walk one neighbour through every order, each in a fork of this process, which has imported no neighbour yet."""
    with tempfile.TemporaryDirectory() as folder:
        return [(order.name, client, asdict(cell)) for order in ORDERS for client, cell in _forked(name, order, folder).items()]


def _forked(name: str, order: Order, folder: str) -> dict[str, Cell]:
    # Loaded before the fork: else every child would import Stripe's SDK again.
    import tests.neighbours.walk  # noqa: F401 -- for the children

    forking = multiprocessing.get_context("fork")
    receiving, sending = forking.Pipe(duplex=False)
    child = forking.Process(target=_walk, args=(name, order, folder, sending))
    child.start()
    sending.close()
    try:
        found: dict[str, Cell] = receiving.recv()
    except EOFError:
        child.join()
        raise RuntimeError(f"the walk {order.name} beside {name} died with {child.exitcode}") from None
    child.join()
    return found


def _walk(name: str, order: Order, folder: str, sending: Any) -> None:
    from tests.neighbours.walk import walk

    # Stripe's own use of httpx.
    warnings.filterwarnings("ignore", "Use 'content=", DeprecationWarning)
    sending.send(walk(neighbour_named(name), order, folder))


def table(found: Mapping[str, Found]) -> str:
    """Return the matrix: a line per client and neighbour, a column per order, reservations/calls and a mark in each cell."""
    heads = [f"{order.name:>14}" for order in ORDERS]
    lines = ["", f"{'client':<20}{'neighbour':<16}{''.join(heads)}   (installed-removed, each before or after keyguard)"]
    for name, cells in found.items():
        for client in dict.fromkeys(client for _, client in cells):
            shown = [_shown(cells.get((order.name, client))) for order in ORDERS]
            lines.append(f"{client:<20}{name:<16}{''.join(f'{text:>14}' for text in shown)}")
    faulty = sum(bool(cell.faults) for cells in found.values() for cell in cells.values())
    total = sum(len(cells) for cells in found.values())
    lines.append(f"{total} cells, {total - faulty} without a fault; n/m = reservations/logical calls while armed")
    return "\n".join(lines)


def _shown(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    return f"{cell.reservations}/{cell.calls} {'FAULT' if cell.faults else 'ok'}"
