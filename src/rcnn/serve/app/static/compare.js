// Two pictures of the same image side by side, moved together: what different models find, and what was corrected.

import { ask } from "./api.js";
import { $, guarded, make } from "./dom.js";
import { loadMap } from "./maps.js";
import { isScored, Shape } from "./shapes.js";
import { Viewer } from "./viewer.js";

export class Compare {
  constructor(page) {
    this.page = page;
    this.other = null;
    this.choice = make("select", { "aria-label": "What the right picture shows", onchange: guarded(() => this.show()) });
    this.count = make("span", { className: "faint", role: "status" });
    $("right").prepend(make("div", { className: "source" }, this.choice, this.count));
    this.name = make("span", {});
    this.head = make("div", { className: "source", hidden: true }, this.name);
    $("left").prepend(this.head);
    $("compare").addEventListener("click", guarded(() => this.toggle()));
    page.addEventListener("opened", guarded(() => this.on && this.show()));
    page.addEventListener("state", () => this.showButton());
    page.addEventListener("listed", () => this.on && this.follow());
  }

  get on() { return !$("right").hidden; }

  get sources() {
    const { page } = this;
    const found = page.state.models.map((model, i) => ({ key: String(i), title: `found by ${model.name}` }));
    return [...found.reverse(), ...(page.info?.data ? [{ key: "data", title: "as annotated" }] : [])];
  }

  showButton() { $("compare").hidden = !this.page.state.images || !this.sources.length; }

  async toggle(on = !this.on) {
    $("right").hidden = this.head.hidden = !on;
    $("compare").setAttribute("aria-pressed", String(on));
    if (!on) return;
    if (!this.other) {
      this.other = new Viewer($("stage-2"));
      this.other.label = "The same image, to compare";
      this.other.addEventListener("view", () => this.page.viewer.setView({ ...this.other.view }, true));
      this.page.viewer.addEventListener("view", () => this.on && this.other.setView({ ...this.page.viewer.view }, true));
    }
    await this.show();
    this.page.viewer.fit();
  }

  async show() {
    const { page, other } = this, { sources } = this;
    const before = this.choice.value;
    this.choice.replaceChildren(...sources.map((one) => make("option", { value: one.key }, one.title)));
    const wanted = sources.some((one) => one.key === before) ? before : (sources.find((one) => one.key !== String(page.state.current)) ?? sources[0])?.key;
    this.choice.value = wanted ?? "";
    if (!page.info || wanted === undefined) return;
    other.show(page.info, "");
    this.count.textContent = "looking …";
    const found = wanted === "data" ? page.info.data : await ask(`api/images/${page.number}/found?model=${wanted}`);
    other.look.scored = wanted !== "data";
    this.map = found.has_map ? await loadMap(page.number, wanted === "data" ? null : wanted, page.info.size) : null;
    this.least = wanted === "data" ? 0 : page.state.models[wanted].min_stuff_area;
    other.setShapes(found.objects.map((object) => new Shape(object)));
    this.follow();
    other.setView({ ...page.viewer.view }, true);
  }

  /** Show the right picture as the left one: classes, opacity, score. */
  follow() {
    const { page, other } = this;
    if (!other) return;
    const { scored } = other.look;
    Object.assign(other.look, page.look, { scored });
    other.look.colour = (shape) => (page.classNames.length < 2 && shape.bitmap ? "#ffb000" : page.classColour(shape.class));
    const shown = other.shapes.filter((shape) => isScored(shape, other.look));
    other.map = page.pictureOf(this.map, shown, this.least);
    other.redraw();
    this.count.textContent = `${shown.length} objects`;
    this.name.textContent = { found: `found by ${page.model?.name}`, data: "as annotated", draft: "corrected by you", none: "" }[page.source] + ` · ${page.shown.length} objects`;
  }
}
