"""Arming: once, in every order, undone by handle, and never open by accident."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import stripe
import stripe._api_requestor
import wrapt

from keyguard import context, patches
from keyguard.errors import ConfigurationError
from keyguard.patches import httpx as httpx_plug
from keyguard.patches import stripe as stripe_plug

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _disarmed() -> Any:
    yield
    context.set_handler(None)
    patches.disarm()


def _attribute() -> Any:
    return vars(stripe.HTTPClient)["_request_with_retries_internal"]


def test_arming_twice_wraps_once_and_disarming_restores_the_very_function() -> None:
    """The class attribute before arming and after disarming is the same object."""
    before = _attribute()
    patches.arm()
    first = _attribute()
    patches.arm()
    second = _attribute()
    live = patches.live_seams()
    patches.disarm()

    assert first is second
    assert inspect.unwrap(first) is before
    assert _attribute() is before
    assert all(live[name] for name in ("stripe.sync", "stripe.async", "stripe.check", "httpx.sync", "httpx.async"))
    assert not any(patches.live_seams().values())


def test_a_wrapper_over_ours_leaves_us_live_and_stays_after_disarm() -> None:
    """Somebody wraps over us: still live; disarming leaves theirs alone, and ours passes through."""
    calls: list[str] = []
    before = vars(httpx.Client)["_send_single_request"]
    patches.arm()

    def theirs(wrapped: Any, _instance: Any, args: Any, kwargs: Any) -> Any:
        calls.append("theirs")
        return wrapped(*args, **kwargs)

    wrapt.wrap_function_wrapper("httpx", "Client._send_single_request", theirs)
    live = patches.live_seams()["httpx.sync"]
    patches.disarm()
    with httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(200))) as client:
        client.get("https://api.stripe.com/v1/customers")
    httpx.Client._send_single_request = before  # type: ignore[method-assign]  # -- as others do

    assert live
    assert calls == ["theirs"]


def test_a_seam_that_is_gone_is_seen_and_arming_again_puts_it_back() -> None:
    """Another library puts the class's own method back: `live_seams` says so, and arm() repairs it."""
    patches.arm()
    setattr(httpx.Client, "_send_single_request", inspect.unwrap(vars(httpx.Client)["_send_single_request"]))  # noqa: B010 -- a method
    gone = patches.live_seams()["httpx.sync"], patches.is_live("httpx.sync")
    patches.arm()

    assert gone == (False, False)
    assert patches.live_seams()["httpx.sync"]
    assert patches.is_live("httpx.sync")
    assert not patches.is_live("no.seam")


@pytest.mark.parametrize(("plug", "good", "bad"), [(stripe_plug.patch, "8.11.0", "7.14.0"), (httpx_plug.patches[0], "0.28.1", "0.26.0")])
def test_versions_outside_the_range_are_not_supported(plug: Any, good: str, bad: str) -> None:
    """The ranges are what the messages say; an unreadable version is not supported."""
    assert plug.supports(good)
    assert not plug.supports(bad)
    assert not plug.supports("unknown")


class _Refusing:
    """A plug whose client is always of the wrong version."""

    client, distribution, supported = "json tool", "keyguard", ">=99"

    def __init__(self, seams: tuple[patches.Seam, ...]) -> None:
        self.seams = seams

    def supports(self, installed: str) -> bool:
        """Support nothing."""
        return False


def test_an_unsupported_client_fails_every_arming(monkeypatch: pytest.MonkeyPatch) -> None:
    """arm() says client, version and range each time, not once."""
    plug = _Refusing((replace(stripe_plug.patch.seams[0], name="refusing"),))
    monkeypatch.setattr(patches, "known_patches", lambda: (plug,))
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=r"json tool .* is not supported.*keyguard>=99"):
            patches.arm()


def test_a_client_without_its_seam_fails_to_arm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A method that is not there any more is named."""

    class Renamed(_Refusing):
        def supports(self, installed: str) -> bool:
            """Support everything."""
            return True

    for attribute in ("HTTPClient.request_twice", "NoSuchClient.request"):
        plug = Renamed((replace(stripe_plug.patch.seams[0], name="renamed", attribute=attribute),))
        monkeypatch.setattr(patches, "known_patches", lambda plug=plug: (plug,))
        with pytest.raises(ConfigurationError, match=attribute):
            patches.arm()


def test_two_plugs_with_one_seam_name_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second plug cannot take over a seam's name unseen."""

    class Point:
        name = "copy"

        def load(self) -> Any:
            """Give the Stripe plug once more."""
            return stripe_plug.patch

    monkeypatch.setattr(patches, "entry_points", lambda **_: [Point()])
    patches._plugged_in.cache_clear()
    try:
        with pytest.raises(ConfigurationError, match=r"stripe\.async, stripe\.check"):
            patches.known_patches()
    finally:
        patches._plugged_in.cache_clear()


def test_a_library_that_removes_whatever_is_outermost_leaves_a_guarding_seam() -> None:
    """Its `__wrapped__` guards as well, and disarming takes that away too."""
    before = vars(stripe.HTTPClient)["_request_with_retries_internal"]
    patches.arm()
    name = "_request_with_retries_internal"
    outermost = vars(stripe.HTTPClient)[name]
    setattr(stripe.HTTPClient, name, outermost.__wrapped__)

    assert patches.live_seams()["stripe.sync"]
    assert vars(stripe.HTTPClient)[name] not in (before, outermost)
    patches.disarm()
    assert vars(stripe.HTTPClient)[name] is before


def test_a_handle_that_was_wrapped_over_is_taken_away_later() -> None:
    """After disarm under a foreign wrapper, and when that is gone, disarming again restores the function."""
    before = _attribute()
    patches.arm()
    ours = _attribute()

    def theirs(wrapped: Any, _instance: Any, args: Any, kwargs: Any) -> Any:
        return wrapped(*args, **kwargs)

    wrapt.wrap_function_wrapper("stripe", "HTTPClient._request_with_retries_internal", theirs)
    patches.disarm()
    stripe.HTTPClient._request_with_retries_internal = ours  # type: ignore[method-assign]  # -- as found
    patches.arm()
    again = _attribute()
    patches.disarm()

    assert again is ours
    assert _attribute() is before


class _Local(_Refusing):
    """A plug for a client that no package index knows."""

    client, distribution, supported = "local client", "keyguard-no-such-distribution", ">=0"

    def supports(self, installed: str) -> bool:
        """Support what has no version, too."""
        return installed == "unknown"


def test_an_import_after_disarm_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A hook cannot be taken back, so it asks: not wanted, nothing is wrapped; wanted again, arm() finds the module there."""
    (tmp_path / "keyguard_local_client.py").write_text("class Client:\n    def call(self):\n        return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    plug = _Local((replace(httpx_plug.patches[0].seams[0], name="local", module="keyguard_local_client", attribute="Client.call"),))
    monkeypatch.setattr(patches, "known_patches", lambda: (plug,))
    patches.arm()
    patches.arm()
    patches.disarm()
    module = importlib.import_module("keyguard_local_client")
    monkeypatch.setitem(sys.modules, "keyguard_local_client", module)
    live = [patches.live_seams()]
    patches.arm()
    live.append(patches.live_seams())
    patches.disarm()
    live.append(patches.live_seams())

    assert live == [{"local": False}, {"local": True}, {"local": False}]
    assert module.Client().call() == 1


_LATE = """
import sys
import keyguard
keyguard.uninstall()
with keyguard.run("r"):
    installed = keyguard.install("sqlite://", run_usd_cap=1)
    before = installed.seams["stripe.sync"]
    assert "stripe" not in sys.modules
    import stripe
    stripe.StripeClient("sk_test_1")
    import stripe._api_requestor
    after = installed.seams
print(before, after["stripe.sync"], after["stripe.check"])
"""

_FAILING = """
import keyguard
from keyguard.patches.stripe import StripePatch
StripePatch.supports = lambda self, installed: False
with keyguard.run("r"):
    keyguard.install("sqlite://", run_usd_cap=1)
for _ in range(3):
    try:
        import stripe._http_client
        print("imported")
    except keyguard.ConfigurationError:
        print("refused")
"""


_MEANWHILE = """
import importlib.abc, sys, threading
from keyguard import patches
patches.known_patches()  # a finder that waits keeps every other import waiting
inside, go = threading.Event(), threading.Event()
class Slow(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "stripe._error":
            inside.set()
            go.wait(30)
sys.meta_path.insert(0, Slow())
importing = threading.Thread(target=__import__, args=("stripe",))
importing.start()
inside.wait(30)
assert "stripe._http_client" in sys.modules
let = patches._let_import_finish
def letting(module):
    # The import goes on only once arm() has come to wait for it.
    go.set()
    let(module)
patches._let_import_finish = letting
patches.arm()
importing.join(30)
print(patches.live_seams()["stripe.sync"])
"""

_TWO_PLUGS = """
import sys
from dataclasses import replace
from keyguard import patches
from keyguard.patches.stripe import patch
class Second:
    client, distribution, supported = "second", "stripe", ">=8"
    seams = (replace(patch.seams[0], name="second.sync", attribute="HTTPClient.request_with_retries", send=None),)
    def supports(self, installed):
        return True
patches.known_patches = lambda: (patch, Second())
patches.arm()
import stripe
print(patches.live_seams()["stripe.sync"], patches.live_seams()["second.sync"])
"""

_SCRIPTS = {
    "late": (_LATE, "False True True"),
    "failing": (_FAILING, "refused\nrefused\nrefused"),
    "meanwhile": (_MEANWHILE, "True"),
    "two plugs": (_TWO_PLUGS, "True True"),
}


@pytest.mark.parametrize(("script", "says"), _SCRIPTS.values(), ids=_SCRIPTS)
def test_a_client_imported_after_install(script: str, says: str) -> None:
    """A late import is armed, for each plug, also one that goes on meanwhile; one that cannot be guarded fails at every import."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)

    assert done.stdout.strip() == says, done.stderr
