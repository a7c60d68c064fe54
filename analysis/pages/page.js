"use strict";
// Toggles, sorting, comparison, copying and downloads. Without it the page shows everything.
const data = JSON.parse(document.getElementById("data").textContent);
const all = (query, root = document) => [...root.querySelectorAll(query)];
const node = (tag, text, more = {}) => Object.assign(document.createElement(tag), {textContent: text, ...more});
all("[data-script]").forEach(e => { e.hidden = false; });

// optimizer (o), size (s), ratio (r): one style rule per toggle that is off
const rules = document.head.appendChild(document.createElement("style"));
function show() {
  rules.textContent = all(".filters button[aria-pressed=false]")
    .map(b => `[data-${b.dataset.key}="${CSS.escape(b.dataset.value)}"]:not(button){display:none}`).join("");
}
all(".filters button").forEach(b => b.addEventListener("click", event => {
  const alike = all(`.filters button[data-key=${b.dataset.key}]`);
  const on = b.getAttribute("aria-pressed") === "true";
  if (event.detail === 2) alike.forEach(x => x.setAttribute("aria-pressed", x === b));  // this one alone
  else b.setAttribute("aria-pressed", !on);
  if (alike.every(x => x.getAttribute("aria-pressed") === "false")) alike.forEach(x => x.setAttribute("aria-pressed", true));
  show();
}));

// tables: sort by a heading, filter by words
const key = cell => !cell ? "" : cell.dataset.v === undefined ? cell.textContent : Number(cell.dataset.v);
all("th button").forEach(b => b.addEventListener("click", () => {
  const th = b.parentElement, table = th.closest("table"), column = [...th.parentElement.children].indexOf(th);
  const up = th.getAttribute("aria-sort") !== "ascending";
  all("th", table).forEach(x => x.removeAttribute("aria-sort"));
  th.setAttribute("aria-sort", up ? "ascending" : "descending");
  const rows = [...table.tBodies[0].rows].map((row, i) => [key(row.cells[column]), i, row]);
  const empty = v => v === "" || Number.isNaN(v);
  rows.sort(([a, i], [b, j]) => empty(a) - empty(b)
    || (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b))) * (up ? 1 : -1) || i - j);
  table.tBodies[0].append(...rows.map(r => r[2]));
}));
all("input[data-filter]").forEach(input => input.addEventListener("input", () => {
  const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
  all("tbody tr", input.closest("div.table")).forEach(row => {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every(w => text.includes(w));
  });
}));

// compare A with B, tuned winners by the pairs of numbers.csv, settings by their runs
const versus = data.compare, body = document.getElementById("compared");
const menu = (what, who) => document.getElementById(what + "-" + who);
function digits(value, half) {  // as many as the interval allows, like analysis.pages.view.digits
  if (!(half > 0) || !Number.isFinite(half)) return value.toFixed(4);
  const power = Math.floor(Math.log10(half));
  const text = value.toFixed(Math.max(0, (half / 10 ** power < 3) - power));
  return Number(text) ? text : text.replace("-", "");
}
function tuned(a, b, race) {
  const there = versus.pairs[[a.o, b.o, race].join("|")], back = versus.pairs[[b.o, a.o, race].join("|")];
  if (!there && !back) return null;
  const [value, low, high, note, tip] = there || back;
  return there ? {value, low, high, note, tip} : {value: -value, low: -high, high: -low, note, tip};
}
function trained(a, b, race) {  // runs of a setting on each seed; "" is the setting that won the race
  const sides = [a, b].map(({o, s}) => {
    const {runs, won} = versus.settings[o], chosen = won[race] || [], at = s === "" ? chosen[0] : Number(s);
    const mine = runs.filter(r => r[0] === race && r[1] === at);
    return {bySeed: new Map(mine.map(r => [r[2], r])), luck: at === chosen[0] ? chosen[1] : null};
  });
  const [x, y] = sides.map(side => side.bySeed);
  if (!x.size || !y.size) return null;
  const common = [...x.keys()].filter(seed => y.has(seed)), mean = v => v.reduce((p, q) => p + q, 0) / v.length;
  const used = sides.map(side => common.length ? common : [...side.bySeed.keys()]);
  const [lossA, lossB] = sides.map((side, i) => mean(used[i].map(seed => side.bySeed.get(seed)[3])));
  const part = !common.length ? "total" : a.o === b.o ? "residual" : "paired", noise = versus.races[race][3][part];
  const value = lossB - lossA, note = [];
  let half = NaN;
  if (noise) {
    half = noise[1] * noise[0] * Math.sqrt(1 / used[0].length + 1 / used[1].length);
    const seeds = Math.ceil(2 * ((noise[1] + versus.power) * noise[0] / value) ** 2);
    note.push(Math.abs(value) > half ? "resolved, this pair alone" : seeds > 1000
      ? "not resolved; no more seeds would, were this gap the true one"
      : `not resolved; ${seeds} fresh seeds of both would, were this gap the true one`);
  } else note.push("the noise is unknown");
  note.push(common.length ? `on seed ${common.join(", ")}` : "on different seeds");
  sides.forEach((side, i) => { if (used[i].includes(side.luck)) note.push(`${"AB"[i]} was chosen for its loss on seed ${side.luck}`); });
  const tip = sides.map((side, i) => "AB"[i] + ": runs " + used[i].map(seed => side.bySeed.get(seed)[4]).join(", ")).join("; ");
  return {value, low: value - half, high: value + half, note: note.join("; "), tip};
}
function compare() {
  const [a, b] = ["a", "b"].map(who => ({o: menu("optimizer", who).value, s: menu("setting", who).value}));
  const same = a.o === b.o && a.s === b.s;
  body.replaceChildren();
  versus.races.forEach(([size, ratio, worth], race) => {
    const found = same ? null : a.s + b.s === "" ? tuned(a, b, race) : trained(a, b, race);
    if (!found) return;
    const half = (found.high - found.low) / 2, show = v => Number.isFinite(v) ? digits(v, half) : "";
    const cost = what => {  // of a token, A's over B's
      const [p, q] = [a.o, b.o].map(o => o === versus.baseline ? 1 : versus.costs[[o, size, what].join("|")]);
      return a.o === b.o ? 1 : p && q ? p / q : NaN;
    };
    const equal = what => worth === null ? NaN : found.value - worth * Math.log(cost(what));
    const speed = [a, b].map(x => x.s === "" ? versus.speed[x.o + "|" + race] : "");
    const row = body.appendChild(node("tr", ""));
    Object.assign(row.dataset, {s: size, r: ratio});
    const numbers = [found.value, null, equal("flops"), equal("seconds"), cost("bytes")];
    [size, ratio + "×", show(found.value), Number.isFinite(half) ? `${show(found.low)} to ${show(found.high)}` : "",
      show(numbers[2]), show(numbers[3]), Number.isFinite(numbers[4]) ? numbers[4].toPrecision(3) : "",
      speed[0] && speed[1] ? speed.join(" | ") : "", found.note,
    ].forEach((text, i) => {
      const cell = row.appendChild(node("td", text, {title: i > 1 ? found.tip : ""}));
      if (Number.isFinite(numbers[i - 2])) cell.dataset.v = numbers[i - 2];
    });
  });
  if (!body.rows.length) body.appendChild(node("tr", "")).append(node("td", same ? "Choose two that differ."
    : "They did not meet in a race" + (a.s + b.s === "" ? " whose noise is known." : "."), {colSpan: 9}));
}
function listSettings(who) {
  const words = versus.settings[menu("optimizer", who).value].words;
  menu("setting", who).replaceChildren(node("option", "what won each race", {value: ""}),
    ...words.map((text, i) => node("option", text || "its only setting", {value: i})));
}
if (body) {
  for (const who of ["a", "b"]) {
    listSettings(who);
    menu("optimizer", who).addEventListener("change", () => { listSettings(who); compare(); });
    menu("setting", who).addEventListener("change", compare);
  }
  compare();
}

// copy and download
all("button[data-copy]").forEach(b => b.addEventListener("click", async () => {
  const text = b.parentElement.querySelector("code").textContent;
  try { await navigator.clipboard.writeText(text); b.textContent = "copied"; }
  catch { getSelection().selectAllChildren(b.parentElement.querySelector("code")); b.textContent = "selected"; }
}));
function save(name, kind, text) {
  const link = node("a", "", {href: URL.createObjectURL(new Blob([text], {type: kind})), download: name});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
function picture(figure) {
  let x = 0, y = 0, row = 0, width = 0;
  const parts = all(".panels > svg", figure).filter(s => s.getBoundingClientRect().width).map(svg => {
    const [, , w, h] = svg.getAttribute("viewBox").split(" ").map(Number);
    if (x && x + w > 1000) { x = 0; y += row; row = 0; }
    const copy = svg.cloneNode(true);
    for (const [k, v] of Object.entries({x, y, width: w, height: h})) copy.setAttribute(k, v);
    copy.removeAttribute("style");
    x += w; row = Math.max(row, h); width = Math.max(width, x);
    return new XMLSerializer().serializeToString(copy);
  });
  const style = document.getElementById("looks").textContent + rules.textContent;
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${y + row}" width="${width}" height="${y + row}">` +
    `<style>${style}</style><rect width="100%" height="100%" fill="var(--ground)"/>${parts.join("")}</svg>`;
}
all("button[data-svg]").forEach(b => b.addEventListener("click", () =>
  save(b.dataset.svg + ".svg", "image/svg+xml", picture(b.closest("figure")))));
all("button[data-csv]").forEach(b => b.addEventListener("click", () =>
  save(b.dataset.csv + ".csv", "text/csv", data.csv[b.dataset.csv])));
addEventListener("beforeprint", () => all("details").forEach(d => { d.open = true; }));
