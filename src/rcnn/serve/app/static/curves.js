// Curves of a training as SVG, with a table of the same numbers for those who cannot see them.

import { make } from "./dom.js";

const WIDTH = 310, HEIGHT = 110, LEFT = 40, BOTTOM = 18, TOP = 8, SPACE = "http://www.w3.org/2000/svg";

function svg(tag, attributes, ...children) {
  const element = document.createElementNS(SPACE, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  element.append(...children);
  return element;
}

const short = (value) => (Math.abs(value) >= 100 ? value.toFixed(0) : Math.abs(value) >= 1 ? value.toFixed(2) : value.toFixed(3));

/** A curve of `key` over the iterations; null where there are no values. */
export function curve(rows, key, title) {
  const points = rows.filter((row) => Number.isFinite(row[key])).map((row) => [row.iteration, row[key]]);
  if (!points.length) return null;
  const last = points.at(-1), most = Math.max(...rows.map((row) => row.iteration), 1);
  const high = Math.max(...points.map((p) => p[1])), low = Math.min(0, ...points.map((p) => p[1])), range = high - low || 1;
  const x = (iteration) => LEFT + (iteration / most) * (WIDTH - LEFT - 8);
  const y = (value) => TOP + (1 - (value - low) / range) * (HEIGHT - TOP - BOTTOM);
  const text = (content, at, anchor = "end") => svg("text", { x: at[0], y: at[1], "text-anchor": anchor, class: "axis" }, content);
  const line = points.length > 1
    ? svg("polyline", { points: points.map((p) => `${x(p[0]).toFixed(1)},${y(p[1]).toFixed(1)}`).join(" "), class: "curve" })
    : svg("circle", { cx: x(last[0]), cy: y(last[1]), r: 3, class: "dot" });
  const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title}: ${short(last[1])} after ${last[0]} iterations`, class: "chart" },
    svg("line", { x1: LEFT, y1: HEIGHT - BOTTOM, x2: WIDTH - 8, y2: HEIGHT - BOTTOM, class: "rule" }),
    text(short(high), [LEFT - 4, TOP + 8]), text(short(low), [LEFT - 4, HEIGHT - BOTTOM]), text(`${most} iteration${most === 1 ? "" : "s"}`, [WIDTH - 8, HEIGHT - 4]), line);
  return make("figure", {}, make("figcaption", {}, `${title} `, make("strong", {}, short(last[1]))), picture);
}
