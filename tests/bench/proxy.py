"""`python -m tests.bench.proxy [--short] [--write]`: the proxy's hop alone."""

from __future__ import annotations

import sys

from tests.bench import bench_proxy
from tests.bench.__main__ import report

if __name__ == "__main__":
    sys.exit(report(bench_proxy.run("--short" in sys.argv), sys.argv[1:]))
