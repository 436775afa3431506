"""The pure Stripe: who may ask, and what lists, events and single objects answer, each held against Stripe's specification."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from tests.double.support import CHARGE, PAY, Till, kinds


def test_the_balance_is_what_was_charged_and_not_given_back() -> None:
    """By currency; what was only held is not in it."""
    till = Till()
    paid = till.post("/v1/charges", CHARGE)["id"]
    till.post("/v1/charges", {**CHARGE, "currency": "eur"})
    held = till.post("/v1/charges", {**CHARGE, "capture": "false"})["id"]
    till.post("/v1/refunds", {"charge": paid, "amount": 30})
    till.post("/v1/refunds", {"charge": held})

    assert [(one["currency"], one["amount"]) for one in till.get("/v1/balance")["available"]] == [("usd", 70), ("eur", 100)]


def test_a_time_that_is_none_is_refused() -> None:
    """`created` is seconds since the epoch."""
    answer = Till().ask("GET", "/v1/events", {"created[gte]": "yesterday"})

    assert (answer.status, answer.body["error"]["param"]) == (400, "created[gte]")


@pytest.mark.parametrize("kind", kinds())
def test_what_is_not_there_is_missing(kind: str) -> None:
    """404 `resource_missing`, for objects and for cursors."""
    till = Till()
    gone, cursor = till.ask("GET", f"/v1/{kind}s/x_1"), till.ask("GET", f"/v1/{kind}s", {"starting_after": "x_1"})

    assert [(answer.status, answer.body["error"]["code"]) for answer in (gone, cursor)] == [(404, "resource_missing")] * 2


def test_lists_are_paged_from_the_newest() -> None:
    """`limit`, `starting_after` and `ending_before` walk through all of them once; `created` bounds them."""
    till, made = Till(), []
    for n in range(5):
        till.now += 10
        made.append(till.post("/v1/charges", {**CHARGE, "amount": 100 + n, "customer": f"cus_{n % 2}"}))
    newest = [charge["id"] for charge in reversed(made)]

    def ids(**params: Any) -> tuple[list[str], bool]:
        found = till.get("/v1/charges", **params)
        return [charge["id"] for charge in found["data"]], found["has_more"]

    assert ids(limit=2) == (newest[:2], True)
    assert ids(limit=2, starting_after=newest[1]) == (newest[2:4], True)
    assert ids(limit=2, starting_after=newest[3]) == (newest[4:], False)
    assert ids(limit=2, ending_before=newest[3]) == (newest[1:3], True)
    assert ids(customer="cus_1") == ([newest[1], newest[3]], False)
    assert ids(created__gte=made[3]["created"]) == (newest[:2], False)
    assert ids(created__gt=made[3]["created"], created__lte=made[4]["created"]) == (newest[:1], False)
    assert ids(created__lt=made[0]["created"]) == ([], False)
    assert ids(created=made[2]["created"]) == ([newest[2]], False)
    assert till.ask("GET", "/v1/charges", {"limit": 101}).status == 400


def test_events_carry_the_key_of_the_request_that_caused_them() -> None:
    """Which is how a lost answer is looked for: newest first, by type, for thirty days; each shows its object as it was then."""
    till = Till()
    paid = till.post("/v1/payment_intents", PAY, key="k-1")
    till.now += 5
    till.post("/v1/refunds", {"charge": paid["latest_charge"]}, key="k-2")

    def events(**params: Any) -> list[tuple[str, str]]:
        return [(event["type"], event["request"]["idempotency_key"]) for event in till.get("/v1/events", **params)["data"]]

    assert events() == [
        ("refund.created", "k-2"), ("charge.refunded", "k-2"), ("payment_intent.succeeded", "k-1"), ("charge.succeeded", "k-1"),
        ("payment_intent.created", "k-1"),
    ]  # fmt: skip
    assert events(type="charge.*") == [("charge.refunded", "k-2"), ("charge.succeeded", "k-1")]
    assert events(types__0="refund.created", types__1="charge.succeeded") == [("refund.created", "k-2"), ("charge.succeeded", "k-1")]
    assert events(created__gte=int(till.now)) == [("refund.created", "k-2"), ("charge.refunded", "k-2")]
    succeeded = till.get("/v1/events", type="payment_intent.succeeded")["data"][0]
    assert (succeeded["data"]["object"]["id"], succeeded["data"]["object"]["amount_received"]) == (paid["id"], 100)
    charged = till.get("/v1/events", type="charge.succeeded")["data"][0]["data"]["object"]
    assert (charged["amount_refunded"], till.get(f"/v1/charges/{charged['id']}")["amount_refunded"]) == (0, 100)
    till.now += 30 * 86_400 - 2
    assert events(limit=1) == [("refund.created", "k-2")]
    till.now += 5
    assert (events(), till.ask("GET", f"/v1/events/{succeeded['id']}").status) == ([], 404)


def test_a_customer_is_made_and_read() -> None:
    """Enough of a customer for a charge to name it; one that nobody made is missing, unless it looks like an id of Stripe's."""
    till = Till()
    made = till.post("/v1/customers", {"email": "a@example.com"})

    assert till.get(f"/v1/customers/{made['id']}")["email"] == "a@example.com"
    assert till.get("/v1/customers", email="a@example.com")["data"] == [made]
    assert till.post("/v1/charges", {**CHARGE, "customer": made["id"]})["customer"] == made["id"]
    assert till.ask("POST", "/v1/charges", {**CHARGE, "customer": "nobody"}).status == 404


def test_accounts_are_apart() -> None:
    """By API key, and by `Stripe-Account`: neither objects nor idempotency keys are shared."""
    till = Till()
    own = till.post("/v1/charges", CHARGE, key="k")
    connected = till.post("/v1/charges", CHARGE, key="k", **{"stripe-account": "acct_1"})
    foreign = till.post("/v1/charges", CHARGE, key="k", authorization="Bearer sk_test_other")

    assert len({own["id"], connected["id"], foreign["id"]}) == 3
    assert len({row.account for row in till.executions}) == 3
    assert [charge["id"] for charge in till.get("/v1/charges")["data"]] == [own["id"]]
    assert till.ask("GET", f"/v1/charges/{connected['id']}").status == 404


@pytest.mark.parametrize("credentials", ["", "Bearer sk_live_1", "Bearer pk_test_1", "Basic " + base64.b64encode(b"rk:").decode()])
def test_only_test_keys_are_taken(credentials: str) -> None:
    """Anything else is 401, which no key remembers; Basic with the key as its user is as good as Bearer."""
    till = Till()
    refused = till.ask("POST", "/v1/charges", CHARGE, key="k", authorization=credentials)
    basic = "Basic " + base64.b64encode(b"sk_test_double:").decode()

    assert (refused.status, till.rows) == (401, [])
    assert till.ask("POST", "/v1/charges", CHARGE, key="k", authorization=basic).status == 200


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/v1/invoices"), ("DELETE", "/v1/charges"), ("GET", "/v1/charges/ch_1/capture"), ("PUT", "/v1/refunds")]
)
def test_what_it_does_not_do_it_says(method: str, path: str) -> None:
    """404 as Stripe words it, and no key is used."""
    till = Till()
    refused = till.ask(method, path, {}, key="k")

    assert (refused.status, refused.body["error"]["message"].startswith("Unrecognized request URL")) == (404, True)
