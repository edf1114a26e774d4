"""A plan as tables and sentences for the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from distill_core.planning.figures import Figure, Plan

TITLES = {
    "loss": "Expected loss (nat per token)",
    "compute": "Compute and time",
    "memory": "Memory of a training step",
    "storage": "Store of the teacher's answers",
}
SCALES = ((1e24, "Y"), (1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def show_plan(plan: Plan, console: Console, *, formulas: bool = False) -> None:
    """Print every section; figures outside their formula's domain carry a question mark; formulas only if asked for."""
    for name, title in TITLES.items():
        if not getattr(plan, name):
            continue
        table = Table(title=Text(title), show_header=False, title_justify="left")
        for column in ("left", "right", "left"):
            table.add_column(justify=column, overflow="fold")
        for figure in getattr(plan, name):
            mark = Text("? outside the domain" if figure.outside else "", style="yellow")
            table.add_row(Text(figure.label), Text(shown(figure)), mark)
        console.print(table)
    for heading, sentences in (
        ("Advice", [f"{one.advice} ({one.why})" for one in plan.recommendations]),
        ("Warnings", plan.warnings),
        ("Assumed", plan.assumptions),
        ("Not computed", plan.missing),
        ("Formulas", _formulas(plan) if formulas else []),
    ):
        if sentences:
            console.print(Text(heading, style="bold"))
            for sentence in sentences:
                console.print(Text(f"- {sentence}"))
    if not formulas:
        console.print(Text("Each formula, its source and its domain: --formulas"))


def _formulas(plan: Plan) -> list[str]:
    return [f"{key}: {one.text}. Source: {one.source}. Valid: {one.domain}." for key, one in plan.formulas.items()]


def shown(figure: Figure) -> str:
    """The value in a unit that a person reads.

    >>> shown(Figure(key="a", label="a", value=1.5e18, unit="FLOP", formula="f"))
    '1.5 EFLOP'
    >>> shown(Figure(key="a", label="a", value=7200, unit="s", formula="f"))
    '2 h'
    """
    value = figure.value
    if figure.unit == "nat":
        return f"{value:.3f}"
    if figure.unit == "1":
        return f"{100 * value:.1f} %"
    if figure.unit == "passes":
        return f"{value:.3g}"
    if figure.unit == "s":
        for limit, unit in ((86_400.0 * 2, "days"), (3600.0, "h"), (60.0, "min")):
            if value >= limit:
                return f"{value / (86_400.0 if unit == 'days' else limit):.3g} {unit}"
        return f"{value:.3g} s"
    for limit, prefix in SCALES:
        if value >= limit:
            return f"{value / limit:.3g} {prefix}{figure.unit}"
    return f"{value:.3g} {figure.unit}"
