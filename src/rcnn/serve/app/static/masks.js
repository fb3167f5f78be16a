// Bitmaps in windows: runs, outlines, polygons, brushes. A mask is {x, y, width, height, bits: Uint8Array};
// a ring is a flat Float64Array of x, y along the borders of pixels.

export function fromRuns({ window: [x, y, width, height], runs }) {
  const bits = new Uint8Array(width * height);
  let place = 0;
  for (let i = 0; i < runs.length; i++) {
    if (i % 2) bits.fill(1, place, place + runs[i]);
    place += runs[i];
  }
  return { x, y, width, height, bits };
}

export function toRuns(mask) {
  const runs = [];
  let value = 0, length = 0;
  for (const bit of mask.bits) {
    if (bit === value) length++;
    else { runs.push(length); value = bit; length = 1; }
  }
  runs.push(length);
  return { window: [mask.x, mask.y, mask.width, mask.height], runs };
}

export function contains(mask, x, y) {
  const column = Math.floor(x) - mask.x, row = Math.floor(y) - mask.y;
  return column >= 0 && row >= 0 && column < mask.width && row < mask.height && mask.bits[row * mask.width + column] === 1;
}

export function area(mask) {
  let count = 0;
  for (const bit of mask.bits) count += bit;
  return count;
}

/** The mask in the smallest window that holds it; null where it is empty. */
export function trimmed(mask) {
  let left = mask.width, right = -1, top = mask.height, bottom = -1;
  for (let row = 0; row < mask.height; row++) {
    for (let column = 0; column < mask.width; column++) {
      if (!mask.bits[row * mask.width + column]) continue;
      if (column < left) left = column;
      if (column > right) right = column;
      if (row < top) top = row;
      bottom = row;
    }
  }
  return right < 0 ? null : windowed(mask, mask.x + left, mask.y + top, right - left + 1, bottom - top + 1);
}

/** The same pixels in another window. */
export function windowed(mask, x, y, width, height) {
  const bits = new Uint8Array(width * height);
  const from = Math.max(x, mask.x), to = Math.min(x + width, mask.x + mask.width);
  for (let row = Math.max(y, mask.y); row < Math.min(y + height, mask.y + mask.height) && from < to; row++) {
    const start = (row - mask.y) * mask.width + from - mask.x;
    bits.set(mask.bits.subarray(start, start + to - from), (row - y) * width + from - x);
  }
  return { x, y, width, height, bits };
}

export const boxOf = (mask) => [mask.x, mask.y, mask.x + mask.width, mask.y + mask.height];

/** All pixels of several masks. */
export function union(masks) {
  const x = Math.min(...masks.map((m) => m.x)), y = Math.min(...masks.map((m) => m.y));
  const right = Math.max(...masks.map((m) => m.x + m.width)), bottom = Math.max(...masks.map((m) => m.y + m.height));
  const whole = { x, y, width: right - x, height: bottom - y, bits: new Uint8Array((right - x) * (bottom - y)) };
  for (const mask of masks) {
    const same = windowed(mask, x, y, whole.width, whole.height);
    for (let i = 0; i < whole.bits.length; i++) whole.bits[i] |= same.bits[i];
  }
  return whole;
}

/** The pixels of a mask that are not in another; the same mask where none is, null where all are. */
export function without(mask, other) {
  const same = windowed(other, mask.x, mask.y, mask.width, mask.height), bits = mask.bits.slice();
  let changed = false;
  for (let i = 0; i < bits.length; i++) {
    if (!same.bits[i] || !bits[i]) continue;
    bits[i] = 0;
    changed = true;
  }
  return changed ? trimmed({ ...mask, bits }) : mask;
}

/** The mask with a thick line from a to b painted or erased, inside an image of [height, width]; grows as needed. */
export function painted(mask, a, b, radius, value, size) {
  const [height, width] = size;
  const left = Math.max(0, Math.floor(Math.min(a[0], b[0]) - radius)), top = Math.max(0, Math.floor(Math.min(a[1], b[1]) - radius));
  const right = Math.min(width, Math.ceil(Math.max(a[0], b[0]) + radius)), bottom = Math.min(height, Math.ceil(Math.max(a[1], b[1]) + radius));
  if (right <= left || bottom <= top) return mask;
  let grown = mask ? { ...mask, bits: mask.bits.slice() } : { x: left, y: top, width: right - left, height: bottom - top, bits: new Uint8Array((right - left) * (bottom - top)) };
  if (value && mask) {
    const x = Math.min(left, mask.x), y = Math.min(top, mask.y);
    const x2 = Math.max(right, mask.x + mask.width), y2 = Math.max(bottom, mask.y + mask.height);
    grown = windowed(mask, x, y, x2 - x, y2 - y);
  }
  const dx = b[0] - a[0], dy = b[1] - a[1], length = dx * dx + dy * dy || 1;
  for (let row = top; row < bottom; row++) {
    for (let column = left; column < right; column++) {
      const px = column + 0.5 - a[0], py = row + 0.5 - a[1];
      const t = Math.min(1, Math.max(0, (px * dx + py * dy) / length));
      const ex = px - t * dx, ey = py - t * dy;
      const inX = column - grown.x, inY = row - grown.y;
      if (ex * ex + ey * ey <= radius * radius && inX >= 0 && inY >= 0 && inX < grown.width && inY < grown.height)
        grown.bits[inY * grown.width + inX] = value;
    }
  }
  return grown;
}

/** Polygons of [x, y] corners as a mask: the pixels whose centres are inside, by the even-odd rule; null if none is. */
export function fromPolygons(polygons, size) {
  const xs = polygons.flat().map((c) => c[0]), ys = polygons.flat().map((c) => c[1]);
  const left = Math.max(0, Math.floor(Math.min(...xs))), top = Math.max(0, Math.floor(Math.min(...ys)));
  const right = Math.min(size[1], Math.ceil(Math.max(...xs))), bottom = Math.min(size[0], Math.ceil(Math.max(...ys)));
  if (right <= left || bottom <= top) return null;
  const width = right - left, bits = new Uint8Array(width * (bottom - top));
  for (let row = top; row < bottom; row++) {
    const y = row + 0.5, crossings = [];
    for (const corners of polygons) {
      for (let i = 0; i < corners.length; i++) {
        const [ax, ay] = corners[i], [bx, by] = corners[(i + 1) % corners.length];
        if ((ay <= y) !== (by <= y)) crossings.push(ax + ((y - ay) / (by - ay)) * (bx - ax));
      }
    }
    crossings.sort((a, b) => a - b);
    for (let i = 0; i + 1 < crossings.length; i += 2) {
      const from = Math.max(left, Math.ceil(crossings[i] - 0.5)), to = Math.min(right, Math.ceil(crossings[i + 1] - 0.5));
      if (to > from) bits.fill(1, (row - top) * width + from - left, (row - top) * width + to - left);
    }
  }
  return trimmed({ x: left, y: top, width, height: bottom - top, bits });
}

/** The pixels on either side of the line through a and b, as two masks; null where one side is empty. */
export function halves(mask, a, b) {
  const sides = [0, 1].map(() => ({ ...mask, bits: new Uint8Array(mask.bits.length) }));
  for (let i = 0; i < mask.bits.length; i++) {
    if (!mask.bits[i]) continue;
    const x = mask.x + (i % mask.width) + 0.5, y = mask.y + Math.floor(i / mask.width) + 0.5;
    sides[(b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0]) > 0 ? 1 : 0].bits[i] = 1;
  }
  const parts = sides.map(trimmed);
  return parts[0] && parts[1] ? parts : null;
}

const STEP_X = [1, 0, -1, 0], STEP_Y = [0, 1, 0, -1]; // right, down, left, up

/** The closed borders of a mask, outer ones and holes, each a flat array of corners. */
export function rings(mask) {
  const { width, height, bits } = mask, stride = width + 1;
  const leaving = new Uint8Array(stride * (height + 1)); // directions in which a border leaves a corner
  const inside = (row, column) => row >= 0 && column >= 0 && row < height && column < width && bits[row * width + column];
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      if (!bits[row * width + column]) continue;
      if (!inside(row - 1, column)) leaving[row * stride + column] |= 1;
      if (!inside(row, column + 1)) leaving[row * stride + column + 1] |= 2;
      if (!inside(row + 1, column)) leaving[(row + 1) * stride + column + 1] |= 4;
      if (!inside(row, column - 1)) leaving[(row + 1) * stride + column] |= 8;
    }
  }
  const found = [];
  for (let start = 0; start < leaving.length; start++) {
    while (leaving[start]) found.push(follow(leaving, stride, start, mask.x, mask.y));
  }
  return found;
}

function follow(leaving, stride, start, left, top) {
  const corners = [];
  let place = start, before = -1;
  do {
    let direction = 0;
    if (before < 0) while (!(leaving[place] & (1 << direction))) direction++;
    else { // the right turn keeps to the same pixel where two borders cross
      direction = (before + 1) % 4;
      while (!(leaving[place] & (1 << direction))) direction = (direction + 3) % 4;
    }
    leaving[place] &= ~(1 << direction);
    if (direction !== before) corners.push((place % stride) + left, Math.floor(place / stride) + top);
    place += STEP_X[direction] + STEP_Y[direction] * stride;
    before = direction;
  } while (place !== start);
  return Float64Array.from(corners);
}

/** A ring with fewer corners, nowhere further from the given one than the tolerance (Douglas and Peucker 1973). */
export function simplified(ring, tolerance) {
  const count = ring.length / 2;
  if (count < 5) return ring;
  let far = 0, most = -1;
  for (let i = 1; i < count; i++) {
    const d = (ring[2 * i] - ring[0]) ** 2 + (ring[2 * i + 1] - ring[1]) ** 2;
    if (d > most) { most = d; far = i; }
  }
  const keep = new Uint8Array(count + 1);
  keep[0] = keep[far] = keep[count] = 1;
  const stack = [[0, far], [far, count]];
  while (stack.length) {
    const [first, last] = stack.pop();
    const ax = ring[2 * first], ay = ring[2 * first + 1], bx = ring[2 * (last % count)], by = ring[2 * (last % count) + 1];
    const length = Math.hypot(bx - ax, by - ay) || 1;
    let worst = tolerance, at = -1;
    for (let i = first + 1; i < last; i++) {
      const d = Math.abs((bx - ax) * (ring[2 * i + 1] - ay) - (by - ay) * (ring[2 * i] - ax)) / length;
      if (d > worst) { worst = d; at = i; }
    }
    if (at >= 0) { keep[at] = 1; stack.push([first, at], [at, last]); }
  }
  const corners = [];
  for (let i = 0; i < count; i++) if (keep[i]) corners.push(ring[2 * i], ring[2 * i + 1]);
  return corners.length < 6 ? ring : Float64Array.from(corners);
}
