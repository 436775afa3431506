"""The vendor's stand-in: localstripe on a free loopback port. Run as a process of its own, never imported by keyguard.

localstripe is GPL-licensed, so it stays on the other side of HTTP. Its own command binds every
interface and keeps its store in a shared temporary file; this one does neither. It prints its port, and ends when its stdin does.
"""

from __future__ import annotations

import os
import socket
import sys
import threading


def main() -> None:
    """Serve until stdin ends."""
    from aiohttp import web
    from localstripe import resources  # type: ignore[import-untyped]  # -- it has no types
    from localstripe.server import app  # type: ignore[import-untyped]  # -- it has no types

    resources.store.dump_to_disk = lambda: None
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    # Listening before the port is told: whoever connects from now on waits in the queue.
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    web.run_app(app, sock=listener, print=None, access_log=None)


def _end_with_stdin() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
