"""Which of Stripe's objects are marked with a run's id, and how."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyguard.vendors._tables import parameters_of

if TYPE_CHECKING:
    from keyguard.model import Call, Operation, Pairs, Quote

_TAG = "metadata[keyguard_run]"
# Stripe's limits on metadata (API reference, "Metadata", read 2026-11): 50 keys, values of 500 characters.
_MOST_KEYS, _LONGEST = 50, 500


def tag(call: Call, operation: Operation, quote: Quote, run_id: str) -> Pairs:
    """Name the run in the metadata of what a v1 call creates for money, unless the caller's own metadata leaves no room for it."""
    if not operation.name.endswith(".create") or not quote.amount or call.body is None or call.document is not None:
        return ()
    own = [name for name, _ in call.body if name.startswith("metadata")]
    has_room = len(own) < _MOST_KEYS and len(run_id) <= _LONGEST and "metadata" not in own and _TAG not in own
    return ((_TAG, run_id),) if has_room and "metadata" in (parameters_of("stripe").get(operation.name) or ()) else ()
