"""The Twilio plug's paths: every write of the SDK classified, names, products, stand-ins, accounts, odd paths."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyguard.errors import MalformedCall
from keyguard.patches._wire import call_of
from keyguard.rules import Rule
from keyguard.settings import load_policy
from keyguard.vendors import _twilio_paths as paths
from keyguard.vendors import account_of, claimant, known_vendors, vendor_named
from keyguard.vendors.twilio import FLOWS, vendor
from tests import twilio_parameters
from tests.support_twilio import ACCOUNT, API, SID, US, call
from tests.support_twilio_sdk import requests

if TYPE_CHECKING:
    from keyguard.vendors._twilio_paths import Row

NAME = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)+")
ALL = {**paths.writes(), **paths.reads()}


def bare(path: str) -> str:
    """Return a path as the tables write it."""
    return path.removesuffix(".json")


# -- the tables --------------------------------------------------------------------------------------


@pytest.mark.ci
def test_every_write_of_the_installed_sdk_is_classified() -> None:
    """A new version of the package with a write that no row names fails here."""
    writes = {(made.method, made.product, bare(made.path)) for made in requests() if made.method != "GET"}

    assert len(writes) >= 790
    assert sorted(writes - set(paths.writes())) == []


@pytest.mark.ci
def test_every_read_of_the_installed_sdk_has_a_name() -> None:
    """Names of reads come from the second table, which misses none."""
    reads = {("GET", made.product, bare(made.path)) for made in requests() if made.method == "GET"}

    assert len(reads) >= 780
    assert sorted(reads - set(paths.reads())) == []


def test_every_name_can_stand_in_a_policy() -> None:
    """Names are lower-case words with dots between."""
    assert [row.operation for row in ALL.values() if not NAME.fullmatch(row.operation)] == []


def test_a_name_means_one_thing() -> None:
    """Rows that share a name share a class and a reason, so that a policy that lists it knows what it lists."""
    meanings: dict[str, set[Row]] = defaultdict(set)
    for row in ALL.values():
        meanings[row.operation].add(row)

    assert {name: rows for name, rows in meanings.items() if len(rows) > 1} == {}


def test_no_name_is_another_vendors() -> None:
    """An allowlist or a rule that was written for one vendor's operation, without its prefix, lets nothing of Twilio's through."""
    others = {name for vendor_name in known_vendors() if vendor_name != "twilio" for name in vendor_named(vendor_name).parameters()}

    assert {row.operation for row in ALL.values()} & others == set()


def test_every_priced_row_has_a_flow_and_every_flow_a_row() -> None:
    """Nothing that is called priced can be without a price."""
    assert {row.operation for row in ALL.values() if row.kind == "priced"} == set(FLOWS)


def test_each_row_is_found_by_its_product_and_path() -> None:
    """Known are priced and free rows; flat and refused ones say why, and only the refused ones are so by design."""
    for (method, product, path), row in paths.writes().items():
        operation = vendor.classify(call(path.replace("*", "x1"), method=method, host=f"{product}.twilio.com"))
        by_design = operation.unbounded.is_by_design if operation.unbounded is not None else None

        assert operation.name == row.operation
        assert (operation.known, by_design) == {
            "priced": (True, None), "free": (True, None), "flat": (False, False), "refused": (False, True),
        }[row.kind]  # fmt: skip


def test_the_parameters_are_those_of_the_installed_sdk() -> None:
    """The table of fields, which policies' rules are compared with, is generated; a new SDK with other fields fails here."""
    assert twilio_parameters.TARGET.read_text(encoding="utf-8") == twilio_parameters.generate()


def test_rules_may_name_the_fields_of_an_operation() -> None:
    """A rule on `To` is a policy, one on a field that a message does not have is an error before any call."""
    policy = load_policy(None, {"rules": {"messages.create": {"To": {"prefix": ["+1"]}}, "calls.create": {"TimeLimit": {"max": 600}}}})

    assert policy.rules is not None
    assert policy.rules["messages.create"]["To"] == Rule(prefix=("+1",))
    with pytest.raises(Exception, match="there is no field 'Too'; did you mean To"):
        load_policy(None, {"rules": {"messages.create": {"Too": ["x"]}}})


# -- what is never free ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "product", "path", "kind"),
    [
        ("POST", "api", "/2010-04-01/Accounts", "refused"),
        ("POST", "api", "/2010-04-01/Accounts/*/Keys", "refused"),
        ("POST", "iam", "/v1/Keys", "refused"),
        ("POST", "trunking", "/v1/Trunks/*/CredentialLists", "refused"),
        ("POST", "trunking", "/v1/Trunks/*/Recording", "refused"),
        ("POST", "video", "/v1/CompositionHooks", "refused"),
        ("POST", "notify", "/v1/Services/*/Notifications", "flat"),
        ("POST", "proxy", "/v1/Services/*/Sessions/*/Participants/*/MessageInteractions", "flat"),
        ("POST", "studio", "/v2/Flows/*/Executions", "flat"),
        ("POST", "flex-api", "/v1/Interactions", "flat"),
        ("POST", "conversations", "/v1/Conversations/*/Messages", "flat"),
        ("POST", "conversations", "/v1/Services/*/Conversations/*/Messages", "flat"),
        ("POST", "conversations", "/v2/Conversations/*/Actions", "flat"),
        ("POST", "chat", "/v2/Services/*/Channels/*/Messages", "flat"),
        ("POST", "api", "/2010-04-01/Accounts/*/Calls/*/Recordings", "flat"),
        ("POST", "api", "/2010-04-01/Accounts/*/Calls/*/Transcriptions", "flat"),
        ("POST", "api", "/2010-04-01/Accounts/*/Calls/*/Payments", "flat"),
        ("POST", "api", "/2010-04-01/Accounts/*/Calls/*/Siprec", "flat"),
        ("POST", "voice", "/v3/Transcriptions", "flat"),
        ("POST", "intelligence", "/v2/Transcripts", "flat"),
        ("POST", "video", "/v1/Rooms", "flat"),
        ("POST", "video", "/v1/Compositions", "flat"),
        ("POST", "wireless", "/v1/Commands", "flat"),
        ("POST", "supersim", "/v1/SmsCommands", "flat"),
        ("POST", "numbers", "/v1/Porting/PortIn", "flat"),
        ("POST", "numbers", "/v2/HostedNumber/Orders", "flat"),
        ("POST", "assistants", "/v1/Assistants/*/Messages", "flat"),
        ("POST", "memory", "/v1/Stores/*/Profiles", "flat"),
        ("POST", "knowledge", "/v1/Knowledge", "flat"),
        ("GET", "lookups", "/v2/PhoneNumbers/*", "priced"),
        ("GET", "lookups", "/v1/PhoneNumbers/*", "priced"),
        ("POST", "oauth", "/v2/token", "free"),
        ("POST", "preview-iam", "/v1/token", "free"),
        ("POST", "verify", "/v2/Services/*/VerificationCheck", "free"),
        ("GET", "api", "/2010-04-01/Accounts/*/Messages", "free"),
    ],
)
def test_what_fans_out_lasts_or_hands_out_credentials_is_not_free(method: str, product: str, path: str, kind: str) -> None:
    """One of each family: fan-out and minutes unknown are flat, standing orders and credentials refused, tokens of the SDK itself free."""
    assert ALL[method, product, path].kind == kind


# -- reading paths -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "path", "name"),
    [
        ("api.twilio.com", f"{API}/Messages.json", "messages.create"),
        ("api.twilio.com", f"{API}/Messages", "messages.create"),
        ("api.twilio.com", f"{API}/Messages.xml", "messages.create"),
        ("api.twilio.com", f"{API}/SMS/Messages.json", "messages.create"),
        ("api.dublin.ie1.twilio.com", f"{API}/Messages.json", "messages.create"),
        ("api.twilio.com:443", f"{API}/Messages.json", "messages.create"),
        ("api.twilio.com.", f"{API}/Messages.json", "messages.create"),
        ("verify.twilio.com", "/v2/Services/VA1/Verifications", "verify.services.verifications.create"),
        ("chat.twilio.com", "/v2/Services", "chat.services.create"),
        ("verify.twilio.com", "/v2/Services", "verify.services.create"),
        ("verify.twilio.com", f"{API}/Messages.json", "unknown.post"),
        ("www.twilio.com", "/v2/Services", "unknown.post"),
        ("api.twilio.com", "/2008-08-01/Accounts/AC1/SMS/Messages", "unknown.post"),
        ("api.twilio.com", f"{API}/messages.json", "unknown.post"),
        ("127.0.0.1:4010", f"{API}/Messages.json", "messages.create"),
        ("127.0.0.1:4010", f"/api.twilio.com{API}/Messages.json", "messages.create"),
        ("127.0.0.1:4010", "/verify.dublin.ie1.twilio.com/v2/Services", "verify.services.create"),
        ("127.0.0.1:4010", "/chat.twilio.com/v2/Services", "chat.services.create"),
        ("127.0.0.1:4010", "/nothing.twilio.com/v2/Services", "unknown.post"),
        ("127.0.0.1:4010", "/v9/Nothing", "unknown.post"),
    ],
)
def test_the_product_is_the_hosts_first_label(host: str, path: str, name: str) -> None:
    """The same path is another operation on another host; region, edge, port, root's dot and format do not matter."""
    assert vendor.classify(call(path, host=host)).name == name


def test_a_stand_in_of_unknown_product_gets_the_most_careful_row() -> None:
    """Where the host does not tell, products that share a path are all asked; these are all the paths whose class depends on it."""
    kinds: dict[tuple[str, str], set[str]] = defaultdict(set)
    for (method, _, path), row in ALL.items():
        kinds[method, path].add(row.kind)
    shared = {key for key, found in kinds.items() if len(found) > 1}

    assert shared == {("GET", "/v2/PhoneNumbers/*"), ("POST", "/v2/Services"), ("POST", "/v2/Services/*")}
    assert vendor.classify(call("/v2/PhoneNumbers/+14155552671", method="GET", host="127.0.0.1:1")).name == "lookups.phone_numbers.fetch"
    assert vendor.classify(call("/v2/Services", host="127.0.0.1:1")).name == "intelligence.services.create"


@pytest.mark.parametrize(
    "host", ["api.twilio.com", "verify.twilio.com", "api.dublin.ie1.twilio.com", "oauth.twilio.com", "anything.twilio.com"]
)
def test_the_plug_claims_every_host_of_twilios(host: str) -> None:
    """Products, regions and edges alike; a name that only ends alike is nobody's."""
    assert claimant(host) == "twilio"
    assert claimant("api.twilio.com.example.org") is None
    assert claimant("eviltwilio.com") is None


@pytest.mark.parametrize(
    "path", [f"{API}/Messages/", "//Messages", f"{API}/../Messages.json", "/v2/%2e%2e/x", "/v2%2FServices", "/a b", "v2", "/a?b"]
)
def test_a_path_that_others_may_read_differently_is_refused(path: str) -> None:
    """Dot segments, empty ones and encoded slashes are malformed; the message does not repeat the path, which may hold a number."""
    with pytest.raises(MalformedCall, match="Nothing was sent") as error:
        vendor.classify(call(path))

    assert path not in str(error.value)


def test_ids_are_twilios_own_and_no_number_becomes_one() -> None:
    """The object of a path is its last sid, never the account; a phone number in a path is in no name and no id."""
    made = [
        vendor.classify(call(f"{API}/Messages/SM{SID}.json")),
        vendor.classify(call(f"{API}/Calls/CA{SID}/Recordings.json")),
        vendor.classify(call(f"{API}/Messages.json")),
        vendor.classify(call(f"/v2/PhoneNumbers/{US}", method="GET", host="lookups.twilio.com")),
        vendor.classify(call(f"/v1/Services/{US}", method="DELETE", host="sync.twilio.com")),
    ]

    assert [one.object_id for one in made] == [f"SM{SID}", f"CA{SID}", None, None, None]
    assert US not in "".join(one.name for one in made)


def test_writes_are_never_idempotent_and_paid_reads_neither() -> None:
    """Twilio has no idempotency keys: each send may be a message; a free read costs nothing however often, a look-up does each time."""
    made = [call(), call(method="GET"), call(f"/v2/PhoneNumbers/{US}", method="GET", host="lookups.twilio.com")]

    assert [vendor.classify(one).idempotent for one in made] == [False, True, False]


@pytest.mark.parametrize(
    ("path", "account"),
    [
        (f"{API}/Messages.json", ACCOUNT),
        (f"{API}.json", ACCOUNT),
        (f"/api.twilio.com{API}/Calls/CA1.json", ACCOUNT),
        ("/v2/Services/VA1/Verifications", ""),
        ("/2010-04-01/Accounts/AC1/Messages.json", ""),
        ("/", ""),
    ],
)
def test_the_account_is_the_paths(path: str, account: str) -> None:
    """A subaccount's spending is booked under its own sid, whoever's credentials are used; the wire seams ask the same function."""
    seen = call_of("twilio", "POST", f"https://api.twilio.com{path}", path, {}, b"")

    assert (vendor.account(path), account_of("twilio", path), seen.account) == (account, account, account)
    assert account_of("resend", path) == ""


def test_the_plug_is_found_by_its_name() -> None:
    """The file's name is the registry."""
    assert vendor_named("twilio") is vendor


@given(
    st.text(max_size=40),
    st.sampled_from(["GET", "POST", "DELETE", "X"]),
    st.sampled_from(["api.twilio.com", "127.0.0.1:4010", "x.twilio.com"]),
)
def test_no_path_makes_the_plug_raise_anything_but_a_refusal(path: str, method: str, host: str) -> None:
    """Any text is a path with a name from the tables, or malformed; an account is found in it or not."""
    assert isinstance(vendor.account(path), str)
    try:
        assert NAME.fullmatch(vendor.classify(call(path, method=method, host=host)).name)
    except MalformedCall as refusal:
        assert "othing was sent" in str(refusal)  # noqa: PT017 -- most of these do not raise
