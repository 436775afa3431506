"""Stripe's own test suite, without the guard, observed and enforced: the same tests fail; and it notices a guard that is broken."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.peers.stripe_suite import Missing, Outcome, Suite, prepared, standin

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.peers, pytest.mark.timeout(600)]

_IN_SHORT = (
    "tests/test_http_client.py", "tests/test_api_requestor.py", "tests/test_integration.py", "tests/test_error.py",
    "tests/test_stripe_object.py", "tests/api_resources", "tests/services", "tests/test_generated_examples.py",
    "-k", "not TestGeneratedExamples or payment_intents or charges or refunds or transfers or payouts",
)  # fmt: skip
# Where a guard's mistakes show first: what arrives at a client, telemetry between calls, bodies that belong to the caller.
_TEETH = ("tests/test_http_client.py", "tests/test_integration.py", "-k", "telemetry or stream or test_request")
_DOUBLES = ("tests/test_http_client.py", "tests/services", "-k", "services or RequestsClient")
_BROKEN = ("headers", "body", "stream")


@pytest.fixture(scope="module")
def suite() -> Iterator[Suite]:
    """Stripe's suite beside its server; skipped where it cannot be had, except in CI, which must not lose it silently."""
    try:
        found = prepared()
        with standin():
            yield found
    except Missing as missing:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(str(missing))


@pytest.fixture(scope="module")
def short(suite: Suite) -> Iterator[dict[str, Future[Outcome]]]:
    """Every run of the short form, some at a time: most of what they do is wait for each other's servers to close."""
    with ThreadPoolExecutor(4) as pool:
        runs = {mode: pool.submit(suite.run, mode, *_IN_SHORT) for mode in ("none", "observe", "enforce")}
        runs |= {broken: pool.submit(suite.run, "observe", *_TEETH, broken=broken) for broken in _BROKEN}
        runs |= {f"strict {mode}": pool.submit(suite.run, mode, *_DOUBLES, is_strict=True) for mode in ("observe", "enforce")}
        yield runs


@pytest.fixture(scope="module")
def whole_unguarded(suite: Suite) -> Outcome:
    """The whole suite without keyguard."""
    return suite.run("none", workers=2)


def _new(guarded: Outcome, unguarded: Outcome) -> dict[str, str]:
    return {name: text for name, text in guarded.failures.items() if name not in unguarded.failures}


def _check_same(mode: str, guarded: Outcome, unguarded: Outcome, capsys: pytest.CaptureFixture[str]) -> None:
    """Assert that the same tests fail, but for the refusals that are meant when enforcing; print what was decided."""
    with capsys.disabled():
        print(f"\nunguarded: {unguarded}\n{mode}: {guarded.decisions} decisions; {guarded}")
    new = _new(guarded, unguarded)

    assert set(guarded.failures) == set(unguarded.failures), new
    assert sum(guarded.outcomes.values()) == sum(unguarded.outcomes.values())


@pytest.mark.parametrize("mode", ["observe", "enforce"])
def test_the_same_tests_fail_in_the_short_form(short: dict[str, Future[Outcome]], mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exactly those of Stripe's tests fail that fail without a guard, observed and enforced."""
    guarded = short[mode].result()

    _check_same(mode, guarded, short["none"].result(), capsys)
    assert guarded.decisions > 400
    assert min(guarded.counts["sync"], guarded.counts["async"]) > 50


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["observe", "enforce"])
def test_the_same_tests_fail_in_the_whole_suite(
    suite: Suite, whole_unguarded: Outcome, mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole suite fails the same tests, with more than 1,500 decisions in each mode."""
    guarded = suite.run(mode, workers=2)

    _check_same(mode, guarded, whole_unguarded, capsys)
    assert guarded.decisions > 1500
    assert guarded.counts["sync"] + guarded.counts["async"] + guarded.counts["attempts"] > 3000


@pytest.mark.parametrize("broken", _BROKEN)
def test_a_broken_guard_is_noticed(short: dict[str, Future[Outcome]], broken: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A guard that lower-cases headers into a plain dict, drops the body, or reads the caller's stream makes more tests fail."""
    new = _new(short[broken].result(), short["none"].result())
    with capsys.disabled():
        print(f"\nbroken ({broken}): {len(new)} more failures")

    assert len(new) >= 4
    assert not any("keyguard.errors" in text for text in new.values())


def test_only_refusals_differ_without_the_excuses(short: dict[str, Future[Outcome]], capsys: pytest.CaptureFixture[str]) -> None:
    """Enforcing refuses the suite's doubles, which no guard can see through, as it should: no other failure comes with them."""
    new = _new(short["strict enforce"].result(), short["none"].result())
    kinds = {text.partition("keyguard.errors.")[2].partition(":")[0] for text in new.values()}
    with capsys.disabled():
        print(f"\nwithout the excuses: {len(new)} more failures, by {' and '.join(sorted(kinds))}")

    assert kinds == {"ConfigurationError"}


def test_observing_needs_no_excuses(short: dict[str, Future[Outcome]]) -> None:
    """Observing refuses nothing: not the suite's doubles, which cannot be guarded."""
    assert not _new(short["strict observe"].result(), short["none"].result())
