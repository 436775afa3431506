"""
A client process that charges as fast as it may, on one kept connection, until it is refused by 401 or told to end: `python -m
tests.proxy.hammer URL TOKEN NAME`. Ready, it prints a line, and begins when stdin has one. At its end it prints how many orders were
answered by 200, and each answer that it did not understand. An order whose answer was lost is asked for again, with its own
key, until somebody answers.
"""

from __future__ import annotations

import collections
import contextlib
import http.client
import json
import select
import sys
import time
from urllib.parse import urlsplit

FORM = "amount=100&currency=usd&confirm=true&payment_method=pm_card_visa"
_AGAIN = 0.05  # seconds before an order is tried again
_ENDS = frozenset({401, 429})


class Hammer:
    """One connection, made again when it is lost."""

    def __init__(self, url: str, token: str) -> None:
        self._place = urlsplit(url).netloc
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/x-www-form-urlencoded"}
        self._connection = http.client.HTTPConnection(self._place, timeout=60)

    def order(self, name: str) -> int:
        """Ask once for one order; returns the status, 0 = nobody answered."""
        try:
            self._connection.request("POST", "/stripe/v1/payment_intents", FORM, {**self._headers, "Idempotency-Key": name})
            answer = self._connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            self._connection = http.client.HTTPConnection(self._place, timeout=60)
            return 0
        return answer.status


def is_told() -> bool:
    """Say whether stdin has something more, or has ended."""
    return bool(select.select([sys.stdin], [], [], 0)[0])


def main(url: str, token: str, name: str) -> None:
    """Charge."""
    hammer, counts, number = Hammer(url, token), collections.Counter[int](), 0
    print("ready", flush=True)
    sys.stdin.readline()
    while not is_told():
        number += 1
        status = 0
        while not is_told():
            status = hammer.order(f"{name}-{number}")
            counts[status] += 1
            # 409 and 5xx: nobody knows, or not now; by its key the same order is no second charge.
            if status not in {0, 409} and status < 500:
                break
            select.select([sys.stdin], [], [], _AGAIN)
        if status in _ENDS:
            break
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps({"counts": counts, "ended": time.time()}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
