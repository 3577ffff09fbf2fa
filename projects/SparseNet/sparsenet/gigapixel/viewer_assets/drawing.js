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
  if (state.skipped) skipped.draw(pen, at, seen);
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
const FEW = 2500;  // above, paths take longer than a frame and pixels are set directly
const scratch = document.createElement("canvas");

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
  if (count > FEW) plotBoxes(found, groups, at);
  else for (const [color, members] of groups) {
    fillOutlines(members, at, color);
    strokeBoxes(found, members, at, color, []);
  }
  if (count < 250) for (const members of groups.values()) drawLabels(members, at);
}

/** The masks of detections, where there are any. */
function fillOutlines(members, at, color) {
  const outlines = data.detections.outlines;
  if (!outlines) return;
  pen.beginPath();
  for (const i of members) {
    for (const ring of outlines[i]) {
      for (let k = 0; k < ring.length; k += 2) {
        const x = ring[k] * at.scale + at.x, y = ring[k + 1] * at.scale + at.y;
        if (k) pen.lineTo(x, y); else pen.moveTo(x, y);
      }
      pen.closePath();
    }
  }
  pen.globalAlpha = 0.35;
  pen.fillStyle = color;
  pen.fill();
  pen.globalAlpha = 1;
}

function drawTruth(at, seen) {
  const missed = [];
  truth.query(...seen, (j) => {
    const isFound = comparison.takenBy[j] >= 0 && comparison.takenBy[j] < limit;
    if (!isFound && !ignore[j] && state.classOn[data.truth.classes[j]]) missed.push(j);
  });
  if (missed.length > FEW) plotBoxes(truth, new Map([[MISSED_COLOR, missed]]), at);
  else strokeBoxes(truth, missed, at, MISSED_COLOR, [5, 3]);
}

/** Boxes of one colour in one stroke; dots where they are too small for a frame. */
function strokeBoxes(index, members, at, color, dash) {
  const b = index.boxes, dots = [];
  pen.beginPath();
  for (const i of members) {
    const x = b[4 * i] * at.scale + at.x, y = b[4 * i + 1] * at.scale + at.y;
    const w = (b[4 * i + 2] - b[4 * i]) * at.scale, h = (b[4 * i + 3] - b[4 * i + 1]) * at.scale;
    if (w < 3 && h < 3) dots.push(x, y, w, h); else pen.rect(x, y, w, h);
  }
  pen.setLineDash(dash);
  pen.strokeStyle = "rgba(0,0,0,.55)"; pen.lineWidth = 3.5; pen.stroke();
  pen.strokeStyle = color; pen.lineWidth = 1.8; pen.stroke();
  pen.setLineDash([]);
  pen.fillStyle = color;
  for (let k = 0; k < dots.length; k += 4) {
    pen.fillRect(dots[k] + dots[k + 2] / 2 - 1.2, dots[k + 1] + dots[k + 3] / 2 - 1.2, 2.4, 2.4);
  }
}

/** Any number of boxes as frames of one pixel, written into a pixel buffer. */
function plotBoxes(index, groups, at) {
  const w = scratch.width = overlay.width, h = scratch.height = overlay.height;
  const context = scratch.getContext("2d"), picture = context.createImageData(w, h);
  const pixels = new Uint32Array(picture.data.buffer), b = index.boxes;
  const ratio = window.devicePixelRatio || 1, scale = at.scale * ratio, dx = at.x * ratio, dy = at.y * ratio;
  for (const [color, members] of groups) {
    const rgb = parseInt(color.slice(1), 16);  // little-endian ABGR
    const value = (0xff000000 | ((rgb & 255) << 16) | (rgb & 0xff00) | (rgb >> 16)) >>> 0;
    for (const i of members) {
      const x1 = Math.round(b[4 * i] * scale + dx), y1 = Math.round(b[4 * i + 1] * scale + dy);
      const x2 = Math.max(x1 + 1, Math.round(b[4 * i + 2] * scale + dx));
      const y2 = Math.max(y1 + 1, Math.round(b[4 * i + 3] * scale + dy));
      const left = Math.max(0, x1), right = Math.min(w - 1, x2), top = Math.max(0, y1), bottom = Math.min(h - 1, y2);
      if (left > right || top > bottom) continue;
      if (y1 >= 0) pixels.fill(value, y1 * w + left, y1 * w + right + 1);
      if (y2 < h) pixels.fill(value, y2 * w + left, y2 * w + right + 1);
      if (x1 >= 0) for (let y = top; y <= bottom; y++) pixels[y * w + x1] = value;
      if (x2 < w) for (let y = top; y <= bottom; y++) pixels[y * w + x2] = value;
    }
  }
  context.putImageData(picture, 0, 0);
  pen.drawImage(scratch, 0, 0, w / ratio, h / ratio);
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
