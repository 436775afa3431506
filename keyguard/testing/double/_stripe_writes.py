"""
What Stripe's writes do. Each function reads a form, and refuses what Stripe would not begin to execute; what it returns
executes against an account's books, and refuses what only the books can tell (those refusals are kept under the key).

In each execution the truth is recorded before the books change: if the record fails, nothing happened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from keyguard.testing.double import _stripe_forms as forms
from keyguard.testing.double._stripe_forms import Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyguard.testing.double._stripe_books import Books, Moment
    from keyguard.testing.double._stripe_forms import Form

    Execute: TypeAlias = Callable[[Books, Moment], dict[str, Any]]

_CONFIRMABLE = frozenset({"requires_payment_method", "requires_confirmation", "requires_action"})
_FINAL = frozenset({"succeeded", "canceled"})


def create_intent(form: Form, _id: str) -> Execute:
    """POST /v1/payment_intents."""
    amount, currency = form.money()
    confirms, _ = form.flag("confirm"), form.choice("capture_method", "automatic", "automatic_async", "manual")
    if confirms and not form.text("payment_method"):
        raise forms.no_method()

    def execute(books: Books, moment: Moment) -> dict[str, Any]:
        _customer(books, form)
        made = forms.intent(books.new_id("pi"), form, amount, currency, moment.now)
        if not confirms:
            books.executed(moment, "object", made, 0)
        books.payment_intents[made["id"]] = made
        books.happened(moment, "payment_intent.created", made)
        return _paid(books, moment, made, form) if confirms else made

    return execute


def update_intent(form: Form, intent_id: str) -> Execute:
    """POST /v1/payment_intents/{id}: another amount, until it is confirmed."""
    amount, method, metadata = form.integer("amount"), form.text("payment_method"), form.metadata()

    def execute(books: Books, moment: Moment) -> dict[str, Any]:
        found = books.found("payment_intent", intent_id)
        if found["status"] not in _CONFIRMABLE:
            raise forms.unexpected("update", found)
        books.executed(moment, "object", found, 0)
        found.update(amount=amount or found["amount"], payment_method=method or found["payment_method"])
        found["metadata"].update(metadata)
        if found["status"] == "requires_payment_method" and found["payment_method"]:
            found["status"] = "requires_confirmation"
        return found

    return execute


def confirm_intent(form: Form, intent_id: str) -> Execute:
    """POST /v1/payment_intents/{id}/confirm."""

    def execute(books: Books, moment: Moment) -> dict[str, Any]:
        found = books.found("payment_intent", intent_id)
        if found["status"] not in _CONFIRMABLE:
            raise forms.unexpected("confirm", found)
        if not (form.text("payment_method") or found["payment_method"]):
            raise forms.no_method()
        return _paid(books, moment, found, form)

    return execute


def capture_intent(form: Form, intent_id: str) -> Execute:
    """POST /v1/payment_intents/{id}/capture, whole or in part; what is not captured is let go."""
    amount = form.integer("amount_to_capture")

    def execute(books: Books, moment: Moment) -> dict[str, Any]:
        found = books.found("payment_intent", intent_id)
        if found["status"] != "requires_capture":
            raise forms.unexpected("capture", found)
        taken = amount or found["amount_capturable"]
        if taken > found["amount_capturable"]:
            raise Refused(400, "The amount to capture is greater than what can be captured.", code="amount_too_large",
                          param="amount_to_capture")  # fmt: skip
        _capture(books, moment, books.charges[found["latest_charge"]], taken)
        found.update(status="succeeded", amount_capturable=0, amount_received=taken)
        books.happened(moment, "payment_intent.succeeded", found)
        return found

    return execute


def cancel_intent(form: Form, intent_id: str) -> Execute:
    """POST /v1/payment_intents/{id}/cancel."""

    def execute(books: Books, moment: Moment) -> dict[str, Any]:
        found = books.found("payment_intent", intent_id)
        if found["status"] in _FINAL:
            raise forms.unexpected("cancel", found)
        books.executed(moment, "release", found, 0)
        if found["status"] == "requires_capture":
            _let_go(books.charges[found["latest_charge"]])
        found.update(
            status="canceled", amount_capturable=0, canceled_at=int(moment.now), cancellation_reason=form.text("cancellation_reason")
        )
        books.happened(moment, "payment_intent.canceled", found)
        return found

    return execute


def create_charge(form: Form, _id: str) -> Execute:
    """POST /v1/charges, with a token or a customer."""
    amount, currency = form.money()
    captures = form.flag("capture", default=True)
    if not (form.text("source") or form.text("customer")):
        raise Refused(400, "Must provide source or customer.", code="parameter_missing")

    def execute(books: Books, moment: Moment) -> dict[str, Any]:
        _customer(books, form)
        return _charged(books, moment, forms.charge(books.new_id("ch"), form, amount, currency, moment.now), captures=captures)

    return execute


def capture_charge(form: Form, charge_id: str) -> Execute:
    """POST /v1/charges/{id}/capture, whole or in part."""
    amount = form.integer("amount")

    def execute(books: Books, moment: Moment) -> dict[str, Any]:
        found = books.found("charge", charge_id)
        if found["captured"]:
            raise Refused(400, f"Charge {charge_id} has already been captured.", code="charge_already_captured")
        if found["status"] != "succeeded" or found["refunded"]:
            raise Refused(400, f"Charge {charge_id} cannot be captured.", code="charge_expired_for_capture")
        if amount and amount > found["amount"]:
            raise Refused(400, "You cannot capture more than the charge's amount.", code="amount_too_large", param="amount")
        return _capture(books, moment, found, amount or found["amount"])

    return execute


def create_refund(form: Form, _id: str) -> Execute:
    """POST /v1/refunds, by charge or by PaymentIntent, whole or in part."""
    amount, charge_id, intent_id = form.integer("amount"), form.text("charge"), form.text("payment_intent")
    if not (charge_id or intent_id):
        raise Refused(400, "One of the following params should be provided for this request: payment_intent or charge.",
                      code="parameter_missing")  # fmt: skip

    def execute(books: Books, moment: Moment) -> dict[str, Any]:
        paid = books.found("charge", charge_id or _charge_of(books.found("payment_intent", intent_id or "")))
        rest = paid["amount"] - paid["amount_refunded"]
        if paid["status"] != "succeeded":
            raise Refused(400, f"Charge {paid['id']} was not paid, and cannot be refunded.")
        if not rest:
            raise Refused(400, f"Charge {paid['id']} has already been refunded.", code="charge_already_refunded")
        if (amount or rest) > rest:
            raise Refused(400, f"Refund amount ({amount}) is greater than unrefunded amount on charge ({rest})", param="amount")
        if not paid["captured"] and (amount or rest) != rest:
            raise Refused(400, "You cannot partially refund an uncaptured charge.", param="amount")
        return _refunded(books, moment, paid, forms.refund(books.new_id("re"), form, amount or rest, paid, moment.now))

    return execute


def create_customer(form: Form, _id: str) -> Execute:
    """POST /v1/customers."""

    def execute(books: Books, moment: Moment) -> dict[str, Any]:
        made = forms.customer(books.new_id("cus"), form, moment.now)
        books.executed(moment, "object", made, 0)
        books.customers[made["id"]] = made
        books.happened(moment, "customer.created", made)
        return made

    return execute


def _paid(books: Books, moment: Moment, intent: dict[str, Any], form: Form) -> dict[str, Any]:
    """Confirm a PaymentIntent: a charge, or a customer who must act first."""
    intent["payment_method"] = form.text("payment_method") or intent["payment_method"]
    if intent["payment_method"].endswith("authenticationRequired") and not moment.declined:
        books.executed(moment, "object", intent, 0)
        intent.update(status="requires_action", next_action={"type": "use_stripe_sdk", "use_stripe_sdk": {}})
        books.happened(moment, "payment_intent.requires_action", intent)
        return intent
    made = forms.charge(books.new_id("ch"), form, intent["amount"], intent["currency"], moment.now)
    made.update(payment_intent=intent["id"], customer=intent["customer"], payment_method=intent["payment_method"])
    captures = intent["capture_method"] != "manual"
    try:
        _charged(books, moment, made, captures=captures, intent=intent)
    finally:
        # Declined or not, it is the latest; nothing of it is there if the truth could not be recorded.
        intent["latest_charge"] = made["id"] if made["id"] in books.charges else intent["latest_charge"]
    if captures:
        intent.update(status="succeeded", amount_received=intent["amount"], next_action=None, last_payment_error=None)
        books.happened(moment, "payment_intent.succeeded", intent)
    else:
        intent.update(status="requires_capture", amount_capturable=intent["amount"], next_action=None, last_payment_error=None)
        books.happened(moment, "payment_intent.amount_capturable_updated", intent)
    return intent


def _charged(books: Books, moment: Moment, made: dict[str, Any], *, captures: bool, intent: dict[str, Any] | None = None) -> dict[str, Any]:
    """Charge, hold, or decline."""
    declined = forms.DECLINED if moment.declined else forms.decline(made["payment_method"] or "")
    if declined:
        raise _declined(books, moment, made, declined, intent)
    books.executed(moment, "charge" if captures else "hold", made, made["amount"], made["payment_intent"])
    if captures:
        made.update(captured=True, amount_captured=made["amount"], balance_transaction=books.new_id("txn"))
    books.charges[made["id"]] = made
    books.happened(moment, "charge.succeeded", made)
    return made


def _declined(books: Books, moment: Moment, made: dict[str, Any], reason: tuple[str, str], intent: dict[str, Any] | None) -> Refused:
    code, decline_code = reason
    books.executed(moment, "declined", made, 0, made["payment_intent"])
    outcome = {"type": "issuer_declined", "network_status": "declined_by_network", "reason": decline_code, "risk_level": "normal"}
    made.update(status="failed", paid=False, failure_code=code, failure_message="Your card was declined.", outcome=outcome)
    books.charges[made["id"]] = made
    books.happened(moment, "charge.failed", made)
    error = {"type": "card_error", "code": code, "decline_code": decline_code, "charge": made["id"]}
    if intent is not None:
        intent.update(
            status="requires_payment_method", payment_method=None, latest_charge=made["id"],
            last_payment_error={"message": "Your card was declined.", **error},
        )  # fmt: skip
        books.happened(moment, "payment_intent.payment_failed", intent)
    return Refused(402, "Your card was declined.", **error, payment_intent=intent)


def _capture(books: Books, moment: Moment, held: dict[str, Any], amount: int) -> dict[str, Any]:
    """Take money of a held charge; the rest counts as refunded, as Stripe shows it."""
    books.executed(moment, "charge", held, amount, held["payment_intent"])
    held.update(captured=True, amount_captured=amount, balance_transaction=books.new_id("txn"), amount_refunded=held["amount"] - amount)
    books.happened(moment, "charge.captured", held)
    return held


def _refunded(books: Books, moment: Moment, paid: dict[str, Any], made: dict[str, Any]) -> dict[str, Any]:
    """Give money back, or let go of what was only held."""
    if paid["captured"]:
        books.executed(moment, "refund", {**made, "customer": paid["customer"]}, -made["amount"], paid["id"])
    else:
        books.executed(moment, "release", paid, 0, paid["payment_intent"])
    paid["amount_refunded"] += made["amount"]
    paid["refunded"] = paid["amount_refunded"] == paid["amount"]
    books.refunds[made["id"]] = made
    books.happened(moment, "charge.refunded", paid)
    books.happened(moment, "refund.created", made)
    return made


def _let_go(held: dict[str, Any]) -> None:
    held.update(amount_refunded=held["amount"], refunded=True)


def _charge_of(intent: dict[str, Any]) -> str:
    if intent["latest_charge"] is None:
        raise Refused(400, f"This PaymentIntent ({intent['id']}) does not have a successful charge to refund.")
    return str(intent["latest_charge"])


def _customer(books: Books, form: Form) -> None:
    """Refuse a customer that this double made none of; ids that look made up by a test (`cus_…`) are taken as they are."""
    customer = form.text("customer")
    if customer is not None and not customer.startswith("cus_"):
        raise forms.missing("customer", customer)
