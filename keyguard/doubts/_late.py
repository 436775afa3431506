"""How an open intent is read again: as by a read of the flow's own, so that whatever the object is now is what the plug's facts say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyguard.model import Call, Quote
from keyguard.vendors import Ask

if TYPE_CHECKING:
    from keyguard.model import Doubt, Fact
    from keyguard.vendors import Inquiring, Vendor
    from keyguard.vendors._inquiry import Asking


def read(doubt: Doubt, vendor: Vendor, inquiring: Inquiring) -> Asking[Fact | None]:
    """Read the object of an open intent; None where it cannot be read, or nothing can be told of it."""
    path = inquiring.place(doubt)
    if path is None:
        return None
    reply = yield Ask(path)
    if not 200 <= reply.status < 300:
        return None
    call = Call(doubt.vendor, "GET", "https", inquiring.base.partition("://")[2], path.partition("?")[0])
    outcome = vendor.read(call, vendor.classify(call), Quote(0), reply)
    return next((fact for fact in outcome.facts if doubt.object_id in {fact.object_id, *fact.aliases}), None)
