"""The table of a generic vendor's operations: reading it, and finding a call's row by method and path. No hosts and no replies here."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keyguard.errors import ConfigurationError, MalformedCall
from keyguard.model import METHODS, is_operation, to_money
from keyguard.policy import request_pattern
from keyguard.vendors import Row

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from keyguard.model import Call, Money
    from keyguard.vendors import Costing, Priced, Pricing

_PATH = re.compile(r"/[^\s?#]*")
_UNKNOWN = "unknown"
# Encoded dots and slashes, and what some readers of a path drop or turn into a slash.
_TRICK = re.compile(r"%(2e|2f|5c|00)|[\\\x00-\x20\x7f?#]", re.IGNORECASE)
_HINT = (
    "an operation is 'METHOD /path' ('*' = any method or one segment, '**' = any number of segments) and what it costs: dollars, "
    "a function of the call that returns dollars, 'free', 'unpriced', or a keyguard.vendors.Row"
)


@dataclass(frozen=True, slots=True)
class Line:
    """
    One row of the table, as it is looked up.

    Attributes:
        endpoint: `METHOD /path`, as it was written.
        matches: The same as a regular expression.
        name: The operation's.
        usd: Micro-USD, or the function that tells dollars; None = `unpriced`.
        is_idempotent: A request with an Idempotency-Key is executed once by the vendor.
        cost: Reads from an answer what the call cost, in dollars.
    """

    endpoint: str
    matches: re.Pattern[str]
    name: str
    usd: Money | Pricing | None
    is_idempotent: bool = False
    cost: Costing | None = None

    @property
    def is_free(self) -> bool:
        """Whether its calls cost nothing, whatever is answered."""
        return self.usd == 0 and self.cost is None


def lines_of(operations: Mapping[str, Priced | Row], cost: Costing | None) -> tuple[Line, ...]:
    """
    Read a table, the most particular endpoint first: of two that match a call, the one that is literal for longer decides.

    Raises:
        ConfigurationError: says which row cannot be read, and what one looks like.
    """
    found = sorted((_line(endpoint, priced, cost) for endpoint, priced in operations.items()), key=_generality)
    for one, other in ((one, other) for at, one in enumerate(found) for other in found[:at]):
        if one.endpoint == other.endpoint:
            raise ConfigurationError(f"operations: {one.endpoint!r} is there twice")
        if one.name == other.name:
            raise ConfigurationError(
                f"operations: {other.endpoint!r} and {one.endpoint!r} are both named {one.name!r}; "
                f"give one of them a name of its own: Row(…, name=...)"
            )
    return tuple(found)


def line_of(lines: tuple[Line, ...], call: Call) -> Line | None:
    """
    Return the row of a call; None = no row is about it. A slash at the end makes no other path.

    Raises:
        MalformedCall: a path that another reader could read as another one.
    """
    path = call.path.removesuffix("/") or "/"
    if not _is_strict(path):
        # The path is not repeated: those of some vendors hold addresses or telephone numbers.
        raise MalformedCall(
            "the path of this call cannot be read strictly: no empty or dot segments, backslashes, blanks, control characters, or encoded "
            "dots and slashes are allowed. Nothing was sent; write the path as the vendor documents it."
        )
    request = f"{call.method} {path}"
    return next((line for line in lines if line.matches.fullmatch(request)), None)


def _is_strict(path: str) -> bool:
    """Say whether every reader of a path splits it alike, and nobody changes it on its way."""
    first, *segments = path.split("/")
    return path == "/" or not (first or not segments or _TRICK.search(path) or any(text in {"", ".", ".."} for text in segments))


def unknown(call: Call) -> str:
    """Return the name of an operation that has no row."""
    return f"{_UNKNOWN}.{call.method.lower() if call.method in METHODS else 'other'}"


def _line(endpoint: object, priced: object, cost: Costing | None) -> Line:
    method, _, path = endpoint.strip().partition(" ") if isinstance(endpoint, str) else ("", "", "")
    method, path = method.upper(), path.strip()
    path = path if path == "/" else path.removesuffix("/")
    if method not in METHODS or not _PATH.fullmatch(path) or not _is_strict(path):
        raise ConfigurationError(f"operations: {endpoint!r} is no endpoint; {_HINT}")
    row: Any = priced if isinstance(priced, Row) else Row(priced)  # type: ignore[arg-type]  # -- what it is, is looked at below
    name = row.name or _derived(method, path)
    if not is_operation(name) or name.partition(".")[0] == _UNKNOWN:
        raise ConfigurationError(f"operations: {endpoint!r} cannot be named {name!r}; a name is words with dots between them: jobs.create")
    if row.cost is not None:
        check_function(row.cost, ("call", "reply"), f"the cost of {endpoint!r}")
    text = f"{method} {path}"
    matches = re.compile(request_pattern(method, path), re.DOTALL)
    # What is called free has no answer that would say otherwise; what is said to cost 0 may.
    told_by = row.cost or (None if row.usd == "free" else cost)
    return Line(text, matches, name, _usd(text, row.usd), bool(row.idempotent), told_by)


def _usd(endpoint: str, usd: Any) -> Any:
    """Return what a row says that its calls cost: micro-USD, a function, or None."""
    if usd == "free":
        return 0
    if isinstance(usd, str) and usd == "unpriced":
        return None
    if callable(usd):
        check_function(usd, ("call",), f"the price of {endpoint!r}")
        return usd
    try:
        return to_money(usd)
    except ValueError as error:
        raise ConfigurationError(f"operations: {endpoint!r}: {error}; {_HINT}") from None


def check_function(function: Callable[..., Any], arguments: tuple[str, ...], what: str) -> None:
    """
    Find out before the first call that a function cannot be called.

    Raises:
        ConfigurationError: it takes other arguments, or has to be awaited.
    """
    if not callable(function):
        raise ConfigurationError(f"{what} must be a function of ({', '.join(arguments)}), got {type(function).__name__}")
    if inspect.iscoroutinefunction(function):
        raise ConfigurationError(f"{what} is a coroutine function; it is asked while a call waits, so write a plain, quick one")
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        raise ConfigurationError(f"{what} must take ({', '.join(arguments)})") from None
    except ValueError:
        # A builtin without a signature.
        return


def _derived(method: str, path: str) -> str:
    """Return a name made of the words of an endpoint: nothing of a call is in it. `POST /v1/jobs/*` is `v1.jobs.any.post`."""
    words = [{"*": "any", "**": "all"}.get(word, word) for word in path.split("/") if word]
    verb = "call" if method == "*" else method.lower()
    return ".".join([*(re.sub(r"[^a-z0-9_]", "_", word.lower().replace("*", "any")) for word in words or ["root"]), verb])


def _generality(line: Line) -> tuple[list[int], int, bool]:
    method, _, path = line.endpoint.partition(" ")
    return [2 if "**" in word else 1 if "*" in word else 0 for word in path.split("/")], -len(path), method == "*"
