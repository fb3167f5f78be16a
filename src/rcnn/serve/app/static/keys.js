// The card of keys, which `?` shows.

import { make, showDialog } from "./dom.js";

const KEYS = {
  "Look": [
    ["← ↑ ↓ →", "move the picture"], ["+  −", "zoom in, zoom out"], ["0", "fit to window"],
    ["N  P", "next, previous object, in the order of the table"], ["PgDn  PgUp", "next, previous image"], ["?", "this card"],
  ],
};

export function addKeys(title, rows) { KEYS[title] = rows; }

export function showKeys() {
  const parts = Object.entries(KEYS).flatMap(([title, rows]) => [
    make("h3", {}, title),
    make("div", { className: "keys" }, ...rows.flatMap(([keys, what]) => [
      make("span", {}, ...keys.split(/\s{2,}| (?=[←↑↓→])/).flatMap((one) => [make("kbd", {}, one), " "])), make("span", {}, what)])),
  ]);
  parts.push(make("p", { className: "faint" }, "The wheel zooms, dragging moves the picture. Shift and click selects several objects."));
  showDialog("Keys", parts);
}
