"use strict";
/* Geometry without any drawing: which boxes are in view, which are right, where they are dense. */

/** Boxes with a uniform grid over the image, so that a view looks only at what may be in it. */
class BoxIndex {
  /**
   * @param {number[]} flat x1, y1, x2, y2 of every box, full-image pixels
   * @param {number} width of the image
   * @param {number} height of the image
   */
  constructor(flat, width, height) {
    this.boxes = Float32Array.from(flat);
    this.length = this.boxes.length / 4;
    this.cell = Math.max(64, Math.max(width, height) / 128);
    this.columns = Math.max(1, Math.ceil(width / this.cell));
    this.rows = Math.max(1, Math.ceil(height / this.cell));
    this.stamps = new Uint32Array(this.length);
    this.stamp = 0;
    this._fill();
  }

  _fill() {
    const starts = new Uint32Array(this.columns * this.rows + 1);
    const each = (visit) => {
      for (let i = 0; i < this.length; i++) {
        const b = this.boxes, [c1, r1, c2, r2] = this._cells(b[4 * i], b[4 * i + 1], b[4 * i + 2], b[4 * i + 3]);
        for (let r = r1; r <= r2; r++) for (let c = c1; c <= c2; c++) visit(r * this.columns + c, i);
      }
    };
    each((cell) => { starts[cell + 1]++; });
    for (let k = 1; k < starts.length; k++) starts[k] += starts[k - 1];
    const next = starts.slice();
    this.members = new Uint32Array(starts[starts.length - 1]);
    each((cell, i) => { this.members[next[cell]++] = i; });
    this.starts = starts;
  }

  _cells(x1, y1, x2, y2) {
    const limit = (v, count) => Math.min(count - 1, Math.max(0, Math.floor(v / this.cell)));
    return [limit(x1, this.columns), limit(y1, this.rows), limit(x2, this.columns), limit(y2, this.rows)];
  }

  /** Calls visit(i) once for each box that touches the rectangle. */
  query(x1, y1, x2, y2, visit) {
    const b = this.boxes;
    const test = (i) => {
      if (b[4 * i] <= x2 && b[4 * i + 2] >= x1 && b[4 * i + 1] <= y2 && b[4 * i + 3] >= y1) visit(i);
    };
    const [c1, r1, c2, r2] = this._cells(x1, y1, x2, y2);
    if ((c2 - c1 + 1) * (r2 - r1 + 1) * 2 > this.columns * this.rows) {
      for (let i = 0; i < this.length; i++) test(i);
      return;
    }
    this.stamp++;
    for (let r = r1; r <= r2; r++) {
      for (let c = c1; c <= c2; c++) {
        const cell = r * this.columns + c;
        for (let k = this.starts[cell]; k < this.starts[cell + 1]; k++) {
          const i = this.members[k];
          if (this.stamps[i] !== this.stamp) { this.stamps[i] = this.stamp; test(i); }
        }
      }
    }
  }

  area(i) {
    const b = this.boxes;
    return (b[4 * i + 2] - b[4 * i]) * (b[4 * i + 3] - b[4 * i + 1]);
  }
}

/** Pixels that box i of a and box j of b share. */
function sharedArea(a, i, b, j) {
  const width = Math.min(a.boxes[4 * i + 2], b.boxes[4 * j + 2]) - Math.max(a.boxes[4 * i], b.boxes[4 * j]);
  const height = Math.min(a.boxes[4 * i + 3], b.boxes[4 * j + 3]) - Math.max(a.boxes[4 * i + 1], b.boxes[4 * j + 1]);
  return Math.max(0, width) * Math.max(0, height);
}

const OUTCOME = { right: 1, wrong: 2, ignored: 3 };

/**
 * Matches detections with the truth as the evaluation does: best score first, the free object of the
 * same class with the highest IoU, at least 0.5. What becomes of a detection depends only on better
 * ones of its class, so one pass serves every score limit: an object is found at a limit if the
 * detection that takes it reaches the limit.
 * @param {BoxIndex} found sorted by falling score
 * @param {number[]} classes of the detections
 * @param {BoxIndex} truth
 * @param {number[]} truthClasses
 * @param {Uint8Array} ignore whether a truth box is an ignore region
 * @returns {{outcome: Uint8Array, takenBy: Int32Array}} per detection; detection or -1 per object
 */
function compareWithTruth(found, classes, truth, truthClasses, ignore) {
  const outcome = new Uint8Array(found.length), b = found.boxes;
  const takenBy = new Int32Array(truth.length).fill(-1);
  for (let i = 0; i < found.length; i++) {
    let best = -1, bestIou = 0.5, ignored = false;
    truth.query(b[4 * i], b[4 * i + 1], b[4 * i + 2], b[4 * i + 3], (j) => {
      if (truthClasses[j] !== classes[i]) return;
      const shared = sharedArea(found, i, truth, j);
      if (ignore[j]) { ignored = ignored || shared >= 0.5 * found.area(i); return; }
      const iou = shared / (found.area(i) + truth.area(j) - shared);
      if (takenBy[j] < 0 && iou >= bestIou) { best = j; bestIou = iou; }
    });
    if (best >= 0) { takenBy[best] = i; outcome[i] = OUTCOME.right; }
    else outcome[i] = ignored ? OUTCOME.ignored : OUTCOME.wrong;
  }
  return { outcome, takenBy };
}

/** A picture of the density of box centres, to be stretched over the image. */
function densityPicture(found, counts, width, height) {
  const scale = 220 / Math.max(width, height);
  const w = Math.max(1, Math.ceil(width * scale)), h = Math.max(1, Math.ceil(height * scale));
  let grid = new Float32Array(w * h);
  for (let i = 0; i < found.length; i++) {
    if (!counts(i)) continue;
    const x = Math.min(w - 1, Math.floor((found.boxes[4 * i] + found.boxes[4 * i + 2]) / 2 * scale));
    const y = Math.min(h - 1, Math.floor((found.boxes[4 * i + 1] + found.boxes[4 * i + 3]) / 2 * scale));
    grid[y * w + x]++;
  }
  // Three box blurs are close to a Gaussian.
  for (let pass = 0; pass < 3; pass++) grid = blur(blur(grid, w, h, 1, w, 4), h, w, w, 1, 4);
  const canvas = document.createElement("canvas");
  canvas.width = w; canvas.height = h;
  const context = canvas.getContext("2d"), picture = context.createImageData(w, h);
  const peak = grid.reduce((a, b) => Math.max(a, b), 1e-9);
  for (let k = 0; k < grid.length; k++) {
    const v = Math.sqrt(grid[k] / peak);
    picture.data.set([255 * Math.min(1, 2 * v), 255 * Math.max(0, 1.6 * v - 0.6), 90 * (1 - v), 215 * Math.min(1, 1.8 * v)], 4 * k);
  }
  context.putImageData(picture, 0, 0);
  return canvas;
}

/** Running mean of radius r along lines of `length` cells that are `step` apart in memory. */
function blur(grid, length, lines, step, stride, r) {
  const out = new Float32Array(grid.length);
  for (let line = 0; line < lines; line++) {
    let sum = 0;
    const at = (k) => (k < 0 || k >= length ? 0 : grid[line * stride + k * step]);
    for (let k = -r; k < length; k++) {
      sum += at(k + r) - at(k - r - 1);
      if (k >= 0) out[line * stride + k * step] = sum / (2 * r + 1);
    }
  }
  return out;
}
