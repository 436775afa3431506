"""What `keyguard proxy` does before it serves: its options, its extra, and its one line."""

from __future__ import annotations

import importlib.util
import logging
from typing import Any

import typer

from keyguard.errors import MissingExtra


def serve_proxy(**options: Any) -> None:
    """
    Serve until told to stop.

    Raises:
        MissingExtra: the libraries of the proxy are not installed.
        ConfigurationError, LedgerUnavailable: nothing can be served.
    """
    if any(importlib.util.find_spec(name) is None for name in ("starlette", "uvicorn")):
        raise MissingExtra('pip install "keyguard[proxy]"')
    from keyguard.proxy.serving import serve
    from keyguard.proxy.settings import load_proxy_settings

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    serve(load_proxy_settings(**options), typer.echo)
