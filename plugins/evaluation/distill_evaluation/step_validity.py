"""Are the steps of a chain true, where they can be checked: equations of numbers."""

from __future__ import annotations

import ast
import re
from fractions import Fraction

from distill_core.interfaces import EvaluationContext, Measurement
from distill_evaluation.chain_corruption import own_chains, steps_of
from distill_evaluation.questions import Sums, document_of, questions_of
from distill_evaluation.reasoning_options import StepValidityOptions

_NUMBER = r"\d+(?:\.\d+)?"
_EQUATION = re.compile(
    rf"(?P<left>[-(\s]*{_NUMBER}[\s)]*(?:[-+*/x\u00d7\u00f7\u2212][-(\s]*{_NUMBER}[\s)]*)+)=\s*(?P<right>-?{_NUMBER})"
)


class StepValidity:
    """Evaluator ``step-validity``: the model writes a chain; equations in its steps are computed exactly.

    - ``valid_steps``: share of the equations that are true; a figure per equation, errors by the question's document.
    - ``checkable_steps``: share of the steps that hold an equation: how much of a chain the first figure speaks of.
    - ``valid_chains``: share of the chains with an equation in which all are true.

    An equation is ``12 + 7 * (3 - 1) = 26``: numbers, + - * / x, brackets, one number on the right; a rounded right
    side is false. True steps can still be the wrong ones: see ``answers``.
    """

    aspect = "reasoning"

    def __init__(self, options: StepValidityOptions) -> None:
        self.options = options

    def evaluate(self, context: EvaluationContext) -> list[Measurement]:
        options = self.options
        records = questions_of(options, context, "step-validity")
        prompts = [options.prompt.replace("{question}", record["question"]) for record in records]
        chains = own_chains(context, prompts, options.answer_lead, options.max_chain_tokens, options.batch_questions)
        valid, checkable, whole = Sums(), Sums(), Sums()
        wrong: list[str] = []
        for index, (record, chain) in enumerate(zip(records, chains, strict=True)):
            document = document_of(record, index)
            steps = [equations(step) for step in steps_of(chain, options.step_end)]
            judged = [pair for step in steps for pair in step]
            wrong += [text for text, true in judged if not true]
            valid.add(document, sum(true for _, true in judged), len(judged))
            checkable.add(document, sum(bool(step) for step in steps), len(steps))
            if judged:
                whole.add(document, float(all(true for _, true in judged)))
        entries = (
            ("valid_steps", "Equations that are true", valid, {"wrong": wrong[:5]}),
            ("checkable_steps", "Steps with an equation", checkable, {}),
            ("valid_chains", "Chains without a false equation", whole, {}),
        )
        return [
            Measurement(metric, sums.value, "fraction", sums.count, True, sums, detail, label=label)
            for metric, label, sums, detail in entries
        ]


def equations(text: str) -> list[tuple[str, bool]]:
    """Every equation of a text, and whether it is true.

    >>> equations("First 2 + 3 * 4 = 14, then 14 - 5 = 8.")
    [('2 + 3 * 4 = 14', True), ('14 - 5 = 8', False)]
    """
    found = []
    for match in _EQUATION.finditer(text):
        value = arithmetic(match["left"])
        if value is not None:
            found.append((match[0].strip(), value == Fraction(match["right"])))
    return found


def arithmetic(text: str) -> Fraction | None:
    """The value of an expression of numbers, or None where it is none (unbalanced brackets, division by zero).

    >>> arithmetic("1 / 3 + 2"), arithmetic("(1")
    (Fraction(7, 3), None)
    """
    plain = re.sub("[x\u00d7]", "*", text).replace("\u00f7", "/").replace("\u2212", "-")
    plain = re.sub(r"(?<![\d.])0+(?=\d)", "", plain)  # 007
    try:
        return _value(ast.parse(plain.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError):
        return None


def _value(node: ast.expr) -> Fraction:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return Fraction(str(node.value))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left), _value(node.right)
        if isinstance(node.op, ast.Add):
            return left + right
        if isinstance(node.op, ast.Sub):
            return left - right
        if isinstance(node.op, ast.Mult):
            return left * right
        if isinstance(node.op, ast.Div):
            return left / right
    raise ValueError(f"no arithmetic: {ast.dump(node)}")
