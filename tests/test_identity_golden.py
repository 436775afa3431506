"""
Identities and keys as they were first made, to the letter. A key that changes with keyguard's version charges twice.

A run that began under an older version, a doubt that stands in a ledger, a proxy of another version beside the local
enforcer: each of them finds a charge again by these bytes alone. None of the values below may ever change.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyguard.identity import canonical, fingerprint, key_for, payee_of, principal_of, request_in_scope, request_of, request_of_key
from keyguard.model import Call

CALL = Call("stripe", "POST", "https", "api.stripe.com", "/v1/charges", body=(("amount", "100"), ("currency", "usd")), account="acct_1")
_ODD = (("description", 'it\'s "100 %"\\\t'), ("name", "Zoë 😀\u2028\x7f\ud800"), ("a', 'b", "'), ('"), ("", ""))
_TEXT = st.one_of(st.text(max_size=6), st.text(st.sampled_from("ab'\"\\\n, ()[]"), max_size=6))
_PAIRS = st.lists(st.tuples(_TEXT, _TEXT), max_size=4).map(tuple)


@pytest.mark.parametrize(
    ("call", "request_", "print_"),
    [
        (CALL, "78cc0a66b5abdf88c77a7ac4eb2c4690", "35838b944710826546c7977e59ee7d35"),
        (
            replace(CALL, query=(("b", "2"), ("a", "1")), account=""),
            "78cc0a6659e21d56fcc9d95fddea8ade", "44fd9029360d3a88576a4a03d7fddb6a",
        ),
        (replace(CALL, body=None), "78cc0a66d546a5bad3be7d7ba35365a9", "dfaf2fe1482a96e4f9ab9ef891e07f71"),
        (replace(CALL, body=()), "78cc0a66d546a5bad3be7d7ba35365a9", "dfaf2fe1482a96e4f9ab9ef891e07f71"),
        (replace(CALL, body=_ODD), "78cc0a66d82c20dc608a3716eb9ef7c8", "c0f68e1aa1c9e0b6836bc9fe4b298cb0"),
        (replace(CALL, body=(("a", "O'Neil"),)), "78cc0a66c8af3d0a9d454862bb23ff3a", "4a6fe8ff77a37be95073cbd95445f635"),
        (replace(CALL, body=(("a", '6"'),)), "78cc0a669bd443eb43da3ef16e22bb68", "e68e58ca33c3dd5f6175b152c7384173"),
        (replace(CALL, body=(("a", "6\" 'x'"),)), "78cc0a660bcc0d18787bca3cf4114ec7", "a36e131dbc7ffe0bc7ebf7c838e4b964"),
        (replace(CALL, body=(("a", "\\n"),)), "78cc0a6665912a67f678bb909302c27d", "a3088d78960a41cbc4af6589167adaef"),
        (replace(CALL, body=(("a", "\n\r\t\x00\x7f"),)), "78cc0a66ac9bb4ee4f7eaefdf4e6b78d", "6f3161593e081fde511e24f2bb071bcf"),
        (replace(CALL, body=(("a", "é\xa0\u0378\U0001f600"),)), "78cc0a66382da0a63de4982dbad499a4", "3bb940406f222e4e88a7565dc69df642"),
        (replace(CALL, path="/v1/ünï'code"), "78cc0a664d3bfa4494a396b48a826ea3", "a4984c584c434e93d59f7af470d7fc2e"),
    ],
    ids=["plain", "query", "no body", "empty", "odd", "quote", "double", "both", "backslash", "control", "non-ascii", "path"],
)  # fmt: skip
def test_a_charge_keeps_its_name(call: Call, request_: str, print_: str) -> None:
    """Whatever stands in its parameters."""
    assert request_of("run:é", "0123456789abcdef", canonical(call)) == request_
    assert fingerprint(call) == print_


@given(_PAIRS, _PAIRS, _TEXT)
def test_the_parameters_are_written_as_the_first_version_wrote_them(
    query: tuple[tuple[str, str], ...], body: tuple[tuple[str, str], ...], account: str
) -> None:
    """By `ascii`, sorted; whatever shorter way there is for most of them gives the same bytes."""
    call = replace(CALL, query=query, body=body, account=account)

    assert canonical(call) == ascii((call.vendor, account, call.method, call.path, sorted((*query, *body)))).encode()


def test_charges_named_by_something_else_keep_their_names() -> None:
    """By a scope, or by the caller's own key."""
    assert request_in_scope("run:1", "own'er", CALL, "order-42'é") == "837fbafbfeee31956e45155c98e12ab7"
    assert request_of_key("key:1", "", "stripe", "", "my key") == "47c2474cbd65a4e6ef07c78e2851a089"


def test_keys_owners_and_payees_keep_their_hashes() -> None:
    """The key that leaves, and what a ledger and a question to the vendor are compared by."""
    assert key_for("a" * 32, 0, 0) == "keyguard-793025225fa5978f9ed70296fa3d3d91"
    assert key_for("0123456789abcdef" * 2, 12, 3) == "keyguard-f347a910bc2fc6aead9ae192216e50b0"
    assert (principal_of("sk_live_ñ"), payee_of("run:1", "+1'2")) == ("dc60a1cae4ce46be", "a767ea12e3ad675f")
