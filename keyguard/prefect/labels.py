"""What travels with a Prefect run into other processes: its labels, their names, and the one place that reads and writes them.

Labels are the one part of a run that Prefect takes along into process pools, Dask, Ray and task
workers. Anybody who can read the run sees them, so no secret may be in one.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from keyguard._values import frozen

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

ROOT_LABEL = "keyguard.root"
EXECUTION_LABEL = "keyguard.execution"
LEDGER_LABEL = "keyguard.ledger"
# What the server's record keeps of the execution. Another name than the one above: a record outlives its execution,
# and what reads the run anew for the next one must not take the last one's token for its own.
KEPT_EXECUTION_LABEL = "keyguard.last_execution"
# And of the budget that a subflow has asked for, by which runs find it that are started by a deployment; its next execution asks anew.
KEPT_BUDGET_LABEL = "keyguard.last_budget"
# Where in a trace the code was that sent the run to another process; the second one is Prefect's own, of the run's span.
TRACE_LABEL, _PREFECTS_TRACE_LABEL = "keyguard.traceparent", "__OTEL_TRACEPARENT"
# Where a URL that holds a password must be said in each process.
LEDGER_SETTING = "KEYGUARD_URL"
_SECRET_OPTIONS = re.compile(r"(?:^|&)[^=&]*(?:pass|secret|token|key|cred)[^=&]*=", re.IGNORECASE)


@frozen
class Marks:
    """
    What keyguard knows of a run wherever it is executed.

    Attributes:
        root: The root run.
        execution: Token of this entry of the root's body.
        ledger: The URL of its ledger, `env:NAME` where it holds a password, "" where nobody has said.
        budget: Of a run that a deployment started: the budget of the subflow that it was started in, by its key's run id; "" = the root's.
    """

    root: str
    execution: str = ""
    ledger: str = ""
    budget: str = ""


def read(labels: Mapping[str, Any] | None) -> Marks | None:
    """Return what a run's labels say; None where keyguard has not marked it."""
    if not labels or ROOT_LABEL not in labels:
        return None
    return Marks(str(labels[ROOT_LABEL]), str(labels.get(EXECUTION_LABEL, "")), str(labels.get(LEDGER_LABEL, "")))


def write(labels: MutableMapping[str, Any], marks: Marks) -> None:
    """Mark a run, in memory."""
    labels.update(_written(marks))
    if marks.execution:
        labels[EXECUTION_LABEL] = marks.execution


def record(marks: Marks) -> dict[str, str]:
    """Return the labels for the server's record of a root, which runs that are started by a deployment are found by."""
    return {**_written(marks), **({KEPT_EXECUTION_LABEL: marks.execution} if marks.execution else {})}


def recorded(labels: Mapping[str, Any] | None) -> Marks | None:
    """Return what the server's record of a root says to runs of other processes."""
    found = read(labels)
    return None if found is None or labels is None else Marks(found.root, str(labels.get(KEPT_EXECUTION_LABEL, "")), found.ledger)


def travelling(url: str) -> str:
    """Return how a ledger's URL travels: as it is, or, where it holds a secret, as the name of the setting that must say it."""
    parts = urlsplit(url)
    holds_secret = parts.password is not None or _SECRET_OPTIONS.search(parts.query) is not None
    return f"env:{LEDGER_SETTING}" if holds_secret else url


def trace_of(labels: Mapping[str, Any] | None) -> str:
    """Return the `traceparent` under which a run's calls belong where no span is open; "" where none came along."""
    found = labels or {}
    return str(found.get(TRACE_LABEL) or found.get(_PREFECTS_TRACE_LABEL) or "")


def names_a_payer() -> bool:
    """Say whether the environment names who pays in processes where nothing else does: `KEYGUARD_KEY` or `KEYGUARD_RUN_ID`."""
    return bool(os.environ.get("KEYGUARD_KEY") or os.environ.get("KEYGUARD_RUN_ID"))


def _written(marks: Marks) -> dict[str, str]:
    return {ROOT_LABEL: marks.root, **({LEDGER_LABEL: marks.ledger} if marks.ledger else {})}
