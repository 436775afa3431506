"""
The double beside stripe-stateful-mock, whose author held it against Stripe itself: one sequence of requests, the same answers.

Where they differ on purpose is written down in `DIFFERENCES`, and a difference that is gone fails too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from keyguard.testing.double import VendorDouble
from tests.support_node import Missing, Peer, node_peer, skip_or_fail
from tests.support_stripe_cassettes import STATEFUL, STATEFUL_PROGRAM

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

pytestmark = [pytest.mark.peers, pytest.mark.timeout(400)]

_CHARGE = {"amount": "700", "currency": "usd", "source": "tok_visa"}
# Of each object: what money is told by.
_COMPARED = ("object", "amount", "amount_captured", "amount_refunded", "captured", "refunded", "paid", "status", "currency", "failure_code")


@dataclass(frozen=True)
class Step:
    """One request; `{name}` in path or form is the id of an earlier answer that was called so."""

    path: str
    form: Mapping[str, str] = field(default_factory=dict)
    key: str = ""
    name: str = ""
    method: str = "POST"
    account: str = ""


def _charge(name: str = "", key: str = "", **fields: str) -> Step:
    return Step("/v1/charges", {**_CHARGE, **fields}, key, name)


STEPS = {
    "charge": _charge("a", "k1"),
    "replay": _charge(key="k1"),
    "other parameters": _charge(key="k1", amount="701"),
    "without a key": _charge("b"),
    "decline": _charge(key="k2", source="tok_chargeDeclined"),
    "decline again": _charge(key="k2", source="tok_chargeDeclined"),
    "no funds": _charge(source="tok_chargeDeclinedInsufficientFunds"),
    "hold": _charge("c", "k3", capture="false"),
    "capture in part": Step("/v1/charges/{c}/capture", {"amount": "300"}, "k4", "c"),
    "capture replayed": Step("/v1/charges/{c}/capture", {"amount": "300"}, "k4"),
    "capture again": Step("/v1/charges/{c}/capture", {}, "k5"),
    "read captured": Step("/v1/charges/{c}", method="GET"),
    "refund in part": Step("/v1/refunds", {"charge": "{a}", "amount": "200"}, "k6"),
    "refund replayed": Step("/v1/refunds", {"charge": "{a}", "amount": "200"}, "k6"),
    "refund too much": Step("/v1/refunds", {"charge": "{a}", "amount": "501"}, "k7"),
    "refund too much again": Step("/v1/refunds", {"charge": "{a}", "amount": "501"}, "k7"),
    "refund the rest": Step("/v1/refunds", {"charge": "{a}"}),
    "refund after all": Step("/v1/refunds", {"charge": "{a}"}),
    "read refunded": Step("/v1/charges/{a}", method="GET"),
    "refund of what was let go": Step("/v1/refunds", {"charge": "{c}", "amount": "301"}),
    "too small": _charge(amount="49", key="k8"),
    "too large": _charge(amount="100000000"),
    "no amount": Step("/v1/charges", {"currency": "usd", "source": "tok_visa"}, "k9"),
    "no amount, mended": _charge(key="k9"),
    "no such currency": _charge(currency="xyz"),
    "no source": Step("/v1/charges", {"amount": "700", "currency": "usd"}),
    "no such charge": Step("/v1/charges/ch_none", method="GET"),
    "yen": _charge(currency="jpy", amount="500"),
    "key at another path": Step("/v1/customers", {"email": "a@example.com"}, "k1"),
    "key of another account": Step("/v1/charges", _CHARGE, "k1", account="acct_other"),
}
# What the double says, what the peer says, and why: (status, replayed, code or message's beginning).
DIFFERENCES = {
    "no amount, mended": (
        (200, False, None),
        (400, False, "idempotency_error"),
        'Stripe keeps nothing where parameters fail validation ("most 400s that sent invalid parameters"); the peer keeps each 400.',
    ),
    "key at another path": (
        (400, False, "idempotency_error"),
        (200, False, None),
        'Stripe\'s keys are "for the same endpoint they were first used for" (stripe-ruby #598 quotes it); the peer has keys by path.',
    ),
    "key of another account": (
        (200, False, None),
        (200, True, None),
        "A test key of Stripe's belongs to an account, in the double to one of its own; the peer has one account for all keys.",
    ),
}


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    """The mock."""
    try:
        with node_peer(STATEFUL, ["{port}"], code=STATEFUL_PROGRAM) as found:
            yield found
    except Missing as missing:
        skip_or_fail(missing)


def _played(url: str) -> dict[str, tuple[Any, ...]]:
    """Play all steps; returns of each its status, whether it was replayed, its error, and its figures."""
    named: dict[str, str] = {}
    requests: dict[str, str] = {}
    seen: dict[str, tuple[Any, ...]] = {}
    secret = {"": "sk_test_abcdef", "acct_other": "sk_test_ghijkl"}
    with httpx.Client(base_url=url) as client:
        for what, step in STEPS.items():
            headers = {"Authorization": f"Bearer {secret[step.account]}", **({"Idempotency-Key": step.key} if step.key else {})}
            form = {name: value.format(**named) for name, value in step.form.items()}
            answer = client.request(step.method, step.path.format(**named), headers=headers, data=form or None)
            body = answer.json()
            error = body.get("error", {})
            if step.name:
                named[step.name] = body["id"]
            is_replayed = answer.headers.get("Idempotent-Replayed") == "true"
            if is_replayed:
                assert answer.headers["Original-Request"] == requests[step.key] != answer.headers["Request-Id"]
            elif step.key:
                requests.setdefault(step.key, answer.headers.get("Request-Id", ""))
            told = error.get("code") or (error["type"] if error.get("type") == "idempotency_error" else error.get("param"))
            figures = {name: body.get(name) for name in _COMPARED if "error" not in body}
            seen[what] = (answer.status_code, is_replayed, told, error.get("decline_code"), figures)
    return seen


def test_the_same_requests_have_the_same_answers(peer: Peer) -> None:
    """Status, replay, error and figures of thirty requests in a row; the three that differ do so as written down."""
    with VendorDouble() as double:
        ours, theirs = _played(double.url), _played(peer.url)
    different = {what: (ours[what][:3], theirs[what][:3]) for what in STEPS if ours[what] != theirs[what]}

    assert different == {what: (own, other) for what, (own, other, _) in DIFFERENCES.items()}
