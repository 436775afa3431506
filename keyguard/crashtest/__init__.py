"""
`keyguard crash-test`: a spend guard, whichever, in races, crashes, retries and lies; judged by the vendor's own truth file.

Real processes that are really killed, the real Stripe SDK, real HTTP to a double of Stripe in a process of its own
(`keyguard.testing.double`). Nothing of a guard runs in the process that judges.

Another guard takes part through a class of at most 30 lines, `--guard module:Class`; see `Guard` in `contract.py`:

    class Budget:
        refusals = (BudgetExceeded,)
        is_shared = True

        def __init__(self, terms):
            self._budget = some_budget.open(f"{terms.folder}/budget.db", limit_usd=terms.cap / 1_000_000)

        def call(self, charge, send):
            hold = self._budget.hold(charge.amount / 1_000_000)
            answer = send()
            self._budget.settle(hold)
            return answer

        def spent(self):
            return round(self._budget.total() * 1_000_000)

What happens is in `events/`, who plays it in `worker.py` and `nursery.py`, what it is judged by in `stage.py` and `judge.py`.
"""
