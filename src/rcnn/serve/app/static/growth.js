// A mask growing from the grid of the mask head into the image: put over its box, interpolated, and cut at a threshold.

const SECONDS = 3.2;
const STEPS = ["the grid of the mask head, a pixel of the image for each cell", "stretched over the box of the object", "interpolated to the pixels of the image", "cut at the threshold: the mask"];
export const LAST = STEPS.length - 1;

export class Growth {
  /** `mask` is {map, box, threshold} of an explanation; `changed` is called when there is something new to draw. */
  constructor({ map, box, threshold }, changed) {
    Object.assign(this, { box, threshold, changed, side: map.length, at: LAST });
    this.grid = picture(map[0].length, map.length, map.flat(), (value) => value);
    this.interpolate(map);
  }

  get words() { return STEPS[Math.ceil(this.at - 1e-6)]; }

  /** Grow from the beginning; at once where the reader wants no motion. */
  play() {
    cancelAnimationFrame(this.frame);
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) return void this.show(LAST);
    const begun = performance.now();
    const next = (now) => {
      this.show(Math.min(LAST, Math.max(0, (LAST * (now - begun)) / 1000 / SECONDS)));
      if (this.at < LAST) this.frame = requestAnimationFrame(next);
    };
    this.frame = requestAnimationFrame(next);
  }

  stop() { cancelAnimationFrame(this.frame); }

  show(at) {
    this.at = at;
    this.changed();
  }

  /** The probability of every pixel of the box: bilinear between the cells' centres, zeros around the grid. */
  interpolate(map) {
    const [x1, y1, x2, y2] = this.box, n = this.side, cell = (row, column) => map[row]?.[column] ?? 0;
    Object.assign(this, { left: Math.floor(x1), top: Math.floor(y1), width: Math.ceil(x2) - Math.floor(x1), height: Math.ceil(y2) - Math.floor(y1) });
    this.values = new Float32Array(this.width * this.height);
    for (let row = 0; row < this.height; row++) {
      const v = ((this.top + row + 0.5 - y1) / (y2 - y1)) * n - 0.5, i = Math.floor(v), down = v - i;
      for (let column = 0; column < this.width; column++) {
        const u = ((this.left + column + 0.5 - x1) / (x2 - x1)) * n - 0.5, j = Math.floor(u), right = u - j;
        this.values[row * this.width + column] = (1 - down) * ((1 - right) * cell(i, j) + right * cell(i, j + 1)) + down * ((1 - right) * cell(i + 1, j) + right * cell(i + 1, j + 1));
      }
    }
  }

  /** Whether each pixel of the box belongs to the mask. */
  get mask() { return this.values.map((value) => (value >= this.threshold ? 1 : 0)); }

  draw(context) {
    const [x1, y1, x2, y2] = this.box, stretched = Math.min(1, this.at), smooth = Math.min(1, Math.max(0, this.at - 1)), cut = Math.max(0, this.at - 2);
    const between = (from, to) => from + (to - from) * stretched;
    const cx = (x1 + x2) / 2, cy = (y1 + y2) / 2, half = this.side / 2;
    context.imageSmoothingEnabled = false;
    context.globalAlpha = 1 - smooth;
    if (smooth < 1) context.drawImage(this.grid, between(cx - half, x1), between(cy - half, y1), between(this.side, x2 - x1), between(this.side, y2 - y1));
    context.globalAlpha = smooth;
    if (smooth > 0) context.drawImage(this.cutPicture(cut), this.left, this.top);
    context.globalAlpha = 1;
  }

  /** The interpolated probabilities, drawn apart from the threshold: as they are (0) to black and white (1). */
  cutPicture(cut) {
    if (this.kept?.cut !== cut) {
      const apart = (value) => (value >= this.threshold ? value + (1 - value) * cut : value * (1 - cut));
      this.kept = { cut, picture: picture(this.width, this.height, this.values, apart) };
    }
    return this.kept.picture;
  }
}

/** Probabilities as a picture, the likely ones bright and dense. */
function picture(width, height, values, change) {
  const canvas = new OffscreenCanvas(width, height), context = canvas.getContext("2d"), pixels = context.createImageData(width, height);
  values.forEach((value, i) => {
    const changed = change(value);
    pixels.data.set([255, Math.round(220 * changed), 0, Math.round(220 * Math.min(1, 0.15 * (changed > 0) + changed))], 4 * i);
  });
  context.putImageData(pixels, 0, 0);
  return canvas;
}
