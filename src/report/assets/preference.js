// Asks for one choice after the other and keeps the votes: in the browser's store while it works, as a file in the end.
const data = JSON.parse(document.getElementById("pairs").textContent);
const pictures = document.getElementById("pictures").textContent.split("\n");
const page = document.getElementById("script").dataset.page;
const at = (id) => document.getElementById(id);

// A generator of numbers in [0, 1) seeded by a text (FNV-1a into a Weyl sequence with a mixing function), so that a rater who
// comes back meets the same order and the same sides.
const numbers = (text) => {
  let seed = 2166136261;
  for (const letter of text) seed = Math.imul(seed ^ letter.codePointAt(0), 16777619);
  return () => {
    seed = (seed + 0x9e3779b9) | 0;
    let mixed = Math.imul(seed ^ (seed >>> 16), 0x85ebca6b);
    mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35);
    return ((mixed ^ (mixed >>> 16)) >>> 0) / 4294967296;
  };
};
const shuffled = (list, random) => {
  const copy = [...list];
  for (let i = copy.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [copy[i], copy[j]] = [copy[j], copy[i]];
  }
  return copy;
};
// As many of one side as of the other; of an odd number the last one is drawn.
const sides = (n, random) => shuffled(Array.from({ length: n }, (_, i) => (i === n - 1 && n % 2 ? random() < 0.5 : i % 2 === 0)), random);

const trials = (rater) => {
  const random = numbers(`${page}|${rater}`);
  const first = sides(data.pairs.length, random);
  const asked = shuffled(data.pairs.map((pair, i) => ({
    ...pair, attention: null, left: data.encoders[first[i] ? 0 : 1],
    shown: first[i] ? pair.pictures : [pair.pictures[1], pair.pictures[0]],
  })), random);
  const whole = sides(data.checks.length, random);
  // Checks are spread evenly: one somewhere in every stretch of pairs.
  const stretch = asked.length / Math.max(1, data.checks.length);
  shuffled(data.checks, random).forEach((check, i) => {
    const place = Math.floor((i + random()) * stretch) + i;
    asked.splice(place, 0, {
      ...check, attention: whole[i] ? "left" : "right", left: data.encoders[0],
      shown: whole[i] ? [check.whole, check.shuffled] : [check.shuffled, check.whole],
    });
  });
  return asked;
};

let rater = "";
let asked = [];
let votes = [];
let since = 0;
const store = () => `scaledown ${page} ${rater}`;
// Pages from a file may be refused a store; then the votes live as long as the page.
const remember = () => { try { localStorage.setItem(store(), JSON.stringify(votes)); } catch { /* kept in memory */ } };
const recall = () => { try { return JSON.parse(localStorage.getItem(store()) ?? "[]"); } catch { return []; } };

const only = (id) => { for (const other of ["start", "ask", "end"]) at(other).hidden = other !== id; };
const exported = () => JSON.stringify({
  version: 1, encoders: data.encoders, rater, page,
  votes: votes.map(({ pair, left, choice, attention, milliseconds }) => ({ pair, left, choice, attention, milliseconds })),
}, null, 1);

const end = () => {
  only("end");
  at("summary").textContent = `${votes.length} of ${asked.length} answered.`;
  at("more").hidden = votes.length >= asked.length;
  at("votes").value = exported();
  at("end").querySelector("h2").focus();
};
const show = () => {
  if (votes.length >= asked.length) return end();
  only("ask");
  const trial = asked[votes.length];
  at("progress").textContent = `${votes.length + 1} of ${asked.length}`;
  at("prompt").textContent = trial.prompt;
  ["left", "right"].forEach((side, i) => {
    const image = at(side);
    image.onload = () => image.classList.toggle("coarse", image.naturalWidth < 200);
    image.src = pictures[trial.shown[i]];
  });
  at("back").disabled = votes.length === 0;
  at("prompt").focus({ preventScroll: true });
  since = performance.now();
};
const choose = (choice) => {
  const { pair, left, attention } = asked[votes.length];
  votes.push({ pair, left, choice, attention, milliseconds: Math.round(performance.now() - since) });
  remember();
  show();
};
const back = () => {
  if (!votes.length) return;
  votes.pop();
  remember();
  show();
};

at("who").addEventListener("submit", (event) => {
  event.preventDefault();
  rater = event.target.elements.rater.value.trim();
  if (!rater) return;
  asked = trials(rater);
  votes = recall().slice(0, asked.length);
  show();
});
document.querySelectorAll("[data-choice]").forEach((button) => button.addEventListener("click", () => choose(button.dataset.choice)));
at("back").addEventListener("click", back);
at("pause").addEventListener("click", end);
at("more").addEventListener("click", show);
at("save").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([exported()], { type: "application/json" }));
  link.download = `votes-${rater.replace(/[^\p{L}\p{N}]+/gu, "-")}.json`;
  link.click();
});
document.addEventListener("keydown", (event) => {
  if (at("ask").hidden || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const choice = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "tie" }[event.key];
  if (choice) choose(choice);
  else if (event.key === "Backspace") back();
  else return;
  event.preventDefault();
});
