"""The ``arithmetic`` source: grade-school arithmetic with worked steps, made by a program (synthetic data)."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from distill_core.errors import DataError
from distill_synthesis.questions.options import ArithmeticOptions
from distill_synthesis.questions.split import is_held_out

NAMES = ("Tom", "Anna", "Ben", "Maria", "Sam", "Lucy", "David", "Emma", "Omar", "Julia", "Peter", "Nina")
THINGS = ("apples", "books", "coins", "pencils", "stickers", "marbles", "cards", "shells", "stamps", "oranges")
STORIES = {
    "add": ("{name} buys {n} more.", "{name} finds {n} more.", "A friend gives {name} {n} more."),
    "subtract": ("{name} gives away {n}.", "{name} loses {n}.", "{name} sells {n}."),
    "multiply": ("Then the number of {things} becomes {n} times as large.",),
}
SIGNS = {"add": "+", "subtract": "-", "multiply": "*"}
FRUITLESS_DRAWS = 5000
"""So many draws in a row without a new question mean that there are no more."""


@dataclass(frozen=True)
class Problem:
    """A question, its worked steps (``7 + 5 = 12``) and its answer."""

    question: str
    steps: tuple[str, ...]
    answer: int


class Arithmetic:
    """Yields ``count`` different questions with their worked steps as the rationale.

    The running value never falls below 0, and every number of a question is at most ``largest``. A record can be used
    as it is (``prompt`` and ``completion``: the question and its answer), or as a question with a gold rationale.

    >>> record = next(Arithmetic(ArithmeticOptions(count=1, min_steps=2, max_steps=2)).records())
    >>> record["question"]
    'Anna has 19 pencils. Anna sells 8. Anna loses 9. How many pencils does Anna have now?'
    >>> record["rationale"], record["answer"]
    ('19 - 8 = 11. 11 - 9 = 2.', '2')
    """

    def __init__(self, options: ArithmeticOptions) -> None:
        self.options = options

    def records(self) -> Iterator[dict[str, Any]]:
        """Raises ``DataError`` where the options allow fewer questions than ``count``."""
        options, seen, fruitless = self.options, set[str](), 0
        draw = 0
        while len(seen) < options.count:
            problem = make_problem(random.Random(f"{options.seed}:{draw}"), options)
            draw += 1
            if problem.question in seen or is_held_out(problem.question) != (options.split == "held-out"):
                fruitless += 1
                if fruitless > FRUITLESS_DRAWS:
                    raise DataError(
                        f"arithmetic: count is {options.count}, but only {len(seen)} different questions of the split "
                        f"{options.split} were found: allow more steps or a larger `largest`, or ask for fewer"
                    )
                continue
            fruitless = 0
            seen.add(problem.question)
            yield _record(problem, options, len(seen) - 1)

    def fingerprint(self) -> str:
        state = hashlib.sha256()
        for record in self.records():
            state.update(json.dumps(record, sort_keys=True).encode() + b"\n")
        return state.hexdigest()


def _record(problem: Problem, options: ArithmeticOptions, index: int) -> dict[str, Any]:
    return {
        "question": problem.question,
        "rationale": " ".join(f"{step}." for step in problem.steps),
        "answer": str(problem.answer),
        "prompt": f"{problem.question}\n",
        "completion": str(problem.answer),
        "document": f"arithmetic-{options.split}-{options.seed}-{index}",
        "steps": len(problem.steps),
        "provenance": {"source": "arithmetic", "synthetic": True, "seed": options.seed},
    }


def make_problem(rng: random.Random, options: ArithmeticOptions) -> Problem:
    """One problem; every random number comes from ``rng``."""
    value = rng.randint(1, options.largest)
    numbers, operations, steps = [value], [], []
    for _ in range(rng.randint(options.min_steps, options.max_steps)):
        operation = rng.choice(options.operations)
        if operation == "subtract" and value == 0:
            operation = "add" if "add" in options.operations else "multiply"
        n = _operand(rng, operation, value, options.largest)
        result = {"add": value + n, "subtract": value - n, "multiply": value * n}[operation]
        steps.append(f"{value} {SIGNS[operation]} {n} = {result}")
        operations.append(operation)
        numbers.append(n)
        value = result
    write = _story if options.style == "story" else _expression
    return Problem(write(rng, numbers, operations), tuple(steps), value)


def _operand(rng: random.Random, operation: str, value: int, largest: int) -> int:
    if operation == "multiply":
        return rng.randint(2, min(5, largest))
    return rng.randint(1, min(largest, value) if operation == "subtract" else largest)


def _story(rng: random.Random, numbers: list[int], operations: list[str]) -> str:
    name, things = rng.choice(NAMES), rng.choice(THINGS)
    sentences = [f"{name} has {numbers[0]} {things}."]
    for n, operation in zip(numbers[1:], operations, strict=True):
        sentences.append(rng.choice(STORIES[operation]).format(name=name, things=things, n=n))
    return " ".join([*sentences, f"How many {things} does {name} have now?"])


def _expression(rng: random.Random, numbers: list[int], operations: list[str]) -> str:
    """Brackets wherever the order of operations would differ from left to right."""
    text = str(numbers[0])
    for index, (n, operation) in enumerate(zip(numbers[1:], operations, strict=True)):
        if operation == "multiply" and index and operations[index - 1] != "multiply":
            text = f"({text})"
        text = f"{text} {SIGNS[operation]} {n}"
    return f"What is {text}?"
