"""respx: answers httpx from a router, below its transports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.neighbours import Neighbour
from tests.neighbours.canned import intent_for

if TYPE_CHECKING:
    import httpx


class Respx(Neighbour):
    """A router that is started and stopped."""

    hooks = frozenset({"httpx"})
    answers = True

    def __init__(self) -> None:
        self._router: Any = None

    def install(self) -> None:
        """Answer every PaymentIntent create."""
        import respx

        self._router = respx.mock(assert_all_called=False)
        self._router.post(path="/v1/payment_intents").mock(side_effect=_answer)
        self._router.start()

    def remove(self) -> None:
        """Stop the router, keeping its count."""
        self._router.stop(reset=False)

    def seen(self) -> int:
        """Count what it answered."""
        return len(self._router.calls) if self._router else 0


def _answer(request: httpx.Request) -> httpx.Response:
    import httpx

    return httpx.Response(200, json=intent_for(request.content))


neighbour = Respx()
