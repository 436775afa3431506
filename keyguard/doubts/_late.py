"""Truth that comes late: what became of open intents, and what the vendor asks for what was settled at an estimate. Reads only.

It is read as by a read of the flow's own: whatever the object is now is what the vendor plug's facts say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyguard.model import Call, Outcome, Quote
from keyguard.vendors import Ask

if TYPE_CHECKING:
    from collections.abc import Generator

    from keyguard.model import Doubt, Reply
    from keyguard.vendors import Inquiring, Vendor


def read(doubt: Doubt, vendor: Vendor, inquiring: Inquiring, *, is_open: bool) -> Generator[Ask, Reply, Outcome | None]:
    """Read the object of an open intent, or else of an estimate; None where it shows nothing new, or cannot be read."""
    path = inquiring.place(doubt)
    if path is None:
        return None
    reply = yield Ask(path)
    if not 200 <= reply.status < 300:
        return None
    call = Call(doubt.vendor, "GET", "https", inquiring.base.partition("://")[2], path.partition("?")[0])
    outcome = vendor.read(call, vendor.classify(call), Quote(0), reply)
    facts = tuple(fact for fact in outcome.facts if doubt.object_id in {fact.object_id, *fact.aliases})
    # An intent's open rest says whether anything became of it; the vendor's price ends an estimate, also where it is the same.
    is_new = bool(facts) and (not is_open or facts[0].held != doubt.amount)
    return Outcome("settled", facts=facts) if is_new else None
