"""Switches the Prefect integration on and off, and marks the running flow run. What each part does is in its own file."""

from __future__ import annotations

from keyguard import context
from keyguard.prefect import cancellation, carrying, engine, roots
from keyguard.prefect.marking import entered_flow, is_root, mark
from keyguard.prefect.provider import provider, set_watcher, subflow


def activate() -> None:
    """Make Prefect's runs known to keyguard, and refusals and stops to Prefect's engine; calling it again changes nothing."""
    context.register_provider("prefect", provider, roots.resolve, subflow)
    cancellation.activate()
    carrying.watch()
    engine.patch()


def deactivate() -> None:
    """Leave Prefect as it was found; its runs stay known, so that what is armed next finds them."""
    engine.unpatch()
    carrying.unwatch()
    # Who does not take in what it is told of would be told of it at each look.
    set_watcher(None)


def tell(ledger: str) -> None:
    """Mark the running flow run with the ledger where its key is; and the server's record of a root, or of a budget of a subflow's own."""
    entered = entered_flow()
    marks = mark(entered, ledger)
    # A context that was made by hand has no flow, and belongs to no server.
    if entered is None or marks is None or entered.flow is None:
        return
    if is_root(entered.flow_run):
        roots.record(marks)
    else:
        roots.record_budget(entered.flow_run)


def mark_root() -> None:
    """Write the root's id to the labels of the running flow run, so that contexts sent to other processes carry it."""
    mark(entered_flow())
