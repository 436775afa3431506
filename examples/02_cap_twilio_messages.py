"""
Messages through Twilio that stop at a budget, and go to one country only.

Run it against an account or a stand-in: it sends each number one short message. The first argument is the budget in dollars.

    TWILIO_ACCOUNT_SID=AC… TWILIO_AUTH_TOKEN=… TWILIO_FROM=+1… python examples/02_cap_twilio_messages.py 0.50 +12125550123 +12125550124
"""

from __future__ import annotations

import os
import sys

from twilio.rest import Client  # pyright: ignore[reportMissingTypeStubs] -- twilio ships no marker for its types

import keyguard
from keyguard.errors import RuleViolated


def main() -> None:
    """Send, and say what was sent, what was not allowed, and what it may cost."""
    budget, *numbers = sys.argv[1:]
    client = Client(os.environ["TWILIO_ACCOUNT_SID"], os.environ["TWILIO_AUTH_TOKEN"])
    client.api.base_url = os.environ.get("TWILIO_API_BASE", client.api.base_url)
    with keyguard.run(id=os.environ.get("RUN_ID", "reminders-2026-11-25")):
        reminders = keyguard.install(
            run_usd_cap=budget, allowed_endpoints=["messages.create"], rules={"messages.create": {"To": {"prefix": ["+1"]}}}
        )
        for number in numbers:
            try:
                client.messages.create(to=number, from_=os.environ["TWILIO_FROM"], body="Your appointment is tomorrow at 9.")
                print("sent to", number)
            except RuleViolated:
                print("not allowed:", number)
            except keyguard.SpendCapExceeded as refusal:
                sys.exit(f"stopped: {refusal}")
    print(f"at most ${reminders.usage().spent / 1_000_000:.3f}")


if __name__ == "__main__":
    main()
