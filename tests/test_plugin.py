"""The pytest plugin, in pytest processes of its own, as users run it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

pytest_plugins = ["pytester"]

SPENDS = """
import os, keyguard

def spend(**policy):
    with keyguard.run("run-1"):
        return keyguard.install(run_usd_cap=5, **policy)
"""


def run_inner(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, test: str, *, by_itself: bool = False, **environ: str
) -> pytest.RunResult:
    """Run one test file in a pytest of its own, with an empty data folder; with our plugin alone, unless all load by themselves."""
    named = () if by_itself else ("-p", "keyguard")
    if not by_itself:
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("HOME", str(pytester.path))
    monkeypatch.setenv("XDG_DATA_HOME", str(pytester.path / "data"))
    monkeypatch.delenv("KEYGUARD_URL", raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    pytester.makepyfile(SPENDS + test)
    return pytester.runpytest_subprocess("--strict-markers", "-p", "no:cacheprovider", *named)


def user_ledger(pytester: pytest.Pytester) -> Path:
    """Return where the user's own ledger would be."""
    return pytester.path / "data" / "keyguard" / "ledger.db"


def test_tests_never_touch_the_users_ledger(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under pytest the default ledger is in memory, new for each test, and nothing stays armed."""
    result = run_inner(
        pytester,
        monkeypatch,
        """
from keyguard import context

def test_first(keyguard_ledger):
    key = spend().key
    assert context.handler() is not None
    assert keyguard_ledger.url.startswith("sqlite://")
    assert keyguard_ledger.usage("run:run-1").cap == 5_000_000
    assert [found.key_id for found, _ in keyguard_ledger.runs()] == [key.key_id]

def test_second(keyguard_ledger):
    assert context.handler() is None
    assert keyguard_ledger.runs() == []
""",
        by_itself=True,
    )

    result.assert_outcomes(passed=2)
    assert not user_ledger(pytester).exists()


def test_the_marker_opts_out(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test marked keyguard_real_ledger uses the ledger it would use outside pytest; the next one does not."""
    result = run_inner(
        pytester,
        monkeypatch,
        """
import pytest

@pytest.mark.keyguard_real_ledger
def test_real():
    spend()

def test_memory(keyguard_ledger):
    assert keyguard_ledger.runs() == []
""",
    )

    result.assert_outcomes(passed=2)
    assert user_ledger(pytester).exists()


def test_an_explicit_url_wins(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """KEYGUARD_URL in the environment, and a URL given to install(), are used as they are."""
    named, given = pytester.path / "named.db", pytester.path / "given.db"
    result = run_inner(
        pytester,
        monkeypatch,
        f"""
def test_environment(keyguard_ledger):
    spend()
    assert "named.db" in keyguard_ledger.url

def test_argument():
    with keyguard.run("run-2"):
        keyguard.install("sqlite:///{given}", run_usd_cap=5)
""",
        KEYGUARD_URL=f"sqlite:///{named}",
    )

    result.assert_outcomes(passed=2)
    assert named.exists()
    assert given.exists()


def test_the_environment_is_put_back() -> None:
    """A pytest.main() inside a process leaves KEYGUARD_URL as it was."""
    names = "{'KEYGUARD_URL', 'KEYGUARD_FRONT_LEDGER'}"
    script = f"import os, pytest; pytest.main(['--version']); print('left', bool({names} & set(os.environ)))"
    env = {name: value for name, value in os.environ.items() if name not in {"KEYGUARD_URL", "KEYGUARD_FRONT_LEDGER"}}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)

    assert "left False" in done.stdout


def test_the_plugin_loads_no_vendor_driver_or_orchestrator() -> None:
    """pytest starts as fast as before: the plugin pulls in neither SDKs nor engines."""
    heavy = "{'stripe', 'twilio', 'resend', 'prefect', 'apsw', 'typer', 'opentelemetry.sdk', 'requests'}"
    script = f"import sys, keyguard.testing.plugin; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
