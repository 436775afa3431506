"""floe-guard (PyPI, MIT), in the form that shares a budget between processes, by its README: SqliteStore, reserve_tool, settle_tool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from floe_guard import BudgetExceeded, BudgetGuard, SqliteStore  # pyright: ignore[reportMissingTypeStubs]  # -- it has none

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyguard.crashtest.contract import Charge, Terms


class Guard:
    """A shared budget of the UTC day; a call that fails gives its hold back."""

    refusals = (BudgetExceeded,)
    is_shared = True

    def __init__(self, terms: Terms) -> None:
        self._store, self._cap = SqliteStore(f"{terms.folder}/floe.db"), terms.cap / 1_000_000
        self._guard = BudgetGuard(self._cap, store=self._store, window="utc-day", on_block=lambda _spent, _cap: None)

    def call(self, charge: Charge, send: Callable[[], Any]) -> Any:
        """Hold, send, settle."""
        cost = charge.amount / 1_000_000
        hold = self._guard.reserve_tool(cost)
        try:
            answer = send()
        except BaseException:
            self._guard.release(hold)
            raise
        self._guard.settle_tool("stripe", cost, reserved=hold)
        return answer

    def spent(self) -> int:
        """Return spent and held."""
        counted: int = round((self._cap - self._guard.remaining_usd) * 1_000_000)
        return counted
