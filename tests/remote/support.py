"""One world in three set-ups: the vendor double, guarded by a ledger here, by a proxy, or by a ledger here in front of a proxy."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from typing import TYPE_CHECKING, Any, Literal

import pytest
import resend
import stripe
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from twilio.rest import Client

import keyguard
from keyguard import telemetry
from keyguard.errors import KeyguardError
from tests.proxy.support import ADMIN, RESEND_SECRET, STRIPE_SECRET, TWILIO_SECRET
from tests.support_twilio_clients import MESSAGE, pointed
from tests.support_twilio_server import ACCOUNT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from keyguard.testing.double import VendorDouble
    from tests.proxy.support import Proxy

Kind = Literal["local", "remote", "front"]
# Without a proxy; behind one that judges the caps of runs; behind one that is taken for Keybrake's public contract, so that the ledger
# here judges them.
KINDS: tuple[Kind, ...] = ("local", "remote", "front")
# What a flow's process has where the secret would be.
PLACEHOLDER = "sk_test_of_nobody_0123456789"
SECRETS = {"STRIPE_SECRET_KEY": STRIPE_SECRET, "TWILIO_AUTH_TOKEN": TWILIO_SECRET, "RESEND_API_KEY": RESEND_SECRET}
_numbers = itertools.count()
_ID = re.compile(r"[a-z]{2}_[0-9a-f]{32}")


class World:
    """
    One run in one set-up, from `armed` to its end.

    Attributes:
        kind: The set-up.
        run: The run's id.
        installed: Its installation.
    """

    def __init__(self, kind: Kind, double: VendorDouble, proxy: Proxy, patch: pytest.MonkeyPatch, run: str) -> None:
        self.kind, self.double, self.proxy, self.run = kind, double, proxy, run
        self._patch = patch
        self._from, self._first = len(double.truth.rows()), len(double.requests())
        self._exporter = InMemorySpanExporter()
        self._tracers = TracerProvider()
        self._tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        patch.setattr(telemetry, "_tracer", self._tracers.get_tracer("keyguard"))
        self.installed: keyguard.Installation

    # -- clients: the same code in every set-up; without a proxy they are pointed to the double ---------------

    @property
    def token(self) -> str:
        """What every client carries."""
        return self.installed.key.token

    @property
    def stripe_url(self) -> str:
        """Where a raw request to Stripe goes."""
        return self.double.url if self.kind == "local" else "https://api.stripe.com"

    def stripe(self, **options: Any) -> Any:
        """Return Stripe's client."""
        bases: Any = {"base_addresses": {"api": self.double.url}} if self.kind == "local" else {}
        make: Any = stripe.StripeClient
        return make(self.token, **bases, **options)

    def twilio(self, **options: Any) -> Client:
        """Return Twilio's client."""
        client = Client(ACCOUNT, self.token, **options)
        return pointed(client, api=self.double.url) if self.kind == "local" else client

    def message(self, **fields: Any) -> Any:
        """Send a message by it."""
        return self.twilio().messages.create(**MESSAGE | fields)

    def email(self, **fields: Any) -> Any:
        """Send an e-mail by Resend's SDK."""
        if self.kind == "local":
            self._patch.setattr(resend, "api_url", self.double.url)
        self._patch.setattr(resend, "api_key", self.token)
        email: Any = {"from": "a@example.com", "to": ["b@example.com"], "subject": "s", "html": "h", **fields}
        return resend.Emails.send(email)

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        """Try the run again: the same requests are the same charges."""
        with keyguard.run(self.run, replay=True):
            yield

    # -- what came of it --------------------------------------------------------------------------------------

    def said(self, action: Callable[[], Any]) -> str | tuple[str, dict[str, Any]]:
        """Do something: "done", a vendor's own error by its name and status, or an error of ours with its fields."""
        try:
            action()
        except KeyguardError as error:
            return type(error).__name__, {
                name: self._plain(value) for name, value in vars(error).items() if name not in {"decision", "key_id"}
            }
        except Exception as error:
            # Whatever an SDK makes of its vendor's answer.
            status = next((found for name in ("http_status", "status", "code") if (found := getattr(error, name, None))), None)
            return f"{type(error).__name__} {status}"
        return "done"

    def _plain(self, value: object) -> object:
        return value.replace(self.run, "RUN") if isinstance(value, str) else value

    @property
    def truth(self) -> list[tuple[str, str, int]]:
        """What the vendors executed since the beginning: operation, kind, micro-USD."""
        return [(row["operation"], row["kind"], row["micros"]) for row in self.double.truth.rows()[self._from :]]

    @property
    def sent(self) -> list[tuple[str, str]]:
        """The writes that the vendors got since the beginning: method, path."""
        found = self.double.requests()[self._first :]
        return [(one["method"], _ID.sub("*", one["target"].partition("?")[0])) for one in found if one["method"] != "GET"]

    @property
    def keys(self) -> list[str]:
        """The Idempotency-Keys of those."""
        found = self.double.requests()[self._first :]
        return [one["headers"].get("idempotency-key", "") for one in found if one["method"] != "GET"]

    @property
    def spans(self) -> list[tuple[str, dict[str, Any]]]:
        """The calls' spans, without what is of one reservation, one stand-in's address or one run's name alone."""
        left = {telemetry.RESERVATION_ID, telemetry.ADDRESS, telemetry.PORT, telemetry.RUN_ID, telemetry.REQUEST_ID}
        return [
            (span.name, {name: value for name, value in (span.attributes or {}).items() if name not in left})
            for span in self._exporter.get_finished_spans()
        ]

    @property
    def totals(self) -> dict[str, int]:
        """The run's figures, in micro-USD, and its calls."""
        usage = self.installed.usage()
        return {"spent": usage.spent, "held": usage.held, "doubt": usage.doubt, "refunded": usage.refunded, "overrun": usage.overrun}


@contextlib.contextmanager
def holding_no_secret(admin: str, folder: Path) -> Iterator[pytest.MonkeyPatch]:
    """Make this a process that may ask for keys and has no vendor's secret, for the block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KEYBRAKE_API_KEY", admin)
        patch.setenv("KEYGUARD_FRONT_LEDGER", f"sqlite:///{folder / 'front.db'}")
        patch.setattr(stripe, "api_key", PLACEHOLDER)
        patch.setattr(stripe, "max_network_retries", 0)
        patch.setattr(stripe, "default_http_client", None)
        try:
            yield patch
        finally:
            keyguard.uninstall()


@contextlib.contextmanager
def behind(kind: Kind, proxy: Proxy, folder: Path, *, run: str, **policy: Any) -> Iterator[keyguard.Installation]:
    """Send a run's calls through a proxy, for the block."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("KEYGUARD_", "KEYBRAKE_"))]:
            patch.delenv(name)
        patch.setenv("KEYBRAKE_API_KEY", ADMIN)
        patch.setenv("KEYGUARD_FRONT_LEDGER", f"sqlite:///{folder / f'{kind}.db'}")
        patch.setenv("KEYGUARD_DIALECT", "keyguard" if kind == "remote" else "vault")
        patch.setattr(stripe, "default_http_client", None)
        try:
            with keyguard.run(run, replay=True):
                yield keyguard.install(proxy.url, **policy)
        finally:
            keyguard.uninstall()


@contextlib.contextmanager
def armed(
    kind: Kind, double: VendorDouble, proxy: Proxy, folder: Path, *, run: str = "", vendor: str = "stripe", **policy: Any
) -> Iterator[World]:
    """Guard a run in one set-up, for the block; its retries can be told. The double stands for one vendor."""
    run = run or f"run-{next(_numbers)}"
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        world = World(kind, double, proxy, patch, run)
        patch.setattr(stripe, "max_network_retries", 0)
        patch.setattr(stripe, "default_http_client", None)
        if kind == "local":
            for name in [name for name in os.environ if name.startswith(("KEYGUARD_", "KEYBRAKE_"))]:
                patch.delenv(name)
            for name, secret in SECRETS.items():
                patch.setenv(name, secret)
            patch.setenv("KEYGUARD_VENDOR_HOSTS", f"{vendor}={double.host}")
            stack.callback(keyguard.uninstall)
            stack.enter_context(keyguard.run(run, replay=True))
            world.installed = keyguard.install(f"sqlite:///{folder / 'local.db'}", **policy)
        else:
            world.installed = stack.enter_context(behind(kind, proxy, folder, run=run, **policy))
        yield world
