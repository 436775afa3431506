"""Issuing, showing, changing and revoking keys over HTTP: who may, what is understood, and what is answered."""

from __future__ import annotations

import hashlib
import re
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
import stripe

from tests.proxy.support import ADMIN, PAY, Proxy

if TYPE_CHECKING:
    from pathlib import Path

    from keyguard.testing.double import VendorDouble

# An empty name would be everybody's log.
BAD_PAGES = ("limit=0", "limit=501", "after=-1", "limit=x", "key_id=", "run_id=", "key_id=a&run_id=b")


@pytest.mark.parametrize("path", ["/vault/keys", "/v1/keys"])
def test_both_dialects(proxy: Proxy, path: str) -> None:
    """Each dialect issues and revokes, and answers with the names of both."""
    made = proxy.ask("POST", path, {"vendor": "stripe", "daily_usd_cap": 250, "expires_in": "4h", "label": f"billing{path}"})
    said = made.json()

    assert made.status_code == 201
    assert (said["vault_key"], said["key_id"]) == (said["token"], said["id"])
    assert (said["vendor"], said["daily_usd_cap"], said["agent_run_label"], said["state"]) == ("stripe", 250, f"billing{path}", "active")
    left = datetime.fromisoformat(said["expires_at"].replace("Z", "+00:00")) - datetime.now(timezone.utc)
    assert timedelta(hours=3, minutes=58) < left <= timedelta(hours=4)
    assert said["capabilities"]["run_caps"] is True
    assert proxy.ask("DELETE", f"{path}/{said['id']}").json()["state"] == "revoked"


def test_revoking_again_changes_nothing(proxy: Proxy) -> None:
    """A second revocation answers as the first one; of a key that never was, 404."""
    key_id = proxy.issue()["key_id"]

    assert [proxy.ask("DELETE", f"/vault/keys/{key_id}").status_code for _ in range(2)] == [200, 200]
    assert proxy.ask("DELETE", "/vault/keys/nobody").status_code == 404


def test_tokens_are_random_and_kept_as_hashes(proxy: Proxy, tmp_path: Path) -> None:
    """Two tokens of one key have nothing in common, and no file of the ledger has either."""
    first, second = (proxy.token(run_id="hashed") for _ in range(2))
    kept = b"".join(path.read_bytes() for path in (tmp_path.parent).rglob("proxy.db*") if path.is_file())

    assert len(first) == len(second) == len("vault_key_") + 43
    assert first != second
    assert not [token for token in (first, second) if token.removeprefix("vault_key_").encode() in kept]
    assert hashlib.sha256(first.encode()).digest() in kept


def test_same_run_finds_its_budget(proxy: Proxy) -> None:
    """Who asks for a run's key again (a retry, another worker) gets another token of the same key, and the money that is left."""
    first = proxy.issue(run_id="run-1", run_usd_cap=3)
    proxy.stripe(first["token"]).v1.payment_intents.create(PAY)
    again = proxy.ask("POST", "/vault/keys", {"run_usd_cap": 3}, **{"x-agent-run-id": "run-1"})

    assert (again.status_code, again.json()["key_id"], again.json()["run_id"]) == (200, first["key_id"], "run-1")
    assert proxy.shown(first["key_id"])["remaining_usd"] == 1
    proxy.ask("DELETE", f"/vault/keys/{first['key_id']}")
    assert proxy.call(again.json()["token"], "GET", "/stripe/v1/customers/cus_1").status_code == 401


def test_same_label_shares_its_day(proxy: Proxy) -> None:
    """Keys that have only a label draw on one day's cap: a retry that issues anew does not begin anew."""
    keys = [proxy.ask("POST", "/vault/keys", {"daily_usd_cap": 3, "agent_run_label": "nightly/7"}).json() for _ in range(2)]
    proxy.stripe(keys[0]["token"]).v1.payment_intents.create(PAY)

    assert keys[0]["key_id"] != keys[1]["key_id"]
    assert proxy.shown(keys[1]["key_id"])["day"]["remaining_usd"] == 1


def test_narrower_holds_and_wider_warns(proxy: Proxy) -> None:
    """A second request for a run may ask for less; for more it is told that it does not get it."""
    proxy.issue(run_id="run-2", run_usd_cap=10)
    narrower, wider = proxy.issue(run_id="run-2", run_usd_cap=5), proxy.issue(run_id="run-2", run_usd_cap=50)

    assert (narrower["run_usd_cap"], narrower["warnings"]) == (5, [])
    assert (wider["run_usd_cap"], len(wider["warnings"])) == (5, 1)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"per_run_usd_cap": 5}, {"run_usd_cap": 5}),
        ({"label": "a"}, {"agent_run_label": "a"}),
        ({"agent_run_id": "r-9"}, {"run_id": "r-9"}),
    ],
)
def test_aliases(proxy: Proxy, asked: dict[str, Any], said: dict[str, Any]) -> None:
    """A field is understood under each name that was seen for it."""
    found = proxy.ask("POST", "/vault/keys", {"daily_usd_cap": 5, **asked}).json()

    assert {name: found[name] for name in said} == said


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        ({}, "a key has a cap"),
        ({"daily_usd_cap": 0}, "above 0"),
        ({"daily_usd_cap": -1}, "between 0"),
        ({"daily_usd_cap": "many"}, "US dollars"),
        ({"daily_usd_cap": True}, "US dollars"),
        ({"daily_usd_cap": 0.0000001}, "six decimals"),
        ({"daily_usd_cap": 5, "daily_cap": 5}, "'daily_cap' is no field"),
        ({"daily_usd_cap": 5, "vendor": "shopify"}, "no secret of 'shopify'"),
        ({"daily_usd_cap": 5, "vendor": ["stripe"]}, "no secret of"),
        ({"daily_usd_cap": 5, "expires_in": "soon"}, "expires_in"),
        ({"daily_usd_cap": 5, "expires_in": -3}, "expires_in"),
        ({"daily_usd_cap": 5, "expires_at": "2001-01-01T00:00:00Z"}, "expires_at has passed"),
        ({"daily_usd_cap": 5, "expires_at": "never"}, "expires_at"),
        ({"daily_usd_cap": 5, "expires_in": "4h", "expires_at": 4_000_000_000}, "give one of them"),
        ({"daily_usd_cap": 5, "allowed_endpoints": "POST /v1/charges"}, "a list"),
        ({"daily_usd_cap": 5, "allowed_endpoints": ["charge whatever"]}, "expected an endpoint"),
        ({"daily_usd_cap": 5, "label": "a", "agent_run_label": "b"}, "different things"),
        ({"daily_usd_cap": 5, "run_id": "a\nb"}, "run_id"),
        ({"daily_usd_cap": 5, "run_id": 7}, "run_id"),
        ({"daily_usd_cap": 5, "secret": "env:PATH"}, "'secret' is no field"),
        ({"daily_usd_cap": 5, "max_calls": 1.5}, "max_calls"),
        ({"daily_usd_cap": 5, "rules": {"payment_intents.create": {"no_such": {"max": 1}}}}, "no_such"),
        ([1], "JSON object"),
    ],
)
def test_what_is_not_understood_makes_nothing(proxy: Proxy, asked: Any, word: str) -> None:
    """An unknown field or a bad value is an error that says which, and no key is made."""
    before = proxy.ask("GET", "/vault/keys?limit=500").json()["keys"]
    answer = proxy.ask("POST", "/vault/keys", asked)

    assert (answer.status_code, word in answer.json()["message"]) == (400 if isinstance(asked, list) else 422, True), answer.text
    assert proxy.ask("GET", "/vault/keys?limit=500").json()["keys"] == before


@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"daily_usd_cap": NaN}', b'{"daily_usd_cap": 5, "daily_usd_cap": 6}', b"\xff", b"[" * 100_000]
)
def test_what_is_no_json(proxy: Proxy, body: bytes) -> None:
    """Whatever cannot be read in one way alone is 400."""
    head = f"POST /vault/keys HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN}\r\nContent-Length: {len(body)}\r\n\r\n"

    assert proxy.told(head.encode() + body).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("token", ["", "wrong-token-of-somebody-0123456789", ADMIN[:-1], ADMIN + "x", ADMIN.upper(), "vault"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/vault/keys"),
        ("GET", "/vault/keys"),
        ("GET", "/vault/keys/x"),
        ("PATCH", "/v1/keys/x"),
        ("DELETE", "/v1/keys/x"),
        ("GET", "/audit"),
    ],
)
def test_admins_alone(proxy: Proxy, method: str, path: str, token: str) -> None:
    """Without an admin token (a vault key is none) nothing is issued, shown or revoked."""
    answer = proxy.ask(method, path, {"daily_usd_cap": 5} if method == "POST" else None, proxy.token() if token == "vault" else token)

    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Bearer realm="keyguard"')
    assert "vault_key" not in answer.text


def test_figures(proxy: Proxy) -> None:
    """A key is shown with cap, spent, held, doubt and what remains, and without its token."""
    key = proxy.issue(run_usd_cap=10, daily_usd_cap=20, name="shown")
    proxy.stripe(key["token"]).v1.payment_intents.create(PAY)
    proxy.stripe(key["token"]).v1.payment_intents.create({**PAY, "capture_method": "manual"})
    shown = proxy.shown(key["key_id"])

    assert {name: shown[name] for name in ("cap_usd", "spent_usd", "held_usd", "in_doubt_usd", "remaining_usd")} == {
        "cap_usd": 10, "spent_usd": 2, "held_usd": 2, "in_doubt_usd": 0, "remaining_usd": 6,
    }  # fmt: skip
    assert (shown["day"]["spent_usd"], shown["day"]["cap_usd"], len(shown["open_intents"])) == (2, 20, 1)
    assert key["token"] not in str(shown)
    assert key["key_id"] in {one["key_id"] for one in proxy.ask("GET", "/vault/keys").json()["keys"]}


def test_raise_and_lower(proxy: Proxy) -> None:
    """A key's cap is changed by an admin, with or without a run; the audit says by which."""
    for fields in ({"run_id": "raised"}, {}):
        key = proxy.issue(run_usd_cap=1, **fields)
        client = proxy.stripe(key["token"])

        assert proxy.ask("PATCH", f"/vault/keys/{key['key_id']}", {"run_usd_cap": 2.5}).json()["remaining_usd"] == 2.5
        client.v1.payment_intents.create(PAY)
        assert proxy.ask("PATCH", f"/vault/keys/{key['key_id']}", {"run_usd_cap": 2}).json()["remaining_usd"] == 0
        (first, _) = [row for row in proxy.ask("GET", f"/audit?key_id={key['key_id']}").json()["entries"] if row["kind"] == "raise"]
        assert first["detail"]["by"] == f"admin:{hashlib.sha256(ADMIN.encode()).hexdigest()[:8]}"


@pytest.mark.parametrize("body", [{}, {"run_usd_cap": 0}, {"run_usd_cap": "x"}, {"daily_usd_cap": 5}, {"run_usd_cap": 5, "more": 1}])
def test_bad_changes(proxy: Proxy, body: dict[str, Any]) -> None:
    """What else is asked to be changed is 422, and nothing is."""
    key = proxy.issue(run_usd_cap=7)

    assert proxy.ask("PATCH", f"/vault/keys/{key['key_id']}", body).status_code == 422
    assert proxy.shown(key["key_id"])["cap_usd"] == 7


@pytest.mark.parametrize(("name", "value"), [("run_id", "many"), ("label", "team/many"), ("policy", "team/many")])
def test_revoke_many(proxy: Proxy, name: str, value: str) -> None:
    """All keys of a run, a label or a policy name end at once; of a name that nobody has, none do."""
    key = proxy.issue(run_id="many" if name == "run_id" else None, label="team/many")
    other = proxy.issue(label="team/others")
    answer = proxy.ask("DELETE", f"/vault/keys?{name}={value}")

    assert (answer.status_code, answer.json()["revoked"] >= 1) == (200, True)
    assert (proxy.shown(key["key_id"])["state"], proxy.shown(other["key_id"])["state"]) == ("revoked", "active")
    assert proxy.ask("DELETE", f"/vault/keys?{name}=nobody").status_code == 404


@pytest.mark.parametrize("query", ["", "?run_id=", "?run_id=a&label=b", "?everything=1", "?label=a&label=b"])
def test_revoke_nobody_in_particular(proxy: Proxy, query: str) -> None:
    """A revocation names one thing; without it none is made."""
    key = proxy.issue()

    assert proxy.ask("DELETE", f"/vault/keys{query}").status_code == 422
    assert proxy.shown(key["key_id"])["state"] == "active"


def test_audit_in_pages(proxy: Proxy) -> None:
    """The log is read in pages, whole or of one key or run, and has no token."""
    key = proxy.issue(run_id="audited", run_usd_cap=2.5)
    client = proxy.stripe(key["token"])
    client.v1.payment_intents.create(PAY)
    with pytest.raises(stripe.RateLimitError):
        client.v1.payment_intents.create(PAY)
    rows: list[dict[str, Any]] = []
    after: int | None = 0
    while after is not None:
        page = proxy.ask("GET", f"/audit?run_id=audited&limit=2&after={after}").json()
        rows, after = rows + page["entries"], page["next"]

    assert [row["kind"] for row in rows] == ["issue", "mint", "reserve", "settle", "refuse"]
    assert key["token"] not in str(rows)
    assert proxy.ask("GET", "/audit?key_id=nobody").status_code == 404
    assert [proxy.ask("GET", f"/audit?{query}").status_code for query in BAD_PAGES] == [422] * len(BAD_PAGES)


def test_rules_and_caps_of_our_own(proxy: Proxy) -> None:
    """What Keybrake has no field for holds all the same: a call's cap, a count of calls, rules for fields."""
    key = proxy.issue(call_usd_cap=1, max_calls=1, rules={"payment_intents.create": {"currency": ["usd"]}})

    def post(**form: Any) -> Any:
        return proxy.call(key["token"], "POST", "/stripe/v1/payment_intents", {**PAY, "confirm": "true", **form})

    assert [post().json()["keyguard"]["scope"], post(amount=50, currency="eur").status_code] == ["call", 403]
    assert post(amount=50).status_code == 200
    assert post(amount=50).json()["keyguard"]["scope"].startswith("calls:")


def test_endpoints_in_other_forms(proxy: Proxy) -> None:
    """A bare path, an operation's name, and a path behind the proxy's prefix are understood."""
    key = proxy.issue(allowed_endpoints=["/v1/customers/*", "payment_intents.create", "GET /stripe/v1/balance"])

    assert key["policy_in_force"]["allowed_endpoints"] == ["* /v1/customers/*", "payment_intents.create", "stripe:GET /v1/balance"]


@pytest.mark.ci
def test_hashed_admin_tokens(double: VendorDouble, tmp_path: Path) -> None:
    """An admin token may be configured by its hash alone, beside others, and in a file."""
    hashed, other, filed = "hashed-token-0123456789", "other-token-0123456789", "filed-token-0123456789"
    (tmp_path / "tokens").write_text(f"{filed}\n")
    told = f"sha256:{hashlib.sha256(hashed.encode()).hexdigest()}, {other}"
    with Proxy(tmp_path, double.url, admin_tokens=told, admin_tokens_file=tmp_path / "tokens") as proxy:
        asked = [proxy.ask("GET", "/vault/keys", token=token).status_code for token in (hashed, other, filed, ADMIN)]

    assert asked == [200, 200, 200, 401]
    assert "3 admin token(s)" in proxy.line


def test_start_line(proxy: Proxy, double: VendorDouble) -> None:
    """One line says what is served, for whom, on which ledger, and by how many."""
    assert re.fullmatch(
        rf"keyguard proxy serves http://127\.0\.0\.1:\d+ for resend \(at .*\), stripe \(at {double.url}\), twilio \(at .*\); "
        rf"ledger {proxy.ledger_url}, 1 worker, 1 admin token\(s\)\n",
        proxy.line,
    )
