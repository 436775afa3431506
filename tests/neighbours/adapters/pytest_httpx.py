"""pytest-httpx: its `httpx_mock` fixture, set up and torn down by hand, because here one test is many orders."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from tests.neighbours import Neighbour
from tests.neighbours.canned import intent_for

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx


class PytestHttpx(Neighbour):
    """The fixture's own generator, with pytest's own MonkeyPatch."""

    hooks = frozenset({"httpx"})
    answers = True

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []
        self._answered: list[Any] = []

    def install(self) -> None:
        """Run the fixture as far as its `yield`."""
        import pytest
        import pytest_httpx

        patching = pytest.MonkeyPatch()
        # Of the request it reads the test's markers only; there are none.
        asking = SimpleNamespace(node=SimpleNamespace(iter_markers=lambda _name: iter(())))
        fixture = pytest_httpx.httpx_mock.__wrapped__(patching, asking)  # type: ignore[attr-defined]  # -- set by functools
        mock = next(fixture)
        mock.add_callback(self._answer, method="POST", is_reusable=True, is_optional=True)
        self._undo = [lambda: next(fixture, None), patching.undo]

    def _answer(self, request: httpx.Request) -> httpx.Response:
        import httpx

        self._answered.append(request)
        return httpx.Response(200, json=intent_for(request.content))

    def remove(self) -> None:
        """Finish the fixture, then undo, as pytest does."""
        for undo in self._undo:
            undo()

    def seen(self) -> int:
        """Count what it answered."""
        return len(self._answered)


neighbour = PytestHttpx()
