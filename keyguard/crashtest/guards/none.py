"""No guard: what happens without one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyguard.crashtest.contract import Charge, Terms


class Guard:
    """Sends everything and counts nothing."""

    refusals: ClassVar[tuple[type[BaseException], ...]] = ()
    is_shared = True

    def __init__(self, terms: Terms) -> None:
        self._terms = terms

    def call(self, charge: Charge, send: Callable[[], Any]) -> Any:
        """Send."""
        _ = charge
        return send()

    def spent(self) -> int:
        """Know of nothing."""
        return 0
