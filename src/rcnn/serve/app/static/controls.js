// How objects and pixels are shown: score, opacity, outlines, classes, channels and contrast.

import { $, make, swatch } from "./dom.js";

const HALVES = 200; // positions of a contrast slider: percentiles in halves

export class Controls extends EventTarget {
  constructor(look) {
    super();
    this.look = look;
    const changed = () => this.dispatchEvent(new Event("look"));
    $("score").addEventListener("input", () => {
      look.minScore = Number($("score").value);
      $("score-text").textContent = look.minScore.toFixed(2);
      changed();
    });
    $("score").addEventListener("change", () => this.dispatchEvent(new Event("score")));
    $("opacity").addEventListener("input", () => {
      look.opacity = Number($("opacity").value);
      $("opacity-text").textContent = `${Math.round(100 * look.opacity)} %`;
      changed();
    });
    $("outlines").addEventListener("change", () => { look.outlines = $("outlines").checked; changed(); });
    $("boxes").addEventListener("change", () => { look.boxes = $("boxes").checked; changed(); });
    this.changed = changed;
  }

  setScore(value, lowest) {
    $("score").min = String(lowest);
    $("score").value = String(value);
    this.look.minScore = Number($("score").value);
    $("score-text").textContent = this.look.minScore.toFixed(2);
  }

  /** A box to hide each class, with its colour and the number of its objects, or the part of the image that has it. */
  showClasses(objects, pixels, counts, colourOf) {
    const names = [...objects, ...pixels];
    const row = (name) => {
      const box = make("input", { type: "checkbox", checked: !this.look.hidden.has(name), onchange: () => {
        if (box.checked) this.look.hidden.delete(name);
        else this.look.hidden.add(name);
        this.changed();
      } });
      const colour = colourOf(name);
      return make("label", {}, box, colour ? swatch(colour) : null, `${name} ${counts.get(name) ?? 0}`);
    };
    $("classes").hidden = !names.length;
    if (document.activeElement?.closest("#classes")) return void this.recount(names, counts);
    const list = (title, some) => (some.length ? [make("p", { className: "faint" }, title), make("div", { className: "list" }, ...some.map(row))] : []);
    $("classes").replaceChildren(make("legend", { className: "unseen" }, "Classes"), ...list("Classes", objects), ...list("Pixel classes", pixels));
  }

  recount(names, counts) {
    const labels = $("classes").querySelectorAll("label");
    names.forEach((name, i) => { if (labels[i]) labels[i].lastChild.textContent = `${name} ${counts.get(name) ?? 0}`; });
  }

  /** Choices of channels and contrast for an image; `view` is {channels, low, high} and is changed. */
  showPixels(info, view) {
    const changed = () => this.dispatchEvent(new Event("pixels"));
    const parts = [make("p", { className: "faint" }, `${info.size[1]} × ${info.size[0]} pixels, ${info.channels} channel${info.channels === 1 ? "" : "s"}, ${info.depth}`)];
    if (info.channels > 1) {
      const chosen = view.channels.length ? view.channels : [...Array(Math.min(3, info.channels)).keys()];
      const choices = ["red", "green", "blue"].map((name, place) => {
        const select = make("select", { "aria-label": `Channel shown as ${name}` },
          make("option", { value: "" }, "–"),
          ...Array.from({ length: info.channels }, (_, c) => make("option", { value: String(c), selected: chosen[place] === c }, info.is_rgb ? ["R", "G", "B"][c] : String(c))));
        select.addEventListener("change", () => {
          view.channels = choices.map((one) => one.value).filter((value) => value !== "").map(Number);
          changed();
        });
        return select;
      });
      parts.push(make("div", { className: "row" }, make("span", { className: "faint" }, "Channels"), ...choices),
        make("p", { className: "faint" }, "One channel is shown in gray, two in magenta and green."));
    }
    const low = this.contrast("Black at", view.low ?? 0.1, (value) => { view.low = value; view.high ??= 99.9; });
    const high = this.contrast("White at", view.high ?? 99.9, (value) => { view.high = value; view.low ??= 0.1; });
    const settle = () => {
      if (view.low >= view.high) view.low = Math.max(0, view.high - 0.5);
      changed();
    };
    low.addEventListener("change", settle);
    high.addEventListener("change", settle);
    const reset = make("button", { className: "quiet small", onclick: () => {
      Object.assign(view, { channels: [], low: null, high: null });
      this.showPixels(info, view);
      changed();
    } }, "As stored");
    $("pixel-controls").replaceChildren(...parts, low, high, reset);
  }

  contrast(title, value, set) {
    const output = make("output", {}, `${value} %`);
    const input = make("input", { type: "range", min: "0", max: String(HALVES), value: String(Math.round(2 * value)) });
    input.addEventListener("input", () => { set(Number(input.value) / 2); output.textContent = `${Number(input.value) / 2} %`; });
    return make("label", { className: "slide" }, make("span", {}, title), input, output);
  }
}

/** The query of tiles for a choice of channels and contrast. */
export function pixelQuery(view) {
  const query = new URLSearchParams();
  if (view.channels.length) query.set("channels", view.channels.join(","));
  if (view.low !== null) query.set("low", String(view.low));
  if (view.high !== null) query.set("high", String(view.high));
  return query.toString();
}
