"""aiohttp from before its middlewares, in an environment of its own: what goes to a vendor is refused, everything else passes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support_stripe_server import StripeServer

pytestmark = [pytest.mark.peers, pytest.mark.timeout(300)]

_ROOT = Path(__file__).parents[2]
_VERSION = "3.11.18"
_SCRIPT = """
import asyncio, json, sys
import aiohttp, stripe
import keyguard

vendor, nobody = sys.argv[1:]
form = {"amount": "100", "currency": "usd", "confirm": "true"}

async def raw(base):
    async with aiohttp.ClientSession() as session, session.post(f"{base}/v1/payment_intents", data=form) as response:
        return response.status

async def sdk():
    own = stripe.AIOHTTPClient()
    client = stripe.StripeClient("sk_test_12345", base_addresses={"api": vendor}, http_client=own)
    try:
        return (await client.v1.payment_intents.create_async({"amount": 100, "currency": "usd", "confirm": True})).amount
    finally:
        await own.close_async()

with keyguard.run("old"):
    installed = keyguard.install("sqlite://", run_usd_cap=5)
    try:
        refused = asyncio.run(raw(vendor))
    except keyguard.ConfigurationError as error:
        refused = str(error)
    print(json.dumps([aiohttp.__version__, refused, asyncio.run(sdk()), asyncio.run(raw(nobody)), installed.usage().spent]))
"""


def test_a_call_that_cannot_be_guarded_is_refused() -> None:
    """Raw to the vendor: not sent, with what to do. Stripe's SDK over it is guarded above it. A host that is nobody's is no business."""
    uv = shutil.which("uv")
    if uv is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("uv is not here")
    with StripeServer() as vendor, StripeServer() as nobody:
        command = [
            uv, "run", "--quiet", "--isolated", "--python", sys.executable, "--no-dev", "--extra", "stripe",
            "--with", f"aiohttp=={_VERSION}", "python", "-c", _SCRIPT, vendor.url, nobody.url,
        ]  # fmt: skip
        env = {**os.environ, "KEYGUARD_VENDOR_HOSTS": f"stripe={vendor.host}"}
        done = subprocess.run(command, cwd=_ROOT, env=env, capture_output=True, text=True, timeout=240, check=False)

    assert done.returncode == 0, done.stderr
    version, refused, amount, status, spent = json.loads(done.stdout)
    assert version == _VERSION
    assert f"guards requests of aiohttp from 3.12 on, and {_VERSION} is installed. Upgrade aiohttp" in refused
    assert (amount, spent, len(vendor.charges)) == (100, 1_000_000, 1)
    assert (status, len(nobody.charges)) == (200, 1)
