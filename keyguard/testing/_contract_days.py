"""Ledger contract: what a human decides about the cap of a policy's day."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from keyguard.errors import ConfigurationError
from keyguard.testing._contract_base import ContractBase
from keyguard.testing._till import NAME, limits, open_till

if TYPE_CHECKING:
    from keyguard.ledgers import Ledger
    from keyguard.testing._contract_base import Clock
    from keyguard.testing._till import Till


class RaiseDayContract(ContractBase):
    """A human's decision about what a policy's runs may spend in a day."""

    def test_raised_day_lets_all_its_runs_go_on(self, ledger: Ledger, other: Ledger) -> None:
        """A raised day is in force at once, for every run of the name and on every handle, and to the cent."""
        till = open_till(ledger, run_usd_cap=1000, daily_usd_cap=80)
        second = open_till(other, run_id="run-2", run_usd_cap=1000, daily_usd_cap=80)
        till.hold(80)
        ledger.raise_day_cap(NAME, 120, by="ada")

        assert not second.ask(41).granted
        assert second.ask(40).granted
        assert not till.ask(1).granted

    def test_raised_day_survives_what_runs_ask_for(self, ledger: Ledger) -> None:
        """The last word is the human's: runs that ask for less do not lower it, those that ask for more are warned."""
        till = open_till(ledger, run_usd_cap=1000, daily_usd_cap=80)
        ledger.raise_day_cap(NAME, 120, by="ada")
        warned = [ledger.issue(limits(run_usd_cap=1000, daily_usd_cap=day), f"run-{day}")[1] for day in (40, 80, 120, 500)]

        assert [len(one) for one in warned] == [0, 0, 0, 1]
        assert "a human has set it" in warned[3][0]
        assert till.ask(120).granted

    def test_raised_day_is_every_days(self, ledger: Ledger, clock: Clock) -> None:
        """The next day has the raised cap too, all of it."""
        till = open_till(ledger, run_usd_cap=1000, daily_usd_cap=80)
        ledger.raise_day_cap(NAME, 120, by="ada")
        till.settle(till.hold(120), 120)
        clock.now += 86_400

        assert till.ask(120).granted

    def test_day_can_be_lowered_below_what_is_spent(self, ledger: Ledger) -> None:
        """A lowered day stops its runs and takes nothing back; the log says who, and proves it."""
        till = open_till(ledger, run_usd_cap=1000, daily_usd_cap=80)
        till.settle(till.hold(60), 60)
        ledger.raise_day_cap(NAME, 50, by="ada.lovelace")
        usage = ledger.usage(f"policy:{NAME}")

        assert not till.ask(1).granted
        assert usage is not None
        assert (usage.cap, usage.spent, usage.remaining) == (50, 60, 0)
        assert any("ada.lovelace" in str(row) for row in ledger.entries(f"policy:{NAME}"))
        assert ledger.verify() == []

    def test_raise_of_a_day_that_nobody_has_says_so(self, till: Till) -> None:
        """A mistyped name, and a policy without a cap of the day, are errors: no budget is made."""
        for name in ("nobody", NAME):
            with pytest.raises(ConfigurationError, match=name):
                till.ledger.raise_day_cap(name, 100, by="ada")

        assert till.ask(100).granted
