"""The double and the proxy that most tests here share with those of the proxy itself."""

from __future__ import annotations

from tests.proxy.conftest import double, proxy

__all__ = ["double", "proxy"]
