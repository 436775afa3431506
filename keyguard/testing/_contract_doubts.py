"""Ledger contract: what can be asked about later (doubts, open intents, estimates), and what is booked of the answers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from keyguard.errors import ConfigurationError
from keyguard.model import Closing, Fact, Identity, Outcome, Quote
from keyguard.testing._contract_base import DAY, Clock, ContractBase
from keyguard.testing._till import Till, open_till, parts

if TYPE_CHECKING:
    from keyguard.model import Receipt

_RELEASED = Outcome("released")


def bought(object_id: str, amount: int, *aliases: str, held: int = 0) -> Outcome:
    """Return how a call ended that bought an object."""
    return Outcome("settled", facts=(Fact(object_id, amount, held, amount + held, aliases=aliases),))


def said(till: Till, reservation: str, outcome: Outcome, attempts: int | None = None) -> Receipt:
    """Let a person say how a call ended."""
    return till.ledger.resolve(reservation, outcome, by="ada", reason="looked", attempts=attempts)


def doubted(till: Till, amount: int = 60) -> str:
    """Make a call that ended in doubt; returns its reservation's id."""
    reservation = till.hold(amount)
    till.doubt(reservation)
    return reservation


def estimated(till: Till, object_id: str = "SM1", amount: int = 60) -> str:
    """Make a call that was settled at a price of our own; returns its reservation's id."""
    reservation = till.hold(amount)
    till.ledger.close(Closing(reservation, replace(bought(object_id, amount), is_estimate=True)))
    return reservation


class DoubtsContract(ContractBase):
    """What vendors and people say later."""

    # -- listing ----------------------------------------------------------------------------------

    def test_a_doubt_is_listed_with_what_is_known(self, till: Till) -> None:
        """A doubt says whose it is, what was asked for, how much is counted for it and since when; what is not in doubt is not listed."""
        till.charge("pi_1", 10)
        till.open_intent("pi_2", 10)
        order = replace(till.order(Quote(60, object_id="pi_3", adopts=True)), payee="p", principal="c")
        till.ledger.reserve(order)
        till.ledger.close(Closing(order.reservation_id, Outcome("doubt", request_id="req_1")))

        (doubt,) = till.ledger.doubts()

        assert (doubt.reservation_id, doubt.run_id, doubt.key_id, doubt.scope) == (
            order.reservation_id, till.run_id, till.key.key_id, f"run:{till.run_id}"
        )  # fmt: skip
        assert (doubt.vendor, doubt.account, doubt.operation, doubt.method, doubt.object_id) == (
            "stripe",
            "",
            "things.create",
            "POST",
            "pi_3",
        )
        assert (doubt.amount, doubt.attempts, doubt.payee, doubt.principal, doubt.request_id) == (60, 1, "p", "c", "req_1")
        assert doubt.at <= doubt.sent_at <= till.ledger.now()

    def test_doubts_of_a_scope_are_its_own(self, till: Till) -> None:
        """A scope lists only its own, no scope lists all, oldest first."""
        mine, theirs = doubted(till), doubted(open_till(till.ledger, "run-2"))

        assert [doubt.reservation_id for doubt in till.ledger.doubts(f"run:{till.run_id}")] == [mine]
        assert [doubt.reservation_id for doubt in till.ledger.doubts()] == [mine, theirs]

    def test_a_doubt_of_nothing_is_none(self, till: Till) -> None:
        """Where nothing is counted there is nothing to find out."""
        doubted(till, 0)

        assert till.ledger.doubts() == []

    def test_open_intents_are_listed_by_their_objects(self, till: Till) -> None:
        """An open intent names the object that holds the money, also where the call itself made it."""
        reservation = till.open_intent("pi_2", 30)
        till.charge("pi_3", 10)

        (found,) = till.ledger.doubts(kind="open")

        assert (found.reservation_id, found.object_id, found.amount) == (reservation, "pi_2", 30)

    def test_estimates_are_listed_by_their_objects(self, till: Till) -> None:
        """What was settled at a price of our own names its object, until the vendor's price is known."""
        reservation = estimated(till)
        till.charge("SM2", 10)

        (found,) = till.ledger.doubts(kind="estimate")

        assert (found.reservation_id, found.object_id, found.amount) == (reservation, "SM1", 60)

    def test_an_estimate_of_nothing_is_none(self, till: Till) -> None:
        """A replay, which bought nothing, waits for no price."""
        estimated(till, amount=40)
        estimated(till, amount=40)

        assert len(till.ledger.doubts(kind="estimate")) == 1

    # -- doubts -----------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("outcome", "expected", "object_id"),
        [
            (Outcome("settled", cost=40), (40, 0, 0), None),
            (Outcome("settled", cost=90), (90, 0, 0), None),
            (bought("pi_1", 40), (40, 0, 0), "pi_1"),
            (bought("pi_1", 20, held=40), (20, 40, 0), "pi_1"),
            (_RELEASED, (0, 0, 0), None),
        ],
    )
    def test_a_doubt_ends_as_it_is_said(self, till: Till, outcome: Outcome, expected: tuple[int, int, int], object_id: str | None) -> None:
        """Settled at its cost, also above what was held, or released; the log says by whom, and why."""
        reservation = doubted(till)
        receipt = said(till, reservation, outcome)

        assert parts(receipt) == parts(till.usage) == expected
        assert till.ledger.doubts() == []
        assert object_id is None or till.recall(object_id) is not None
        (row,) = [row for row in till.ledger.entries() if row["detail"].get("by") == "ada"]
        assert row["detail"]["reason"] == "looked"
        assert till.ledger.verify() == []

    def test_a_doubt_ends_once(self, till: Till) -> None:
        """A second answer that says no more changes nothing; truth above what is known is added."""
        reservation = doubted(till)
        said(till, reservation, bought("pi_1", 40))
        before = till.usage
        again = said(till, reservation, bought("pi_1", 40))
        said(till, reservation, _RELEASED)

        assert again.replayed
        assert till.usage == before

    @pytest.mark.parametrize("name", ["never", "", "'"])
    def test_what_is_not_there_cannot_be_resolved(self, till: Till, name: str) -> None:
        """An unknown id is an error that says where the known ones are."""
        with pytest.raises(ConfigurationError, match="keyguard doubts"):
            said(till, name, _RELEASED)

    def test_an_open_call_is_left_to_its_process(self, till: Till) -> None:
        """What is on the wire ends by itself."""
        reservation = till.hold(60)
        with pytest.raises(ConfigurationError, match="still open"):
            said(till, reservation, _RELEASED)

        assert parts(till.usage) == (0, 60, 0)

    @pytest.mark.parametrize("outcome", [_RELEASED, Outcome("settled", cost=40)])
    def test_an_answer_says_nothing_about_a_later_attempt(self, till: Till, outcome: Outcome) -> None:
        """What was asked before another attempt was made ends nothing; asked again, it does."""
        identity = Identity("a" * 32, execution="e1", unit="t1", window=23 * 3600.0)
        for attempt in (1, 2):
            order = replace(till.order(Quote(60)), identity=replace(identity, attempt=attempt))
            assert till.ledger.reserve(order).granted
            till.doubt(order.reservation_id)
        (doubt,) = till.ledger.doubts()
        with pytest.raises(ConfigurationError, match="another attempt"):
            said(till, doubt.reservation_id, outcome, attempts=1)

        assert (doubt.attempts, parts(till.usage)) == (2, (0, 0, 60))
        assert said(till, doubt.reservation_id, outcome, attempts=2).doubt == 0

    def test_a_doubt_is_no_answer(self, till: Till) -> None:
        """Only a settlement or a release ends a doubt."""
        with pytest.raises(ConfigurationError):
            said(till, doubted(till), Outcome("doubt"))

    # -- one object, one reservation --------------------------------------------------------------

    @pytest.mark.parametrize("elsewhere", [False, True], ids=["same run", "another run"])
    @pytest.mark.parametrize("name", ["pi_1", "ch_1"])
    def test_an_object_settles_one_reservation(self, till: Till, name: str, *, elsewhere: bool) -> None:
        """What another reservation has bought, under whichever of its names and in whichever run, leaves the doubt as it is."""
        other = open_till(till.ledger, "run-2") if elsewhere else till
        other.charge("pi_1", 40, "ch_1")
        reservation = doubted(till, 40)
        receipt = said(till, reservation, bought(name, 40))

        assert (receipt.replayed, parts(receipt)) == (True, (0, 0, 40))
        assert [doubt.reservation_id for doubt in till.ledger.doubts()] == [reservation]

    def test_an_object_settles_the_first_of_two_doubts(self, till: Till) -> None:
        """Two that are told of one object: the first is settled, the second stays."""
        first, second = doubted(till, 40), doubted(till, 40)
        said(till, first, bought("pi_1", 40))
        receipt = said(till, second, bought("pi_1", 40))

        assert receipt.replayed
        assert parts(till.usage) == (40, 0, 40)

    def test_an_object_that_was_adopted_is_its_adopter_s(self, till: Till) -> None:
        """A confirm in doubt is settled by the intent that an earlier call of the run had made."""
        till.open_intent("pi_1", 60)
        reservation = till.hold(60, object_id="pi_1")
        till.doubt(reservation)
        said(till, reservation, bought("pi_1", 60))

        assert parts(till.usage) == (60, 0, 0)

    def test_claimed_names_what_was_bought(self, till: Till) -> None:
        """Of some names those are returned that a reservation of any run has bought at that vendor and account."""
        till.charge("pi_1", 10, "ch_1")
        open_till(till.ledger, "run-2").open_intent("pi_2", 10)
        names = {"pi_1", "ch_1", "pi_2", "pi_3"}

        assert till.ledger.claimed("stripe", "", names) == {"pi_1", "ch_1", "pi_2"}
        assert till.ledger.claimed("stripe", "acct_1", names) == till.ledger.claimed("twilio", "", names) == frozenset()

    # -- open intents -----------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("fact", "expected"),
        [
            (Fact("pi_1", 60, 0, 60, status="succeeded"), (60, 0, 0)),
            (Fact("pi_1", 0, 0, 60, status="canceled"), (0, 0, 0)),
            (Fact("pi_1", 20, 40, 60), (20, 40, 0)),
            (Fact("pi_1", 0, 60, 60), (0, 60, 0)),
        ],
    )
    def test_an_open_intent_learns_what_became_of_it(self, till: Till, fact: Fact, expected: tuple[int, int, int]) -> None:
        """A final state ends its hold, in the windows of the reservation; a state that is not final keeps the rest of it."""
        reservation = till.open_intent("pi_1", 60)
        receipt = said(till, reservation, Outcome("settled", facts=(fact,)))

        assert parts(receipt) == parts(till.usage) == expected
        assert bool(till.ledger.doubts(kind="open")) is (expected[1] > 0)
        assert till.ledger.verify() == []

    # -- presumed absent --------------------------------------------------------------------------

    def test_what_was_presumed_absent_is_listed_for_two_days(self, till: Till, clock: Clock) -> None:
        """A release that rests on the vendor's not showing the call can be asked about again, for a while; any other cannot."""
        presumed, known = doubted(till, 40), doubted(till, 40)
        said(till, presumed, Outcome("released", is_presumed=True))
        said(till, known, _RELEASED)
        (found,) = till.ledger.doubts(kind="presumed")
        clock.now += 2 * DAY + 1
        till.read()

        assert (found.reservation_id, found.amount) == (presumed, 40)
        assert till.ledger.doubts(kind="presumed") == []

    def test_truth_ends_the_presumption(self, till: Till) -> None:
        """What was executed after all is booked as overrun, and not asked about again."""
        reservation = doubted(till)
        said(till, reservation, Outcome("released", is_presumed=True))
        said(till, reservation, bought("pi_1", 40))

        assert (parts(till.usage), till.usage.overrun) == ((40, 0, 0), 40)
        assert till.ledger.doubts(kind="presumed") == []

    # -- estimates --------------------------------------------------------------------------------

    @pytest.mark.parametrize("price", [0, 20, 60, 61, 200])
    def test_the_vendor_s_price_takes_the_place_of_an_estimate(self, till: Till, price: int) -> None:
        """Lower or higher, it is what was spent; above what was held it is overrun. Then the reservation waits for nothing more."""
        reservation = estimated(till)
        receipt = said(till, reservation, bought("SM1", price))

        assert parts(receipt) == parts(till.usage) == (price, 0, 0)
        assert till.usage.overrun == max(0, price - 60)
        assert till.ledger.doubts(kind="estimate") == []
        assert till.ledger.verify() == []

    def test_a_price_is_corrected_once(self, till: Till) -> None:
        """After the vendor's price only a higher one is booked: a lower one is not what was asked for."""
        reservation = estimated(till)
        said(till, reservation, bought("SM1", 40))
        said(till, reservation, bought("SM1", 30))

        assert parts(till.usage) == (40, 0, 0)

    def test_an_ordinary_settlement_is_never_lowered(self, till: Till) -> None:
        """What the vendor itself said it cost is not an estimate."""
        reservation = till.charge("pi_1", 60)
        receipt = said(till, reservation, bought("pi_1", 20))

        assert (receipt.replayed, parts(till.usage)) == (True, (60, 0, 0))

    def test_a_correction_frees_the_cap(self, till: Till) -> None:
        """What an estimate was too high by can be spent."""
        small = open_till(till.ledger, "run-2", run_usd_cap=100)
        reservation = estimated(small)
        before = small.ask(80).granted
        said(small, reservation, bought("SM1", 20))

        assert (before, small.ask(80).granted) == (False, True)
