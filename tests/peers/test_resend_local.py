"""resend-local over loopback, through the real SDK: its own count of recipients is the ledger's, sync and async, and under a cap."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import resend
from resend.exceptions import ResendError

import keyguard
from tests.support_node import Missing, skip_or_fail
from tests.support_resend_local import Local, resend_local

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keyguard.ledgers import Ledger

pytestmark = [pytest.mark.peers, pytest.mark.timeout(400)]

UNIT = 900  # micro-USD


def mail(count: int, **fields: Any) -> Any:
    """Return an e-mail to so many recipients, spread over to, cc and bcc."""
    people = [f"Person {n} <p{n}@example.com>" for n in range(count)]
    return {"from": "me@example.com", "to": people[:1] if count > 2 else people, "cc": people[1:2] if count > 2 else [],
            "bcc": people[2:] if count > 2 else [], "subject": "s", "html": "<p>x</p>", **fields}  # fmt: skip


MAILS = [mail(count) for count in (1, 2, 3, 7, 50)]
BATCH = [mail(count) for count in (1, 4)]
# Resend refuses an e-mail without a subject.
BAD: Any = {name: value for name, value in mail(2).items() if name != "subject"}
SENT = 1 + 2 + 3 + 7 + 50 + 5 + 1


@pytest.fixture(scope="module")
def local() -> Iterator[Local]:
    """A resend-local for this file."""
    try:
        with resend_local() as found:
            yield found
    except Missing as missing:
        skip_or_fail(missing)


@pytest.fixture
def before(local: Local, monkeypatch: pytest.MonkeyPatch) -> int:
    """Point the SDK at it; return what it counts already."""
    monkeypatch.setattr(resend, "api_url", local.url)
    monkeypatch.setattr(resend, "api_key", "re_12345")
    monkeypatch.setenv("KEYGUARD_VENDOR_HOSTS", f"resend={local.host}")
    return local.recipients


def _play() -> None:
    for each in MAILS:
        resend.Emails.send(each)
    resend.Batch.send(BATCH)
    with pytest.raises(ResendError):
        resend.Emails.send(BAD)
    found: Any = resend.Emails.send(mail(1))
    assert resend.Emails.get(found["id"])["id"] == found["id"]


async def _aplay() -> None:
    await asyncio.gather(*(resend.Emails.send_async(each) for each in MAILS), resend.Batch.send_async(BATCH))
    with pytest.raises(ResendError):
        await resend.Emails.send_async(BAD)
    found: Any = await resend.Emails.send_async(mail(1))
    assert (await resend.Emails.get_async(found["id"]))["id"] == found["id"]


@pytest.mark.parametrize("style", ["sync", "async"])
def test_the_vendors_own_count_is_the_ledgers(local: Local, before: int, style: str, keyguard_ledger: Ledger) -> None:
    """Sends, a batch, a refused one and a read: recipients in its database times the unit is what was booked, to the micro-dollar."""
    with keyguard.run("run-1"):
        installed = keyguard.install(run_usd_cap=1)
        _play() if style == "sync" else asyncio.run(_aplay())
        usage = installed.usage()

    assert local.recipients - before == SENT
    assert (usage.spent, usage.held, usage.doubt) == (SENT * UNIT, 0, 0)
    assert usage.calls == len(MAILS) + 4
    assert keyguard_ledger.verify() == []


def test_many_at_once_stop_at_the_cap(local: Local, before: int) -> None:
    """Twenty threads, three recipients each, a cap of thirty units: ten are sent, ten refused as themselves."""
    with keyguard.run("run-1"):
        installed = keyguard.install(run_usd_cap="0.027")

        def send() -> bool:
            try:
                resend.Emails.send(mail(3))
            except keyguard.SpendCapExceeded:
                return False
            return True

        with ThreadPoolExecutor(20) as pool:
            sent = [future.result() for future in [pool.submit(keyguard.wrap(send)) for _ in range(20)]]

    assert (sum(sent), local.recipients - before) == (10, 30)
    assert installed.usage().spent == 30 * UNIT


@pytest.mark.parametrize("is_async", [False, True])
def test_a_raw_request_is_counted_as_the_sdks(local: Local, before: int, is_async: bool) -> None:
    """httpx to the same host: the same operation, the same amount."""
    request: Any = {"url": f"{local.url}/emails", "json": mail(4), "headers": {"Authorization": "Bearer re_12345"}}

    async def post() -> httpx.Response:
        async with httpx.AsyncClient() as client:
            return await client.post(**request)

    with keyguard.run("run-1"):
        installed = keyguard.install(run_usd_cap=1, allowed_endpoints=["resend:emails.send"])
        answer = asyncio.run(post()) if is_async else httpx.post(**request)

    assert answer.status_code == 200
    assert (local.recipients - before, installed.usage().spent) == (4, 4 * UNIT)
