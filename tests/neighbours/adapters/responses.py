"""responses: answers requests from its adapter's `send`."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.neighbours import Neighbour
from tests.neighbours.canned import intent_for


class Responses(Neighbour):
    """A mock that is started and stopped."""

    hooks = frozenset({"requests"})
    answers = True

    def __init__(self) -> None:
        self._mock: Any = None
        self._answered = 0

    def install(self) -> None:
        """Answer every PaymentIntent create."""
        import responses

        self._mock = responses.RequestsMock(assert_all_requests_are_fired=False)
        self._mock.add_callback("POST", re.compile(r".*/v1/payment_intents$"), self._answer, content_type="application/json")
        self._mock.start()

    def _answer(self, request: Any) -> tuple[int, dict[str, str], str]:
        self._answered += 1
        return 200, {}, json.dumps(intent_for(request.body))

    def remove(self) -> None:
        """Stop it."""
        self._mock.stop(allow_assert=False)

    def seen(self) -> int:
        """Count what it answered."""
        return self._answered


neighbour = Responses()
