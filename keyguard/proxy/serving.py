"""The socket, the start line, and the processes that serve. What they serve is in app.py."""

from __future__ import annotations

import inspect
import logging
import socket
from functools import partial
from typing import TYPE_CHECKING

from uvicorn import Config, Server
from uvicorn.supervisors import Multiprocess

from keyguard.errors import ConfigurationError
from keyguard.ledgers import open_ledger
from keyguard.proxy.app import create_app, ledger_url
from keyguard.proxy.wire import BoundedProtocol
from keyguard.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyguard.proxy.settings import ProxySettings

_BACKLOG = 2048


def serve(wanted: ProxySettings, told: Callable[[str], None]) -> None:
    """
    Serve until told to stop, by SIGTERM or SIGINT; calls under way are brought to their end.

    Args:
        wanted: The settings.
        told: Told the one start line, when clients can connect.

    Raises:
        ConfigurationError: settings by which nothing can be served, or a port that is taken.
        LedgerUnavailable: the ledger cannot be opened.
    """
    wanted.check()
    url = ledger_url(wanted)
    if wanted.workers > 1 and url == "sqlite://":
        raise ConfigurationError("a ledger in memory is one process's own: name a file, or have one worker")
    # Here and not in the first worker: what is wrong is said once, and before anybody connects.
    open_ledger(url, durability=load_settings().durability).shut()
    with _listening(wanted) as listening:
        told(_start_line(wanted, listening, url))
        _run(_config(wanted), listening)


def _listening(wanted: ProxySettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in wanted.host else socket.AF_INET
    # The protocol is named because asyncio sets TCP_NODELAY only where it is: without, each answer of two parts waits 40 ms for an ACK.
    found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((wanted.host.strip("[]"), wanted.port))
        found.listen(_BACKLOG)
        found.set_inheritable(True)
    except OSError as error:
        found.close()
        raise ConfigurationError(f"cannot listen on {wanted.host}:{wanted.port}: {error.strerror or error}") from None
    return found


def _start_line(wanted: ProxySettings, listening: socket.socket, url: str) -> str:
    host, port = listening.getsockname()[:2]
    scheme = "https" if wanted.tls_cert else "http"
    shown = f"[{host}]" if ":" in host else host
    vendors = ", ".join(sorted(name + (f" (at {wanted.upstreams[name]})" if name in wanted.upstreams else "") for name in wanted.sources))
    return (
        f"keyguard proxy serves {scheme}://{shown}:{port} for {vendors}; ledger {url}, "
        f"{wanted.workers} worker{'' if wanted.workers == 1 else 's'}, {len(wanted.tokens())} admin token(s)"
    )


def _config(wanted: ProxySettings) -> Config:
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    return Config(
        partial(create_app, wanted),
        factory=True,
        workers=wanted.workers,
        http=partial(BoundedProtocol, head_seconds=wanted.head_seconds, write_seconds=wanted.write_seconds, most=wanted.max_connections),  # type: ignore[arg-type]  # -- what makes a protocol
        ws="none",
        lifespan="on",
        log_config=None,
        # Paths have telephone numbers.
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=int(wanted.head_seconds) + 1,
        timeout_graceful_shutdown=int(wanted.drain_seconds),
        ssl_certfile=None if wanted.tls_cert is None else str(wanted.tls_cert),
        ssl_keyfile=None if wanted.tls_key is None else str(wanted.tls_key),
        h11_max_incomplete_event_size=wanted.max_head_bytes,
    )


def _run(config: Config, listening: socket.socket) -> None:
    server = Server(config)
    if config.workers == 1:
        server.run(sockets=[listening])
        return
    # Older ones want to be told what to run.
    options = {"target": server.run} if "target" in inspect.signature(Multiprocess.__init__).parameters else {}
    Multiprocess(config, sockets=[listening], **options).run()
