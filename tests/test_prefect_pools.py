"""What holds across the processes of a pool: traces, and the budgets that all of them spend from at once."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

import keyguard
from keyguard.ledgers import open_ledger
from tests.support_gather import Gathering

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keyguard.testing.double import VendorDouble

USD = 1_000_000
pytestmark = [pytest.mark.ci, pytest.mark.timeout(400)]


@pytest.fixture
def flows(prefect_server: str) -> Iterator[Any]:
    """The flows."""
    from tests import support_pools

    yield support_pools
    keyguard.uninstall()


@pytest.mark.parametrize("is_traced", [pytest.param(True, id="with Prefect's tracing"), pytest.param(False, id="without")])
def test_a_pools_spans_belong_to_the_trace_of_who_sent_them(
    flows: Any, double: VendorDouble, url: str, monkeypatch: pytest.MonkeyPatch, *, is_traced: bool
) -> None:
    """The child's span of a call has its parent in the flow's process: the span that was current when the task was submitted."""
    from prefect.settings import PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY, temporary_settings

    tracer = TracerProvider().get_tracer("tests")
    with temporary_settings({PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY: is_traced}), tracer.start_as_current_span("month's end") as span:
        found: Any = flows.traced(double.url, url)
    within = span.get_span_context()

    assert [(one["name"], one["context"]["trace_id"]) for one in found] == [("stripe payment_intents.create", f"0x{within.trace_id:032x}")]
    assert found[0]["parent_id"] == f"0x{within.span_id:016x}"


@pytest.mark.parametrize(
    ("cap", "caps", "spent"),
    [pytest.param(100, [17, 24], [17, 24], id="their own caps"), pytest.param(30, [25, 25], None, id="the run's cap")],
)
def test_processes_that_race_over_two_children_hold_every_cap(
    flows: Any, double: VendorDouble, url: str, cap: int, caps: list[int], spent: list[int] | None
) -> None:
    """Eight processes of one run, four in each of two subflows, begin at the same moment: not a dollar above a cap, and none left."""
    with Gathering(8) as gathering:
        refused: Any = flows.parted(double.url, url, cap, caps, gathering.address)
    made = Counter[str]()
    for customer, count in double.truth.charges_by("customer").items():
        made[customer.split("_")[1]] += count
    ledger = open_ledger(url)
    budgets = {(key.run_id or "")[36:]: usage for key, usage in ledger.runs()}
    run_id = next(key.run_id for key, _ in ledger.runs() if key.parent is None)

    assert gathering.come == 8
    assert {name: (usage.held, usage.doubt) for name, usage in budgets.items()} == dict.fromkeys(budgets, (0, 0))
    assert budgets[""].spent == double.truth.charged() == made.total() * USD
    # Which subflow was first is the scheduler's: by the ledger, each is its processes' own, by the vendor's word.
    assert sorted(usage.spent for name, usage in budgets.items() if name) == sorted(count * USD for count in made.values())
    if spent is not None:
        assert [made["0"], made["1"]] == spent
        assert [len(set(scopes)) for scopes in refused] == [1, 1]
        assert {scope for scopes in refused for scope in scopes} == {f"run:{run_id}{name}" for name in budgets if name}
    else:
        assert made.total() == cap
        assert max(made.values()) <= max(caps)
        assert {scope for scopes in refused for scope in scopes} >= {f"run:{run_id}"}
    assert ledger.verify() == []
    ledger.shut()
