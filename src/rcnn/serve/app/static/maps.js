// The class of every pixel as a picture over the image, coloured and hidden by class in the browser.

const VOID = 255;

export async function loadMap(number, model) {
  const query = model === null ? "" : `?model=${model}`;
  const picture = await createImageBitmap(await (await fetch(`api/images/${number}/map${query}`)).blob(), { colorSpaceConversion: "none" });
  const canvas = new OffscreenCanvas(picture.width, picture.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, 0, 0);
  const colours = context.getImageData(0, 0, picture.width, picture.height).data;
  const classes = new Uint8Array(picture.width * picture.height);
  for (let i = 0; i < classes.length; i++) classes[i] = colours[4 * i];
  return { width: picture.width, height: picture.height, classes };
}

/** A canvas with the classes in their colours; those hidden, void and background are left clear. */
export function paintMap(map, names, colours, hidden) {
  const canvas = new OffscreenCanvas(map.width, map.height);
  const context = canvas.getContext("2d");
  const pixels = new ImageData(map.width, map.height);
  const values = new Uint32Array(256);
  names.forEach((name, i) => {
    const colour = colours[i];
    if (colour?.length && !hidden.has(name) && i !== VOID) values[i] = (255 << 24) | (colour[2] << 16) | (colour[1] << 8) | colour[0];
  });
  const out = new Uint32Array(pixels.data.buffer);
  for (let i = 0; i < out.length; i++) out[i] = values[map.classes[i]];
  context.putImageData(pixels, 0, 0);
  return canvas;
}
