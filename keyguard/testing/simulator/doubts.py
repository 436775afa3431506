"""An operator who ends doubts by what the vendor knows. He waits while a request may still be executed: absence proves nothing before."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from keyguard.errors import ConfigurationError
from keyguard.model import Outcome
from keyguard.testing.simulator.exchange import Answer, shown
from keyguard.vendors._stripe_replies import intent_fact

if TYPE_CHECKING:
    from keyguard.model import Doubt
    from keyguard.testing.simulator.judge import Judge
    from keyguard.testing.simulator.machine import SimulatedLedger
    from keyguard.testing.simulator.truth import Charge


def resolve(ledger: SimulatedLedger, judge: Judge, doubt: Doubt) -> str:
    """End one doubt, if the vendor's word is final; says what was done."""
    charge = judge.records[doubt.reservation_id].charge
    if any(request.by is charge and judge.vendor.may_execute(request) for request in charge.run.pending):
        return "waits"
    answer = _answer(charge)
    try:
        receipt = ledger.resolve(doubt.reservation_id, _outcome(charge, answer), by="operator", reason="simulated")
    except ConfigurationError:
        # Another attempt of it is still open, in a process that lives.
        return "open"
    judge.resolved(ledger, charge, answer, receipt)
    return "settled" if answer is not None else "released"


def ask_about(ledger: SimulatedLedger, judge: Judge, intent: Doubt) -> str:
    """Tell the ledger what an open intent has come to meanwhile."""
    found = judge.vendor.intents[intent.account, intent.object_id or ""]
    answer = shown(found)
    outcome = Outcome("settled", facts=(intent_fact(json.loads(answer.body)),))
    try:
        receipt = ledger.resolve(intent.reservation_id, outcome, by="operator", reason="simulated")
    except ConfigurationError:
        return "open"
    judge.asked(ledger, found, answer, receipt)
    return f"{intent.object_id} {found.status}"


def _answer(charge: Charge) -> Answer | None:
    """Return what the vendor would show of a charge; None = it has never executed it."""
    if charge.operation == "refunds.create":
        return Answer(200, b"", refund=charge.gave_back, refund_id=charge.refund_id) if charge.gave_back else None
    thing = charge.thing
    if thing is None or not (charge.adopts or thing.maker is charge) or thing.intent.is_loose:
        return None
    return shown(thing.intent)


def _outcome(charge: Charge, answer: Answer | None) -> Outcome:
    if answer is None:
        return Outcome("released", source="local")
    if answer.refund:
        refund_of = charge.thing.intent.id if charge.thing is not None else None
        return Outcome("settled", cost=answer.refund, refund_of=refund_of, refund_id=answer.refund_id)
    return Outcome("settled", facts=(intent_fact(json.loads(answer.body)),))
