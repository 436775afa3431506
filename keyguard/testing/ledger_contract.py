"""
The contract that every ledger keeps, as one test class. Whoever writes a ledger plug runs it.

    from keyguard.testing.ledger_contract import LedgerContract, LedgerPlace

    class TestMyLedger(LedgerContract):
        '''My ledger keeps the contract.'''

        def ledger_factory(self, folder):
            return MyPlace(folder)

`MyPlace` is a `LedgerPlace`: it says where an empty ledger is. Needs pytest, pytest-timeout and
hypothesis, and the marker `slow` for the long forms. `keyguard` itself never imports this.
"""

from __future__ import annotations

from keyguard.testing._contract_charges import ChargesContract
from keyguard.testing._contract_children import ChildrenContract, ChildrenNamesContract
from keyguard.testing._contract_doubts import DoubtsContract
from keyguard.testing._contract_kept import KeptContract
from keyguard.testing._contract_keys import IssueContract, RaiseContract, RevokeContract
from keyguard.testing._contract_mint import MintContract
from keyguard.testing._contract_model import MachineContract
from keyguard.testing._contract_money import CallsAndDaysContract, MoneyContract
from keyguard.testing._contract_objects import FactContract, IntentContract, WindowContract
from keyguard.testing._contract_races import CrashContract, RaceContract
from keyguard.testing._contract_remote import JudgedElsewhereContract, RemoteContract
from keyguard.testing._contract_units import UnitsContract
from keyguard.testing._place import LedgerPlace

__all__ = ["LedgerContract", "LedgerPlace"]


class LedgerContract(
    MoneyContract, CallsAndDaysContract, UnitsContract, ChargesContract, KeptContract, DoubtsContract, IssueContract, RaiseContract,
    RevokeContract, MintContract, RemoteContract, JudgedElsewhereContract, ChildrenContract, ChildrenNamesContract, IntentContract,
    FactContract, WindowContract, MachineContract, RaceContract, CrashContract,
):  # fmt: skip
    """All parts of the contract; a subclass supplies `ledger_factory`."""
