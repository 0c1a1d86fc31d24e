// The images: which prompts are shown, in which order, and what stands in the address. Only one page of prompts is in the
// document at a time, so that thousands of them open as quickly as ten.
const gallery = (() => {
  const form = document.getElementById("filters");
  if (!form) return null;
  const data = JSON.parse(document.getElementById("gallery-data").textContent);
  const strips = document.getElementById("strips").textContent.split("\n");
  const pictures = document.getElementById("pictures").textContent.split("\n");
  const grid = document.getElementById("grid");
  const PAGE = 20;
  const { encoders, metrics, items, reference } = data;
  items.forEach((item, i) => {
    item.strip = strips[i] ?? "";
    item.words = item.prompt.trim().split(/\s+/).length;
    item.search = item.prompt.toLowerCase();
  });

  // What the address can hold; defaults are left out of it.
  const DEFAULTS = { dataset: "", category: "", words: "", text: "", order: "", of: encoders[data.headline], boxes: "", item: "", view: "", left: "", right: "", gain: "1", zoom: "1", x: "0", y: "0" };
  const state = { ...DEFAULTS };

  // Lengths in thirds of the prompts, named by their bounds in words.
  const counts = items.map((item) => item.words).sort((a, b) => a - b);
  const third = (k) => counts[Math.min(counts.length - 1, Math.floor((k * counts.length) / 3))];
  const lengths = [[1, third(1)], [third(1) + 1, third(2)], [third(2) + 1, counts[counts.length - 1]]].filter(([low, high]) => low <= high);

  const option = (value, text) => element("option", { value }, text ?? value);
  const fill = (name, values) => form.elements[name].append(...values.map((value) => (Array.isArray(value) ? option(...value) : option(value))));
  const distinct = (key) => [...new Set(items.map((item) => item[key]))].sort();
  fill("dataset", distinct("dataset"));
  fill("category", distinct("category"));
  fill("words", lengths.map(([low, high]) => [`${low}-${high}`, `${low}–${high} words`]));
  fill("of", encoders.filter((_, e) => e !== reference).map((name) => [name, name]));
  if (encoders.length < 2) form.elements.of.append(option(encoders[0]));

  const score = (item, e, metric) => item.images[e]?.scores.find(([m]) => m === metric)?.[1];
  // How much better an encoder is than the reference on the metric the prompt was made for.
  const gain = (item, e) => {
    const [own, other] = [score(item, e, item.metric), score(item, reference, item.metric)];
    if (own === undefined || other === undefined || e === reference) return null;
    return metrics[item.metric].lower ? other - own : own - other;
  };

  const matching = () => {
    const [low, high] = state.words ? state.words.split("-").map(Number) : [0, Infinity];
    const words = state.text.toLowerCase().split(/\s+/).filter(Boolean);
    const found = items.filter((item) => (!state.dataset || item.dataset === state.dataset) && (!state.category || item.category === state.category)
      && item.words >= low && item.words <= high && words.every((word) => item.search.includes(word)));
    if (!state.order) return found;
    const sign = state.order === "best" ? -1 : 1;
    const e = encoders.indexOf(state.of);
    const change = new Map(found.map((item) => [item, gain(item, e)]));
    return found.sort((a, b) => {
      const [x, y] = [change.get(a), change.get(b)];
      return x === null || y === null ? (x === null) - (y === null) : sign * (x - y);
    });
  };

  // The small picture of an encoder: a part of the prompt's strip.
  const small = (item, e) => {
    if (!item.strip) return null;
    const n = encoders.length;
    const made = element("span", { class: "small" });
    made.style.backgroundImage = `url(data:image/jpeg;base64,${item.strip})`;
    made.style.backgroundSize = `${100 * n}% 100%`;
    made.style.backgroundPosition = `${n > 1 ? (100 * e) / (n - 1) : 0}% 0`;
    return made;
  };
  const address = (item, e) => {
    const full = item.images[e]?.full;
    return full?.startsWith("#") ? `data:image/png;base64,${pictures[Number(full.slice(1))]}` : full;
  };
  const frame = (item, e, ...inside) => {
    const box = element("span", { class: data.cell[0] < 100 ? "picture coarse" : "picture" }, ...inside);
    box.style.aspectRatio = `${data.cell[0]} / ${data.cell[1]}`;
    return box;
  };
  const NS = "http://www.w3.org/2000/svg";
  const boxes = (item, e, size) => {
    const found = item.images[e]?.boxes;
    if (!found?.length) return null;
    const svg = document.createElementNS(NS, "svg");
    const [width, height] = size ?? data.natural;
    const set = (tag, properties, text) => {
      const made = document.createElementNS(NS, tag);
      for (const [name, value] of Object.entries(properties)) made.setAttribute(name, value);
      if (text) made.textContent = text;
      svg.append(made);
    };
    svg.setAttribute("class", "boxes");
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("aria-hidden", "true");
    for (const [label, certain, x0, y0, x1, y1] of found) {
      set("rect", { x: x0, y: y0, width: x1 - x0, height: y1 - y0 });
      // Magnified boxes keep letters of one size.
      set("text", { x: x0, y: Math.max(y0 - height / 60, height / 14), style: `font-size: calc(${height / 14}px / var(--zoom, 1))` }, `${label} ${certain.toFixed(2)}`);
    }
    return svg;
  };

  const digits = (number) => (number >= 10 ? number.toFixed(1) : number.toFixed(2));
  const value = (number) => `${number < 0 ? "−" : ""}${digits(Math.abs(number))}`;
  const signed = (number) => `${number < 0 ? "−" : "+"}${digits(Math.abs(number))}`;
  // What was read: missing letters struck out, extra ones underlined; in words for those who do not see it.
  const difference = (read) => element("span", { class: "ocr" },
    ...read.map(([fate, text]) => element({ same: "span", missing: "del", extra: "ins" }[fate], {}, text)),
    read.some(([fate]) => fate !== "missing") ? null : element("i", {}, " nothing read"));

  const caption = (item, e) => {
    const image = item.images[e];
    const parts = [element("b", {}, `${e < 9 ? `${e + 1} · ` : ""}${encoders[e]}`)];
    if (!image) return parts;
    const main = image.scores.filter(([m]) => m === item.metric || metrics[m].title === "CLIP score");
    for (const [m, number] of main) parts.push(element("span", {}, `${metrics[m].title} ${value(number)}`));
    const change = gain(item, e);
    if (change !== null) parts.push(element("span", { class: "change" }, `${signed(change)} to ${encoders[reference]}`));
    if (image.read) parts.push(difference(image.read));
    for (const [noun, asked, found] of image.counts ?? []) parts.push(element("span", {}, `${noun}: ${found} found, ${asked} asked`));
    return parts;
  };

  const figure = (item, e) => {
    const image = item.images[e];
    let inside = element("span", { class: "nothing" }, image ? "not in this page" : "no image");
    if (image) {
      const picture = small(item, e);
      const full = picture ? null : address(item, e);
      if (picture) inside = picture;
      else if (full) inside = element("img", { loading: "lazy", decoding: "async", alt: "", src: full });
    }
    const picture = frame(item, e, inside, image && state.boxes ? boxes(item, e) : null);
    const scores = image ? image.scores.slice(0, 3).map(([m, number]) => `${metrics[m].title} ${value(number)}`).join(", ") : "no image";
    const open = element("button", { type: "button", class: "open", "aria-label": `Compare ${encoders[e]}: ${item.prompt}; ${scores}`, onclick: () => gallery.open(item, e) }, picture);
    return element("figure", {}, open, element("figcaption", { dir: "auto" }, ...caption(item, e)));
  };

  const describe = (item) => {
    const draws = items.some((other) => other.draw > 1) ? ` · image ${item.draw}` : "";
    const target = item.target ? ` · should read “${item.target}”` : "";
    return `${item.dataset} · ${item.category} · ${item.words} ${item.words === 1 ? "word" : "words"} · seed ${item.seed} · guidance ${item.guidance} · ${item.steps} steps${draws}${target}`;
  };

  const article = (item) => element("article", { class: "prompt", id: item.id, tabindex: "-1", "aria-label": item.prompt },
    element("h3", { dir: "auto" }, item.prompt),
    element("p", { class: "meta" }, describe(item)),
    element("div", { class: "row" }, ...encoders.map((_, e) => figure(item, e))));

  let found = [];
  let drawn = null;
  const pagers = [...document.querySelectorAll(".pager")];
  const page = () => Math.max(0, Math.floor(found.findIndex((item) => item.id === state.item) / PAGE));

  // Draws the page that holds the current prompt; `again` also where it is drawn already.
  const draw = (again) => {
    const at = page();
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    if (again || drawn !== at) grid.replaceChildren(...found.slice(at * PAGE, (at + 1) * PAGE).map(article));
    drawn = at;
    for (const part of pagers) {
      part.hidden = pages < 2;
      part.querySelector("span").textContent = `page ${at + 1} of ${pages}`;
      const [back, on] = part.querySelectorAll("button");
      back.disabled = at === 0;
      on.disabled = at === pages - 1;
    }
    for (const part of grid.children) part.classList.toggle("current", part.id === state.item);
    form.querySelector("output").textContent = found.length ? `${found.length} of ${items.length} images per encoder` : "no prompt matches these filters";
  };

  const filter = () => {
    found = matching();
    if (!found.some((item) => item.id === state.item) && !state.view) state.item = "";
    draw(true);
  };

  let waiting;
  const write = () => {
    // Browsers limit how often the address may change; the last state counts.
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      const held = new URLSearchParams();
      for (const [name, value] of Object.entries(state)) if (value !== DEFAULTS[name]) held.set(name, value);
      const text = held.toString();
      history.replaceState(null, "", text ? `#?${text}` : location.hash.startsWith("#?") ? "#images" : location.hash || location.pathname);
    }, 60);
  };

  const read = () => {
    const held = new URLSearchParams(location.hash.startsWith("#?") ? location.hash.slice(2) : "");
    for (const name of Object.keys(DEFAULTS)) state[name] = held.get(name) ?? DEFAULTS[name];
    if (!encoders.includes(state.of)) state.of = DEFAULTS.of;
    for (const name of ["dataset", "category", "words", "text", "order", "of"]) form.elements[name].value = state[name];
    form.elements.boxes.checked = state.boxes === "1";
  };

  const step = (by) => {
    if (!found.length) return null;
    const at = found.findIndex((item) => item.id === state.item);
    const next = found[at < 0 ? 0 : Math.min(Math.max(at + by, 0), found.length - 1)];
    state.item = next.id;
    draw(false);
    write();
    return next;
  };
  const focus = (block) => {
    const part = state.item && document.getElementById(state.item);
    part?.focus({ preventScroll: true });
    part?.scrollIntoView({ block });
  };

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => {
    for (const name of ["dataset", "category", "words", "text", "order", "of"]) state[name] = form.elements[name].value;
    state.boxes = form.elements.boxes.checked ? "1" : "";
    filter();
    write();
  });
  for (const part of pagers) {
    part.addEventListener("click", (event) => {
      const by = Number(event.target.closest("button")?.dataset.step ?? 0);
      if (!by) return;
      state.item = found[(page() + by) * PAGE].id;
      draw(false);
      write();
      focus("start");
    });
  }
  grid.addEventListener("focusin", (event) => {
    const part = event.target.closest(".prompt");
    if (part && part.id !== state.item) {
      state.item = part.id;
      draw(false);
      write();
    }
  });
  form.hidden = false;
  // The bars that stay on top are as high as their text needs; what is scrolled to stops below them.
  const measure = () => {
    const nav = document.querySelector("nav").offsetHeight;
    document.documentElement.style.setProperty("--nav", `${nav}px`);
    document.documentElement.style.setProperty("--bars", `${nav + form.offsetHeight}px`);
  };
  new ResizeObserver(measure).observe(form);
  measure();
  return { data, state, form, items, encoders, metrics, reference, DEFAULTS, small, address, frame, boxes, value, signed, difference, describe, gain, score, step, focus, read, write, filter, draw, current: () => items.find((item) => item.id === state.item) };
})();
