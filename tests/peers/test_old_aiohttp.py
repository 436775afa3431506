"""aiohttp from before its middlewares, in environments of their own: guarded as today's is, hop by hop."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support_json_server import Answer, JsonServer
from tests.support_stripe_server import StripeServer

pytestmark = [pytest.mark.peers, pytest.mark.timeout(300)]

_ROOT = Path(__file__).parents[2]
_SCRIPT = """
import asyncio, json, sys
import aiohttp, stripe
import keyguard

vendor, nobody = sys.argv[1:]
form = {"amount": "100", "currency": "usd", "confirm": "true"}

async def raw(url, **more):
    async with aiohttp.ClientSession() as session, session.post(url, **more) as response:
        await response.read()
        return response.status

async def sdk():
    own = stripe.AIOHTTPClient()
    client = stripe.StripeClient("sk_test_12345", base_addresses={"api": vendor}, http_client=own)
    try:
        return (await client.v1.payment_intents.create_async({"amount": 100, "currency": "usd", "confirm": True})).amount
    finally:
        await own.close_async()

def told(call):
    try:
        return asyncio.run(call)
    except keyguard.Refused as refusal:
        return type(refusal).__name__

charge = f"{vendor}/v1/payment_intents"
with keyguard.run("old"):
    installed = keyguard.install("sqlite://", run_usd_cap=4)
    token = {"Authorization": f"Bearer {installed.key.token}"}
    said = [
        told(raw(charge, data=form)),
        told(raw(f"{charge}/pi_9/confirm", data={})),
        told(raw(f"{nobody}/to-the-vendor", data=form)),
        told(raw(f"{nobody}/x", data=form)),
        told(raw(f"{nobody}/x", data=form, headers=token)),
        told(sdk()),
        told(raw(charge, data=form)),
    ]
    print(json.dumps([aiohttp.__version__, installed.usage().spent, installed.usage().held, *said]))
"""


@pytest.mark.parametrize("version", ["3.8.6", "3.9.5", "3.10.11", "3.11.18"])
def test_an_older_aiohttp_is_guarded(version: str) -> None:
    """A charge, one that must be asked about, one that a redirect leads to the vendor, Stripe's SDK over it; the fifth passes the cap."""
    uv = shutil.which("uv")
    if uv is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("uv is not here")
    with StripeServer() as vendor, JsonServer(lambda _: Answer(200, {})) as nobody:
        vendor.intents["pi_9"] = {
            "id": "pi_9",
            "object": "payment_intent",
            "amount": 100,
            "currency": "usd",
            "status": "requires_confirmation",
        }
        nobody.scripted = [Answer(307, {}, {"Location": f"{vendor.url}/v1/payment_intents"})]
        command = [
            uv, "run", "--quiet", "--isolated", "--python", sys.executable, "--no-dev", "--extra", "stripe",
            "--with", f"aiohttp=={version}", "python", "-c", _SCRIPT, vendor.url, nobody.url,
        ]  # fmt: skip
        env = {**os.environ, "KEYGUARD_VENDOR_HOSTS": f"stripe={vendor.host}"}
        done = subprocess.run(command, cwd=_ROOT, env=env, capture_output=True, text=True, timeout=240, check=False)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [version, 4_000_000, 0, 200, 200, 200, 200, "EndpointNotAllowed", 100, "SpendCapExceeded"]
    assert [request[:2] for request in vendor.requests].count(("GET", "/v1/payment_intents/pi_9")) == 1
    assert (len(vendor.charges), len(nobody.requests)) == (4, 2)
