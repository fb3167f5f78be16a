// Training on what is done: start, curves, stop, resume; then the new model is the one at work.

import { ask, send } from "./api.js";
import { curve } from "./curves.js";
import { $, guarded, make, showProblem } from "./dom.js";

const POLL = 1000;
const WORDS = { running: "training", finished: "finished", stopped: "stopped; it can go on", failed: "it did not work" };

export class Train {
  constructor(page, tabs, reopened) {
    Object.assign(this, { page, tabs, reopened, seen: null, rows: [] });
    tabs.add("train", "Train");
    this.minutes = make("input", { type: "number", min: "0.1", max: "10000", step: "any", value: "5", id: "train-minutes" });
    this.start = make("button", { className: "main", onclick: guarded(() => this.begin()) }, "Train on what is done");
    this.intro = make("p", { className: "faint" });
    this.run = make("div", { className: "run" });
    $("tab-train").append(this.intro, make("div", { className: "row" }, make("label", { for: "train-minutes" }, "Minutes"), this.minutes, this.start), this.run);
    $("tab-train").addEventListener("shown", guarded(() => this.look()));
    page.addEventListener("state", () => this.show());
  }

  get latest() { return this.page.state.trainings.at(-1) ?? null; }

  show() {
    const { state } = this.page, done = (state.counts.done ?? 0) + (state.counts.changed ?? 0);
    const images = done + (state.is_data ? state.counts.data ?? 0 : 0);
    const from = this.page.model ? `, beginning with ${this.page.model.name}` : "";
    this.intro.textContent = images
      ? `${images} image${images === 1 ? " is" : "s are"} done. The training learns from ${images === 1 ? "it" : "them"}${from}; you can go on correcting meanwhile.`
      : "No image is done yet. Correct what the model found in some images, and press Image done on each. Ten are a good start.";
    const running = this.latest?.state === "running";
    this.start.disabled = !images || running;
    // A run that is over before the page hears of it is drawn, too.
    if (this.latest && !this.polling && this.drawn !== `${this.latest.name} ${this.latest.state}`) this.look().catch(showProblem);
  }

  async begin() {
    const run = await send("api/trainings", { minutes: Number(this.minutes.value) });
    this.seen = run.name;
    await this.page.refresh();
    await this.look();
  }

  /** Show the latest run, and look again while it is running. */
  async look() {
    clearTimeout(this.polling);
    this.polling = 0;
    if (!this.latest) return;
    const run = await ask(`api/trainings/${encodeURIComponent(this.latest.name)}`);
    this.draw(run);
    if (run.state === "running") {
      this.polling = setTimeout(() => this.look().catch(showProblem), POLL);
      return;
    }
    await this.page.refresh();
    if (run.state === "finished" && this.seen === run.name) {
      this.seen = null;
      await this.use(run.name);
    }
  }

  async use(name) {
    await send("api/trainings/use", { name });
    await this.page.refresh();
    await this.reopened();
    await this.look(); // without the button that puts it to work
  }

  draw(run) {
    this.rows = run.rows;
    this.drawn = run.state === "running" ? "" : `${run.name} ${run.state}`;
    const losses = run.rows.filter((row) => row.loss !== undefined), measured = run.rows.filter((row) => row.score !== undefined);
    const names = [...new Set(measured.flatMap((row) => Object.keys(row)))].filter((key) => !["iteration", "epoch", "seconds", "score", "fraction"].includes(key)).slice(0, 3);
    const bar = make("progress", { ...(run.fraction ? { max: 1, value: run.fraction } : {}), "aria-label": "Part of the training that is done" });
    const buttons = [];
    const act = (text, action) => buttons.push(make("button", { onclick: guarded(action) }, text));
    if (run.state === "running") act("Stop", async () => { await send("api/trainings/stop"); await this.look(); });
    if (run.state === "stopped") act("Go on", async () => { this.seen = run.name; await send("api/trainings/resume", { name: run.name }); await this.page.refresh(); await this.look(); });
    if (run.has_model && run.state !== "running" && this.page.model?.name !== run.name) act("Put it to work", () => this.use(run.name));
    const curves = [curve(losses, "loss", "Loss"), ...(names.length ? names : ["score"]).map((name) => curve(measured, name, name))];
    const said = make("details", {}, make("summary", {}, "What the training says"), make("pre", {}, run.said.join("\n")));
    said.open = run.state === "failed" || !curves.some(Boolean);
    this.run.replaceChildren(
      make("h2", { className: "part" }, make("span", { role: "status" }, `${run.name}: ${WORDS[run.state]}`)), ...(run.state === "running" ? [bar] : []),
      make("div", { className: "row" }, ...buttons), ...curves.filter(Boolean), said);
  }
}
