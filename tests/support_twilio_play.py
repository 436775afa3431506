"""What is asked of a Twilio, in one list for both styles of its SDK: each step makes one request. Asserts nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeAlias

from twilio.base.exceptions import TwilioRestException
from twilio.http.async_http_client import AsyncTwilioHttpClient
from twilio.rest import Client

from tests.support_twilio_clients import FROM, MESSAGE, TO, pointed
from tests.support_twilio_server import ACCOUNT, INVALID, SERVICE, TOKEN, TOO_MANY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

# From a client and "" or "_async" to what the SDK's method returns.
Step: TypeAlias = "Callable[[Client, str], Any]"


def sid(kind: str, number: int = 0) -> str:
    """Return the id that the stand-in of memory gives to the n-th object of a kind."""
    return f"{kind}{number:032x}"


def message(**fields: Any) -> Step:
    """Send one message."""
    return lambda client, style: getattr(client.messages, f"create{style}")(**MESSAGE | fields)


def fetched(number: int) -> Step:
    """Fetch a message."""
    return lambda client, style: getattr(client.messages(sid("SM", number)), f"fetch{style}")()


def changed(number: int, **fields: Any) -> Step:
    """Update a message."""
    return lambda client, style: getattr(client.messages(sid("SM", number)), f"update{style}")(**fields)


def call(**fields: Any) -> Step:
    """Make one call."""
    given = {"to": TO, "from_": FROM, "twiml": "<Response><Say>x</Say></Response>", "time_limit": 60, **fields}
    return lambda client, style: getattr(client.calls, f"create{style}")(**given)


def ended(number: int) -> Step:
    """End a call."""
    return lambda client, style: getattr(client.calls(sid("CA", number)), f"update{style}")(status="completed")


def number() -> Step:
    """Buy a number."""
    return lambda client, style: getattr(client.incoming_phone_numbers, f"create{style}")(phone_number=FROM)


def verification(**fields: Any) -> Step:
    """Start a verification."""
    given = {"to": TO, "channel": "sms", **fields}
    return lambda client, style: getattr(client.verify.v2.services(SERVICE).verifications, f"create{style}")(**given)


def checked(code: str) -> Step:
    """Check a verification."""
    return lambda client, style: getattr(client.verify.v2.services(SERVICE).verification_checks, f"create{style}")(to=TO, code=code)


def looked_up(**fields: Any) -> Step:
    """Look a number up."""
    return lambda client, style: getattr(client.lookups.v2.phone_numbers(TO), f"fetch{style}")(**fields)


WHATSAPP: dict[str, Any] = {"to": f"whatsapp:{TO}", "from_": f"whatsapp:{FROM}"}
POOLED: dict[str, Any] = {"from_": None, "messaging_service_sid": sid("MG")}
LATER: dict[str, Any] = {**POOLED, "schedule_type": "fixed", "send_at": "2026-12-01T00:00:00Z"}
STEPS: tuple[Step, ...] = (
    message(), message(body="x" * 200), message(body="x" * 320), message(**WHATSAPP), message(**LATER),
    changed(4, status="canceled"), fetched(0), fetched(0), message(to=INVALID), message(to=TOO_MANY),
    call(), call(time_limit=120), ended(0), number(), verification(), checked("000000"), checked("123456"),
    verification(to=TOO_MANY), looked_up(), looked_up(fields="line_type_intelligence"),
)  # fmt: skip


def play(urls: Mapping[str, str], style: str, steps: Sequence[Step] = STEPS) -> list[Any]:
    """Take steps with one client, in order; returns what the SDK returned or raised."""
    if style == "sync":
        client = pointed(Client(ACCOUNT, TOKEN), **urls)
        return [_told(step, client) for step in steps]
    return asyncio.run(_aplay(urls, steps))


def _told(step: Step, client: Client) -> Any:
    try:
        return step(client, "")
    except TwilioRestException as refused:
        return refused


async def _aplay(urls: Mapping[str, str], steps: Sequence[Step]) -> list[Any]:
    async with AsyncTwilioHttpClient() as http_client:
        client = pointed(Client(ACCOUNT, TOKEN, http_client=http_client), **urls)
        found: list[Any] = []
        for step in steps:
            try:
                found.append(await step(client, "_async"))
            except TwilioRestException as refused:
                found.append(refused)
        return found
