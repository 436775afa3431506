"""How a proxy asks a vendor what became of a call: with the secrets that it keeps, where it forwards to."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from keyguard.doubts._asking import Questions
from keyguard.doubts._at_once import asker
from keyguard.doubts._pass import policy_of
from keyguard.vendors import vendor_named

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from keyguard.context import Ticket
    from keyguard.ledgers import Ledger
    from keyguard.proxy.secrets import Secrets


def inquirer(ledger: Ledger, secrets: Secrets, upstreams: Mapping[str, str]) -> Callable[[Ticket, str], None]:
    """Return what asks about one reservation in doubt, and lets the ledger book it; blocks for some seconds at most."""

    def questions(vendor: str, seconds_left: Callable[[], float]) -> Questions:
        environ = {**os.environ, vendor_named(vendor).secret_env: secrets.of(vendor)}
        return Questions({}, partial(policy_of, ledger), environ=environ, seconds_left=seconds_left, bases=upstreams)

    def inquire(_ticket: Ticket, reservation_id: str) -> None:
        asker.ask(ledger, reservation_id, questions)

    return inquire
