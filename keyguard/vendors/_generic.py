"""A vendor that the user describes by a table: any HTTP API. The plug, and the reading of what describes it; no look-up."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass, fields
from decimal import Decimal
from types import FunctionType
from typing import TYPE_CHECKING, Any

from keyguard.errors import ConfigurationError, MalformedCall, Refused
from keyguard.model import Operation, Outcome, Quote, Unbounded, is_vendor_name, to_money_up
from keyguard.vendors import overlap
from keyguard.vendors._generic_table import Line, check_function, line_of, lines_of, unknown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from keyguard.model import Call, Money, Reply
    from keyguard.vendors import Costing, Priced, Quoting, Row

_logger = logging.getLogger("keyguard")
_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"(?:\*\.{_LABEL}\.)?{_LABEL}(?:\.{_LABEL})*")
_HEADER = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FREE = Outcome("settled", source="local")


@dataclass(frozen=True, slots=True, eq=False)
class Generic:
    """
    A vendor plug made of a table. Stateless.

    Attributes:
        name, hosts, secret_env, credential_headers, on_refused: As the contract says.
        lines: The table, the most particular row first.
        not_executed: Statuses that give the money back.
    """

    name: str
    hosts: frozenset[str]
    lines: tuple[Line, ...]
    secret_env: str
    credential_headers: tuple[str, ...]
    on_refused: str
    not_executed: frozenset[int]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Generic) and all(_alike(getattr(self, one.name), getattr(other, one.name)) for one in fields(self))

    def __hash__(self) -> int:
        return hash((self.name, self.hosts))

    def classify(self, call: Call) -> Operation:
        """
        Name the operation of a call by its row.

        Raises:
            MalformedCall: a path that another reader could read as another one.
        """
        line = line_of(self.lines, call)
        if line is None:
            why = Unbounded(f"matches none of the operations with which {self.name} was registered") if call.is_write else None
            return Operation(unknown(call), known=not call.is_write, idempotent=not call.is_write, unbounded=why)
        is_once = (line.is_free and not call.is_write) or (line.is_idempotent and bool(call.idempotency_key))
        if line.usd is None:
            return Operation(
                line.name, known=False, idempotent=is_once, unbounded=Unbounded(f"is 'unpriced' where {self.name} was registered")
            )
        return Operation(line.name, idempotent=is_once)

    def quote(self, call: Call, operation: Operation) -> Quoting:
        """
        Bound the cost of a known operation: its row's amount, or what its row's function says.

        Raises:
            MalformedCall: the function raises, or returns no amount.
        """
        yield from ()
        line = line_of(self.lines, call)
        if line is None or line.usd is None:
            return Quote(0)
        if isinstance(line.usd, int):
            return Quote(line.usd)
        try:
            usd = line.usd(call)
            return (
                Quote(0, unbounded=Unbounded("has no amount, says the function that prices it")) if usd is None else Quote(to_money_up(usd))
            )
        except Refused:
            raise
        except Exception as error:
            # What it says may repeat the request.
            raise MalformedCall(
                f"the function that prices {self.name} {operation.name} could not make an amount in dollars of this call "
                f"({type(error).__name__}), so its cost cannot be bounded. Nothing was sent."
            ) from error

    def read(self, call: Call, operation: Operation, quote: Quote, reply: Reply) -> Outcome:
        """Say how an attempt with this reply ended. Never raises: what the answer does not say is the amount held."""
        try:
            line = line_of(self.lines, call)
        except MalformedCall:
            return Outcome("doubt", source="local")
        if line is None or line.is_free:
            return _FREE
        request_id = reply.headers.get("x-request-id") or reply.headers.get("request-id")
        if reply.status in self.not_executed:
            return Outcome("released", source="local", request_id=request_id)
        if not 200 <= reply.status < 400:
            return Outcome("doubt", source="local", request_id=request_id)
        told = _told(line.cost, call, operation, quote, reply) if line.cost is not None else None
        return Outcome(
            "settled", cost=quote.amount if told is None else told, source="local" if told is None else "provider", request_id=request_id
        )

    def parameters(self) -> Mapping[str, frozenset[str] | None]:
        """Return each operation that a policy may have `rules` for; nobody has described their fields."""
        return {line.name: None for line in self.lines}


def _told(cost: Costing, call: Call, operation: Operation, quote: Quote, reply: Reply) -> Money | None:
    """Return what the user's function reads from an answer; None = it cannot tell."""
    try:
        usd = cost(call, reply)
        return None if usd is None else to_money_up(usd)
    except Exception as error:
        # Without its body, an answer is read by its head in case that this says it.
        if reply.body is not None:
            _logger.warning(
                "the cost of %s %s could not be read from its answer (%s); it is settled at the %d micro-dollars that were held",
                call.vendor, operation.name, type(error).__name__, quote.amount,
            )  # fmt: skip
        return None


def documents_of(reply: Reply) -> list[Any]:
    """Return the JSON documents of an answer: one, or one for each event of a stream. What is none is left out."""
    text = (reply.body or b"").decode("utf-8", "replace")
    whole = _document(text)
    if whole:
        return whole
    # `data:` is the only field of an event that has JSON (WHATWG HTML, 9.2); OpenAI's last one, `[DONE]`, is none.
    return [found for line in text.splitlines() if line.startswith("data:") for found in _document(line[5:])]


def _document(text: str) -> list[Any]:
    try:
        return [json.loads(text, parse_float=Decimal)]
    except (ValueError, RecursionError):
        return []


# -- reading what describes a vendor -------------------------------------------------------------------


def made(
    name: Any,
    *,
    hosts: Iterable[str],
    operations: Mapping[str, Priced | Row],
    cost: Costing | None,
    on_refused: str,
    secret_env: str,
    credential_headers: Iterable[str],
    not_executed: Iterable[int],
) -> Generic:
    """
    Make the plug.

    Raises:
        ConfigurationError: says which argument cannot be read, and what is expected.
    """
    _check(isinstance(name, str) and is_vendor_name(name), f"a vendor's name is lower-case letters, digits, '-' and '_', got {name!r}")
    try:
        lines = _lines(operations, cost)
        _check(on_refused in {"raise", "response"}, f"on_refused is 'raise' or 'response', got {on_refused!r}")
        _check(not secret_env or bool(_VARIABLE.fullmatch(secret_env)), "secret_env is the name of an environment variable")
        return Generic(name, _hosts(hosts), lines, secret_env, _headers(credential_headers), on_refused, _statuses(not_executed))
    except ConfigurationError as error:
        raise ConfigurationError(f"vendor {name!r}: {error}") from error.__cause__


def _check(holds: bool, otherwise: str) -> None:  # noqa: FBT001 -- what must hold
    if not holds:
        raise ConfigurationError(otherwise)


def _lines(operations: Any, cost: Any) -> tuple[Line, ...]:
    if cost is not None:
        check_function(cost, ("call", "reply"), "cost")
    _check(hasattr(operations, "items"), "operations is a mapping of endpoints to what they cost")
    return lines_of(operations, cost)


def _hosts(hosts: Any) -> frozenset[str]:
    given = _texts(hosts, "hosts is a list of hosts")
    for host in given:
        _check(
            bool(_HOST.fullmatch(host)) and len(host) <= 253,
            f"hosts: expected a host such as api.acme.example or *.acme.example, without scheme, path and port, got {host!r}. "
            "A stand-in with a port is listed in KEYGUARD_VENDOR_HOSTS=VENDOR=HOST:PORT",
        )
    _check(bool(given), "hosts: a vendor has at least one")
    double = next((f"{one} and {other}" for at, one in enumerate(given) for other in given[:at] if overlap(one, other)), "")
    _check(not double, f"hosts: {double} are one claim twice")
    return frozenset(given)


def _headers(names: Any) -> tuple[str, ...]:
    given = _texts(names, "credential_headers is a list of names")
    _check(all(_HEADER.fullmatch(name) for name in given), f"credential_headers: expected names of headers, got {given!r}")
    return given


def _texts(given: Any, otherwise: str) -> tuple[str, ...]:
    """Return texts in lower case; one text alone is a mistake that would be read as its letters."""
    _check(not isinstance(given, str) and hasattr(given, "__iter__"), otherwise)
    found: tuple[Any, ...] = tuple(given)
    _check(all(isinstance(text, str) for text in found), otherwise)
    return tuple(text.strip().lower() for text in found)


def _statuses(given: Any) -> frozenset[int]:
    found: tuple[Any, ...] = tuple(given) if hasattr(given, "__iter__") else (None,)
    good = all(isinstance(status, int) and 300 <= status < 600 for status in found)
    _check(good, "not_executed is a list of HTTP statuses from 300 on")
    return frozenset(found)


# -- whether two descriptions are the same -------------------------------------------------------------


def _alike(one: Any, other: Any) -> bool:
    """Say whether two values are equal; functions are where the same lines made them, of equal values."""
    if isinstance(one, FunctionType) and isinstance(other, FunctionType):
        return one is other or (one.__code__ == other.__code__ and _alike(_surroundings(one), _surroundings(other)))
    if isinstance(one, Line) and isinstance(other, Line):
        return all(_alike(getattr(one, field.name), getattr(other, field.name)) for field in fields(Line))
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_alike, one, other))
    try:
        return bool(one == other)
    except Exception:
        # Of what a function closes over: arrays cannot be compared at once.
        return False


def _surroundings(function: FunctionType) -> tuple[Any, ...]:
    cells = tuple(getattr(cell, "cell_contents", None) for cell in function.__closure__ or ())
    return function.__module__, function.__defaults__, tuple((function.__kwdefaults__ or {}).items()), cells
