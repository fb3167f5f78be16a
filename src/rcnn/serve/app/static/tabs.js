// Tabs of the panel, moved through by arrow keys as assistive programs expect.

import { $, make } from "./dom.js";

export class Tabs {
  constructor() {
    this.names = [];
    $("tabs").addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      event.stopPropagation();
      const place = (this.names.indexOf(this.chosen) + step + this.names.length) % this.names.length;
      this.choose(this.names[place]);
      $(`tab-${this.chosen}-button`).focus();
    });
  }

  add(name, title) {
    this.names.push(name);
    $("tabs").append(make("button", { id: `tab-${name}-button`, role: "tab", "aria-controls": `tab-${name}`, "aria-selected": "false", onclick: () => this.choose(name) }, title));
    if (this.names.length === 1) this.choose(name);
  }

  choose(name) {
    this.chosen = name;
    for (const one of this.names) {
      $(`tab-${one}`).hidden = one !== name;
      $(`tab-${one}-button`).setAttribute("aria-selected", String(one === name));
      $(`tab-${one}-button`).tabIndex = one === name ? 0 : -1;
    }
    $(`tab-${name}`).dispatchEvent(new Event("shown"));
  }
}
