"""The vendors of the doors, on loopback with their own count of what they executed, and a host that is nobody's."""

from __future__ import annotations

import itertools
import os
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import stripe

from tests.support_json_server import Answer, JsonServer
from tests.support_twilio_server import ACCOUNT, TOKEN

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support_json_server import Arrived


@dataclass(frozen=True, slots=True)
class Kind:
    """
    One vendor.

    Attributes:
        name: As its plug has it.
        path: Where the call goes that costs one unit.
        unit: What that is, in micro-USD.
        secret: The real one, and `secret_env` the variable from which keyguard takes it.
        answer: The vendor's own answer to the n-th executed call.
        is_idempotent: It executes a call with the same idempotency key once.
    """

    name: str
    path: str
    unit: int
    secret: str
    secret_env: str
    answer: Callable[[int], dict[str, Any]]
    is_idempotent: bool = True


def _intent(n: int) -> dict[str, Any]:
    return {
        "id": f"pi_{n}", "object": "payment_intent", "amount": 100, "amount_received": 100, "amount_capturable": 0, "currency": "usd",
        "status": "succeeded", "latest_charge": f"ch_{n}",
    }  # fmt: skip


def _message(n: int) -> dict[str, Any]:
    return {
        "sid": f"SM{n:032x}", "account_sid": ACCOUNT, "status": "queued", "num_segments": "1", "num_media": "0", "price": None,
        "price_unit": "USD", "direction": "outbound-api", "error_code": None, "error_message": None,
    }  # fmt: skip


STRIPE = Kind("stripe", "/v1/payment_intents", 1_000_000, "sk_test_real", "STRIPE_SECRET_KEY", _intent)
RESEND = Kind("resend", "/emails", 900, "re_real", "RESEND_API_KEY", lambda n: {"id": f"00000000-0000-4000-8000-{n:012d}"})
_MESSAGES = f"/2010-04-01/Accounts/{ACCOUNT}/Messages.json"
TWILIO = Kind("twilio", _MESSAGES, 14_800, TOKEN, "TWILIO_AUTH_TOKEN", _message, is_idempotent=False)
# A further vendor is a further line here, and its doors in rows.py.
KINDS = (STRIPE, RESEND, TWILIO)
# Listed as each vendor's too; no name server knows it.
NOWHERE = {kind.name: f"http://api.{kind.name}.invalid" for kind in KINDS}


@dataclass
class Vendor:
    """
    What one vendor did.

    Attributes:
        executed: Calls executed, each once for each idempotency key.
    """

    kind: Kind
    executed: int = 0
    _ids: Any = field(default_factory=lambda: itertools.count(1))
    _keys: dict[str, Answer] = field(default_factory=dict)

    def answer(self, arrived: Arrived) -> Answer:
        """Answer one request; a proxy's absolute URL is the same path."""
        path = arrived.path.partition("?")[0]
        if arrived.method != "POST" or not path.endswith(self.kind.path):
            return Answer(200, {"object": "list", "data": [], "has_more": False})
        key = arrived.headers.get("idempotency-key", "")
        if key in self._keys:
            return self._keys[key]
        self.executed += 1
        answer = Answer(201 if self.kind.name == "twilio" else 200, self.kind.answer(next(self._ids)))
        if key and self.kind.is_idempotent:
            self._keys[key] = answer
        return answer


class World:
    """
    A server for each vendor and one that is nobody's, all on loopback; `with` lists the vendors' as their own.

    Attributes:
        servers: By vendor.
        nobody: The host that is no vendor's.
    """

    def __init__(self) -> None:
        self._vendors = {kind.name: Vendor(kind) for kind in KINDS}
        self.servers = {name: JsonServer(vendor.answer) for name, vendor in self._vendors.items()}
        self.nobody = JsonServer(lambda _: Answer(200, {}))
        self._open = ExitStack()

    def __enter__(self) -> World:
        for server in (*self.servers.values(), self.nobody):
            self._open.enter_context(server)
        # Stripe's SDK waits half a second before it tries again; it reads this of the class.
        self._open.enter_context(pytest.MonkeyPatch.context()).setattr(stripe.HTTPClient, "INITIAL_DELAY", 0)
        self.list_hosts()
        return self

    def list_hosts(self) -> None:
        """Set the environment by which keyguard knows the vendors, and their secrets."""
        listed = [(name, at) for name, server in self.servers.items() for at in (server.host, NOWHERE[name].removeprefix("http://"))]
        os.environ["KEYGUARD_VENDOR_HOSTS"] = ",".join(f"{name}={at}" for name, at in listed)
        os.environ |= {kind.secret_env: kind.secret for kind in KINDS}

    def __exit__(self, *_: object) -> None:
        self._open.close()
        for name in ("KEYGUARD_VENDOR_HOSTS", *(kind.secret_env for kind in KINDS)):
            os.environ.pop(name, None)

    def renew(self) -> None:
        """Forget what happened."""
        self._vendors = {kind.name: Vendor(kind) for kind in KINDS}
        for name, server in self.servers.items():
            server.answer = self._vendors[name].answer
        for server in (*self.servers.values(), self.nobody):
            server.requests.clear()
            server.scripted.clear()
        self.nobody.answer = lambda _: Answer(200, {})

    def of(self, kind: Kind) -> JsonServer:
        """Return a vendor's server."""
        return self.servers[kind.name]

    def others(self, kind: Kind) -> list[JsonServer]:
        """Return the servers of the other vendors."""
        return [server for name, server in self.servers.items() if name != kind.name]

    def executed(self, kind: Kind) -> int:
        """Return how many calls a vendor executed."""
        return self._vendors[kind.name].executed
