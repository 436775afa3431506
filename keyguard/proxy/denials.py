"""What a client is told where no vendor answered: one body that every vendor's SDK reads its own error from. Decides nothing.

stripe-python reads `error.message` (a string in place of `error` breaks it with AttributeError: measured on 5.5 to 16.1), twilio
reads `message`, `code` and `details`, and another error if `title` were there, resend reads `name` and `message`. Statuses: stripe
retries 409 and 5xx, and makes a *declined card* of 402; so a refusal is none of these. 401 = the key, 429 = a cap, 403 = all else.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from starlette.responses import Response

from keyguard.errors import KeyExpired, KeyRevoked, ProxyUnavailable, Refused, SpendCapExceeded, UnknownKey
from keyguard.refusals import DETAILS, ERROR_HEADER, HEADER, error_of, said_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keyguard.errors import KeyguardError

_OF_KEYS = (UnknownKey, KeyRevoked, KeyExpired)


class InDoubt(ProxyUnavailable):
    """
    The request left for the vendor, and no answer came.

    Attributes:
        may_retry: The vendor executes the same request once, or it is a read.
        must_hang_up: Any answer of ours would have the vendor's SDK send it again.
    """

    reason = "in_doubt"
    _fields = ("may_retry", "must_hang_up")
    may_retry: bool | None
    must_hang_up: bool | None


def status_of(error: KeyguardError) -> int:
    """Return the HTTP status of an error."""
    if isinstance(error, Refused):
        return 401 if isinstance(error, _OF_KEYS) else 429 if isinstance(error, SpendCapExceeded) else 403
    return 502 if isinstance(error, InDoubt) else 503


def denial(error: KeyguardError, *, may_retry: bool = False) -> Response:
    """Write an error as an answer; `may_retry` where sending the same request again can help, and cannot charge twice."""
    headers = {"Stripe-Should-Retry": str(may_retry).lower(), "x-should-retry": str(may_retry).lower()}
    said = said_of(error)
    headers[HEADER if isinstance(error, Refused) else ERROR_HEADER] = json.dumps({**said, "message": str(error)})
    if may_retry and not isinstance(error, Refused):
        headers["Retry-After"] = "1"
    if status_of(error) == 401:
        # RFC 9110, 11.6.1: a 401 says how to authenticate.
        headers["WWW-Authenticate"] = 'Bearer realm="keyguard"'
    return answer(status_of(error), error_of(error), said, headers)


def answer(status: int, error: Mapping[str, str], said: Mapping[str, object], headers: Mapping[str, str]) -> Response:
    """
    Write an error in every vendor's form.

    Args:
        status: HTTP status.
        error: `type`, `code` and `message`.
        said: For machines.
        headers: Of the answer.
    """
    body = {
        "type": "error",
        "error": dict(error),
        # Twilio's.
        "message": error["message"],
        "code": status,
        "status": status,
        "details": {DETAILS: {**said, "message": error["message"]}},
        # Resend's.
        "statusCode": status,
        "name": error["code"],
        "keyguard": dict(said),
    }
    return Response(json.dumps(body), status, headers={**headers, "Cache-Control": "no-store"}, media_type="application/json")


def plain(status: int, code: str, message: str, *, may_retry: bool = False) -> Response:
    """Answer what no policy decided: a bad request, an unknown path, too much, a proxy that is not set up for the call."""
    said = str(may_retry).lower()
    about = {"error": "Misdirected", "reason": code}
    mark = json.dumps({**about, "message": message, "retry": may_retry})
    headers = {"Stripe-Should-Retry": said, "x-should-retry": said, ERROR_HEADER: mark}
    return answer(status, {"type": code, "code": code, "message": message}, about, headers)
