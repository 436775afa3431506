"""Which parameters each of Stripe's operations has, from a data file that is read when first asked for, and what may carry a run's id."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keyguard.model import Call, Operation, Pairs, Quote

_TAG = "metadata[keyguard_run]"
# Stripe's limits on metadata (API reference, "Metadata", read 2026-11): 50 keys, values of 500 characters.
_MOST_KEYS, _LONGEST = 50, 500


@cache
def parameters() -> Mapping[str, frozenset[str] | None]:
    """Return the top-level parameters of each operation."""
    lines = Path(__file__).with_name("stripe_parameters.txt").read_text(encoding="utf-8").splitlines()
    return {name: frozenset(fields) for name, *fields in (line.split(" ") for line in lines if not line.startswith("#"))}


def tag(call: Call, operation: Operation, quote: Quote, run_id: str) -> Pairs:
    """Name the run in the metadata of what a v1 call creates for money, unless the caller's own metadata leaves no room for it."""
    if not operation.name.endswith(".create") or not quote.amount or call.body is None or call.document is not None:
        return ()
    own = [name for name, _ in call.body if name.startswith("metadata")]
    has_room = len(own) < _MOST_KEYS and len(run_id) <= _LONGEST and "metadata" not in own and _TAG not in own
    return ((_TAG, run_id),) if has_room and "metadata" in (parameters().get(operation.name) or ()) else ()
