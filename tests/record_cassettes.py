"""Records `cassettes/` anew, against stand-ins on loopback ports: `python -m tests.record_cassettes [--into FOLDER] [STAND-IN...]`.

A file whose traffic and versions have not changed stays as it is, its date too.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support_cassettes import FOLDER, Origin, Readable, Scenario
from tests.support_resend_cassettes import RESEND_LOCAL
from tests.support_stripe_cassettes import LOCALSTRIPE, STATEFUL_MOCK
from tests.support_twilio_cassettes import PRISM_TWILIO

if TYPE_CHECKING:
    from collections.abc import Sequence

ORIGINS = {origin.name: origin for origin in (LOCALSTRIPE, STATEFUL_MOCK, RESEND_LOCAL, PRISM_TWILIO)}


def record(origin: Origin, scenario: Scenario, url: str, path: Path, recorded_on: str) -> None:
    """Record one scenario, through the vendor's SDK and without keyguard, into a new file."""
    given = scenario.given if scenario.prepare is None else scenario.prepare(url)
    with origin.player(before_save_interaction=origin.renaming()).use_cassette(path, record_mode="all") as cassette:
        for key, value in origin.header(recorded_on).items():
            cassette.get_metadata(key, value)
        scenario.play(url, given)


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


def main(arguments: Sequence[str] | None = None) -> None:
    """Record every scenario of the stand-ins that are named, or of all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--into", type=Path, default=FOLDER)
    parser.add_argument("names", nargs="*", choices=[*ORIGINS, []], default=[])
    asked = parser.parse_args(arguments)
    # A proxy of the machine has no business between two processes of it.
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"
    today = datetime.now(timezone.utc).date().isoformat()
    for origin in [ORIGINS[name] for name in asked.names or ORIGINS]:
        folder = asked.into / origin.name
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as place, origin.running() as url:
            for scenario in origin.scenarios:
                new = Path(place) / f"{scenario.name}.yaml"
                record(origin, scenario, url, new, today)
                print(f"{origin.name}/{new.name}: {put(new, folder / new.name)}")


if __name__ == "__main__":
    main()
