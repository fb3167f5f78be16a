// What the page works on, and what its parts share: the state of the server, the image at hand, its objects.

import { ask } from "./api.js";
import { Controls, pixelQuery } from "./controls.js";
import { $, guarded, make, showProblem } from "./dom.js";
import { leftBy, loadMap, mapOf, paintMap } from "./maps.js";
import { isScored, isShown, Shape } from "./shapes.js";
import { Strip } from "./strip.js";
import { ObjectTable } from "./table.js";
import { Viewer } from "./viewer.js";

const css = (colour) => (colour ? `rgb(${colour.join(" ")})` : "");
const GOLDEN = 0.618034;

export class Page extends EventTarget {
  constructor() {
    super();
    this.state = null;
    this.info = null; // of the image at hand
    this.source = "none"; // what its objects are: found, data, draft, none
    this.map = null; // of its pixel classes, as found or annotated, or as the regions of a draft say
    this.regions = []; // of pixel classes, of a draft
    this.own = new Map(); // colours of objects by their ids
    this.pixels = { channels: [], low: null, high: null };
    this.viewer = new Viewer($("stage"));
    this.look = this.viewer.look;
    this.look.colour = (shape) => this.colourOf(shape);
    this.strip = new Strip();
    this.table = new ObjectTable($("table"));
    this.controls = new Controls(this.look);
    this.strip.addEventListener("choose", (event) => this.open(event.detail));
    this.table.addEventListener("choose", ({ detail }) => this.select(detail.shape, detail.more, "table"));
    this.viewer.addEventListener("click", ({ detail }) => this.select(detail.shape, detail.more, "picture"));
    this.controls.addEventListener("look", () => this.lookChanged());
    this.controls.addEventListener("score", guarded(() => this.refreshStrip()));
    this.controls.addEventListener("pixels", () => this.viewer.show(this.info, pixelQuery(this.pixels)));
    this.viewer.addEventListener("view", () => this.showZoom());
    this.viewer.addEventListener("drawn", () => this.showZoom());
  }

  get model() { return this.state?.models[this.state.current] ?? null; }

  get number() { return this.info?.number ?? -1; }

  get shapes() { return this.viewer.shapes; }

  get shown() { return this.shapes.filter((shape) => isShown(shape, this.look)); }

  get selected() { return this.shapes.filter((shape) => this.viewer.selected.has(shape.id)); }

  /** The colour of a class, or of an object where outlines are all of one class. */
  colourOf(shape) {
    if (this.classNames.length < 2 && shape.bitmap) return this.own.get(shape.id) ?? "#00beff";
    return this.classColour(shape.class);
  }

  classColour(name) {
    const { classes, colours, pixel_classes: pixels, pixel_colours: pixelColours } = this.state;
    const place = classes.indexOf(name);
    return place < 0 ? (this.isPixelClass(name) ? css(pixelColours[pixels.indexOf(name)]) : "#a0a0a0") : css(colours[place]);
  }

  isPixelClass(name) { return this.state.pixel_classes.includes(name); }

  get classNames() { return this.state.classes; }

  async refresh() {
    this.state = await ask("api/state");
    this.look.bones = this.state.bones;
    this.dispatchEvent(new Event("state"));
    return this.state;
  }

  async refreshStrip() {
    const score = this.model ? `?min_score=${this.look.minScore}` : "";
    this.strip.show(await ask(`api/images${score}`));
  }

  /** Show an image: its pixels first, then its objects. */
  async open(number) {
    const earlier = this.opening;
    const mine = (this.opening = { number });
    if (earlier) earlier.left = true;
    this.dispatchEvent(new Event("leave"));
    this.strip.choose(number);
    this.busy("opening the image");
    try {
      const info = await ask(`api/images/${number}`);
      if (mine.left) return;
      this.info = info;
      this.pixels = { channels: [], low: null, high: null };
      this.viewer.selected = new Set();
      this.setObjects([], "none");
      this.viewer.show(info, "");
      this.viewer.label = `${info.name}. Arrow keys move the picture, plus and minus zoom, N and P go through the objects.`;
      this.controls.showPixels(info, this.pixels);
      history.replaceState(null, "", `#${encodeURIComponent(info.name)}`);
      await this.showObjects(mine);
    } catch (error) {
      if (!mine.left) showProblem(error);
    } finally {
      if (!mine.left) this.busy("");
    }
    this.dispatchEvent(new Event("opened"));
  }

  async showObjects(mine = this.opening) {
    const { info } = this;
    if (info.draft) return void this.setObjects(info.draft.objects, "draft", info.draft);
    if (info.data) return void (await this.setFound(info.data, "data", mine));
    if (!this.model) return void this.setObjects([], "none");
    this.busy("looking for objects");
    const found = await ask(`api/images/${info.number}/found?model=${this.state.current}`);
    if (mine.left) return;
    await this.setFound(found, "found", mine);
    this.refreshStrip().catch(showProblem);
  }

  async setFound(found, source, mine) {
    const map = found.has_map ? await loadMap(this.number, source === "data" ? null : this.state.current, this.info.size) : null;
    if (!mine.left) this.setObjects(found.objects, source, { map });
  }

  /** Take over these objects of the server, with the map of pixel classes or, of a draft, their regions. */
  setObjects(objects, source, { map = null, regions = [] } = {}) {
    this.source = source;
    this.map = map;
    this.look.scored = source === "found";
    this.measured = null;
    this.takeShapes(objects.map((object) => new Shape(object)), regions.map((region) => new Shape(region)));
  }

  takeShapes(shapes, regions) {
    for (const { id } of shapes) { // colours stay when other objects come and go
      if (!this.own.has(id)) this.own.set(id, `hsl(${Math.round(360 * ((this.own.size * GOLDEN + 0.54) % 1))} 90% 60%)`);
    }
    const ids = new Set(shapes.map((shape) => shape.id));
    this.viewer.selected = new Set([...this.viewer.selected].filter((id) => ids.has(id)));
    if (this.source === "draft") this.map = regions.length ? mapOf(regions, this.state.pixel_classes, this.info.size) : null;
    this.regions = regions;
    this.viewer.setShapes(shapes);
    if (this.source === "draft" || !this.map) this.showMap();
    this.lookChanged();
  }

  /** The pixel classes that these objects leave, as a picture for a viewer and counted; null where there are none. */
  pictureOf(map, shapes, least) {
    if (!map) return null;
    const left = leftBy(map, shapes, least), { pixel_classes: names, pixel_colours: colours } = this.state;
    const picture = paintMap(left, colours.map((colour, i) => (this.look.hidden.has(names[i]) ? null : colour)));
    return { picture, size: this.info.size, counts: left.counts, total: left.classes.length };
  }

  showMap() {
    const least = this.source === "found" ? this.model.min_stuff_area : 0;
    this.viewer.map = this.info && this.pictureOf(this.map, this.shapes.filter((shape) => isScored(shape, this.look)), least);
    this.viewer.redraw("overlay");
  }

  lookChanged() {
    this.viewer.redraw("overlay");
    clearTimeout(this.later);
    this.later = setTimeout(() => this.listObjects(), 40); // the picture first, then tables
  }

  listObjects() {
    if (!this.state) return;
    const shown = this.shown, counts = new Map();
    if (this.map) this.showMap();
    for (const shape of this.shapes) if (isScored(shape, this.look)) counts.set(shape.class, (counts.get(shape.class) ?? 0) + 1);
    const names = [...new Set([...this.classNames.filter((name) => this.classNames.length <= 30 || counts.has(name)), ...counts.keys()])];
    const pixels = this.state.pixel_classes, { map } = this.viewer;
    pixels.forEach((name, i) => counts.set(name, `${((100 * (map?.counts[i] ?? 0)) / (map?.total ?? 1)).toFixed(1)} %`));
    const colour = (name) => (this.isPixelClass(name) || this.classNames.length > 1 ? this.classColour(name) : "");
    this.controls.showClasses(names, pixels, counts, colour);
    this.table.show(shown, this.viewer.selected, (shape) => this.colourOf(shape));
    if ($("measure").checked) this.measure().catch(showProblem);
    $("score-label").hidden = !this.look.scored || !this.classNames.length;
    $("table").hidden = $("measure-label").hidden = !this.classNames.length && pixels.length > 0;
    $("now").replaceChildren(...this.summary(shown, pixels.map((name) => [name, counts.get(name)])));
    this.dispatchEvent(new Event("listed"));
  }

  /** Fetch all measurements of the objects, once for each state of them. */
  async measure() {
    const { number } = this, state = `${number} ${this.source} ${this.info?.draft?.revision} ${this.state.current}`;
    if (!this.shapes.length || this.measured === state) return;
    this.measured = state;
    const query = this.source === "found" ? `?model=${this.state.current}` : "";
    const { names, values } = await ask(`api/images/${number}/measurements${query}`);
    if (this.number !== number || this.measured !== state) return;
    for (const shape of this.shapes) {
      const row = values[shape.id];
      if (row) shape.measures = Object.fromEntries(names.map((name, i) => [name, row[i]]));
    }
    this.listObjects();
  }

  summary(shown, areas) {
    if (!this.info) return [];
    const counts = new Map();
    for (const shape of shown) counts.set(shape.class, (counts.get(shape.class) ?? 0) + 1);
    const text = [...counts].sort((a, b) => b[1] - a[1]).map(([name, count]) => `${count} ${name}`).join(", ")
      || (this.map ? areas.filter(([, part]) => parseFloat(part) > 0).map(([name, part]) => `${name} ${part}`).join(", ") : "");
    const said = { found: this.model && `found by ${this.model.name}`, data: "as annotated", draft: "corrected by you", none: this.model ? "" : "draw the first object, or load a model" }[this.source];
    return [make("p", { className: "big", role: "status" }, text || (this.source === "none" && this.model ? "…" : "no objects")), make("p", { className: "faint" }, said || "")];
  }

  /** Select an object, in the picture and in the table. */
  select(shape, more = false, from = "") {
    const selected = more ? new Set(this.viewer.selected) : new Set();
    if (shape && more && selected.has(shape.id)) selected.delete(shape.id);
    else if (shape) selected.add(shape.id);
    this.viewer.selected = selected;
    if (shape && from !== "picture") this.viewer.reveal(shape.box);
    else this.viewer.redraw("top");
    this.table.mark(selected, from !== "table");
    this.dispatchEvent(new Event("selected"));
  }

  /** Open the image that is most worth annotating next, as `rcnn next` chooses it; whether there is one left. */
  async next() {
    const { number } = await ask(`api/images/${this.number}/next`);
    if (number !== null) await this.open(number);
    return number !== null;
  }

  /** The next or previous object in the order of the table. */
  stepObject(by) {
    const rows = this.table.rows;
    if (!rows.length) return;
    const place = rows.findIndex((shape) => this.viewer.selected.has(shape.id));
    const next = rows[(Math.max(place, by < 0 ? 0 : -1) + by + rows.length) % rows.length];
    this.select(next, false, "keys");
  }

  busy(text) {
    this.waiting?.remove();
    this.waiting = null;
    if (!text) return;
    this.waiting = make("p", { className: "busy", role: "status" }, text);
    $("stages").append(this.waiting);
  }

  showZoom() {
    $("zoom-text").textContent = this.info ? `${Math.round(100 * this.viewer.view.scale)} %` : "";
    $("where").textContent = this.info ? `${this.info.name} · ${this.info.size[1]} × ${this.info.size[0]} px` : " ";
  }
}

