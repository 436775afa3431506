"""No request breaks the judge: whatever is asked of the pure vendors, they answer, and JSON can hold the answer."""

from __future__ import annotations

import base64
import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from keyguard.testing.double.messages import Answer, Ids, Request, Vendor, respond
from keyguard.testing.double.resend import Resend
from keyguard.testing.double.stripe import Stripe
from keyguard.testing.double.twilio import Twilio

_ACCOUNT = f"AC{'0' * 32}"
_BASIC = "Basic " + base64.b64encode(f"{_ACCOUNT}:x".encode()).decode()
_WORDS = st.sampled_from([
    "payment_intents", "charges", "refunds", "customers", "events", "balance", "confirm", "capture", "cancel", "emails", "batch", "",
    "2010-04-01", "Accounts", _ACCOUNT, "Messages.json", "v1", "..", "%2e", "ü", "pi_1",
])  # fmt: skip
_NAMES = st.sampled_from([
    "amount", "currency", "confirm", "payment_method", "source", "capture", "limit", "starting_after", "ending_before", "created",
    "created[gte]", "types[]", "type", "customer", "charge", "payment_intent", "metadata[a]", "To", "From", "Body", "Status", "PageSize",
    "Page", "PageToken", "DateSent>", "DateSent<", "DateSent", "ScheduleType", "after", "before",
])  # fmt: skip
_VALUES = st.one_of(
    st.sampled_from(["100", "usd", "true", "pm_card_visa", "tok_visa", "tok_chargeDeclined", "+12125550123", "2026-11-26", "-1", "0", "٣"]),
    st.text(max_size=8),
)
_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5), st.just("a@example.com")),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["from", "to", "cc", "bcc", "subject", "scheduled_at"]), inner)
    ),
    max_leaves=8,
)
_FORM = st.lists(st.tuples(_NAMES, _VALUES), max_size=6).map(lambda pairs: "&".join(f"{name}={value}" for name, value in pairs).encode())


def _vendor(path: str) -> Vendor:
    """Return a fresh vendor, by path."""
    if path.startswith("/2010"):
        return Twilio(_ignored, Ids())
    return Resend(_ignored, Ids()) if path.startswith("/emails") else Stripe(_ignored, Ids())


def _ignored(_: object) -> None:
    pass


@given(
    st.sampled_from(["GET", "POST", "DELETE", "PUT", "BREW"]),
    st.lists(_WORDS, max_size=4),
    st.sampled_from(["/v1", "/2010-04-01", f"/2010-04-01/Accounts/{_ACCOUNT}", "/emails", ""]),
    st.sampled_from(["", "Bearer sk_test_1", "Bearer re_1", _BASIC, "Basic ?", "Basic /w==", "Bearer", "x"]),
    st.one_of(st.none(), st.text(max_size=3)),
    st.one_of(_FORM, _JSON.map(lambda value: json.dumps(value).encode()), st.binary(max_size=20)),
    st.sampled_from(["", "application/json", "application/x-www-form-urlencoded"]),
    st.booleans(),
)
@example("POST", [], "/emails", "Bearer re_1", None, b'{"from": 1, "to": {"a": 1}, "subject": "s"}', "application/json", False)
@example("GET", ["charges"], "/v1", "Bearer sk_test_1", None, b"", "", True)
def test_every_request_is_answered(
    method: str, words: list[str], start: str, authorization: str, key: str | None, content: bytes, kind: str, is_query: bool
) -> None:
    """A status, a body, text for headers; asked twice it is answered twice."""
    path = "/".join([start, *words]) or "/"
    headers: dict[str, Any] = {"authorization": authorization, "content-type": kind}
    if key is not None:
        headers["idempotency-key"] = key
    target = f"{path}?{content.decode('utf-8', 'replace')}" if is_query else path
    vendor, request = _vendor(path), Request(method, target, headers, b"" if is_query else content)
    for _ in range(2):
        answer = respond(vendor, request, 1_795_600_000.0)

        assert isinstance(answer, Answer)
        assert 200 <= answer.status <= 599
        assert isinstance(answer.body, (dict, list))
        assert all(isinstance(value, str) for value in answer.headers.values())
