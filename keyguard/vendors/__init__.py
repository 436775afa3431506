"""The vendor contract, and the look-up by name and host. Plugs are the other files of this folder.

A vendor plug knows money: from method, path and parameters alone it names the operation, bounds the
cost before the send (a generator, because some quotes must ask what the run's ledger remembers, or
the vendor itself), and reads the cost from the reply. It never sends anything and never sees a
ledger. It raises `MalformedCall` and `UnpricedCall`, never a bare exception.
"""

from __future__ import annotations

import importlib
from collections.abc import Generator
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from keyguard.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import date

    from keyguard.model import Call, Operation, Outcome, Pairs, Quote, Reply


@dataclass(frozen=True, slots=True)
class Recall:
    """Asked by a quote: what does this run's ledger remember of the object? Answer: Memory or None."""

    object_id: str


@dataclass(frozen=True, slots=True)
class Ask:
    """Asked by a quote: GET this path from the vendor with the caller's own credentials. Answer: Reply."""

    path: str


Quoting: TypeAlias = Generator["Recall | Ask", Any, "Quote"]


class Vendor(Protocol):
    """
    What every vendor plug offers, as a module-level object named `vendor`.

    Attributes:
        name: The word in policies, spans and tables.
        hosts: The vendor's own API hosts, lower case; `*.example.com` stands for every name below that one.
        secret_env: Environment variable of the real secret.
    """

    name: str
    hosts: frozenset[str]
    secret_env: str

    def classify(self, call: Call) -> Operation:
        """
        Name the operation. Unknown writes come back with `known=False`, never as free.

        Raises:
            MalformedCall: dot segments, encoded dots or slashes, empty segments.
        """
        ...

    def quote(self, call: Call, operation: Operation) -> Quoting:
        """
        Bound the cost of a known operation; reads quote 0.

        Raises:
            MalformedCall: an amount that is not a digit string, or money parameters that are duplicated or in a POST's query.
            UnpricedCall: no bound can be had (unknown object, currency without a rate).
        """
        ...

    def read(self, call: Call, operation: Operation, quote: Quote, reply: Reply) -> Outcome:
        """Say how an attempt that got this reply ended. Never raises: what cannot be read is doubt."""
        ...

    def parameters(self) -> Mapping[str, frozenset[str] | None]:
        """Return each operation that a policy may have `rules` for, with its top-level parameters; None = the plug does not know them."""
        ...


class Tagging(Protocol):
    """What a vendor plug may offer as `tag`, where objects at the vendor can carry a run's id."""

    def __call__(self, call: Call, operation: Operation, quote: Quote, run_id: str, /) -> Pairs:
        """Return the pairs to add to the call's form before it is sent, () = none. Never raises."""
        ...


class Accounting(Protocol):
    """What a vendor plug may offer as `account`, where the path says whose money it is."""

    def __call__(self, path: str, /) -> str:
        """Return the account that a call to this path bills, "" = the path names none. Never raises."""
        ...


class Dated(Protocol):
    """What a vendor plug may offer as `prices`, where it counts by a list of its own."""

    def __call__(self) -> tuple[date, str]:
        """Return when the list was read, and where."""
        ...


def known_vendors() -> tuple[str, ...]:
    """Return the names of all vendor plugs, ours and those of entry points."""
    ours = {path.stem for path in Path(__file__).parent.glob("[a-z]*.py")}
    return tuple(sorted(ours | {point.name for point in entry_points(group="keyguard.vendors")}))


@cache
def vendor_named(name: str) -> Vendor:
    """
    Return a vendor plug by its name.

    Raises:
        ConfigurationError: no such plug; lists the known ones.
    """
    for point in entry_points(group="keyguard.vendors", name=name):
        found: Vendor = point.load()
        return found
    if name not in known_vendors():
        raise ConfigurationError(f"unknown vendor {name!r}; known: {', '.join(known_vendors())}")
    ours: Vendor = importlib.import_module(f"{__name__}.{name}").vendor
    return ours


def account_of(vendor: str, path: str) -> str:
    """Return the account that a path bills at a vendor; "" where the vendor's paths name none."""
    account: Accounting | None = getattr(vendor_named(vendor), "account", None)
    return "" if account is None else account(path)


@cache
def claimed_hosts() -> dict[str, str]:
    """
    Return every host that a vendor plug claims, with the plug's name; `*.example.com` as it was written.

    Raises:
        ConfigurationError: two plugs claim the same.
    """
    hosts: dict[str, str] = {}
    for name in known_vendors():
        for host in vendor_named(name).hosts:
            if host in hosts:
                raise ConfigurationError(f"two vendor plugs claim {host}: {hosts[host]} and {name}")
            hosts[host] = name
    return hosts


# A wire seam asks this of every request of the process, most of which go to few hosts.
@lru_cache(maxsize=4096)
def claimant(host: str) -> str | None:
    """Return the vendor that claims a host (lower case, without a port); None = nobody. A name with the root's dot is the same host."""
    claimed, name = claimed_hosts(), host.removesuffix(".")
    if name in claimed:
        return claimed[name]
    labels = name.split(".")
    return next((found for at in range(1, len(labels)) if (found := claimed.get(".".join(["*", *labels[at:]]))) is not None), None)
