"""The client contract, the one sync and the one async wrapper, and the arming of seams. Plugs are the other files.

A patch plug translates: it reads a client library's arguments into an `Outgoing`, and sends what was
decided through the library's own method, reporting each attempt to the ticket. It decides nothing.

An SDK seam knows its vendor whatever the host; a wire seam (httpx) knows it by host. The outermost
seam guards; a seam below it that sees the same call reports an attempt of the ticket, and any other
request is guarded anew.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import sys
import threading
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, Protocol

import wrapt

from keyguard import context
from keyguard._values import frozen
from keyguard.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from keyguard.errors import Refused
    from keyguard.model import Call, Reply


@frozen
class Outgoing:
    """
    One request that is about to leave, as a seam read it.

    Attributes:
        call: What the vendor will see.
        credential: The secret or token as it stands in the request, "" where there is none.
        ask: Sends `GET path` with the same client and credentials, or those of the ticket, on its way, and returns the reply; for quotes.
        is_writable: The body is a form to which the seam adds `ticket.added` when it sends.
        takes_key: The seam writes `ticket.idempotency_key` into the request where there is one.
        has_own_key: The call's Idempotency-Key is the caller's, and stays; one that an SDK has made may be replaced.
        respond: Makes the client's own answer of a refusal (keyguard.refusals), for vendors that want it so; awaited for async seams.
    """

    call: Call
    credential: str = field(repr=False, default="")
    ask: Callable[[str, context.Ticket], Reply] | None = field(repr=False, default=None)
    is_writable: bool = False
    takes_key: bool = False
    has_own_key: bool = False
    respond: Callable[[Refused], Any] | None = field(repr=False, default=None)


class Read(Protocol):
    """
    Reads a client's arguments: what leaves; the open ticket, where an outer seam has read it and reports it as its attempt; None = not
    a vendor's host, let it pass.
    """

    def __call__(self, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any], /) -> Outgoing | context.Ticket | None: ...


class Seen(Protocol):
    """Deals with one call of a seam's method; a coroutine function for async seams."""

    def __call__(self, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any], /) -> Any: ...


class Quick(Protocol):
    """
    Makes a seam's wrapper, of its method's own signature: it lets pass at once (by the first, the method) what is nobody's business.

    Whatever else comes it leaves to the second. That is all which a request to a host that nobody guards pays.
    """

    def __call__(self, passing: Callable[..., Any], seen: Seen, /) -> Callable[..., Any]: ...


class Inside(Protocol):
    """Puts a guard where a method hands over each request that it makes; returns what to call it with: instance, arguments, keywords."""

    def __call__(self, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any], /) -> tuple[Any, tuple[Any, ...], dict[str, Any]]: ...


class Around(Protocol):
    """Awaits the decision of a call that goes on after the method has returned, and calls the method: function, instance, arguments."""

    async def __call__(
        self,
        deciding: Coroutine[Any, Any, Any],
        passing: Callable[..., Any],
        instance: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        /,
    ) -> Any: ...


class Send(Protocol):
    """Calls the client's own method under a ticket, reporting its attempts; a coroutine function for async seams."""

    def __call__(
        self, ticket: context.Ticket, wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any], /
    ) -> Any: ...


@frozen
class Seam:
    """
    One patched method.

    Attributes:
        name: `stripe.sync`, unique over all plugs.
        module: Where the class is found; the seam is armed when that module is imported. The package itself where it has the class,
            because a hook on a submodule makes wrapt import the package, which a program that replaces `__import__` may notice.
        attribute: `Class.method`; it is patched in the class that defines it for this one.
        read, send: The plug's two translations. A seam without `send` only checks: `read` may raise.
        is_async: The method is a coroutine function.
        quick: For a seam that sees the requests of hosts nobody guards. Where the method takes other arguments than it was written for
            (another version, another library's wrapper), each request is read.
        inside: For a method that makes several requests by itself (redirects, tries): it runs as it is, and each request is decided
            where it leaves, by the `decided` or `adecided` that this puts there. Such a seam needs no `read` and `send` of its own.
        around: For an awaited method that ends before its request is answered.
    """

    name: str
    module: str
    attribute: str
    read: Read | None = None
    send: Send | None = None
    is_async: bool = False
    quick: Quick | None = None
    inside: Inside | None = None
    around: Around | None = None


class Patch(Protocol):
    """
    What every patch plug offers, as a module-level object named `patch` (or several as `patches`, for clients that are made alike).

    Attributes:
        client: The client's word in messages: `stripe`.
        distribution: Its name on the package index.
        supported: Version range for messages, `>=8`; `supports(version)` decides.
        seams: What it patches.
    """

    client: str
    distribution: str
    supported: str
    seams: tuple[Seam, ...]

    def supports(self, installed: str) -> bool:
        """Say whether this version of the distribution is in the range."""
        ...


# A plain function: `wrapt`'s wrappers do the same for half a microsecond more, on requests that nobody guards too. Of an awaited method as
# well: what passes is then the method's own coroutine, without a frame of ours round it.
def _wrapper(seam: Seam, owner: Any, method: Any) -> Callable[..., Any]:
    passing = _passing(owner, method)
    seen = _inside(seam.inside, passing) if seam.inside is not None else (_aseen if seam.is_async else _seen)(seam, passing)

    def wrapper(instance: Any, /, *args: Any, **kwargs: Any) -> Any:
        return seen(instance, args, kwargs)

    quick = wrapper if seam.quick is None else seam.quick(passing, seen)
    # One that names its arguments spares each call a tuple and a dictionary, which is half of what it costs.
    found = functools.wraps(method)(quick if _shape(quick) == _shape(method) else wrapper)
    return _awaited(found) if seam.is_async else found


# From Python 3.12 on `inspect.iscoroutinefunction` says of such a wrapper what it says of the method.
_awaited: Callable[[Any], Any] = getattr(inspect, "markcoroutinefunction", lambda wrapper: wrapper)


def _shape(method: Any) -> list[tuple[str, Any]] | None:
    """Return what a method takes after its instance; None where nobody can say."""
    try:
        return [(one.name, one.kind) for one in inspect.signature(method).parameters.values()][1:]
    except (TypeError, ValueError):
        return None


def _inside(inside: Inside, passing: Callable[..., Any]) -> Seen:
    def seen(instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if context.deciding() is not None:
            instance, args, kwargs = inside(instance, args, kwargs)
        return passing(instance, *args, **kwargs)

    return seen


def _seen(seam: Seam, passing: Callable[..., Any]) -> Seen:
    read, send = seam.read, seam.send

    def seen(instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        handler = context.deciding()
        if handler is None or read is None:
            return passing(instance, *args, **kwargs)
        return decided(handler, read, send, MethodType(passing, instance), instance, args, kwargs)

    return seen


def _aseen(seam: Seam, passing: Callable[..., Any]) -> Seen:
    read, send, around = seam.read, seam.send, seam.around

    async def seen(instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        handler = context.deciding()
        if handler is None or read is None:
            return await passing(instance, *args, **kwargs)
        deciding = adecided(handler, read, send, MethodType(passing, instance), instance, args, kwargs)
        return await (deciding if around is None else around(deciding, passing, instance, args, kwargs))

    return seen


def decided(
    handler: context.Handler, read: Read, send: Send | None, wrapped: Callable[..., Any], instance: Any, args: Any, kwargs: Any
) -> Any:
    """Let one request leave: as an attempt of the open ticket, where that covers it, else by a decision of its own."""
    found = _read(handler, read, instance, args, kwargs)
    if found is None or send is None:
        return wrapped(*args, **kwargs)
    if isinstance(found, context.Ticket):
        if found.must_ask and found.again is not None:
            found.again(found)
        return send(found, wrapped, instance, args, kwargs)
    return handler.handle(found, lambda opened: send(opened, wrapped, instance, args, kwargs))


async def adecided(
    handler: context.Handler, read: Read, send: Send | None, wrapped: Callable[..., Any], instance: Any, args: Any, kwargs: Any
) -> Any:
    """Let one awaited request leave."""
    found = _read(handler, read, instance, args, kwargs)
    if found is None or send is None:
        return await wrapped(*args, **kwargs)
    if isinstance(found, context.Ticket):
        if found.must_ask and found.again is not None:
            await found.again(found)
        return await send(found, wrapped, instance, args, kwargs)
    return await handler.ahandle(found, lambda opened: send(opened, wrapped, instance, args, kwargs))


def _read(
    handler: context.Handler, read: Read, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Outgoing | context.Ticket | None:
    """Read a call, or find the open ticket that covers it; one that cannot be guarded is an error, unless everything only observes."""
    try:
        found = read(instance, args, kwargs)
    except ConfigurationError as error:
        if not handler.tolerates(error):
            raise
        return None
    if found is None or isinstance(found, context.Ticket):
        return found
    ticket, call = context.open_ticket(), found.call
    return ticket if ticket is not None and ticket.covers(call.vendor, call.method, call.path) else found


def _passing(owner: Any, method: Any) -> Callable[..., Any]:
    """Return what calls a method of any kind with its instance: a function takes it first, another's wrapper wants to be bound."""
    # Not `isinstance`: the proxy of another library says that it is a function.
    if type(method) is FunctionType:
        return method

    def passing(instance: Any, /, *args: Any, **kwargs: Any) -> Any:
        return method.__get__(instance, owner)(*args, **kwargs)

    return passing


@frozen
class _Placed:
    """What was put into a class: each wrapper of ours that may stand there, and the method that belongs there without it."""

    seam: Seam
    methods: tuple[tuple[Any, Any], ...]


@dataclass(slots=True)
class _Arming:
    """What this process has patched: what was placed for each seam, and the hooks that wait for an import."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    is_wanted: bool = False
    # Of one seam more than once where another library put an older method back, and may put ours back yet.
    placed: dict[str, list[_Placed]] = field(default_factory=dict[str, "list[_Placed]"])
    hooked: set[str] = field(default_factory=set[str])  # by the first seam that waits: two plugs may wait for one module


_arming = _Arming()


def renew_lock() -> None:
    """Take a new lock: in a forked child nobody is left to release the old one, and arming again mends what is half done."""
    _arming.lock = threading.RLock()


def known_patches() -> tuple[Patch, ...]:
    """
    Return every patch plug, ours and those of entry points.

    Raises:
        ConfigurationError: two of them name the same seam.
    """
    names = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    found: list[Patch] = [patch for module in modules for patch in (module.patches if hasattr(module, "patches") else (module.patch,))]
    found += _plugged_in()
    seams = [seam.name for patch in found for seam in patch.seams]
    double = sorted({name for name in seams if seams.count(name) > 1})
    if double:
        raise ConfigurationError(f"two patch plugs have a seam of the same name: {', '.join(double)}")
    return tuple(found)


@functools.cache
def _plugged_in() -> tuple[Patch, ...]:
    """Return the plugs of other distributions, read once: looking through everything installed takes ten milliseconds."""
    return tuple(point.load() for point in entry_points(group="keyguard.patches"))


def arm() -> None:
    """
    Put every seam in place: now where its client is imported, else at the import. Doing it again changes nothing.

    Raises:
        ConfigurationError: a client outside the supported versions, or without its seam; every time, until it is mended.
    """
    found = [(patch, module) for patch in known_patches() for module in dict.fromkeys(seam.module for seam in patch.seams)]
    for _, module in found:
        _let_import_finish(module)
    with _arming.lock:
        _arming.is_wanted = True
        for patch, module in found:
            if module in sys.modules:
                _arm_module(patch, sys.modules[module])
            else:
                _await_import(patch, module)


def disarm() -> None:
    """Take away what is still ours; a wrapper that somebody wrapped over stays, and passes everything through."""
    with _arming.lock:
        _arming.is_wanted = False
        for patch in known_patches():
            for seam in patch.seams:
                _take_away(seam)


def live_seams() -> dict[str, bool]:
    """Say for each seam whether it is in place in its class now; a client that is not imported has none."""
    return {seam.name: _is_live(seam) for patch in known_patches() for seam in patch.seams}


def is_live(name: str) -> bool:
    """Say of one seam whether it is in place now; asked within calls, so that no plug is looked up."""
    return any(_is_live(placed.seam) for placed in _arming.placed.get(name, ()))


def is_passed(name: str, instance: Any) -> bool:
    """Say whether an object's method is the very one in which a seam is in place: a class of the user's own may have another."""
    for placed in _arming.placed.get(name, ()):
        _, owner, method = _installed_at(placed.seam)
        own = next((kind for kind in type(instance).__mro__ if method in vars(kind)), None)
        if own is owner and method not in vars(instance) and _is_live(placed.seam):
            return True
    return False


def _let_import_finish(module: str) -> None:
    """Wait while another thread imports a module: half a module has no seam. Without our lock, which that import's hook takes."""
    if module in sys.modules:
        # Where that import failed there is nothing to arm yet.
        with contextlib.suppress(ImportError):
            importlib.import_module(module)


def _await_import(patch: Patch, module: str) -> None:
    """Hook a module's import, once per process: wrapt cannot take a hook back, so the hook asks whether it is still wanted."""
    waiting = next(seam.name for seam in patch.seams if seam.module == module)
    if waiting in _arming.hooked:
        return
    _arming.hooked.add(waiting)

    def arm_at_import(imported: Any) -> None:
        _arming.hooked.discard(waiting)
        if not _arming.is_wanted:
            # Not now; arm() finds the module imported when it is wanted again.
            return
        try:
            _arm_module(patch, imported)
        except ConfigurationError:
            # wrapt consumes a hook that raises, and the next import would succeed unguarded.
            sys.modules.pop(module, None)
            _await_import(patch, module)
            raise

    wrapt.register_post_import_hook(arm_at_import, module)


def _arm_module(patch: Patch, module: Any) -> None:
    _check_version(patch)
    with _arming.lock:
        for seam in patch.seams:
            if seam.module == module.__name__ and not _is_live(seam):
                _wrap(patch, seam, module)


def _check_version(patch: Patch) -> None:
    try:
        installed = version(patch.distribution)
    except PackageNotFoundError:
        installed = "unknown"
    if not patch.supports(installed):
        raise ConfigurationError(
            f"{patch.client} {installed} is not supported by this keyguard, so its calls could not be guarded; supported: "
            f"{patch.distribution}{patch.supported}. Change its version, or uninstall keyguard."
        )


def _wrap(patch: Patch, seam: Seam, module: Any) -> None:
    owner, name = _target(seam, module)
    if owner is None or name not in vars(owner):
        raise ConfigurationError(
            f"{patch.client} has no {seam.module}.{seam.attribute}, where keyguard guards its calls; supported: "
            f"{patch.distribution}{patch.supported}. Please report this version."
        )
    method = vars(owner)[name]
    # Some libraries remove whatever is outermost by its `__wrapped__` (ddtrace's `unwrap`, OpenTelemetry's for requests). It is their own
    # wrapper that they mean, on which ours was put: they are left with one that guards as well, without theirs.
    meant = getattr(method, "__wrapped__", method)
    wrapper, understudy = _wrapper(seam, owner, method), _wrapper(seam, owner, meant)
    for one in (wrapper, understudy):
        one._keyguard_seam = seam.name  # type: ignore[attr-defined]  # noqa: SLF001 -- a mark on a function of ours
    wrapper.__wrapped__ = understudy  # type: ignore[attr-defined]  # -- functools.wraps has set it
    _arming.placed.setdefault(seam.name, []).append(_Placed(seam, ((wrapper, method), (understudy, meant))))
    setattr(owner, name, wrapper)


def _target(seam: Seam, module: Any) -> tuple[Any, str]:
    owner_name, _, name = seam.attribute.rpartition(".")
    owner = getattr(module, owner_name, None)
    # The class that defines the method: a vendor may move it into a base class.
    return next((base for base in getattr(owner, "__mro__", ()) if name in vars(base)), owner), name


def _installed_at(seam: Seam) -> tuple[Any, Any, str]:
    """Return (what stands in the class now, the class, the name); None where the client is not imported."""
    module = sys.modules.get(seam.module)
    if module is None:
        return None, None, ""
    owner, name = _target(seam, module)
    return (None if owner is None else vars(owner).get(name)), owner, name


def _is_live(seam: Seam) -> bool:
    current, _, _ = _installed_at(seam)
    seen = 0
    # Somebody may have wrapped over us: walk down their wrappers, by the mark on ours.
    while current is not None and seen < 20:
        # Of the object itself: a wrapper passes on the attributes of what it wraps.
        if getattr(current, "__dict__", {}).get("_keyguard_seam") == seam.name:
            return True
        current, seen = getattr(current, "__wrapped__", None), seen + 1
    return False


def _take_away(seam: Seam) -> None:
    current, owner, name = _installed_at(seam)
    for placed in _arming.placed.get(seam.name, ()):
        # By identity: the proxy of another library equals what it wraps.
        method = next((method for wrapper, method in placed.methods if current is wrapper), None)
        if method is not None:
            setattr(owner, name, method)
            # What somebody wrapped over is kept: it may be outermost when asked again.
            _arming.placed[seam.name].remove(placed)
            return
