"""Records `cassettes/resend/` anew, against resend-local on a loopback port: `python -m tests.record_resend_cassettes [FOLDER]`.

A file whose traffic and versions have not changed stays as it is, its date too.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path

import resend

from tests.record_cassettes import put
from tests.support_node import package
from tests.support_resend_cassettes import RESEND_FOLDER, SCENARIOS, Scenario, origin, player, renaming
from tests.support_resend_local import resend_local


def record(scenario: Scenario, path: Path, header: dict[str, str]) -> None:
    """Record one scenario, through the SDK and without keyguard, into a new file."""
    with player(before_save_interaction=renaming()).use_cassette(path, record_mode="all") as cassette:
        for key, value in header.items():
            cassette.get_metadata(key, value)
        scenario.play()


def main(arguments: list[str]) -> None:
    """Record every scenario."""
    folder = Path(arguments[0]) if arguments else RESEND_FOLDER
    folder.mkdir(exist_ok=True)
    # A proxy of the machine has no business between two processes of it.
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"
    resend.api_key = "re_12345"
    standin = json.loads((package("resend-local") / "package.json").read_text(encoding="utf-8"))["version"]
    header = origin(datetime.now(timezone.utc).date().isoformat(), standin)
    with resend_local() as local, tempfile.TemporaryDirectory() as place:
        resend.api_url = local.url
        for scenario in SCENARIOS:
            new = Path(place) / scenario.path.name
            record(scenario, new, header)
            print(f"{scenario.path.name}: {put(new, folder / new.name)}")


if __name__ == "__main__":
    main(sys.argv[1:])
