"""
A double of what Keybrake's public pages show of its contract, to test against: a real HTTP server on loopback that issues vault
keys, and forwards the calls that carry them to stand-ins of the vendors. Reconstructed from public pages of keybrake.com, read in
November 2026. It is not Keybrake, and was never held against it: no public server of theirs could be shown to run.

    with VendorDouble() as vendors, KeybrakeDouble(
        admin="kb_admin", vendor_secret={"stripe": "sk_test_1"}, upstreams={"stripe": vendors.url}
    ) as keybrake:
        answer = httpx.post(f"{keybrake.url}/vault/keys", headers={"Authorization": "Bearer kb_admin"},
                            json={"vendor": "stripe", "daily_usd_cap": 5})
        stripe.api_key, stripe.api_base = answer.json()["vault_key"], f"{keybrake.url}/stripe"

Where the pages say two things, one is chosen by an argument; where they say nothing, the choice is named in `contract`. What
`keyguard proxy` has beyond them is not here on purpose: no capabilities, no figures, no /healthz, no field for a run's cap.
"""

from __future__ import annotations

from keyguard.testing.keybrake.contract import IssuedKey
from keyguard.testing.keybrake.double import Forwarded, KeybrakeDouble

__all__ = ["Forwarded", "IssuedKey", "KeybrakeDouble"]
