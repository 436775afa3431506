"""OpenAI's and Anthropic's SDKs as generic vendors: settled from `usage`, whole or streamed; refused in one attempt, with nothing sent."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import pytest

import keyguard
from keyguard import context, vendors
from keyguard.errors import SpendCapExceeded
from keyguard.prefect import retry_unless_refused
from tests.support_llm_server import INPUT, OUTPUT, LlmServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from keyguard.model import Call, Reply

# Not imported with this file: with all their models the SDKs take seconds, in every process that only looks for tests.
pytestmark = pytest.mark.skipif(find_spec("openai") is None, reason="the SDKs on httpx2 need Python 3.11")
# Dollars for a million tokens.
INPUT_PRICE, OUTPUT_PRICE = 3, 15
MOST = 100
ASKED: Any = {"model": "m", "max_tokens": MOST, "messages": [{"role": "user", "content": "What is not free?"}]}
TRUTH = INPUT * INPUT_PRICE + OUTPUT * OUTPUT_PRICE  # micro-USD


def bound(call: Call) -> float:
    """A token of the input is a byte of it at least, and the output has a limit."""
    size = len(str(call.document["messages"]).encode())
    most: int = call.document["max_tokens"]
    return (size * INPUT_PRICE + most * OUTPUT_PRICE) / 1e6


def cost(_call: Call, reply: Reply) -> float | None:
    """Read `usage` as either vendor says it; of a stream that was left nothing is known."""
    said = vendors.documents(reply)
    usages = [found for one in said for found in (one.get("usage"), (one.get("message") or {}).get("usage")) if found]
    is_whole = any(one.get("choices") is not None or one.get("stop_reason") or one.get("type") == "message_stop" for one in said)
    merged = {name: value for usage in usages for name, value in usage.items()}
    if not merged or not is_whole:
        return None
    tokens_in = next(merged[name] for name in ("prompt_tokens", "input_tokens") if name in merged)
    tokens_out = next(merged[name] for name in ("completion_tokens", "output_tokens") if name in merged)
    found: float = (tokens_in * INPUT_PRICE + tokens_out * OUTPUT_PRICE) / 1e6
    return found


@dataclass(frozen=True)
class Sdk:
    """
    One SDK in one style.

    Attributes:
        package: What is imported.
        ask: Makes a request of the server at a URL.
    """

    name: str
    package: str
    ask: Callable[..., Any]

    @property
    def denied(self) -> Any:
        """What its 403 raises."""
        return import_module(self.package).PermissionDeniedError

    @property
    def connection(self) -> Any:
        """What it makes of an exception below it; None = it passes that on."""
        return import_module(self.package).APIConnectionError if self.package == "anthropic" else None


def _openai(url: str, **more: Any) -> Any:
    import openai

    with openai.OpenAI(api_key="sk", base_url=f"{url}/v1") as client:
        return _read(client.chat.completions.create(**ASKED, **more), more)


def _anthropic(url: str, **more: Any) -> Any:
    import anthropic

    with anthropic.Anthropic(api_key="sk", base_url=url) as client:
        return _read(client.messages.create(**ASKED, **more), more)


def _aopenai(url: str, **more: Any) -> Any:
    import openai

    async def main() -> Any:
        async with openai.AsyncOpenAI(api_key="sk", base_url=f"{url}/v1") as client:
            return await _aread(await client.chat.completions.create(**ASKED, **more), more)

    return asyncio.run(main())


def _aanthropic(url: str, **more: Any) -> Any:
    import anthropic

    async def main() -> Any:
        async with anthropic.AsyncAnthropic(api_key="sk", base_url=url) as client:
            return await _aread(await client.messages.create(**ASKED, **more), more)

    return asyncio.run(main())


def _read(answer: Any, more: dict[str, Any]) -> Any:
    return list(answer) if more.get("stream") else answer


async def _aread(answer: Any, more: dict[str, Any]) -> Any:
    return [one async for one in answer] if more.get("stream") else answer


def _aopenai_on_aiohttp(url: str, **more: Any) -> Any:
    import openai

    async def main() -> Any:
        async with openai.AsyncOpenAI(api_key="sk", base_url=f"{url}/v1", http_client=openai.DefaultAioHttpClient()) as client:
            return await _aread(await client.chat.completions.create(**ASKED, **more), more)

    return asyncio.run(main())


SDKS = [
    Sdk("openai", "openai", _openai),
    Sdk("async openai", "openai", _aopenai),
    Sdk("async openai on aiohttp", "openai", _aopenai_on_aiohttp),
    Sdk("anthropic", "anthropic", _anthropic),
    Sdk("async anthropic", "anthropic", _aanthropic),
]


@pytest.fixture(params=SDKS, ids=lambda sdk: sdk.name)
def sdk(request: pytest.FixtureRequest) -> Sdk:
    """Each SDK, blocking and awaited."""
    found: Sdk = request.param
    return found


@pytest.fixture
def server() -> Iterator[LlmServer]:
    """The stand-in."""
    with LlmServer() as found:
        yield found


@pytest.fixture
def guarded(server: LlmServer) -> Iterator[Callable[..., keyguard.Installation]]:
    """Register the stand-in's vendor and install with a cap."""

    def install(cap: float, on_refused: Literal["raise", "response"] = "response") -> keyguard.Installation:
        vendors.register(
            "llm", hosts=["api.openai.com", "api.anthropic.com"], cost=cost, on_refused=on_refused,
            operations={
                "POST /v1/chat/completions": vendors.Row(bound, name="chat.completions.create"),
                "POST /v1/messages": vendors.Row(bound, name="messages.create"),
            },
        )  # fmt: skip
        installed = keyguard.install("sqlite://", run_usd_cap=cap)
        context.set_vendor_hosts({server.host: "llm"})
        return installed

    with keyguard.run("run-1"):
        yield install
    keyguard.uninstall()
    vendors.unregister("llm")
    context.set_vendor_hosts({})


def _counted(installed: keyguard.Installation) -> tuple[int, int, int]:
    usage = installed.usage()
    return usage.spent, usage.held, usage.doubt


def _refusals(caplog: pytest.LogCaptureFixture) -> int:
    return sum(record.getMessage().startswith("refused llm ") for record in caplog.records)


def test_calls_are_settled_from_usage_and_the_refused_one_makes_one_attempt(
    server: LlmServer, guarded: Callable[..., keyguard.Installation], sdk: Sdk, caplog: pytest.LogCaptureFixture
) -> None:
    """Two calls fit and cost what their usage says; the third is the SDK's own 403, refused once, and nothing of it arrives."""
    installed = guarded(0.0018)
    sdk.ask(server.url)
    sdk.ask(server.url)
    with pytest.raises(sdk.denied, match="would pass the run_usd_cap") as caught:
        sdk.ask(server.url)
    refusal = keyguard.refusal_of(caught.value)

    assert _refusals(caplog) == 1
    assert len(server.requests) == 2
    assert _counted(installed) == (2 * TRUTH, 0, 0)
    assert isinstance(refusal, SpendCapExceeded)
    assert (refusal.cap, refusal.spent, refusal.run_id) == (1800, 2 * TRUTH, "run-1")


def test_a_stream_is_settled_from_the_usage_in_it(server: LlmServer, guarded: Callable[..., keyguard.Installation], sdk: Sdk) -> None:
    """The events are the caller's; the usage among them is the cost."""
    installed = guarded(0.01)
    more = {"stream_options": {"include_usage": True}} if "openai" in sdk.name else {}
    events = sdk.ask(server.url, stream=True, **more)

    assert len(events) >= len("abcde")
    assert _counted(installed) == (TRUTH, 0, 0)


def test_a_stream_without_usage_is_settled_at_its_bound(server: LlmServer, guarded: Callable[..., keyguard.Installation]) -> None:
    """OpenAI says no usage in a stream unless it was asked for: what was held is the cost, which is never less than the truth."""
    installed = guarded(0.01)
    _openai(server.url, stream=True)
    spent, held, doubt = _counted(installed)

    assert (held, doubt) == (0, 0)
    assert spent > TRUTH


@pytest.mark.parametrize("way", ["openai", "anthropic"])
def test_a_stream_that_is_left_is_settled_at_its_bound(server: LlmServer, guarded: Callable[..., keyguard.Installation], way: str) -> None:
    """Anthropic has named the input by then, and one token of output: that is not the whole cost, and is not taken for it."""
    installed = guarded(0.01)
    server.patience.clear()
    package = import_module(way)
    client: Any = (
        package.OpenAI(api_key="sk", base_url=f"{server.url}/v1")
        if way == "openai"
        else package.Anthropic(api_key="sk", base_url=server.url)
    )
    with client:
        create = client.chat.completions.create if way == "openai" else client.messages.create
        with create(**ASKED, stream=True) as stream:
            next(iter(stream))
            during = _counted(installed)
    spent, held, doubt = _counted(installed)

    assert (during[0], during[2]) == (0, 0)
    assert (spent, held, doubt) == (during[1], 0, 0)
    assert spent > TRUTH


def test_a_refused_stream_is_refused_alike(server: LlmServer, guarded: Callable[..., keyguard.Installation], sdk: Sdk) -> None:
    """Before the first event, as the SDK's own error."""
    guarded(0.0001)
    with pytest.raises(sdk.denied) as caught:
        sdk.ask(server.url, stream=True)

    assert isinstance(keyguard.refusal_of(caught.value), SpendCapExceeded)
    assert server.requests == []


def test_each_retry_of_the_sdk_is_held_for_by_itself(server: LlmServer, guarded: Callable[..., keyguard.Installation], sdk: Sdk) -> None:
    """A 429 gives its money back; a 500 is in doubt, beside the attempt that came through."""
    installed = guarded(0.02)
    server.scripted += [429, 500]
    sdk.ask(server.url)
    spent, held, doubt = _counted(installed)

    assert len(server.requests) == 3
    assert (spent, held) == (TRUTH, 0)
    assert doubt > TRUTH


def test_a_raised_refusal_is_what_the_sdk_makes_of_it(
    server: LlmServer, guarded: Callable[..., keyguard.Installation], sdk: Sdk, caplog: pytest.LogCaptureFixture
) -> None:
    """With `raise`, OpenAI 3 passes it on as itself; Anthropic tries twice more, in vain, and wraps it. It is found behind either."""
    guarded(0.0001, "raise")
    with pytest.raises(sdk.connection or SpendCapExceeded) as caught:
        sdk.ask(server.url)

    assert isinstance(keyguard.refusal_of(caught.value), SpendCapExceeded)
    assert server.requests == []
    assert _refusals(caplog) == (1 if sdk.connection is None else 3)


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("on_refused", ["raise", "response"])
def test_prefect_does_not_retry_what_was_refused(
    server: LlmServer, guarded: Callable[..., keyguard.Installation], on_refused: Literal["raise", "response"]
) -> None:
    """A task with retries is executed once, whether its SDK wrapped the refusal or made an error of its own of the answer."""
    from prefect import flow, task

    executed: list[Any] = []

    @task(retries=3, retry_delay_seconds=0, retry_condition_fn=retry_unless_refused)
    def ask() -> None:
        executed.append(keyguard.context.current_run())
        _anthropic(server.url)

    @flow
    def root() -> None:
        guarded(0.0001, on_refused)
        ask.submit().wait()

    root(return_state=True)

    assert len(executed) == 1
    assert server.requests == []
