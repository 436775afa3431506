"""The exception tree: its picture, and that every class survives being copied, pickled and rebuilt from its message."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from typing import TYPE_CHECKING, Any, cast

import cloudpickle
import httpx
import pytest
import stripe

from keyguard import errors
from keyguard.errors import KeyguardError, LedgerUnavailable, MissingExtra, Refused, SpendCapExceeded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def _tree(cls: type[KeyguardError]) -> Iterator[type[KeyguardError]]:
    """Walk a class and everything below it."""
    yield cls
    for child in cls.__subclasses__():
        yield from _tree(child)


CLASSES = sorted({cls for cls in _tree(KeyguardError) if cls.__module__ == errors.__name__}, key=lambda cls: cls.__name__)
every_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)


def _full(cls: type[KeyguardError]) -> KeyguardError:
    """Make an error with a value in every field, and a note, as code that re-raises may leave one."""
    error = cls("refused: $20.00 asked, ümlaut and\nsecond line", **{name: f"value of {name}" for name in cls._fields})
    error.__dict__["added_by_user"] = 7
    return error


def _state(error: BaseException) -> tuple[Any, ...]:
    return type(error), str(error), error.args, error.__dict__


def _by_cloudpickle(error: KeyguardError) -> KeyguardError:
    return cast("KeyguardError", pickle.loads(cloudpickle.dumps(error)))


COPIES: dict[str, Callable[[KeyguardError], KeyguardError]] = {"copy": copy.copy, "deepcopy": copy.deepcopy, "cloudpickle": _by_cloudpickle}


@every_class
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_keeps_everything(cls: type[KeyguardError], protocol: int) -> None:
    """Class, message and every field come back, in each pickle protocol."""
    error = _full(cls)

    assert _state(pickle.loads(pickle.dumps(error, protocol))) == _state(error)


@every_class
@pytest.mark.parametrize("way", COPIES)
def test_copies_keep_everything(cls: type[KeyguardError], way: str) -> None:
    """Copy, deepcopy and cloudpickle give an equal error, not the same one."""
    error = _full(cls)
    copied = COPIES[way](error)

    assert copied is not error
    assert _state(copied) == _state(error)


@every_class
def test_message_alone_rebuilds(cls: type[KeyguardError]) -> None:
    """`cls(str(error))` is how Prefect's JSON serializer rebuilds one: same class and message, empty fields."""
    rebuilt = cls(str(_full(cls)))

    assert (type(rebuilt), str(rebuilt)) == (cls, str(_full(cls)))
    assert {name: getattr(rebuilt, name) for name in cls._fields} == dict.fromkeys(cls._fields)


@every_class
def test_no_message_is_needed(cls: type[KeyguardError]) -> None:
    """A bare class is an error with an empty message, so that `raise cls` works."""
    assert str(cls()) == ""


@every_class
def test_unknown_fields_are_refused(cls: type[KeyguardError]) -> None:
    """A misspelt field is a TypeError that names class and field, not a silent loss."""
    with pytest.raises(TypeError, match=f"{cls.__name__} has no field decison, zzz"):
        cls("m", zzz=1, decison=2)


@every_class
def test_says_what_it_is(cls: type[KeyguardError]) -> None:
    """Each class has its own docstring and a one-word reason for spans."""
    assert cls.__doc__ != KeyguardError.__doc__ or cls is KeyguardError
    assert re.fullmatch(r"[a-z_]+", cls.reason)


@every_class
def test_fields_are_declared(cls: type[KeyguardError]) -> None:
    """Every field has a type that checkers can see, its own or inherited."""
    declared = {name for base in cls.__mro__ for name in inspect.get_annotations(base)}

    assert set(cls._fields) <= declared
    assert len(set(cls._fields)) == len(cls._fields)


@every_class
def test_no_class_is_a_vendors(cls: type[KeyguardError]) -> None:
    """`except stripe.StripeError` and `except httpx.HTTPError` never swallow a refusal."""
    foreign = {base.__module__.partition(".")[0] for base in cls.__mro__} - {"keyguard", "builtins"}

    assert foreign == set()
    assert not issubclass(cls, (stripe.StripeError, httpx.HTTPError, httpx.StreamError, OSError))


def test_the_drawn_tree_is_the_real_one() -> None:
    """The picture in the module's docstring names every class below its true parent, and no other."""
    assert _drawn() == {cls.__name__: next(base.__name__ for base in cls.__bases__ if base.__name__ != "ImportError") for cls in CLASSES
                        if cls is not KeyguardError}  # fmt: skip


def _drawn() -> dict[str, str]:
    """Read the picture: class name → name of the class that it hangs on."""
    parents: dict[str, str] = {}
    above: list[str] = ["KeyguardError"]
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"    ([ │]*)[├└]─ (.*)", line)
        if found is None:
            continue
        depth = len(found[1]) // 3
        # A line names one class and explains it after two spaces, or several between middle dots.
        names = found[2].partition("  ")[0].split(" · ")
        del above[depth + 1 :]
        parents |= dict.fromkeys(names, above[depth])
        above.append(names[-1])
    return parents


def test_two_branches_never_meet() -> None:
    """What must not be retried (Refused) and what may be (BackendError, ConfigurationError) share no class."""
    kinds = [errors.Refused, errors.BackendError, errors.ConfigurationError]
    counts = {cls.__name__: sum(issubclass(cls, kind) for kind in kinds) for cls in CLASSES if cls is not KeyguardError}

    assert set(counts.values()) == {1}


def test_reasons_differ_where_meanings_do() -> None:
    """Only the four duplicate refusals, and the two configuration errors, share a reason."""
    shared = [cls.reason for cls in CLASSES if sum(other.reason == cls.reason for other in CLASSES) > 1]

    assert sorted(shared) == ["configuration"] * 2 + ["duplicate"] * 4


def test_fields_of_a_cap_refusal() -> None:
    """A SpendCapExceeded carries the figures of its scope beside those of every refusal."""
    error = SpendCapExceeded("no", scope="run:r", cap=5, spent=3, remaining=2, key_id="k", operation="payment_intents.create")

    assert (error.scope, error.cap, error.spent, error.remaining, error.held) == ("run:r", 5, 3, 2, None)
    assert (error.key_id, error.operation, error.run_id) == ("k", "payment_intents.create", None)
    assert isinstance(error, Refused)


def test_a_missing_extra_is_an_import_error() -> None:
    """Code that guards optional imports with `except ImportError` sees it."""
    with pytest.raises(ImportError, match="pip install"):
        raise MissingExtra("pip install 'keyguard[stripe]'")


def test_the_cause_is_not_carried() -> None:
    """A pickled error leaves its cause behind: a cause may hold a client, a lock or a secret."""
    error = LedgerUnavailable("disk full")
    error.__cause__ = ValueError("sk_test_12345")
    pickled = pickle.dumps(error)

    assert b"sk_test_12345" not in pickled
    assert pickle.loads(pickled).__cause__ is None
