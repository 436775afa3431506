"""Subinterpreters are refused: driven in real ones, in a process of their own, by whichever module this Python has."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import keyguard
from keyguard import interpreter
from keyguard.errors import ConfigurationError

# Runs `code` in a new subinterpreter, which writes its answer to the file `answer`: what it raises takes another form in each Python.
_RUN = """
import os, sys
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
made = interpreters.create()
outcome = interpreters.run_string(made, sys.argv[1])
assert outcome is None, outcome
# Not by the interpreter's own end, in which 3.12.1 frees what a subinterpreter that imported `typing` has freed.
os._exit(0)
"""
_ASK = """
import json, sys, types
from pathlib import Path
said = "nothing"
try:
{code}
except Exception as error:
    said = [type(error).__name__, str(error)]
Path({answer!r}).write_text(json.dumps(said))
"""
# Without the package's own imports: some of its dependencies do not load in a subinterpreter of every Python.
_CHECK = """
    package = sys.modules["keyguard"] = types.ModuleType("keyguard")
    package.__path__ = [{folder!r}]
    from keyguard.interpreter import check_interpreter
    check_interpreter()
"""
_INSTALL = """
    import keyguard
    keyguard.install("sqlite://", run_usd_cap=1)
"""
_ISSUE = """
    import keyguard
    keyguard.issue("sqlite://", run_usd_cap=1)
"""


def _in_subinterpreter(code: str, answer: Path) -> tuple[str, str]:
    folder = str(Path(keyguard.__file__).parent)
    asking = _ASK.format(code=code.format(folder=folder) if "{folder" in code else code, answer=str(answer))
    done = subprocess.run([sys.executable, "-c", _RUN, asking], capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stderr
    name, message = json.loads(answer.read_text(encoding="utf-8"))
    return name, message


def test_the_check_refuses_in_a_subinterpreter(tmp_path: Path) -> None:
    """It says why, and what to do."""
    name, message = _in_subinterpreter(_CHECK, tmp_path / "answer")

    assert name == "ConfigurationError"
    assert "subinterpreter" in message
    assert "main interpreter" in message


@pytest.mark.parametrize("code", [_INSTALL, _ISSUE], ids=["install", "issue"])
def test_nothing_is_armed_in_a_subinterpreter(tmp_path: Path, code: str) -> None:
    """By our own refusal, or because what keyguard imports refuses first."""
    name, message = _in_subinterpreter(code, tmp_path / "answer")

    assert name in {"ConfigurationError", "ImportError"}
    assert "interpreter" in message


def test_the_main_interpreter_is_let_pass() -> None:
    """Also by a thread of it."""
    interpreter.check_interpreter()


def test_a_python_that_knows_no_subinterpreters_is_let_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no module to ask, there is none to refuse."""
    monkeypatch.setattr(interpreter, "_MODULES", ("no_such_module",))
    interpreter.check_interpreter()


def test_the_older_modules_answers_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever an id is made of, another one than the main interpreter's is refused."""
    monkeypatch.setitem(sys.modules, "_interpreters", SimpleNamespace(get_current=lambda: (1, 2), get_main=lambda: (0, 1)))
    with pytest.raises(ConfigurationError, match="mod_wsgi"):
        interpreter.check_interpreter()
