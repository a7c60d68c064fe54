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
const key = cell => cell.dataset.v === undefined ? cell.textContent : Number(cell.dataset.v);
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

// compare A with B: every pair stands in the data once, as text; the other way round is the other sign
const flip = text => text === "" ? "" : text.startsWith("-") ? text.slice(1) : "-" + text;
function compare() {
  const [a, b] = ["a", "b"].map(id => document.getElementById("compare-" + id).value);
  const body = document.getElementById("compared");
  body.replaceChildren();
  for (const [x, y, size, ratio, value, low, high, note] of data.pairs) {
    const same = x === a && y === b;
    if (!same && !(x === b && y === a)) continue;
    const ends = same ? [value, low, high] : [flip(value), flip(high), flip(low)];
    const row = body.appendChild(document.createElement("tr"));
    row.dataset.s = size; row.dataset.r = ratio;
    const speed = n => (data.speed[[n, size, ratio].join("|")] || ["1", "1", "1"]);
    const cost = n => data.cost[[n, size].join("|")] || "";
    const cells = [size, ratio + "×", ends[0], ends[1] + " to " + ends[2], note,
      ...[0, 1, 2].map(i => speed(a)[i] && speed(b)[i] ? speed(a)[i] + " | " + speed(b)[i] : ""),
      cost(a) && cost(b) ? cost(a) + " | " + cost(b) : ""];
    cells.forEach(text => row.append(node("td", text)));
  }
  if (!body.rows.length) body.append(node("tr", a === b ? "Choose two different optimizers." : "They did not meet in a race whose noise is known."));
}
if (document.getElementById("compared")) {
  all("#compare-a, #compare-b").forEach(s => s.addEventListener("change", compare));
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
