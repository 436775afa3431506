"""The command line: `python -m keyguard.testing.simulator --help`."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

from keyguard.testing.simulator.mutants_ledger import MUTANTS
from keyguard.testing.simulator.runner import simulate

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run seeds and print what came of them; returns 1 where a promise was broken, with a mutant 1 where it was not found."""
    asked = _parser().parse_args(arguments)
    if asked.list_mutants:
        print("\n".join(f"{mutant.name:32}{mutant.says}" for mutant in MUTANTS.values()))
        return 0
    seeds = [asked.seed] if asked.seed is not None else range(*asked.seeds)
    with MUTANTS[asked.mutant].plant() if asked.mutant else contextlib.nullcontext():
        violations = _run(seeds, asked.steps, asked.mutant)
    return int(bool(violations) != bool(asked.mutant))


def _run(seeds: Sequence[int], steps: int, mutant: str | None) -> int:
    began, count, made, calls, violations = time.perf_counter(), 0, 0, 0, 0
    kinds: Counter[str] = Counter()
    for seed in seeds:
        count += 1
        report = simulate(seed, steps)
        made, calls = made + report.steps, calls + report.calls
        kinds.update(report.kinds)
        if report.violation:
            violations += 1
            print(report.told(_command(seed, steps, mutant)))
        if mutant and violations:
            break
        if len(seeds) == 1 or report.violation:
            print(f"seed {seed}: {report.steps} operations, {report.grants} granted, {report.refusals} refused, digest {report.digest}")
    seconds = time.perf_counter() - began
    print("decided: " + ", ".join(f"{number} {kind}" for kind, number in kinds.most_common()))
    print(
        f"{count} seeds from {seeds[0]}, {made} operations, {calls} requests, {seconds:.1f} s, "
        f"{made / seconds:.0f} operations a second, {violations} violations"
    )
    return violations


def _command(seed: int, steps: int, mutant: str | None) -> str:
    more = (f" --steps {steps}" if steps != 1000 else "") + (f" --mutant {mutant}" if mutant else "")
    return f"python -m keyguard.testing.simulator --seed {seed}{more}"


def _range(text: str) -> tuple[int, int]:
    first, _, last = text.partition(":")
    found = int(first or 0), int(last)
    if found[0] >= found[1]:
        raise argparse.ArgumentTypeError("expected FIRST:LAST, the last one not included, with FIRST below LAST")
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m keyguard.testing.simulator",
        description="Simulates fleets of flows on the real guard and the real SQLite ledger, under faults that follow from a seed.",
    )
    parser.add_argument("--seeds", type=_range, default=(0, 50), metavar="FIRST:LAST", help="seeds to run, LAST not included (0:50)")
    parser.add_argument("--seed", type=int, help="run this one seed")
    parser.add_argument("--steps", type=int, default=1000, help="operations of a seed before it is let come to its end (1000)")
    parser.add_argument("--mutant", choices=list(MUTANTS), metavar="NAME", help="plant a mistake; the exit code says whether it was found")
    parser.add_argument("--list-mutants", action="store_true", help="name the mistakes that can be planted")
    return parser


if __name__ == "__main__":
    sys.exit(main())
