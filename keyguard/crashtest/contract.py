"""What a guard is to the crash test: the class that an adapter writes, and what its processes are told. Knows no guard."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from keyguard.crashtest import guards
from keyguard.errors import ConfigurationError, MissingExtra

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyguard.model import Money

_T = TypeVar("_T")
_PARTS = ("refusals", "is_shared", "call", "spent")
# What an adapter may have besides, and what is said of one that has it not where an event needs it.
EXTRAS = {
    "clock": "the guard's clock cannot be stepped",
    "daily": "the guard has no cap of a day",
    "entry": "the guard cannot make charges over again",
    "hold_store": "the guard's store has no lock to be held",
    "reconcile": "the guard cannot ask the vendor",
    "revoke": "the guard cannot revoke",
    "verify": "the guard has no log to refold",
}


@dataclass(frozen=True, slots=True)
class Terms:
    """
    What a guard is opened with; the same in all processes of an event.

    Attributes:
        cap: What may be spent in all, micro-USD; by the run in a UTC day where `is_daily`.
        run: The run that spends.
        url: Where keyguard's ledger is.
        folder: Where any other guard may keep its files; empty at first.
    """

    cap: Money
    run: str
    url: str
    folder: str
    is_daily: bool = False


@dataclass(frozen=True, slots=True)
class Charge:
    """
    What is to be paid.

    Attributes:
        name: Of the logical charge; its customer at the vendor is called so too.
        amount: Micro-USD, which is exactly what it will cost.
        is_named: Whether a retry says which charge it is a retry of; else all it says is the request.
    """

    name: str
    amount: Money
    is_named: bool


@dataclass(frozen=True, slots=True)
class Shop:
    """
    Whose customers are charged, and how.

    Attributes:
        api_key: A key of the event's own, hence an account of its own.
        api_base: The double.
        timeout: Seconds until an answer is given up.
        retries: The SDK's own.
    """

    api_key: str
    api_base: str
    timeout: float = 20.0
    retries: int = 0


class Guard(Protocol):
    """
    One guard in one process; `terms` is all that its processes have in common.

    Optional methods: `revoke()` ends the run's right to spend; `reconcile()` asks the vendor, and returns how many calls are still in
    doubt; `verify()` refolds the log and returns what is wrong; `entry()` is a context in which the same charges are made
    over again; `hold_store()` keeps every other process from the store until this one ends. An attribute `daily = True` says that
    caps of a UTC day are known, and `clock = True` that the time is `time.time()`, which is what can be stepped.

    Attributes:
        refusals: What is raised instead of sending.
        cap_errors: Which of them say that the cap would be passed; without the attribute all do.
        is_shared: Whether the figure of `spent` is one of all processes; else the figures of the processes are added.
    """

    refusals: ClassVar[tuple[type[BaseException], ...]]
    is_shared: ClassVar[bool]

    def __init__(self, terms: Terms) -> None: ...

    def call(self, charge: Charge, send: Callable[[], _T]) -> _T:
        """Let `send` charge, or refuse; whatever `send` raises comes out again."""
        ...

    def spent(self) -> Money:
        """Return what is counted against the cap: spent, held and in doubt, micro-USD."""
        ...


def names() -> tuple[str, ...]:
    """Return the guards that come along, by the names of their files."""
    return tuple(sorted(found.name.replace("_", "-") for found in pkgutil.iter_modules(guards.__path__)))


def check_name(spec: str) -> None:
    """
    Look a guard up without importing it; of `module:Class` nothing is known then.

    Raises:
        ConfigurationError: none is called so.
    """
    if ":" not in spec and spec not in names():
        raise ConfigurationError(f"--guard: no guard is called {spec!r}; there are {', '.join(names())}, or give module:Class of yours")


def find(spec: str) -> type[Any]:
    """
    Return the class of a guard: one that comes along by its name, any other as `module:Class`.

    Raises:
        ConfigurationError: there is none of that name, or it is no guard.
        MissingExtra: the package that it guards with is not installed.
    """
    module, colon, name = spec.partition(":")
    check_name(spec)
    if not colon:
        module, name = f"{guards.__name__}.{spec.replace('-', '_')}", "Guard"
    try:
        found: type[Any] = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if not colon:
            raise MissingExtra(f"pip install {spec}") from error
        raise ConfigurationError(f"--guard: {module} cannot be imported: {error}") from error
    except AttributeError:
        raise ConfigurationError(f"--guard: {module} has no class {name}") from None
    lacking = [part for part in _PARTS if not hasattr(found, part)]
    if lacking:
        raise ConfigurationError(f"--guard: {spec} has no {', '.join(lacking)}; see keyguard.crashtest.contract.Guard")
    return found


def extras_of(guard: type[Any]) -> frozenset[str]:
    """Return which of `EXTRAS` a guard has."""
    return frozenset(name for name in EXTRAS if getattr(guard, name, None))
