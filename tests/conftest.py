"""What holds for every test: no setting of the machine reaches it, and random examples have no time limit of their own."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# A shared machine may stall for longer than an example takes; pytest's own timeout is the limit.
settings.register_profile("keyguard", deadline=None, print_blob=True)
settings.load_profile("keyguard")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what a developer's shell may have set; KEYGUARD_URL stays, the plugin under test looks after it."""
    for name in list(os.environ):
        if name.startswith(("STRIPE_", "OTEL_")) or (name.startswith("KEYGUARD_") and name != "KEYGUARD_URL"):
            monkeypatch.delenv(name)
