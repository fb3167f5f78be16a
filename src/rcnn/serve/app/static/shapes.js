// Objects of an image as the viewer draws them: their outlines are made once, in four degrees of detail.

import { boxOf, contains, fromRuns, rings, simplified } from "./masks.js";

// Pixels of the image by which an outline may be off, at how many pixels of the screen for one of the image.
const DETAIL = [{ tolerance: 0, from: 4 }, { tolerance: 0.6, from: 1.2 }, { tolerance: 1.2, from: 0.5 }, { tolerance: 2.4, from: 0 }];

/** An object of the server with its bitmap, ready to be drawn. */
export class Shape {
  constructor(object) {
    Object.assign(this, object);
    this.bitmap = object.mask ? fromRuns(object.mask) : null;
    if (this.bitmap) this.box = object.box || boxOf(this.bitmap);
    this.paths = [];
  }

  get size() {
    return this.measures?.area ?? (this.box[2] - this.box[0]) * (this.box[3] - this.box[1]);
  }

  outline(scale) {
    const level = DETAIL.findIndex((one) => scale >= one.from);
    if (!this.paths[level]) this.paths[level] = this.path(DETAIL[level].tolerance);
    return this.paths[level];
  }

  path(tolerance) {
    const path = new Path2D();
    if (!this.bitmap) {
      const [x1, y1, x2, y2] = this.box;
      path.rect(x1, y1, x2 - x1, y2 - y1);
      return path;
    }
    this.rings ||= rings(this.bitmap);
    for (const exact of this.rings) {
      const ring = tolerance ? simplified(exact, tolerance) : exact;
      path.moveTo(ring[0], ring[1]);
      for (let i = 2; i < ring.length; i += 2) path.lineTo(ring[i], ring[i + 1]);
      path.closePath();
    }
    return path;
  }

  contains(x, y) {
    const [x1, y1, x2, y2] = this.box;
    if (x < x1 || y < y1 || x > x2 || y > y2) return false;
    return this.bitmap ? contains(this.bitmap, x, y) : true;
  }
}

/** Whether the score of an object, where it has one that counts, is high enough. */
export const isScored = (shape, look) => !look.scored || shape.score === undefined || shape.score >= look.minScore;

/** Whether an object is shown: its class is not hidden, and its score is high enough. */
export const isShown = (shape, look) => !look.hidden.has(shape.class) && isScored(shape, look);
