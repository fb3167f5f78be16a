// What the page works on, and what its parts share: the state of the server, the image at hand, its objects.

import { ask } from "./api.js";
import { Controls, pixelQuery } from "./controls.js";
import { $, guarded, make, showProblem, swatch } from "./dom.js";
import { loadMap, paintMap } from "./maps.js";
import { isShown, Shape } from "./shapes.js";
import { Strip } from "./strip.js";
import { ObjectTable } from "./table.js";
import { Viewer } from "./viewer.js";

const css = ([red, green, blue]) => `rgb(${red} ${green} ${blue})`;
const GOLDEN = 0.618034;

export class Page extends EventTarget {
  constructor() {
    super();
    this.state = null;
    this.info = null; // of the image at hand
    this.source = "none"; // what its objects are: found, data, draft, none
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
    const place = this.state.classes.indexOf(name);
    return place < 0 ? "#a0a0a0" : css(this.state.colours[place]);
  }

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
      this.viewer.map = null;
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
    if (info.draft) return void this.setObjects(info.draft.objects, "draft");
    if (info.data) return void (await this.setFound(info.data, "data", mine));
    if (!this.model) return void this.setObjects([], "none");
    this.busy("looking for objects");
    const found = await ask(`api/images/${info.number}/found?model=${this.state.current}`);
    if (mine.left) return;
    await this.setFound(found, "found", mine);
    this.refreshStrip().catch(showProblem);
  }

  async setFound(found, source, mine) {
    this.setObjects(found.objects, source, found);
    if (!found.has_map) return;
    const map = await loadMap(this.number, source === "data" ? null : this.state.current);
    if (mine.left) return;
    this.found.map = map;
    this.paintMap();
  }

  paintMap() {
    const { map, map_names: names, map_colours: colours } = this.found ?? {};
    this.viewer.map = map ? { picture: paintMap(map, names, colours, this.look.hidden), size: this.info.size } : null;
    this.viewer.redraw("overlay");
  }

  /** Take over these objects of the server. */
  setObjects(objects, source, found = null) {
    this.source = source;
    this.found = found;
    this.look.scored = source === "found";
    this.measured = null;
    this.takeShapes(objects.map((object) => new Shape(object)));
  }

  takeShapes(shapes) {
    this.own = new Map(shapes.map((shape, i) => [shape.id, `hsl(${Math.round(360 * ((i * GOLDEN + 0.54) % 1))} 90% 60%)`]));
    const ids = new Set(shapes.map((shape) => shape.id));
    this.viewer.selected = new Set([...this.viewer.selected].filter((id) => ids.has(id)));
    this.viewer.setShapes(shapes);
    this.lookChanged();
  }

  lookChanged() {
    this.viewer.redraw("overlay");
    clearTimeout(this.later);
    this.later = setTimeout(() => this.listObjects(), 40); // the picture first, then tables
  }

  listObjects() {
    if (!this.state) return;
    const shown = this.shown, counts = new Map();
    const above = this.shapes.filter((shape) => !this.look.scored || shape.score === undefined || shape.score >= this.look.minScore);
    for (const shape of above) counts.set(shape.class, (counts.get(shape.class) ?? 0) + 1);
    const names = [...new Set([...this.classNames.filter((name) => this.classNames.length <= 30 || counts.has(name)), ...counts.keys()])];
    const maps = this.found?.has_map ? this.found.map_names.filter((name, i) => this.found.map_colours[i]?.length) : [];
    for (const row of this.found?.areas ?? []) if (!counts.has(row[0])) counts.set(row[0], `${(100 * Number(row[2])).toFixed(1)} %`);
    const colour = (name) => (this.state.classes.includes(name) ? (this.classNames.length > 1 ? this.classColour(name) : "") : css(this.found.map_colours[this.found.map_names.indexOf(name)]));
    this.controls.showClasses([...names, ...maps.filter((name) => !names.includes(name))], counts, colour);
    if (this.found?.map) this.paintMap();
    this.table.show(shown, this.viewer.selected, (shape) => this.colourOf(shape));
    if ($("measure").checked) this.measure().catch(showProblem);
    $("score-label").hidden = !this.look.scored;
    $("now").replaceChildren(...this.summary(shown, counts));
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

  summary(shown) {
    if (!this.info) return [];
    const counts = new Map();
    for (const shape of shown) counts.set(shape.class, (counts.get(shape.class) ?? 0) + 1);
    const text = [...counts].sort((a, b) => b[1] - a[1]).map(([name, count]) => `${count} ${name}`).join(", ");
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

  /** Open the image that is most worth annotating next, as `rcnn next` chooses it. */
  async next() {
    const { number } = await ask(`api/images/${this.number}/next`);
    if (number !== null) await this.open(number);
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

export { swatch };
