"""`@keyguard.guarded`: the body runs where its calls are guarded, and nowhere else; without an orchestrator, and by real vendor calls."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import cloudpickle
import pytest

import keyguard
from keyguard import context
from keyguard.errors import ConfigurationError, KeyExpired, Unattributed, UnknownKey
from tests.support_alike import alike
from tests.support_forks import charge
from tests.support_stripe_server import StripeServer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Iterator

BODIES: list[str] = []


@pytest.fixture
def vendor() -> Iterator[StripeServer]:
    """A Stripe that executes everything."""
    BODIES.clear()
    with StripeServer() as started:
        yield started


@keyguard.guarded
def function(name: str, more: int = 1) -> str:
    """Note that the body has run."""
    BODIES.append(name)
    return name * more


@keyguard.guarded
async def coroutine(name: str) -> str:
    """Note that the body has run."""
    BODIES.append(name)
    return name


@keyguard.guarded
def generator(name: str) -> Generator[str, str, str]:
    """Note that the body has run, and answer what is sent."""
    BODIES.append(name)
    told = yield name
    return told


@keyguard.guarded
async def asyncgen(name: str) -> AsyncGenerator[str, str]:
    """Note that the body has run, answer what is sent and what is thrown."""
    BODIES.append(name)
    try:
        told = yield name
        yield told
    except ValueError as error:
        yield f"thrown {error}"
    finally:
        BODIES.append(f"end of {name}")


class Shop:
    """Methods of three kinds."""

    @keyguard.guarded
    def method(self, name: str) -> str:
        """Note that the body has run."""
        return function(name)

    @keyguard.guarded
    @classmethod
    def of_class(cls, name: str) -> str:
        """Note that the body has run."""
        return function(f"{cls.__name__} {name}")

    @keyguard.guarded
    @staticmethod
    def static(name: str) -> str:
        """Note that the body has run."""
        return function(name)


async def _listed(name: str) -> list[str]:
    return [found async for found in asyncgen(name)]


def _every_kind() -> list[Any]:
    """Call one of each kind."""
    return [
        function("f"), asyncio.run(coroutine("c")), next(generator("g")), asyncio.run(_first(asyncgen("a"))),
        Shop().method("m"), Shop.of_class("k"), Shop.static("s"),
    ]  # fmt: skip


async def _first(made: AsyncGenerator[str, str]) -> str:
    found = await made.__anext__()
    await made.aclose()
    return found


def test_a_guarded_function_is_what_it_was() -> None:
    """Each kind stays its kind, with its name, signature and docstring: orchestrators ask for them."""
    kinds: list[Any] = [inspect.isfunction, inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction]
    functions: list[Any] = [function, coroutine, generator, asyncgen]

    assert [kind(one) for kind, one in zip(kinds, functions, strict=True)] == [True] * 4
    assert not inspect.iscoroutinefunction(function)
    assert str(inspect.signature(function)) == "(name: 'str', more: 'int' = 1) -> 'str'"
    assert (function.__name__, function.__doc__, function.__module__) == ("function", "Note that the body has run.", __name__)


def test_every_kind_runs_in_a_run_that_has_a_key(vendor: StripeServer, url: str) -> None:
    """In the process that called install() a guarded function does what it did."""
    with keyguard.run("run-1"):
        keyguard.install(url, run_usd_cap=5)

        assert _every_kind() == ["f", "c", "g", "a", "m", "Shop k", "s"]


def test_no_kind_runs_where_nobody_pays() -> None:
    """Never armed, or armed for another run: the typed error, and nothing of the body."""
    BODIES.clear()
    calls: list[Any] = [
        lambda: function("f"), lambda: asyncio.run(coroutine("c")), lambda: next(generator("g")), lambda: asyncio.run(_listed("a")),
        lambda: Shop().method("m"), lambda: Shop.of_class("k"), lambda: Shop.static("s"),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(Unattributed):
            call()

    assert BODIES == []
    # Who only asked has not armed the process for everybody.
    assert context.handler() is None


def test_what_is_sent_and_thrown_into_generators_arrives(url: str) -> None:
    """A guarded generator is driven like the one it wraps: send, throw, close, and its return value."""

    async def driven() -> list[str]:
        made, other = asyncgen("a"), asyncgen("b")
        found = [await made.__anext__(), await made.asend("sent")]
        await made.aclose()
        found += [await other.__anext__(), await other.athrow(ValueError("it"))]
        await other.aclose()
        return found

    BODIES.clear()
    with keyguard.run("run-1"):
        keyguard.install(url, run_usd_cap=5)
        made = generator("g")
        next(made)
        with pytest.raises(StopIteration) as ended:
            made.send("sent")

        assert ended.value.value == "sent"
        assert asyncio.run(driven()) == ["a", "sent", "b", "thrown it"]
    assert BODIES == ["g", "a", "end of a", "b", "end of b"]


def test_a_guarded_function_is_not_stopped_where_everything_only_observes(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Observing refuses nothing, not for an unattributed body either; a WARNING says what enforcing would have done."""
    for name in ("run-1", "run-2"):
        with keyguard.run(name):
            keyguard.install(url, run_usd_cap=5, mode="observe")
    caplog.clear()

    assert function("f") == "f"
    assert "Enforcing would have stopped it" in caplog.text


def test_guarding_twice_is_guarding_once() -> None:
    """What is guarded already is returned as it is."""
    assert keyguard.guarded(function) is function


def test_a_task_is_not_a_function() -> None:
    """Above an orchestrator's decorator it would take the task's methods away: that is said, not done."""

    class Task:
        def submit(self) -> None: ...

        def __call__(self) -> None: ...

    with pytest.raises(ConfigurationError, match="goes below its decorator"):
        keyguard.guarded(Task())


def test_a_guarded_closure_can_be_sent_by_value() -> None:
    """cloudpickle sends a function that is defined inside another one, with all it refers to: no context variable is among that."""
    base = "sent"

    @keyguard.guarded
    def closure(name: str) -> str:
        return f"{base} {name}"

    sent: Any = pickle.loads(cloudpickle.dumps(closure))
    with keyguard.run("run-1"):
        keyguard.install("sqlite://", run_usd_cap=5)

        assert sent("x") == "sent x"
    assert (sent.__name__, inspect.signature(sent)) == ("closure", inspect.signature(closure))


def test_two_functions_of_one_name_have_different_code() -> None:
    """Prefect names a task by its function's name and code: guarded ones of one name are told apart as they were."""
    assert keyguard.guarded(alike(1)).__code__ == keyguard.guarded(alike(1)).__code__
    assert keyguard.guarded(alike(1)).__code__ != keyguard.guarded(alike(2)).__code__


# -- processes that nobody armed -----------------------------------------------------------------------

_CHILD = """
import json, sys
sys.path.insert(0, sys.argv[1])
import keyguard
from tests.support_forks import charge
base = sys.argv[2]
guarded = keyguard.guarded(charge)
try:
    said = guarded(base, 100)[:3]
except keyguard.KeyguardError as error:
    said = type(error).__name__
try:
    charge(base, 200)
    bare = "sent"
except keyguard.KeyguardError as error:
    bare = type(error).__name__
print(json.dumps([said, bare]))
"""


def child(vendor: StripeServer, **environment: str) -> list[str]:
    """Charge a dollar by a guarded function, then two by a bare one, in a new process; returns what came of each."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("KEYGUARD_")} | environment
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(Path(__file__).parents[1]), vendor.url], env=env, capture_output=True, text=True, timeout=100,
        check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    return cast("list[str]", json.loads(done.stdout))


def test_a_key_in_the_environment_pays_in_a_process_of_its_own(vendor: StripeServer, url: str) -> None:
    """`KEYGUARD_KEY` and `KEYGUARD_URL` arm a guarded function's process; from then on bare calls of the process are guarded too."""
    key = keyguard.issue(url, run_usd_cap=2.5)

    assert child(vendor, KEYGUARD_KEY=key.token, KEYGUARD_URL=url) == ["pi_", "SpendCapExceeded"]
    assert len(vendor.charges) == 1


def test_a_run_in_the_environment_pays_in_a_process_of_its_own(vendor: StripeServer, url: str) -> None:
    """`KEYGUARD_RUN_ID` and `KEYGUARD_URL` find the key of a run that was armed elsewhere."""
    with keyguard.run("run-7"):
        installed = keyguard.install(url, run_usd_cap=2.5)

    assert child(vendor, KEYGUARD_RUN_ID="run-7", KEYGUARD_URL=url) == ["pi_", "SpendCapExceeded"]
    assert installed.usage().spent == 1_000_000


def test_an_unknown_key_in_the_environment_arms_nobody(vendor: StripeServer, url: str) -> None:
    """A key of another ledger: the guarded body does not run, and the process is as it was."""
    assert child(vendor, KEYGUARD_KEY="vault_key_elsewhere", KEYGUARD_URL=url) == [UnknownKey.__name__, "sent"]
    assert [form["amount"] for form in vendor.charges] == ["200"]


def test_a_process_without_a_word_refuses_what_is_guarded(vendor: StripeServer) -> None:
    """Nobody has armed it and nothing names a payer: only the bare call is sent."""
    assert child(vendor) == [Unattributed.__name__, "sent"]


def test_a_guarded_function_of_an_ended_key_is_refused_by_its_calls(vendor: StripeServer, url: str) -> None:
    """Its run has a key, so the body runs; that the key has ended, the call is told."""
    with keyguard.run("run-1"):
        keyguard.install(url, run_usd_cap=5).close()
        with pytest.raises((KeyExpired, keyguard.KeyRevoked)):
            keyguard.guarded(charge)(vendor.url, 100)

    assert vendor.charges == []
