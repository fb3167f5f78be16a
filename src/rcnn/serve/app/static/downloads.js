// Files to keep: what to download, of this image or of all; images that were not looked at are looked at first.

import { send } from "./api.js";
import { guarded, make, showDialog } from "./dom.js";

/** What can be downloaded of which images: [value, words]. */
function extents(page) {
  const { state } = page, { images } = page.strip;
  const known = images.filter((image) => image.count !== null).length, rest = state.images - known;
  const all = !rest ? [`all ${known} images`] : state.models.length ? [`all ${state.images} images: ${page.model.name} looks at the other ${rest} first`] : [];
  return [
    ...(page.info ? [["one", `this image (${page.info.name})`]] : []),
    ...all.map((words) => [rest ? "rest" : "all", words]),
    ...(rest && known ? [["all", `the ${known} images that ${page.model ? "were looked at" : "have objects"}`]] : []),
  ];
}

/** The dialog; `findAll` looks at all images, and returns whether none was left out. */
export function showDownloads(page, findAll) {
  const { state, look } = page;
  const kind = make("select", { id: "download-kind" }, ...state.downloads.map((one) => make("option", { value: one.name }, one.title)));
  const what = make("select", { id: "download-what" }, ...extents(page).map(([value, words]) => make("option", { value }, words)));
  const link = make("a", { className: "as-button", id: "download-link", download: "" }, "Download");
  const said = make("p", { className: "faint", role: "status" });
  const cancel = make("button", { hidden: true, onclick: guarded(() => send("api/find/cancel")) }, "Cancel");
  const aim = () => {
    const query = new URLSearchParams({ min_score: String(look.minScore) });
    if (what.value === "one") query.set("image", String(page.number));
    link.href = `api/download/${encodeURIComponent(kind.value)}?${query}`;
  };
  link.addEventListener("click", (event) => {
    if (what.value !== "rest") return;
    event.preventDefault();
    guarded(async () => {
      cancel.hidden = false;
      const all = await findAll((text) => { said.textContent = text; });
      cancel.hidden = true;
      if (!all) return;
      make("a", { href: link.href, download: "" }).click();
    })();
  });
  for (const one of [kind, what]) one.addEventListener("change", aim);
  aim();
  const scores = page.model && state.classes.length ? `Objects from score ${look.minScore.toFixed(2)} on, and your corrections. ` : "";
  showDialog("Download", [
    make("label", { className: "field" }, make("span", {}, "What"), kind),
    make("label", { className: "field" }, make("span", {}, "Of"), what),
    make("p", { className: "faint" }, `${scores}Data sets come as an archive with their images; lost.txt in it lists what a format cannot hold.`),
    make("div", { className: "row" }, link, cancel, said),
  ]);
}

export function showReport(page) {
  const frame = make("iframe", { src: `api/report?model=${page.state.current}`, title: `Report of ${page.model.name}`, sandbox: "allow-scripts" });
  showDialog(`Report of ${page.model.name}`, [frame], { wide: true });
}
