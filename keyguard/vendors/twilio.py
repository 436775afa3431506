"""The Twilio plug: which calls cost money, and the upper bound of each before the send; the money flows are its companions."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from keyguard.model import Quote
from keyguard.vendors import _twilio_calls as calls
from keyguard.vendors import _twilio_messages as messages
from keyguard.vendors import _twilio_numbers as numbers
from keyguard.vendors import _twilio_paths as paths
from keyguard.vendors import _twilio_places as places
from keyguard.vendors import _twilio_prices as prices
from keyguard.vendors import _twilio_replies as replies
from keyguard.vendors import _twilio_verify as verify
from keyguard.vendors._tables import parameters_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from keyguard.model import Call, Operation
    from keyguard.vendors import Inquiring, Quoting

FLOWS: Mapping[str, Callable[[Call, Operation], Quote]] = {**messages.FLOWS, **calls.FLOWS, **verify.FLOWS, **numbers.FLOWS}


class Twilio:
    """Twilio, which bills by segment, minute, look-up and month. Stateless."""

    name = "twilio"
    hosts = frozenset({"*.twilio.com"})
    # AsyncTwilioHttpClient(max_retries=N) posts a message again at each 5xx, and at no lost connection (9.13, measured November 2026).
    on_lost = "hang up"
    secret_env = "TWILIO_AUTH_TOKEN"  # noqa: S105 -- the variable's name

    classify = staticmethod(paths.classify)
    read = staticmethod(replies.read)
    account = staticmethod(paths.account)
    parameters = staticmethod(partial(parameters_of, "twilio"))
    prices = staticmethod(prices.dated)
    payee = staticmethod(places.payee)

    @property
    def inquiring(self) -> Inquiring:
        """How Twilio is asked what became of a message or call; loaded when it is."""
        from keyguard.vendors import _twilio_inquiry

        return _twilio_inquiry

    def quote(self, call: Call, operation: Operation) -> Quoting:
        """
        Bound the cost of a known operation; reads quote 0, but for Lookup.

        Raises:
            MalformedCall: a recipient, duration or form that cannot be read strictly.
        """
        yield from ()
        row = paths.row_of(call)
        if row is None or row.kind != "priced":
            return Quote(0)
        return FLOWS[operation.name](call, operation)


vendor = Twilio()
