"""What `import keyguard` costs beside the import of what it depends on: what every program pays, once."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys

from tests.bench.measure import Row

_DEPENDENCIES = (
    "anyio.to_thread, asyncio, httpx, opentelemetry.context, opentelemetry.trace, platformdirs, pydantic, pydantic_settings, secrets, wrapt"
)
_SCRIPT = f"""
import json, time
times = [time.perf_counter()]
import {_DEPENDENCIES}
times.append(time.perf_counter())
import keyguard
times.append(time.perf_counter())
print(json.dumps([(after - before) * 1000 for before, after in zip(times, times[1:])]))
"""


def run(short: bool) -> list[Row]:
    """Import in new interpreters, the dependencies first."""
    # Bytecode is kept, as where keyguard is installed: else each import would be timed with its compilation.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", _SCRIPT]
    found = [
        json.loads(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout) for _ in range(7 if short else 21)
    ]
    dependencies, own = (statistics.median(times) for times in zip(*found, strict=True))
    return [
        Row("import of keyguard's dependencies", dependencies, "ms"),
        Row("import keyguard, beyond its dependencies", own, "ms", 30, note=f"{own / dependencies:.2f} of theirs"),
    ]
