"""Raw requests to Twilio: what a wire seam reads is decided by the plug, and booked under the path's account."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import apsw
import httpx
import pytest
import requests

import keyguard
from keyguard.errors import MalformedCall, RuleViolated, SpendCapExceeded, UnpricedCall
from tests.support_json_server import Answer, Arrived, JsonServer
from tests.support_twilio import ACCOUNT, API, SID, US, US_TOO

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FORM = {"To": US, "From": US_TOO, "Body": "hello"}
SEGMENT = 14_800  # micro-USD
_ids = itertools.count()
SUBACCOUNT = "AC" + "f" * 32


def answer(request: Arrived) -> Answer:
    """Answer as Twilio does: what is made has an id of its own."""
    if request.method == "GET":
        return Answer(200, {"caller_name": {}})
    return Answer(201, {"sid": f"SM{next(_ids):032x}", "status": "queued", "num_segments": "1", "price": None})


@pytest.fixture
def twilio(monkeypatch: pytest.MonkeyPatch) -> Iterator[JsonServer]:
    """A stand-in for Twilio that `KEYGUARD_VENDOR_HOSTS` lists."""
    with JsonServer(answer) as server:
        monkeypatch.setenv("KEYGUARD_VENDOR_HOSTS", f"twilio={server.host}")
        yield server
    keyguard.uninstall()


def test_raw_requests_are_priced_and_booked_under_the_paths_account(twilio: JsonServer, tmp_path: Path) -> None:
    """A subaccount's message, with the main account's credentials, is the subaccount's; a proxy may put the host before the path."""
    installed = keyguard.install(f"sqlite:///{tmp_path}/l.db", run_usd_cap=1)
    auth = (ACCOUNT, "secret")
    httpx.post(f"{twilio.url}{API}/Messages.json", data=FORM, auth=auth)
    requests.post(f"{twilio.url}{API.replace(ACCOUNT, SUBACCOUNT)}/Messages.json", data=FORM, auth=auth, timeout=10)
    httpx.post(f"{twilio.url}/twilio/api.dublin.ie1.twilio.com{API}/Messages.json", data={**FORM, "Body": "a" * 161}, auth=auth)
    spent = installed.usage().spent
    keyguard.uninstall()
    book = apsw.Connection(str(tmp_path / "l.db"))
    rows = book.execute("SELECT account, operation, spent FROM holds ORDER BY at").fetchall()
    book.close()

    # What Twilio has counted, one segment, corrects the third one's two.
    assert spent == 3 * SEGMENT
    assert rows == [(ACCOUNT, "messages.create", SEGMENT), (SUBACCOUNT, "messages.create", SEGMENT), (ACCOUNT, "messages.create", SEGMENT)]


def test_a_look_up_is_a_get_that_costs(twilio: JsonServer, tmp_path: Path) -> None:
    """Its cost is held and spent, and the second one does not fit."""
    installed = keyguard.install(f"sqlite:///{tmp_path}/l.db", run_usd_cap="0.015")
    httpx.get(f"{twilio.url}/lookups.twilio.com/v2/PhoneNumbers/{US}", params={"Fields": "caller_name"})
    with pytest.raises(SpendCapExceeded) as error:
        httpx.get(f"{twilio.url}/lookups.twilio.com/v2/PhoneNumbers/{US}", params={"Fields": "caller_name"})

    assert (installed.usage().spent, len(twilio.requests)) == (10_000, 1)
    assert US not in str(error.value)


@pytest.mark.parametrize(
    ("path", "form", "error"),
    [
        (f"{API}/Messages.json", {**FORM, "To": "12345"}, MalformedCall),
        (f"{API}/Messages.json", {**FORM, "To": "+4930901820"}, RuleViolated),
        (f"{API}/Messages.json", {**FORM, "Body": "ê" * 1600}, SpendCapExceeded),
        (f"{API}/Messages.json", {**FORM, "To": "+881612345678"}, UnpricedCall),
        (f"{API}/Calls.json", {"To": US, "From": US_TOO, "Url": "https://x.io"}, SpendCapExceeded),
        (f"{API}/Calls.json", {"To": US, "TimeLimit": "0"}, MalformedCall),
        (f"{API}/Calls/CA{SID}/Recordings.json", {}, UnpricedCall),
        (f"{API}/Keys.json", {}, UnpricedCall),
        (f"{API}/Nothing.json", {}, UnpricedCall),
    ],
)
def test_a_refusal_reaches_the_caller_and_nothing_is_sent(
    path: str, form: dict[str, str], error: type[Exception], twilio: JsonServer, tmp_path: Path
) -> None:
    """Bad input, rules, caps, and what has no bound: each as its own error, from a raw client too."""
    rules = {"messages.create": {"To": {"prefix": ["+1", "+881"]}}}
    keyguard.install(f"sqlite:///{tmp_path}/l.db", run_usd_cap="0.30", rules=rules)
    with pytest.raises(error, match=r"(?i)nothing was sent"):
        httpx.post(f"{twilio.url}{path}", data=form)

    assert twilio.requests == []


def test_no_number_and_no_text_is_in_the_ledger(twilio: JsonServer, tmp_path: Path) -> None:
    """Rows have operations, accounts and ids; whom a message went to and what it said are nowhere in the file."""
    keyguard.install(f"sqlite:///{tmp_path}/l.db", run_usd_cap=1)
    httpx.post(f"{twilio.url}{API}/Messages.json", data={**FORM, "Body": "very private text"})
    httpx.get(f"{twilio.url}/lookups.twilio.com/v2/PhoneNumbers/{US}", params={"Fields": "caller_name"})
    with pytest.raises(UnpricedCall):
        httpx.post(f"{twilio.url}/v1/Nothing/{US}", data=FORM)
    keyguard.uninstall()
    content = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())

    assert b"messages.create" in content
    assert b"4155552671" not in content
    assert b"very private" not in content
