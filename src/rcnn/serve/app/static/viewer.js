// A picture to look at: pan, zoom, objects on it, and a tool that works on it. Coordinates are pixels of the image.

import { isShown } from "./shapes.js";
import { Tiles } from "./tiles.js";

const ZOOM_STEP = 1.25, MOST_ZOOM = 64, PAN_STEP = 60, CLICK = 4; // pixels of the screen
const FILL_FROM = 0.02; // of opacity
const MANY = 200; // objects, whose lines are thin: browsers draw lines of up to a pixel several times as fast

export class Viewer extends EventTarget {
  constructor(stage) {
    super();
    this.stage = stage;
    [this.picture, this.overlay, this.top] = [0, 1, 2].map(() => stage.appendChild(document.createElement("canvas")));
    for (const canvas of [this.picture, this.overlay]) canvas.setAttribute("aria-hidden", "true");
    Object.assign(this.top, { tabIndex: 0 });
    this.top.setAttribute("role", "application");
    this.tiles = new Tiles(() => this.redraw("picture"));
    this.view = { scale: 1, x: 0, y: 0 };
    this.shapes = [];
    this.selected = new Set();
    this.look = { minScore: 0, scored: true, hidden: new Set(), opacity: 0.35, outlines: false, boxes: false, colour: () => "#0be" };
    this.layers = []; // functions that draw onto the overlay
    this.tool = null;
    this.map = null;
    this.wanted = new Set();
    this.pointers = new Map();
    this.drawn = 0;
    new ResizeObserver(() => this.resize()).observe(stage);
    this.listen();
  }

  set label(text) { this.top.setAttribute("aria-label", text); }

  get ratio() { return window.devicePixelRatio || 1; }

  show(info, query) {
    const other = this.tiles.info?.number !== info?.number;
    this.tiles.show(info, query);
    if (other) this.fit();
    this.redraw();
  }

  setShapes(shapes) {
    this.shapes = shapes;
    this.redraw("overlay");
  }

  resize() {
    const { clientWidth, clientHeight } = this.stage;
    const had = this.width;
    this.width = clientWidth;
    this.height = clientHeight;
    for (const canvas of [this.picture, this.overlay, this.top]) {
      canvas.width = Math.round(clientWidth * this.ratio);
      canvas.height = Math.round(clientHeight * this.ratio);
    }
    if (!had || this.fitted) this.fit();
    this.drawNow();
  }

  fit() {
    const info = this.tiles.info;
    if (!info || !this.width) return;
    const margin = 12;
    const scale = Math.min((this.width - 2 * margin) / info.size[1], (this.height - 2 * margin) / info.size[0], 8);
    this.setView({ scale, x: (this.width - info.size[1] * scale) / 2, y: (this.height - info.size[0] * scale) / 2 });
    this.fitted = true;
  }

  setView(view, quiet = false) {
    this.view = view;
    this.fitted = false;
    this.redraw();
    if (!quiet) this.dispatchEvent(new Event("view"));
  }

  zoom(factor, at = [this.width / 2, this.height / 2]) {
    const info = this.tiles.info;
    if (!info) return;
    const least = Math.min(0.5, (0.5 * this.width) / info.size[1], (0.5 * this.height) / info.size[0]);
    const scale = Math.min(MOST_ZOOM, Math.max(least, this.view.scale * factor));
    const ratio = scale / this.view.scale;
    this.setView({ scale, x: at[0] - (at[0] - this.view.x) * ratio, y: at[1] - (at[1] - this.view.y) * ratio });
  }

  pan(dx, dy) { this.setView({ ...this.view, x: this.view.x + dx, y: this.view.y + dy }); }

  /** Bring a box into view, closer where it would be tiny. */
  reveal([x1, y1, x2, y2]) {
    const { scale, x, y } = this.view;
    const inside = x1 * scale + x > 0 && y1 * scale + y > 0 && x2 * scale + x < this.width && y2 * scale + y < this.height;
    const side = Math.max(x2 - x1, y2 - y1, 1);
    if (inside && side * scale > 12) return this.redraw();
    const best = Math.min(MOST_ZOOM, Math.max(scale, Math.min(this.width, this.height) / (6 * side)));
    this.setView({ scale: best, x: this.width / 2 - ((x1 + x2) / 2) * best, y: this.height / 2 - ((y1 + y2) / 2) * best });
  }

  at(event) {
    const place = this.top.getBoundingClientRect();
    const screen = [event.clientX - place.left, event.clientY - place.top];
    return { screen, image: [(screen[0] - this.view.x) / this.view.scale, (screen[1] - this.view.y) / this.view.scale] };
  }

  /** The smallest object shown at a place. */
  pick([x, y]) {
    let best = null;
    for (const shape of this.shapes) {
      if (isShown(shape, this.look) && shape.contains(x, y) && (!best || shape.size < best.size)) best = shape;
    }
    return best;
  }

  redraw(what) {
    for (const one of what ? [what] : ["picture", "overlay", "top"]) this.wanted.add(one);
    this.frame ||= requestAnimationFrame(() => this.drawNow(this.wanted));
  }

  drawNow(what = new Set(["picture", "overlay", "top"])) {
    this.frame = 0;
    const now = new Set(what);
    this.wanted.clear();
    if (!this.width) return;
    if (now.has("picture")) this.draw(this.picture, (context) => this.tiles.draw(context, this.view, this.width, this.height, this.ratio));
    if (now.has("overlay")) this.draw(this.overlay, (context) => this.drawShapes(context));
    if (now.has("top") || now.has("overlay")) this.draw(this.top, (context) => this.drawTop(context));
    this.drawn++;
    this.dispatchEvent(new Event("drawn"));
  }

  draw(canvas, paint) {
    const context = canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    const { scale, x, y } = this.view, ratio = this.ratio;
    context.setTransform(scale * ratio, 0, 0, scale * ratio, x * ratio, y * ratio);
    paint(context);
  }

  drawShapes(context) {
    const { look, view } = this;
    if (this.map) this.drawMap(context);
    const left = -view.x / view.scale, top = -view.y / view.scale;
    const right = left + this.width / view.scale, bottom = top + this.height / view.scale;
    const shown = this.shapes.filter((shape) => isShown(shape, look));
    const seen = shown.filter(({ box }) => box[2] >= left && box[3] >= top && box[0] <= right && box[1] <= bottom);
    context.lineWidth = seen.length > MANY ? 0.99 / (view.scale * this.ratio) : 1.5 / view.scale;
    for (const shape of seen) {
      const [x1, y1, x2, y2] = shape.box;
      const colour = look.colour(shape);
      const path = shape.outline(view.scale * this.ratio);
      context.fillStyle = context.strokeStyle = colour;
      if (!look.outlines && look.opacity > FILL_FROM && shape.bitmap) {
        context.globalAlpha = look.opacity;
        context.fill(path, "evenodd");
        context.globalAlpha = 1;
      }
      context.stroke(path);
      if (look.boxes && shape.bitmap) context.strokeRect(x1, y1, x2 - x1, y2 - y1);
      if (shape.points) this.drawPoints(context, shape);
    }
    this.count = shown.length;
    for (const layer of this.layers) layer(context, this);
  }

  drawPoints(context, shape) {
    const { view, look } = this, radius = 3.5 / view.scale;
    const seen = (point) => point[2] > 0;
    context.beginPath();
    for (const [a, b] of look.bones || []) {
      if (!shape.points[a] || !shape.points[b] || !seen(shape.points[a]) || !seen(shape.points[b])) continue;
      context.moveTo(shape.points[a][0], shape.points[a][1]);
      context.lineTo(shape.points[b][0], shape.points[b][1]);
    }
    context.stroke();
    for (const point of shape.points.filter(seen)) {
      context.beginPath();
      context.arc(point[0], point[1], radius, 0, 7);
      context.fill();
    }
  }

  drawMap(context) {
    const { picture, size } = this.map;
    context.globalAlpha = this.look.opacity;
    context.imageSmoothingEnabled = false;
    context.drawImage(picture, 0, 0, size[1], size[0]);
    context.globalAlpha = 1;
  }

  drawTop(context) {
    const width = 2 / this.view.scale;
    for (const shape of this.shapes) {
      if (!this.selected.has(shape.id)) continue;
      for (const [line, colour] of [[2 * width, "rgba(0,0,0,.75)"], [width, "#fff"]]) {
        context.lineWidth = line;
        context.strokeStyle = colour;
        context.stroke(shape.outline(this.view.scale * this.ratio));
      }
    }
    this.tool?.draw?.(context, this);
    this.drawCross(context);
  }

  listen() {
    const { top } = this;
    top.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0016)), this.at(event).screen);
    }, { passive: false });
    top.addEventListener("pointerdown", (event) => this.down(event));
    top.addEventListener("pointermove", (event) => this.move(event));
    for (const kind of ["pointerup", "pointercancel"]) top.addEventListener(kind, (event) => this.up(event));
    top.addEventListener("dblclick", (event) => this.tool?.double?.(this.at(event).image, event, this));
    top.addEventListener("contextmenu", (event) => event.preventDefault());
  }

  down(event) {
    if (!this.tiles.info) return;
    this.top.focus({ preventScroll: true });
    this.top.setPointerCapture(event.pointerId);
    const place = this.at(event);
    this.cross = null;
    this.pointers.set(event.pointerId, place.screen);
    if (this.pointers.size > 1) { // a pinch is no stroke
      this.tool?.cancel?.(this);
      this.drag = null;
      return;
    }
    const pans = event.button !== 0 || event.altKey || !this.tool?.down?.(place.image, event, this);
    this.drag = { pans, from: place.screen, last: place.screen, moved: false };
  }

  move(event) {
    const place = this.at(event);
    if (this.pointers.size === 2 && this.pointers.has(event.pointerId)) return this.pinch(event, place.screen);
    if (!this.drag) return void this.tool?.hover?.(place.image, event, this);
    this.drag.moved ||= Math.hypot(place.screen[0] - this.drag.from[0], place.screen[1] - this.drag.from[1]) > CLICK;
    if (this.drag.pans) {
      if (this.drag.moved) this.pan(place.screen[0] - this.drag.last[0], place.screen[1] - this.drag.last[1]);
      this.drag.last = place.screen;
    } else this.tool?.move?.(place.image, event, this);
  }

  up(event) {
    this.pointers.delete(event.pointerId);
    const drag = this.drag;
    this.drag = null;
    if (!drag) return;
    const place = this.at(event);
    if (!drag.pans) return void this.tool?.up?.(place.image, event, this);
    if (!drag.moved && event.button === 0 && event.type === "pointerup")
      this.dispatchEvent(new CustomEvent("click", { detail: { place: place.image, shape: this.pick(place.image), more: event.shiftKey } }));
  }

  pinch(event, screen) {
    const other = [...this.pointers].find(([id]) => id !== event.pointerId)[1];
    const before = this.pointers.get(event.pointerId);
    const middle = [(screen[0] + other[0]) / 2, (screen[1] + other[1]) / 2];
    const ratio = Math.hypot(screen[0] - other[0], screen[1] - other[1]) / (Math.hypot(before[0] - other[0], before[1] - other[1]) || 1);
    this.pointers.set(event.pointerId, screen);
    this.zoom(ratio, middle);
    this.pan((screen[0] - before[0]) / 2, (screen[1] - before[1]) / 2);
  }

  /** Keys that work with the tool in place of a pointer: arrows move a cross, space presses; whether it was one. */
  drawKey(event) {
    const step = event.shiftKey ? 10 : 1;
    const way = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
    const [height, width] = this.tiles.info.size;
    this.cross ||= [width / 2, height / 2].map(Math.round);
    if (way) {
      this.cross = [Math.min(width, Math.max(0, this.cross[0] + way[0])), Math.min(height, Math.max(0, this.cross[1] + way[1]))];
      this.tool[this.pressed ? "move" : "hover"]?.(this.cross, event, this);
    } else if (event.key === " ") {
      if (this.pressed) this.tool.up?.(this.cross, event, this);
      else this.tool.down?.(this.cross, event, this);
      this.pressed = !this.pressed;
      if (this.tool.corners) { this.tool.up?.(this.cross, event, this); this.pressed = false; } // a press is a corner
    } else return false;
    this.redraw("top");
    return true;
  }

  drawCross(context) {
    if (!this.cross || !this.tool) return;
    const [x, y] = this.cross, arm = 9 / this.view.scale;
    for (const [width, colour] of [[3.5, "#000"], [1.5, "#fff"]]) {
      context.lineWidth = width / this.view.scale;
      context.strokeStyle = colour;
      context.beginPath();
      context.moveTo(x - arm, y); context.lineTo(x + arm, y);
      context.moveTo(x, y - arm); context.lineTo(x, y + arm);
      context.stroke();
    }
  }

  /** Keys that move the picture; whether it was one. */
  key(event) {
    const steps = { ArrowLeft: [PAN_STEP, 0], ArrowRight: [-PAN_STEP, 0], ArrowUp: [0, PAN_STEP], ArrowDown: [0, -PAN_STEP] };
    if (steps[event.key]) this.pan(...steps[event.key]);
    else if (event.key === "+" || event.key === "=") this.zoom(ZOOM_STEP);
    else if (event.key === "-") this.zoom(1 / ZOOM_STEP);
    else if (event.key === "0") this.fit();
    else return false;
    return true;
  }
}
