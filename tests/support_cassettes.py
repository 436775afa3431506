"""Cassettes: what a stand-in's traffic is kept as, and how vcrpy writes and matches it. Starts nothing and asserts nothing.

What is kept of a request or reply is listed, so that nothing unforeseen gets into a file; ids, secrets and instants are
renamed one for one, each to a text of its own length, so that a new recording of the same traffic is the same file.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import vcr  # type: ignore[import-untyped]  # -- it has no types
import yaml  # type: ignore[import-untyped]  # -- it has no types
from vcr.serializers import yamlserializer  # type: ignore[import-untyped]  # -- it has no types

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

FOLDER = Path(__file__).parents[1] / "cassettes"


@dataclass(frozen=True, slots=True)
class Scenario:
    """
    What is asked of an SDK, in order; its cassette has the same name.

    Attributes:
        name: The file's stem.
        play: Makes the calls to a base URL; returns what the SDK returned or raised. The second argument is `given`.
        given: What the stand-in must know already (a card), as the cassette names it.
        prepare: Makes that at the stand-in before the recording, and returns its name there; None = it is known as it is.
    """

    name: str
    play: Callable[[str, str], list[Any]]
    given: str = ""
    prepare: Callable[[str], str] | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """
    Where cassettes come from.

    Attributes:
        name: The stand-in's; its cassettes are in the folder of that name.
        vendor: Whom it stands in for.
        sdk: The distribution that made the requests.
        version: Returns the stand-in's own version.
        running: Starts it, for the base URL of a context.
        scenarios: What is recorded.
        ids: Finds what is named anew, in the order of its coming; its first group is kept, and what follows becomes a number.
        plain: What is replaced by one text: instants, secrets.
        request_headers, reply_headers: The headers that are kept, beside the redacted authorization.
        changed: Said in each file of what was done to the traffic.
    """

    name: str
    vendor: str
    sdk: str
    version: Callable[[], str]
    running: Callable[[], AbstractContextManager[str]]
    scenarios: tuple[Scenario, ...]
    ids: re.Pattern[str]
    plain: Sequence[tuple[re.Pattern[str], str]]
    request_headers: tuple[str, ...] = ("Content-Type",)
    reply_headers: tuple[str, ...] = ("Content-Length", "Content-Type")
    changed: str = "ids, secrets and instants renamed; host replaced; headers cut down; authorization redacted"

    @property
    def folder(self) -> Path:
        """Its committed cassettes."""
        return FOLDER / self.name

    @property
    def host(self) -> str:
        """The host that its files name: RFC 2606 reserves `.invalid`, which resolves nowhere and is nobody's own."""
        return f"{self.name}.invalid"

    def path(self, scenario: Scenario) -> Path:
        """Return a scenario's committed cassette."""
        return self.folder / f"{scenario.name}.yaml"

    def player(self, **options: Any) -> Any:
        """Return a VCR that keeps and matches what these cassettes hold; the host and port never matter."""
        found = vcr.VCR(
            serializer="readable",
            match_on=("method", "scheme", "path", "query", "body"),
            before_record_request=self._kept_request,
            before_record_response=self._kept_reply,
            **options,
        )
        found.register_serializer("readable", Readable)
        return found

    def play(self, scenario: Scenario) -> tuple[list[Any], Any]:
        """Make a scenario's calls with nothing behind them but its cassette; returns what the SDK answered, and the cassette."""
        with self.player().use_cassette(self.path(scenario), record_mode="none") as cassette:
            return scenario.play(f"http://{self.host}", scenario.given), cassette

    def header(self, recorded_on: str) -> dict[str, str]:
        """Say where a recording comes from, in the recording itself."""
        return {
            "recorded_against": f"{self.name} {self.version()}, a stand-in on a loopback port; no live {self.vendor} took part",
            "recorded_with": f"{self.sdk} {version(self.sdk)}, vcrpy {version('vcrpy')}",
            "recorded_on": recorded_on,
            "changed": self.changed,
        }

    def renaming(self) -> Callable[[Any, dict[str, Any]], tuple[Any, dict[str, Any]]]:
        """Return the hook that renames what one cassette holds; lengths stay."""
        names: dict[str, str] = {}
        numbers: Counter[str] = Counter()

        def name(found: re.Match[str]) -> str:
            if found[0] not in names:
                numbers[found[1]] += 1
                names[found[0]] = f"{found[1]}{numbers[found[1]]:0{len(found[0]) - len(found[1])}d}"
            return names[found[0]]

        def renamed(text: str) -> str:
            for pattern, plain in self.plain:
                text = pattern.sub(plain, text)
            return self.ids.sub(name, text)

        def rename(request: Any, reply: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            request.uri = renamed(request.uri)
            if request.body is not None:
                request.body = renamed(request.body.decode())
            reply["body"]["string"] = renamed(reply["body"]["string"].decode()).encode()
            return request, reply

        return rename

    def _kept_request(self, request: Any) -> Any:
        """Name no host of the recording, and keep the listed headers; also applied to what is matched."""
        request.uri = urlsplit(request.uri)._replace(netloc=self.host).geturl()
        kept = {name: request.headers[name] for name in self.request_headers if name in request.headers}
        request.headers = {"Authorization": "REDACTED", **kept}
        return request

    def _kept_reply(self, reply: dict[str, Any]) -> dict[str, Any]:
        given = {name.lower(): value for name, value in reply["headers"].items()}
        reply["headers"] = {name: given[name.lower()] for name in self.reply_headers if name.lower() in given}
        return reply


class Readable:
    """vcrpy's YAML with the origin on top and bodies as blocks of text, so that people can read a diff of it."""

    deserialize = staticmethod(yamlserializer.deserialize)

    @staticmethod
    def serialize(cassette: dict[str, Any]) -> str:
        """Write one cassette."""
        top, rest = {"metadata": cassette["metadata"]}, {key: cassette[key] for key in ("interactions", "version")}
        # Two dumps of block mappings make one document.
        return "".join(yaml.dump(part, Dumper=_Blocks, width=140, sort_keys=part is rest) for part in (top, rest))


class _Blocks(yaml.SafeDumper):  # type: ignore[misc]  # -- its base has no types
    """Writes text of several lines as a block."""


def _text(dumper: Any, text: str) -> Any:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Blocks.add_representer(str, _text)
