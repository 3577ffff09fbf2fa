"use strict";
/* Tiles that the detector did not look at, one downsample at a time, coloured by the reason. */

const REASON_COLORS = { "nothing expected": "#8a93a6", "outside the mask": "#b58bd6", "over the budget": "#e3a23c" };

class SkippedTiles {
  /**
   * @param {{boxes: number[], reasons: string[], worth: number[], downsamples: number[]}} data
   * @param {number} width of the image
   * @param {number} height of the image
   */
  constructor(data, width, height) {
    this.data = data;
    this.index = new BoxIndex(data.boxes, width, height);
    this.levels = [...new Set(data.downsamples)].sort((a, b) => a - b);  // the finest first
    this.level = this.levels[0];
  }

  /** Number of tiles of the chosen downsample by reason. */
  counts() {
    const counts = new Map();
    this.data.reasons.forEach((reason, i) => {
      if (this.data.downsamples[i] === this.level) counts.set(reason, (counts.get(reason) ?? 0) + 1);
    });
    return counts;
  }

  /** What to say of a point of the image: the reason and the best score expected, or "". */
  at(x, y) {
    let text = "";
    this.index.query(x, y, x, y, (i) => {
      if (this.data.downsamples[i] === this.level) text = `${this.data.reasons[i]} (best score ${this.data.worth[i].toFixed(2)})`;
    });
    return text;
  }

  /** Overlapping tiles of a reason are one path, so that they do not add up to a darker strip. */
  draw(pen, at, seen) {
    const paths = new Map(), b = this.index.boxes;
    this.index.query(...seen, (i) => {
      if (this.data.downsamples[i] !== this.level) return;
      const reason = this.data.reasons[i];
      if (!paths.has(reason)) paths.set(reason, new Path2D());
      const x = b[4 * i] * at.scale + at.x, y = b[4 * i + 1] * at.scale + at.y;
      paths.get(reason).rect(x, y, (b[4 * i + 2] - b[4 * i]) * at.scale, (b[4 * i + 3] - b[4 * i + 1]) * at.scale);
    });
    for (const [reason, path] of paths) {
      pen.globalAlpha = 0.38;
      pen.fillStyle = REASON_COLORS[reason];
      pen.fill(path);
      pen.globalAlpha = 0.55;
      pen.strokeStyle = REASON_COLORS[reason];
      pen.lineWidth = 1;
      pen.stroke(path);
    }
    pen.globalAlpha = 1;
  }
}
