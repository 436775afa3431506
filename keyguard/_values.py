"""How the values that cross module borders are made: frozen and slotted, cheap to define and to construct. Knows nothing of keyguard."""

from __future__ import annotations

from dataclasses import MISSING, Field, FrozenInstanceError, dataclass, field, fields
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_: Any) -> Any:
        """Do nothing: what it says is for type checkers."""
        return lambda decorator: decorator


_T = TypeVar("_T")
_INIT = """
def __init__(self, {arguments}):
    set_attribute(self, "__class__", twin)
    {stores}
    self.__class__ = cls
"""


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: type[_T]) -> type[_T]:
    """
    Make of a class what `dataclass(frozen=True, slots=True)` makes of it, in a quarter of the time; its objects are made in half of it.

    Dataclass compiles seven functions for each class, nearly a millisecond on a slow machine, and `import keyguard` defines
    thirty; here `__init__` is compiled, and all else is shared. It is a dataclass still: `fields`, `replace` and `match` know it.

    A frozen dataclass stores each field by `object.__setattr__`, about 100 ns a field, and a guarded call makes ten
    values of three to twelve fields. Here a new object is of an unfrozen twin class of the same layout
    while it is filled, which stores in 10 ns, and of its own class before anybody else can see it.

    Raises:
        TypeError: it has no field, or one that is made, left out or keyword-only at construction, or not compared.
    """
    made: Any = dataclass(init=False, repr=False, eq=False, slots=True)(cls)
    found = fields(made)
    is_plain = all(one.default_factory is MISSING and one.init and one.compare and not one.kw_only for one in found)
    if not found or not is_plain or hasattr(cls, "__post_init__"):
        raise TypeError(
            f"{cls.__name__}: fields that are made, left out or keyword-only at construction, or no field, need dataclass itself"
        )
    made.__init__ = _initializer(made, found)
    made.__setattr__, made.__delattr__ = _setattr, _delattr
    made.__repr__, made.__eq__, made.__hash__, made.__reduce__ = _repr, _eq, _hash, _reduce
    made._parts = attrgetter(*made.__match_args__)  # noqa: SLF001 -- an attribute of ours
    return made  # type: ignore[no-any-return]  # -- the same class with slots


def _initializer(cls: type, found: tuple[Field[Any], ...]) -> Any:
    defaults = {f"default_{one.name}": one.default for one in found if one.default is not MISSING}
    names = [one.name for one in found]
    text = _INIT.format(
        arguments=", ".join(f"{name}=default_{name}" if f"default_{name}" in defaults else name for name in names),
        stores="\n    ".join(f"self.{name} = {name}" for name in names),
    )
    twin = type(cls.__name__, (), {"__slots__": names})
    space: dict[str, Any] = {**defaults, "cls": cls, "twin": twin, "set_attribute": object.__setattr__}
    exec(text, space)  # noqa: S102 -- as dataclasses makes its own; the only input is names of fields
    made = space["__init__"]
    made.__annotations__ = {**{one.name: one.type for one in found}, "return": None}
    made.__qualname__, made.__module__ = f"{cls.__qualname__}.__init__", cls.__module__
    return made


# -- what all values share ---------------------------------------------------------------------------


def _repr(self: Any) -> str:
    shown = (f"{one.name}={getattr(self, one.name)!r}" for one in fields(self) if one.repr)
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _eq(self: Any, other: Any) -> Any:
    return self._parts(self) == self._parts(other) if type(other) is type(self) else NotImplemented


def _hash(self: Any) -> int:
    return hash((type(self), self._parts(self)))


def _reduce(self: Any) -> tuple[Any, ...]:
    return type(self), tuple(getattr(self, name) for name in self.__match_args__)


def _setattr(_self: Any, name: str, _value: Any) -> NoReturn:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _delattr(_self: Any, name: str) -> NoReturn:
    raise FrozenInstanceError(f"cannot delete field {name!r}")
