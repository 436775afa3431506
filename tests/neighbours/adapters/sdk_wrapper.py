"""A library that wraps the Stripe SDK's own methods by wrapt, and leaves by ddtrace's `unwrap`, which strips what is outermost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.neighbours import Neighbour

if TYPE_CHECKING:
    from collections.abc import Callable

_METHODS = ("_request_with_retries_internal", "_request_with_retries_internal_async")


class SDKWrapper(Neighbour):
    """No library hooks these methods today; this is how ddtrace hooks those that it does."""

    hooks = frozenset({"stripe"})

    def __init__(self) -> None:
        self._calls = 0

    def install(self) -> None:
        """Wrap both methods."""
        import wrapt

        for method in _METHODS:
            wrapt.wrap_function_wrapper("stripe._http_client", f"HTTPClient.{method}", self._count)

    def _count(self, wrapped: Callable[..., Any], _instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._calls += 1
        return wrapped(*args, **kwargs)

    def remove(self) -> None:
        """Strip both."""
        import stripe
        from ddtrace.internal.utils.wrappers import unwrap

        for method in _METHODS:
            unwrap(stripe.HTTPClient, method)

    def seen(self) -> int:
        """Count the calls."""
        return self._calls


neighbour = SDKWrapper()
