"""The Stripe plug: names of operations, strict parsing, quotes driven by hand, and what replies say."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyguard.errors import MalformedCall, UnpricedCall
from keyguard.model import Call, Fact, Memory, Operation, Outcome, Quote, Reply
from keyguard.vendors import Ask, Recall, claimed_hosts, vendor_named
from keyguard.vendors import _stripe_money as money
from keyguard.vendors.stripe import vendor
from tests.support_stripe_spec import operations, statuses, synthesized

if TYPE_CHECKING:
    from collections.abc import Mapping

CENT = 10_000
PI, CH = "/v1/payment_intents", "/v1/charges"
NAME = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)+")
OURS = {
    ("POST", PI): "payment_intents.create",
    ("POST", f"{PI}/{{intent}}"): "payment_intents.update",
    ("POST", f"{PI}/{{intent}}/confirm"): "payment_intents.confirm",
    ("POST", f"{PI}/{{intent}}/capture"): "payment_intents.capture",
    ("POST", f"{PI}/{{intent}}/increment_authorization"): "payment_intents.increment_authorization",
    ("POST", f"{PI}/{{intent}}/cancel"): "payment_intents.cancel",
    ("POST", CH): "charges.create",
    ("POST", f"{CH}/{{charge}}/capture"): "charges.capture",
    ("POST", "/v1/refunds"): "refunds.create",
    ("POST", f"{CH}/{{charge}}/refund"): "refunds.create",
    ("POST", f"{CH}/{{charge}}/refunds"): "refunds.create",
}


def call(path: str = PI, method: str = "POST", query: tuple[tuple[str, str], ...] = (), key: str | None = None, **body: str) -> Call:
    """Return a call to Stripe."""
    return Call("stripe", method, "https", "api.stripe.com", path, query=query, body=tuple(body.items()), idempotency_key=key)


def raw(body: tuple[tuple[str, str], ...] | None, path: str = PI) -> Call:
    """Return a POST with this very body."""
    return Call("stripe", "POST", "https", "api.stripe.com", path, body=body)


def quoted(made: Call, answers: Mapping[object, object] | None = None) -> tuple[Quote, list[object]]:
    """Drive a quote by hand: every question must have its answer, and every question is returned."""
    quoting, asked, answer = (vendor.quote(made, vendor.classify(made)), list[object](), None)
    while True:
        try:
            question = quoting.send(answer)
        except StopIteration as stop:
            return stop.value, asked
        asked.append(question)
        answer = (answers or {})[question]


def reply(body: object, status: int = 200) -> Reply:
    """Return a JSON answer."""
    return Reply(status, {"request-id": "req_1"}, json.dumps(body).encode())


def intent(status: str = "succeeded", amount: Any = 2000, **fields: Any) -> dict[str, Any]:
    """Return a PaymentIntent that Stripe's schema allows."""
    return synthesized("payment_intent", id="pi_1", object="payment_intent", status=status, amount=amount, currency="usd") | fields


def charge(status: str = "succeeded", **fields: Any) -> dict[str, Any]:
    """Return a charge that Stripe's schema allows."""
    known = {"amount": 2000, "amount_captured": 2000, "captured": True, **fields}
    return synthesized("charge", id="ch_1", object="charge", status=status, currency="usd", **known)


def refund(status: str | None = "succeeded", **fields: Any) -> dict[str, Any]:
    """Return a refund that Stripe's schema allows."""
    return synthesized("refund", id="re_1", object="refund", status=status, amount=700, currency="usd") | fields


def outcome(made: Call, answer: Reply, quote: Quote | None = None) -> Outcome:
    """Read a reply to a call."""
    return vendor.read(made, vendor.classify(made), quote or Quote(2000 * CENT), answer)


class TestClassify:
    """Names, ids, and what a second attempt may do."""

    def test_plug_is_found_by_name_and_host(self) -> None:
        """The look-up returns this plug, which claims Stripe's four hosts."""
        assert vendor_named("stripe") is vendor
        assert {host for host, name in claimed_hosts().items() if name == "stripe"} == vendor.hosts
        assert (vendor.name, vendor.secret_env, len(vendor.hosts)) == ("stripe", "STRIPE_SECRET_KEY", 4)

    def test_every_operation_of_the_spec_has_a_name_of_its_words(self) -> None:
        """Ours have names of their own, GETs are reads; what each write is, its table says (test_vendor_stripe_writes)."""
        for method, template in operations():
            path = re.sub(r"\{\w+\}", "id_Ab12", template)
            operation = vendor.classify(call(path, method))
            words = {*re.sub(r"\{\w+\}", "", template).split("/")} | {"create", "list", "retrieve", "update", "delete"}

            assert operation.name == OURS.get((method, template), operation.name)
            assert operation.known or method != "GET"
            assert NAME.fullmatch(operation.name), (method, template)
            assert set(operation.name.split(".")) <= words or (method, template) in OURS

    def test_our_operations_are_all_in_the_spec(self) -> None:
        """No priced path is invented."""
        assert set(OURS) <= set(operations())

    @pytest.mark.parametrize(
        ("method", "path", "name", "object_id"),
        [
            ("GET", "/v1/customers", "customers.list", None),
            ("GET", "/v1/customers/cus_1", "customers.retrieve", "cus_1"),
            ("GET", "/v1/customers/cus_1/cards/card_2", "customers.cards.retrieve", "cus_1"),
            ("GET", "/v1/charges/search", "charges.search", None),
            ("GET", "/v1/balance", "balance.retrieve", None),
            ("GET", "/v1/checkout/sessions/cs_1/line_items", "checkout.sessions.line_items.list", "cs_1"),
            ("HEAD", "/v1/customers", "customers.head", None),
            ("POST", "/v1/customers", "customers.create", None),
            ("POST", "/v1/customers/cus_1", "customers.update", "cus_1"),
            ("POST", "/v1/payouts", "payouts.create", None),
            ("POST", "/v1/invoices/in_1/add_lines", "invoices.add_lines", "in_1"),
            ("POST", "/v1/balance_settings", "balance_settings.update", None),
            ("POST", "/v1/balance", "balance.post", None),
            ("DELETE", "/v1/subscriptions/sub_1", "subscriptions.delete", "sub_1"),
            ("DELETE", "/v1/payment_intents/pi_1", "payment_intents.delete", "pi_1"),
            ("POST", "/v2/core/accounts", "v2.core.accounts.create", None),
            ("POST", "/oauth/token", "oauth.token", None),
            ("POST", "/v1/charges/ch_1/capture", "charges.capture", "ch_1"),
            ("POST", "/v1/secret_thing/alice", "unknown.post", None),
            ("POST", "/v1/*", "unknown.post", None),
            ("POST", "/v1", "unknown.post", None),
            ("GET", "/somewhere", "unknown.get", None),
            ("BREW", "/v1/customers", "customers.other", None),
            ("GET", "/v1/customers/a%20b", "customers.retrieve", None),
        ],
    )
    def test_name_and_object(self, method: str, path: str, name: str, object_id: str | None) -> None:
        """A name is words and a verb; the object is the first id, if it can be one."""
        operation = vendor.classify(call(path, method))

        assert (operation.name, operation.object_id) == (name, object_id)

    @pytest.mark.parametrize(
        ("made", "idempotent"),
        [
            (call(), False),
            (call(key="k"), True),
            (call("/v1/customers", "GET"), True),
            (call("/v1/customers/cus_1", "DELETE", key="k"), False),
            (call("/v2/core/accounts", key="k"), True),
        ],
    )
    def test_idempotent_is_a_read_or_a_post_with_a_key(self, made: Call, idempotent: bool) -> None:
        """Stripe executes these once, however often they arrive; of v2, successful ones."""
        assert vendor.classify(made).idempotent is idempotent

    @pytest.mark.parametrize("method", ["POST", "DELETE", "GET"])
    @pytest.mark.parametrize(
        "path",
        [
            "v1/payment_intents", "//", "//v1/payment_intents", "/v1//payment_intents", "/v1/payment_intents/", "/v1/./payment_intents",
            "/v1/customers/../payment_intents", "/v1/customers/%2e%2e/payment_intents", "/v1/customers/.%2E/x", "/v1%2fpayment_intents",
            "/v1/payment_intents%2Fpi_1", "/v1\\payment_intents", "/v1/x%5Cy", "/v1/x\x00", "/v1/x%00", "/v1/x y",
            "/v1/x?amount=1", "/v1/x#y",
        ],
    )  # fmt: skip
    def test_path_tricks_are_malformed(self, path: str, method: str) -> None:
        """What another reader could read as another path is refused, reads included: allowlists see paths."""
        with pytest.raises(MalformedCall, match="cannot be read strictly"):
            vendor.classify(call(path, method))

    @pytest.mark.parametrize("path", ["/V1/payment_intents", "/V2/x", "/OAuth/token"])
    def test_an_api_in_other_case_is_malformed(self, path: str) -> None:
        """Whoever reads it in any case would read a priced write."""
        with pytest.raises(MalformedCall, match="in lower case"):
            vendor.classify(call(path))

    @pytest.mark.parametrize("path", ["", "/", "/v3/x", "/payment_intents", "/foo"])
    def test_writes_outside_the_api_are_unknown(self, path: str) -> None:
        """Nobody priced them, so the policy decides; without a path, a URL means its root."""
        assert vendor.classify(call(path, key="k")) == Operation("unknown.post", known=False)
        assert vendor.classify(call(path, "GET")).known

    def test_weird_object_id_of_a_priced_write_is_malformed(self) -> None:
        """An encoded id would not be the one that the ledger remembers."""
        with pytest.raises(MalformedCall, match="object id"):
            vendor.classify(call(f"{PI}/pi%5F1/capture"))

    @given(
        st.lists(
            st.sampled_from(["v1", "payment_intents", "charges", "refund", "pi_1", "..", ".", "", "%2e", "a%2Fb", "é", "x" * 300]),
            max_size=6,
        )
    )
    def test_any_path_is_malformed_or_has_a_bounded_name(self, segments: list[str]) -> None:
        """No mixture of segments gets an id or an invented word into a name, or a trick past the reader."""
        path = "/" + "/".join(segments)
        try:
            operation = vendor.classify(call(path))
        except MalformedCall:
            return

        assert NAME.fullmatch(operation.name)
        assert not {"pi_1", "x" * 300, "é"} & set(operation.name.split("."))
        assert path == "/" or not {"", ".", ".."} & set(segments)
        assert "%2" not in path


class TestParameters:
    """Amounts and currencies are read strictly."""

    @given(st.integers(0, 99_999_999))
    def test_digits_are_cents(self, cents: int) -> None:
        """A US cent is 10,000 micro-USD."""
        assert quoted(call(amount=str(cents), currency="usd"))[0] == Quote(cents * CENT)

    @given(st.text().filter(lambda text: not re.fullmatch(r"[0-9]{1,8}", text)))
    def test_anything_but_one_to_eight_digits_is_malformed(self, text: str) -> None:
        """No other text is an amount."""
        with pytest.raises(MalformedCall, match="'amount' must be a whole number of cents, 0 to 99999999"):
            quoted(call(amount=text, currency="usd"))

    @pytest.mark.parametrize("text", ["10.5", "-1", "1e3", " 5", "5\n", "", "+5", "NaN", "١٢", "1_0", "100000000", "0x1"])
    @pytest.mark.parametrize(
        ("path", "name"),
        [
            (PI, "amount"), (f"{PI}/pi_1", "amount"), (f"{PI}/pi_1/confirm", "amount_to_confirm"),
            (f"{PI}/pi_1/capture", "amount_to_capture"),
            (f"{PI}/pi_1/increment_authorization", "amount"), (CH, "amount"), (f"{CH}/ch_1/capture", "amount"),
            (f"{CH}/ch_1/refund", "amount"),
        ],
    )  # fmt: skip
    def test_every_amount_is_strict(self, path: str, name: str, text: str) -> None:
        """The refusal names the parameter."""
        with pytest.raises(MalformedCall, match=f"'{name}'"):
            quoted(raw((("currency", "usd"), (name, text)), path))

    @pytest.mark.parametrize(
        "made",
        [
            call(currency="usd"), call(CH, currency="usd"), call(amount="1"), call(f"{PI}/pi_1/increment_authorization"),
            raw((("amount", "1"), ("amount", "1"), ("currency", "usd"))), raw((("amount[0]", "1"), ("currency", "usd"))),
            raw((("amount", "1"), ("[amount]", "9"), ("currency", "usd"))), raw((("amount", "1"), (" amount", "9"), ("currency", "usd"))),
            raw((("amount", "1"), ("currency", "usd"), ("currency", "eur"))), raw((("amount", "1"), ("currency[]", "usd"))),
            raw((("confirm", "true"), ("confirm", "false"), ("amount", "1"), ("currency", "usd"))),
            call(amount="1", currency="usd", query=(("amount", "999999"),)), call(amount="1", currency="usd", query=(("capture[x]", "1"),)),
            raw(None), raw(None, f"{PI}/pi_1/cancel"), raw(None, "/v1/refunds"),
            call(amount="1", currency="xxx"), call(amount="1", currency="\u212aes"), call(amount="1", currency=""),
        ],
    )  # fmt: skip
    def test_what_cannot_be_read_strictly_is_malformed(self, made: Call) -> None:
        """Missing, doubled, nested, in the query, unreadable or of an unknown currency."""
        with pytest.raises(MalformedCall):
            quoted(made)

    def test_other_parameters_may_nest_and_repeat(self) -> None:
        """Only money parameters are strict."""
        made = raw((("amount", "5"), ("currency", "USD"), ("expand[]", "a"), ("expand[]", "b"), ("metadata[amount]", "x")))
        made = replace(made, query=(("expand[]", "customer"),))

        assert quoted(made)[0] == Quote(5 * CENT)

    @pytest.mark.parametrize("code", sorted(set(money.exponents()) - {"usd"}))
    def test_other_currencies_are_unpriced(self, code: str) -> None:
        """No rate is pinned, and the message says what to do."""
        with pytest.raises(UnpricedCall, match=r"no exchange rate.*Charge in usd"):
            quoted(call(amount="100", currency=code.upper()))

    def test_exponents_are_those_of_the_sourced_lists(self) -> None:
        """16 zero-decimal currencies with UGX as the larger reading, 5 with three decimals."""
        found = money.exponents()

        assert [code for code, places in found.items() if places == 0] == [
            "bif",
            "clp",
            "djf",
            "gnf",
            "jpy",
            "kmf",
            "krw",
            "mga",
            "pyg",
            "rwf",
            "ugx",
            "vnd",
            "vuv",
            "xaf",
            "xof",
            "xpf",
        ]
        assert [code for code, places in found.items() if places == 3] == ["bhd", "jod", "kwd", "omr", "tnd"]
        assert all(re.fullmatch("[a-z]{3}", code) for code in found)


OPEN = Memory("pi_1", held=2000 * CENT, amount=2000 * CENT)
PARTLY = Memory("pi_1", own=500 * CENT, spent=500 * CENT, held=1500 * CENT, amount=2000 * CENT)
PAID = Memory("pi_1", own=2000 * CENT, spent=2000 * CENT, amount=2000 * CENT, refunded=300 * CENT)
FOREIGN = Memory("pi_1", spent=2000 * CENT, amount=2000 * CENT)
HELD_CHARGE = Memory("ch_1", held=900 * CENT, amount=900 * CENT)
PAID_CHARGE = Memory("ch_1", own=900 * CENT, spent=900 * CENT, amount=900 * CENT)
PI_1, CH_1 = Recall("pi_1"), Recall("ch_1")
ASK_PI, ASK_CH = Ask(f"{PI}/pi_1"), Ask(f"{CH}/ch_1")


class TestNesting:
    """Names that a form parser would read as a money parameter."""

    @pytest.mark.parametrize("name", ["amount[0]", "amount[]", "[amount]", " amount", "amount]", "amount[a][b]"])
    def test_a_nested_amount_alone_is_malformed(self, name: str) -> None:
        """An update whose amount hides in another spelling is not a free update."""
        with pytest.raises(MalformedCall, match="only once and not nested"):
            quoted(raw(((name, "5"),), f"{PI}/pi_1"))


class TestQuote:
    """Quotes, with their questions answered by hand."""

    @pytest.mark.parametrize(
        ("made", "memory", "expected"),
        [
            (call(f"{PI}/pi_1", amount="3000"), OPEN, Quote(3000 * CENT, object_id="pi_1", adopts=True)),
            (call(f"{PI}/pi_1", currency="usd"), OPEN, Quote(2000 * CENT, object_id="pi_1", adopts=True)),
            (call(f"{PI}/pi_1/confirm"), OPEN, Quote(2000 * CENT, object_id="pi_1", adopts=True)),
            (call(f"{PI}/pi_1/confirm"), PARTLY, Quote(1500 * CENT, object_id="pi_1", adopts=True)),
            (call(f"{PI}/pi_1/confirm", amount_to_confirm="7"), OPEN, Quote(7 * CENT, object_id="pi_1", adopts=True)),
            (call(f"{PI}/pi_1/capture"), PARTLY, Quote(1500 * CENT, object_id="pi_1", adopts=True)),
            (call(f"{PI}/pi_1/capture", amount_to_capture="2500"), OPEN, Quote(2500 * CENT, object_id="pi_1", adopts=True)),
            (call(f"{PI}/pi_1/increment_authorization", amount="2600"), OPEN, Quote(2600 * CENT, object_id="pi_1", adopts=True)),
            (call("/v1/refunds", payment_intent="pi_1"), PAID, Quote(1700 * CENT, "refund", "pi_1")),
            (call("/v1/refunds", payment_intent="pi_1", amount="5"), PAID, Quote(5 * CENT, "refund", "pi_1")),
            (call("/v1/refunds", payment_intent="pi_1"), FOREIGN, Quote(2000 * CENT, "run", "pi_1")),
            (call("/v1/refunds", payment_intent="pi_1", amount="5"), OPEN, Quote(5 * CENT, "run", "pi_1")),
            (call(f"{CH}/ch_1/capture"), HELD_CHARGE, Quote(900 * CENT, object_id="ch_1", adopts=True)),
            (call(f"{CH}/ch_1/capture", amount="4"), HELD_CHARGE, Quote(4 * CENT, object_id="ch_1", adopts=True)),
            (call("/v1/refunds", charge="ch_1"), PAID_CHARGE, Quote(900 * CENT, "refund", "ch_1")),
            (call(f"{CH}/ch_1/refund"), PAID_CHARGE, Quote(900 * CENT, "refund", "ch_1")),
            (call(f"{CH}/ch_1/refunds", amount="2"), PAID_CHARGE, Quote(2 * CENT, "refund", "ch_1")),
        ],
    )  # fmt: skip
    def test_remembered_object_is_not_asked_for(self, made: Call, memory: Memory, expected: Quote) -> None:
        """One recall is enough."""
        assert quoted(made, {Recall(memory.object_id): memory}) == (expected, [Recall(memory.object_id)])

    @pytest.mark.parametrize(
        ("made", "answer", "expected"),
        [
            (call(f"{PI}/pi_1/confirm"), intent("requires_confirmation"), Quote(2000 * CENT, object_id="pi_1", adopts=True)),
            (call(f"{PI}/pi_1/confirm", amount_to_confirm="7"), intent("requires_confirmation"),
             Quote(7 * CENT, object_id="pi_1", adopts=True)),
            (
                call(f"{PI}/pi_1/capture"), intent("requires_capture", amount_received=500, amount_capturable=1400),
                Quote(1400 * CENT, object_id="pi_1", adopts=True, prior=500 * CENT),
            ),
            (call(f"{PI}/pi_1", amount="9"), intent("requires_confirmation"), Quote(9 * CENT, object_id="pi_1", adopts=True)),
            (call("/v1/refunds", payment_intent="pi_1"), intent(amount_received=1800),
             Quote(1800 * CENT, "run", "pi_1", prior=1800 * CENT)),
        ],
    )  # fmt: skip
    def test_unknown_intent_is_asked_for(self, made: Call, answer: dict[str, Any], expected: Quote) -> None:
        """Stripe's own figures bound it, and what it had cost is its prior."""
        assert quoted(made, {PI_1: None, ASK_PI: reply(answer)}) == (expected, [PI_1, ASK_PI])

    @pytest.mark.parametrize(
        ("made", "answer", "expected"),
        [
            (call(f"{CH}/ch_1/capture"), charge(captured=False, amount_captured=0), Quote(2000 * CENT, object_id="ch_1", adopts=True)),
            (call(f"{CH}/ch_1/refund"), charge(amount_refunded=300), Quote(1700 * CENT, "run", "ch_1", prior=2000 * CENT)),
            (call("/v1/refunds", charge="ch_1"), charge(amount_captured=800), Quote(800 * CENT, "run", "ch_1", prior=800 * CENT)),
        ],
    )
    def test_unknown_charge_is_asked_for(self, made: Call, answer: dict[str, Any], expected: Quote) -> None:
        """What was captured and not yet refunded is the bound of a refund."""
        assert quoted(made, {CH_1: None, ASK_CH: reply(answer)}) == (expected, [CH_1, ASK_CH])

    def test_whole_refund_of_an_intent_paid_elsewhere_is_asked_for(self) -> None:
        """A memory without spending says nothing of what can be refunded."""
        found, asked = quoted(call("/v1/refunds", payment_intent="pi_1"), {PI_1: OPEN, ASK_PI: reply(intent())})

        assert (found.amount, found.pot, asked) == (2000 * CENT, "run", [PI_1, ASK_PI])

    @pytest.mark.parametrize(
        "answer",
        [
            Reply(404, {}, b"{}"), Reply(200, {}, None), Reply(200, {}, b"["), Reply(200, {}, b"[]"), reply({}), reply(charge()),
            reply(intent() | {"id": "pi_2"}), reply(intent() | {"amount": -5}), reply(intent() | {"currency": None}),
            reply(intent() | {"currency": "jpy"}), Reply(200, {}, b"[" * 100_000),
        ],
    )  # fmt: skip
    def test_object_that_stripe_does_not_show_in_usd_is_unpriced(self, answer: Reply) -> None:
        """No bound, no call."""
        with pytest.raises(UnpricedCall):
            quoted(call(f"{PI}/pi_1/confirm"), {PI_1: None, ASK_PI: answer})

    @pytest.mark.parametrize("made", [call(f"{PI}/pi_1", description="x"), call(f"{PI}/pi_1/cancel")])
    def test_update_without_amount_and_cancel_cost_nothing(self, made: Call) -> None:
        """They name the object and adopt nothing."""
        assert quoted(made) == (Quote(0, object_id="pi_1"), [])

    def test_read_quotes_nothing(self) -> None:
        """A read is free, whatever its query."""
        assert quoted(call(PI, "GET", query=(("amount", "x"),))) == (Quote(0), [])

    @pytest.mark.parametrize(
        "made",
        [
            call("/v1/refunds"), call("/v1/refunds", charge="ch_1", payment_intent="pi_1"), call(f"{CH}/ch_1/refund", charge="ch_2"),
            call("/v1/refunds", charge=""), call("/v1/refunds", charge="../x"),
        ],
    )  # fmt: skip
    def test_refund_names_exactly_one_object(self, made: Call) -> None:
        """Neither, both or no id is malformed."""
        with pytest.raises(MalformedCall, match="exactly one"):
            quoted(made)


# status → (spent, held) in cents of a 2000-cent object of which 500 were received and 1400 can be captured.
INTENTS = {
    "canceled": (500, 0), "succeeded": (500, 0), "requires_capture": (500, 1400), "processing": (500, 1500),
    "requires_action": (500, 1500), "requires_confirmation": (500, 1500), "requires_payment_method": (500, 1500),
}  # fmt: skip
CHARGES = {"succeeded": (1200, 0), "pending": (0, 2000), "failed": (0, 0)}
REFUNDS = {"succeeded": "settled", "pending": "settled", "requires_action": "settled", "failed": "released", "canceled": "released"}


class TestRead:
    """What replies say."""

    def test_every_status_of_the_spec_is_mapped(self) -> None:
        """A status that Stripe adds fails here until somebody decides what it means."""
        assert statuses("payment_intent") == set(INTENTS)
        assert statuses("charge") == set(CHARGES)
        assert statuses("refund") == set(REFUNDS)

    @pytest.mark.parametrize("as_text", [False, True], ids=["ints", "digit strings"])
    @pytest.mark.parametrize(("status", "parts"), INTENTS.items())
    def test_intent_of_every_status(self, status: str, parts: tuple[int, int], as_text: bool) -> None:
        """The totals of the object: received is spent, what may still come is held."""
        amounts = {"amount": 2000, "amount_received": 500, "amount_capturable": 1400}
        body = intent(status, latest_charge="ch_1") | {name: str(n) if as_text else n for name, n in amounts.items()}
        fact = Fact("pi_1", parts[0] * CENT, parts[1] * CENT, 2000 * CENT, status=status, aliases=("ch_1",))

        assert outcome(call(), reply(body)) == Outcome("settled", facts=(fact,), request_id="req_1")

    @pytest.mark.parametrize(
        ("status", "parts"), [("succeeded", (2000, 0)), ("requires_capture", (0, 2000)), ("canceled", (0, 0)), ("invented", (0, 2000))]
    )
    def test_intent_without_received_and_capturable(self, status: str, parts: tuple[int, int]) -> None:
        """Absent totals are read as the dearer case; so is a status nobody knows."""
        body = intent("succeeded") | {"status": status, "latest_charge": {"id": "ch_9"}, "amount_received": None}
        (fact,) = outcome(call(), reply(body)).facts

        assert (fact.spent, fact.held, fact.aliases) == (parts[0] * CENT, parts[1] * CENT, ("ch_9",))

    @pytest.mark.parametrize(("status", "parts"), CHARGES.items())
    def test_charge_of_every_status(self, status: str, parts: tuple[int, int]) -> None:
        """Captured is spent, pending is held, failed is nothing."""
        (fact,) = outcome(call(CH), reply(charge(status, amount_captured=1200, payment_intent="pi_1"))).facts

        assert (fact.object_id, fact.spent, fact.held, fact.aliases) == ("ch_1", parts[0] * CENT, parts[1] * CENT, ("pi_1",))

    @pytest.mark.parametrize(
        ("fields", "parts"),
        [
            ({"captured": False, "amount_captured": 0}, (0, 2000)),
            ({"captured": False, "amount_captured": 0, "refunded": True, "amount_refunded": 2000}, (0, 0)),
            ({"amount_refunded": 300}, (2000, 0)),
        ],
    )
    def test_uncaptured_and_refunded_charges(self, fields: dict[str, Any], parts: tuple[int, int]) -> None:
        """An authorization is held until it is refunded; a refund never lowers what was spent."""
        (fact,) = outcome(call(CH), reply(charge(**fields))).facts

        assert (fact.spent, fact.held) == (parts[0] * CENT, parts[1] * CENT)
        assert fact.refunded == fields.get("amount_refunded", 0) * CENT

    def test_charge_without_captured_amount_cost_all_of_it(self) -> None:
        """Some stand-ins leave it out."""
        body = {key: value for key, value in charge().items() if key not in {"amount_captured", "captured"}}

        assert outcome(call(CH), reply(body)).facts[0].spent == 2000 * CENT

    @pytest.mark.parametrize(("status", "ending"), [*REFUNDS.items(), (None, "settled"), ("invented", "settled")])
    def test_refund_of_every_status(self, status: str | None, ending: str) -> None:
        """Money that left or will leave is settled; what failed or was canceled never left."""
        made = call("/v1/refunds", charge="ch_1")
        found = outcome(made, reply(refund(status, payment_intent="pi_1")), Quote(900 * CENT, "refund", "ch_1"))

        assert (found.ending, found.cost) == (ending, 700 * CENT if ending == "settled" else 0)
        assert (found.refund_of, found.refund_id) == (("ch_1", "re_1") if ending == "settled" else (None, None))

    @pytest.mark.parametrize(
        ("fields", "named"), [({"payment_intent": "pi_1", "charge": "ch_1"}, "pi_1"), ({"charge": {"id": "ch_1"}}, "ch_1")]
    )
    def test_refund_without_a_named_object_takes_the_reply_s(self, fields: dict[str, Any], named: str) -> None:
        """Intent before charge."""
        assert outcome(call("/v1/refunds"), reply(refund(**fields))).refund_of == named

    def test_old_refund_path_answers_with_the_charge(self) -> None:
        """Its totals do not tell this refund from earlier ones, so the quote is the cost."""
        quote = Quote(300 * CENT, "refund", "ch_1")
        found = outcome(call(f"{CH}/ch_1/refund", amount="300"), reply(charge(amount_refunded=900)), quote)

        assert (found.ending, found.cost, found.refund_of, found.refund_id, found.facts) == ("settled", 300 * CENT, "ch_1", None, ())

    @pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 429])
    def test_documented_refusals_release(self, status: int) -> None:
        """Stripe did not execute it, whatever the body says."""
        assert outcome(call(), Reply(status, {"request-id": "req_9"}, None)) == Outcome("released", request_id="req_9")

    @pytest.mark.parametrize("status", [0, 100, 302, 304, 405, 409, 500, 502, 503, 504, 599])
    def test_every_other_status_is_doubt(self, status: int) -> None:
        """Nobody knows whether it was executed."""
        assert outcome(call(), reply(intent(), status)).ending == "doubt"

    @pytest.mark.parametrize(
        "body",
        [
            None, b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"id": 1e999}', json.dumps(charge()).encode(),
            json.dumps(intent() | {"currency": "eur"}).encode(), json.dumps(intent() | {"currency": None}).encode(),
            json.dumps(intent() | {"amount": True}).encode(), json.dumps(intent() | {"amount": "1.5"}).encode(),
            json.dumps(intent() | {"amount": None}).encode(), json.dumps(intent() | {"id": None}).encode(),
            json.dumps(intent() | {"amount": 20.5}).encode(), b'{"amount": ' + b"9" * 5000 + b"}",
        ],
    )  # fmt: skip
    def test_unreadable_success_of_a_priced_write_is_doubt(self, body: bytes | None) -> None:
        """Never raised, never free."""
        assert outcome(call(), Reply(200, {}, body)).ending == "doubt"

    def test_reply_about_another_object_is_doubt(self) -> None:
        """A confirm of one intent is not settled by another."""
        made = call(f"{PI}/pi_2/confirm")

        assert outcome(made, reply(intent()), Quote(CENT, object_id="pi_2", adopts=True)).ending == "doubt"
        assert outcome(call("/v1/refunds"), reply(intent())).ending == "doubt"

    @given(
        st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda x: st.lists(x) | st.dictionaries(st.text(), x))
    )
    def test_reading_never_raises(self, junk: Any) -> None:
        """Whatever JSON comes, in whatever field."""
        for field in ("id", "amount", "amount_received", "latest_charge", "status", "currency", "object"):
            assert outcome(call(), reply(intent() | {field: junk})).ending in {"settled", "doubt"}
            assert outcome(call(PI, "GET"), reply({"object": "list", "data": [junk, intent() | {field: junk}]})).ending == "settled"
        assert outcome(call("/v1/refunds"), reply(refund() | {"payment_intent": junk})).ending == "settled"

    def test_reads_give_facts_of_single_objects_and_lists(self) -> None:
        """At most 100 items, the ones in usd only."""
        items = [
            charge(),
            intent(),
            intent() | {"currency": "eur"},
            {"object": "customer", "currency": "usd"},
            "x",
            intent() | {"id": None},
        ]
        listed = outcome(call(CH, "GET"), reply({"object": "list", "data": items}))
        single = outcome(call(f"{PI}/pi_1", "GET"), reply(intent()))
        many = outcome(call(PI, "GET"), reply({"object": "list", "data": [intent()] * 150}))

        assert [fact.object_id for fact in listed.facts] == ["ch_1", "pi_1"]
        assert (single.ending, single.cost, [fact.object_id for fact in single.facts]) == ("settled", 0, ["pi_1"])
        assert len(many.facts) == 100

    @pytest.mark.parametrize(
        ("item", "parts"),
        [
            (charge(payment_intent="pi_1", amount_captured=400), (400, 1600)),
            (charge(payment_intent="pi_1"), (2000, 0)),
            (charge("failed", payment_intent="pi_1"), None),
            (charge(payment_intent="pi_1", captured=False, amount_captured=0, refunded=True, amount_refunded=2000), None),
            (charge("failed"), (0, 0)),
        ],
    )
    def test_a_charge_of_an_intent_never_frees_the_intent(self, item: dict[str, Any], parts: tuple[int, int] | None) -> None:
        """A failed try says nothing about the next one; only the intent's own state ends it."""
        facts = outcome(call(CH, "GET"), reply({"object": "list", "data": [item]})).facts

        assert [(fact.spent // CENT, fact.held // CENT) for fact in facts] == ([] if parts is None else [parts])

    @pytest.mark.parametrize(
        ("path", "answer"),
        [
            (PI, Reply(200, {}, None)), (PI, Reply(200, {}, b"[")), (PI, Reply(500, {}, b"{}")), (PI, reply({"object": "list", "data": 1})),
            ("/v1/customers/cus_1", reply(intent())), ("/v1/charges_of_others", reply(charge())),
        ],
    )  # fmt: skip
    def test_other_and_unreadable_reads_cost_nothing(self, path: str, answer: Reply) -> None:
        """They settle at 0 without facts."""
        found = outcome(call(path, "GET"), answer, Quote(0))

        assert (found.ending, found.cost, found.facts) == ("settled", 0, ())

    def test_replayed_reply_says_the_same_totals(self) -> None:
        """The ledger counts objects, not replies, so a replay needs no rule of its own."""
        replayed = Reply(200, {"idempotent-replayed": "true"}, json.dumps(intent()).encode())

        assert outcome(call(), replayed).facts == outcome(call(), reply(intent())).facts

    def test_operation_is_what_read_goes_by(self) -> None:
        """A refund operation with an unknown object is doubt, not a charge."""
        assert vendor.read(call(), Operation("refunds.create"), Quote(0), reply(refund() | {"object": "dispute"})).ending == "doubt"
