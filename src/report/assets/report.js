"use strict";

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

// CSV: plain values of the cells; intervals follow in their own column where a cell has one.
document.querySelectorAll("button.csv").forEach((button) => {
  button.addEventListener("click", async () => {
    const table = button.parentElement.querySelector("table");
    const quote = (text) => `"${String(text).replaceAll('"', '""')}"`;
    const heads = [...table.tHead.rows[0].cells].map((cell) => cell.querySelector("button").textContent);
    const lines = [heads.flatMap((head) => [head, `${head} interval`])];
    for (const row of table.tBodies[0].rows) {
      lines.push([...row.cells].flatMap((cell) => [cell.dataset.value, cell.querySelector(".interval")?.textContent ?? ""]));
    }
    const filled = lines[0].map((_, i) => lines.slice(1).some((line) => line[i] !== ""));
    const csv = lines.map((line) => line.filter((_, i) => filled[i]).map(quote).join(",")).join("\n");
    try {
      await navigator.clipboard.writeText(csv);
      button.textContent = "Copied";
    } catch {
      // Pages opened from a file may not write to the clipboard; show the text instead.
      const area = document.createElement("textarea");
      area.value = csv;
      area.rows = 6;
      area.setAttribute("aria-label", "Table as CSV");
      button.after(area);
      area.select();
    }
  });
});

// The grid: filters and order live in the address, so that a view can be linked.
const form = document.querySelector("form.filters");
if (form) {
  const grid = document.querySelector(".grid");
  const prompts = [...grid.children];
  const visible = () => [...grid.children].filter((prompt) => !prompt.hidden);

  const apply = () => {
    const { category, text, order, boxes } = form.elements;
    const words = text.value.toLowerCase();
    let shown = 0;
    for (const prompt of prompts) {
      const { dataset } = prompt;
      const hit = (category.value === "" || `${dataset.dataset}/${dataset.category}` === category.value) && dataset.text.includes(words);
      prompt.hidden = !hit;
      shown += hit;
    }
    const change = (prompt) => (prompt.dataset.change === "" ? null : Number(prompt.dataset.change));
    const sign = order.value === "best" ? -1 : 1;
    const ordered = order.value === "" ? prompts : [...prompts].sort((a, b) => {
      const [x, y] = [change(a), change(b)];
      if (x === null || y === null) return (x === null) - (y === null);
      return sign * (x - y);
    });
    grid.append(...ordered);
    grid.classList.toggle("show-boxes", boxes.checked);
    form.querySelector("output").textContent = `${shown} of ${prompts.length} prompts`;
  };

  const write = () => {
    const state = new URLSearchParams();
    for (const name of ["category", "text", "order"]) if (form.elements[name].value) state.set(name, form.elements[name].value);
    if (form.elements.boxes.checked) state.set("boxes", "1");
    history.replaceState(null, "", state.size || location.hash.startsWith("#?") ? `#?${state}` : location.hash || location.pathname);
  };

  const read = () => {
    if (!location.hash.startsWith("#?")) return;
    const state = new URLSearchParams(location.hash.slice(2));
    for (const name of ["category", "text", "order"]) form.elements[name].value = state.get(name) ?? "";
    form.elements.boxes.checked = state.has("boxes");
    document.getElementById("images").scrollIntoView();
  };

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => { apply(); write(); });
  window.addEventListener("hashchange", () => { read(); apply(); });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    const step = { j: 1, k: -1 }[event.key.toLowerCase()];
    if (!step) return;
    const list = visible();
    const at = list.indexOf(document.activeElement.closest(".prompt"));
    const next = list[at < 0 ? 0 : Math.min(Math.max(at + step, 0), list.length - 1)];
    next?.focus({ preventScroll: true });
    next?.scrollIntoView({ block: "start" });
    event.preventDefault();
  });
  read();
  apply();
}
