"""An orchestrator's stop, as the core hears it: before the reserve, before the send, before each further attempt. No Prefect here."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
import stripe

import keyguard
from keyguard import context
from keyguard.errors import KeyRevoked
from keyguard.model import Call, Reply
from keyguard.settings import load_settings
from tests.support_guard import World
from tests.support_json_server import Answer, JsonServer
from tests.support_stripe_server import StripeServer
from tests.support_twilio_clients import FROM, STYLES, TO, awaited, client_for
from tests.support_twilio_server import ACCOUNT, Twilio

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyguard.context import RunRef

WHY = "job 7 was cancelled. Start it again."


class Sign:
    """A stop sign of an engine of our own: it stops from when `when` holds; `asked` has who was asked about, `ended` how often it ended."""

    def __init__(self) -> None:
        self.when: Callable[[], bool] = lambda: False
        self.asked: list[tuple[RunRef | None, str | None]] = []
        self.ended = 0

    def __call__(self, run: RunRef | None, payer: str | None, /) -> str | None:
        """Say stop, or nothing."""
        self.asked.append((run, payer))
        return WHY if self.when() else None

    def end(self) -> None:
        """Count it."""
        self.ended += 1


@pytest.fixture
def sign(monkeypatch: pytest.MonkeyPatch) -> Sign:
    """The only stop sign of the process."""
    monkeypatch.setattr(context._state, "stop_signs", {})
    monkeypatch.setattr(context._state, "asked_signs", ())
    found = Sign()
    context.register_stop("jobs", found)
    return found


def refusals(world: World) -> list[tuple[str, str]]:
    """Return the audited refusals: operation and reason."""
    return [(row["operation"], row["detail"]["reason"]) for row in world.ledger.entries() if row["kind"] == "refuse"]


def test_a_stopped_run_is_refused_before_anything_is_held(sign: Sign) -> None:
    """KeyRevoked with the engine's own words and ids; nothing is reserved or sent, no balance changes, and it is audited."""
    world = World()
    sign.when = lambda: True
    with pytest.raises(
        KeyRevoked, match=r"payment_intents\.create was not sent: job 7 was cancelled\. .* keyguard status --run run-1"
    ) as error:
        world.call()

    assert (error.value.run_id, error.value.key_id, error.value.operation) == ("run-1", world.key.key_id, "payment_intents.create")
    assert (world.sent, world.counted) == (0, (0, 0, 0))
    assert refusals(world) == [("payment_intents.create", "revoked")]
    assert not [row for row in world.ledger.entries() if row["kind"] == "reserve"]
    assert sign.asked == [(None, "run-1")]


def test_a_run_that_may_go_on_is_asked_for_at_each_call(sign: Sign) -> None:
    """A stop is not remembered: when the engine takes it back, the next call goes out."""
    world = World()
    sign.when = lambda: True
    with pytest.raises(KeyRevoked):
        world.call()
    sign.when = lambda: False
    world.call()

    assert world.sent == 1


def test_a_stop_that_comes_while_the_money_is_held_stops_the_send(sign: Sign) -> None:
    """Asked again between hold and send: the hold is given back, which is audited beside the refusal, and nothing leaves."""
    world = World()
    sign.when = lambda: len(sign.asked) > 1
    with pytest.raises(KeyRevoked, match="job 7"):
        world.call()

    assert (world.sent, world.counted) == (0, (0, 0, 0))
    assert [row["kind"] for row in world.ledger.entries()][-3:] == ["reserve", "release", "refuse"]
    assert world.ledger.verify() == []


def test_a_stopped_run_does_not_ask_the_vendor_for_a_quote(sign: Sign) -> None:
    """A quote read is a vendor call too: none is made after a stop that came before it."""
    world, asked = World(), list[str]()

    def ask(path: str, _secret: str | None) -> Reply:
        asked.append(path)
        return Reply(404, {}, b"{}")

    sign.when = lambda: len(sign.asked) > 1
    confirm = Call("stripe", "POST", "https", "api.stripe.com", "/v1/payment_intents/pi_9/confirm", body=())
    with pytest.raises(KeyRevoked, match="job 7"):
        world.call(call=confirm, ask=ask)

    assert (asked, world.sent, world.counted) == ([], 0, (0, 0, 0))


def test_observe_mode_says_what_it_would_have_stopped(sign: Sign, caplog: pytest.LogCaptureFixture) -> None:
    """Observed calls of a stopped run go out, are booked, and leave a WARNING."""
    world = World({"run_usd_cap": 100, "mode": "observe"})
    sign.when = lambda: True
    with caplog.at_level(logging.WARNING, logger="keyguard"):
        world.call()

    assert (world.sent, world.counted) == (1, (20_000_000, 0, 0))
    assert any("would have stopped" in message and "job 7" in message for message in caplog.messages)


def test_an_sdks_own_retry_is_stopped(sign: Sign) -> None:
    """Stripe's SDK retries a lost answer by itself: the run was stopped meanwhile, so the further attempt does not leave."""
    with StripeServer(statuses=[500, 500, 500]) as server, keyguard.run("run-1"):
        sign.when = lambda: bool(server.requests)
        installed = keyguard.install(run_usd_cap=100)
        client: Any = stripe.StripeClient("sk_test_1", base_addresses={"api": server.url}, max_network_retries=3)
        with pytest.raises(KeyRevoked, match="job 7"):
            client.v1.payment_intents.create({"amount": 100, "currency": "usd", "confirm": True})

        assert len(server.requests) == 1
        usage = installed.usage()

    # Of the attempt that left nobody knows what became.
    assert (usage.spent, usage.held, usage.doubt) == (0, 0, 1_000_000)


@pytest.mark.parametrize("style", STYLES)
def test_a_hop_of_the_same_call_is_stopped(sign: Sign, monkeypatch: pytest.MonkeyPatch, style: str) -> None:
    """A request that was sent elsewhere by the vendor (307) is covered by its hold, and yet asked for again: it is not sent on."""
    messages = f"/2010-04-01/Accounts/{ACCOUNT}/Messages.json"
    form = {"To": TO, "From": FROM, "Body": "hi"}
    with JsonServer(Twilio().answer) as server, keyguard.run("run-1"):
        monkeypatch.setenv("KEYGUARD_VENDOR_HOSTS", f"twilio={server.host}")
        server.scripted = [Answer(307, {}, {"Location": f"{server.url}{messages}"})]
        sign.when = lambda: bool(server.requests)
        installed = keyguard.install(run_usd_cap=5)
        with pytest.raises(KeyRevoked, match="job 7"):
            if style == "sync":
                client_for(server.url).request("POST", server.url + messages, data=form, allow_redirects=True)
            else:
                awaited(server.url, lambda client: client.request_async("POST", server.url + messages, data=form, allow_redirects=True))

        assert len(server.requests) == 1
        usage = installed.usage()

    assert (usage.spent, usage.held, usage.doubt) == (0, 0, 0)


def test_the_first_sign_that_says_stop_is_heard(sign: Sign) -> None:
    """Several engines may have signs; a name that is registered again replaces its sign."""
    other = Sign()
    other.when = lambda: True
    context.register_stop("others", other)
    context.register_stop("jobs", Sign())

    assert context.why_stopped(None, "run-1") == WHY
    assert (sign.asked, other.asked) == ([], [(None, "run-1")])


def test_uninstall_ends_every_sign(sign: Sign) -> None:
    """`uninstall()` lets the engines' integrations leave off watching."""
    with keyguard.run("run-1"):
        keyguard.install(run_usd_cap=1)
    keyguard.uninstall()

    assert sign.ended == 1


def test_the_poll_has_a_unit_and_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """`KEYGUARD_STATE_POLL_SECONDS`: a second by default, 0 is never, less than that is an error; install() makes it known."""
    assert load_settings().state_poll_seconds == 1
    monkeypatch.setenv("KEYGUARD_STATE_POLL_SECONDS", "-1")
    with pytest.raises(keyguard.ConfigurationError, match="state_poll_seconds"):
        load_settings()
    monkeypatch.setenv("KEYGUARD_STATE_POLL_SECONDS", "0.25")
    with keyguard.run("run-1"):
        keyguard.install(run_usd_cap=1)

    assert context.state_poll() == 0.25
