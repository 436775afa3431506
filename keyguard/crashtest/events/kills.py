"""SIGKILL at each step of a call; then the process is started again, does its work over again, and spends what is left."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from keyguard.crashtest.stage import USD
from keyguard.testing.double import Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyguard.crashtest.stage import Stage

_DOLLARS = 10
_ON_THE_WIRE = "after send"


def _killed(stage: Stage, step: str) -> None:
    kills = stage.of(4, 2)
    stage.cap(2 * kills * _DOLLARS)
    names = stage.names(kills, "victim")
    for number, name in enumerate(names):
        _kill_one(stage, name, step, number)
    again = stage.worker()
    # Every other victim is started again; what became of the rest only the vendor knows.
    stage.spend(again, names[::2], _DOLLARS)
    spending = stage.spend(again, stage.names(2 * stage.row.cap // (_DOLLARS * USD)), _DOLLARS)
    stage.fills(_DOLLARS, spending)
    stage.reconcile()
    stage.spends_the_rest(again, _DOLLARS)


def _kill_one(stage: Stage, name: str, step: str, number: int) -> None:
    victim = stage.worker()
    on_the_wire = step == _ON_THE_WIRE
    if on_the_wire:
        # Executed and not answered, or executed only when nobody is left to be answered.
        stage.double.script(Fault("hold_after" if number % 2 else "hold_before", method="POST"))
    victim.tell("spend", names=[name], amount=_DOLLARS * USD, step="" if on_the_wire else step)
    if on_the_wire:
        stage.double.wait_until_held()
    else:
        victim.answer()
    stage.check()
    victim.kill()
    stage.kills += 1
    if on_the_wire:
        stage.double.release()
        stage.double.wait_until_quiet()
    stage.check()


def _step(name: str, words: str) -> tuple[str, str, Callable[[Stage], None]]:
    return name.replace(" ", "-"), words, partial(_killed, step=name)


STEPS = (
    _step("before reserve", "before the hold"),
    _step("after reserve", "between hold and send"),
    _step(_ON_THE_WIRE, "with the call on the wire"),
    _step("after answer", "between answer and books"),
    _step("after settle", "after the books"),
)
