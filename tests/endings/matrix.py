"""Walks each fault with each client, compares what came with what must come, and prints the table; knows no client."""

from __future__ import annotations

import gc
import itertools
import threading
from collections import Counter
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, NamedTuple

import pytest

import keyguard
from tests.endings import PATIENCE, Cell, Expected, Impossible
from tests.endings.clients import CLIENTS, KINDS
from tests.endings.faults import FAULTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.endings import Ask, Client, Fault
    from tests.endings.world import World

CAP_USD = 100
_runs = itertools.count(1)


class Books(NamedTuple):
    """The run's figures, in units of the client's vendor."""

    spent: float
    held: float
    doubt: float

    @property
    def counted(self) -> float:
        """All that counts against the cap."""
        return self.spent + self.held + self.doubt


def cells(words: tuple[str, ...] = ()) -> Iterator[tuple[Client, Fault]]:
    """Yield every pair, or those in whose names all the words are."""
    for fault, client in itertools.product(FAULTS, CLIENTS):
        if all(word in f"{client.name} {fault.name}" for word in words):
            yield client, fault


def bare(world: World, client: Client, fault: Fault) -> tuple[str, float]:
    """Make one call without keyguard: what reaches the caller, and how many units are executed once everything is quiet."""
    if isinstance(fault.expected(client), Impossible) or fault.dies:
        return "", 0
    before = world.charged(client.kind)
    came = _called(world, client, fault, fault.ask(world, client))
    _settle(world, client)
    return came, world.charged(client.kind) - before


def walk(world: World, client: Client, fault: Fault, without: tuple[str, float]) -> Cell:
    """Make one guarded call, and compare; `without` is what came of it without keyguard."""
    expected = fault.expected(client)
    if isinstance(expected, Impossible):
        return Cell(reason=expected.reason)
    before, run_id = world.charged(client.kind), f"endings {next(_runs)}"
    with pytest.MonkeyPatch.context() as patch, keyguard.run(run_id):
        patch.setenv("KEYGUARD_VENDOR_HOSTS", world.hosts)
        installed = keyguard.install(world.ledger, run_usd_cap=CAP_USD)
        ask = fault.ask(world, client)
        came = _killed(world, client, run_id, ask) if fault.dies else _called(world, client, fault, ask)
        at_once = _books(installed, client), world.charged(client.kind) - before
        _settle(world, client)
        books, executed = _books(installed, client), world.charged(client.kind) - before
    wrong = (*_wrong(books, executed, expected), *_short(at_once, (books, executed)), *_changed(came, executed, without, expected, fault))
    return Cell(executed, books.spent, books.doubt, came, wrong)


def _called(world: World, client: Client, fault: Fault, ask: Ask) -> str:
    """Make the call; return what it raised, or the status of its answer. In words: an exception keeps answers in hand."""
    world.caller = threading.get_ident()
    helper = threading.Thread(target=fault.meanwhile, args=(world, client)) if fault.meanwhile else None
    if helper is not None:
        helper.start()
    try:
        return str(client.call(ask))
    except BaseException as error:
        return f"{type(error).__module__.partition('.')[0]}.{type(error).__qualname__}"
    finally:
        if helper is not None:
            helper.join(PATIENCE)


def _killed(world: World, client: Client, run_id: str, ask: Ask) -> str:
    """Have another process make the call, and kill it while its request is held."""
    pid = world.victims.begin(client=client.name, run=run_id, ledger=world.ledger, hosts=world.hosts, ask=asdict(ask))
    world.of(client.kind.name).wait_until_held(1, PATIENCE)
    return f"signal {world.victims.kill(pid)}"


def _settle(world: World, client: Client) -> None:
    """Let everything end that was begun, at the vendor and in other threads."""
    double = world.of(client.kind.name)
    double.listen()
    double.release()
    if world.companion is not None:
        world.companion.join(PATIENCE)
        world.companion = None
    # A connection that a client left in a circle of references; what is alive now need not be looked at again.
    gc.collect()
    gc.freeze()
    double.wait_until_quiet()


def _books(installed: keyguard.Installation, client: Client) -> Books:
    usage, unit = installed.usage(), client.kind.unit
    return Books(usage.spent / unit, usage.held / unit, usage.doubt / unit)


def _wrong(books: Books, executed: float, expected: Expected) -> Iterator[str]:
    found = {
        "executed": (executed, expected.executed),
        "spent": (books.spent, expected.spent),
        "in doubt": (books.doubt, expected.doubt),
        "held": (books.held, 0),
    }
    yield from (f"{what}: {was:g}, not {right}" for what, (was, right) in found.items() if was != right)


def _short(*moments: tuple[Books, float]) -> Iterator[str]:
    """Say where the ledger knew less than the truth: at once, and when everything was quiet."""
    yield from (f"the ledger counts {books.counted:g} of {truth:g}" for books, truth in moments if books.counted < truth)


def _changed(came: str, executed: float, without: tuple[str, float], expected: Expected, fault: Fault) -> Iterator[str]:
    """Say what the caller, or the vendor, got otherwise than without keyguard."""
    if fault.dies:
        return
    if came != without[0]:
        yield f"the caller got {came}, and without keyguard {without[0]}"
    if executed != without[1]:
        yield f"the vendor executed {executed:g}, and without keyguard {without[1]:g}"
    if came.isdigit() == expected.raises:
        yield f"the caller got {came}, not {'an exception' if expected.raises else 'an answer'}"


# -- printed ---------------------------------------------------------------------------------------------


def table(found: Mapping[tuple[str, str], Cell]) -> str:
    """Return a matrix for each vendor, then what reached the callers, then why some cells are empty, then the count."""
    lines: list[str] = []
    for kind in KINDS:
        names = [client.name for client in CLIENTS if client.kind is kind and any(name == client.name for name, _ in found)]
        faults = list(dict.fromkeys(fault for name, fault in found if name in names))
        lines += ["", f"{kind.name:<28}" + "".join(f"{_head(name):>16}" for name in names)]
        lines += [f"{fault:<28}" + "".join(f"{_shown(found.get((name, fault))):>16}" for name in names) for fault in faults]
    real = [cell for cell in found.values() if not cell.reason]
    total = f"{len(real)} cells, {sum(not cell.wrong for cell in real)} without a fault; {len(found) - len(real)} that cannot be"
    legend = "n/m = units that the vendor took / that the ledger counts"
    return "\n".join([*lines, "", *_came(found), "", *_reasons(found), "", f"{total}. {legend}"])


def _head(name: str) -> str:
    return name.partition(" to ")[0].replace(" async", " (a)")


def _shown(cell: Cell | None) -> str:
    if cell is None or cell.reason:
        return "n/a" if cell else ""
    ending = replace(Expected(), spent=int(cell.spent), doubt=int(cell.doubt)).ending.replace("settled and doubt", "both")
    return f"{'!' if cell.wrong else ''}{ending} {cell.executed:g}/{cell.spent + cell.doubt:g}"


def _came(found: Mapping[tuple[str, str], Cell]) -> Iterator[str]:
    for fault in dict.fromkeys(fault for _, fault in found):
        counts = Counter(cell.came for (_, name), cell in found.items() if name == fault and not cell.reason)
        if counts:
            yield f"{fault:<28} {', '.join(f'{came} x {count}' for came, count in counts.most_common())}"


def _reasons(found: Mapping[tuple[str, str], Cell]) -> Iterator[str]:
    for fault in dict.fromkeys(fault for (_, fault), cell in found.items() if cell.reason):
        reasons = Counter(cell.reason for (_, name), cell in found.items() if name == fault and cell.reason)
        yield f"n/a: {fault}: {'; '.join(f'{reason} (x {count})' for reason, count in reasons.most_common())}"
