"""Parameter rules: what a field may say, whatever the encoding on the wire, and what a policy may not ask for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import stripe
from hypothesis import given
from hypothesis import strategies as st

import keyguard
from keyguard.errors import ConfigurationError, RuleViolated
from keyguard.model import Call, Operation, Policy, VaultKey
from keyguard.patches._headers import document_pairs, form_pairs
from keyguard.policy import check_rules
from keyguard.rules import Rule, problem
from tests import resend_parameters, stripe_parameters
from tests.support_stripe_server import StripeServer

if TYPE_CHECKING:
    from collections.abc import Iterator

CREATE = Operation("payment_intents.create")
ISSUE: Any = {"payment_intents.create": {"amount": {"max": 5000}, "currency": ["usd"], "customer": ["cus_123"]}}


def _rules(**fields: Any) -> dict[str, Rule]:
    return (Policy(rules={"a.b": fields}).rules or {})["a.b"]


def _said(rule: Any, *pairs: tuple[str, str]) -> str | None:
    return problem(_rules(x=rule), pairs)


@pytest.mark.parametrize(
    ("rule", "fitting", "other"),
    [
        (["usd", "eur"], ["usd", "eur"], ["USD", "", "usd ", "us"]),
        ("usd", ["usd"], ["eur"]),
        ([5000], ["5000"], ["5000.0", "+5000", "05000"]),
        ([True], ["true"], ["True", "1"]),
        ({"max": 5000}, ["5000", "0", "-1", "4999.99"], ["5001", "5000.01", "", "1e3", "٣", "0x10", "nan", "5_000", " 1", "1 "]),
        ({"min": "0.5", "max": 2}, ["0.5", "2"], ["0.49", "2.01", "-1"]),
        ({"prefix": ["+1", "+44"]}, ["+1", "+15005550006", "+447700900000"], ["15005550006", "+33", ""]),
        ({"suffix": "@example.com"}, ["a@example.com"], ["a@example.com.evil.test", "example.com"]),
        ({"any_of": ["ab", "cd"], "prefix": "a"}, ["ab"], ["cd", "a"]),
    ],
)
def test_a_value_fits_exactly_what_the_rule_says(rule: Any, fitting: list[str], other: list[str]) -> None:
    """Each form of a rule, by values that it lets through and values that it does not; numbers are read strictly."""
    assert [value for value in fitting if _said(rule, ("x", value)) is not None] == []
    assert [value for value in other if _said(rule, ("x", value)) is None] == []


@pytest.mark.parametrize("body", [{"x": "9", "y": "1"}, {"x": ["1", "9"]}, {"x": ["9"]}, [{"x": "1"}, {"x": "9"}], [{"x": ["1", "9"]}]])
def test_every_value_of_a_field_must_fit(body: Any) -> None:
    """A list, a batch and a list within a batch are refused for one value that does not fit."""
    pairs = document_pairs(body)

    assert problem(_rules(x={"max": 5}), pairs) == "x must be at most 5, got 9"
    assert problem(_rules(x={"max": 9}), pairs) is None


def test_a_form_and_a_json_body_are_the_same_to_a_rule() -> None:
    """`items[0][price]` in a form and in JSON are one field, which a rule names with `[*]` or the place."""
    form = form_pairs("items[0][price]=price_1&items[1][price]=price_2&to[]=a&to[]=b")
    parsed = document_pairs({"items": [{"price": "price_1"}, {"price": "price_2"}], "to": ["a", "b"]})
    fields = {"items[*][price]": ["price_1"], "to": ["a", "b"]}

    for pairs in (form, parsed):
        assert problem(_rules(**fields), pairs) == "items[*][price] must be one of price_1, got price_2"
        assert problem(_rules(**{**fields, "items[*][price]": ["price_1", "price_2"]}), pairs) is None


def test_a_field_said_twice_fits_only_as_a_whole() -> None:
    """No second value can hide behind the first, in the body or in the query."""
    assert _said(["usd"], ("x", "usd"), ("x", "eur")) == "x must be one of usd, got eur"
    assert _said(["usd"], ("x", "eur"), ("x", "usd")) == "x must be one of usd, got eur"


def test_a_field_must_be_there_unless_it_is_optional() -> None:
    """What is left out is often all (a whole refund), so a bound on it is no bound; in a batch each member must say it."""
    assert _said({"max": 5}) == "x is left out, and must be at most 5 (optional = true in its rule lets calls without it through)"
    assert _said({"max": 5, "optional": True}) is None
    assert _said({"max": 5, "optional": True}, ("x", "6")) is not None
    assert problem(_rules(x=["1"]), document_pairs([{"x": "1"}, {"y": "1"}])) is not None
    assert problem(_rules(x={"any_of": ["1"], "optional": True}), document_pairs([{"x": "1"}, {"y": "1"}])) is None


@pytest.mark.parametrize("body", [{"x": 1}, {"x": {"destination": "acct_1"}}, {"x": [{"a": 1}]}, [{"x": {"a": 1}}], {"x": None}])
def test_an_absent_field_has_nothing_below_it_either(body: Any) -> None:
    """`absent` refuses the field, its members and its places."""
    assert problem(_rules(x={"absent": True}), document_pairs(body)) == "x must be left out"
    assert problem(_rules(x={"absent": True}), document_pairs({"xy": {"x": 1}})) is None


def test_an_unreadable_body_fits_no_rule() -> None:
    """What cannot be read cannot be checked, so it is refused where there is a rule, and only there."""
    call = Call("stripe", "POST", "https", "api.stripe.com", "/v1/payment_intents", body=None)
    with pytest.raises(RuleViolated, match="cannot be read"):
        check_rules(VaultKey("k", "t", Policy(rules=ISSUE), "r"), call, CREATE)
    check_rules(VaultKey("k", "t", Policy(rules=ISSUE), "r"), call, Operation("payment_intents.confirm"))


@pytest.mark.parametrize("value", ["+15005550006", "someone@example.com", "4242424242424242", "x" * 62])
def test_no_number_and_no_address_is_said(value: str) -> None:
    """A value that could name a person stays out of the message, and so does one in the rule itself."""
    said = _said([value, "other"], ("x", "+33" + value))

    assert said == "x must be one of 2 values that the policy names"


@given(st.lists(st.tuples(st.text(max_size=12), st.text(max_size=8)), max_size=6))
def test_no_request_makes_a_rule_fail(pairs: list[tuple[str, str]]) -> None:
    """Whatever the parameters are, the answer is a text or None; and None only if each value of the field fits."""
    rules = _rules(x={"max": 5}, y={"absent": True}, **{"z[a]": {"prefix": "p", "optional": True}})
    said = problem(rules, tuple(pairs))

    assert said is not None or [value for name, value in pairs if name == "x"]
    assert said is not None or all(rules["x"].fits(value) for name, value in pairs if name == "x")


_ANY_RULE = st.builds(
    Rule,
    any_of=st.none() | st.lists(st.sampled_from("abc159"), min_size=1),
    prefix=st.none() | st.sampled_from(["a", "ab", "b"]),
    suffix=st.none() | st.sampled_from(["c", "bc", "9"]),
    min=st.none() | st.integers(0, 9),
    max=st.none() | st.integers(0, 9),
    optional=st.booleans(),
)


@given(_ANY_RULE, _ANY_RULE, st.sampled_from(["a", "ab", "abc", "b", "1", "5", "9", "c"]))
def test_both_rules_let_through_what_each_does(one: Rule, other: Rule, value: str) -> None:
    """The meeting of two rules is exactly that."""
    assert one.both(other).fits(value) == (one.fits(value) and other.fits(value))


def test_a_stored_rule_comes_back_as_it_was() -> None:
    """A key's policy goes through the ledger's JSON and is the same rule afterwards."""
    rules: Any = {"stripe:a.b": {"x": {"max": "5.5", "optional": True}, "to[]": ["a"], "z": {"absent": True}}}
    policy = Policy(rules=rules)

    assert Policy.restored(json.loads(json.dumps(policy.stored()))) == policy


# -- what a policy may not ask for -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"payment_intents.create": {"ammount": {"max": 5}}}, r"no field 'ammount'; did you mean amount\b.*Its fields: allowed_payment"),
        ({"payment_intent.create": {"amount": {"max": 5}}}, "no operation 'payment_intent.create'; did you mean payment_intents.create"),
        ({"stripe:messages.create": {"To": ["a"]}}, "no operation 'messages.create'"),
        ({"emails.send": {"To": ["a"]}}, "no field 'To'; did you mean to.*Its fields: attachments, bcc"),
        ({"nobody:messages.create": {"To": ["a"]}}, "unknown vendor 'nobody'"),
        ({"payment_intents.*": {"amount": {"max": 5}}}, "expected one operation"),
        ({"payment_intents.create": {"amount": {"maximum": 5}}}, "unknown condition; expected a list of the values allowed"),
        ({"payment_intents.create": {"amount": {"max": "much"}}}, "expected a number such as 5000"),
        ({"payment_intents.create": {"amount": {"max": True}}}, "expected a number such as 5000"),
        ({"payment_intents.create": {"amount": {}}}, "a rule says nothing"),
        ({"payment_intents.create": {"amount": []}}, "expected at least one value"),
        ({"payment_intents.create": {"amount": [1.5]}}, "expected a text or a whole number, got float"),
        ({"payment_intents.create": {"amount": {"absent": True, "max": 5}}}, "can have no other condition"),
        ({"payment_intents.create": {"amount": {"max": 5, "default": 6}}}, "its default does not fit it: it must be at most 5"),
        ({"payment_intents.create": {"expand[0]": {"default": "x"}}}, "can have no default"),
        ({"payment_intents.create": {"a b": ["c"]}}, "expected a field such as amount"),
        ({"payment_intents.create": ["amount"]}, "valid dictionary"),
    ],
)
def test_a_rule_that_could_not_work_is_refused_at_once(rules: Any, words: str) -> None:
    """A misspelt operation or field would never be checked: it is a configuration error that says what there is."""
    with pytest.raises(ConfigurationError, match=words):
        keyguard.install("sqlite://", rules=rules)
    with pytest.raises(ConfigurationError, match=words):
        keyguard.issue("sqlite://", rules=rules)


@pytest.mark.parametrize("table", [stripe_parameters, resend_parameters])
def test_the_table_of_parameters_is_of_the_installed_sdk(table: Any) -> None:
    """What the operations have is read from the SDK's own types, and nobody edited it by hand."""
    assert table.TARGET.read_text(encoding="utf-8") == table.generate()


# -- at work ---------------------------------------------------------------------------------------


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StripeServer]:
    """A Stripe server on loopback that the SDK talks to."""
    with StripeServer() as found:
        monkeypatch.setattr(stripe, "api_base", found.url)
        monkeypatch.setattr(stripe, "api_key", "sk_test_12345")
        monkeypatch.setenv("KEYGUARD_VENDOR_HOSTS", f"stripe={httpx.URL(found.url).netloc.decode()}")
        yield found
    keyguard.uninstall()


def _raw(server: StripeServer, **form: str) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/payment_intents", data=form, auth=("sk_test_12345", ""))


@pytest.mark.parametrize("client", ["sdk", "raw"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"amount": "5001"}, "amount must be at most 5000, got 5001"),
        ({"currency": "eur"}, "currency must be one of usd, got eur"),
        ({"customer": "cus_999"}, "customer must be one of cus_123, got cus_999"),
        ({"customer": None}, "customer is left out"),
    ],
)
def test_a_call_against_a_rule_is_not_sent(server: StripeServer, client: str, change: dict[str, Any], words: str) -> None:
    """The error names field, rule and policy; no balance changes; with everything right the call goes out."""
    installed = keyguard.install(
        "sqlite://", name="billing", run_usd_cap=100, rules=ISSUE, fx={"date": "2026-11-20", "usd_per_unit": {"eur": 1}}
    )
    good = {"amount": "5000", "currency": "usd", "customer": "cus_123"}
    wrong = {name: value for name, value in {**good, **change}.items() if value is not None}
    with pytest.raises(RuleViolated) as caught:
        stripe.PaymentIntent.create(**wrong) if client == "sdk" else _raw(server, **wrong)

    assert words in str(caught.value)
    assert "by rules['payment_intents.create'] of policy 'billing'. Nothing was sent." in str(caught.value)
    assert (server.requests, installed.usage().held, caught.value.operation) == ([], 0, "payment_intents.create")

    _raw(server, **good)

    assert len(server.requests) == 1


def test_a_default_is_added_to_the_sdks_form(server: StripeServer) -> None:
    """Where the caller leaves it out every attempt carries it, and the call is decided with it."""
    rules: Any = {"payment_intents.create": {"amount": {"max": 700, "default": 700}, "description": {"default": "a & b"}}}
    installed = keyguard.install("sqlite://", run_usd_cap=100, rules=rules)
    params: Any = {"currency": "usd", "confirm": True}
    stripe.PaymentIntent.create(**params, description="mine")
    stripe.PaymentIntent.create(**params, amount=300)

    assert [(form["amount"], form["description"]) for form in server.charges] == [("700", "mine"), ("300", "a & b")]
    assert (installed.usage().spent, installed.usage().overrun) == (10_000_000, 0)


def test_observing_adds_nothing(server: StripeServer) -> None:
    """An observed request leaves as it was written."""
    keyguard.install("sqlite://", mode="observe", rules={"payment_intents.create": {"description": {"default": "x"}}})
    stripe.PaymentIntent.create(amount=100, currency="usd", confirm=True)

    assert [("description" in form) for form in server.charges] == [False]


def test_a_raw_request_gets_no_default(server: StripeServer) -> None:
    """It leaves as it was written, or not at all; the message says who would have got it."""
    keyguard.install("sqlite://", run_usd_cap=100, rules={"payment_intents.create": {"description": {"default": "x"}}})
    with pytest.raises(RuleViolated, match=r"description is left out, and must be given \(added only to calls of the vendor's SDK\)"):
        _raw(server, amount="500", currency="usd")

    assert server.requests == []


def test_a_rule_behind_its_vendor_holds_too(server: StripeServer) -> None:
    """`stripe:payment_intents.create` is the same operation; another operation is free of it."""
    keyguard.install("sqlite://", rules={"stripe:payment_intents.create": {"amount": {"max": 1}}}, run_usd_cap=10)
    with pytest.raises(RuleViolated):
        _raw(server, amount="2", currency="usd")
    httpx.get(f"{server.url}/v1/payment_intents", auth=("sk_test_12345", ""))

    assert [method for method, _, _ in server.requests] == ["GET"]


def test_observing_says_which_rule_would_have_stopped_the_call(server: StripeServer, caplog: pytest.LogCaptureFixture) -> None:
    """In observe mode the call goes out, and one warning names the rule."""
    keyguard.install("sqlite://", mode="observe", rules={"payment_intents.create": {"amount": {"max": 1}}})
    _raw(server, amount="2", currency="usd")

    assert len(server.requests) == 1
    assert "amount must be at most 1, got 2" in caplog.text
