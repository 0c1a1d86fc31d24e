// The viewer: one prompt with the pictures of all encoders in full size, moved and magnified together, or two of them under
// a slider or as a difference; below, what the encoders were given and what the judges said.
if (gallery) {
  const { state, items, encoders, metrics, reference, DEFAULTS } = gallery;
  const dialog = document.getElementById("viewer");
  const form = document.getElementById("viewer-form");
  const stage = dialog.querySelector(".stage");
  const details = dialog.querySelector(".details");
  const controls = form.elements;
  const VIEWS = ["all", "slider", "difference"];
  for (const name of ["left", "right"]) controls[name].append(...encoders.map((encoder) => element("option", { value: encoder }, encoder)));

  // One picture of a pane: the small one below, the full one above it where it can be had.
  const layer = (item, e, note) => {
    const made = element("span", { class: "layer" });
    const low = gallery.small(item, e);
    if (low) made.append(low);
    const full = gallery.address(item, e);
    if (full) {
      const picture = element("img", { alt: "", src: full, draggable: "false" });
      picture.addEventListener("error", () => {
        picture.remove();
        note.textContent = " (small picture: the folder of full pictures is not beside this page)";
      });
      made.append(picture);
    } else if (!low) {
      made.append(element("span", { class: "nothing" }, item.images[e] ? "not in this page" : "no image"));
    }
    const drawn = state.boxes && state.view !== "difference" ? gallery.boxes(item, e) : null;
    if (drawn) made.append(drawn);
    return made;
  };

  const pane = (item, chosen) => {
    const note = element("span", { class: "meta" });
    const cuts = chosen.map((e, i) => element("span", { class: i ? "cut over" : "cut" }, layer(item, e, note)));
    const picture = gallery.frame(item, chosen[0], ...cuts, state.view === "slider" ? element("span", { class: "divider" }) : null);
    picture.setAttribute("role", "img");
    const names = chosen.map((e) => encoders[e]).join(state.view === "difference" ? " minus " : " and ");
    picture.setAttribute("aria-label", `${names}: ${item.prompt}`);
    const slider = state.view === "slider" ? element("input", { type: "range", class: "split", min: 0, max: 100, value: 50, "aria-label": "Share of the left picture", oninput: (event) => stage.style.setProperty("--split", `${event.target.value}%`) }) : null;
    return element("figure", { class: "pane" }, picture, slider, element("figcaption", {}, element("b", {}, chosen.length > 1 ? `${encoders[chosen[0]]} | ${encoders[chosen[1]]}` : `${chosen[0] < 9 ? `${chosen[0] + 1} · ` : ""}${encoders[chosen[0]]}`), note));
  };

  const move = () => {
    stage.style.setProperty("--zoom", state.zoom);
    stage.style.setProperty("--x", state.x);
    stage.style.setProperty("--y", state.y);
    controls.zoom.textContent = `${Number(state.zoom).toFixed(1)}×`;
  };
  // Magnifies by `factor` around a point, given in shares of the pane, and keeps the picture in its frame.
  const zoom = (factor, px = 0.5, py = 0.5) => {
    const [old, wanted] = [Number(state.zoom), Math.min(16, Math.max(1, Number(state.zoom) * factor))];
    const keep = (offset, point) => 100 * point - ((100 * point - offset) * wanted) / old;
    const inside = (offset) => Math.min(0, Math.max(100 - 100 * wanted, offset));
    state.zoom = String(Number(wanted.toFixed(3)));
    state.x = String(Number(inside(keep(Number(state.x), px)).toFixed(2)));
    state.y = String(Number(inside(keep(Number(state.y), py)).toFixed(2)));
    move();
    gallery.write();
  };
  const pan = (dx, dy) => {
    const low = 100 - 100 * Number(state.zoom);
    state.x = String(Number(Math.min(0, Math.max(low, Number(state.x) + dx)).toFixed(2)));
    state.y = String(Number(Math.min(0, Math.max(low, Number(state.y) + dy)).toFixed(2)));
    move();
    gallery.write();
  };

  const tokens = (item) => {
    const lists = item.tokens ?? [];
    if (!lists.length) return [element("p", { class: "meta" }, "The run has no table of tokens for this prompt, so padding and cut pieces are not known.")];
    return lists.flatMap(({ encoders: readers, pieces, kept, length }) => {
      const cut = pieces.length - kept;
      const names = readers.map((e) => encoders[e]).join(", ");
      const said = `${names}: ${kept} of ${length} places used, ${length - kept} padding, ${cut} cut`;
      // The end piece of a cut prompt moves to the last place that is kept.
      const marked = pieces.map((piece, i) => {
        const lost = cut > 0 && i >= kept - 1 && i < pieces.length - 1;
        return element("li", { class: lost ? "cut-token" : null, title: lost ? "cut" : null }, piece);
      });
      const padding = length > kept ? element("li", { class: "padding" }, `${length - kept} × padding`) : null;
      return [element("p", { class: "meta" }, said), element("ol", { class: "tokens", "aria-label": said, dir: "ltr" }, ...marked, padding)];
    });
  };

  const evidence = (item, e) => {
    const image = item.images[e];
    if (!image) return null;
    const lines = [];
    for (const [phrase, yes] of image.answers ?? []) lines.push(["“", phrase, `”? yes with ${yes.toFixed(3)}`]);
    for (const [noun, asked, found] of image.counts ?? []) lines.push([`${noun}: ${found} found, ${asked} asked`]);
    if (image.relation) lines.push([`asked: ${image.relation}`]);
    if (image.boxes) lines.push([image.boxes.length ? `found: ${image.boxes.map(([label, certain]) => `${label} ${certain.toFixed(2)}`).join(", ")}` : "the detector found nothing"]);
    if (image.read) lines.push(["read: ", gallery.difference(image.read)]);
    for (const [metric, text] of image.other ?? []) lines.push([`${metric}: ${text}`]);
    if (!lines.length) return null;
    return element("div", {}, element("h4", {}, encoders[e]), element("ul", {}, ...lines.map((parts) => element("li", { dir: "auto" }, ...parts))));
  };

  const scores = (item) => {
    const shown = metrics.map((_, m) => m).filter((m) => item.images.some((image) => image?.scores.some(([own]) => own === m)));
    if (!shown.length) return element("p", { class: "meta" }, "No metric scored these images.");
    const cell = (e, m) => {
      const number = gallery.score(item, e, m);
      return element("td", { class: "number" }, number === undefined ? "–" : gallery.value(number));
    };
    const head = element("tr", {}, element("th", { scope: "col" }, "Encoder"), ...shown.map((m) => element("th", { scope: "col" }, metrics[m].title)));
    const rows = encoders.map((name, e) => (item.images[e] ? element("tr", {}, element("th", { scope: "row" }, name), ...shown.map((m) => cell(e, m))) : null));
    return element("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Scores of these images" }, element("table", {}, element("caption", {}, "Scores of these images"), element("thead", {}, head), element("tbody", {}, ...rows)));
  };

  const show = () => {
    const item = gallery.current();
    if (!item) return;
    dialog.querySelector("h3").textContent = item.prompt;
    dialog.querySelector("header .meta").textContent = gallery.describe(item);
    const [left, right] = [encoders.indexOf(state.left), encoders.indexOf(state.right)];
    for (const radio of form.querySelectorAll("[name=view]")) radio.checked = radio.value === state.view;
    for (const name of ["left", "right", "gain"]) controls[name].value = state[name];
    controls.left.disabled = controls.right.disabled = state.view === "all";
    controls.gain.disabled = state.view !== "difference";
    controls.boxes.checked = state.boxes === "1";
    stage.className = `stage ${state.view === "all" ? "" : "pair"} ${state.view}`;
    stage.style.setProperty("--gain", state.gain);
    stage.style.setProperty("--split", "50%");
    // Of two cuts the left encoder lies below and shows to the left of the divider.
    stage.replaceChildren(...(state.view === "all" ? encoders.map((_, e) => pane(item, [e])) : [pane(item, [left, right])]));
    const told = encoders.map((_, e) => evidence(item, e)).filter(Boolean);
    details.replaceChildren(
      element("h4", {}, "What the encoders are given"), ...tokens(item),
      scores(item),
      ...(told.length ? [element("h4", {}, "What the judges saw"), element("div", { class: "evidence" }, ...told)] : []));
    move();
  };

  gallery.open = (item, e) => {
    state.item = item.id;
    if (!VIEWS.includes(state.view)) state.view = "all";
    if (!encoders.includes(state.left)) state.left = encoders[reference];
    if (e !== undefined) state.right = encoders[e];
    if (!encoders.includes(state.right)) state.right = encoders[gallery.data.headline];
    if (!dialog.open) dialog.showModal();
    show();
    gallery.write();
  };

  dialog.addEventListener("close", () => {
    for (const name of ["view", "left", "right", "gain", "zoom", "x", "y"]) state[name] = DEFAULTS[name];
    gallery.draw(true);
    gallery.focus("nearest");
    gallery.write();
  });
  dialog.querySelector("[name=close]").addEventListener("click", () => dialog.close());
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => {
    for (const name of ["left", "right", "gain"]) state[name] = controls[name].value;
    state.view = form.querySelector("[name=view]:checked").value;
    state.boxes = controls.boxes.checked ? "1" : "";
    gallery.form.elements.boxes.checked = controls.boxes.checked;
    show();
    gallery.write();
  });
  controls.in.addEventListener("click", () => zoom(1.5));
  controls.out.addEventListener("click", () => zoom(1 / 1.5));

  // The wheel magnifies around the pointer, dragging moves; all panes follow, since they share the same numbers.
  stage.addEventListener("wheel", (event) => {
    const box = event.target.closest(".picture")?.getBoundingClientRect();
    if (!box) return;
    event.preventDefault();
    zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2, (event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
  }, { passive: false });
  stage.addEventListener("pointerdown", (event) => {
    const picture = event.target.closest(".picture");
    if (!picture) return;
    picture.setPointerCapture(event.pointerId);
    const box = picture.getBoundingClientRect();
    const drag = (moved) => pan((100 * moved.movementX) / box.width, (100 * moved.movementY) / box.height);
    const stop = () => picture.removeEventListener("pointermove", drag);
    picture.addEventListener("pointermove", drag);
    picture.addEventListener("pointerup", stop, { once: true });
    picture.addEventListener("pointercancel", stop, { once: true });
  });

  const ARROWS = { ArrowLeft: [10, 0], ArrowRight: [-10, 0], ArrowUp: [0, 10], ArrowDown: [0, -10] };
  document.addEventListener("keydown", (event) => {
    const writes = event.target.matches?.("textarea, select, input:not([type=radio]):not([type=checkbox]):not([type=range])");
    if (event.ctrlKey || event.metaKey || event.altKey || writes) return;
    const key = event.key.toLowerCase();
    const digit = /^Digit([1-9])$/.exec(event.code)?.[1] ?? /^[1-9]$/.exec(key)?.[0];
    if (key === "j" || key === "k") {
      gallery.step(key === "j" ? 1 : -1);
      if (dialog.open) show();
      else gallery.focus("start");
    } else if (digit && Number(digit) <= encoders.length) {
      const e = Number(digit) - 1;
      const item = gallery.current() ?? gallery.step(1);
      if (!item) return;
      if (!dialog.open) state.view = "slider";
      if (dialog.open && event.shiftKey) state.left = encoders[e];
      else state.right = encoders[e];
      if (dialog.open && state.view === "all") state.view = "slider";
      gallery.open(item);
    } else if (key === "enter" && !dialog.open && event.target.matches?.(".prompt")) {
      gallery.open(gallery.current());
    } else if (!dialog.open) {
      return;
    } else if (key === "v") {
      state.view = VIEWS[(VIEWS.indexOf(state.view) + 1) % VIEWS.length];
      show();
      gallery.write();
    } else if (key === "+" || key === "=") zoom(1.5);
    else if (key === "-") zoom(1 / 1.5);
    else if (key === "0") zoom(1 / 16);
    else if (ARROWS[event.key] && !event.target.matches?.("input")) pan(...ARROWS[event.key]);
    else return;
    event.preventDefault();
  });

  const arrive = () => {
    gallery.read();
    gallery.filter();
    if (!location.hash.startsWith("#?")) return;
    const item = items.find((other) => other.id === state.item);
    if (item && VIEWS.includes(state.view)) gallery.open(item);
    else {
      if (dialog.open) dialog.close();
      if (item) gallery.focus("start");
      else document.getElementById("images").scrollIntoView();
    }
  };
  window.addEventListener("hashchange", () => {
    if (location.hash.startsWith("#?")) arrive();
  });
  arrive();
}
