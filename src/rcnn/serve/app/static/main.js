// The page is put together here: what is dropped, pressed and chosen is passed to its parts.

import { ask, send } from "./api.js";
import { $, guarded, make, showProblem } from "./dom.js";
import { Compare } from "./compare.js";
import { showDownloads, showReport } from "./downloads.js";
import { Edits } from "./edits.js";
import { Inside } from "./inside.js";
import { showKeys } from "./keys.js";
import { Page } from "./page.js";
import { showProblems } from "./problems.js";
import { Tabs } from "./tabs.js";
import { Toolbar } from "./toolbar.js";
import { Train } from "./train.js";

const POLL = 400, IDLE = 5000; // milliseconds between questions about the state
const page = new Page();
const tabs = new Tabs();
tabs.add("objects", "Objects");
const edits = new Edits(page);
const toolbar = new Toolbar(page, edits);
const compare = new Compare(page);
const reopen = async () => {
  page.controls.setScore(page.model.min_score, page.model.lowest);
  await page.refreshStrip();
  if (page.number >= 0) await page.open(page.number);
};
const train = new Train(page, tabs, reopen);
const inside = new Inside(page, tabs);

function emptyState() {
  const { state } = page;
  $("empty").hidden = state.images > 0;
  for (const id of ["controls", "table", "measure-label", "footer"]) $(id).hidden = !state.images;
  if (state.images) return;
  const choose = make("button", { className: "main", onclick: () => $("files").click() }, "Choose images");
  const samples = make("button", { onclick: guarded(addSamples) }, "Try the photographs that come with the model");
  $("empty").replaceChildren(
    make("h2", {}, "Drop images here"),
    make("p", {}, state.models.length ? `${page.model.name} will look for ${state.classes.slice(0, 4).join(", ") || "objects"} in them. They stay on this machine.` : "No model is loaded: you can draw objects and train a model on them. Everything stays on this machine."),
    make("div", { className: "row" }, choose, state.has_samples ? samples : null));
}

function showState() {
  const { state } = page;
  document.title = `${state.title} · rcnn`;
  $("title").textContent = state.title;
  $("title").title = state.title;
  $("model-choice").hidden = !state.models.length;
  $("model").replaceChildren(...state.models.map((model, i) => make("option", { value: String(i), selected: i === state.current }, model.name)));
  const { progress } = state, running = progress.state === "running";
  $("find-all").hidden = !state.models.length || state.images < 2 || running || page.model.found >= state.images;
  $("job").hidden = !running;
  if (running) {
    $("job-bar").max = progress.total || 1;
    $("job-bar").value = progress.done;
    $("job-text").textContent = `${progress.done} of ${progress.total} images`;
  }
  $("download").hidden = $("strip-tools").hidden = !state.images;
  $("report").hidden = !page.model?.has_report;
  emptyState();
}

async function addSamples() {
  const { number } = await send("api/samples");
  await page.refresh();
  await page.refreshStrip();
  await page.open(number);
}

async function addFiles(files) {
  const images = [...files];
  if (!images.length) return;
  let first = null;
  for (const [i, file] of images.entries()) {
    page.busy(images.length > 1 ? `adding image ${i + 1} of ${images.length}` : "adding the image");
    try {
      const added = await ask(`api/images?name=${encodeURIComponent(file.name)}`, { method: "POST", body: file });
      first ??= added.number;
    } catch (error) {
      showProblem(error);
    }
  }
  page.busy("");
  await page.refresh();
  await page.refreshStrip();
  if (first !== null) await page.open(first);
}

async function findAll() {
  await send("api/find");
  await poll();
}

/** Look at all images; `say` is told how far it is. Whether all of them were looked at. */
async function findAndWait(say) {
  await findAll();
  while (page.state.progress.state === "running") {
    const { done, total } = page.state.progress;
    say(`looking at the images: ${done} of ${total}`);
    await new Promise((resolve) => { setTimeout(resolve, POLL); });
  }
  const finished = page.state.progress.state === "done";
  say(finished ? "" : "cancelled; what was found is kept");
  return finished;
}

async function chooseModel(index) {
  await send("api/model", { index });
  await page.refresh();
  await reopen();
}

/** Ask for the state while something is going on, more often then. */
async function poll() {
  clearTimeout(poll.timer);
  const before = page.state?.progress;
  try {
    const { progress } = await page.refresh();
    if (progress.done !== before?.done || progress.state !== before?.state) await page.refreshStrip();
    if (before?.state === "running" && progress.state !== "running" && progress.failed.length)
      showProblem({ message: `${progress.failed.length} image${progress.failed.length === 1 ? "" : "s"} could not be used:\n${progress.failed.slice(0, 5).join("\n")}` });
  } catch (error) {
    showProblem(error);
  }
  const active = page.state?.progress.state === "running" || page.state?.trainings.some((one) => one.state === "running");
  poll.timer = setTimeout(poll, active ? POLL : IDLE);
}

function listen() {
  $("files").addEventListener("change", guarded(async () => { await addFiles($("files").files); $("files").value = ""; }));
  $("find-all").addEventListener("click", guarded(findAll));
  $("job-cancel").addEventListener("click", guarded(async () => { await send("api/find/cancel"); await poll(); }));
  $("zoom-in").addEventListener("click", () => page.viewer.zoom(1.25));
  $("zoom-out").addEventListener("click", () => page.viewer.zoom(0.8));
  $("zoom-fit").addEventListener("click", () => page.viewer.fit());
  $("help").addEventListener("click", showKeys);
  $("measure").addEventListener("change", () => page.listObjects());
  $("download").addEventListener("click", () => showDownloads(page, findAndWait));
  $("report").addEventListener("click", () => showReport(page));
  $("model").addEventListener("change", guarded(() => chooseModel(Number($("model").value))));
  let depth = 0;
  const carries = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  addEventListener("dragenter", (event) => { if (carries(event)) { depth++; $("drop").hidden = false; } });
  addEventListener("dragleave", (event) => { if (carries(event) && --depth <= 0) { depth = 0; $("drop").hidden = true; } });
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", guarded(async (event) => {
    event.preventDefault();
    depth = 0;
    $("drop").hidden = true;
    await addFiles(event.dataTransfer.files);
  }));
  addEventListener("keydown", key);
  page.addEventListener("state", showState);
}

function key(event) {
  const typing = event.target.closest("input:not([type=range]):not([type=checkbox]), select, textarea, dialog");
  if (event.defaultPrevented || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const keys = { "?": showKeys, n: () => page.stepObject(1), p: () => page.stepObject(-1), PageDown: () => page.strip.step(1), PageUp: () => page.strip.step(-1) };
  const inPicture = event.target.closest(".stage") || event.target === document.body;
  if (keys[event.key]) keys[event.key]();
  else if (!(inPicture && page.viewer.key(event))) return;
  event.preventDefault();
}

async function start() {
  listen();
  await page.refresh();
  if (page.model) page.controls.setScore(page.model.min_score, page.model.lowest);
  await page.refreshStrip();
  if (page.state.is_data) showProblems(page, tabs);
  const wanted = decodeURIComponent(location.hash.slice(1));
  const { images } = page.strip;
  if (images.length) await page.open((images.find((image) => image.name === wanted) ?? images[0]).number);
  poll.timer = setTimeout(poll, IDLE);
}

window.rcnn = Object.assign(page, { edits, toolbar, compare, train, inside, tabs }); // for tests, and for the curious
guarded(start)();
