// Files to keep: what to download, of this image or of all.

import { $, make, showDialog } from "./dom.js";

export function showDownloads(page) {
  const { state, look } = page;
  const looked = page.strip.images.filter((image) => image.count !== null).length;
  const kind = make("select", { id: "download-kind" }, ...state.downloads.map((one) => make("option", { value: one.name }, one.title)));
  const what = make("select", { id: "download-what" },
    ...(page.info ? [make("option", { value: "one" }, `this image (${page.info.name})`)] : []),
    make("option", { value: "all" }, looked === state.images ? `all ${looked} images` : `the ${looked} images that were looked at, of ${state.images}`));
  const link = make("a", { className: "as-button", id: "download-link", download: "" }, "Download");
  const aim = () => {
    const query = new URLSearchParams({ min_score: String(look.minScore) });
    if (what.value === "one") query.set("image", String(page.number));
    link.href = `api/download/${encodeURIComponent(kind.value)}?${query}`;
  };
  for (const one of [kind, what]) one.addEventListener("change", aim);
  aim();
  showDialog("Download", [
    make("label", { className: "field" }, make("span", {}, "What"), kind),
    make("label", { className: "field" }, make("span", {}, "Of"), what),
    make("p", { className: "faint" }, page.model ? `Objects from score ${look.minScore.toFixed(2)} on, and your corrections. Data sets come as an archive with their images.` : "Data sets come as an archive with their images."),
    link,
  ]);
}

export function showReport(page) {
  const frame = make("iframe", { src: `api/report?model=${page.state.current}`, title: `Report of ${page.model.name}`, sandbox: "allow-scripts" });
  showDialog(`Report of ${page.model.name}`, [frame], { wide: true });
}
