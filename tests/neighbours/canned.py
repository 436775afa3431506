"""What neighbours answer that replace the wire: the PaymentIntent that was asked for."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs


def intent_for(form: bytes | str) -> dict[str, Any]:
    """Return a succeeded PaymentIntent of the amount in a form."""
    amount = int(parse_qs(form if isinstance(form, str) else form.decode())["amount"][0])
    return {
        "id": f"pi_canned_{amount}", "object": "payment_intent", "amount": amount, "amount_received": amount, "amount_capturable": 0,
        "currency": "usd", "status": "succeeded", "latest_charge": f"ch_canned_{amount}", "metadata": {}, "customer": None,
    }  # fmt: skip
