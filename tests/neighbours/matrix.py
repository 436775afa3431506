"""Runs the walks, each in a process of its own, and prints the table; knows nothing of any neighbour."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import traceback
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.neighbours import ALONE, ORDERS, Cell, neighbour_named

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from tests.neighbours import Order

Found = dict[tuple[str, str], Cell]
_ROOT = Path(__file__).parents[2]
# Or every child would load them again. Not what belongs to an order: the neighbours, and what Stripe's SDK loads at its first use.
_BEFORE_FORKING = ("anyio._backends._asyncio", "httpcore", "apsw", "keyguard.ledgers.sqlite", "tests.neighbours.walk")


def run(names: Collection[str]) -> dict[str, Found]:
    """Run neighbours' walks in a fresh interpreter, those that need it in an environment of their own: name → (order, client) → cell."""
    found: dict[str, Found] = {}
    groups = [[name for name in names if name not in ALONE], *([name] for name in names if name in ALONE)]
    for group in filter(None, groups):
        for name, order, client, cell in _run(group):
            found.setdefault(name, {})[order, client] = Cell(**{**cell, "faults": tuple(cell["faults"])})
    return found


def _run(group: list[str]) -> list[tuple[str, str, str, dict[str, Any]]]:
    done = subprocess.run(
        [*_python(group), "-W", "error", "-m", "tests.neighbours", "--json", *group],
        cwd=_ROOT, env=_environment(), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"the walks beside {', '.join(group)} did not end well:\n{done.stderr}")
    read: list[tuple[str, str, str, dict[str, Any]]] = json.loads(done.stdout)
    return read


def _python(group: list[str]) -> list[str]:
    if group[0] not in ALONE:
        return [sys.executable]
    uv = [shutil.which("uv") or "uv", "run", "--quiet", "--isolated", "--python", sys.executable]
    return [*uv, "--no-dev", "--extra", "stripe", "--group", f"neighbours-{group[0]}", "python"]


def _environment() -> dict[str, str]:
    # A setting or proxy of the machine would change whom the clients talk to; bytecode is kept, or each walk would compile anew.
    out = ("KEYGUARD_", "OTEL_", "DD_", "SENTRY_", "LOGFIRE_", "STRIPE_", "COVERAGE_", "PYTHONDONTWRITEBYTECODE")
    return {name: value for name, value in os.environ.items() if not name.startswith(out) and not name.lower().endswith("_proxy")}


def batch(names: list[str]) -> list[tuple[str, str, str, dict[str, Any]]]:
    """Walk neighbours through every order, each in a fork of this process, which imports no neighbour."""
    with tempfile.TemporaryDirectory() as folder:
        return [
            (name, order.name, client, asdict(cell))
            for name in names
            for order in ORDERS
            for client, cell in _forked(name, order, folder).items()
        ]


def _forked(name: str, order: Order, folder: str) -> dict[str, Cell]:
    for module in _BEFORE_FORKING:
        importlib.import_module(module)
    from tests.neighbours.clients import CLIENTS

    forking = multiprocessing.get_context("fork")
    receiving, sending = forking.Pipe(duplex=False)
    child = forking.Process(target=_walk, args=(name, order, f"{folder}/{name}-{order.name}.db", sending))
    child.start()
    sending.close()
    try:
        found: dict[str, Cell] | str = receiving.recv()
    except EOFError:
        found = "no word"
    child.join()
    return {client.name: Cell(faults=(f"the walk died: {found}",)) for client in CLIENTS} if isinstance(found, str) else found


def _walk(name: str, order: Order, file: str, sending: Any) -> None:
    from tests.neighbours.walk import walk

    # Stripe's own use of httpx.
    warnings.filterwarnings("ignore", "Use 'content=", DeprecationWarning)
    try:
        sending.send(walk(neighbour_named(name), order, f"sqlite:///{file}"))
    except Exception:
        sending.send(traceback.format_exc())


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
