"""Synthetic images, class by class, and the loss that they were learned by."""

from __future__ import annotations

from distill_core.report.blocks import Block, Figure, Figures, Picture, Pictures, Prose, Section
from distill_core.report.charts import smoothed
from distill_core.report.sections.view import View
from distill_core.report.svg import Series, line_chart


def section(view: View) -> Section | None:
    found = view.content.get("synthesis")
    if not found:
        return None
    height, width, channels = found["size"]
    size = f"{height} \u00d7 {width}" + (f" \u00d7 {channels}" if channels > 1 else "")
    shown = sum(row["count"] for row in found["rows"])
    rest = f"; {shown:,} of them here, all in synthesize/records.jsonl" if shown < found["total"] else ""
    pictures = [
        Picture(
            row["label"],
            row["source"],
            row["width"],
            row["height"],
            f"{row['count']} synthetic {'image' if row['count'] == 1 else 'images'} of the class {row['label']}",
        )
        for row in found["rows"]
    ]
    blocks: list[Block] = [Prose([f"{found['total']:,} images of {size}, class by class{rest}."]), Pictures(pictures)]
    points = [(float(step), float(value)) for step, value in enumerate(found["loss"], start=1)]
    series = [Series("each step", "tone-0", points, (), "faint"), Series("smoothed", "tone-0", smoothed(points))]
    chart = line_chart(series, title="Loss of the synthesis", x_label="step of the images")
    if chart:
        note = "the synthesizer\u2019s own loss, each step and smoothed"
        blocks.append(Figures([Figure("What the images were learned by", note, chart)]))
    return Section("synthesis", "Synthetic images", blocks)
