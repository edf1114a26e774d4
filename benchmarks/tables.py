"""Markdown made of result files; `python -m benchmarks tables` writes it between the marks of docs/benchmarks.md.

A mark is `<!-- result: FILE -->`, FILE in benchmarks/results; what follows it, up to `<!-- end -->`, is replaced by the
command and the table of that file. A mark whose file is not there gets a line that says so.
"""

from __future__ import annotations

import re
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.result import load

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"
RESULTS = ROOT / "benchmarks" / "results"
MARK = re.compile(r"(<!-- result: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
MISSING = "Not measured yet: `{}` is not among the results of this repository.\n"


def section(result: dict[str, Any]) -> str:
    """The command, what was compared on what, and the table."""
    return f"```bash\n{result['command']}\n```\n\n{body(result)}\n"


def body(result: dict[str, Any]) -> str:
    if result["benchmark"] == "gradient_quality":
        from benchmarks.gradient_quality import table

        return table(result)
    if result["benchmark"] == "target_bias":
        from benchmarks.target_bias import table

        return table(result)
    if result["benchmark"] == "accuracy":
        from benchmarks.accuracy import table

        return table(result)
    if result["benchmark"] == "store_size":
        from benchmarks.store_size import table

        return table(result)
    if result["benchmark"] == "trl_training":
        from benchmarks.side_by_side.table import table

        return table(result)
    if result["benchmark"] == "objective_table":
        from benchmarks.objective_report import table

        return table(result)
    if result["benchmark"] == "dataset_distillation":
        from benchmarks.dataset_table import table

        return table(result)
    if result["benchmark"] == "selection":
        from benchmarks.selection import table

        return table(result)
    if result["benchmark"] == "text_distillation":
        from benchmarks.text_distillation import table

        return table(result)
    return f"{result['title']} {result['machine']}.\n\n{timed(result)}"


def ratio(own: Sequence[float], reference: Sequence[float]) -> tuple[float, float]:
    """Median of the rounds' own ratios over the rounds that both took part in, and the distance of its quartiles."""
    ratios = [a / b for a, b in zip(own, reference, strict=False)]
    if len(ratios) < 2:
        return ratios[0], float("nan")
    q1, _, q3 = statistics.quantiles(ratios, n=4, method="inclusive")
    return statistics.median(ratios), q3 - q1


def _number(x: float) -> str:
    return f"{x:.3f}" if x < 0.1 else f"{x:.2f}" if x < 10 else f"{x:.1f}"


def _ratio_cell(own: dict[str, Any], reference: dict[str, Any], field: str) -> str:
    median, spread = ratio(own[field], reference[field])
    return _number(median) if spread != spread else f"{_number(median)} ± {_number(spread)}"


def timed(result: dict[str, Any]) -> str:
    """One line per case: ratios to the references (median ± interquartile range of the rounds), peaks in MiB."""
    by_name = {row["case"]: row for row in result["cases"]}
    references = result["references"]
    peaks = any("peak_profiler_mib" in row for row in result["cases"])
    heads = ["case", "computes", *(f"CPU time / {name}" for name in references)]
    if references:
        heads.append(f"wall time / {references[0]}")
    heads += (["peak MiB, profiler", "peak MiB, VmHWM"] if peaks else []) + ["rounds"]
    lines = [_line(heads), _line(["---", "---", *["---:"] * (len(heads) - 2)])]
    for name, row in by_name.items():
        if "absent" in row:
            lines.append(_line([name, f"not measured: {row['absent']}", *[""] * (len(heads) - 2)]))
            continue
        cells = [name, row["computes"], *(_ratio_cell(row, by_name[other], "cpu_s") for other in references)]
        if references:
            cells.append(_ratio_cell(row, by_name[references[0]], "wall_s"))
        if peaks:
            cells += [f"{row[key]:.1f}" if key in row else "" for key in ("peak_profiler_mib", "peak_vmhwm_mib")]
        lines.append(_line([*cells, str(len(row["cpu_s"]))]))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def renewed(page: str) -> str:
    """The page with every marked table made again from its file."""

    def content(match: re.Match[str]) -> str:
        path = RESULTS / match[2]
        text = section(load(path)) if path.exists() else MISSING.format(match[2])
        return f"{match[1]}\n{text}\n{match[3]}"

    return MARK.sub(content, page)


def main(words: list[str]) -> None:
    """Rewrite docs/benchmarks.md and the plots; with `--check`, say whether that would change anything."""
    from benchmarks import bias_plot, dataset_plot, quality_plot

    new = {PAGE: renewed(PAGE.read_text(encoding="utf-8"))}
    plots = (
        ("gradient_quality", quality_plot),
        ("target_bias", bias_plot),
        ("dataset_distillation_digits", dataset_plot),
    )
    for name, plot in plots:
        if (RESULTS / f"{name}.json").exists():
            new[plot.PICTURE] = plot.picture(load(RESULTS / f"{name}.json"))
    stale = [path for path, text in new.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if words == ["--check"]:
        raise SystemExit(
            f"out of date: {[path.name for path in stale]}; run python -m benchmarks tables" if stale else 0
        )
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(new[path], encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}", file=sys.stderr)
