"""Resend's cassettes: what is asked of resend-local. Starts nothing when imported, asserts nothing."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import resend
from resend.exceptions import ResendError

from tests.support_cassettes import Origin, Scenario
from tests.support_node import package
from tests.support_resend_local import resend_local

if TYPE_CHECKING:
    from collections.abc import Iterator

# RFC 2606 reserves `example.com`: nobody reads its mail.
_MAIL: Any = {"from": "Me <me@example.com>", "to": ["Ann <ann@example.com>", "bob@example.com"], "subject": "s", "html": "<p>x</p>"}


@contextmanager
def _pointed(url: str) -> Iterator[None]:
    """Point the SDK, which has one address for the whole process, to a stand-in."""
    before = resend.api_url, resend.api_key
    resend.api_url, resend.api_key = url, "re_12345"
    try:
        yield
    finally:
        resend.api_url, resend.api_key = before


def _send(url: str, _given: str) -> list[Any]:
    with _pointed(url):
        sent: Any = resend.Emails.send(_MAIL | {"cc": "cy@example.com", "bcc": ["dee@example.com"]})
        return [sent, resend.Emails.get(sent["id"])]


def _batch(url: str, _given: str) -> list[Any]:
    with _pointed(url):
        return [resend.Batch.send([_MAIL, _MAIL | {"to": "ann@example.com"}])]


def _refused(url: str, _given: str) -> list[Any]:
    with _pointed(url):
        try:
            return [resend.Emails.send({name: value for name, value in _MAIL.items() if name != "subject"})]  # type: ignore[arg-type]  # -- the point
        except ResendError as refused:
            return [refused]


@contextmanager
def _running() -> Iterator[str]:
    with resend_local() as local:
        yield local.url


RESEND_LOCAL = Origin(
    "resend-local",
    vendor="Resend",
    sdk="resend",
    version=lambda: str(json.loads((package("resend-local") / "package.json").read_text(encoding="utf-8"))["version"]),
    running=_running,
    scenarios=(Scenario("send", _send), Scenario("batch", _batch), Scenario("refused", _refused)),
    ids=re.compile(r"()\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"),
    plain=((re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"), "2026-11-24T00:00:00.000Z"),),
    reply_headers=("Content-Type",),
    changed="ids and instants renamed; host replaced; headers cut down; authorization redacted; every address is of example.com",
)
