"use strict";
/* The page: OpenSeadragon shows the image, drawing.js the boxes above it, the panel filters them. */

const data = window.SPARSENET;
const { width, height } = data.image;
const scores = data.detections.scores, classes = data.detections.classes;
const truncated = new Set(data.detections.truncated);
const found = new BoxIndex(data.detections.boxes, width, height);
const truth = data.truth && new BoxIndex(data.truth.boxes, width, height);
const ignore = data.truth && Uint8Array.from(data.truth.ignore);
const skipped = data.skipped && new SkippedTiles(data.skipped, width, height);
const $ = (id) => document.getElementById(id);
const number = (v) => v.toLocaleString("en-US");
const percent = (v) => (Number.isFinite(v) ? `${(100 * v).toFixed(1)} %` : "–");

const state = {
  threshold: data.threshold, classOn: data.classes.map(() => true),
  boxes: true, heat: false, skipped: false, compare: false, selected: -1,
};
let limit = 0;          // detections are sorted by score: those before `limit` reach the threshold
let comparison = null;  // made when it is first wanted
let heatPicture = null;
const isShown = (i) => i < limit && state.classOn[classes[i]];

/* ------------------------------------------------------------------ image */

const viewer = OpenSeadragon({
  element: $("stage"),
  drawer: "canvas",  // the WebGL drawer may not read files from disk
  tileSources: {
    Image: {
      xmlns: "http://schemas.microsoft.com/deepzoom/2008",
      Url: data.image.tiles, Format: data.image.format, Overlap: "0",
      TileSize: String(data.image.tileSize), Size: { Width: String(width), Height: String(height) },
    },
  },
  showNavigationControl: false, showNavigator: true, navigatorPosition: "BOTTOM_LEFT",
  navigatorSizeRatio: 0.16, navigatorAutoFade: false,
  viewportMargins: { left: 0, top: 0, bottom: 0, right: innerWidth > 640 ? 320 : 0 },  // the panel
  maxZoomPixelRatio: 8, minZoomImageRatio: 0.6, visibilityRatio: 0.3,
  imageSmoothingEnabled: true, animationTime: 0.5, gestureSettingsMouse: { clickToZoom: false },
});
viewer.canvas.appendChild(overlay);

/* ------------------------------------------------------------------ filter and counts */

function refilter() {
  limit = scores.findIndex((s) => s < state.threshold);
  if (limit < 0) limit = scores.length;
  heatPicture = null;
  if (state.compare) comparison ??= compareWithTruth(found, classes, truth, data.truth.classes, ignore);
  if (state.selected >= 0 && !isShown(state.selected)) state.selected = -1;
  showCounts();
  showComparison();
  showSkipped();
  showDetails();
  drawHistogram();
  writeAddress();
  redraw();
}

function showCounts() {
  const counts = data.classes.map(() => 0);
  for (let i = 0; i < limit; i++) counts[classes[i]]++;
  const total = counts.reduce((sum, c, k) => sum + (state.classOn[k] ? c : 0), 0);
  $("count").textContent = number(total);
  $("count-of").textContent = `shown of ${number(scores.length)} detections`;
  document.querySelectorAll("#classes .number").forEach((cell, k) => { cell.textContent = number(counts[k]); });
  $("threshold").value = state.threshold;
  $("threshold-value").textContent = Number(state.threshold).toFixed(2);
  $("show-boxes").checked = state.boxes;
  $("show-heat").checked = state.heat;
  $("show-skipped").checked = state.skipped;
  $("compare").checked = state.compare;
}

function showSkipped() {
  $("skipped").hidden = !state.skipped;
  if (!state.skipped) return;
  $("skipped-reasons").replaceChildren(...[...skipped.counts()].map(([reason, count]) => {
    const row = document.createElement("li");
    row.textContent = `${number(count)} ${reason}`;
    row.style.borderColor = REASON_COLORS[reason];
    return row;
  }));
}

function showComparison() {
  $("comparison").hidden = !state.compare;
  if (!state.compare) return;
  let right = 0, wrong = 0, objects = 0;
  for (let i = 0; i < limit; i++) {
    if (!state.classOn[classes[i]]) continue;
    right += comparison.outcome[i] === OUTCOME.right;
    wrong += comparison.outcome[i] === OUTCOME.wrong;
  }
  for (let j = 0; j < truth.length; j++) objects += !ignore[j] && state.classOn[data.truth.classes[j]] ? 1 : 0;
  $("num-right").textContent = number(right);
  $("num-wrong").textContent = number(wrong);
  $("num-missed").textContent = number(objects - right);
  $("rates").textContent = `precision ${percent(right / (right + wrong))} · recall ${percent(right / objects)} · counted ${number(right + wrong)} for ${number(objects)}`;
}

function drawHistogram() {
  const canvas = $("histogram"), c = canvas.getContext("2d"), bins = new Array(50).fill(0);
  for (let i = 0; i < scores.length; i++) {
    if (state.classOn[classes[i]]) bins[Math.min(49, Math.floor(scores[i] * 50))]++;
  }
  const style = getComputedStyle(document.documentElement), peak = Math.max(1, ...bins);
  c.clearRect(0, 0, canvas.width, canvas.height);
  bins.forEach((count, k) => {
    c.fillStyle = style.getPropertyValue((k + 1) / 50 > state.threshold ? "--accent" : "--line");
    const h = Math.sqrt(count / peak) * canvas.height;
    c.fillRect(k * canvas.width / 50 + 1, canvas.height - h, canvas.width / 50 - 2, h);
  });
}

/* ------------------------------------------------------------------ selection */

function select(i, isMoving, isImmediate = false) {
  state.selected = i;
  showDetails();
  writeAddress();
  if (i >= 0 && isMoving) goTo(i, isImmediate);
  redraw();
}

function goTo(i, isImmediate) {
  const [x1, y1, x2, y2] = boxOf(i), side = 6 * Math.max(x2 - x1, y2 - y1, 24);
  const rectangle = new OpenSeadragon.Rect(((x1 + x2) / 2 - side / 2) / width, ((y1 + y2) / 2 - side / 2) / width, side / width, side / width);
  viewer.viewport.fitBounds(rectangle, isImmediate);
}

function showDetails() {
  const i = state.selected, card = $("details");
  card.hidden = i < 0;
  $("place").textContent = i < 0 ? "step through by score" : `${number(i + 1)} by score`;
  if (i < 0) return;
  const [x1, y1, x2, y2] = boxOf(i);
  const rows = [
    ["class", data.classes[classes[i]].name], ["score", scores[i].toFixed(3)],
    ["x, y", `${number(Math.round(x1))}, ${number(Math.round(y1))} px`],
    ["size", `${number(Math.round(x2 - x1))} × ${number(Math.round(y2 - y1))} px`],
    ["cut by a tile", truncated.has(i) ? "yes" : "no"],
    ["downsample", number(data.detections.downsamples[i])],
  ];
  if (state.compare) rows.push(["against truth", ["", "right", "wrong", "ignored"][comparison.outcome[i]]]);
  const table = document.createElement("table");
  for (const [name, value] of rows) {
    const row = table.insertRow(), head = document.createElement("th");
    head.textContent = name;
    row.append(head);
    row.insertCell().textContent = value;
  }
  const button = document.createElement("button");
  button.textContent = "Zoom to it";
  button.onclick = () => goTo(i, false);
  card.replaceChildren(table, button);
}

/** The smallest shown box under a point of the screen, or -1. */
function boxAt(point) {
  const at = view(), reach = 4 / at.scale;
  const x = (point.x - at.x) / at.scale, y = (point.y - at.y) / at.scale;
  let best = -1;
  found.query(x - reach, y - reach, x + reach, y + reach, (i) => {
    if (isShown(i) && (best < 0 || found.area(i) < found.area(best))) best = i;
  });
  return best;
}

function step(direction) {
  let i = state.selected < 0 && direction < 0 ? limit : state.selected;
  do { i += direction; } while (i >= 0 && i < limit && !isShown(i));
  if (i >= 0 && i < limit) select(i, true);
}

/* ------------------------------------------------------------------ address */

function writeAddress() {
  const parts = new URLSearchParams({ score: Number(state.threshold).toFixed(2) });
  if (!state.boxes) parts.set("boxes", "0");
  if (state.heat) parts.set("density", "1");
  if (state.skipped) parts.set("skipped", skipped.level);
  if (state.compare) parts.set("truth", "1");
  if (state.selected >= 0) parts.set("box", state.selected);
  if (document.documentElement.dataset.chosen) parts.set("theme", document.documentElement.dataset.theme);
  const hidden = state.classOn.map((on, k) => (on ? -1 : k)).filter((k) => k >= 0);
  if (hidden.length) parts.set("hide", hidden.join("."));
  history.replaceState(null, "", `#${parts}`);
}

function readAddress() {
  const parts = new URLSearchParams(location.hash.slice(1));
  const score = Number(parts.get("score") ?? state.threshold);
  if (score >= 0 && score <= 1) state.threshold = score;
  state.boxes = parts.get("boxes") !== "0";
  state.heat = parts.get("density") === "1";
  if (skipped?.levels.includes(Number(parts.get("skipped")))) {
    state.skipped = true;
    skipped.level = Number(parts.get("skipped"));
  }
  state.compare = Boolean(truth) && parts.get("truth") === "1";
  for (const k of (parts.get("hide") ?? "").split(".").filter(Boolean)) {
    if (k in state.classOn) state.classOn[k] = false;
  }
  if (["light", "dark"].includes(parts.get("theme"))) setTheme(parts.get("theme"), true);
  return Number(parts.get("box") ?? -1);
}

/* ------------------------------------------------------------------ panel */

function setTheme(name, isChosen) {
  document.documentElement.dataset.theme = name;
  if (isChosen) document.documentElement.dataset.chosen = "1";
  drawHistogram();
}

function toggle(name) {
  if ((name === "compare" && !truth) || (name === "skipped" && !skipped)) return;
  state[name] = !state[name];
  refilter();
}

function toggleClass(k) {
  if (k >= state.classOn.length) return;
  state.classOn[k] = !state.classOn[k];
  document.querySelectorAll("#classes input")[k].checked = state.classOn[k];
  refilter();
}

function setThreshold(value) {
  state.threshold = Math.min(1, Math.max(0, value));
  refilter();
}

function buildPanel() {
  document.title = `${data.title} · SparseNet`;
  $("title").textContent = data.title;
  $("facts").textContent = `${number(width)} × ${number(height)} px · ${(width * height / 1e6).toLocaleString("en-US", { maximumFractionDigits: 1 })} MP`;
  $("compare-label").hidden = !truth;
  $("skipped-label").hidden = !skipped;
  skipped?.levels.forEach((level) => $("skipped-level").add(new Option(`downsample ${level}`, level, false, level === skipped.level)));
  const occurring = new Set([...classes, ...(data.truth?.classes ?? [])]);
  data.classes.forEach((one, k) => {
    const row = document.createElement("label"), box = document.createElement("input");
    const swatch = document.createElement("span"), name = document.createElement("span"), count = document.createElement("span");
    box.type = "checkbox";
    box.checked = state.classOn[k];
    box.onchange = () => toggleClass(k);
    swatch.className = "swatch";
    swatch.style.background = one.color;
    name.textContent = one.name;
    count.className = "number";
    row.hidden = !occurring.has(k);  // of 80 classes an image has a few
    row.append(box, swatch, name, count);
    $("classes").append(row);
  });
}

function listen() {
  $("threshold").oninput = (event) => setThreshold(Number(event.target.value));
  $("show-boxes").onchange = () => toggle("boxes");
  $("show-heat").onchange = () => toggle("heat");
  $("show-skipped").onchange = () => toggle("skipped");
  $("skipped-level").onchange = (event) => { skipped.level = Number(event.target.value); refilter(); };
  $("compare").onchange = () => toggle("compare");
  $("theme").onclick = () => { flipTheme(); };
  $("help-open").onclick = () => $("help").showModal();
  $("next").onclick = () => step(1);
  $("previous").onclick = () => step(-1);
  $("zoom-in").onclick = () => zoomBy(1.6);
  $("zoom-out").onclick = () => zoomBy(1 / 1.6);
  $("zoom-home").onclick = () => viewer.viewport.goHome();
  viewer.addHandler("canvas-click", (event) => { if (event.quick) select(boxAt(event.position), false); });
  viewer.addHandler("canvas-key", (event) => { event.preventDefaultAction = true; });
  viewer.addHandler("update-viewport", draw);  // in the same frame as the image: boxes never lag
  for (const name of ["resize", "open"]) viewer.addHandler(name, redraw);
  document.addEventListener("keydown", onKey);
  $("stage").addEventListener("mousemove", showPosition);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", followSystemTheme);
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
  const actions = {
    b: () => toggle("boxes"), h: () => toggle("heat"), s: () => toggle("skipped"), t: () => toggle("compare"), d: flipTheme,
    n: () => step(1), p: () => step(-1), Escape: () => select(-1, false), "?": () => $("help").showModal(),
    "0": () => viewer.viewport.goHome(), "+": () => zoomBy(1.6), "=": () => zoomBy(1.6), "-": () => zoomBy(1 / 1.6),
    "[": () => setThreshold(state.threshold - 0.05), "]": () => setThreshold(state.threshold + 0.05),
  };
  const action = actions[event.key] ?? (/^[1-9]$/.test(event.key) ? () => toggleClass(Number(event.key) - 1) : null);
  if (action) { event.preventDefault(); action(); }
}

function zoomBy(factor) { viewer.viewport.zoomBy(factor); viewer.viewport.applyConstraints(); }

function flipTheme() {
  setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark", true);
  writeAddress();
}

function followSystemTheme() {
  if (document.documentElement.dataset.chosen) return;
  setTheme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light", false);
}

function showPosition(event) {
  const at = view(), frame = overlay.getBoundingClientRect();
  const x = (event.clientX - frame.left - at.x) / at.scale, y = (event.clientY - frame.top - at.y) / at.scale;
  const isInside = x >= 0 && y >= 0 && x < width && y < height;
  const why = isInside && state.skipped ? skipped.at(x, y) : "";
  $("position").textContent = isInside ? `${number(Math.floor(x))}, ${number(Math.floor(y))}${why && ` · ${why}`}` : "";
}

followSystemTheme();
const firstBox = readAddress();
buildPanel();
listen();
refilter();
viewer.addOnceHandler("open", () => {
  if (firstBox >= 0 && firstBox < scores.length && isShown(firstBox)) select(firstBox, true, true);
});
viewer.addOnceHandler("tile-drawn", () => { document.body.dataset.ready = "1"; });
