"use strict";
/* One canvas above the image holds all boxes. Uses the state that viewer.js keeps. */

const overlay = document.createElement("canvas");
overlay.id = "overlay";
const pen = overlay.getContext("2d");

/** Screen = image * scale + offset, in CSS pixels. */
function view() {
  const origin = viewer.viewport.pixelFromPoint(new OpenSeadragon.Point(0, 0), true);
  const corner = viewer.viewport.pixelFromPoint(new OpenSeadragon.Point(1, 0), true);
  return { scale: (corner.x - origin.x) / width, x: origin.x, y: origin.y };
}

let isQueued = false;
function redraw() {
  if (isQueued) return;
  isQueued = true;
  requestAnimationFrame(() => { isQueued = false; draw(); });
}

function draw() {
  if (!viewer.world.getItemCount()) return;
  const ratio = window.devicePixelRatio || 1;
  const w = overlay.clientWidth, h = overlay.clientHeight;
  if (overlay.width !== Math.round(w * ratio) || overlay.height !== Math.round(h * ratio)) {
    overlay.width = Math.round(w * ratio);
    overlay.height = Math.round(h * ratio);
  }
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, w, h);
  const at = view();
  if (state.heat) drawHeat(at);
  const seen = [-at.x / at.scale, -at.y / at.scale, (w - at.x) / at.scale, (h - at.y) / at.scale];
  if (state.compare) drawTruth(at, seen);
  if (state.boxes) drawDetections(at, seen);
  if (state.selected >= 0) drawSelected(at);
}

function drawHeat(at) {
  heatPicture = heatPicture || densityPicture(found, isShown, width, height);
  pen.imageSmoothingEnabled = true;
  pen.drawImage(heatPicture, at.x, at.y, width * at.scale, height * at.scale);
}

const OUTCOME_COLORS = { [OUTCOME.right]: "#4cc9f0", [OUTCOME.wrong]: "#ff5d3a", [OUTCOME.ignored]: "#9aa0aa" };
const MISSED_COLOR = "#ffd23f";

function drawDetections(at, seen) {
  const groups = new Map();
  let count = 0;
  found.query(...seen, (i) => {
    if (!isShown(i)) return;
    const color = state.compare ? OUTCOME_COLORS[comparison.outcome[i]] : data.classes[classes[i]].color;
    if (!groups.has(color)) groups.set(color, []);
    groups.get(color).push(i);
    count++;
  });
  const isSparse = count < 2500;
  for (const [color, members] of groups) strokeBoxes(found, members, at, color, isSparse, []);
  if (count < 250) for (const members of groups.values()) drawLabels(members, at);
}

function drawTruth(at, seen) {
  const missed = [];
  truth.query(...seen, (j) => {
    if (!comparison.taken[j] && !ignore[j] && state.classOn[data.truth.classes[j]]) missed.push(j);
  });
  strokeBoxes(truth, missed, at, MISSED_COLOR, missed.length < 2500, [5, 3]);
}

/** Boxes of one colour in one stroke; dots where they are too small for a frame. */
function strokeBoxes(index, members, at, color, hasRim, dash) {
  const b = index.boxes, dots = [];
  pen.beginPath();
  for (const i of members) {
    const x = b[4 * i] * at.scale + at.x, y = b[4 * i + 1] * at.scale + at.y;
    const w = (b[4 * i + 2] - b[4 * i]) * at.scale, h = (b[4 * i + 3] - b[4 * i + 1]) * at.scale;
    if (w < 3 && h < 3) dots.push(x, y, w, h); else pen.rect(x, y, w, h);
  }
  pen.setLineDash(dash);
  if (hasRim) { pen.strokeStyle = "rgba(0,0,0,.55)"; pen.lineWidth = 3.5; pen.stroke(); }
  pen.strokeStyle = color; pen.lineWidth = hasRim ? 1.8 : 1.2; pen.stroke();
  pen.setLineDash([]);
  pen.fillStyle = color;
  for (let k = 0; k < dots.length; k += 4) {
    pen.fillRect(dots[k] + dots[k + 2] / 2 - 1.2, dots[k + 1] + dots[k + 3] / 2 - 1.2, 2.4, 2.4);
  }
}

function drawLabels(members, at) {
  pen.font = "11px system-ui, sans-serif";
  for (const i of members) {
    const b = found.boxes, h = (b[4 * i + 3] - b[4 * i + 1]) * at.scale;
    if (h >= 44 && i !== state.selected) label(nameOf(i), b[4 * i] * at.scale + at.x, b[4 * i + 1] * at.scale + at.y);
  }
}

function label(text, x, y) {
  const w = pen.measureText(text).width + 8;
  pen.fillStyle = "rgba(15,17,21,.78)";
  pen.fillRect(x, y - 16, w, 15);
  pen.fillStyle = "#fff";
  pen.fillText(text, x + 4, y - 5);
}

function drawSelected(at) {
  const [x1, y1, x2, y2] = boxOf(state.selected).map((v, k) => v * at.scale + (k % 2 ? at.y : at.x));
  pen.lineWidth = 6; pen.strokeStyle = "rgba(0,0,0,.6)"; pen.strokeRect(x1 - 3, y1 - 3, x2 - x1 + 6, y2 - y1 + 6);
  pen.lineWidth = 3; pen.strokeStyle = "#fff"; pen.strokeRect(x1 - 3, y1 - 3, x2 - x1 + 6, y2 - y1 + 6);
  label(nameOf(state.selected), x1 - 3, y1 - 5);
}

const nameOf = (i) => `${data.classes[classes[i]].name} ${scores[i].toFixed(2)}`;
const boxOf = (i) => Array.from(found.boxes.subarray(4 * i, 4 * i + 4));
