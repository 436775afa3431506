"""Resend's cassettes: which scenarios there are, and what is kept of their traffic. Starts nothing and asserts nothing."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import resend
import vcr  # type: ignore[import-untyped]  # -- it has no types
from resend.exceptions import ResendError

from tests.support_cassettes import FOLDER, Readable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RESEND_FOLDER = FOLDER / "resend"
# RFC 2606 reserves `.invalid` and `example.com`: the one resolves nowhere, nobody reads the other's mail.
HOST = "resend-local.invalid"
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_INSTANT = re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
_MAIL: Any = {"from": "Me <me@example.com>", "to": ["Ann <ann@example.com>", "bob@example.com"], "subject": "s", "html": "<p>x</p>"}


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is asked of the SDK, in order; its cassette has the same name."""

    name: str
    play: Callable[[], list[Any]]

    @property
    def path(self) -> Path:
        """Its committed cassette."""
        return RESEND_FOLDER / f"{self.name}.yaml"


def _send() -> list[Any]:
    sent: Any = resend.Emails.send(_MAIL | {"cc": "cy@example.com", "bcc": ["dee@example.com"]})
    return [sent, resend.Emails.get(sent["id"])]


def _batch() -> list[Any]:
    return [resend.Batch.send([_MAIL, _MAIL | {"to": "ann@example.com"}])]


def _refused() -> list[Any]:
    try:
        return [resend.Emails.send({name: value for name, value in _MAIL.items() if name != "subject"})]  # type: ignore[arg-type]  # -- the point
    except ResendError as refused:
        return [refused]


SCENARIOS = (Scenario("send", _send), Scenario("batch", _batch), Scenario("refused", _refused))


def player(**options: Any) -> Any:
    """Return a VCR that keeps and matches what these cassettes hold; the host and port never matter."""
    found = vcr.VCR(
        serializer="readable",
        match_on=("method", "scheme", "path", "query", "body"),
        before_record_request=_kept_request,
        before_record_response=_kept_reply,
        **options,
    )
    found.register_serializer("readable", Readable)
    return found


def _kept_request(request: Any) -> Any:
    request.uri = urlsplit(request.uri)._replace(netloc=HOST).geturl()
    request.headers = {"Authorization": "REDACTED", "Content-Type": request.headers.get("Content-Type", "")}
    return request


def _kept_reply(reply: dict[str, Any]) -> dict[str, Any]:
    found = {name.lower(): value for name, value in reply["headers"].items()}
    reply["headers"] = {"Content-Type": found["content-type"]}
    return reply


def renaming() -> Callable[[Any, dict[str, Any]], tuple[Any, dict[str, Any]]]:
    """Return the hook that renames one cassette's ids by their order, and its instants; lengths stay."""
    names: dict[str, str] = {}
    numbers: Counter[str] = Counter()

    def name(found: re.Match[str]) -> str:
        if found[0] not in names:
            numbers["id"] += 1
            names[found[0]] = f"00000000-0000-4000-8000-{numbers['id']:012d}"
        return names[found[0]]

    def renamed(text: str) -> str:
        return _INSTANT.sub("2026-11-24T00:00:00.000Z", _UUID.sub(name, text))

    def rename(request: Any, reply: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        request.uri = renamed(request.uri)
        reply["body"]["string"] = renamed(reply["body"]["string"].decode()).encode()
        return request, reply

    return rename


def origin(recorded_on: str, standin: str) -> dict[str, str]:
    """Say where a recording comes from, in the recording itself."""
    return {
        "recorded_against": f"resend-local {standin}, a stand-in on a loopback port; no live Resend took part",
        "recorded_with": f"resend {version('resend')}, vcrpy {version('vcrpy')}",
        "recorded_on": recorded_on,
        "changed": "ids and instants renamed; host replaced; headers cut down; authorization redacted; every address is of example.com",
    }
