"""
Stripe's API v1, as far as money needs it: who asks, which operation, and what is kept under an idempotency key.

What the operations do is in the `_stripe_*` files. Sources, read 2026-11: "Idempotent requests" and "Advanced error handling" of
Stripe's documentation, and its OpenAPI (2026-05-27).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, TypeAlias

from keyguard.testing.double import _stripe_reads as reads
from keyguard.testing.double import _stripe_writes as writes
from keyguard.testing.double._stripe_books import Books, Moment
from keyguard.testing.double._stripe_forms import Form, Refused
from keyguard.testing.double.keys import DAY, Keys
from keyguard.testing.double.messages import Answer, Work, answered

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from keyguard.testing.double.messages import Execution, Ids, Request

    Operation: TypeAlias = Callable[[Form, str], writes.Execute]

# (method, resource, what follows it; `*` is an id) → operation, in keyguard's words.
_ROUTES: dict[tuple[str, ...], tuple[str, Operation]] = {
    ("POST", "payment_intents"): ("payment_intents.create", writes.create_intent),
    ("POST", "payment_intents", "*"): ("payment_intents.update", writes.update_intent),
    ("POST", "payment_intents", "*", "confirm"): ("payment_intents.confirm", writes.confirm_intent),
    ("POST", "payment_intents", "*", "capture"): ("payment_intents.capture", writes.capture_intent),
    ("POST", "payment_intents", "*", "cancel"): ("payment_intents.cancel", writes.cancel_intent),
    ("POST", "charges"): ("charges.create", writes.create_charge),
    ("POST", "charges", "*", "capture"): ("charges.capture", writes.capture_charge),
    ("POST", "refunds"): ("refunds.create", writes.create_refund),
    ("POST", "customers"): ("customers.create", writes.create_customer),
    ("GET", "balance"): ("balance.retrieve", reads.balance),
    **{("GET", f"{kind}s"): (f"{kind}s.list", reads.listing(kind)) for kind in reads.FILTERS},
    **{("GET", f"{kind}s", "*"): (f"{kind}s.retrieve", reads.retrieve(kind)) for kind in reads.FILTERS},
}
# "Keys are up to 255 characters long".
_LONGEST_KEY = 255
_OTHER_PARAMETERS = (
    "Keys for idempotent requests can only be used with the same parameters they were first used with. "
    "Try using a key other than '{}' if you meant to execute a different request."
)
_OTHER_ENDPOINT = (
    "Keys for idempotent requests can only be used for the same endpoint they were first used for ('{}' vs '{}'). "
    "Try using a key other than '{}' if you meant to execute a different request."
)
_IN_FLIGHT = (
    "There is currently another in-progress request using this Idempotent Key (that probably means you submitted twice, "
    "and the other request is still going through): {}. Please try again later."
)
_FAILURES: Mapping[int, dict[str, Any]] = {
    401: {"type": "invalid_request_error", "message": "Invalid API Key provided."},
    403: {"type": "invalid_request_error", "message": "The provided key does not have the required permissions for this endpoint."},
    404: {"type": "invalid_request_error", "code": "resource_missing", "message": "No such object."},
    409: {"type": "invalid_request_error", "code": "idempotency_key_in_use", "message": _IN_FLIGHT.format("the same")},
    429: {"type": "invalid_request_error", "code": "rate_limit", "message": "Request rate limit exceeded."},
    500: {"type": "api_error", "message": "An unknown error occurred"},
    503: {"type": "api_error", "message": "Stripe is temporarily unavailable."},
}


class Stripe:
    """
    A Stripe of memory. Each API key `sk_test_…` has an account of its own; the headers `Stripe-Account` and
    `Stripe-Context` name another.

    Args:
        record: Takes each execution, before the answer is known; if it raises, nothing happened.
        ids: Where all ids come from.
        window: Seconds for which an idempotency key is kept.
    """

    name = "stripe"

    def __init__(self, record: Callable[[Execution], None], ids: Ids, *, window: float = DAY) -> None:
        self.keys = Keys(window)
        self._record, self._ids = record, ids
        self._books: dict[str, Books] = {}

    def begin(self, request: Request, now: float) -> Answer | Work:
        """Check who asks for what, then the parameters, then claim the key: what fails here leaves no trace."""
        request_id = f"req_{self._ids.hexadecimal()}"
        try:
            work = self._begun(request, request_id)
        except Refused as refused:
            return refused.answer.added(Request_Id=request_id)
        return self._claimed(work, now)

    def execute(self, work: Work, now: float, *, declined: bool = False) -> Answer:
        """Execute; a refusal from here on is kept under the key, whatever its status."""
        return work.run(now, declined=declined)

    def finish(self, work: Work, answer: Answer, now: float) -> Answer:
        """Keep the answer under the key: "regardless of whether it succeeds or fails … including 500 errors"."""
        _ = now
        whole = answer.added(Request_Id=work.request_id)
        if work.key is not None:
            whole = whole.added(Idempotency_Key=work.key[1])
            self.keys.keep(work.key, whole)
        return whole

    def abandon(self, work: Work) -> None:
        """Forget the key: a 429 comes from before the idempotency layer, and a conflict is not kept either."""
        if work.key is not None:
            self.keys.forget(work.key)

    def failure(self, status: int) -> Answer:
        """Word a failure; its Request-Id is one that Stripe knows nothing more of."""
        return answered(status, {"error": _FAILURES[status]}, Request_Id=f"req_{self._ids.hexadecimal()}")

    def _begun(self, request: Request, request_id: str) -> Work:
        account = _account(request)
        segments = request.path.rstrip("/").split("/")[2:]
        object_id = segments[1] if len(segments) > 1 else ""
        route = (request.method, *("*" if n == 1 else segment for n, segment in enumerate(segments)))
        if route not in _ROUTES:
            raise Refused(404, f"Unrecognized request URL ({request.method}: {request.path}).")
        key = request.headers.get("idempotency-key", "") if request.method == "POST" else ""
        if len(key) > _LONGEST_KEY:
            raise Refused(400, f"The idempotency key is longer than {_LONGEST_KEY} characters.", type="idempotency_error")
        operation, made = _ROUTES[route][0], _ROUTES[route][1](Form(request.params), object_id)
        version = request.headers.get("stripe-version", "")

        def run(now: float, *, declined: bool) -> Answer:
            moment = Moment(now, operation, request_id, key, request.number, declined, version)
            books = self._books.setdefault(account, Books(account, self._ids, self._record))
            try:
                return answered(200, made(books, moment))
            except Refused as refused:
                return refused.answer

        return Work(request, run, request_id, (account, key) if key else None)

    def _claimed(self, work: Work, now: float) -> Answer | Work:
        """Look the key up: new, replayed, in flight, or used for something else."""
        if work.key is None:
            return work
        key, asked = work.key[1], f"{work.request.path}?{sorted(work.request.params.items())}"
        kept = self.keys.claim(work.key, asked, now)
        if kept is None:
            return work
        first = kept.fingerprint.partition("?")[0]
        if first != work.request.path:
            return self._conflict(400, work, type="idempotency_error", message=_OTHER_ENDPOINT.format(work.request.path, first, key))
        if kept.fingerprint != asked:
            return self._conflict(400, work, type="idempotency_error", message=_OTHER_PARAMETERS.format(key))
        if kept.answer is None:
            return self._conflict(409, work, **_FAILURES[409] | {"message": _IN_FLIGHT.format(key)})
        original = kept.answer.headers["Request-Id"]
        return kept.answer.added(Idempotent_Replayed="true", Original_Request=original, Request_Id=work.request_id)

    def _conflict(self, status: int, work: Work, **error: Any) -> Answer:
        return answered(status, {"error": error}, Request_Id=work.request_id)


def _account(request: Request) -> str:
    """Return the account that a request acts on, or refuse its credentials."""
    value = request.credentials[1]
    if not value:
        raise Refused(401, "You did not provide an API key.")
    if not value.startswith("sk_test_"):
        raise Refused(401, "Invalid API Key provided: the double takes only keys that begin with sk_test_.")
    named = request.headers.get("stripe-account") or request.headers.get("stripe-context")
    return named or f"acct_{hashlib.sha256(value.encode()).hexdigest()[:16]}"
