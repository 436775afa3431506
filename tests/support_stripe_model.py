"""A PaymentIntent's life as Stripe documents it, in memory: what a call does to it, and what is true of the money afterwards."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from keyguard.model import Reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyguard.model import Call

_CONFIRMABLE = frozenset({"requires_payment_method", "requires_confirmation", "requires_action"})


@dataclass
class Model:
    """
    Intents and refunds of one account.

    Attributes:
        intents: By id, with the fields that money is read from.
        answers: Decides what becomes of a confirmation: `succeeded`, `declined`, `requires_action`, `processing`.
    """

    answers: Callable[[], str]
    intents: dict[str, dict[str, Any]] = field(default_factory=dict)
    _ids: Any = field(default_factory=lambda: itertools.count(1))

    def execute(self, call: Call) -> Reply:
        """Do what a call asks, and answer."""
        form = dict(call.body or ())
        _, _, kind, *rest = call.path.split("/")
        if kind == "refunds":
            return self._refund(form)
        if not rest:
            return self._create(form)
        return self._act(self.intents[rest[0]], rest[1] if rest[1:] else "update", form)

    def show(self, path: str) -> Reply:
        """Answer a GET."""
        found = self.intents.get(path.split("/")[3])
        return Reply(404, {}, b"{}") if found is None else _good(found)

    def charged(self) -> list[tuple[int, str]]:
        """Return every intent's money that was really taken, in its smallest unit, and its currency."""
        return [(intent["amount_received"], intent["currency"]) for intent in self.intents.values()]

    def _create(self, form: dict[str, str]) -> Reply:
        number = next(self._ids)
        intent: dict[str, Any] = {
            "id": f"pi_{number}", "object": "payment_intent", "amount": int(form["amount"]), "currency": form["currency"].lower(),
            "amount_received": 0, "amount_capturable": 0, "amount_refunded": 0, "status": "requires_confirmation", "latest_charge": None,
            "capture_method": form.get("capture_method", "automatic"),
        }  # fmt: skip
        self.intents[intent["id"]] = intent
        return self._confirm(intent) if form.get("confirm") == "true" else _good(intent)

    def _act(self, intent: dict[str, Any], action: str, form: dict[str, str]) -> Reply:
        if action == "update" and intent["status"] in _CONFIRMABLE:
            intent["amount"] = int(form.get("amount", intent["amount"]))
        elif action == "confirm" and intent["status"] in _CONFIRMABLE:
            return self._confirm(intent)
        elif action == "capture" and intent["status"] == "requires_capture":
            wanted = int(form.get("amount_to_capture", intent["amount_capturable"]))
            if wanted > intent["amount_capturable"]:
                return _bad()
            intent |= {"status": "succeeded", "amount_received": wanted, "amount_capturable": 0}
        elif action == "increment_authorization" and intent["status"] == "requires_capture" and int(form["amount"]) > intent["amount"]:
            intent |= {"amount": int(form["amount"]), "amount_capturable": int(form["amount"])}
        elif action == "cancel" and intent["status"] not in {"succeeded", "canceled"}:
            intent |= {"status": "canceled", "amount_capturable": 0}
        else:
            return _bad()
        return _good(intent)

    def _confirm(self, intent: dict[str, Any]) -> Reply:
        answer = self.answers()
        if answer == "declined":
            intent["status"] = "requires_payment_method"
            return _bad(402)
        if answer in {"requires_action", "processing"}:
            intent["status"] = answer
            return _good(intent)
        intent["latest_charge"] = f"ch_{intent['id'][3:]}"
        if intent["capture_method"] == "manual":
            intent |= {"status": "requires_capture", "amount_capturable": intent["amount"]}
        else:
            intent |= {"status": "succeeded", "amount_received": intent["amount"]}
        return _good(intent)

    def _refund(self, form: dict[str, str]) -> Reply:
        intent = self.intents[form["payment_intent"]]
        left = intent["amount_received"] - intent["amount_refunded"]
        amount = int(form.get("amount", left))
        if not 0 < amount <= left:
            return _bad()
        intent["amount_refunded"] += amount
        return _good({
            "id": f"re_{next(self._ids)}", "object": "refund", "amount": amount, "currency": intent["currency"], "status": "succeeded",
            "payment_intent": intent["id"], "charge": intent["latest_charge"],
        })  # fmt: skip


def _good(body: dict[str, Any]) -> Reply:
    shown = {name: value for name, value in body.items() if name not in {"amount_refunded", "capture_method"}}
    return Reply(200, {"request-id": "req_1"}, json.dumps(shown).encode())


def _bad(status: int = 400) -> Reply:
    return Reply(status, {"request-id": "req_1"}, b'{"error": {"type": "invalid_request_error"}}')
