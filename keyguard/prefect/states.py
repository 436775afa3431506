"""What is known of a flow run, and asking Prefect's API which runs are over: one request for all of them. Decides nothing.

What is asked goes through Prefect's own sync client, with the settings of whoever started the run; so it also
finds the server that Prefect starts by itself where no API is set.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from keyguard._values import frozen

if TYPE_CHECKING:
    import weakref
    from collections.abc import Iterable, Mapping

# Seconds until a request that is not answered is given up; the client's own retries are off, because the next period asks anew.
_TIMEOUT_SECONDS = 5.0
# What the server returns in one page.
_PAGE = 200
CANCELLED = frozenset({"CANCELLING", "CANCELLED"})
# What stops a run's calls wherever they are made; the others are also where a flow has come to its own end, and left tasks at work.
STOPPED = CANCELLED | {"CRASHED"}
ENDED = STOPPED | {"COMPLETED", "FAILED"}


@frozen
class Entered:
    """
    A flow run's context that calls were made in, or round such a one.

    Attributes:
        flow_run: Prefect's object, which each execution has of its own; it dies with the last context that holds it.
        flow_context: The context itself.
        lineage: Its id, then those of the flow runs it was entered under, as far as they are known here; its root's is the last.
        is_here: Its body runs in this process: elsewhere there is a copy, whose state does not change.
        is_left: Its body has ended by a failure.
    """

    flow_run: weakref.ref[Any]
    flow_context: weakref.ref[Any]
    lineage: tuple[str, ...]
    is_here: bool
    is_left: bool = False

    def has_gone(self) -> bool:
        """Say whether it is a copy that was left again: its task has ended, whenever Python collects what is left of it."""
        found = None if self.is_here else self.flow_context()
        # Prefect keeps the token of an entered context, and takes it away at the exit.
        return found is not None and getattr(found, "_token", found) is None


@frozen
class Stop:
    """
    Why a run's calls are stopped.

    Attributes:
        how: What follows its id in a sentence.
        spares: The thread whose calls are not, by its ident; 0 = none.
    """

    how: str
    spares: int = 0


@frozen
class State:
    """
    A flow run's state.

    Attributes:
        kind: Prefect's state type: `CANCELLING`, `CANCELLED`, `CRASHED`, `COMPLETED`, `FAILED`; "" = any other, or none.
        name: What people call it; it may be one of their own.
        run_name: The run's name, "" where it has none.
    """

    kind: str
    name: str = ""
    run_name: str = ""


@frozen
class Source:
    """
    Where a run's states are.

    Attributes:
        url: The API's.
        settings: Prefect's settings context of the run; None = the process's.
    """

    url: str
    settings: Any


def state_of(flow_run: Any) -> State:
    """Read the state that a flow run has in memory, or as the API returned it."""
    state = getattr(flow_run, "state", None)
    kind = str(getattr(getattr(state, "type", None), "value", ""))
    name = str(getattr(state, "name", None) or kind.capitalize())
    return State(kind if kind in ENDED else "", name, str(getattr(flow_run, "name", None) or ""))


def source_of(flow_context: Any) -> Source | None:
    """Return where the engine of a context talks to; None where Prefect has no API."""
    from prefect.context import SettingsContext
    from prefect.settings import PREFECT_API_URL

    # The engine's own client knows the server that Prefect has started by itself, of which the settings say nothing.
    url = getattr(getattr(flow_context, "client", None), "api_url", None) or PREFECT_API_URL.value()
    return Source(str(url), SettingsContext.get()) if url else None


class Asker:
    """A client for one source, from `with` to its end; for one thread."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._stack = ExitStack()

    def __enter__(self) -> Asker:
        from prefect.client.orchestration import SyncPrefectClient
        from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_KEY, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

        with ExitStack() as stack:
            if self.source.settings is not None:
                # A copy, because a context can be entered once at a time.
                stack.enter_context(self.source.settings.model_copy())
            stack.enter_context(temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}))
            client = SyncPrefectClient(
                self.source.url,
                auth_string=PREFECT_API_AUTH_STRING.value(),
                api_key=PREFECT_API_KEY.value(),
                httpx_settings={"timeout": _TIMEOUT_SECONDS},
            )
            self._client = stack.enter_context(client)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def ask(self, run_ids: Iterable[str]) -> Mapping[str, State]:
        """
        Return the state of each of these flow runs that is stopping or ended; of others nothing.

        Raises:
            Exception: the API did not answer, in whatever way.
        """
        from prefect.client.schemas.sorting import FlowRunSort

        wanted = sorted(run_ids)
        found: dict[str, State] = {}
        for first in range(0, len(wanted), _PAGE):
            some = _ended_of(wanted[first : first + _PAGE])
            # Without a sort the server refuses the question.
            page = self._client.read_flow_runs(flow_run_filter=some, sort=FlowRunSort.ID_DESC, limit=_PAGE)
            found.update((str(flow_run.id), state_of(flow_run)) for flow_run in page)
        return found


def _ended_of(run_ids: list[str]) -> Any:
    from prefect.client.schemas.filters import FlowRunFilter

    # Most answers are an empty list: no parameters of runs at work are sent about.
    return FlowRunFilter.model_validate({"id": {"any_": run_ids}, "state": {"type": {"any_": sorted(ENDED)}}})
