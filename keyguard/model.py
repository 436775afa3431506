"""The values that cross module borders: frozen, slotted, without I/O and without decisions.

Money is an integer count of micro-USD everywhere (1 USD = 1_000_000); floats and Decimals
exist only at the outer edge, in `to_money` and `to_usd`. Instants are POSIX seconds (UTC,
float), because a ledger compares and stores them; windows are UTC dates as `YYYY-MM-DD`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Context, Decimal, Inexact, InvalidOperation
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from keyguard._values import frozen
from keyguard.rules import FieldRules, Rule

if TYPE_CHECKING:
    from collections.abc import Mapping

Money: TypeAlias = int
Pairs: TypeAlias = "tuple[tuple[str, str], ...]"

MICROS_PER_USD = 1_000_000
TOKEN_PREFIX = "vault_key_"  # noqa: S105 -- a marker that tells vault tokens apart, not a secret
LARGEST_USD = 1_000_000_000
_LONGEST_NAME = 200
# Of our own: the caller's decimal context may round to a few digits. What cannot be exact raises.
_EXACT = Context(prec=60, traps=[Inexact])
_ROUNDING = Context(prec=60, traps=[])
_MICRO, _NANO = Decimal("0.000001"), Decimal("0.000000001")
_DURATION = re.compile(r"(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?", re.ASCII)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "*"})
_VENDOR_NAME = r"[a-z][a-z0-9_-]*"
_VENDOR = re.compile(rf"({_VENDOR_NAME}):\s*")
# No colon: it would read as a vendor prefix. A `*` stands for a segment that has one.
_PATH = re.compile(r"/[^\s?#:]*")
_OPERATION = re.compile(r"[a-z0-9_]+(\.[a-z0-9_*]+)+")
# A name is shown on terminals and stored as UTF-8: no line ends, no escape sequences, no half of a surrogate pair.
_UNSHOWABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def to_money(value: object) -> Money:
    """
    Read US dollars (int, float, Decimal or digit string) as micro-USD.

    A float is read by its shortest decimal form, so `0.1` is ten cents exactly.

    Raises:
        ValueError: not a number, not finite, negative, finer than a micro-dollar, or above a billion dollars.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str):
        raise ValueError(f"expected an amount in US dollars, got {value!r}")
    try:
        usd = Decimal(str(value).strip().removeprefix("$").replace("_", ""))
    except InvalidOperation:
        raise ValueError(f"expected an amount in US dollars such as 500 or 19.99, got {value!r}") from None
    if not usd.is_finite() or not 0 <= usd <= LARGEST_USD:
        raise ValueError(f"expected an amount between 0 and {LARGEST_USD} US dollars, got {value!r}")
    try:
        return int(_EXACT.scaleb(_EXACT.quantize(usd, _MICRO), 6))
    except Inexact:
        raise ValueError(f"an amount is counted in micro-dollars: {value!r} has more than six decimals") from None


def to_money_up(value: object) -> Money:
    """
    Read US dollars that were worked out (`0.05 * 3`) as micro-USD, rounded up: a bound must not fall below what it bounds.

    What lies beyond the ninth decimal is taken for the noise of floats, and is no reason for another micro-dollar.

    Raises:
        ValueError: as `to_money`, of which only the number of decimals is free.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str):
        return to_money(value)
    try:
        usd = Decimal(str(value))
    except InvalidOperation:
        return to_money(value)
    if not usd.is_finite() or not 0 <= usd <= LARGEST_USD:
        return to_money(value)
    return to_money(usd.quantize(_NANO, ROUND_HALF_EVEN, _ROUNDING).quantize(_MICRO, ROUND_CEILING, _ROUNDING))


def to_usd(amount: Money) -> float:
    """Turn micro-USD into float dollars, for span attributes and JSON only."""
    return amount / MICROS_PER_USD


def show(amount: Money) -> str:
    """Write micro-USD for people: `$1,234.50`, with more digits only where they are not zero."""
    sign = "-" if amount < 0 else ""
    whole, micros = divmod(abs(amount), MICROS_PER_USD)
    fraction = f"{micros:06d}"
    digits = fraction[:2] if fraction[2:] == "0000" else fraction.rstrip("0")
    return f"{sign}${whole:,}.{digits}"


def to_seconds(value: object) -> float:
    """
    Read a duration: seconds as a positive number, or text like `90s`, `30m`, `4h`, `7d`, `1d12h`.

    Raises:
        ValueError: anything else, or a duration that is not above zero.
    """
    seconds: float = 0
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = value
    elif isinstance(value, str) and (found := _DURATION.fullmatch(value.strip())) and value.strip():
        days, hours, minutes, rest = (int(part or 0) for part in found.groups())
        seconds = ((days * 24 + hours) * 60 + minutes) * 60 + rest
    if not 0 < seconds < 10 * 366 * 86_400:
        raise ValueError(f"expected a duration such as '30m', '4h', '7d' or a number of seconds, got {value!r}")
    return float(seconds)


def is_vendor_name(text: str) -> bool:
    """Say whether this can be the name of a vendor."""
    return re.fullmatch(_VENDOR_NAME, text) is not None


def is_operation(text: str) -> bool:
    """Say whether this can be the name of one operation: words with dots between them, as in `payment_intents.create`."""
    return _OPERATION.fullmatch(text) is not None and "*" not in text


def check_endpoint(item: str) -> str:
    """
    Return one allowlist item in its normal form.

    Items are `METHOD /path` (`*` = one segment, `**` = any number), an operation name such as
    `payment_intents.create`, or either of them behind `vendor:`.

    Raises:
        ValueError: the item is neither.
    """
    prefix = _VENDOR.match(item.strip())
    vendor, rest = (prefix[1], item.strip()[prefix.end() :]) if prefix else ("", item.strip())
    method, _, path = rest.partition(" ")
    path = path.strip()
    if method.upper() in METHODS and _PATH.fullmatch(path):
        return f"{vendor}:{method.upper()} {path}" if vendor else f"{method.upper()} {path}"
    if not path and _OPERATION.fullmatch(method):
        return f"{vendor}:{method}" if vendor else method
    raise ValueError(
        f"expected an endpoint such as 'POST /v1/payment_intents', 'GET /v1/customers/*' "
        f"or 'payment_intents.create' (optionally behind 'stripe:'), got {item!r}"
    )


def _check_operation(value: str) -> str:
    """Return the operation that a rule is for, `vendor:` kept: exactly one, because its fields are looked up."""
    prefix = _VENDOR.match(value.strip())
    name = value.strip()[prefix.end() :] if prefix else value.strip()
    if not is_operation(name):
        raise ValueError(f"expected one operation such as 'payment_intents.create' (optionally behind 'stripe:'), got {value!r}")
    return f"{prefix[1]}:{name}" if prefix else name


def _check_secret(value: str) -> str:
    if not re.fullmatch(r"env:[A-Za-z_][A-Za-z0-9_]*", value):
        # The value is not repeated: a user may have put the secret itself here.
        raise ValueError("expected 'env:NAME', the environment variable that holds the vendor's secret")
    return value


def _check_name(value: str) -> str:
    if not value.strip() or len(value) > _LONGEST_NAME or _UNSHOWABLE.search(value):
        raise ValueError("expected a name of 1 to 200 characters on one line, without control characters")
    return value.strip()


def _above_zero(value: Money) -> Money:
    if value <= 0:
        raise ValueError("expected an amount above 0 US dollars; to allow nothing, revoke the key")
    return value


Usd = Annotated[int, BeforeValidator(to_money)]
Cap = Annotated[int, BeforeValidator(to_money), AfterValidator(_above_zero)]
Seconds = Annotated[float, BeforeValidator(to_seconds)]
Endpoint = Annotated[str, AfterValidator(check_endpoint)]
Name = Annotated[str, AfterValidator(_check_name)]
RuledOperation = Annotated[str, AfterValidator(_check_operation)]


class Policy(BaseModel):
    """
    What a key may do. Unknown fields are errors; `None` means "no such limit".

    Attributes:
        name: Whose day cap this is; defaults to the flow's name, else the label before "/".
        vendor: Only this vendor's calls may be made with the key.
        run_usd_cap: Dollars that one run may spend (stored as micro-USD).
        daily_usd_cap: Dollars that all runs of this policy name may spend in one UTC day.
        call_usd_cap: Dollars that one call may cost at most.
        refund_usd_cap: Dollars of own charges that a run may refund; None = what it charged. 0 allows none.
        max_calls: Calls, reads included, that a run may send.
        max_emails: E-mails that a run may send, each recipient one, whatever they cost (Resend). A broadcast that `unpriced` lets
            through counts none: its recipients are not in the request.
        allowed_endpoints: The only endpoints that may be called; None = all.
        rules: What the fields of an operation's requests may say, by operation and field: `keyguard.rules`.
        expires_in: Seconds from the key's issue to its expiry.
        agent_run_label: Free text for people; shown in the audit.
        mode: `enforce`, or `observe`, which never refuses and books the truth.
        unpriced: What to do with a write that nobody can price: `refuse`, `allow`, or a flat amount in dollars. A write that no cap
            can express (a credential, an address for payouts) must be named in `allowed_endpoints` besides.
        tag_objects: Write the run's id into what a vendor's SDK creates for money (Stripe: `metadata[keyguard_run]`). Raw requests
            leave as they were written. Not for an Idempotency-Key of your own that several runs share: their bodies would differ.
        idempotency: `derive`: requests without an Idempotency-Key of the caller's get one that is the same for every retry of the same
            charge, where an orchestrator, `idempotency_scope` or `run(replay=True)` says what a retry is; `off`: none do.
        on_doubt: What the retry of a call in doubt does where the vendor executes it again (Twilio): `resend` holds once more, `refuse`.
        secret: `env:NAME`, where the vendor's real secret is when a call carries a vault token.
    """

    # Inputs stay out of the error's text: a user may have put the vendor's secret in the wrong field.
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=False, hide_input_in_errors=True)

    name: Name | None = None
    vendor: Name | None = None
    run_usd_cap: Cap | None = None
    daily_usd_cap: Cap | None = None
    call_usd_cap: Cap | None = None
    refund_usd_cap: Usd | None = None
    max_calls: Annotated[int, Field(gt=0, strict=True)] | None = None
    max_emails: Annotated[int, Field(gt=0, strict=True)] | None = None
    allowed_endpoints: tuple[Endpoint, ...] | None = None
    rules: dict[RuledOperation, FieldRules] | None = None
    expires_in: Seconds | None = None
    agent_run_label: Name | None = None
    mode: Literal["enforce", "observe"] = "enforce"
    unpriced: Literal["refuse", "allow"] | Usd = "refuse"
    tag_objects: Annotated[bool, Field(strict=True)] = False
    idempotency: Literal["derive", "off"] = "derive"
    on_doubt: Literal["resend", "refuse"] = "resend"
    secret: Annotated[str, AfterValidator(_check_secret)] | None = None

    def stored(self) -> dict[str, Any]:
        """Return the plain form that `restored` reads back: amounts in micro-USD, seconds, lists."""
        found = self.model_dump(mode="json", exclude_none=True, exclude={"rules"})
        if self.rules is not None:
            found["rules"] = {name: {field: rule.stored() for field, rule in of.items()} for name, of in self.rules.items()}
        return found

    @classmethod
    def restored(cls, fields: Mapping[str, Any]) -> Policy:
        """Rebuild a policy from `stored()`, whose amounts are micro-USD already."""
        known = {**fields}
        if isinstance(known.get("allowed_endpoints"), list):
            known["allowed_endpoints"] = tuple(known["allowed_endpoints"])
        if known.get("rules"):
            known["rules"] = {name: {field: Rule.restored(rule) for field, rule in of.items()} for name, of in known["rules"].items()}
        return cls.model_construct(**known)


KeyState = Literal["active", "revoked", "closed"]


@frozen
class VaultKey:
    """
    An issued handle.

    Attributes:
        key_id: Public name of the key; safe in logs.
        token: `vault_key_…`, what a client may carry in place of the vendor's secret.
        policy: The policy in force (after narrowing and raises); of a child, with what it takes over from its parent (keyguard.narrowing).
        run_id: The run whose budget it draws on; None for a key that travels with a budget of its own. Of a child the budget's own name.
        expires_at: POSIX seconds; None = never. Of a child never later than its parent's.
        state: `active`, `revoked` (by somebody) or `closed` (by its owner).
        version: Grows with each change of the policy or state, also of a parent's; a reserve under an older one is redone.
        parent: The key that this one's budget lies in: whatever is charged to it is charged to that one too. None = a run's own.
    """

    key_id: str
    token: str = field(repr=False)
    policy: Policy
    run_id: str | None
    expires_at: float | None = None
    state: KeyState = "active"
    version: int = 1
    parent: VaultKey | None = field(default=None, repr=False)

    @property
    def scope(self) -> str:
        """Whose charges its calls make: the run's, or its own. A child's are its run's: a retry outside of it is the same charge."""
        if self.parent is not None:
            return self.parent.scope
        return f"run:{self.run_id}" if self.run_id is not None else f"key:{self.key_id}"

    @property
    def budget(self) -> str:
        """The innermost budget it draws on: `scope`, or a child's own."""
        return self.scope if self.parent is None else f"run:{self.run_id}"

    @property
    def chain(self) -> tuple[VaultKey, ...]:
        """This key and those that its budget lies in, innermost first."""
        return (self,) if self.parent is None else (self, *self.parent.chain)

    @property
    def root_id(self) -> str | None:
        """The run that it is of, however deep its budget lies in that of the run."""
        return self.run_id if self.parent is None else self.parent.root_id

    @property
    def policy_name(self) -> str:
        """Whose day cap counts for this key."""
        return self.policy.name or "default"


@frozen
class Subflow:
    """
    Which child run asks for a budget of its own, in the words of its orchestrator.

    Attributes:
        name: The flow's; `parameters`, a hash of what it was called with.
        run: This try of it.
        call: What stands for the call in the calling flow's run in all its executions; "" where nothing does.
        caller: The calling flow's run; `entry`, a token of this entry of its body.
        execution: As of `RunRef`.
    """

    name: str
    parameters: str
    run: str
    call: str = ""
    caller: str = ""
    entry: str = ""
    execution: str = ""


@frozen
class Child:
    """
    What a ledger needs to make a child's budget, or to find it again.

    Attributes:
        parent: The key that it lies in.
        subflow: Who asks for it.
        policy_name: Whose day cap it is where its policy has no name.
    """

    parent: str
    subflow: Subflow
    policy_name: str = "default"


@frozen
class Call:
    """
    One request as the vendor will see it.

    Attributes:
        vendor: The vendor plug's name.
        method: Upper case.
        scheme: `https` or `http`.
        host: Lower case, with `:port` only where the URL had one.
        path: As it will be sent, without the query.
        query: Decoded pairs of the URL's query.
        body: Decoded pairs of a form body, or the leaves of a JSON body (`to[0]`); None = there is a body that could not be read.
        document: A JSON body as parsed (numbers with a fraction as Decimal); None where there is none.
        account: Account scope at the vendor (Stripe-Account or Stripe-Context), else "".
        idempotency_key: The key that goes out with it, whoever made it.
    """

    vendor: str
    method: str
    scheme: str
    host: str
    path: str
    query: Pairs = ()
    body: Pairs | None = ()
    document: Any = field(default=None, repr=False)
    account: str = ""
    idempotency_key: str | None = field(default=None, repr=False)

    @property
    def is_write(self) -> bool:
        """Whether the method may change something at the vendor."""
        return self.method not in {"GET", "HEAD", "OPTIONS"}


@dataclass(frozen=True, slots=True)
class Reply:
    """
    One answer of the vendor.

    Attributes:
        status: HTTP status.
        headers: Lower-cased names.
        body: None where it was not read (a stream that belongs to the caller).
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    body: bytes | None = field(default=None, repr=False)


@frozen
class Attempt:
    """
    One try on the wire, after it ended.

    Attributes:
        reply: The answer, if one came.
        unsent: True only where the transport proves that no byte of the request left.
        error: Class name of what was raised instead of a reply.
    """

    reply: Reply | None = None
    unsent: bool = False
    error: str = ""


@frozen
class Unbounded:
    """
    Why nobody can say what a write may cost, so that the policy's `unpriced` decides.

    Attributes:
        reason: In words that follow "this call": `charges a fee that is not in the request`.
        is_by_design: No cap can express it: only a policy that names this very operation lets it through.
    """

    reason: str
    is_by_design: bool = False


@frozen
class Operation:
    """
    What a call is, read from method and path alone.

    Attributes:
        name: Low cardinality: `payment_intents.create`.
        object_id: The vendor object named in the path, if any.
        known: False = nobody priced this write.
        idempotent: A second attempt of this very request cannot be executed twice by the vendor.
        unbounded: Of a write that the plug knows and nobody can price: why.
    """

    name: str
    object_id: str | None = None
    known: bool = True
    idempotent: bool = False
    unbounded: Unbounded | None = None


@frozen
class Quote:
    """
    Upper bound of a call's cost, known before the send.

    Attributes:
        amount: Micro-USD to hold, an adopted hold included.
        pot: Which budget it draws on: `run`, or `refund` for refunds of the run's own charges.
        object_id: The vendor object the money belongs to, where it exists already.
        adopts: Take over the open hold of that object instead of holding twice.
        prior: What that object had cost in total before this call (for objects of other runs).
        unbounded: Why this request has no bound, where its operation mostly has one; the policy's `unpriced` is its amount then.
        units: How many units of the vendor's own it asks for, where they have a cap too: e-mails, each recipient one.
        recurring: The vendor itself may charge again later, without a call that could be capped: only the first charge is in `amount`.
    """

    amount: Money
    pot: Literal["run", "refund"] = "run"
    object_id: str | None = None
    adopts: bool = False
    prior: Money = 0
    unbounded: Unbounded | None = None
    recurring: bool = False
    units: int = 0


@frozen
class Fact:
    """
    What a reply says about one vendor object that costs money, as totals of the object.

    Attributes:
        object_id: `pi_…`, `ch_…`.
        spent: All it has cost so far, micro-USD.
        held: What it may still cost (an open intent); 0 once its state is final.
        amount: What it was made for.
        refunded: What was given back of it.
        status: The vendor's own word.
        aliases: Other ids of the same money (a PaymentIntent's charge).
        currency: The object's own, in lower case; its amounts here are micro-USD all the same.
    """

    object_id: str
    spent: Money
    held: Money
    amount: Money
    refunded: Money = 0
    status: str = ""
    aliases: tuple[str, ...] = ()
    currency: str = "usd"


Ending = Literal["settled", "released", "doubt"]


@frozen
class Outcome:
    """
    How one attempt, or a whole ticket, ended; what the vendor plug read from the reply.

    Attributes:
        ending: `settled` (the cost is known), `released` (surely not executed), `doubt`.
        cost: Micro-USD when settled and no fact says it.
        facts: The vendor objects in the reply. The first one of a settled write is what the call bought.
        refund_of: The charge or intent that a settled refund gave back to the customer.
        source: Who knew the cost: `provider` (in the reply) or `local` (our own table).
        request_id: The vendor's name for the request, for support.
        units: How many of the quote's units were used; None = all of them.
        is_final: The vendor answers every request with the same Idempotency-Key so from now on. A release is then one of all of them,
            also of those whose own answer was lost; of a doubt no further request can tell what became of it.
        is_presumed: Of a release: the vendor does not show that it was executed, late enough to presume that it was not.
        is_estimate: Of a settlement: the cost is our own price, in place of one that the vendor will say later, of the first fact's object.
        refund_id: The vendor's name for what gave money back; however often it is answered, it is counted once.
    """

    ending: Ending
    cost: Money = 0
    facts: tuple[Fact, ...] = ()
    refund_of: str | None = None
    source: Literal["provider", "local"] = "provider"
    request_id: str | None = None
    units: int | None = None
    is_final: bool = False
    is_estimate: bool = False
    is_presumed: bool = False
    refund_id: str | None = None


Unit = Literal["usd", "call", "email"]


@frozen
class Leg:
    """
    One budget that a reservation draws on.

    Attributes:
        scope: `run:<id>`, `key:<id>`, `policy:<name>`, `refund:<run scope>`, `calls:<run scope>`, `emails:<run scope>`.
        per: `run` (one window for ever) or `day` (one window a UTC day, by the ledger's clock).
        unit: `usd` counts the order's amount; `call` counts 1 for each call sent; `email` counts the quote's units.
    """

    scope: str
    per: Literal["run", "day"] = "run"
    unit: Unit = "usd"


@frozen
class Identity:
    """
    What tells one logical charge from all others, as a request of it says it; its number and generation are the ledger's to give.

    Attributes:
        request: 32 hex digits: of run, vendor, account, the credential's owner, method, path and parameters, or of the caller's own key.
        n: Which of the identical requests of its execution it is, as far as this process knows.
        execution, unit, attempt: As of `RunRef`; "" where requests are not numbered by executions (a caller's own key, a scope).
        task: What the unit is called in every execution; `persists` = its result may be kept, and the unit skipped in the next one.
        fingerprint: Of the parameters, where `request` has none of them.
        window: Seconds after the first send for which the vendor executes the same key once; 0 = it executes each send.
        resends: In doubt and without a window: hold once more, and send (the policy's `on_doubt`).
        is_own: The caller's own key, which is sent as it is whatever came of it before.
    """

    request: str
    n: int = 0
    execution: str = ""
    unit: str = ""
    attempt: int = 1
    task: str = ""
    persists: bool = False
    fingerprint: str = ""
    window: float = 0.0
    resends: bool = True
    is_own: bool = False

    @property
    def is_kept(self) -> bool:
        """Whether a further request of it must find the first one again."""
        return self.window > 0 or not self.resends


@frozen
class Order:
    """
    A request to hold money: everything the ledger needs for one reserve.

    Attributes:
        reservation_id: Chosen by the caller before the reserve, so that a lost answer can be closed.
        key_id: Whose key; `version` is the one the decision was made under.
        legs: The budgets to hold against, all or none.
        quote: Amount, pot, object.
        enforce: False in observe mode: counted, never refused.
        is_capped: False where a proxy judges the caps: counted here, and refused for everything but them.
        identity: Of the logical charge; None where nobody can say what a retry is, and every request is a charge of its own.
        payee: Hash of whom the call pays or writes to, "" where nobody; for telling a call in doubt from others.
        principal: Hash of the owner of the credential that it is sent with.
        scope: Whose charge it is (`VaultKey.scope`); `budgets`, those of a child's call, innermost first; () of any other call.
    """

    reservation_id: str
    key_id: str
    version: int
    scope: str
    vendor: str
    account: str
    operation: str
    method: str
    quote: Quote
    legs: tuple[Leg, ...]
    enforce: bool = True
    identity: Identity | None = None
    payee: str = ""
    principal: str = ""
    budgets: tuple[str, ...] = ()
    is_capped: bool = True


Reason = Literal[
    "", "cap_exceeded", "revoked", "closed", "expired", "unknown_key", "stale", "duplicate", "conflict", "ambiguous", "already_charged",
    "doubt_pending", "unanswerable",
]  # fmt: skip


@frozen
class Decision:
    """
    The answer to a reserve.

    Attributes:
        granted: Whether the call may leave.
        reason: Why not. `stale` = the key changed since it was read: read it again and redo.
        scope: Which budget refused; with its `cap`, `spent`, `held`, `doubt` and what was `requested`
            (micro-USD, or calls or e-mails, as `unit` says).
        resets_at: POSIX seconds when a day budget opens again; None for the others.
        held_amount: What was held in all, an adopted hold included.
        adopted: The part of it that an earlier hold gave.
        limit, remaining: The run's cap and what is left of it after this reserve; None without a cap. Of a child's call those of its
            budget with the least left.
        n, generation: Which of the identical charges it is, and how many of its tries were refused for good before this one.
        hold: The reservation that the answer is about, where it is an earlier one: the call is an attempt of that, or stopped by it.
        at: When that one was made, POSIX seconds.
    """

    granted: bool
    reason: Reason = ""
    scope: str = ""
    unit: Unit = "usd"
    cap: int = 0
    spent: int = 0
    held: int = 0
    doubt: int = 0
    requested: int = 0
    resets_at: float | None = None
    held_amount: Money = 0
    adopted: Money = 0
    limit: Money | None = None
    remaining: Money | None = None
    n: int = 0
    generation: int = 0
    hold: str = ""
    at: float = 0.0


@frozen
class Closing:
    """
    How a reservation ends.

    Attributes:
        reservation_id: The order's.
        outcome: What is known.
        unsent: No byte left: the call does not count against `max_calls` either.
    """

    reservation_id: str
    outcome: Outcome
    unsent: bool = False


@frozen
class Receipt:
    """
    The answer to a close: where the reservation's money is now (micro-USD).

    Attributes:
        found: False = no such reservation (a reserve that never committed).
        spent, held, doubt: The reservation's own parts.
        overrun: How far the vendor's truth went above the hold.
        recurring: The vendor will charge again by itself, outside of every cap (a subscription's next period).
        replayed: What was bought is counted already, by an earlier attempt: the parts here are 0.
    """

    reservation_id: str
    found: bool = True
    spent: Money = 0
    held: Money = 0
    doubt: Money = 0
    overrun: Money = 0
    recurring: bool = False
    replayed: bool = False


@frozen
class Memory:
    """
    What a run's ledger remembers of a vendor object (micro-USD).

    Attributes:
        own: What this run spent on it.
        spent: Its total at the vendor when last seen.
        held: The open hold on it.
        amount: What it was made for.
        refunded: Given back so far by this run.
        currency: The object's own, in lower case, for amounts that are written without one.
    """

    object_id: str
    own: Money = 0
    spent: Money = 0
    held: Money = 0
    amount: Money = 0
    refunded: Money = 0
    status: str = ""
    currency: str = "usd"


@frozen
class Doubt:
    """
    A reservation of which nobody knows whether the vendor executed it, or what it will cost.

    Attributes:
        reservation_id: The first attempt's, which names the whole.
        run_id, key_id, scope: Whose money it is.
        vendor, account, operation, method, object_id: What was asked for.
        amount: Counted for it, micro-USD; a doubt that costs nothing is none.
        at: When it was first held, POSIX seconds; `sent_at`, the last time when a request of it may have left this side.
        attempts: How many calls were made for it.
        identity: The logical charge's, "" where it has none; with `n` and `generation` it gives the derived key.
        payee, principal: As of `Order`.
        request_id: The vendor's name of a request of it, where an answer said one.
        ended: The process that held it has ended: which, on which host, in which of its boots; "" where its call ended in doubt by itself.
    """

    reservation_id: str
    run_id: str | None
    key_id: str
    scope: str
    vendor: str
    account: str
    operation: str
    method: str
    object_id: str | None
    amount: Money
    at: float
    sent_at: float
    attempts: int = 1
    identity: str = ""
    n: int = -1
    generation: int = 0
    payee: str = ""
    principal: str = ""
    request_id: str | None = None
    ended: str = ""


@frozen
class Intent:
    """An open intent: money still held for an object whose last state is not final."""

    object_id: str
    held: Money
    operation: str
    at: float


@frozen
class Usage:
    """
    A budget's figures (micro-USD).

    Attributes:
        cap: None = no cap.
        spent, held, doubt: Σ of its reservations' parts.
        refunded: Σ of refunds of the run's own charges; never gives cap back.
        overrun: Σ of the vendor's truth above our holds.
        calls: Calls sent or in flight.
        emails: E-mails sent, in flight or in doubt.
        intents: Open intents, which `held` includes.
        recurring: Calls after which the vendor charges again by itself, outside of this cap (a subscription's next period).
    """

    scope: str
    cap: Money | None = None
    spent: Money = 0
    held: Money = 0
    doubt: Money = 0
    refunded: Money = 0
    overrun: Money = 0
    calls: int = 0
    emails: int = 0
    intents: tuple[Intent, ...] = ()
    recurring: int = 0

    @property
    def remaining(self) -> Money | None:
        """What may still be reserved; None without a cap, never below 0."""
        return None if self.cap is None else max(0, self.cap - self.spent - self.held - self.doubt)
