// The table of objects: sorted by any column, only the rows on the screen are in the document.

import { make, swatch } from "./dom.js";

const ROW = 28; // pixels, as in page.css
const SPARE = 12; // rows above and below

export class ObjectTable extends EventTarget {
  constructor(box) {
    super();
    this.box = box;
    this.rows = [];
    this.columns = [];
    this.sort = { key: "score", down: true };
    this.head = make("tr");
    this.body = make("tbody");
    this.table = make("table", {}, make("caption", { className: "unseen" }, "Objects"), make("thead", {}, this.head), this.body);
    box.append(this.table);
    box.addEventListener("scroll", () => this.draw());
    new ResizeObserver(() => this.draw()).observe(box);
  }

  /** Show these objects; `selected` holds ids, `colour` gives the colour of one. */
  show(shapes, selected, colour) {
    const keys = new Set(shapes.flatMap((shape) => Object.keys(shape.measures || {})));
    this.columns = [
      { key: "class", title: "Class", value: (s) => s.class },
      ...(shapes.some((s) => s.score !== undefined) ? [{ key: "score", title: "Score", value: (s) => s.score, digits: 2 }] : []),
      ...[...keys].map((key) => ({ key, title: key.replaceAll("_", " "), value: (s) => s.measures?.[key], digits: 1 })),
    ];
    if (shapes.length && !this.columns.some((column) => column.key === this.sort.key)) this.sort = { key: this.columns[this.columns.length > 1 ? 1 : 0].key, down: true };
    Object.assign(this, { shapes, selected, colour });
    this.order();
    this.drawHead();
    this.draw();
  }

  order() {
    const value = this.columns.find((column) => column.key === this.sort.key)?.value ?? ((shape) => shape.class);
    const way = this.sort.down ? -1 : 1;
    const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b) : (a ?? -Infinity) - (b ?? -Infinity));
    this.rows = [...this.shapes].sort((a, b) => way * compare(value(a), value(b)));
  }

  drawHead() {
    this.head.replaceChildren(...this.columns.map((column) => {
      const sorted = column.key === this.sort.key;
      const arrow = sorted ? (this.sort.down ? " ↓" : " ↑") : "";
      const button = make("button", { onclick: () => this.sortBy(column.key) }, column.title + arrow);
      return make("th", { scope: "col", className: column.digits === undefined ? "" : "number", "aria-sort": sorted ? (this.sort.down ? "descending" : "ascending") : "none" }, button);
    }));
    this.table.setAttribute("aria-rowcount", String(this.rows.length + 1));
  }

  sortBy(key) {
    this.sort = { key, down: this.sort.key === key ? !this.sort.down : key !== "class" };
    this.order();
    this.drawHead();
    this.draw();
    this.head.querySelectorAll("button")[this.columns.findIndex((column) => column.key === key)].focus();
  }

  draw() {
    const first = Math.max(0, Math.floor(this.box.scrollTop / ROW) - SPARE);
    const last = Math.min(this.rows.length, Math.ceil((this.box.scrollTop + this.box.clientHeight) / ROW) + SPARE);
    const focused = document.activeElement?.closest?.("tr")?.dataset.id;
    const shown = this.rows.slice(first, last).map((shape, i) => this.row(shape, first + i));
    this.body.replaceChildren(this.filler(first), ...shown, this.filler(this.rows.length - last));
    if (focused && this.box.contains(document.activeElement) === false) this.focus(focused);
  }

  filler(count) {
    const row = make("tr", { "aria-hidden": "true", hidden: count === 0 });
    row.append(make("td", { colSpan: Math.max(1, this.columns.length) }));
    row.firstChild.style.height = `${count * ROW}px`;
    row.firstChild.style.padding = "0";
    return row;
  }

  row(shape, place) {
    const cells = this.columns.map((column) => {
      const value = column.value(shape);
      if (column.key === "class") {
        const name = make("button", { className: "name", title: value }, swatch(this.colour(shape)), make("span", {}, value));
        return make("td", {}, name);
      }
      return make("td", { className: "number" }, typeof value === "number" ? value.toFixed(column.digits) : value ?? "");
    });
    const row = make("tr", { "data-id": shape.id, "aria-rowindex": String(place + 2), "aria-current": String(this.selected.has(shape.id)) }, ...cells);
    row.addEventListener("click", (event) => this.dispatchEvent(new CustomEvent("choose", { detail: { shape, more: event.shiftKey } })));
    return row;
  }

  /** Mark what is selected and bring the first of it into view. */
  mark(selected, scroll = true) {
    this.selected = selected;
    const place = this.rows.findIndex((shape) => selected.has(shape.id));
    const top = place * ROW;
    if (scroll && place >= 0 && (top < this.box.scrollTop || top > this.box.scrollTop + this.box.clientHeight - 3 * ROW))
      this.box.scrollTop = top - this.box.clientHeight / 2;
    this.draw();
  }

  focus(id) { this.body.querySelector(`tr[data-id="${CSS.escape(id)}"] button`)?.focus({ preventScroll: true }); }
}
