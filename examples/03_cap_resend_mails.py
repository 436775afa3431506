"""
A mailing through Resend that cannot reach more people than its budget pays for.

Run it against an account or a stand-in: each address gets one e-mail. The first argument is the budget in dollars; Resend bills by
recipient, at the dated list price unless KEYGUARD_RESEND_UNIT_USD says what your plan pays.

    RESEND_API_KEY=re_… python examples/03_cap_resend_mails.py 0.50 ada@example.com bea@example.com
"""

from __future__ import annotations

import os
import sys

import resend

import keyguard


def main() -> None:
    """Send one e-mail to each address, as far as the budget goes."""
    budget, *addresses = sys.argv[1:]
    resend.api_key = os.environ["RESEND_API_KEY"]
    with keyguard.run(id=os.environ.get("RUN_ID", "newsletter-2026-11-25")):
        newsletter = keyguard.install(run_usd_cap=budget, max_calls=1000, allowed_endpoints=["emails.send"])
        for address in addresses:
            mail: resend.Emails.SendParams = {"from": "us@example.com", "to": [address], "subject": "News", "text": "There is news."}
            try:
                # With a key of its own, an e-mail that is sent again after a crash is sent, and paid for, once.
                print("sent", resend.Emails.send(mail, {"idempotency_key": f"newsletter-2026-11-25/{address}"})["id"])
            except keyguard.SpendCapExceeded as refusal:
                sys.exit(f"stopped: {refusal}")
    print(f"spent ${newsletter.usage().spent / 1_000_000:.4f}")


if __name__ == "__main__":
    main()
