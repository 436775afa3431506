"""Writes `keyguard/vendors/twilio_parameters.txt` from the installed SDK's own source: `python -m tests.twilio_parameters`."""

from __future__ import annotations

from pathlib import Path

import twilio

from keyguard.model import Call
from keyguard.vendors import vendor_named
from tests.support_twilio_sdk import requests

TARGET = Path(__file__).parents[1] / "keyguard" / "vendors" / "twilio_parameters.txt"
_HEAD = """\
# Operation, then the fields of its request: what a policy's `rules` may name.
# From the source of twilio-python {version}, by `python -m tests.twilio_parameters`; a test compares them.
"""


def generate() -> str:
    """Return the file's text for the SDK that is installed."""
    found: dict[str, set[str]] = {}
    for made in requests():
        call = Call("twilio", made.method, "https", f"{made.product}.twilio.com", made.path.replace("*", "x"))
        found.setdefault(vendor_named("twilio").classify(call).name, set()).update(made.fields)
    rows = (" ".join([name, *sorted(found[name])]) for name in sorted(found))
    return _HEAD.format(version=twilio.__version__) + "\n".join(rows) + "\n"


if __name__ == "__main__":
    TARGET.write_text(generate(), encoding="utf-8")
