"""
What passes between the double's server and its vendors: requests, answers, and work in flight. Frozen values, no I/O.

Rule 1: a vendor is pure. Time comes as an argument, ids from `Ids`, and what it executes leaves through a function that it
was given; so the same object answers over HTTP and under a simulated clock.
Rule 2: executing and answering are two steps. Between them the work is in flight, as at the real vendor.
"""

from __future__ import annotations

import base64
import itertools
import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qsl, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True, slots=True)
class Request:
    """
    One request as it arrived.

    Attributes:
        method: In upper case.
        target: Path and query, as on the request line.
        headers: Names in lower case; the last of several values.
        content: The body.
        number: Its place among all that arrived, from 1.
    """

    method: str
    target: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    content: bytes = b""
    number: int = 1

    @property
    def path(self) -> str:
        """The path alone."""
        return urlsplit(self.target).path

    @property
    def params(self) -> dict[str, str]:
        """
        The query's parameters, and the body's where it is a form; names as sent (`created[gte]`), the last of several values.

        Lists without numbers get them: `types[]` is `types[0]`, `types[1]`.
        """
        body = self.content.decode("utf-8", "replace") if "json" not in self.headers.get("content-type", "") else ""
        pairs = [pair for text in (urlsplit(self.target).query, body) for pair in parse_qsl(text, keep_blank_values=True)]
        return {f"{name[:-1]}{n}]" if name.endswith("[]") else name: value for n, (name, value) in enumerate(pairs)}

    @property
    def credentials(self) -> tuple[str, str, str]:
        """Scheme in lower case, then user and password of Basic, or the token and ""; empty where there are none, or unreadable ones."""
        scheme, _, value = self.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "basic":
            return scheme.lower(), value, ""
        try:
            user, _, password = base64.b64decode(value).decode().partition(":")
        except ValueError:
            return "", "", ""
        return "basic", user, password

    @property
    def document(self) -> Any:
        """The body as JSON; None where it is none."""
        try:
            return json.loads(self.content)
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class Answer:
    """
    One answer.

    Attributes:
        status: Of HTTP.
        payload: The body's bytes; kept as bytes, so that a replay is the same to the byte.
        headers: Beside `Content-Type` and `Content-Length`.
    """

    status: int
    payload: bytes
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def body(self) -> Any:
        """The payload, parsed."""
        return json.loads(self.payload)

    def added(self, **headers: str) -> Answer:
        """Return this answer with more headers; `_` in a name stands for `-`."""
        return replace(self, headers={**self.headers, **{name.replace("_", "-"): value for name, value in headers.items()}})


def answered(status: int, body: Any, **headers: str) -> Answer:
    """Make an answer of a body that JSON can hold, as it is now; `_` in a header's name stands for `-`."""
    return Answer(status, json.dumps(body).encode()).added(**headers)


@dataclass(frozen=True, slots=True)
class Execution:
    """
    Something that a vendor did: money moved, or an object was made. Nothing takes it back but another execution.

    Attributes:
        vendor: `stripe`, `twilio` or `resend`.
        account: Whose money: a Stripe account, a Twilio AccountSid, a Resend team.
        operation: As keyguard names it: `payment_intents.create`.
        kind: `charge` = money moved; `refund` = money went back, `micros` < 0; `hold` = authorized only; `release` = a hold's
            end without money; `declined` = tried in vain; `object` = made something that costs nothing.
        object: Id of what was made or changed.
        micros: Millionths of the currency's unit, so micro-USD for `usd`. Only those of `charge` and `refund` are money that moved.
        currency: Lower case.
        parent: The PaymentIntent of a charge, the charge of a refund; "" without.
        key: Its idempotency key; "" without.
        customer: The customer or recipient; "" without.
        request: The number of the request that did it.
        time: Seconds since the epoch, by the double's clock.
    """

    vendor: str
    account: str
    operation: str
    kind: str
    object: str
    micros: int
    currency: str
    parent: str
    key: str
    customer: str
    request: int
    time: float


class Ids:
    """
    Ids of one double, all different; two doubles that write one truth file are told apart by their `start`.

    Args:
        start: Up to 2³² - 1.
    """

    def __init__(self, start: int = 0) -> None:
        self._start, self._numbers = start, itertools.count(1)

    def hexadecimal(self) -> str:
        """Return 32 hexadecimal digits."""
        return f"{self._start:08x}{next(self._numbers):024x}"


class Run(Protocol):
    """Executes what a request asked for."""

    def __call__(self, now: float, *, declined: bool) -> Answer: ...


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """
    A request that began and has not been answered.

    Attributes:
        request: What was asked.
        run: Executes it, at a time, declined or not.
        request_id: The vendor's own id of the request; "" where it gives none.
        key: Where its idempotency key is kept; None without one.
    """

    request: Request
    run: Run
    request_id: str = ""
    key: tuple[str, ...] | None = None


def undeclined(run: Callable[[float], Answer]) -> Run:
    """Make a `Run` of what nobody can decline: reads, cancellations."""

    def running(now: float, *, declined: bool) -> Answer:
        _ = declined
        return run(now)

    return running


class Vendor(Protocol):
    """
    One vendor's behaviour, without threads, clocks or sockets; whoever calls it from several threads holds a lock around each call.

    For each request `begin` is called. An `Answer` from it is final: a refusal, or a replay. `Work` is in flight
    until `finish` or `abandon`; in between, `execute` is called once, or never.
    """

    name: str

    def begin(self, request: Request, now: float) -> Answer | Work:
        """Check the request and claim its idempotency key; changes no money."""
        ...

    def execute(self, work: Work, now: float, *, declined: bool = False) -> Answer:
        """Do what was asked, and record it; returns what the vendor would answer."""
        ...

    def finish(self, work: Work, answer: Answer, now: float) -> Answer:
        """Keep the answer under the key, if the vendor keeps such answers; returns it as it goes out."""
        ...

    def abandon(self, work: Work) -> None:
        """Forget that it began: it was turned away before execution."""
        ...

    def failure(self, status: int) -> Answer:
        """Word a 401, 403, 404, 409 (in flight), 429, 500 or 503 of this vendor's."""
        ...


def respond(vendor: Vendor, request: Request, now: float) -> Answer:
    """Answer one request at once, all steps in one."""
    begun = vendor.begin(request, now)
    if isinstance(begun, Answer):
        return begun
    return vendor.finish(begun, vendor.execute(begun, now), now)
