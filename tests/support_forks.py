"""Forks and pools for tests: children with a watchdog, a server's gate, and `python -m tests.support_forks <program> …`.

The programs at the end are processes with children of their own; they print what happened as JSON, one line each.
"""

from __future__ import annotations

import atexit
import json
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import stripe

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyguard.model import Usage

# What a child may take on a busy machine before it counts as deadlocked; the kernel's default action then ends it.
PATIENCE = 30


# -- calls -------------------------------------------------------------------------------------------


def charge(base: str, cents: int, http_client: Any = None) -> str:
    """Charge by a client, and connections, of its own; returns the intent's id."""
    client = stripe.StripeClient(
        "sk_test_12345", base_addresses={"api": base}, max_network_retries=0, http_client=http_client or stripe.RequestsClient()
    )
    return client.v1.payment_intents.create({"amount": cents, "currency": "usd", "confirm": True}).id


def figures(usage: Usage | None) -> tuple[int, int, int]:
    """Return spent, held and in doubt, in cents."""
    assert usage is not None
    return usage.spent // 10_000, usage.held // 10_000, usage.doubt // 10_000


class Gate(threading.Event):
    """A `StripeServer.delay` that says how many requests wait behind it, and lets those after them pass."""

    def __init__(self, width: int = 1) -> None:
        super().__init__()
        self._width = threading.Semaphore(width)
        self.arrived = threading.Semaphore(0)

    def wait(self, timeout: float | None = None) -> bool:
        """Keep an answer back until the gate is opened; once as many wait as it is wide, others pass."""
        if not self._width.acquire(blocking=False):
            return True
        self.arrived.release()
        untraced()
        return super().wait(timeout)

    def await_request(self) -> None:
        """Return when one more request has been executed and is kept waiting for its answer."""
        assert self.arrived.acquire(timeout=PATIENCE)


def untraced() -> None:
    """
    Let no coverage tool trace this thread any longer.

    In CPython 3.11 a traced thread enters no function while an exception waits for another thread to take it; and that
    one may wait for what this thread does next.
    """
    sys.settrace(None)


# -- children ----------------------------------------------------------------------------------------


@dataclass
class Forked:
    """A forked child, and the pipe of its answer."""

    pid: int
    answers: int

    def result(self) -> Any:
        """Wait for its end; returns what its work returned (JSON), fails with its traceback or its signal."""
        with os.fdopen(self.answers, "rb") as pipe:
            said = pipe.read().decode()
        code = self.ended()

        assert code == 0, f"the child ended with {code} ({'deadlocked' if code == -signal.SIGALRM else 'failed'}): {said}"
        return json.loads(said)

    def ended(self) -> int:
        """Wait for its end; returns the exit code, negative for a signal."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def fork(work: Callable[[], Any]) -> Forked:
    """Run some work in a forked child that always ends by `os._exit`, or by the kernel's alarm."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return Forked(pid, reading)
    code = 1
    try:
        watched()
        said = json.dumps(work())
        code = 0
    except BaseException:
        said = traceback.format_exc()
    os.write(writing, said.encode())
    os._exit(code)


def watched() -> None:
    """Let the kernel end this process if it hangs, in Python or in C."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(PATIENCE)


# -- a parent with a hold open, whose child leaves as a program does ------------------------------------


def leave(base: str, url: str, how: str) -> None:
    """Fork while a thread's call waits for its answer; the child charges and ends by `how`; say what the books are on both sides."""
    import keyguard

    atexit.register(keyguard.uninstall)
    with keyguard.run("run-1"):
        installed = keyguard.install(url, run_usd_cap=100)
        thread = threading.Thread(target=keyguard.wrap(charge), args=(base, 1000))
        thread.start()
        # The test says when the server has the call.
        sys.stdin.readline()
        pid = os.fork()
        if not pid:
            watched()
            charge(base, 2000)
            print(json.dumps(figures(installed.usage())), flush=True)
            os._exit(3) if how == "_exit" else sys.exit(3)
        print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), *figures(installed.usage())]), flush=True)
        sys.stdin.readline()
        thread.join()
        print(json.dumps(figures(installed.usage())), flush=True)


# -- pools of workers ---------------------------------------------------------------------------------


def work(base: str, url: str, installs: str, wanted: int) -> tuple[int, int]:
    """Charge $1 so many times; returns how many went through and how many were refused. Arms keyguard only if told to."""
    if installs == "yes":
        import keyguard

        keyguard.install(url, run_usd_cap=30)
    charged = refused = 0
    for _ in range(wanted):
        try:
            charge(base, 100)
            charged += 1
        except Exception as error:
            # By name: this worker may never have imported keyguard.
            if type(error).__name__ != "SpendCapExceeded":
                raise
            refused += 1
    return charged, refused


def work_and_tell(queue: Any, *job: Any) -> None:
    """Do the same where nobody returns what a function returns."""
    queue.put(work(*job))


def pools(method: str, base: str, url: str, arms: str, each: str) -> None:
    """Let workers of each kind (Process, Pool, ProcessPoolExecutor) charge at once, 60 times in all; `arms`: who installs."""
    count = int(each)
    job = (base, url, "yes" if arms == "worker" else "no", 20 // count)
    if arms == "parent":
        import keyguard

        keyguard.install(url, run_usd_cap=30)
    making: Any = multiprocessing.get_context(method)
    queue = making.SimpleQueue()
    processes = [making.Process(target=work_and_tell, args=(queue, *job)) for _ in range(count)]
    with making.Pool(count) as pool, ProcessPoolExecutor(count, mp_context=making) as executor:
        for process in processes:
            process.start()
        mapped = pool.starmap_async(work, [job] * count, chunksize=1)
        futures = [executor.submit(work, *job) for _ in range(count)]
        told = [queue.get() for _ in processes]
        done = [*told, *mapped.get(PATIENCE), *(future.result(PATIENCE) for future in futures)]
        pool.close()
        pool.join()
    for process in processes:
        process.join()
    print(json.dumps([sum(charged for charged, _ in done), sum(refused for _, refused in done)]), flush=True)


if __name__ == "__main__":
    programs: dict[str, Callable[..., None]] = {"leave": leave, "pools": pools}
    programs[sys.argv[1]](*sys.argv[2:])
