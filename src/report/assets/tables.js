// Small helpers shared by all parts of the page. Text goes into elements as text, never as markup.
const element = (tag, properties = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name === "class") made.className = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
};

// Sorting: the button of a column head sorts by the cells' data-value, numbers before text, empty cells last.
document.querySelectorAll("button.sort").forEach((button) => {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const body = head.closest("table").tBodies[0];
    const column = head.cellIndex;
    const sign = head.getAttribute("aria-sort") === "descending" ? 1 : -1;
    const key = (row) => row.cells[column].dataset.value;
    const compare = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const [m, n] = [Number(x), Number(y)];
      return sign * (Number.isNaN(m) || Number.isNaN(n) ? x.localeCompare(y) : m - n);
    };
    [...body.rows].sort(compare).forEach((row) => body.append(row));
    head.parentElement.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
  });
});

// Copying: CSV has plain values with intervals in columns of their own; Markdown and LaTeX have what is shown.
const headsOf = (table) => [...table.tHead.rows[0].cells].map((cell) => cell.querySelector("button").textContent.trim());
const intervalOf = (cell) => cell.querySelector(".interval")?.textContent ?? "";

const asCsv = (table) => {
  const quote = (text) => `"${String(text).replaceAll('"', '""')}"`;
  const lines = [headsOf(table).flatMap((head) => [head, `${head} interval`, `${head} n`])];
  for (const row of table.tBodies[0].rows) {
    lines.push([...row.cells].flatMap((cell) => [cell.dataset.value, intervalOf(cell), cell.querySelector(".n")?.textContent.replace("n ", "") ?? ""]));
  }
  const filled = lines[0].map((_, i) => i % 3 === 0 || lines.slice(1).some((line) => line[i] !== ""));
  return lines.map((line) => line.filter((_, i) => filled[i]).map(quote).join(",")).join("\n");
};

// The text of a cell as it is read: without the number of images and without glyphs that repeat words.
const shownOf = (cell) => {
  const copy = cell.cloneNode(true);
  copy.querySelectorAll(".n, [aria-hidden]").forEach((part) => part.remove());
  copy.querySelectorAll("br").forEach((part) => part.replaceWith(" "));
  return copy.textContent.replace(/\s+/g, " ").trim();
};

const asMarkdown = (table) => {
  const line = (cells) => `| ${cells.map((text) => text.replaceAll("\\", "\\\\").replaceAll("|", "\\|")).join(" | ")} |`;
  const heads = headsOf(table);
  return [line(heads), `|${heads.map((_, i) => (i ? "---:" : "---")).join("|")}|`, ...[...table.tBodies[0].rows].map((row) => line([...row.cells].map(shownOf)))].join("\n");
};

const LATEX = { "\\": "\\textbackslash{}", "{": "\\{", "}": "\\}", "&": "\\&", "%": "\\%", $: "\\$", "#": "\\#", _: "\\_", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "−": "$-$", "↑": "$\\uparrow$", "↓": "$\\downarrow$", "×": "$\\times$", "–": "--", "≈": "$\\approx$", "<": "\\textless{}", ">": "\\textgreater{}" };
const asLatex = (table) => {
  const safe = (text) => text.replace(/[\\{}&%$#_~^−↑↓×–≈<>]/g, (letter) => LATEX[letter]);
  const line = (cells) => `${cells.map(safe).join(" & ")} \\\\`;
  const heads = headsOf(table);
  const rows = [...table.tBodies[0].rows].map((row) => line([...row.cells].map(shownOf)));
  return [`% ${table.caption.textContent}`, `\\begin{tabular}{l${"r".repeat(heads.length - 1)}}`, "\\toprule", line(heads), "\\midrule", ...rows, "\\bottomrule", "\\end{tabular}"].join("\n");
};

const FORMATS = { csv: asCsv, markdown: asMarkdown, latex: asLatex };
document.querySelectorAll("button[data-copy]").forEach((button) => {
  const bar = button.parentElement;
  const table = bar.parentElement.querySelector("table");
  button.setAttribute("aria-label", `Copy “${table.caption.textContent}” as ${button.textContent}`);
  button.addEventListener("click", async () => {
    const text = FORMATS[button.dataset.copy](table);
    const said = bar.querySelector("[role=status]");
    bar.querySelector("textarea")?.remove();
    try {
      await navigator.clipboard.writeText(text);
      said.textContent = `copied as ${button.textContent}`;
    } catch {
      // A browser may refuse the clipboard to pages from a file; then the text is shown for copying by hand.
      const area = element("textarea", { rows: 6, "aria-label": `Table as ${button.textContent}` });
      area.value = text;
      bar.append(area);
      area.select();
      said.textContent = "select and copy:";
    }
  });
});

// A printed page cannot be opened up.
window.addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
