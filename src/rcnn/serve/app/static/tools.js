// Tools that work on the picture: each takes what the pointer does, in pixels of the image, and makes changes.

import { masked, newId, plain } from "./edits.js";
import { fromPolygons, fromRuns, halves, painted, rings, simplified, trimmed } from "./masks.js";

const NEAR = 9; // pixels of the screen: as near as that is on a handle
const CORNERS = 1; // pixels by which editable corners may differ from the outline
const SMALLEST = 1.5; // pixels of the side of a box

const distance = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);

class Tool {
  constructor(page, edits) { Object.assign(this, { page, edits, draws: true }); }

  get size() { return this.page.info.size; }

  get newClass() { return this.page.newClass; }

  inside([x, y]) { return [Math.min(this.size[1], Math.max(0, x)), Math.min(this.size[0], Math.max(0, y))]; }

  /** Add an object of the class that is chosen, or paint its pixels; a class has to be there first. */
  async add(object) {
    const name = this.newClass ?? (await this.page.askClass());
    if (!name) return;
    if (this.page.isPixelClass(name)) {
      const [x1, y1, x2, y2] = object.box;
      const mask = object.mask ? fromRuns(object.mask) : fromPolygons([[[x1, y1], [x2, y1], [x2, y2], [x1, y2]]], this.size);
      if (mask) await this.edits.paint(mask, name);
      return;
    }
    const one = { id: newId(), class: name, ...object };
    this.edits.apply([{ before: null, after: one }], [one.id]);
  }

  change(shape, after) { this.edits.apply([{ before: plain(shape), after }]); }

  line(context, viewer, dashed = false) {
    context.lineWidth = 2 / viewer.view.scale;
    context.setLineDash(dashed ? [6 / viewer.view.scale, 4 / viewer.view.scale] : []);
    context.strokeStyle = "#fff";
    context.shadowColor = "#000";
    context.shadowBlur = 3;
    context.stroke();
    context.setLineDash([]);
    context.shadowBlur = 0;
  }

  cancel() { this.from = null; }
}

export class BoxTool extends Tool {
  down(at) { this.from = this.to = this.inside(at); return true; }

  move(at, event, viewer) { this.to = this.inside(at); viewer.redraw("top"); }

  up(at, event, viewer) {
    if (!this.from) return;
    const [a, b] = [this.from, this.inside(at)];
    this.from = null;
    const box = [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[0], b[0]), Math.max(a[1], b[1])].map((v) => Math.round(10 * v) / 10);
    if (box[2] - box[0] >= SMALLEST && box[3] - box[1] >= SMALLEST) this.add({ box });
    viewer.redraw("top");
  }

  draw(context, viewer) {
    if (!this.from) return;
    context.beginPath();
    context.rect(this.from[0], this.from[1], this.to[0] - this.from[0], this.to[1] - this.from[1]);
    this.line(context, viewer);
  }
}

export class PolygonTool extends Tool {
  constructor(...given) { super(...given); this.corners = []; }

  down(at, event, viewer) {
    if (this.corners.length > 2 && distance(at, this.corners[0]) * viewer.view.scale < NEAR) this.finish(viewer);
    else this.corners.push(this.inside(at));
    viewer.redraw("top");
    return true;
  }

  move(at, event, viewer) { // a stroke follows the hand
    const last = this.corners.at(-1);
    if (last && distance(at, last) * viewer.view.scale > NEAR) this.corners.push(this.inside(at));
    this.hover(at, event, viewer);
  }

  hover(at, event, viewer) { this.at = at; viewer.redraw("top"); }

  double(at, event, viewer) { this.finish(viewer); }

  enter(viewer) { this.finish(viewer); }

  cancel(viewer) { this.corners = []; viewer.redraw("top"); }

  finish(viewer) {
    const mask = this.corners.length > 2 ? fromPolygons([this.corners], this.size) : null;
    this.corners = [];
    viewer.redraw("top");
    if (mask) this.add(masked({}, mask));
  }

  draw(context, viewer) {
    if (!this.corners.length) return;
    context.beginPath();
    for (const [x, y] of this.corners) context.lineTo(x, y);
    if (this.at) context.lineTo(this.at[0], this.at[1]);
    this.line(context, viewer);
    for (const corner of this.corners) handle(context, viewer, corner);
  }
}

export class BrushTool extends Tool {
  constructor(page, edits, value) { super(page, edits); this.value = value; }

  get radius() { return this.page.brush / 2; }

  down(at, event, viewer) {
    const chosen = this.page.selected.filter((shape) => shape.bitmap);
    this.erasesPixels = !this.value && !chosen.length && this.page.isPixelClass(this.newClass);
    this.shape = chosen.length === 1 ? chosen[0] : this.value || this.erasesPixels ? null : this.page.viewer.pick(at);
    if (!this.value && !this.erasesPixels && !this.shape?.bitmap) return false;
    this.mask = this.shape?.bitmap ?? null;
    this.from = at;
    this.paint(at, viewer);
    return true;
  }

  paint(at, viewer) {
    this.mask = painted(this.mask, this.from, at, this.radius, this.erasesPixels ? 1 : this.value, this.size);
    this.from = this.at = at;
    this.path = null;
    viewer.redraw("top");
  }

  move(at, event, viewer) { if (this.from) this.paint(at, viewer); }

  hover(at, event, viewer) { this.at = at; viewer.redraw("top"); }

  up(at, event, viewer) {
    if (!this.from) return;
    this.from = null;
    const mask = this.mask ? trimmed(this.mask) : null;
    this.mask = null;
    if (this.erasesPixels) { if (mask) this.edits.paint(mask, null); }
    else if (!this.shape) { if (mask) this.add(masked({}, mask)); }
    else if (mask) this.change(this.shape, masked(plain(this.shape), mask));
    else this.edits.apply([{ before: plain(this.shape), after: null }]);
    viewer.redraw("top");
  }

  draw(context, viewer) {
    if (this.from && this.mask) {
      this.path ||= rings(this.mask);
      context.beginPath();
      for (const ring of this.path) {
        for (let i = 0; i < ring.length; i += 2) i ? context.lineTo(ring[i], ring[i + 1]) : context.moveTo(ring[i], ring[i + 1]);
        context.closePath();
      }
      context.fillStyle = "rgb(255 255 255 / 40%)";
      context.fill("evenodd");
      this.line(context, viewer);
    }
    if (!this.at) return;
    context.beginPath();
    context.arc(this.at[0], this.at[1], this.radius, 0, 7);
    this.line(context, viewer, !this.value);
  }
}

export class SplitTool extends Tool {
  down(at) {
    this.from = this.to = at;
    return true;
  }

  move(at, event, viewer) { this.to = at; viewer.redraw("top"); }

  up(at, event, viewer) {
    if (!this.from) return;
    const from = this.from;
    this.from = null;
    viewer.redraw("top");
    const middle = [(from[0] + at[0]) / 2, (from[1] + at[1]) / 2];
    const chosen = this.page.selected.filter((shape) => shape.bitmap);
    const shapes = chosen.length ? chosen : [this.page.viewer.pick(middle)].filter((shape) => shape?.bitmap);
    const changes = [], ids = [];
    for (const shape of shapes) {
      const parts = halves(shape.bitmap, from, at);
      if (!parts) continue;
      const object = plain(shape);
      delete object.points; // of which part they would be is not known
      const second = { ...masked(object, parts[1]), id: newId() };
      changes.push({ before: plain(shape), after: masked(object, parts[0]) }, { before: null, after: second });
      ids.push(shape.id, second.id);
    }
    this.edits.apply(changes, ids);
  }

  draw(context, viewer) {
    if (!this.from) return;
    context.beginPath();
    context.moveTo(...this.from);
    context.lineTo(...this.to);
    this.line(context, viewer, true);
  }
}

/** Corners of outlines and boxes, and keypoints, to be dragged; a corner is added on an edge, and removed by Alt and click. */
export class CornerTool extends Tool {
  constructor(...given) { super(...given); this.active = null; }

  get shape() { return this.page.selected.length === 1 ? this.page.selected[0] : null; }

  /** The corners of the selected object, kept while it is the same. */
  get handles() {
    const { shape } = this;
    if (!shape) return null;
    if (this.of !== shape) {
      this.of = shape;
      const [x1, y1, x2, y2] = shape.box;
      this.polygons = shape.bitmap
        ? rings(shape.bitmap).map((ring) => pairs(simplified(ring, CORNERS)))
        : [[[x1, y1], [x2, y1], [x2, y2], [x1, y2]]];
      this.points = this.page.state.points.map((_, i) => [...(shape.points?.[i] ?? [0, 0, 0])]);
    }
    return this;
  }

  near(at, viewer, places) {
    let best = -1, least = NEAR / viewer.view.scale;
    places.forEach((place, i) => { const d = distance(at, place); if (d < least) { best = i; least = d; } });
    return best;
  }

  down(at, event, viewer) {
    if (!this.handles) return false;
    const seen = this.points.map((point) => (point[2] > 0 ? point : [-1e9, -1e9]));
    const point = this.near(at, viewer, seen);
    if (point >= 0) return this.grab({ point });
    for (const [ring, polygon] of this.polygons.entries()) {
      const corner = this.near(at, viewer, polygon);
      if (corner < 0) continue;
      if (event.shiftKey && this.shape.bitmap && polygon.length > 3) {
        polygon.splice(corner, 1);
        this.commit();
        return true;
      }
      return this.grab({ ring, corner });
    }
    const absent = this.points.findIndex((one) => !(one[2] > 0));
    if (absent >= 0 && this.shape.contains(...at)) { // places the next keypoint
      this.points[absent] = [...at, 2];
      return this.grab({ point: absent });
    }
    return this.shape.bitmap ? this.insert(at, viewer) : false;
  }

  grab(active) { this.active = active; return true; }

  insert(at, viewer) {
    for (const [ring, polygon] of this.polygons.entries()) {
      for (let i = 0; i < polygon.length; i++) {
        if (toSegment(at, polygon[i], polygon[(i + 1) % polygon.length]) * viewer.view.scale > NEAR / 1.5) continue;
        polygon.splice(i + 1, 0, at);
        return this.grab({ ring, corner: i + 1 });
      }
    }
    return false;
  }

  move(at, event, viewer) {
    if (!this.active) return;
    const place = this.inside(at), { point, ring, corner } = this.active;
    if (point !== undefined) this.points[point] = [...place, this.points[point][2]];
    else if (this.shape.bitmap) this.polygons[ring][corner] = place;
    else { // of a box, neighbours follow
      const box = this.polygons[0];
      box[corner] = place;
      box[corner ^ 1][1] = place[1];
      box[3 - corner][0] = place[0];
    }
    viewer.redraw("top");
  }

  up() {
    if (!this.active) return;
    this.active = null;
    this.commit();
  }

  /** A keypoint that is visible, hidden or absent becomes the next of these. */
  double(at, event, viewer) {
    if (!this.handles) return;
    const point = this.near(at, viewer, this.points);
    if (point < 0) return;
    this.points[point][2] = (Math.min(2, Math.ceil(this.points[point][2])) + 2) % 3;
    this.commit();
  }

  commit() {
    const { shape } = this;
    let after = plain(shape);
    if (shape.bitmap) {
      const mask = fromPolygons(this.polygons, this.size);
      if (mask) after = masked(after, mask);
    } else {
      const xs = this.polygons[0].map((c) => c[0]), ys = this.polygons[0].map((c) => c[1]);
      const box = [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
      if (box[2] - box[0] >= SMALLEST && box[3] - box[1] >= SMALLEST) after.box = box;
    }
    if (this.points.some((point) => point[2] > 0)) after.points = this.points.map((point) => (point[2] > 0 ? [point[0], point[1], Math.min(2, Math.ceil(point[2]))] : [0, 0, 0]));
    this.change(shape, after);
  }

  cancel(viewer) { this.active = this.of = null; viewer.redraw("top"); }

  draw(context, viewer) {
    if (!this.handles) return;
    for (const polygon of this.polygons) {
      context.beginPath();
      for (const [x, y] of polygon) context.lineTo(x, y);
      context.closePath();
      this.line(context, viewer);
      for (const corner of polygon) handle(context, viewer, corner);
    }
    this.points.forEach((point, i) => {
      if (!(point[2] > 0)) return;
      handle(context, viewer, point, point[2] > 1);
      context.font = `${12 / viewer.view.scale}px sans-serif`;
      context.fillStyle = "#fff";
      context.shadowBlur = 3;
      context.shadowColor = "#000";
      context.fillText(this.page.state.points[i], point[0] + 8 / viewer.view.scale, point[1] - 6 / viewer.view.scale);
      context.shadowBlur = 0;
    });
  }
}

function handle(context, viewer, [x, y], filled = true) {
  const side = 7 / viewer.view.scale;
  context.lineWidth = 1.5 / viewer.view.scale;
  context.fillStyle = filled ? "#fff" : "#000";
  context.strokeStyle = filled ? "#000" : "#fff";
  context.fillRect(x - side / 2, y - side / 2, side, side);
  context.strokeRect(x - side / 2, y - side / 2, side, side);
}

function pairs(ring) {
  const found = [];
  for (let i = 0; i < ring.length; i += 2) found.push([ring[i], ring[i + 1]]);
  return found;
}

function toSegment(p, a, b) {
  const dx = b[0] - a[0], dy = b[1] - a[1];
  const t = Math.min(1, Math.max(0, ((p[0] - a[0]) * dx + (p[1] - a[1]) * dy) / (dx * dx + dy * dy || 1)));
  return distance(p, [a[0] + t * dx, a[1] + t * dy]);
}
