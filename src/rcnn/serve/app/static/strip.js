// The images as a strip of thumbnails, filtered and sorted, with what is known of each.

import { $, make } from "./dom.js";

const WORDS = { draft: "draft", done: "done", changed: "changed since done", data: "annotated" };

export class Strip extends EventTarget {
  constructor() {
    super();
    this.images = [];
    this.current = -1;
    this.items = new Map();
    for (const id of ["strip-filter", "strip-status", "strip-sort"]) $(id).addEventListener("input", () => this.draw());
    $("strip-list").addEventListener("keydown", (event) => {
      const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      event.stopPropagation();
      this.step(step, true);
    });
  }

  show(images) {
    this.images = images;
    this.draw();
  }

  get listed() {
    const text = $("strip-filter").value.trim().toLowerCase(), status = $("strip-status").value;
    const is = (image) => !status || image.status === status || (status === "draft" && image.status === "changed") || (status === "done" && image.status === "data") || (status === "none" && image.status === "data");
    const found = this.images.filter((image) => image.name.toLowerCase().includes(text) && is(image));
    const by = {
      number: (a, b) => a.number - b.number, name: (a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }),
      most: (a, b) => (b.count ?? -1) - (a.count ?? -1), fewest: (a, b) => (a.count ?? Infinity) - (b.count ?? Infinity),
    };
    return found.sort(by[$("strip-sort").value]);
  }

  draw() {
    const listed = this.listed;
    $("strip-list").replaceChildren(...listed.map((image) => make("li", {}, this.item(image))));
    const total = this.images.length, done = this.images.filter((image) => image.status === "done").length;
    const shown = listed.length === total ? `${total} image${total === 1 ? "" : "s"}` : `${listed.length} of ${total} images`;
    $("strip-count").textContent = total ? shown + (done ? `, ${done} done` : "") : "";
  }

  item(image) {
    let item = this.items.get(image.number);
    if (!item) {
      const picture = make("img", { loading: "lazy", alt: "", src: `api/images/${image.number}/thumbnail` });
      item = make("button", { className: "shot", title: image.name, onclick: () => this.dispatchEvent(new CustomEvent("choose", { detail: image.number })) },
        picture, make("span", {}, make("span", { className: "name" }, image.name), make("span", { className: "meta" })));
      this.items.set(image.number, item);
    }
    const words = [];
    if (image.failed) words.push(make("span", { className: "bad", title: image.failed }, "cannot be read"));
    else if (image.count !== null) words.push(`${image.count} object${image.count === 1 ? "" : "s"}`);
    else words.push("not looked at yet");
    if (WORDS[image.status]) words.push(" · ", make("span", { className: image.status === "done" ? "good" : "" }, WORDS[image.status]));
    item.querySelector(".meta").replaceChildren(...words);
    item.setAttribute("aria-current", String(image.number === this.current));
    return item;
  }

  choose(number) {
    this.current = number;
    for (const [key, item] of this.items) item.setAttribute("aria-current", String(key === number));
    const item = this.items.get(number), list = $("strip-list");
    if (!item) return; // scrollIntoView would also move where Tab begins
    const at = item.getBoundingClientRect(), box = list.getBoundingClientRect();
    if (at.top < box.top || at.bottom > box.bottom) list.scrollTop += at.top - box.top - box.height / 3;
    if (at.left < box.left || at.right > box.right) list.scrollLeft += at.left - box.left - box.width / 3;
  }

  /** Go to the next or previous image listed. */
  step(by, focus = false) {
    const listed = this.listed;
    const place = listed.findIndex((image) => image.number === this.current);
    const next = listed[Math.min(listed.length - 1, Math.max(0, place + by))];
    if (!next) return;
    this.dispatchEvent(new CustomEvent("choose", { detail: next.number }));
    if (focus) this.items.get(next.number)?.focus();
  }
}
