"""What the vendor says it charged, read page by page with plain httpx. Run as a process of its own; imports no keyguard."""

from __future__ import annotations

import json
import sys

import httpx

_PAGE = 100


def charged(api_base: str, api_key: str) -> tuple[int, int]:
    """Return the sum of all charges that went through, in cents, and their number."""
    cents = charges = 0
    query: dict[str, str | int] = {"limit": _PAGE}
    with httpx.Client(base_url=api_base, auth=(api_key, ""), trust_env=False) as client:
        while True:
            page = client.get("/v1/charges", params=query).raise_for_status().json()
            paid = [charge["amount"] for charge in page["data"] if charge["status"] == "succeeded"]
            cents, charges = cents + sum(paid), charges + len(paid)
            if not page["has_more"]:
                return cents, charges
            query["starting_after"] = page["data"][-1]["id"]


if __name__ == "__main__":
    total, number = charged(*sys.argv[1:3])
    print(json.dumps({"cents": total, "charges": number}))
