"""A `keyguard proxy` that runs in a process of its own, and short words for those who hold its tokens. Asserts only that it starts."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import stripe

from keyguard.ledgers import open_ledger

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from keyguard.ledgers import Ledger

ADMIN = "admin-token-of-the-tests-0123456789"
STRIPE_SECRET, TWILIO_SECRET, RESEND_SECRET = "sk_test_real_0123456789abcdef", "tw_real_0123456789abcdef", "re_real_0123456789abcdef"
USD = 1_000_000
PAY: dict[str, Any] = {"amount": 200, "currency": "usd", "confirm": True, "payment_method": "pm_card_visa"}
_PATIENCE = 60.0


class Proxy:
    """
    Runs from `with` to its end.

    Args:
        folder: Where its ledger is, and what it says on stderr.
        upstream: The stand-in of every vendor; a URL.
        options: Settings: `write_seconds=1` is KEYGUARD_PROXY_WRITE_SECONDS.

    Attributes:
        url: Its base.
        line: What it said when it started.
    """

    def __init__(self, folder: Path, upstream: str, **options: Any) -> None:
        self._log = folder / "proxy.log"
        self.ledger_url = f"sqlite:///{folder / 'proxy.db'}"
        self._environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("KEYGUARD_", "STRIPE_", "OTEL_"))},
            "KEYGUARD_PROXY_ADMIN_TOKENS": ADMIN, "STRIPE_SECRET_KEY": STRIPE_SECRET, "TWILIO_AUTH_TOKEN": TWILIO_SECRET,
            "RESEND_API_KEY": RESEND_SECRET, "KEYGUARD_PROXY_LEDGER": self.ledger_url, "KEYGUARD_PROXY_PORT": "0",
            "KEYGUARD_DURABILITY": "process",
            "KEYGUARD_PROXY_UPSTREAMS": ",".join(f"{vendor}={upstream}" for vendor in ("stripe", "twilio", "resend")),
            **{f"KEYGUARD_PROXY_{name.upper()}": str(value) for name, value in options.items()},
        }  # fmt: skip

    def __enter__(self) -> Proxy:
        with self._log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", "-c", "from keyguard.cli import main; main()", "proxy"],
                env=self._environ, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()
        found = re.search(r"https?://[^ ]+", self.line)

        assert found is not None, self.said
        self.url = found[0]
        # The next one on this ledger is at the same place.
        self._environ["KEYGUARD_PROXY_PORT"] = str(urlsplit(self.url).port)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def said(self) -> str:
        """What it wrote to stderr."""
        return self._log.read_text()

    @property
    def host(self) -> tuple[str, int]:
        """Where it listens."""
        parts = urlsplit(self.url)
        return str(parts.hostname), int(parts.port or 0)

    def stop(self) -> int:
        """End it as an orchestrator does, with SIGTERM; returns how it ended."""
        self.process.send_signal(signal.SIGTERM)
        return self._ended()

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.process.kill()
        self._ended()

    def _ended(self) -> int:
        code = self.process.wait(_PATIENCE)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def ask(self, method: str, path: str, body: Any = None, token: str = ADMIN, **headers: str) -> httpx.Response:
        """Ask as an admin."""
        sent = {**({"Authorization": f"Bearer {token}"} if token else {}), **headers}
        return httpx.request(method, self.url + path, json=body, headers=sent, timeout=_PATIENCE, trust_env=False)

    def issue(self, **fields: Any) -> dict[str, Any]:
        """Issue a key that must be had."""
        answer = self.ask("POST", "/vault/keys", {"run_usd_cap": 100, **fields})

        assert answer.status_code in {200, 201}, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def token(self, **fields: Any) -> str:
        """Issue a key, and return its token."""
        return str(self.issue(**fields)["vault_key"])

    def shown(self, key_id: str) -> dict[str, Any]:
        """Return a key's figures."""
        found: dict[str, Any] = self.ask("GET", f"/vault/keys/{key_id}").json()
        return found

    def call(self, token: str, method: str, path: str, form: Mapping[str, Any] | None = None, **headers: str) -> httpx.Response:
        """Make a vendor's call with a token, without any SDK."""
        sent = {"Authorization": f"Bearer {token}", **headers}
        return httpx.request(method, self.url + path, data=form, headers=sent, timeout=_PATIENCE, trust_env=False)

    def stripe(self, token: str, **options: Any) -> Any:
        """Return Stripe's own client, pointed here."""
        return stripe.StripeClient(token, base_addresses={"api": f"{self.url}/stripe"}, **options)

    @contextlib.contextmanager
    def ledger(self) -> Iterator[Ledger]:
        """Open its ledger beside it."""
        found = open_ledger(self.ledger_url, durability="process")
        try:
            yield found
        finally:
            found.shut()

    @contextlib.contextmanager
    def wire(self) -> Iterator[socket.socket]:
        """Connect without any client library."""
        with socket.create_connection(self.host, timeout=_PATIENCE) as connection:
            yield connection

    def told(self, raw: bytes) -> bytes:
        """Send bytes, and return all that comes back until the proxy hangs up."""
        with self.wire() as connection:
            found = b""
            # Refused halfway, the proxy hangs up while there is more to be sent.
            with contextlib.suppress(ConnectionError):
                connection.sendall(raw)
            with contextlib.suppress(ConnectionError):
                while part := connection.recv(65_536):
                    found += part
            return found
