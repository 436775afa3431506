"""
Any HTTP API under a budget: five lines say whose hosts these are and what each operation may cost.

Run it against a stand-in (KEYGUARD_VENDOR_HOSTS=acme=127.0.0.1:8000 ACME_API_BASE=http://127.0.0.1:8000), because there is no acme. The
first argument is the budget in dollars, the others are texts to be read aloud.

    ACME_API_KEY=… python examples/04_guard_any_api.py 0.10 "Good morning." "Good night."
"""

from __future__ import annotations

import os
import sys

import httpx

import keyguard
from keyguard import vendors

# A cent for each started hundred characters; the answer says what was billed, which may be less. Voices can be deleted for nothing.
vendors.register(
    "acme",
    hosts=["api.acme.example"],
    operations={"POST /v1/speech": lambda call: -(-len(call.document["text"]) // 100) * 0.01, "DELETE /v1/voices/*": "free"},
    cost=lambda _call, reply: vendors.documents(reply)[0]["billed_usd"],
)


def main() -> None:
    """Let each text be read, as far as the budget goes."""
    budget, *texts = sys.argv[1:]
    headers = {"Authorization": f"Bearer {os.environ['ACME_API_KEY']}"}
    with (
        keyguard.run(id=os.environ.get("RUN_ID", "audiobook-1")),
        httpx.Client(base_url=os.environ.get("ACME_API_BASE", "https://api.acme.example"), headers=headers) as client,
    ):
        audiobook = keyguard.install(run_usd_cap=budget)
        for text in texts:
            try:
                print(client.post("/v1/speech", json={"text": text}).raise_for_status().json()["url"])
            except keyguard.SpendCapExceeded as refusal:
                sys.exit(f"stopped: {refusal}")
    print(f"spent ${audiobook.usage().spent / 1_000_000:.3f}")


if __name__ == "__main__":
    main()
