"""Twilio's cassettes: what is asked of Prism with Twilio's OpenAPI. Starts nothing when imported, asserts nothing."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from twilio.base.exceptions import TwilioRestException
from twilio.rest import Client

from tests.support_cassettes import Origin, Scenario
from tests.support_node import package, unpacked
from tests.support_prism import prisms
from tests.support_twilio_clients import pointed
from tests.support_twilio_play import LATER, WHATSAPP, call, ended, fetched, message, number, sid
from tests.support_twilio_server import ACCOUNT, TOKEN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support_twilio_play import Step


def _asking(*steps: Step) -> Callable[[str, str], list[Any]]:
    """Take steps with one client; returns the JSON of each answer, of which the SDK's objects keep only what they know."""

    def play(url: str, _given: str) -> list[Any]:
        client, found = pointed(Client(ACCOUNT, TOKEN), api=url), []
        for step in steps:
            with suppress(TwilioRestException):
                step(client, "")
            found.append(json.loads(client.http_client._test_only_last_response.text))
        return found

    return play


def _without_recipient(client: Client, _style: str) -> Any:
    """Ask for what the specification does not allow."""
    return client.request("POST", f"{client.api.base_url}/2010-04-01/Accounts/{ACCOUNT}/Calls.json", data={"To": "+12125550123"})


def _scheduled(client: Client, _style: str) -> Any:
    """Schedule a message, answered by the one example that says so."""
    form = {"To": WHATSAPP["to"], "Body": "hello", "MessagingServiceSid": sid("MG"), "ScheduleType": "fixed", "SendAt": LATER["send_at"]}
    headers = {"Prefer": "example=createScheduledMessageWhatsapp"}
    return client.request("POST", f"{client.api.base_url}/2010-04-01/Accounts/{ACCOUNT}/Messages.json", data=form, headers=headers)


def _cancelled(client: Client, _style: str) -> Any:
    """Cancel it, by the example's id."""
    return client.messages(f"SM{'a' * 32}").update(status="canceled")


@contextmanager
def _running() -> Iterator[str]:
    with prisms(products=("api",)) as found:
        yield found["api"].url


def _version(folder: Path) -> str:
    return str(json.loads((folder / "package.json").read_text(encoding="utf-8"))["version"])


PRISM_TWILIO = Origin(
    "prism-twilio",
    vendor="Twilio",
    sdk="twilio",
    version=lambda: f"{_version(package('@stoplight/prism-cli'))} with the OpenAPI of cli-core {_version(unpacked('@twilio/cli-core'))}",
    running=_running,
    scenarios=(
        Scenario("message", _asking(message(), fetched(0))),
        Scenario("long", _asking(message(body="x" * 200))),
        Scenario("whatsapp", _asking(message(**WHATSAPP))),
        Scenario("scheduled", _asking(_scheduled, _cancelled)),
        Scenario("call", _asking(call(time_limit=120), ended(0))),
        Scenario("number", _asking(number())),
        Scenario("refused", _asking(_without_recipient)),
    ),
    # Every id is of the specification's examples, or of the stand-in's own counting.
    ids=re.compile(r"(?!)()"),
    # The specification's examples name numbers that may be somebody's; NANPA keeps 555-0100 to 555-0199 for fiction.
    plain=(
        (re.compile(r"\+1(?!2125550123|5005550006)\d{10}"), "+12125550199"),
        (re.compile(r"\((?!212\) 555-01)\d{3}\) \d{3}-\d{4}"), "(212) 555-0199"),
    ),
    reply_headers=("Content-Type",),
    changed="host replaced; headers cut down; authorization redacted; numbers replaced by fictional ones; ids are of the specification",
)
