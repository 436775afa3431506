"""A refusal as an HTTP answer, and found again behind whatever a client made of it. Knows no client, decides nothing.

Some SDKs retry whatever is raised below them, and wrap it: to them a refusal of a vendor registered with
`on_refused="response"` is an answer of status 403, which they report as their own error, once. It is known by one header.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

from keyguard._values import frozen
from keyguard.errors import KeyguardError, Refused

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

HEADER = "x-keyguard-refusal"
# By which a proxy says that it could not decide, or does not forward; nothing was sent then either.
ERROR_HEADER = "x-keyguard-error"
# By which a proxy says that an answer is the vendor's, passed on: what has none of the three is of something else on the way.
FORWARDED_HEADER = "x-keyguard-forwarded"
# Where the body of an answer says it, to SDKs whose errors keep no headers.
DETAILS = "keyguard"
STATUS, REASON = 403, "Forbidden"


@frozen
class Answer:
    """
    The answer that stands for a refusal; its status is 403.

    Attributes:
        headers: Names in lower case; the values are ASCII, on one line.
        body: JSON, in the form that most vendors' SDKs read an error from: `{"error": {"type", "code", "message"}}`.
    """

    headers: Mapping[str, str]
    body: bytes


def answer_of(refusal: Refused) -> Answer:
    """Write a refusal as an answer; its figures go along, in micro-USD, under their own names."""
    said, error = said_of(refusal), error_of(refusal)
    body = json.dumps({"type": "error", "error": error, "keyguard": said}).encode()
    # `x-should-retry` is read by the SDKs of OpenAI and Anthropic, before they look at the status.
    headers = {"content-type": "application/json", "content-length": str(len(body)), "x-should-retry": "false"}
    return Answer({**headers, HEADER: json.dumps({**said, "message": str(refusal)})}, body)


def said_of(error: KeyguardError) -> dict[str, Any]:
    """Return what is said of an error to machines: its class, its reason, and its fields under their own names."""
    # What a ledger decided is a value of ours; its figures are in the other fields.
    figures = {name: value for name, value in vars(error).items() if name != "decision" and isinstance(value, str | int | float)}
    return {"error": type(error).__name__, "reason": error.reason, **figures}


def error_of(error: KeyguardError) -> dict[str, str]:
    """Return what most vendors' SDKs read an error from."""
    return {"type": _snaked(type(error).__name__), "code": error.reason, "message": str(error)}


def refusal_of(found: object) -> Refused | None:
    """
    Return keyguard's refusal behind an exception or an HTTP answer; None where keyguard refused nothing.

    Found as itself, in an exception's causes, contexts and groups, and in the answer that stands for it, of a vendor registered with
    `on_refused="response"` or of `keyguard proxy`: that of httpx, requests or aiohttp, an SDK's error with such a `response`, or one
    with what the answer's body says (those of stripe, twilio and resend).
    """
    if not isinstance(found, BaseException):
        return _told(found)
    for error in _chain(found):
        refusal = error if isinstance(error, Refused) else _told(_attribute(error, "response")) or _told(error)
        if refusal is not None:
            return refusal
    return None


def said_in(text: object) -> dict[str, Any] | None:
    """Return the JSON object in a header or a body; None where there is none."""
    try:
        found: object = json.loads(text) if isinstance(text, str | bytes) else None
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else None


def refusal_named(name: str, message: str) -> Refused | None:
    """Return the refusal that a name and a message tell of, without its fields; None where no refusal is called so."""
    kind = next((kind for kind in _kinds(Refused) if kind.__name__ == name), None)
    return None if kind is None else kind(message)


def _told(answer: object) -> Refused | None:
    """Return the refusal that an answer's header tells of, or what Twilio's SDK keeps of its body."""
    get = _attribute(_attribute(answer, "headers"), "get")
    try:
        fields = said_in(get(HEADER)) if callable(get) else None
    except Exception:
        # Not headers at all.
        fields = None
    if fields is None:
        details: Any = _attribute(answer, "details")
        said = cast("dict[str, Any]", details).get(DETAILS) if isinstance(details, dict) else None
        fields = cast("dict[str, Any]", said) if isinstance(said, dict) else None
    if fields is None:
        return None
    kind = next((kind for kind in _kinds(Refused) if kind.__name__ == fields.get("error")), Refused)
    known = {name: fields[name] for name in kind.field_names() if isinstance(fields.get(name), str | int | float)}
    return kind(str(fields.get("message", "")), **known)


def _attribute(of: object, name: str) -> Any:
    try:
        return getattr(of, name, None)
    except Exception:
        # A property of somebody else's error: httpx raises RuntimeError from some.
        return None


def _kinds(kind: type[Refused]) -> Iterator[type[Refused]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _kinds(below)


def _chain(start: BaseException) -> Iterator[BaseException]:
    todo: list[BaseException | None] = [start]
    seen: set[int] = set()
    while todo:
        error = todo.pop()
        # Chains can be circular: a re-raised error may be its own context's cause.
        if error is None or id(error) in seen:
            continue
        seen.add(id(error))
        yield error
        todo += [error.__context__, error.__cause__, *_members(error)]


def _members(error: BaseException) -> tuple[BaseException, ...]:
    # By attribute, so that the exceptiongroup backport of Python 3.10 is understood as well.
    members: object = getattr(error, "exceptions", ())
    if not isinstance(members, tuple | list):
        return ()
    return tuple(member for member in cast("Iterable[object]", members) if isinstance(member, BaseException))


def _snaked(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() and at else letter.lower() for at, letter in enumerate(name))
