"""The Resend plug: which calls send mail, and the upper bound of each before the send."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from keyguard.errors import UnpricedCall
from keyguard.model import Quote
from keyguard.vendors import _resend_money as money
from keyguard.vendors import _resend_paths as paths
from keyguard.vendors import _resend_replies as replies
from keyguard.vendors._tables import parameters_of

if TYPE_CHECKING:
    from keyguard.model import Call, Operation
    from keyguard.vendors import Inquiring, Quoting


class Resend:
    """Resend, which bills by recipient. Stateless."""

    name = "resend"
    hosts = frozenset({"api.resend.com"})
    secret_env = "RESEND_API_KEY"  # noqa: S105 -- the variable's name

    classify = staticmethod(paths.classify)
    read = staticmethod(replies.read)
    parameters = staticmethod(partial(parameters_of, "resend"))
    prices = staticmethod(money.dated)
    window = staticmethod(paths.window)
    payee = staticmethod(money.payee)

    @property
    def inquiring(self) -> Inquiring:
        """How Resend is asked what became of an e-mail; loaded when it is."""
        from keyguard.vendors import _resend_inquiry

        return _resend_inquiry

    def quote(self, call: Call, operation: Operation) -> Quoting:
        """
        Bound the cost of a known operation; reads quote 0.

        Raises:
            MalformedCall: recipients that cannot be counted, or a batch of more than 100.
            UnpricedCall: a standing order, whose cost no cap can bound.
        """
        yield from ()
        write = paths.write_of(call) if call.is_write else None
        if write is not None and write.kind == "refused":
            raise UnpricedCall(
                f"{operation.name} lets Resend send mail by itself from then on, which no cap of a run can bound; nothing was sent. "
                "Do it outside keyguard, by hand or in a process without it."
            )
        if write is None or write.kind != "priced":
            # A cancelled e-mail gives its hold back, so the call says whose.
            return Quote(0, object_id=operation.object_id)
        count = sum(money.emails(call, is_batch=operation.name == "emails.batch"))
        return Quote(money.unit() * count, units=count)


vendor = Resend()
