"""The pytest plugin: keeps tests away from real budgets. Loads nothing heavy before a test asks for it.

Under pytest the default ledger, and that in front of a proxy, is in memory and new for each test, and nothing stays armed after a
test. A URL given to `install()`, or `KEYGUARD_URL` and `KEYGUARD_FRONT_LEDGER` in the environment, still win; the marker
`keyguard_real_ledger` gives one test the ledger it would have outside pytest.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

import pytest

from keyguard import context

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keyguard.ledgers import Ledger

MEMORY_URL = "sqlite://"
_VARIABLES = ("KEYGUARD_URL", "KEYGUARD_FRONT_LEDGER")
_MARKER = "keyguard_real_ledger"
_set_here = pytest.StashKey[tuple[str, ...]]()


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and make memory the default before any test module is imported."""
    config.addinivalue_line("markers", f"{_MARKER}: use the ledger this code would use outside pytest, not one in memory")
    config.stash[_set_here] = tuple(name for name in _VARIABLES if name not in os.environ)
    for name in _VARIABLES:
        os.environ.setdefault(name, MEMORY_URL)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Put the environment back."""
    for name in config.stash.get(_set_here, ()):
        os.environ.pop(name, None)


@pytest.fixture(autouse=True)
def keyguard_isolation(request: pytest.FixtureRequest) -> Iterator[None]:
    """Choose the test's default ledger, and disarm keyguard after the test."""
    with pytest.MonkeyPatch.context() as patch:
        # By value: a worker process of pytest-xdist inherits what its parent set.
        if request.node.get_closest_marker(_MARKER) is not None:
            for name in _VARIABLES:
                if os.environ.get(name) == MEMORY_URL:
                    patch.delenv(name)
        yield
    if context.handler() is not None or _install_module()._armed.backends:
        _install_module().uninstall()


@pytest.fixture
def keyguard_ledger(keyguard_isolation: None) -> Ledger:
    """The ledger that `keyguard.install()` uses in this test, for asserting what was spent."""
    from keyguard.settings import load_settings

    ledger: Ledger = _install_module()._armed.open(load_settings().url or None).ledger
    return ledger


def _install_module() -> Any:
    # `keyguard.install` as an attribute is the function of that name.
    return importlib.import_module("keyguard.install")
