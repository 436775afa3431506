"""Hooks for `@flow(on_cancellation=[...], on_crashed=[...])`: they write into the ledger that a run's key is revoked. Decide nothing.

They are a back-up, for what keeps calling where nobody watches (orphans, other machines): Prefect calls them when it has killed the run's
process, up to forty seconds after the cancellation, and in another process: the one that serves the flow, or a fresh one of a worker.
There keyguard may not be installed. So the ledger is looked for: in what is armed here, in the flow run's labels, in the
environment, and at the user's default place. A look never makes a ledger, and nothing is ever raised into Prefect.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from keyguard.install import ledgers_in_use
from keyguard.ledgers import open_ledger
from keyguard.prefect.labels import LEDGER_LABEL
from keyguard.settings import default_url, is_proxy, load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keyguard.ledgers import Ledger

_log = logging.getLogger("keyguard")


def revoke_on_cancellation(flow: Any, flow_run: Any, state: Any) -> None:
    """
    Revoke the key of a flow run that was cancelled, for good: `@flow(on_cancellation=[revoke_on_cancellation])`.

    A revoked key stays revoked: the same run, retried, is refused. Without this hook a cancelled run makes no further call either, and goes
    on with what is left of its budget when it is retried. Doing it again changes nothing. Never raises.
    """
    _revoke(flow, flow_run, f"Prefect's on_cancellation hook ({_name(state)})")


def revoke_on_crash(flow: Any, flow_run: Any, state: Any) -> None:
    """Revoke the key of a flow run that crashed, for good: `@flow(on_crashed=[revoke_on_crash])`; as `revoke_on_cancellation` does."""
    _revoke(flow, flow_run, f"Prefect's on_crashed hook ({_name(state)})")


def _revoke(flow: Any, flow_run: Any, by: str) -> None:
    logger: Any = _log
    try:
        logger = _logger_of(flow, flow_run)
        run_id = str(flow_run.id)
        looked_at = list(_revoked(run_id, flow_run, by))
        if any(count for _, count in looked_at):
            logger.warning("keyguard has revoked the key of run %s: %s", run_id, by)
        elif getattr(flow_run, "parent_task_run_id", None) is not None:
            logger.info("subflow run %s has no key of its own: the budget of the run that it belongs to goes on", run_id)
        else:
            places = ", ".join(place for place, _ in looked_at) or "no ledger that is known here"
            logger.warning("keyguard found no key of run %s to revoke (looked in %s; set KEYGUARD_URL if it is elsewhere)", run_id, places)
    except Exception as error:
        words = "keyguard could not revoke the key of a run that was stopped (%s: %s); do it by hand: keyguard revoke --run %s"
        logger.error(words, type(error).__name__, error, getattr(flow_run, "id", "RUN"))  # noqa: TRY400 -- for a person in Prefect's UI


def _revoked(run_id: str, flow_run: Any, by: str) -> Iterator[tuple[str, int]]:
    """Revoke in each place until one knows the run; yields the place, and how many keys it was."""
    seen: set[str] = set()
    for ledger in ledgers_in_use():
        seen.add(ledger.url)
        count = _revoked_in(ledger, run_id, by)
        yield ledger.url, count
        if count:
            return
    settings = load_settings()
    # "env:NAME" where the URL holds a secret: then it is the setting's, or is not known here.
    label = str((getattr(flow_run, "labels", None) or {}).get(LEDGER_LABEL, ""))
    front = settings.front_ledger or default_url()
    named = ("" if label.startswith("env:") else label, settings.url, default_url())
    # Of a proxy the ledger in front of it has the run, and says which keys it has there.
    for url in dict.fromkeys(front if is_proxy(url) else url for url in named):
        if not url or url in seen or not _is_there(url):
            continue
        ledger = open_ledger(url, durability=settings.durability)
        try:
            count = _revoked_in(ledger, run_id, by)
        finally:
            ledger.shut()
        yield url, count
        if count:
            return


def _revoked_in(ledger: Ledger, run_id: str, by: str) -> int:
    """Revoke here, and then at the proxies that the run's calls go through."""
    count = ledger.revoke(run_id=run_id, by=by)
    if ledger.remote_keys(run_id=run_id):
        # It brings an HTTP client.
        from keyguard.backends.keybrake import revoke_at_proxies

        revoke_at_proxies(ledger, load_settings(), run_id=run_id, by=by)
    return count


def _is_there(url: str) -> bool:
    """Say whether a file of ours is there, without making one; other ledgers are asked."""
    parts = urlsplit(url)
    if not parts.scheme.startswith("sqlite"):
        return True
    return bool(parts.path.strip("/")) and Path(parts.path[1:]).expanduser().exists()


def _logger_of(flow: Any, flow_run: Any) -> Any:
    """Return the run's logger, so that the line shows up in Prefect's UI; hooks have no run context."""
    from prefect.logging.loggers import flow_run_logger

    return flow_run_logger(flow_run, flow)


def _name(state: Any) -> str:
    return str(getattr(state, "name", None) or "stopped")
