"""Walks each door through each situation, compares what came with what must come, and prints the table; knows no client."""

from __future__ import annotations

import base64
import gc
import itertools
from typing import TYPE_CHECKING, Any

import pytest

import keyguard
from tests.doors import Cell
from tests.doors.rows import DOORS
from tests.doors.situations import SITUATIONS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from keyguard.install import Installation
    from tests.doors import Ask, Door, Expected, Situation
    from tests.doors.vendors import World
    from tests.support_json_server import Arrived

_CAP_USD = 100
_runs = itertools.count(1)


def cells(words: tuple[str, ...] = ()) -> Iterator[tuple[Door, Situation]]:
    """Yield every pair, or those in whose names all the words are."""
    for door, situation in itertools.product(DOORS, SITUATIONS):
        if all(word in f"{door.name} {situation.name}" for word in words):
            yield door, situation


def walk(world: World, door: Door, situation: Situation) -> Cell | None:
    """Make one call; None where the situation cannot happen to this door."""
    world.renew()
    prepared = situation.prepare(world, door)
    if prepared is None:
        return None
    ask, expected = prepared
    with keyguard.run(f"{door.name} {situation.name} {next(_runs)}") as run:
        installed = keyguard.install("sqlite://", **{"run_usd_cap": _CAP_USD, **situation.policy(door.kind)})
        with pytest.MonkeyPatch.context() as patch:
            for name, value in situation.environment(world, door.kind).items():
                patch.setenv(name, value)
            raised = _called(door, _with_token(ask, installed))
        usage = installed.usage()
        if usage.held:
            # What a client left in a circle of references.
            gc.collect()
            usage = installed.usage()
    ended = [str(entry["kind"]) for entry in _entries(installed, run.run_id or "")]
    sent, kept = len(world.of(door.kind).requests), ended.count("reserve") - ended.count("release")
    counted = (usage.spent + usage.doubt) / door.kind.unit
    found = {
        "sent": (sent, sent if expected.sent is None else expected.sent),
        "executed": (world.executed(door.kind), expected.executed),
        "kept": (kept, expected.kept),
        "counted": (counted, expected.counted),
        "held": (usage.held, 0),
        "elsewhere": (sum(len(server.requests) for server in (world.nobody, *world.others(door.kind))), expected.elsewhere),
    }
    faults = [f"{what}: {was}, not {right}" for what, (was, right) in found.items() if was != right]
    return Cell(sent, kept, (*faults, *_wrongly_raised(raised, expected), *_leaks(world, door, ask, installed)))


def _with_token(ask: Ask, installed: Installation) -> Ask:
    return type(ask)(ask.base, installed.key.token, ask.key, ask.retries) if ask.credential == "TOKEN" else ask


def _called(door: Door, ask: Ask) -> str:
    """Make the call; return what it raised, "" = an answer. In words: an exception keeps answers in hand that nobody else has."""
    try:
        door.call(ask)
    except Exception as error:
        return repr(error)
    return ""


def _entries(installed: Installation, run_id: str) -> list[Mapping[str, Any]]:
    backend: Any = installed._backend
    return [entry for entry in backend.ledger.entries() if entry["scope"] == f"run:{run_id}" and entry["hold"] is not None]


def _wrongly_raised(raised: str, expected: Expected) -> Iterator[str]:
    name = raised.partition("(")[0]
    if bool(name) != bool(expected.raises) or not (not name or any(word in name for word in expected.raises)):
        yield f"the caller got {raised or 'an answer'}, not {expected.raises or 'an answer'}"


def _leaks(world: World, door: Door, ask: Ask, installed: Installation) -> Iterator[str]:
    """Say where a secret went that is not the vendor's, or a token anywhere."""
    told = {server: " ".join(map(_told, server.requests)) for server in (world.nobody, *world.servers.values())}
    if any(installed.key.token in said for said in told.values()):
        yield "a vault token was sent"
    if any(door.kind.secret in said for server, said in told.items() if server is not world.of(door.kind)):
        yield "the vendor's secret was sent to another host"
    if ask.credential == "TOKEN" and told[world.of(door.kind)].count(door.kind.secret) != len(world.of(door.kind).requests):
        yield "the vendor did not get its secret with each request"


def _told(arrived: Arrived) -> str:
    """Return all that a request said, Basic decoded."""
    scheme, _, value = arrived.headers.get("authorization", "").partition(" ")
    return f"{arrived} {base64.b64decode(value).decode() if scheme == 'Basic' else ''}"


def table(found: Mapping[tuple[str, str], Cell | None]) -> str:
    """Return the matrix: a line per door, a column per situation; kept reservations/requests sent, and a mark where something is wrong."""
    names = list(dict.fromkeys(name for name, _ in found))
    columns = list(dict.fromkeys(column for _, column in found))
    lines = ["", f"{'door':<24}{''.join(f'{column:>14}' for column in columns)}"]
    lines += [f"{name:<24}{''.join(f'{_shown(found.get((name, column))):>14}' for column in columns)}" for name in names]
    real = [cell for cell in found.values() if cell is not None]
    faulty = sum(bool(cell.faults) for cell in real)
    lines.append(
        f"{len(real)} cells, {len(real) - faulty} without a fault; n/m = reservations kept/requests at the vendor for one logical call"
    )
    return "\n".join(lines)


def _shown(cell: Cell | None) -> str:
    return "-" if cell is None else f"{cell.kept}/{cell.sent} {'FAULT' if cell.faults else 'ok'}"
