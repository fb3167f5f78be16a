// The row of tools above the picture, and the keys for all of it.

import { send } from "./api.js";
import { $, guarded, make, showDialog } from "./dom.js";
import { plain } from "./edits.js";
import { addKeys } from "./keys.js";
import { boxOf, toRuns, union } from "./masks.js";
import { BoxTool, BrushTool, CornerTool, PolygonTool, SplitTool } from "./tools.js";

const SMALLEST_BRUSH = 1, LARGEST_BRUSH = 200;

export class Toolbar {
  constructor(page, edits) {
    Object.assign(this, { page, edits });
    page.brush = 12;
    page.newClass = null;
    page.askClass = () => this.askClass();
    this.tools = {
      v: ["Select", null], b: ["Box", new BoxTool(page, edits)], o: ["Polygon", new PolygonTool(page, edits)],
      r: ["Brush", new BrushTool(page, edits, 1)], e: ["Eraser", new BrushTool(page, edits, 0)],
      t: ["Corners", new CornerTool(page, edits)], s: ["Split", new SplitTool(page, edits)],
    };
    this.build();
    for (const [target, kind] of [[edits, "changed"], [page, "selected"], [page, "listed"], [page, "opened"], [page, "state"]]) target.addEventListener(kind, () => this.show());
    addKeys("Correct", [
      ...Object.entries(this.tools).map(([key, [title]]) => [key.toUpperCase(), title.toLowerCase()]),
      ["Delete", "delete what is selected"], ["M", "merge what is selected"], ["1  …  9", "give the class of that place to what is selected and to new objects"],
      ["C", "choose or add a class"], ["[  ]", "smaller, larger brush"], ["Enter", "finish the polygon"], ["Esc", "drop what is being drawn, then select nothing"],
      ["Z", "undo"], ["Y", "redo"], ["D", "image done, and on to the next"],
      ["← ↑ ↓ →", "with a tool: move its cross; Shift: further"], ["Space", "with a tool: press at the cross, and let go"],
    ]);
    addEventListener("keydown", (event) => this.key(event));
  }

  build() {
    const button = (text, key, action, extra = {}) => make("button", { className: "quiet", title: `${text} (${key})`, onclick: guarded(action), ...extra }, text);
    this.buttons = Object.entries(this.tools).map(([key, [title]]) => button(title, key.toUpperCase(), () => this.choose(key), { "aria-pressed": "false" }));
    this.size = make("input", { type: "range", min: String(SMALLEST_BRUSH), max: String(LARGEST_BRUSH), value: String(this.page.brush), "aria-label": "Brush size in pixels" });
    this.size.addEventListener("input", () => { this.page.brush = Number(this.size.value); this.page.viewer.redraw("top"); });
    this.sizeLabel = make("label", { className: "brush-size", hidden: true }, "Brush size", this.size);
    $("stages").append(this.sizeLabel);
    this.classes = make("select", { "aria-label": "Class", title: "Class of what is selected, and of new objects (C)" });
    this.classes.addEventListener("change", guarded(() => this.classChosen()));
    this.remove = button("Delete", "Delete", () => this.deleteSelected());
    this.merge = button("Merge", "M", () => this.mergeSelected());
    this.undo = button("↶", "Z", () => this.edits.undo(), { "aria-label": "Undo", title: "Undo (Z)" });
    this.redo = button("↷", "Y", () => this.edits.redo(), { "aria-label": "Redo", title: "Redo (Y)" });
    this.revert = button("Start over", "forgets your corrections of this image", () => this.askRevert(), { className: "quiet small danger" });
    this.done = button("Image done", "D", () => this.markDone(), { className: "main" });
    const gap = () => make("span", { className: "gap", "aria-hidden": "true" });
    $("tools").replaceChildren(...this.buttons, gap(), this.classes, this.remove, this.merge, gap(), this.undo, this.redo, make("span", { className: "spring" }), this.done);
    $("now-actions").append(this.revert);
    this.choose("v");
  }

  choose(key) {
    this.page.viewer.tool?.cancel?.(this.page.viewer);
    this.chosen = key;
    this.page.viewer.tool = this.tools[key][1];
    Object.keys(this.tools).forEach((one, i) => this.buttons[i].setAttribute("aria-pressed", String(one === key)));
    this.sizeLabel.hidden = !"re".includes(key);
    this.page.viewer.top.style.cursor = key === "v" ? "default" : "crosshair";
    this.page.viewer.redraw("top");
  }

  show() {
    const { page, edits } = this;
    $("tools").hidden = !page.info;
    if (!page.info || !page.state) return;
    const { selected, classNames } = page, pixels = page.state.pixel_classes, all = this.allClasses;
    if (!all.includes(page.newClass)) page.newClass = all[0] ?? null;
    this.remove.disabled = !selected.length;
    this.merge.disabled = selected.length < 2;
    this.undo.disabled = !edits.history.undo.length;
    this.redo.disabled = !edits.history.redo.length;
    const status = page.info.draft?.status;
    $("now-actions").hidden = page.source !== "draft";
    this.done.textContent = status === "done" ? "Done ✓" : "Image done";
    this.done.setAttribute("aria-pressed", String(status === "done"));
    const chosen = new Set(selected.map((shape) => shape.class));
    const value = chosen.size === 1 ? [...chosen][0] : chosen.size > 1 ? "" : page.newClass;
    const option = (name) => make("option", { value: `c${name}`, selected: name === value }, all.indexOf(name) < 9 ? `${name} (${all.indexOf(name) + 1})` : name);
    const options = classNames.map(option);
    if (pixels.length) options.push(make("optgroup", { label: "Pixel classes" }, ...pixels.map(option)));
    if (chosen.size > 1) options.unshift(make("option", { value: "", selected: true }, "several classes"));
    this.classes.replaceChildren(...options, make("option", { value: "new" }, "New class …"));
    if (!all.length) this.classes.prepend(make("option", { value: "", selected: true }, "no class yet"));
  }

  get allClasses() { return [...this.page.classNames, ...this.page.state.pixel_classes]; }

  async classChosen() {
    const { value } = this.classes;
    const name = value === "new" ? await this.askClass() : value.slice(1);
    if (name) this.give(name);
    else this.show();
  }

  give(name) {
    this.page.newClass = name;
    if (this.page.isPixelClass(name)) return void this.page.select(null); // from now on, pixels are painted
    const changed = this.page.selected.filter((shape) => shape.class !== name);
    this.edits.apply(changed.map((shape) => ({ before: plain(shape), after: { ...plain(shape), class: name } })));
    this.show();
  }

  /** Ask for the name of a new class; null if none is given. */
  askClass() {
    const input = make("input", { type: "text", id: "class-name", autocomplete: "off", "aria-label": "Name of the class" });
    const add = make("button", { className: "main" }, "Add class");
    const pixels = make("input", { type: "checkbox", id: "class-pixels" });
    const dialog = showDialog("New class", [
      make("p", { className: "faint" }, "What is an object of this class called? For example: cell"), make("div", { className: "row" }, input, add),
      make("label", { className: "lines" }, pixels, "A pixel class: regions without single objects, such as sky or tissue. They are painted, and objects lie above them.")], { close: "Cancel" });
    input.focus();
    return new Promise((resolve) => {
      const finish = guarded(async () => {
        if (!input.value.trim()) return;
        const { name } = await send("api/classes", { name: input.value, pixels: pixels.checked });
        await this.page.refresh();
        this.page.newClass = name;
        resolve(name);
        dialog.close();
      });
      add.addEventListener("click", finish);
      input.addEventListener("keydown", (event) => { if (event.key === "Enter") { event.preventDefault(); finish(); } });
      dialog.addEventListener("close", () => resolve(null), { once: true });
    });
  }

  deleteSelected() {
    const { page } = this;
    const rows = page.table.rows, place = rows.findIndex((shape) => page.viewer.selected.has(shape.id));
    const next = rows.slice(place).find((shape) => !page.viewer.selected.has(shape.id));
    this.edits.apply(page.selected.map((shape) => ({ before: plain(shape), after: null })), next && page.selected.length === 1 ? [next.id] : []);
  }

  mergeSelected() {
    const shapes = this.page.selected;
    if (shapes.length < 2) return;
    const [first] = [...shapes].sort((a, b) => b.size - a.size);
    const after = plain(first), masks = shapes.map((shape) => shape.bitmap).filter(Boolean);
    if (masks.length) {
      const whole = union(masks);
      Object.assign(after, { mask: toRuns(whole), box: boxOf(whole) });
    } else after.box = [0, 1, 2, 3].map((i) => (i < 2 ? Math.min : Math.max)(...shapes.map((shape) => shape.box[i])));
    this.edits.apply([{ before: plain(first), after }, ...shapes.filter((shape) => shape !== first).map((shape) => ({ before: plain(shape), after: null }))], [first.id]);
  }

  askRevert() {
    const yes = make("button", { className: "danger", onclick: guarded(async () => { $("dialog").close(); await this.edits.revert(); }) }, "Forget my corrections of this image");
    showDialog("Start over?", [make("p", {}, "The objects will be what the model finds, or what the data set says. This cannot be undone."), yes], { close: "Keep them" });
  }

  async markDone() {
    const done = this.page.info.draft?.status !== "done";
    await this.edits.mark(done);
    if (done && !(await this.page.next())) this.edits.said("done: no image is left");
  }

  key(event) {
    if (event.defaultPrevented || event.target.closest("input:not([type=range]):not([type=checkbox]), select, textarea, dialog") || !this.page.info) return;
    const key = event.key.toLowerCase();
    if (event.ctrlKey || event.metaKey) {
      const turned = { z: () => (event.shiftKey ? this.edits.redo() : this.edits.undo()), y: () => this.edits.redo() }[key];
      if (turned) { turned(); event.preventDefault(); }
      return;
    }
    if (event.altKey) return;
    const inPicture = event.target.closest(".stage") || event.target === document.body;
    const { viewer } = this.page;
    const actions = {
      delete: () => this.deleteSelected(), backspace: () => this.deleteSelected(), m: () => this.mergeSelected(), c: () => this.classes.focus(),
      z: () => this.edits.undo(), y: () => this.edits.redo(), d: () => guarded(() => this.markDone())(),
      "[": () => this.resize(1 / 1.25), "]": () => this.resize(1.25), escape: () => this.escape(),
    };
    if (this.tools[key]) this.choose(key);
    else if (actions[key]) actions[key]();
    else if (key >= "1" && key <= "9" && this.allClasses[key - 1]) this.give(this.allClasses[key - 1]);
    else if (key === "enter" && inPicture && viewer.tool?.enter) viewer.tool.enter(viewer);
    else if (!(inPicture && viewer.tool && viewer.drawKey(event))) return;
    event.preventDefault();
  }

  escape() {
    const { viewer } = this.page;
    if (viewer.tool?.corners?.length || viewer.pressed) { viewer.pressed = false; viewer.tool.cancel(viewer); }
    else this.page.select(null);
  }

  resize(factor) {
    this.page.brush = Math.min(LARGEST_BRUSH, Math.max(SMALLEST_BRUSH, Math.round(this.page.brush * factor + (factor > 1 ? 0.5 : -0.5))));
    this.size.value = String(this.page.brush);
    this.page.viewer.redraw("top");
  }
}
