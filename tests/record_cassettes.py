"""Records `cassettes/` anew, against localstripe on a loopback port: `python -m tests.record_cassettes [FOLDER]`.

A file whose traffic and versions have not changed stays as it is, its date too.
"""

from __future__ import annotations

import os
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import httpx

import keyguard.demo
from keyguard.demo.children import started
from tests.support_cassettes import API_KEY, FOLDER, SCENARIOS, Readable, Scenario, client, origin, player, renaming


def record(scenario: Scenario, api_base: str, path: Path, recorded_on: str) -> None:
    """Record one scenario, through the Stripe SDK and without keyguard, into a new file."""
    card = _make_card(api_base, scenario.number) if scenario.number else scenario.card
    with player(before_save_interaction=renaming()).use_cassette(path, record_mode="all") as cassette:
        for key, value in origin(recorded_on).items():
            cassette.get_metadata(key, value)
        scenario.play(client(api_base), card)


def _make_card(api_base: str, number: str) -> str:
    """Make a card at the stand-in, before the recording: a card number never gets into a cassette."""
    form = {"type": "card", "card[number]": number, "card[exp_month]": "12", "card[exp_year]": "2030", "card[cvc]": "123"}
    with httpx.Client(base_url=api_base, auth=(API_KEY, ""), trust_env=False) as direct:
        return str(direct.post("/v1/payment_methods", data=form).raise_for_status().json()["id"])


def put(new: Path, old: Path) -> str:
    """Replace a cassette where something besides its date has changed; returns what was done."""
    if old.exists() and _undated(old) == _undated(new):
        return "unchanged"
    old.write_bytes(new.read_bytes())
    return "written"


def _undated(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = Readable.deserialize(path.read_text(encoding="utf-8"))
    found["metadata"].pop("recorded_on")
    return found


def main(arguments: list[str]) -> None:
    """Record every scenario."""
    folder = Path(arguments[0]) if arguments else FOLDER
    folder.mkdir(exist_ok=True)
    # A proxy of the machine has no business between two processes of it.
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"
    today = datetime.now(timezone.utc).date().isoformat()
    script = Path(keyguard.demo.__file__).with_name("standin.py")
    with tempfile.TemporaryDirectory() as place, started([sys.executable, str(script)], log=Path(place) / "standin.log") as standin:
        api_base = f"http://127.0.0.1:{int(standin.readline())}"
        for scenario in SCENARIOS:
            new = Path(place) / scenario.path.name
            record(scenario, api_base, new, today)
            print(f"{scenario.path.name}: {put(new, folder / new.name)}")


if __name__ == "__main__":
    main(sys.argv[1:])
