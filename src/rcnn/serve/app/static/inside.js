// Look inside: the stages in which the model found or missed what is at a place, as layers over the picture.

import { send } from "./api.js";
import { $, guarded, make } from "./dom.js";
import { Growth, LAST } from "./growth.js";

const MOST_DRAWN = 3000; // boxes of a layer
const COLOURS = { kept: "#3ddc84", lost: "#ff5c5c", own: "#ffd400", subject: "#ffffff", plain: "#4db8ff" };

/** The boxes that each stage shows: [box, colour, strong] by the key of the stage. */
function layersOf(told) {
  const { levels, anchors, proposals, regions, selected, detections } = told;
  const fates = (table, fate) => table.boxes.map((box, i) => [box, fate(table, i) ? COLOURS.kept : COLOURS.lost]);
  const all = levels.map((level) => grid(level));
  return {
    anchors: { title: "Anchors", boxes: [...anchors.boxes.map((box) => [box, COLOURS.own, true])], choices: levels.map((level, i) => ({ title: `stride ${level.stride}: ${level.rows * level.columns * level.cell.length}`, boxes: all[i].map((box) => [box, COLOURS.plain]) })) },
    moved: { title: "Anchors, moved by the RPN", boxes: anchors.moved.map((box) => [box, COLOURS.own, true]) },
    proposals: { title: "Proposals before suppression", boxes: fates(proposals, (t, i) => t.fates[i] === "kept") },
    kept: { title: "Proposals that are left", boxes: proposals.boxes.filter((_, i) => proposals.fates[i] === "kept").map((box) => [box, COLOURS.kept]) },
    regions: { title: "Regions that are pooled (RoIs)", boxes: regions.boxes.map((box) => [box, COLOURS.plain]) },
    selected: { title: "Classified and moved", boxes: fates(selected, (t, i) => t.fates[i] === "kept") },
    detections: { title: "Detections", boxes: detections.boxes.map((box) => [box, COLOURS.kept, true]) },
  };
}

/** Some anchors of a level: those of every cell, or of every few where these are too many. */
function grid({ rows, columns, step, cell }) {
  const every = Math.ceil(Math.sqrt((rows * columns * cell.length) / MOST_DRAWN)), boxes = [];
  for (let row = 0; row < rows; row += every)
    for (let column = 0; column < columns; column += every)
      for (const [x1, y1, x2, y2] of cell) boxes.push([x1 + column * step[0], y1 + row * step[1], x2 + column * step[0], y2 + row * step[1]]);
  return boxes;
}

export class Inside {
  constructor(page, tabs) {
    Object.assign(this, { page, tabs, told: null, shown: [], growth: null });
    tabs.add("inside", "Look inside");
    this.choice = make("button", { "aria-pressed": "false", onclick: () => this.choose(!this.choosing) }, "Choose a place");
    this.selected = make("button", { onclick: guarded(() => this.ofSelected()) }, "Explain what is selected");
    this.body = make("div", { className: "inside" });
    $("tab-inside").append(
      make("p", { className: "faint" }, "Why was an object found, or missed? Choose a place in the picture, or select an object; then step through the stages of the model."),
      make("div", { className: "row" }, this.choice, this.selected), this.body);
    page.viewer.layers.push((context, viewer) => this.draw(context, viewer));
    page.viewer.addEventListener("click", ({ detail }) => { if (this.choosing) this.explain(detail.place).catch(() => {}); });
    page.addEventListener("leave", () => this.clear());
    $("tabs").addEventListener("click", () => this.told && page.viewer.redraw("overlay"));
    for (const kind of ["selected", "state", "listed"]) page.addEventListener(kind, () => this.enable());
    this.explain = guarded((at) => this.ask(at));
  }

  get visible() { return this.tabs.chosen === "inside"; }

  enable() {
    this.choice.disabled = !this.page.model || !this.page.info;
    this.selected.disabled = this.choice.disabled || this.page.selected.length !== 1;
  }

  choose(on) {
    this.choosing = on;
    this.choice.setAttribute("aria-pressed", String(on));
    if (on) this.page.toolbar?.choose("v");
    this.page.viewer.top.style.cursor = on ? "crosshair" : "default";
  }

  clear() {
    this.growth?.stop();
    this.told = this.growth = null;
    this.shown = [];
    this.body.replaceChildren();
    this.page.viewer.redraw("overlay");
  }

  ofSelected() {
    const [shape] = this.page.selected;
    return shape && this.explain(shape.box, shape.class);
  }

  async ask(at) {
    const { page } = this;
    this.choose(false);
    page.busy("following the object through the model");
    try {
      const known = page.model.classes, [shape] = page.selected;
      const name = at.length === 4 && shape && known.includes(shape.class) ? shape.class : undefined;
      this.told = await send(`api/images/${page.number}/explain`, { at, class: name, min_score: Math.max(page.look.minScore, 0.001) });
    } finally {
      page.busy("");
    }
    this.show();
  }

  show() {
    const { told } = this;
    this.layers = layersOf(told);
    const stages = told.stages.map((stage, i) => make("li", {},
      make("button", { className: "stage-row", "aria-pressed": "false", "data-key": stage.key, onclick: () => this.step(i) },
        make("strong", {}, stage.title), make("span", { className: "faint" }, `${stage.entering.toLocaleString("en")} → ${stage.leaving.toLocaleString("en")}; for this object ${stage.own_entering.toLocaleString("en")} → ${stage.own_leaving.toLocaleString("en")}`)),
      make("p", {}, stage.text), stage.cause ? make("p", { className: "lost" }, "It was lost here.") : null,
      stage.paper ? make("p", { className: "faint" }, `${stage.paper} · ${stage.code}`) : null));
    const shows = Object.entries(this.layers).filter(([, layer]) => layer.boxes.length || layer.choices?.length);
    this.pick = make("select", { "aria-label": "What is drawn over the picture", onchange: () => this.layer(this.pick.value) },
      ...shows.map(([key, layer]) => make("option", { value: key }, `${layer.title} (${layer.boxes.length})`)),
      ...(this.layers.anchors.choices ?? []).map((choice, i) => make("option", { value: `level-${i}` }, `All anchors, ${choice.title}`)),
      ...(told.mask ? [make("option", { value: "mask" }, `Mask, ${told.mask.map.length} × ${told.mask.map.length}`)] : []));
    this.thin = make("input", { type: "range", min: "1", max: "100", value: "100", "aria-label": "How many of them, best first", oninput: () => this.thinOut() });
    this.body.replaceChildren(
      make("p", { className: "verdict", role: "status" }, told.verdict),
      make("label", { className: "field" }, make("span", {}, "Over the picture"), this.pick),
      this.thinning = make("label", { className: "slide" }, make("span", {}, "Best first"), this.thin, this.thinned = make("output")),
      this.growing = make("div", { className: "growing", hidden: true }),
      scores(told), make("ol", { className: "stages" }, ...stages));
    this.layer(shows.length ? shows.at(-1)[0] : "");
    this.page.viewer.reveal(told.subject.box);
  }

  /** Draw the layer that belongs to a stage. */
  step(index) {
    for (const [i, row] of [...this.body.querySelectorAll(".stage-row")].entries()) row.setAttribute("aria-pressed", String(i === index));
    const { key } = this.told.stages[index];
    this.layer(LAYER_OF[key] ?? "detections");
  }

  layer(key) {
    if ([...this.pick.options].some((option) => option.value === key)) this.pick.value = key;
    const { told } = this;
    this.grow(key === "mask" ? told.mask : null);
    this.shown = key.startsWith("level-") ? this.layers.anchors.choices[Number(key.slice(6))].boxes : this.layers[key]?.boxes ?? [];
    this.thinning.hidden = this.shown.length < 2;
    this.thinOut();
  }

  get count() { return Math.min(MOST_DRAWN, Math.ceil((this.shown.length * Number(this.thin.value)) / 100)); }

  thinOut() {
    this.thinned.textContent = String(this.count);
    this.page.viewer.redraw("overlay");
  }

  /** Let the mask grow into the image, with a slider to go through it by hand. */
  grow(mask) {
    this.growth?.stop();
    this.growth = null;
    this.growing.hidden = !mask;
    if (!mask) return;
    const slider = make("input", { type: "range", min: "0", max: String(LAST), step: "0.01", "aria-label": "How far the mask has grown", oninput: () => { this.growth.stop(); this.growth.show(Number(slider.value)); } });
    const words = make("p", { className: "faint" });
    this.growth = new Growth(mask, () => {
      slider.value = String(this.growth.at);
      words.textContent = this.growth.words;
      slider.setAttribute("aria-valuetext", this.growth.words);
      this.page.viewer.redraw("overlay");
    });
    this.growing.replaceChildren(make("div", { className: "row" }, make("button", { className: "small", onclick: () => this.growth.play() }, "Grow again"), slider), words);
    this.growth.play();
  }

  draw(context, viewer) {
    if (!this.told || !this.visible) return;
    const left = -viewer.view.x / viewer.view.scale, top = -viewer.view.y / viewer.view.scale;
    context.fillStyle = "rgb(0 0 0 / 45%)"; // what is drawn below steps back
    context.fillRect(left, top, viewer.width / viewer.view.scale, viewer.height / viewer.view.scale);
    for (const [[x1, y1, x2, y2], colour, strong] of this.shown.slice(0, this.count)) {
      context.lineWidth = (strong ? 2 : 0.99) / viewer.view.scale;
      context.strokeStyle = colour;
      context.strokeRect(x1, y1, x2 - x1, y2 - y1);
    }
    this.growth?.draw(context);
    const [x1, y1, x2, y2] = this.told.subject.box;
    context.setLineDash([6 / viewer.view.scale, 4 / viewer.view.scale]);
    context.lineWidth = 2.5 / viewer.view.scale;
    context.strokeStyle = COLOURS.subject;
    context.strokeRect(x1, y1, x2 - x1, y2 - y1);
    context.setLineDash([]);
  }
}

// Which layer a stage shows; the others show the detections.
const LAYER_OF = {
  anchors: "anchors", rpn_boxes: "moved", top_k: "proposals", rpn_nms: "proposals", proposals: "kept", external: "kept", box: "regions",
  not_background: "regions", class: "selected", threshold: "selected", per_class: "selected", nms: "selected", mask: "mask",
};

/** The scores of the classes for the region that got furthest, as bars. */
function scores(told) {
  if (!told.region) return null;
  const rows = told.region.scores.map((score, i) => [told.class_names[i], score]);
  if (told.region.background !== null) rows.push(["background", told.region.background]);
  rows.sort((a, b) => b[1] - a[1]);
  return make("div", { className: "scores" }, make("h2", { className: "part" }, "What the best region is taken for"), ...rows.slice(0, 6).map(([name, score]) =>
    make("label", { className: "score" }, make("span", {}, name), make("meter", { min: 0, max: 1, value: score }), make("span", {}, score.toFixed(2)))));
}
