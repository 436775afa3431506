"""The cassettes' files, of every stand-in: they play without the guard, hold no secret, say where they are from, and stay true."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import stripe
from resend.exceptions import ResendError

from tests.record_cassettes import ORIGINS, put
from tests.support_cassettes import FOLDER, Origin, Readable, Scenario
from tests.support_node import Missing, skip_or_fail

if TYPE_CHECKING:
    from pathlib import Path

CASES = [(origin, scenario) for origin in ORIGINS.values() for scenario in origin.scenarios]
each_case = pytest.mark.parametrize(("origin", "scenario"), CASES, ids=[f"{origin.name}/{scenario.name}" for origin, scenario in CASES])

_SECRETS = re.compile(
    r"\b[sprw]k_|\bre_(?!0)\w{8}|\b[0-9a-f]{32}\b|vault_key_|bearer|basic |\b[1-9]\d{12,18}\b|_secret_(?!0{16}\b)|127\.0\.0\.1",
    re.IGNORECASE,
)


def interactions(path: Path) -> list[dict[str, Any]]:
    """Return a file's interactions as they are written."""
    found: list[dict[str, Any]] = Readable.deserialize(path.read_text(encoding="utf-8"))["interactions"]
    return found


def said(answer: Any) -> Any:
    """Return the JSON that an answer of an SDK was made from."""
    if isinstance(answer, stripe.StripeError):
        return answer.json_body
    if isinstance(answer, ResendError):
        return {"statusCode": answer.code, "message": answer.message}
    plain = answer.to_dict() if hasattr(answer, "to_dict") else answer
    return {name: value for name, value in plain.items() if name != "http_headers"}


def bodies(cassette: Any) -> list[Any]:
    """Return the JSON of a cassette's replies; of an error of Resend's what its SDK hands on."""
    found = [json.loads(reply["body"]["string"]) for reply in cassette.responses]
    return [{name: body[name] for name in ("statusCode", "message")} if "statusCode" in body else body for body in found]


@each_case
def test_each_cassette_plays_without_the_guard(origin: Origin, scenario: Scenario) -> None:
    """The same calls, unguarded, get the same answers, each once: what the guard changes in other tests is nothing."""
    answers, cassette = origin.play(scenario)

    assert [said(answer) for answer in answers] == bodies(cassette)
    assert (cassette.all_played, set(cassette.play_counts.values())) == (True, {1})


def test_every_file_is_a_scenarios() -> None:
    """No file lies in the folder that no test replays."""
    assert {path for path in FOLDER.rglob("*") if path.is_file()} == {origin.path(scenario) for origin, scenario in CASES}


@each_case
def test_no_cassette_holds_a_secret(origin: Origin, scenario: Scenario) -> None:
    """No key, no token, no card number, nobody's address, no client secret but its placeholder, no header not listed, no real host."""
    path = origin.path(scenario)
    text, recorded = path.read_text(encoding="utf-8"), interactions(path)
    secrets = _SECRETS.findall(text)
    hosts = re.findall(r"api\.(?:stripe|resend|twilio)\.com", text)

    assert (secrets, hosts) == ([], [])
    assert set(re.findall(r"@[\w.-]+", text)) <= {"@example.com"}
    assert {name for each in recorded for name in each["request"]["headers"]} <= {"Authorization", *origin.request_headers}
    assert {name for each in recorded for name in each["response"]["headers"]} <= set(origin.reply_headers)
    assert {value for each in recorded for value in each["request"]["headers"]["Authorization"]} == {"REDACTED"}


@each_case
def test_each_cassette_says_what_it_was_recorded_against(origin: Origin, scenario: Scenario) -> None:
    """The first lines name the stand-in, the SDK and the day; and all requests went to a host that cannot exist."""
    text = origin.path(scenario).read_text(encoding="utf-8")
    found = Readable.deserialize(text)

    assert text.startswith(f"metadata:\n  recorded_against: {origin.name} ")
    assert f"no live {origin.vendor}" in found["metadata"]["recorded_against"]
    assert re.fullmatch(rf"{origin.sdk} \d+\.\S+, vcrpy \d+\.\S+", found["metadata"]["recorded_with"])
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", found["metadata"]["recorded_on"])
    assert {each["request"]["uri"].split("/")[2] for each in found["interactions"]} == {origin.host}


@each_case
def test_renaming_kept_the_length_of_each_reply(origin: Origin, scenario: Scenario) -> None:
    """Each body is as long as the recorded Content-Length says, where it is kept."""
    for reply in (each["response"] for each in interactions(origin.path(scenario))):
        said_length = reply["headers"].get("Content-Length")

        assert said_length is None or len(reply["body"]["string"]) == int(said_length[0])


def _recorded(name: str, into: Path) -> str:
    """Record a stand-in's cassettes anew, into a folder; returns what was printed."""
    command = [sys.executable, "-m", "tests.record_cassettes", "--into", str(into), name]
    return subprocess.run(command, cwd=FOLDER.parent, capture_output=True, text=True, timeout=60, check=True).stdout


def _check_recording(name: str, into: Path) -> None:
    first, second = _recorded(name, into), _recorded(name, into)

    for committed in sorted((FOLDER / name).iterdir()):
        assert interactions(into / name / committed.name) == interactions(committed)
    assert (first.count(": written"), second.count(": unchanged")) == (len(ORIGINS[name].scenarios),) * 2


@pytest.mark.timeout(130)
def test_a_new_recording_is_the_committed_one(tmp_path: Path) -> None:
    """The script, run against a real localstripe, records the same interactions; run on its own output it changes nothing."""
    _check_recording("localstripe", tmp_path)


@pytest.mark.peers
@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", sorted(set(ORIGINS) - {"localstripe"}))
def test_a_new_recording_of_a_peer_is_the_committed_one(name: str, tmp_path: Path) -> None:
    """The same against the stand-ins from npm."""
    try:
        ORIGINS[name].version()
    except Missing as missing:
        skip_or_fail(missing)
    _check_recording(name, tmp_path)


@pytest.mark.parametrize(
    ("pattern", "text", "done"),
    [(r"recorded_on: .*", "recorded_on: '2020-01-01'", "unchanged"), ('"succeeded"', '"processing"', "written")],
    ids=["date", "traffic"],
)
def test_a_new_date_alone_rewrites_nothing(tmp_path: Path, pattern: str, text: str, done: str) -> None:
    """The same traffic recorded on another day leaves the file as it is, its date too; other traffic replaces it."""
    new = (FOLDER / "localstripe" / "success.yaml").read_text(encoding="utf-8")
    kept = re.sub(pattern, text, new)
    paths = tmp_path / "new.yaml", tmp_path / "old.yaml"
    for path, written in zip(paths, (new, kept), strict=True):
        path.write_text(written, encoding="utf-8")

    assert new != kept
    assert put(*paths) == done
    assert paths[1].read_text(encoding="utf-8") == (kept if done == "unchanged" else new)
