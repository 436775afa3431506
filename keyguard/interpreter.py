"""Whether this is the process's main interpreter: the only one that can be guarded. Imports nothing but errors, so that any can ask."""

from __future__ import annotations

from importlib import import_module

from keyguard.errors import ConfigurationError

# CPython's own module, by version: since 3.13, and before; what a Python without either has no subinterpreters to tell apart.
_MODULES = ("_interpreters", "_xxsubinterpreters")


def check_interpreter() -> None:
    """
    Refuse to arm a subinterpreter.

    Its modules are others than those the main interpreter patches, and what keyguard stands on is the process's, once:
    POSIX locks, hooks around a fork, extension modules that know one interpreter only.

    Raises:
        ConfigurationError: this is one.
    """
    for name in _MODULES:
        try:
            interpreters = import_module(name)
        except ImportError:
            continue
        if interpreters.get_current() != interpreters.get_main():
            raise ConfigurationError(
                "keyguard cannot be installed in a subinterpreter: its seams and its locks hold for a process's main interpreter only. "
                "Nothing is armed here, and calls of this interpreter are not guarded. Make them in the main interpreter, or in a process "
                "of their own that calls keyguard.install(); under mod_wsgi, set `WSGIApplicationGroup %{GLOBAL}`."
            )
        return
