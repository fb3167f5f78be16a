// Pixel classes as a picture over the image: objects lie above them. A map is {width, height, step, classes: Uint8Array},
// one value for every `step` pixels of the image, which indexes the page's pixel classes.

const VOID = 255;
const LARGEST = 4096; // pixels of a side, as on the server: browsers draw no larger picture

/** The map that a model found, or that the data set has (`model` null). */
export async function loadMap(number, model, size) {
  const query = model === null ? "" : `?model=${model}`;
  const answer = await fetch(`api/images/${number}/map${query}`);
  if (!answer.ok) throw new Error((await answer.json()).error);
  const picture = await createImageBitmap(await answer.blob(), { colorSpaceConversion: "none" });
  const canvas = new OffscreenCanvas(picture.width, picture.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, 0, 0);
  const colours = context.getImageData(0, 0, picture.width, picture.height).data;
  const map = emptyMap(size);
  for (let i = 0; i < map.classes.length; i++) map.classes[i] = colours[4 * i];
  return map;
}

function emptyMap([height, width]) {
  const step = Math.max(1, Math.ceil(Math.max(height, width) / LARGEST));
  const map = { width: Math.ceil(width / step), height: Math.ceil(height / step), step };
  return { ...map, classes: new Uint8Array(map.width * map.height).fill(VOID) };
}

/** The map that regions describe, later ones above; `names` are the pixel classes. */
export function mapOf(regions, names, size) {
  const map = emptyMap(size);
  for (const region of regions) stamp(map, region.bitmap, names.indexOf(region.class));
  return map;
}

/** Set the pixels of a mask to a value. */
function stamp(map, mask, value) {
  const { step } = map, first = (from) => Math.ceil(from / step) * step;
  for (let y = first(mask.y); y < mask.y + mask.height; y += step) {
    const row = (y - mask.y) * mask.width - mask.x, target = (y / step) * map.width;
    for (let x = first(mask.x); x < mask.x + mask.width; x += step) {
      if (mask.bits[row + x]) map.classes[target + x / step] = value;
    }
  }
}

/** What the objects leave of a map, with the pixels of each class; one with fewer than `least` is left out. */
export function leftBy(map, shapes, least) {
  const left = { ...map, classes: map.classes.slice() };
  for (const { bitmap } of shapes) if (bitmap) stamp(left, bitmap, VOID);
  left.counts = new Array(VOID).fill(0);
  for (const value of left.classes) if (value !== VOID) left.counts[value]++;
  left.counts = left.counts.map((count) => (count * map.step ** 2 < least ? 0 : count));
  return left;
}

/** A canvas with the pixel classes in their colours, [red, green, blue] or null by index; those that are null are clear. */
export function paintMap(map, colours) {
  const canvas = new OffscreenCanvas(map.width, map.height);
  const context = canvas.getContext("2d");
  const pixels = new ImageData(map.width, map.height);
  const values = new Uint32Array(256);
  colours.forEach((colour, i) => { if (colour && map.counts[i]) values[i] = (255 << 24) | (colour[2] << 16) | (colour[1] << 8) | colour[0]; });
  const out = new Uint32Array(pixels.data.buffer);
  for (let i = 0; i < out.length; i++) out[i] = values[map.classes[i]];
  context.putImageData(pixels, 0, 0);
  return canvas;
}
