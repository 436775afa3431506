"""The public API as users' code writes it, for type checkers only: never run, checked by mypy and pyright."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import keyguard
import keyguard.prefect
from keyguard import Installation, Policy, SpendCapExceeded, VaultKey, vendors

if TYPE_CHECKING:
    from keyguard.model import Call, Reply


def charge(customer: str, *, cents: int) -> float:
    """Stand for a user's function."""
    return len(customer) * cents / 100


def install_in_every_form() -> None:
    """Install with fields, a file, a mapping, a policy, and on a ledger of one's own."""
    one: Installation = keyguard.install(run_usd_cap=500.0, expires_in="4h", allowed_endpoints=["POST /v1/payment_intents"])
    two: Installation = keyguard.install("sqlite:///ledger.db", policy="billing.toml")
    three: Installation = keyguard.install(None, policy=Path("billing.toml"), mode="observe")
    four: Installation = keyguard.install(policy={"run_usd_cap": "19.99"})
    five: Installation = keyguard.install(policy=Policy.model_validate({"run_usd_cap": 500}))
    with keyguard.install(max_calls=3) as six:
        print(one, two, three, four, five, six)


def read_an_installation(installed: Installation) -> int | None:
    """Read figures, the key and the seams."""
    key: VaultKey = installed.key
    seams: dict[str, bool] = installed.seams
    left: int | None = installed.usage().remaining
    spent: int = installed.usage().spent
    run: str | None = key.run_id
    print(seams, spent, run, [intent.object_id for intent in installed.usage().intents])
    installed.revoke()
    installed.close()
    return left


def issue_use_and_revoke() -> int:
    """Hand a key around."""
    key: VaultKey = keyguard.issue(run_usd_cap=5)
    with keyguard.use(key) as used:
        token: str = used.token
    with keyguard.run(id="nightly", name="nightly billing", replay=True) as ref, keyguard.idempotency_scope("order-42"):
        run_id: str | None = ref.run_id
    print(token, run_id)
    return keyguard.revoke(key) + keyguard.revoke("run-id", by="me") + keyguard.revoke(keyguard.install())


def doubts_are_listed_asked_and_ended() -> list[str]:
    """What is in doubt, what a vendor says of it, and what a person does."""
    amounts: list[int] = [doubt.amount for doubt in keyguard.doubts.listed("run-id", vendor="stripe")]
    done: keyguard.doubts.Reconciled = keyguard.doubts.reconcile(dry_run=True)
    receipt = keyguard.doubts.settle("0193", cost_usd="4.50", reason="invoice 17")
    keyguard.doubts.release("0194", reason="never sent", by="ada", ledger="sqlite:///ledger.db")
    print(amounts, done.before, done.after, receipt.spent)
    return [answer.words for answer in (*done.left, *done.late)]


def wrap_keeps_the_signature() -> Future[float]:
    """A wrapped function is what it was, for checkers too."""
    wrapped = keyguard.wrap(charge)
    result: float = wrapped("cus_1", cents=5)
    print(result)
    with ThreadPoolExecutor() as pool:
        return pool.submit(keyguard.wrap(charge), "cus_1", cents=5)


def read_a_refusal() -> tuple[str | None, int | None, float | None]:
    """Catch from the narrowest to the widest, and read the figures."""
    try:
        charge("cus_1", cents=5)
    except SpendCapExceeded as refusal:
        return refusal.scope, refusal.remaining, refusal.resets_at
    except keyguard.KeyRevoked as refusal:
        return refusal.key_id, None, None
    except keyguard.Refused as refusal:
        return refusal.operation, None, None
    except keyguard.LedgerUnavailable as failure:
        return failure.reason, None, None
    except (keyguard.BackendError, keyguard.ConfigurationError, keyguard.KeyguardError):
        keyguard.uninstall()
    version: str = keyguard.__version__
    return version, None, None


def register_a_vendor() -> vendors.Vendor:
    """Describe an API with amounts of every kind, and read what was refused."""

    def price(call: Call) -> float:
        return 0.05 * len(call.document["items"])

    def cost(call: Call, reply: Reply) -> Decimal | None:
        found = vendors.documents(reply)
        return Decimal(found[0]["usd"]) if found and call.path != "/v1/jobs" else None

    plug: vendors.Vendor = vendors.register(
        "acme",
        hosts=["api.acme.example"],
        operations={
            "POST /v1/jobs": "0.05",
            "POST /v1/orders": vendors.Row(Decimal("1.5"), name="orders.create", idempotent=True, cost=cost),
            "POST /v1/batches/*": price,
            "POST /v1/nobody": lambda call: None,
            "DELETE /**": "free",
            "POST /v1/flat": 3,
        },
        cost=cost,
        on_refused="response",
        secret_env="ACME_API_KEY",
        not_executed=range(400, 500),
    )
    refusal: keyguard.Refused | None = keyguard.refusal_of(ValueError("x"))
    print(refusal, vendors.generic("other", hosts={"other.example"}, operations={}).hosts)
    vendors.unregister("acme")
    return plug


@keyguard.guarded
def guarded_charge(customer: str, *, cents: int) -> float:
    """Stand for a function that is sent to other processes."""
    return charge(customer, cents=cents)


@keyguard.prefect.task(retries=3, tags=["money"])
def charge_task(customer: str, cents: int) -> float:
    """Stand for a task."""
    return charge(customer, cents=cents)


def guarded_functions_and_tasks_keep_their_types() -> None:
    """A guarded function is called as before; a task is Prefect's, with its futures and options."""
    cents: float = guarded_charge("cus_1", cents=5)
    called: float = charge_task("cus_1", 5)
    submitted: float = charge_task.with_options(retries=1).submit("cus_1", 5).result()
    print(cents, called, submitted)
