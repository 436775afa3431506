"""
A language model under a budget: each answer is held for by its upper bound, and settled by the tokens that it says it used.

Run it against an account or a stand-in (OPENAI_BASE_URL, and KEYGUARD_VENDOR_HOSTS=openai=127.0.0.1:8000). The first argument is the
budget in dollars, the others are questions. Prices are those of your own contract: put them in.

    OPENAI_API_KEY=sk-… python examples/05_cap_an_llm.py 0.50 "What is money?" "What is time?"
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import openai

import keyguard
from keyguard import vendors

if TYPE_CHECKING:
    from keyguard.model import Call, Reply

# Dollars for a million tokens.
INPUT, OUTPUT = 3.00, 15.00
MODEL, MOST_TOKENS = "gpt-4o", 500


def bound(call: Call) -> float | None:
    """A token of the input is at least one byte of it, and the output is limited by the request: without a limit nothing is sent."""
    asked = call.document
    if not all(isinstance(message["content"], str) for message in asked["messages"]):
        # What an image costs does not stand in its address: the policy's `unpriced` decides, and refuses unless it says otherwise.
        return None
    most: int = asked["max_completion_tokens"] * asked.get("n", 1)
    return (len(str(asked).encode()) * INPUT + most * OUTPUT) / 1_000_000


def cost(_call: Call, reply: Reply) -> float | None:
    """Read the usage from an answer, or from the last event of a stream; where it says none, what was held is the cost."""
    usage = next((one["usage"] for one in reversed(vendors.documents(reply)) if one.get("usage")), None)
    if usage is None:
        return None
    tokens_in, tokens_out = int(usage["prompt_tokens"]), int(usage["completion_tokens"])
    return (tokens_in * INPUT + tokens_out * OUTPUT) / 1_000_000


vendors.register(
    "openai",
    hosts=["api.openai.com"],
    operations={"POST /v1/chat/completions": vendors.Row(bound, name="chat.completions.create")},
    cost=cost,
    # The SDK reports a refusal as its own PermissionDeniedError, at once, in each of its versions.
    on_refused="response",
)


def main() -> None:
    """Ask each question, as far as the budget goes."""
    budget, *questions = sys.argv[1:]
    with keyguard.run(id=os.environ.get("RUN_ID", "questions-1")), openai.OpenAI() as client:
        run = keyguard.install(run_usd_cap=budget)
        for question in questions:
            try:
                answer = client.chat.completions.create(
                    model=MODEL, messages=[{"role": "user", "content": question}], max_completion_tokens=MOST_TOKENS
                )
                print(answer.choices[0].message.content)
            except openai.PermissionDeniedError as error:
                refusal = keyguard.refusal_of(error)
                if refusal is None:
                    raise
                sys.exit(f"stopped: {refusal}")
    print(f"spent ${run.usage().spent / 1_000_000:.6f}")


if __name__ == "__main__":
    main()
