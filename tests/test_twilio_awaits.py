"""Something happens at every await of an awaited Twilio call: no hold leaks, no doubt is freed, and a retry reserves for itself."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from twilio.http.async_http_client import AsyncTwilioHttpClient

import keyguard
from tests.support_json_server import JsonServer
from tests.support_twilio_clients import MESSAGE, client_for
from tests.support_twilio_server import Twilio
from tests.test_awaits import WAYS, Cell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from keyguard.ledgers import Ledger

UNIT = 14_800  # micro-USD: a segment to the US, with what carriers add
# aiohttp knows asyncio only; closed in the middle, what it leaves of a socket would be what is warned of.
_WAYS = [way for way, (backends, _) in WAYS.items() if "asyncio" in backends and way != "abandoned"]


@pytest.fixture
def vendor() -> Twilio:
    """An account."""
    return Twilio()


@pytest.fixture
def server(vendor: Twilio, monkeypatch: pytest.MonkeyPatch) -> Iterator[JsonServer]:
    """It, on loopback."""
    with JsonServer(vendor.answer) as found:
        monkeypatch.setenv("KEYGUARD_VENDOR_HOSTS", f"twilio={found.host}")
        yield found


async def _send(url: str, struck: Callable[[Any], Any]) -> None:
    async with AsyncTwilioHttpClient() as http_client:
        await struck(client_for(url, http_client=http_client).messages.create_async(**MESSAGE))


@pytest.mark.parametrize("way", _WAYS)
def test_struck_at_any_await(
    server: JsonServer, vendor: Twilio, capsys: pytest.CaptureFixture[str], keyguard_ledger: Ledger, way: str
) -> None:
    """What Twilio executed is counted, what never left is given back, and nothing is held by a call that ended."""
    cells: list[Cell] = []
    while True:
        with keyguard.run(f"run-{len(cells)}"):
            installed, before = keyguard.install(run_usd_cap=10), vendor.segments
            struck = anyio.run(WAYS[way][1], lambda strike: _send(server.url, strike), len(cells) + 1)
            server.wait_until_quiet()
        usage, truth = installed.usage(), (vendor.segments - before) * UNIT
        if not struck.place:
            break
        cells.append(Cell(struck.place, usage.spent, usage.held, usage.doubt, truth))
    with capsys.disabled():
        endings = ", ".join(f"{number} {ending}" for ending, number in sorted(Counter(cell.ending for cell in cells).items()))
        print(f"\nasyncio twilio, aiohttp   {way:12} struck at {len(cells):3} awaits: {endings}", end="")
    wrong = [cell for cell in cells if cell.held or cell.spent + cell.doubt < cell.truth or cell.spent + cell.doubt > UNIT]

    assert (usage.spent, usage.held, usage.doubt, truth) == (UNIT, 0, 0, UNIT)
    assert len(cells) >= 5
    assert wrong == []
    assert keyguard_ledger.verify() == []
    # What the table would not show: a sweep in which everything ends in doubt, whenever it was struck.
    assert cells[0].ending == "released"
