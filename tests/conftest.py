"""
What holds for every test: no setting of the machine reaches it, and random examples have no time limit of their own.

And the places that many tests need: a ledger's file, a Stripe on loopback, the double for faults.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from tests.support_prefect import prefect_home, prefect_server, standin

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from keyguard.testing.double import VendorDouble
    from tests.support_stripe_server import StripeServer

# Fixtures of the whole session: imported by each module that uses them, there would be as many servers.
__all__ = ["clean_environment", "prefect_home", "prefect_server", "standin"]

# A shared machine may stall for longer than an example takes; pytest's own timeout is the limit.
settings.register_profile("keyguard", deadline=None, print_blob=True)
settings.load_profile("keyguard")


def pytest_configure() -> None:
    """Keep bytecode, here and in every process that tests start: where a machine says not to, each of them would compile it all anew."""
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Say how many processes run the tests: none beside this one for those that were named, else one more than there are cores."""
    is_whole = config.args_source is not pytest.Config.ArgsSource.ARGS
    # Many tests wait for a server or a child of theirs.
    return (os.cpu_count() or 1) + 1 if is_whole else 0


@pytest.fixture(autouse=True)
def clean_environment() -> Iterator[None]:
    """Take away what a developer's shell may have set; KEYGUARD_URL stays, the plugin under test looks after it."""
    # Not the `monkeypatch` fixture: what a test patches must be undone before the plugin disarms after it.
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("STRIPE_", "OTEL_")) or (
                name.startswith(("KEYGUARD_", "KEYBRAKE_")) and name not in {"KEYGUARD_URL", "KEYGUARD_FRONT_LEDGER"}
            ):
                patch.delenv(name)
        yield


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Name a ledger file of this test."""
    return f"sqlite:///{tmp_path / 'ledger.db'}"


# What these need is imported in them: a test may be about what is imported when.
@pytest.fixture
def double() -> Iterator[VendorDouble]:
    """A Stripe for faults, whose requests are guarded."""
    from keyguard.testing.double import VendorDouble

    with VendorDouble() as started:
        yield started


@pytest.fixture
def vendor(monkeypatch: pytest.MonkeyPatch) -> Iterator[StripeServer]:
    """Point the Stripe SDK at a loopback Stripe, with its retries off and keyguard gone afterwards."""
    import stripe

    import keyguard
    from tests.support_stripe_server import StripeServer

    with StripeServer() as server:
        monkeypatch.setattr(stripe, "api_base", server.url)
        monkeypatch.setattr(stripe, "api_key", "sk_test_12345")
        monkeypatch.setattr(stripe, "max_network_retries", 0)
        monkeypatch.setattr(stripe, "default_http_client", None)
        yield server
        keyguard.uninstall()


@pytest.fixture
def refused(prefect_server: str) -> Iterator[Any]:
    """Tasks and flows of Prefect's that are refused (`tests.support_refused`), with its engine changed and nothing counted."""
    from keyguard.prefect import activate, deactivate
    from tests import support_refused

    support_refused.counted.clear()
    activate()
    yield support_refused
    deactivate()
