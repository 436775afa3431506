"""The table of Stripe's writes: complete against the SDK and the spec, without rows that rot, and what each class means for a policy."""

from __future__ import annotations

import re
import timeit
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from keyguard import policy
from keyguard.errors import UnpricedCall
from keyguard.model import Call, Operation, Policy, Quote, Reply, Unbounded, VaultKey
from keyguard.vendors import _stripe_paths as paths
from keyguard.vendors.stripe import FLOWS, vendor
from tests.support_guard import World
from tests.support_stripe_writes import known_writes, sdk_operations

if TYPE_CHECKING:
    from collections.abc import Iterator

TABLE = Path(paths.__file__).with_name("stripe_writes.txt")
KINDS = {"priced", "free", "flat", "refused"}
NAME = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)+")


def rows() -> Iterator[list[str]]:
    """Yield the table's rows as they stand in the file."""
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            yield line.split(maxsplit=4)


def named(kind: str) -> set[str]:
    """Return the operations of one class."""
    return {name for _, _, found, name, *_ in rows() if found == kind}


def write(path: str, method: str = "POST", **body: str) -> Call:
    """Return a write to Stripe."""
    return Call("stripe", method, "https", "api.stripe.com", path, body=tuple(body.items()))


def test_the_sdk_is_walked() -> None:
    """The walk finds some 650 requests, v2 and OAuth among them."""
    found = sdk_operations()

    assert len(found) > 640
    assert {("POST", "/oauth/token"), ("POST", "/v2/money_management/payout_intents"), ("DELETE", "/v1/customers/*")} <= found


def test_every_write_of_the_sdk_and_of_the_spec_is_classified() -> None:
    """A write that Stripe adds fails here until somebody decides what it costs."""
    assert sorted(known_writes() - set(paths.writes())) == []


def test_no_row_names_a_write_that_is_gone() -> None:
    """Every row is in the installed SDK or in the spec."""
    assert sorted(set(paths.writes()) - known_writes()) == []


def test_every_row_is_whole() -> None:
    """Sorted, each pair once, a known class, a plain name, a template that paths are matched with, a reason exactly where one is needed."""
    found = list(rows())
    templates = paths._templates()

    assert [(path, method) for method, path, *_ in found] == sorted({(path, method) for method, path, *_ in found})
    for method, path, kind, name, *reason in found:
        assert kind in KINDS
        assert NAME.fullmatch(name), name
        assert path in templates, path
        assert bool(reason) == (kind in {"flat", "refused"}), (method, path)
    assert not any(named(kind) & named(other) for kind in KINDS for other in KINDS - {kind})


def test_every_priced_row_has_a_money_flow() -> None:
    """And no flow is without a row."""
    assert set(FLOWS) == named("priced")


@pytest.mark.parametrize("row", list(rows()), ids=lambda row: f"{row[0]} {row[1]}")
def test_the_plug_reads_the_table(row: list[str]) -> None:
    """A call is what its row says."""
    method, path, kind, name, *reason = row
    operation = vendor.classify(write(path.replace("*", "id_1"), method))

    assert operation.name == name
    assert operation.known == (kind in {"priced", "free"})
    assert operation.unbounded == (Unbounded(reason[0], is_by_design=kind == "refused") if reason else None)


@pytest.mark.parametrize("name", sorted(named("free")))
def test_free_writes_cost_nothing(name: str) -> None:
    """Quoted at 0 without a question, settled at 0 whatever comes back."""
    operation, made = Operation(name), write("/v1/x", amount="1")
    quoting = vendor.quote(made, operation)

    with pytest.raises(StopIteration) as stop:
        next(quoting)
    assert stop.value.value == Quote(0)
    found = vendor.read(made, operation, Quote(0), Reply(200, {}, b"not JSON"))
    assert (found.ending, found.cost, found.facts) == ("settled", 0, ())


# -- what a policy makes of it -----------------------------------------------------------------------


def key(**fields: Any) -> VaultKey:
    """Return a key with a policy."""
    return VaultKey("k", "vault_key_x", Policy(**fields), "run-1")


HOOK = write("/v1/webhook_endpoints", url="https://example.com")
TAX = write("/v1/tax/calculations", currency="usd")


@pytest.mark.parametrize(
    "fields",
    [
        {}, {"unpriced": "allow"}, {"unpriced": 5}, {"unpriced": "allow", "allowed_endpoints": ["* /**"]},
        {"unpriced": "allow", "allowed_endpoints": ["POST /v1/*"]}, {"unpriced": "allow", "allowed_endpoints": ["webhook_endpoints.*"]},
        {"allowed_endpoints": ["webhook_endpoints.create"]}, {"unpriced": "allow", "allowed_endpoints": ["x:webhook_endpoints.create"]},
    ],
)  # fmt: skip
def test_what_no_cap_can_express_is_refused_unless_it_is_named(fields: dict[str, Any]) -> None:
    """`unpriced` alone does not let it through, nor does a wildcard; the message says what does."""
    operation = vendor.classify(HOOK)

    with pytest.raises(UnpricedCall, match=r"no cap can express: it sends every event.*name 'webhook_endpoints.create' itself"):
        policy.unpriced_quote(key(**fields), HOOK, operation, operation.unbounded)


@pytest.mark.parametrize("item", ["webhook_endpoints.create", "POST /v1/webhook_endpoints", "stripe:webhook_endpoints.create"])
@pytest.mark.parametrize(("unpriced", "amount"), [("allow", 0), (5, 5_000_000)])
def test_a_policy_may_name_what_no_cap_can_express(item: str, unpriced: Any, amount: int) -> None:
    """By its operation or its very method and path; it counts what `unpriced` says."""
    operation = vendor.classify(HOOK)
    named_in = key(unpriced=unpriced, allowed_endpoints=["* /**", item])

    assert policy.unpriced_quote(named_in, HOOK, operation, operation.unbounded) == Quote(amount)


@pytest.mark.parametrize(("unpriced", "amount"), [("allow", 0), (2, 2_000_000)])
def test_a_fee_counts_the_flat_amount(unpriced: Any, amount: int) -> None:
    """Held before and spent after, through the whole guard; refused by default, with the reason."""
    world = World({"run_usd_cap": 100, "unpriced": unpriced})
    world.call(world.charges(Reply(200, {}, b"{}")), TAX)

    assert world.counted == (amount, 0, 0)
    with pytest.raises(UnpricedCall, match=r"cannot bound \(it has a fee of Stripe Tax\)"):
        World().call(call=TAX)


def test_what_no_cap_can_express_is_refused_before_it_is_sent() -> None:
    """Through the whole guard: nothing leaves, and the refusal is the typed one."""
    world = World({"run_usd_cap": 100, "unpriced": "allow"})

    with pytest.raises(UnpricedCall):
        world.call(call=HOOK)
    assert world.sent == 0
    assert world.counted == (0, 0, 0)


def test_classifying_is_a_look_up() -> None:
    """A call that was seen before costs a few microseconds at most; a new path less than a tenth of a millisecond."""
    seen = write("/v1/payment_intents/pi_1/capture")
    again = min(timeit.repeat(lambda: vendor.classify(seen), number=2000, repeat=5)) / 2000
    fresh = [[write(f"/v1/invoices/in_{lot}_{number}/lines/il_{number}") for number in range(500)] for lot in range(5)]
    # The best of several lots: the machine may be busy with other things.
    first = min(timeit.timeit(lambda lot=lot: [vendor.classify(made) for made in lot], number=1) for lot in fresh) / 500  # type: ignore[misc]  # -- a lambda's default

    assert again < 10e-6
    assert first < 100e-6
