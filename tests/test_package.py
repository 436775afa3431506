"""The package as a whole: its exports, what importing it loads and costs, and which way its imports go."""

from __future__ import annotations

import ast
import importlib
import json
import os
import subprocess
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import keyguard

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(keyguard.__file__).parent

# Rungs (DESIGN.md §3): a file imports only from lower ones. `name.*` is every other file of a plug folder.
RUNGS = {
    "_values": -1,
    "fx": 0,
    "rules": 0,
    "model": 0,
    "errors": 1,
    "refusals": 1,
    "interpreter": 1,
    "context": 1,
    "policy": 1,
    "identity": 1,
    "slots": 1,
    "inheriting": 1,
    "narrowing": 1,
    "remote": 1,
    "guard": 2,
    "drivers": 3,
    "ledgers": 2,
    "vendors": 2,
    "routing": 3,
    "patches": 2,
    "backends": 2,
    "ledgers.*": 3,
    "vendors.*": 3,
    "patches.*": 3,
    "backends.*": 4,
    "telemetry": 4,
    "settings": 5,
    "joining": 5,
    "payer": 5,
    "handler": 5,
    "guarding": 5,
    "install": 5,
    "threads": 4,
    "prefect": 6,
    "proxy": 6,
    "cli": 6,
    "crashtest": 6,
    "demo": 6,
    "doubts": 6,
    "testing": 6,
    "": 6,
}
PLUG_FOLDERS = ("ledgers", "vendors", "patches", "backends")


# -- exports ---------------------------------------------------------------------------------------


def test_exports_are_sorted_and_importable() -> None:
    """`__all__` is sorted as ruff sorts it, names nothing twice, and each name is there."""
    names = keyguard.__all__

    assert names == sorted(names)
    assert len(names) == len(set(names))
    assert [name for name in names if not hasattr(keyguard, name)] == []


def test_exports_are_few() -> None:
    """Twenty names at most are what a user must learn."""
    assert 13 <= len(keyguard.__all__) <= 20


def test_exports_are_all_that_is_public() -> None:
    """What can be imported without an underscore is exported, or a module."""
    public = {name for name, value in vars(keyguard).items() if not name.startswith("_") and not isinstance(value, type(sys))}

    assert public - {"annotations"} == set(keyguard.__all__)


def test_each_export_is_described() -> None:
    """`help()` of every exported name says what it does."""
    assert [name for name in keyguard.__all__ if not getattr(keyguard, name).__doc__] == []


def test_version_is_the_metadatas() -> None:
    """One place says the version."""
    assert keyguard.__version__ == version("keyguard")


def test_the_package_says_it_is_typed() -> None:
    """Type checkers of users read our annotations."""
    assert (ROOT / "py.typed").is_file()


# -- what an import loads and costs ----------------------------------------------------------------


def _python(code: str, **variables: str) -> Any:
    """Run code in a fresh interpreter, with more variables of the environment, and read the JSON that it prints."""
    # Bytecode is kept, as where keyguard is installed: else each import would be timed with its compilation.
    # And without a coverage tool, which brings modules of its own.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE" and not name.startswith("COVERAGE")}
    env |= variables
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], env=env, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_import_loads_nothing_optional() -> None:
    """No vendor SDK, driver, Prefect, command line, OTel SDK or pytest comes with `import keyguard`, nor the SQLite engine."""
    loaded = _python("import json, sys, keyguard; print(json.dumps(sorted(sys.modules)))")
    optional = {
        "aiohttp", "apsw", "httpx", "localstripe", "opentelemetry.sdk", "prefect", "psycopg", "pytest", "redis", "requests", "resend",
        "rich", "sqlite3", "starlette", "stripe", "twilio", "typer", "urllib3", "uvicorn",
    }  # fmt: skip

    assert sorted(name for name in loaded if name in optional) == []


def test_doubts_are_loaded_when_they_are_asked_for() -> None:
    """`keyguard.doubts` needs no import of its own, and costs none: it comes with its first use, an HTTP client when somebody is asked."""
    code = (
        "import json, sys, keyguard; before = 'keyguard.doubts' in sys.modules; keyguard.doubts.listed; after = 'httpx' in sys.modules; "
        "print(json.dumps([before, 'keyguard.doubts' in sys.modules, after, hasattr(keyguard, 'doubt')]))"
    )

    assert _python(code) == [False, True, False, False]


def test_import_alone_arms_nothing() -> None:
    """Importing keyguard patches no client and starts no thread."""
    code = (
        "import json, threading, stripe, httpx; a = [stripe.HTTPClient._request_with_retries_internal, httpx.Client._send_single_request]; "
    )
    code += "import keyguard; b = [stripe.HTTPClient._request_with_retries_internal, httpx.Client._send_single_request]; "
    code += "print(json.dumps([[x is y for x, y in zip(a, b)], threading.active_count()]))"

    assert _python(code) == [[True, True], 1]


def test_import_is_quick(tmp_path: Path) -> None:
    """The import takes at most a quarter of the processor time of its dependencies' (best of five; the bench has the aim in ms).

    Not by the clock: among other tests each of our files waits for its turn, and theirs, of which one is large and compiled, wait less.
    """
    # A checkout that cannot be written to keeps no bytecode.
    cached = {"PYTHONPYCACHEPREFIX": str(tmp_path)}
    code = "import json, sys; before = set(sys.modules); import keyguard; print(json.dumps([m for m in sys.modules if m not in before]))"
    foreign = [name for name in _python(code, **cached) if name.partition(".")[0] != "keyguard"]
    code = (
        f"import importlib, json, time\ntimes = [time.process_time()]\nfor name in {foreign!r}:\n    try: importlib.import_module(name)\n"
        "    except ImportError: pass\n"
        "times.append(time.process_time()); import keyguard; times.append(time.process_time())\n"
        "print(json.dumps([(after - before) * 1000 for before, after in zip(times, times[1:])]))"
    )
    theirs, own = min((_python(code, **cached) for _ in range(5)), key=lambda times: times[1] / times[0])
    print(f"import keyguard: {own:.1f} ms, {own / theirs:.2f} of the {theirs:.0f} ms of its dependencies")

    assert own <= theirs / 4


# -- layers ----------------------------------------------------------------------------------------


@cache
def _files() -> dict[str, Path]:
    """Name every module of the package by its dotted name below `keyguard`; the package itself is ""."""
    files = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


def _rung(name: str) -> int:
    folder, _, plug = name.partition(".")
    return RUNGS[f"{folder}.*" if plug and folder in PLUG_FOLDERS else folder]


def _imports(tree: ast.AST, *, nested: bool = True) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield imports that run, those inside functions if `nested`; what only type checkers see is left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from _imports(ast.Module(node.orelse, []), nested=nested)
        elif nested or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _imports(node, nested=nested)


@cache
def _edges(*, nested: bool) -> dict[str, set[str]]:
    """Say which modules of ours each module imports."""
    return {name: set(_targets(name, nested=nested)) - {name} for name in _files()}


def _targets(name: str, *, nested: bool) -> Iterator[str]:
    for node in _imports(ast.parse(_files()[name].read_text(encoding="utf-8")), nested=nested):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        else:
            assert node.level == 0, f"keyguard.{name}: relative import"
            # `from keyguard import context` may name modules or names of the package.
            found = [f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}".partition(".")[2] in _files() else str(node.module)
                     for alias in node.names]  # fmt: skip
        yield from (_ours(module) for module in found if module.partition(".")[0] == "keyguard")


def _ours(module: str) -> str:
    name = module.partition(".")[2]
    return name if name in _files() else name.rpartition(".")[0]


def test_every_file_has_a_rung() -> None:
    """A new file is put on a rung before it is written; the table names no file that is gone."""
    tops = {name.partition(".")[0] for name in _files()}

    assert tops == {name.partition(".")[0] for name in RUNGS}


# Rung 6 is loaded by rung 5 in two places, inside a function: where Prefect is (DESIGN.md §7), and where a vendor is asked about a call
# that every retry would find as it is (§6); the maker of generic vendors, which belongs to the folder of vendors and is no plug, only
# where one is made.
ALLOWED_UPWARDS = {("install", "prefect"), ("handler", "doubts._at_once"), ("vendors", "vendors._generic")}


@pytest.mark.parametrize("name", sorted(_files()), ids=lambda name: name or "keyguard")
def test_imports_go_down(name: str) -> None:
    """A file imports only from lower rungs, companions of its own plug and neighbours of its own rung that do not import it."""
    wrong = {target for target in _edges(nested=True)[name] if _rung(target) > _rung(name) and (name, target) not in ALLOWED_UPWARDS}

    assert wrong == set()


@pytest.mark.parametrize("pair", sorted(ALLOWED_UPWARDS))
def test_exceptions_are_lazy(pair: tuple[str, str]) -> None:
    """What may be imported upwards is imported inside a function."""
    assert pair[1] in _edges(nested=True)[pair[0]]
    assert pair[1] not in _edges(nested=False)[pair[0]]


def _plug(name: str) -> str:
    """Name the plug that a file of a plug folder belongs to: `_stripe_money` is a companion of `stripe`, `_proof` belongs to the folder."""
    folder, _, file = name.partition(".")
    owner = f"{folder}.{file.removeprefix('_').partition('_')[0]}"
    return owner if owner in _files() else folder


def test_plugs_never_import_each_other() -> None:
    """One plug knows its own companions and what its folder shares; never another vendor, ledger, client or backend."""
    plugs = {name for name in _files() if name.partition(".")[0] in PLUG_FOLDERS and "." in name}
    pairs = [(name, target) for name in plugs for target in _edges(nested=True)[name] & plugs]

    assert [(name, target) for name, target in pairs if _plug(target) not in {_plug(name), name.partition(".")[0]}] == []


def test_contracts_do_not_import_their_plugs() -> None:
    """A contract looks its plugs up by name, so that a new plug is one new file."""
    wrong = [
        (name, target)
        for name in PLUG_FOLDERS
        for target in _edges(nested=True)[name]
        if target.startswith(f"{name}.") and (name, target) not in ALLOWED_UPWARDS
    ]

    assert wrong == []


def test_there_are_no_cycles() -> None:
    """No file is reached again by following the imports that run when it is loaded."""
    edges = _edges(nested=False)
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " → ".join((*path, name))
        if name not in done:
            for target in sorted(edges[name]):
                visit(target, (*path, name))
            done.add(name)

    for name in sorted(edges):
        visit(name, ())

    assert done == set(edges)


@pytest.mark.parametrize("name", sorted(_files()), ids=lambda name: name or "keyguard")
def test_every_file_says_what_it_holds(name: str) -> None:
    """The first line of a file says what may live in it."""
    tree = ast.parse(_files()[name].read_text(encoding="utf-8"))

    assert ast.get_docstring(tree)


def test_every_module_can_be_imported_alone() -> None:
    """Each file of the core is importable, whatever was imported before."""
    core = [name for name in _files() if _rung(name) < 6]

    assert [name for name in core if importlib.import_module(f"keyguard.{name}") is None] == []
