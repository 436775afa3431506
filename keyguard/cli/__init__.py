"""The `keyguard` command: its options, its errors and its exit codes. What the commands do is in the files beside this one.

Exit codes: 0 done, 1 refused, failed, or not as it should be, 2 asked for something that cannot be.
"""

from __future__ import annotations

import sys
from pathlib import Path  # noqa: TC003 -- typer reads annotations at run time
from typing import Annotated

import typer

import keyguard
from keyguard.cli import figures
from keyguard.errors import ConfigurationError, KeyguardError, MissingExtra

app = typer.Typer(
    name="keyguard",
    help="Dollar caps for the vendor calls of your flows: see what was spent, revoke keys, raise caps.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

prices_app = typer.Typer(help="Show the price lists that calls are counted by, and read new ones.", no_args_is_help=True)
app.add_typer(prices_app, name="prices")

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON value; amounts in dollars.")]
LedgerUrl = Annotated[str | None, typer.Option("--ledger", metavar="URL", help="Default: KEYGUARD_URL, else your own SQLite ledger.")]


def main() -> None:
    """Run the command line; an error of keyguard is one line on stderr."""
    try:
        app()
    except MissingExtra as error:
        # The message is the very line to type.
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    except KeyguardError as error:
        print(f"keyguard: {error}", file=sys.stderr)
        raise SystemExit(2 if isinstance(error, ConfigurationError) else 1) from None


def _version(asked: bool) -> None:  # noqa: FBT001 -- the signature of a click callback
    if asked:
        typer.echo(f"keyguard {keyguard.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,  # noqa: FBT002 -- a flag
) -> None:
    """Hold the options of the command itself."""


@app.command()
def demo(
    cap: Annotated[str, typer.Option(help="run_usd_cap in dollars.")] = "500",
    customers: Annotated[int, typer.Option(help="How many customers are charged.")] = 50,
    amount: Annotated[str, typer.Option(help="Dollars each is charged.")] = "20",
    unguarded: Annotated[bool, typer.Option("--unguarded", help="The same flow with the seams off.")] = False,  # noqa: FBT002 -- a flag
    as_json: AsJson = False,  # noqa: FBT002 -- a flag
) -> None:
    """Run a real Prefect flow that charges past its cap, at a Stripe stand-in on this machine."""
    from keyguard.cli.showing import show_demo

    raise typer.Exit(show_demo(figures.plan(cap, customers, amount, guarded=not unguarded), as_json=as_json))


@app.command("crash-test")
def crash_test(
    quick: Annotated[bool, typer.Option("--quick", help="The short form.")] = False,  # noqa: FBT002 -- a flag
    ledger: Annotated[str | None, typer.Option("--ledger", metavar="URL", help="Default: one for each event, which ends with it.")] = None,
    guard: Annotated[str, typer.Option(metavar="NAME", help="keyguard, none, floe-guard, or module:Class of yours.")] = "keyguard",
    only: Annotated[
        list[str] | None, typer.Option(metavar="EVENT", help="Only this event, or those that begin so; may be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of what is random in it.")] = 0,
    as_json: AsJson = False,  # noqa: FBT002 -- a flag
) -> None:
    """Race, kill, retry and lie to a guard, at a double of Stripe on this machine: who charged more than the cap, and who noticed."""
    from keyguard.crashtest.report import show_crash_test
    from keyguard.crashtest.runner import Plan

    raise typer.Exit(show_crash_test(Plan(guard, ledger or "", quick, seed, tuple(only or ())), as_json=as_json))


@app.command()
def status(
    run: Annotated[str | None, typer.Option(help="Only this run, with its open intents.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many runs at most, newest first.")] = 50,
    ledger: LedgerUrl = None,
    as_json: AsJson = False,  # noqa: FBT002 -- a flag
) -> None:
    """Show what runs may spend, have spent, hold and doubt."""
    from keyguard.cli.showing import show_status

    with figures.opened(ledger) as found:
        rows = figures.rows(found, run=run, limit=limit)
        show_status(rows, found.url, as_json=as_json)


@app.command()
def doctor(
    policy: Annotated[str | None, typer.Option(metavar="FILE", help="A policy file to look at too.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Refold the ledger's whole log and compare.")] = False,  # noqa: FBT002 -- a flag
    ledger: LedgerUrl = None,
    as_json: AsJson = False,  # noqa: FBT002 -- a flag
) -> None:
    """Say what would be guarded here, and what not: clients, seams, ledger, mode, secrets, prices."""
    from keyguard.cli.examining import examine
    from keyguard.cli.showing import show_findings

    raise typer.Exit(show_findings(examine(policy, ledger, is_verified=verify), as_json=as_json))


@app.command()
def revoke(
    run: Annotated[str | None, typer.Option(help="Every key of this run.")] = None,
    key: Annotated[str | None, typer.Option(help="This key, by its key id.")] = None,
    policy: Annotated[str | None, typer.Option(help="Every key of this policy name.")] = None,
    ledger: LedgerUrl = None,
    as_json: AsJson = False,  # noqa: FBT002 -- a flag
) -> None:
    """Revoke keys: once this returns no process can reserve with them."""
    from keyguard.cli.showing import show_done

    target = figures.one_target(run=run, key=key, policy=policy)
    with figures.opened(ledger) as found:
        count = figures.revoke(found, target)
        text = f"revoked {count} key{'' if count == 1 else 's'} of {target[0]} {target[1]}; calls on the wire will settle"
        show_done(text, {"revoked": count, target[0]: target[1]}, as_json=as_json)


@app.command("raise")
def raise_(
    to: Annotated[str, typer.Option(metavar="USD", help="The new cap in dollars.")],
    run: Annotated[str | None, typer.Option(help="The run whose cap is set.")] = None,
    policy: Annotated[str | None, typer.Option(help="The policy name whose cap of the day is set, for all its runs.")] = None,
    ledger: LedgerUrl = None,
    as_json: AsJson = False,  # noqa: FBT002 -- a flag
) -> None:
    """Set a run's cap (its key's expiry starts again), or what a policy's runs may spend in a day; audited with your name."""
    from keyguard.cli.showing import show_done

    cap = figures.cap_of("--to", to)
    kind, name = figures.one_target(run=run, policy=policy)
    with figures.opened(ledger) as found:
        if kind == "policy":
            raised = figures.raise_day_cap(found, name, cap)
            show_done(f"the runs of policy {name} may spend {raised['cap_usd']:,.2f} USD a day now", raised, as_json=as_json)
            return
        raised = figures.raise_cap(found, name, cap)
        held = raised["held_to_usd"]
        more = "" if held is None else f"; what it lies in has {held:,.2f} USD, and the narrower holds: keyguard status --run {run}"
        show_done(f"the cap of run {run} is {raised['cap_usd']:,.2f} USD now{more}", raised, as_json=as_json)


@app.command()
def doubts(
    run: Annotated[str | None, typer.Option(help="Only this run's.")] = None,
    ledger: LedgerUrl = None,
    as_json: AsJson = False,  # noqa: FBT002 -- a flag
) -> None:
    """List the calls of which nobody knows whether the vendor executed them; they count until that is known."""
    from keyguard.cli.doubting import show_doubts
    from keyguard.doubts import listed

    with figures.opened(ledger) as found:
        show_doubts(listed(run, ledger=found), found.now(), found.url, as_json=as_json)


@app.command()
def reconcile(
    run: Annotated[str | None, typer.Option(help="Only this run's.")] = None,
    vendor: Annotated[str | None, typer.Option(help="Only what this vendor was asked for.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Ask, and only say what would be booked.")] = False,  # noqa: FBT002 -- a flag
    ledger: LedgerUrl = None,
    as_json: AsJson = False,  # noqa: FBT002 -- a flag
) -> None:
    """Ask the vendors, by reads alone, what became of the calls in doubt, and book it. Exit code 1 while something is left."""
    from keyguard import doubts as doubting
    from keyguard.cli.doubting import show_reconciled

    with figures.opened(ledger) as found:
        done = doubting.reconcile(run, vendor=vendor, dry_run=dry_run, ledger=found, by=figures.person())
        code = show_reconciled(done, found.now(), found.url, as_json=as_json)
    raise typer.Exit(code)


@app.command()
def settle(
    reservation_id: Annotated[str, typer.Argument(metavar="ID", help="Of the doubt; its beginning is enough where that names one alone.")],
    cost: Annotated[str, typer.Option(metavar="USD", help="What the call cost, in dollars.")],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="How that is known; kept in the audit with your name.")],
    ledger: LedgerUrl = None,
    as_json: AsJson = False,  # noqa: FBT002 -- a flag
) -> None:
    """Settle a doubt by what you found out: the call was executed, and cost this much."""
    from keyguard import doubts as doubting
    from keyguard.cli.doubting import show_resolved

    figures.amount_of("--cost", cost)
    with figures.opened(ledger) as found:
        receipt = doubting.settle(reservation_id, cost_usd=cost, reason=reason, by=figures.person(), ledger=found)
        show_resolved("settled", receipt, as_json=as_json)


@app.command()
def release(
    reservation_id: Annotated[str, typer.Argument(metavar="ID", help="Of the doubt; its beginning is enough where that names one alone.")],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="How that is known; kept in the audit with your name.")],
    ledger: LedgerUrl = None,
    as_json: AsJson = False,  # noqa: FBT002 -- a flag
) -> None:
    """Release a doubt by what you found out: the call was not executed, and will not be."""
    from keyguard import doubts as doubting
    from keyguard.cli.doubting import show_resolved

    with figures.opened(ledger) as found:
        receipt = doubting.release(reservation_id, reason=reason, by=figures.person(), ledger=found)
        show_resolved("released", receipt, as_json=as_json)


@app.command()
def proxy(
    host: Annotated[str | None, typer.Option(help="Where to listen. Default: KEYGUARD_PROXY_HOST, else 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65_535, help="0 = any that is free. Default: 8420.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes that serve, on one ledger.")] = None,
    tls_cert: Annotated[Path | None, typer.Option(metavar="FILE", help="PEM; with --tls-key it serves https.")] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE")] = None,
    allow_plain: Annotated[bool | None, typer.Option("--allow-plain", help="Serve http to others: something in front does TLS.")] = None,
    ledger: LedgerUrl = None,
) -> None:
    """Serve vault keys and forward the calls that carry them, so that no vendor's secret is where your flows run."""
    from keyguard.cli.serving import serve_proxy

    serve_proxy(host=host, port=port, workers=workers, tls_cert=tls_cert, tls_key=tls_key, allow_plain=allow_plain, ledger=ledger)


@prices_app.command("show")
def show_prices(
    vendor: Annotated[str, typer.Argument(help="twilio")] = "twilio",
    as_json: AsJson = False,  # noqa: FBT002 -- a flag
) -> None:
    """Show the price list in force, in dollars."""
    from keyguard.cli.pricing import check_vendor, listed
    from keyguard.cli.showing import show_price_list

    check_vendor(vendor)
    show_price_list(listed(), as_json=as_json)


@prices_app.command()
def refresh(
    vendor: Annotated[str, typer.Argument(help="twilio")],
    into: Annotated[str | None, typer.Option(metavar="FILE", help="Default: KEYGUARD_TWILIO_PRICES_FILE, else beside your ledger.")] = None,
    country: Annotated[str | None, typer.Option(metavar="ISO,ISO", help="Only these; what the file has of others stays.")] = None,
    base_url: Annotated[str, typer.Option(help="Of the Pricing API.")] = "https://pricing.twilio.com",
    as_json: AsJson = False,  # noqa: FBT002 -- a flag
) -> None:
    """Read an account's prices (TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN) from the vendor into a file."""
    from keyguard.cli.pricing import check_vendor, refresh_twilio
    from keyguard.cli.showing import show_refreshed

    check_vendor(vendor)
    show_refreshed(refresh_twilio(into, country, base_url), as_json=as_json)
