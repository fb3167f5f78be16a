// The pixels of an image, as tiles of a pyramid: those on the screen are fetched, coarser ones stand in meanwhile.

const KEPT = 160; // tiles in memory: 1 MB each

export class Tiles {
  constructor(onLoad) {
    this.onLoad = onLoad;
    this.kept = new Map();
    this.info = null;
    this.query = "";
  }

  show(info, query = "") {
    if (this.info?.number !== info?.number || this.query !== query) this.kept.clear();
    this.info = info;
    this.query = query;
  }

  /** Whether everything that was asked for has arrived. */
  get complete() {
    return [...this.kept.values()].every((tile) => tile.complete);
  }

  draw(context, view, width, height, ratio) {
    if (!this.info) return;
    const { levels, tile, size } = this.info;
    context.imageSmoothingEnabled = view.scale * ratio < 3;
    const wanted = Math.floor(Math.log2(1 / (view.scale * ratio)) + 0.01);
    const level = Math.min(levels - 1, Math.max(0, wanted));
    for (const one of level === levels - 1 ? [level] : [levels - 1, Math.min(levels - 1, level + 2), level]) {
      const side = tile * 2 ** one;
      const first = [Math.max(0, Math.floor(-view.x / view.scale / side)), Math.max(0, Math.floor(-view.y / view.scale / side))];
      const last = [
        Math.min(Math.ceil(size[1] / side), Math.ceil((width - view.x) / view.scale / side)),
        Math.min(Math.ceil(size[0] / side), Math.ceil((height - view.y) / view.scale / side)),
      ];
      for (let row = first[1]; row < last[1]; row++)
        for (let column = first[0]; column < last[0]; column++) this.drawTile(context, one, column, row, side);
    }
  }

  drawTile(context, level, column, row, side) {
    const picture = this.get(level, column, row);
    if (!picture.complete || !picture.naturalWidth) return;
    const zoom = 2 ** level;
    context.drawImage(picture, column * side, row * side, picture.naturalWidth * zoom, picture.naturalHeight * zoom);
  }

  get(level, column, row) {
    const key = `${level}/${column}/${row}`;
    let picture = this.kept.get(key);
    if (picture) this.kept.delete(key);
    else {
      picture = new Image();
      picture.onload = this.onLoad;
      picture.onerror = () => this.onLoad();
      picture.src = `api/images/${this.info.number}/tiles/${key}?${this.query}`;
    }
    this.kept.set(key, picture); // the last one used comes last
    if (this.kept.size > KEPT) this.kept.delete(this.kept.keys().next().value);
    return picture;
  }
}
