"""Issuing, revoking and refusing, as the pages show it; each form of a refusal word for word."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from keyguard.testing.keybrake import KeybrakeDouble
from tests.keybrake.conftest import ADMIN, DAY, Keybrake

if TYPE_CHECKING:
    from keyguard.testing.double import VendorDouble

# As a page of the vendor's has it: the product brief's own code.
ASKED = {
    "vendor": "stripe", "daily_usd_cap": 5.0, "allowed_endpoints": ["POST /v1/payment_intents", "GET /v1/customers/*"], "expires_in": "4h",
    "agent_run_label": "prefect-billing/0f3c",
}  # fmt: skip


@pytest.mark.parametrize(("path", "secret", "handle"), [("/vault/keys", "vault_key", "key_id"), ("/v1/keys", "token", "id")])
def test_forms(keybrake: Keybrake, path: str, secret: str, handle: str) -> None:
    """Each form answers with its own two names and nothing else; its key charges until it is revoked by its handle."""
    answer = keybrake.ask("POST", path, json=ASKED)
    said = answer.json()

    assert (answer.status_code, sorted(said)) == (201, sorted([secret, handle]))
    assert said[secret].startswith("vault_key_")
    assert keybrake.charge(said[secret]).json()["status"] == "succeeded"
    assert keybrake.ask("DELETE", f"{path}/{said[handle]}").status_code == 200
    refused = keybrake.charge(said[secret])
    assert (refused.status_code, refused.json()) == (401, {"error": "This vault key has been revoked"})


def test_keys_are_shown_to_the_test(keybrake: Keybrake) -> None:
    """What was issued and what was forwarded can be read, in order."""
    token = keybrake.key(**ASKED)
    keybrake.charge(token)
    keybrake.charge(token, path="/stripe/v1/payouts")
    (key,) = keybrake.double.keys

    assert (key.token, key.vendor, key.agent_run_label, key.expires_at) == (token, "stripe", "prefect-billing/0f3c", keybrake.now + 14_400)
    assert key.asked["allowed_endpoints"] == ASKED["allowed_endpoints"]
    assert key.spent_today(keybrake.now) == 2
    assert [(call.vendor, call.method, call.path, call.status) for call in keybrake.double.calls] == [
        ("stripe", "POST", "/v1/payment_intents", 200)
    ]
    assert [denial.status for denial in keybrake.double.denials] == [403]


@pytest.mark.parametrize("token", ["", "wrong", ADMIN.upper(), "vault"])
def test_management_needs_its_secret(keybrake: Keybrake, token: str) -> None:
    """Without the management secret (a vault key is none) nothing is issued or revoked."""
    said = keybrake.key() if token == "vault" else token
    answers = [keybrake.ask("POST", "/vault/keys", said, json=ASKED), keybrake.ask("DELETE", "/v1/keys/x", said)]

    assert [(answer.status_code, answer.json()) for answer in answers] == [(401, {"error": "Invalid API key"})] * 2


@pytest.mark.parametrize(
    "asked",
    [
        {}, {"vendor": 5}, {"vendor": "stripe", "daily_usd_cap": "many"}, {"vendor": "stripe", "daily_usd_cap": -1},
        {"vendor": "stripe", "daily_usd_cap": True}, {"vendor": "stripe", "expires_in": "soon"},
        {"vendor": "stripe", "expires_at": "soon"}, {"vendor": "stripe", "allowed_endpoints": "all"}, [],
    ],
)  # fmt: skip
def test_what_makes_no_key(keybrake: Keybrake, asked: Any) -> None:
    """A field that cannot be read is 400 with a flat text, and no key."""
    answer = keybrake.ask("POST", "/vault/keys", json=asked)

    assert (answer.status_code, type(answer.json()["error"])) == (400, str)
    assert keybrake.double.keys == []


def test_unknown_fields_are_ignored(keybrake: Keybrake) -> None:
    """A cap that Keybrake has no field for is not enforced by it, and nobody is told."""
    token = keybrake.key(run_usd_cap=1, max_calls=1)

    assert [keybrake.charge(token).status_code for _ in range(3)] == [200] * 3


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/openapi.json", "/vault/keys", "/vault/keys/x", "/audit", "/shopify/x", "/"])
def test_what_is_not_there(keybrake: Keybrake, path: str) -> None:
    """No page shows health, figures, lists or an audit: 404."""
    answer = keybrake.ask("GET", path)

    assert (answer.status_code, answer.json()) == (404, {"error": "Not found"})


def test_one_form_alone(vendors: VendorDouble) -> None:
    """A double of one form does not know the other's paths."""
    with Keybrake(vendors.url, dialects=("v1",), key_prefix="vk_", says_handle=False, says_expiry=True) as keybrake:
        assert keybrake.ask("POST", "/vault/keys", json=ASKED).status_code == 404
        said = keybrake.ask("POST", "/v1/keys", json=ASKED).json()

    assert said.pop("token").startswith("vk_")
    assert said == {"expires_at": "2023-11-15T02:13:20+00:00"}


def test_cap_would_be_passed(keybrake: Keybrake) -> None:
    """A call that would push the total over is refused, a smaller one is not; next day the cap is new."""
    token = keybrake.key(daily_usd_cap=5)
    statuses = [keybrake.charge(token, cents).status_code for cents in (300, 201, 200, 1)]
    refused = keybrake.charge(token, 100)

    assert statuses == [200, 429, 200, 429]
    assert (refused.status_code, refused.json()) == (429, {"error": "Daily spend cap of $5 reached", "spent_today_usd": 5.0})
    keybrake.now += DAY
    assert keybrake.charge(token, 100).status_code == 200


@pytest.mark.parametrize("status", [402, 403, 429])
def test_cap_statuses(vendors: VendorDouble, status: Any) -> None:
    """The cap's status is one of the three that the pages have; an uneven cap is shown with its cents."""
    with Keybrake(vendors.url, cap_status=status) as keybrake:
        refused = keybrake.charge(keybrake.key(daily_usd_cap=0.5), 100)

    assert (refused.status_code, refused.json()) == (status, {"error": "Daily spend cap of $0.50 reached", "spent_today_usd": 0.0})


@pytest.mark.parametrize(
    ("allowed", "method", "path"),
    [
        (["POST /v1/payment_intents"], "POST", "/v1/payment_intents"),
        (["GET /v1/customers/*"], "GET", "/v1/customers/cus_1"),
        (["/v1/customers/*"], "GET", "/v1/customers/cus_1"),
        (["customers.retrieve"], "GET", "/v1/customers/cus_1"),
        (["charges.create", "payment_intents.create"], "POST", "/v1/payment_intents"),
        (["payment_intents.capture"], "POST", "/v1/payment_intents/pi_1/capture"),
        ([], "GET", "/v1/customers/cus_1"),
    ],
)
def test_allowed(keybrake: Keybrake, allowed: list[str], method: str, path: str) -> None:
    """Methods with paths and globs, paths, and names of operations are understood; without a list everything passes."""
    keybrake.ask(method, f"/stripe{path}?expand[]=x", keybrake.key(allowed_endpoints=allowed))

    assert [call.path for call in keybrake.double.calls] == [f"{path}?expand[]=x"]


@pytest.mark.parametrize(
    ("allowed", "method", "path", "attempted"),
    [
        (["charges.create", "customers.list"], "POST", "/v1/payouts", "payouts.create"),
        (["GET /v1/customers/*"], "GET", "/v1/customers/cus_1/sources", "customers.sources"),
        (["POST /v1/payment_intents"], "GET", "/v1/payment_intents", "payment_intents.list"),
        (["POST /v1/charges"], "POST", "/v1", "POST /v1"),
    ],
)
def test_not_allowed(keybrake: Keybrake, allowed: list[str], method: str, path: str, attempted: str) -> None:
    """What no item names is 403 with the page's three fields, and is not sent."""
    refused = keybrake.ask(method, f"/stripe{path}", keybrake.key(allowed_endpoints=allowed))

    assert (refused.status_code, refused.json()) == (
        403,
        {
            "error": f'Operation "{attempted}" is not permitted by this vault key\'s policy',
            "allowed_endpoints": allowed,
            "attempted": attempted,
        },
    )
    assert keybrake.double.calls == []


@pytest.mark.parametrize("expiry", [{"expires_in": "30m"}, {"expires_in": 1800}, {"expires_at": "2023-11-14T22:43:20Z"}])
def test_expiry(keybrake: Keybrake, expiry: dict[str, Any]) -> None:
    """A key lives until its time is over, whichever way that was said."""
    token = keybrake.key(**expiry)
    keybrake.now += 1799
    first = keybrake.charge(token)
    keybrake.now += 1
    refused = keybrake.charge(token)

    assert first.status_code == 200
    assert (refused.status_code, refused.json()) == (401, {"error": "This vault key has expired"})


@pytest.mark.parametrize("authorization", ["Bearer vault_key_guess", f"Bearer {ADMIN}", "", "Basic !", "Basic /w=="])
def test_unknown_keys(keybrake: Keybrake, authorization: str) -> None:
    """What is no vault key is 401, the management secret too."""
    refused = keybrake.ask("GET", "/stripe/v1/customers/c", "", headers={"Authorization": authorization})

    assert (refused.status_code, refused.json()) == (401, {"error": "Unknown vault key"})


def test_key_of_one_vendor(keybrake: Keybrake) -> None:
    """A key is good for its own vendor alone."""
    refused = keybrake.ask("POST", "/resend/emails", keybrake.key(), json={})

    assert (refused.status_code, refused.json()) == (403, {"error": "This vault key is not valid for resend"})


def test_unknown_handle(keybrake: Keybrake) -> None:
    """Nobody's handle revokes nothing."""
    keybrake.key()

    assert keybrake.ask("DELETE", "/vault/keys/nobody").status_code == 404
    assert [key.is_revoked for key in keybrake.double.keys] == [False]


def test_many_at_once_on_one_cap(keybrake: Keybrake, vendors: VendorDouble) -> None:
    """Forty calls at once on one key: as many pass as its cap has room for, and no more."""
    before, token, answers = vendors.truth.charged(), keybrake.key(daily_usd_cap=20), list[httpx.Response]()
    threads = [threading.Thread(target=lambda: answers.append(keybrake.charge(token))) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(answer.status_code for answer in answers) == [200] * 10 + [429] * 30
    assert vendors.truth.charged() - before == 20_000_000


@pytest.mark.parametrize(
    "url", ["https://api.stripe.com", "http://api.stripe.com", "http://192.0.2.1:80", "http://127.0.0.1:80/x", "stripe"]
)
def test_upstreams_are_on_loopback(url: str) -> None:
    """A double that would send anything off this machine cannot be made."""
    with pytest.raises(ValueError, match="loopback"):
        KeybrakeDouble(admin=ADMIN, vendor_secret={}, upstreams={"stripe": url})
