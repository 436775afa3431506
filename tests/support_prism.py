"""Prism from npm with Twilio's own OpenAPI: as a Twilio that answers by example, or as a check in front of another one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from tests.support_node import node_peer, package, unpacked

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tests.support_node import Peer

_PRISM, _PACKAGE = "@stoplight/prism-cli", "@twilio/cli-core"
# One specification for each product and version.
SPECIFICATIONS = {
    "api": "api_v2010", "verify": "verify_v2", "lookups": "lookups_v2", "pricing1": "pricing_v1", "pricing2": "pricing_v2",
}  # fmt: skip
PRODUCTS = ("api", "verify", "lookups")


@contextmanager
def prisms(upstream: str | None = None, products: Sequence[str] = PRODUCTS) -> Iterator[Mapping[str, Peer]]:
    """
    Run one Prism for each of some products until the block ends.

    Args:
        upstream: Where requests go on to: what breaks the specification on the way, or on the way back, is answered with an error.
            None = answer from the specification's examples.
        products: Of those above.

    Raises:
        Missing: Node or a package cannot be had.
    """
    folder = unpacked(_PACKAGE) / "src" / "services" / "twilio-api"
    package(_PRISM)
    mode, more = ("mock", []) if upstream is None else ("proxy", [upstream, "--errors"])

    def started(name: str) -> Peer:
        args = [mode, "-h", "127.0.0.1", "-p", "{port}", str(folder / f"twilio_{name}.json"), *more]
        return stack.enter_context(node_peer(_PRISM, args))

    with ExitStack() as stack, ThreadPoolExecutor(len(products)) as pool:
        yield dict(zip(products, pool.map(started, [SPECIFICATIONS[name] for name in products]), strict=True))
