"""Parameter rules: what one field of a request may say. Values and pure comparison; knows no vendor and counts nothing.

Fields are named as the vendor documents them, whatever the encoding on the wire: `amount`, `To`, and for what lies deeper
`metadata[team]`, `items[*][price]`, where `[*]` stands for every place of a list. A rule on a field that holds a list is a rule
on every value in it, and in a batch (a JSON list) on every member of the batch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyguard.model import Pairs

_Meet: TypeAlias = "Callable[[str, str], str | None]"
_PLACE = re.compile(r"\[\d*\]")
_MEMBER = re.compile(r"\[(\d+)\]")
_NUMBER = re.compile(r"-?\d{1,30}(\.\d{1,30})?", re.ASCII)
_FIELD = re.compile(r"[A-Za-z_][\w.-]*(\[[^\[\]]*\])*", re.ASCII)
# What may stand in an error's text: words, currencies and ids; no telephone number and no address.
_SHOWABLE = re.compile(r"[A-Za-z_][\w.]{0,60}|-?\d{1,6}", re.ASCII)
FORM = "a list of the values allowed, or a table with any_of, prefix, suffix, min, max, default, optional or absent"


def _texts(value: object) -> object:
    """Return what was given as the texts that a request would carry."""
    given = cast("Iterable[object]", value) if isinstance(value, list | tuple | set | frozenset) else (value,)
    found = tuple(_text(one) for one in given)
    if not found:
        raise ValueError("expected at least one value; to let nothing through, use absent = true")
    return found


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | Decimal):
        return str(value)
    raise ValueError(f"expected a text or a whole number, got {type(value).__name__}")


def _bound(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str) or not _NUMBER.fullmatch(str(value)):
        raise ValueError("expected a number such as 5000, in the unit of the field itself (cents, for a Stripe amount)")
    return Decimal(str(value))


def _one(value: object) -> object:
    return _text(value)


_One = Annotated[str, BeforeValidator(_one)]
_Texts = Annotated[tuple[str, ...], BeforeValidator(_texts)]
_Bound = Annotated[Decimal, BeforeValidator(_bound)]


class Rule(BaseModel):
    """
    What a field may say; all that is set must hold, for every value.

    Attributes:
        any_of: The values allowed, as text; a bare list in a policy means this.
        prefix: What a value must begin with, one of these.
        suffix: What a value must end with, one of these.
        min, max: Bounds, both inclusive, in the unit of the field itself. A value that is no plain number is outside.
        default: What is added to a form that leaves the field out, where the call goes through the vendor's SDK (`TimeLimit` of
            a phone call, so that its cost is bounded). A raw request leaves as it was written, or not at all.
        optional: The field may be left out. It may not by default: left out, a vendor often means "all".
        absent: The field, and all below it, must be left out.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    any_of: _Texts | None = None
    prefix: _Texts | None = None
    suffix: _Texts | None = None
    min: _Bound | None = None
    max: _Bound | None = None
    default: _One | None = None
    optional: bool = False
    absent: bool = False

    @property
    def conditions(self) -> frozenset[str]:
        """The names of what is set beside `optional`."""
        return frozenset(name for name in ("any_of", "prefix", "suffix", "min", "max", "default") if getattr(self, name) is not None)

    def fits(self, value: str) -> bool:
        """Say whether one value may be sent."""
        return (
            (self.any_of is None or value in self.any_of)
            and (self.prefix is None or value.startswith(self.prefix))
            and (self.suffix is None or value.endswith(self.suffix))
            and ((self.min is None and self.max is None) or self._is_between(value))
        )

    def _is_between(self, value: str) -> bool:
        if not _NUMBER.fullmatch(value):
            return False
        number = Decimal(value)
        return (self.min is None or self.min <= number) and (self.max is None or number <= self.max)

    def both(self, other: Rule) -> Rule:
        """Return the rule that lets through what both let through."""
        return Rule.model_construct(
            any_of=_common(self.any_of, other.any_of, _same),
            prefix=_common(self.prefix, other.prefix, _longer_prefix),
            suffix=_common(self.suffix, other.suffix, _longer_suffix),
            min=max((bound for bound in (self.min, other.min) if bound is not None), default=None),
            max=min((bound for bound in (self.max, other.max) if bound is not None), default=None),
            default=next(
                (text for text in (self.default, other.default) if text is not None and self.fits(text) and other.fits(text)), None
            ),
            optional=self.optional and other.optional,
            absent=self.absent or other.absent,
        )

    def stored(self) -> dict[str, Any]:
        """Return the plain form that `restored` reads back: only what is set."""
        texts = {name: list(values) for name in ("any_of", "prefix", "suffix") if (values := getattr(self, name)) is not None}
        bounds = {name: str(bound) for name in ("min", "max") if (bound := getattr(self, name)) is not None}
        bounds |= {"default": self.default} if self.default is not None else {}
        return texts | bounds | {name: True for name in ("optional", "absent") if getattr(self, name)}

    @classmethod
    def restored(cls, fields: Mapping[str, Any]) -> Rule:
        """Rebuild a rule from its stored form, which may let nothing through (two rules that exclude each other)."""
        read: dict[str, Any] = {
            name: tuple(cast("list[str]", value)) if isinstance(value, list) else value for name, value in fields.items()
        }
        read |= {name: Decimal(read[name]) for name in ("min", "max") if name in read}
        return cls.model_construct(None, **read)

    def __str__(self) -> str:
        if self.absent:
            return "left out"
        lists = (("one of", self.any_of), ("beginning with", self.prefix), ("ending with", self.suffix))
        words = [f"{word} {_shown(values)}" for word, values in lists if values is not None]
        words += [f"{word} {bound}" for word, bound in (("at least", self.min), ("at most", self.max)) if bound is not None]
        return " and ".join(words) or "given"


def _common(mine: tuple[str, ...] | None, theirs: tuple[str, ...] | None, meet: _Meet) -> tuple[str, ...] | None:
    if mine is None or theirs is None:
        return theirs if mine is None else mine
    return tuple(dict.fromkeys(met for one in mine for other in theirs if (met := meet(one, other)) is not None))


def _same(mine: str, theirs: str) -> str | None:
    return mine if mine == theirs else None


def _longer_prefix(mine: str, theirs: str) -> str | None:
    return mine if mine.startswith(theirs) else theirs if theirs.startswith(mine) else None


def _longer_suffix(mine: str, theirs: str) -> str | None:
    return mine if mine.endswith(theirs) else theirs if theirs.endswith(mine) else None


def _shown(values: tuple[str, ...]) -> str:
    if all(_SHOWABLE.fullmatch(value) for value in values):
        return ", ".join(values) or "nothing"
    return f"{len(values)} values that the policy names"


def _read_rule(value: object) -> object:
    """Read the short forms: a list, or a single value."""
    if isinstance(value, Rule) or not isinstance(value, Mapping | list | tuple | set | frozenset | str | int):
        return value
    found = Rule.model_validate(cast("object", value) if isinstance(value, Mapping) else {"any_of": value})
    if not found.conditions and not found.absent:
        raise ValueError(f"a rule says nothing; expected {FORM}")
    if found.absent and (found.conditions or found.optional):
        raise ValueError("a field that must be absent can have no other condition")
    if found.default is not None and not found.fits(found.default):
        raise ValueError(f"its default does not fit it: it must be {found}")
    return found


def _check_field(name: str) -> str:
    if not _FIELD.fullmatch(name):
        raise ValueError(f"expected a field such as amount, metadata[team] or items[*][price], got {name!r}")
    return _PLACE.sub("[*]", name)


def _check_defaults(rules: dict[str, Rule]) -> dict[str, Rule]:
    for field, rule in rules.items():
        if rule.default is not None and "[*]" in field:
            raise ValueError(f"{field} can have no default: nobody could say at which place")
    return rules


Field: TypeAlias = Annotated[str, AfterValidator(_check_field)]
Rules: TypeAlias = "Mapping[str, Mapping[str, Rule]]"
FieldRules = Annotated[dict[Field, Annotated[Rule, BeforeValidator(_read_rule)]], AfterValidator(_check_defaults)]


def additions(rules: Mapping[str, Rule], pairs: Pairs) -> Pairs:
    """Return the pairs that rules add to a form which leaves their fields out."""
    names = {_PLACE.sub("[*]", name) for name, _ in pairs}
    missing = [(field, rule.default) for field, rule in rules.items() if names.isdisjoint(_spellings(field))]
    return tuple((field, default) for field, default in missing if default is not None)


def problem(rules: Mapping[str, Rule], pairs: Pairs | None) -> str | None:
    """
    Say what is wrong with a request's parameters in words that can be shown, None = nothing.

    Args:
        rules: By field.
        pairs: Of query and body; None = a body that could not be read, which no rule lets through.
    """
    if pairs is None:
        return "its body cannot be read, so the rules of its fields cannot be checked"
    found = [(_PLACE.sub("[*]", name), _MEMBER.match(name), value) for name, value in pairs]
    # Each member of a batch, else the one request.
    members = {at[1] for _, at, _ in found if at} or {""}
    for field, rule in rules.items():
        spellings = _spellings(field)
        given = [(at[1] if at else "", value) for name, at, value in found if name in spellings]
        said = _said_of(rule, field, given, members, [name for name, _, _ in found])
        if said is not None:
            return said
    return None


@lru_cache(maxsize=256)
def _spellings(field: str) -> frozenset[str]:
    """Return the names under which a field's values may stand: itself, a list, and both within a batch."""
    root, bracket, rest = field.partition("[")
    member = f"[*][{root}]{bracket}{rest}"
    return frozenset({field, f"{field}[*]", member, f"{member}[*]"})


def _said_of(rule: Rule, field: str, given: list[tuple[str, str]], members: set[str], names: list[str]) -> str | None:
    if rule.absent:
        starts = tuple(f"{spelling}[" for spelling in _spellings(field))
        return f"{field} must be left out" if given or any(name.startswith(starts) for name in names) else None
    wrong = next((value for _, value in given if not rule.fits(value)), None)
    if wrong is not None:
        return f"{field} must be {rule}" + (f", got {wrong}" if _SHOWABLE.fullmatch(wrong) else "")
    if not rule.optional and {at for at, _ in given} != members:
        hint = (
            "optional = true in its rule lets calls without it through"
            if rule.default is None
            else "added only to calls of the vendor's SDK"
        )
        return f"{field} is left out, and must be {rule} ({hint})"
    return None
