"""One worker's application: what it holds open, and its routes. What they do is in the files beside this one."""

from __future__ import annotations

import logging
import os
import signal
import threading
from contextlib import asynccontextmanager
from functools import partial
from multiprocessing import parent_process
from multiprocessing.connection import wait
from typing import TYPE_CHECKING

import anyio
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from keyguard import context, settings, vendors
from keyguard.drivers import whole
from keyguard.errors import BackendError
from keyguard.handler import CallHandler
from keyguard.ledgers import open_ledger
from keyguard.payer import Armed, finder_for, identity
from keyguard.proxy.admins import Admins
from keyguard.proxy.backend import MintedBackend
from keyguard.proxy.forward import Forwarder
from keyguard.proxy.gate import Gate
from keyguard.proxy.inquiring import inquirer
from keyguard.proxy.limits import Room
from keyguard.proxy.methods import others
from keyguard.proxy.openapi import document
from keyguard.proxy.secrets import Secrets
from keyguard.proxy.settings import ProxySettings, import_all, load_proxy_settings
from keyguard.proxy.tracing import Traced
from keyguard.proxy.upstream import client_for
from keyguard.proxy.vault import Vault

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request
    from starlette.responses import Response

_READY_SECONDS = 5.0


def create_app(wanted: ProxySettings | None = None) -> Starlette:
    """
    Make the application of one worker, by the environment's settings where none are given.

    Raises:
        ConfigurationError: settings by which nothing can be served.
        LedgerUnavailable: the ledger cannot be opened.
    """
    found = wanted or load_proxy_settings()
    # In a worker, which was given settings that were read elsewhere.
    import_all(found.imports)
    found.check()
    general = settings.load_settings()
    settings.put_in_force(general)
    context.set_rates(settings.pinned_rates(general, None))
    ledger = open_ledger(ledger_url(found), durability=general.durability)
    backend, secrets = MintedBackend(ledger), Secrets(found.sources, found.secret_seconds)
    armed = Armed(backends={backend.url: backend}, settings=settings.Settings.model_construct(), secrets=secrets.of)
    inquire = inquirer(ledger, secrets, found.upstreams)
    handler = CallHandler(partial(finder_for, armed), partial(identity, armed), lambda: False, inquire)
    client = client_for(found, vendors.claimed_hosts())
    room = Room(found.max_requests, found.max_buffered_bytes)
    # Its INFO lines have whole URLs, in which vendors have telephone numbers.
    logging.getLogger("httpx").setLevel(logging.WARNING)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        """Put everything away at the end."""
        _end_with_parent()
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await client.aclose()
                await whole(backend.shut)

    async def ready(_request: Request) -> Response:
        """Say whether the ledger can be asked."""
        try:
            with anyio.fail_after(_READY_SECONDS):
                await whole(ledger.now)
        except (BackendError, TimeoutError):
            return JSONResponse({"status": "the ledger is not available"}, 503)
        return JSONResponse({"status": "ready"})

    own = [
        Route("/healthz", _alive, methods=["GET"]),
        Route("/readyz", ready, methods=["GET"]),
        Route("/openapi.json", _described, methods=["GET"]),
        *Vault(backend, Admins(found.tokens()), secrets, found, room).routes(),
    ]
    return Starlette(
        routes=[*own, *others(own), Mount("/", Forwarder(handler, backend, client, found, room))],
        lifespan=lifespan,
        middleware=[Middleware(Gate, max_head_bytes=found.max_head_bytes), Middleware(Traced)],
    )


def ledger_url(wanted: ProxySettings) -> str:
    """Return the URL of the ledger that a proxy keeps."""
    return wanted.ledger or settings.load_settings().url or settings.default_url()


async def _described(_request: Request) -> Response:
    return JSONResponse(document())


async def _alive(_request: Request) -> Response:
    # By the name a client knows what may be asked of it beyond Keybrake's own contract.
    return JSONResponse({"status": "ok", "proxy": "keyguard"})


def _end_with_parent() -> None:
    """End, as if told to, when the process ends that started this worker: nobody would look after it, and its port would stay taken."""
    parent = parent_process()
    if parent is not None:

        def watch() -> None:
            wait([parent.sentinel])
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=watch, daemon=True).start()
