"""`python -m keyguard.testing.double`: see process.py."""

from __future__ import annotations

from keyguard.testing.double.process import main

if __name__ == "__main__":
    main()
