// Tables sort by their headings and copy as Markdown or LaTeX. Without this script the page says the same.
"use strict";
(() => {
  const said = document.querySelector(".told");
  const textOf = (cell) =>
    [...cell.querySelectorAll("span.verdict, span > bdi, .chip bdi, small bdi")]
      .map((part) => part.textContent.replace(/[ \n\t]+/g, " ").trim())
      .filter((text, index, all) => text && all.indexOf(text) === index)
      .join(" ") || (cell.querySelector("button") || cell).textContent.replace(/[ \n\t]+/g, " ").trim();
  const grid = (table) => [...table.rows].map((row) => [...row.cells].map(textOf));
  const markdown = (table) => {
    const [head, ...rows] = grid(table).map((row) => row.map((text) => text.replace(/\|/g, "\\|")));
    const rule = [...table.rows[0].cells].map((cell) => (cell.classList.contains("number") ? "---:" : "---"));
    return [head, rule, ...rows].map((row) => `| ${row.join(" | ")} |`).join("\n") + "\n";
  };
  const escapes = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "\u2212": "$-$" };
  const tex = (text) =>
    text.replace(/[\\~^\u2212]|[&%$#_{}]/g, (sign) => escapes[sign] || "\\" + sign)
      .replace(/[\u202f\u00a0]/g, "~").replace(/\u00b1/g, "$\\pm$").replace(/\u00d7/g, "$\\times$");
  const latex = (table) => {
    const [head, ...rows] = grid(table).map((row) => row.map(tex).join(" & ") + " \\\\");
    const columns = [...table.rows[0].cells].map((cell) => (cell.classList.contains("number") ? "r" : "l")).join("");
    const lines = ["\\begin{tabular}{" + columns + "}", "\\toprule", head, "\\midrule", ...rows];
    return [...lines, "\\bottomrule", "\\end{tabular}"].join("\n") + "\n";
  };
  const copy = async (text, name) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    said.textContent = "Copied as " + name + ".";
  };
  const value = (row, column) => {
    const cell = row.cells[column];
    const sort = cell.dataset.sort;
    return sort === undefined ? textOf(cell) : sort === "nan" ? NaN : Number(sort);
  };
  const compare = (a, b) => {
    if (typeof a === "number" && typeof b === "number") return isNaN(a) - isNaN(b) || a - b || 0;
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    return a.localeCompare(b, undefined, { numeric: true });
  };
  const sort = (table, column) => {
    const heading = table.rows[0].cells[column];
    const down = heading.getAttribute("aria-sort") === "ascending";
    for (const cell of table.rows[0].cells) cell.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => (down ? -1 : 1) * compare(value(a, column), value(b, column)));
    table.tBodies[0].append(...rows);
  };
  for (const table of document.querySelectorAll(".sheet table")) {
    const tools = document.createElement("div");
    tools.className = "tools";
    for (const [name, make] of [["Markdown", markdown], ["LaTeX", latex]]) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = name;
      button.setAttribute("aria-label", "Copy the table as " + name);
      button.addEventListener("click", () => copy(make(table), name));
      tools.append(button);
    }
    table.closest(".sheet").prepend(tools);
    if (table.tBodies[0].rows.length < 2) continue;
    [...table.rows[0].cells].forEach((cell, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.append(...cell.childNodes);
      button.addEventListener("click", () => sort(table, column));
      cell.append(button);
    });
  }
})();
