"""One double and one proxy for the tests of a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from keyguard.testing.double import VendorDouble
from tests.proxy.support import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def double() -> Iterator[VendorDouble]:
    """The vendors."""
    with VendorDouble() as found:
        yield found


@pytest.fixture(scope="module")
def proxy(double: VendorDouble, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """The proxy before them."""
    with Proxy(tmp_path_factory.mktemp("proxy"), double.url) as found:
        yield found


@pytest.fixture(autouse=True)
def unscripted(double: VendorDouble) -> Iterator[None]:
    """No fault is left for the next test."""
    yield
    double.clear()
    double.release()
