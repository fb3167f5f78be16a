// Changes of a person to the objects of images: made at once, undone and redone, and saved one after the other.

import { ask, send } from "./api.js";
import { $, showProblem } from "./dom.js";
import { boxOf, toRuns, union, without } from "./masks.js";
import { Shape } from "./shapes.js";

const FIELDS = ["id", "class", "box", "mask", "points", "crowd", "score", "stuff"];
const AGAIN = 2000, SHOWN = 5000; // milliseconds: until saving is tried again, and how long it is said that all is saved

export const newId = () => `p${crypto.randomUUID()}`;

/** An object, or a region of a pixel class, with another mask. */
export function masked(object, mask) { return { ...object, box: boxOf(mask), mask: toRuns(mask) }; }

/** What the server keeps of an object. */
export function plain(shape) {
  return Object.fromEntries(FIELDS.filter((name) => shape[name] !== undefined && shape[name] !== null).map((name) => [name, shape[name]]));
}

export class Edits extends EventTarget {
  plain = plain;

  constructor(page) {
    super();
    this.page = page;
    this.histories = new Map(); // by image: what can be undone and redone
    this.revisions = new Map(); // by image: the revision of each object, as the server has it
    this.waiting = []; // what is to be saved, in order
    addEventListener("beforeunload", (event) => { if (this.waiting.length) event.preventDefault(); });
    addEventListener("focus", () => this.catchUp());
    page.addEventListener("opened", () => {
      if (page.info?.draft) this.learn(page.number, page.info.draft);
      this.dispatchEvent(new Event("changed"));
    });
  }

  get history() {
    const { number } = this.page;
    if (!this.histories.has(number)) this.histories.set(number, { undo: [], redo: [] });
    return this.histories.get(number);
  }

  /** Change objects: `changes` are {before, after}, plain objects or null; new ones need an id. */
  async apply(changes, select = null) {
    if (!changes.length || this.page.number < 0) return;
    try {
      await this.beginMap();
    } catch (error) {
      showProblem(error);
      return;
    }
    this.history.undo.push(changes);
    this.history.redo.length = 0;
    this.make(changes, select);
  }

  undo() { this.turn("undo", "redo", ({ before, after }) => ({ before: after, after: before })); }

  redo() { this.turn("redo", "undo", (change) => change); }

  turn(from, to, way) {
    const changes = this.history[from].pop();
    if (!changes) return;
    this.history[to].push(changes);
    this.make(changes.map(way));
  }

  make(changes, select = null) {
    const { page } = this;
    this.begin();
    const shapes = new Map(page.shapes.map((shape) => [shape.id, shape])), regions = new Map(page.regions.map((region) => [region.id, region]));
    for (const { before, after } of changes) {
      const kind = (after ?? before).stuff ? regions : shapes;
      if (after) kind.set(after.id, new Shape(after));
      else kind.delete(before.id);
    }
    if (select) page.viewer.selected = new Set(select);
    page.takeShapes([...shapes.values()], [...regions.values()]);
    this.save(changes.map(({ before, after }) => ({ id: (after ?? before).id, object: after })));
    this.dispatchEvent(new Event("changed"));
  }

  /** From the first change on, what is shown is a draft: what lay below the slider is not part of it. */
  begin() {
    const { page } = this;
    if (page.source === "draft") return;
    const revisions = new Map();
    const kept = page.source === "found" ? page.shapes.filter((shape) => shape.score === undefined || shape.score >= page.look.minScore) : page.shapes;
    for (const shape of kept) revisions.set(shape.id, 1);
    this.revisions.set(page.number, revisions);
    page.source = "draft";
    page.look.scored = false;
    page.viewer.shapes = kept;
  }

  /** The same where a map of pixel classes is shown: the server makes the regions of it that can be changed. */
  async beginMap() {
    const { page } = this, { number } = page;
    if (page.source === "draft" || !page.map) return;
    page.busy("beginning the corrections");
    try {
      const draft = await send(`api/images/${number}/changes`, { ...this.start(), changes: [] });
      if (page.number === number) this.adopt(draft);
    } finally {
      page.busy("");
    }
  }

  /** Give the pixels of a mask a pixel class, and take them from all others; no name: they have no class then. */
  async paint(mask, name) {
    try {
      await this.beginMap();
    } catch (error) {
      showProblem(error);
      return;
    }
    const { regions } = this.page, own = regions.find((region) => region.class === name), changes = [];
    for (const region of regions) {
      if (region === own) continue;
      const left = without(region.bitmap, mask);
      if (left !== region.bitmap) changes.push({ before: plain(region), after: left && masked(plain(region), left) });
    }
    if (name) changes.push({ before: own ? plain(own) : null, after: masked(own ? plain(own) : { id: newId(), class: name, stuff: true }, own ? union([own.bitmap, mask]) : mask) });
    await this.apply(changes);
  }

  start() { return { min_score: this.page.look.minScore, model: this.page.state.models.length ? this.page.state.current : null }; }

  save(changes) {
    const { number } = this.page;
    const last = this.waiting.at(-1);
    const job = last && last.number === number && !last.sent ? last : { number, changes: new Map(), start: this.start() };
    for (const change of changes) job.changes.set(change.id, change.object);
    if (job !== last) this.waiting.push(job);
    this.said("saving …");
    this.work();
  }

  async work() {
    if (this.working) return;
    this.working = true;
    while (this.waiting.length) {
      const job = this.waiting[0];
      job.sent = true;
      const revisions = this.revisions.get(job.number) ?? new Map();
      const changes = [...job.changes].map(([id, object]) => ({ id, object, rev: revisions.get(id) ?? null }));
      try {
        this.answered(job, await send(`api/images/${job.number}/changes`, { ...job.start, changes }));
        this.waiting.shift();
      } catch (error) {
        showProblem(error);
        this.said("not saved");
        if (!error.message.startsWith("The program behind")) { // it was refused: show what the server has
          this.waiting.shift();
          await this.reload();
          continue;
        }
        await new Promise((resolve) => { setTimeout(resolve, AGAIN); });
      }
    }
    this.working = false;
    if ($("saved").textContent === "saving …") this.said("saved");
  }

  answered(job, draft) {
    this.learn(job.number, draft);
    const { page } = this;
    if (page.number !== job.number) return;
    if (draft.conflicts) showProblem({ message: "Another tab changed the same object or pixel class. Both versions are kept: delete or repaint what you do not want." });
    if (this.waiting.length > 1) return;
    const mine = new Set([...page.shapes, ...page.regions].map((shape) => shape.id)), theirs = [...draft.objects, ...draft.regions];
    const same = theirs.length === mine.size && theirs.every((object) => mine.has(object.id));
    if (draft.conflicts || !same) this.adopt(draft);
    else {
      const measured = new Map(draft.objects.map((object) => [object.id, object.measures]));
      for (const shape of page.shapes) shape.measures = measured.get(shape.id);
      page.listObjects();
    }
    page.info.draft = draft;
    page.refreshStrip().catch(showProblem);
    this.dispatchEvent(new Event("changed"));
  }

  learn(number, draft) { this.revisions.set(number, new Map([...draft.objects, ...draft.regions].map((object) => [object.id, object.rev]))); }

  adopt(draft) {
    this.page.info.draft = draft;
    this.learn(this.page.number, draft);
    this.page.setObjects(draft.objects, "draft", { regions: draft.regions });
    this.dispatchEvent(new Event("changed"));
  }

  /** Take over what another tab changed in the meantime. */
  async catchUp() {
    const { page } = this;
    if (page.number < 0 || this.waiting.length) return;
    try {
      const info = await ask(`api/images/${page.number}`);
      if (info.number !== page.number || this.waiting.length) return;
      if (info.draft && info.draft.revision !== page.info.draft?.revision) this.adopt(info.draft);
    } catch { /* the next change says that nothing answers */ }
  }

  async reload() { if (this.page.number >= 0) await this.page.open(this.page.number); }

  async settled() {
    while (this.waiting.length) await new Promise((resolve) => { setTimeout(resolve, 30); });
  }

  async mark(done) {
    const { page } = this;
    await this.settled();
    const draft = await send(`api/images/${page.number}/done`, { ...this.start(), done });
    this.adopt(draft);
    await page.refresh();
    await page.refreshStrip();
    this.said(done ? "done: it is part of the data set" : "no longer done");
  }

  async revert() {
    const { page } = this;
    await this.settled();
    await send(`api/images/${page.number}/revert`);
    this.histories.delete(page.number);
    await page.refreshStrip();
    await page.open(page.number);
  }

  said(text) {
    $("saved").textContent = text;
    clearTimeout(this.fading);
    if (!this.waiting.length) this.fading = setTimeout(() => { $("saved").textContent = ""; }, SHOWN);
    this.dispatchEvent(new Event("saved"));
  }
}
