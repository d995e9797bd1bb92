"use strict";
// Draws the images of this page under segments that merge one by one: all of castssl look, a part of castssl report.

const FOR = [235, 106, 10], AGAINST = [28, 92, 214], NEITHER = [246, 246, 244], NOTHING = [70, 70, 74];
const CONTOUR = [255, 255, 255], INNER = [30, 30, 34], PARENT = [255, 214, 10];
const SECONDS = 6;  // that playing takes
const byId = (id) => document.getElementById(id);
const about = JSON.parse(byId("about").textContent);
const blocks = document.querySelectorAll("script.image");
// Moments of a training, each with the place of every panel's segments among those of an image.
const moments = about.moments ?? [{name: "", models: about.models.map((_, i) => i), labels: about.models.map(() => "")}];
const state = {image: -1, moment: moments.length - 1, segments: 1, most: 1, point: null, playing: 0, turn: 0};
let panels = [], decoded = null;

function bytesOf(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// The finest segment of each pixel of the image, -1 for none; the file holds differences to the pixel above.
async function decodeFinest(model, width, height) {
  const {width: w, height: h} = model, bytes = await inflate(bytesOf(model.finest));
  const small = new Uint16Array(w * h);
  for (let i = 0; i < w * h; i++) small[i] = bytes[i] + 256 * bytes[w * h + i] + (i < w ? 0 : small[i - w]);
  const finest = new Int32Array(width * height);
  for (let y = 0, i = 0; y < height; y++) {
    const row = Math.floor(y * h / height) * w;
    for (let x = 0; x < width; x++, i++) finest[i] = small[row + Math.floor(x * w / width)] - 1;
  }
  return finest;
}

// The tree of merges of one model: segments 0 to n - 1 are the finest, n + i is what merge i made.
class Tree {
  constructor(model, finest) {
    this.levels = model.levels;
    this.count = model.levels[0].ids.length;
    this.merges = model.merges;
    const total = this.count + this.merges.length / 2;
    this.area = new Float64Array(total);
    this.finestIn = new Int32Array(total).fill(1);
    this.largest = Int32Array.from({length: total}, (_, i) => i);  // finest segment, for its color
    this.parent = new Int32Array(total).fill(-1);
    for (const segment of finest) if (segment >= 0) this.area[segment]++;
    for (let i = 0; i < this.merges.length / 2; i++) {
      const [a, b, made] = [this.merges[2 * i], this.merges[2 * i + 1], this.count + i];
      this.area[made] = this.area[a] + this.area[b];
      this.finestIn[made] = this.finestIn[a] + this.finestIn[b];
      this.largest[made] = this.area[a] >= this.area[b] ? this.largest[a] : this.largest[b];
      this.parent[a] = this.parent[b] = made;
    }
    this.levelSegments = this.levels.map((level) => new Set(level.ids).size);
  }

  // The segment that each finest one is in when so many are left, or all merges are done.
  cut(segments) {
    const done = Math.min(Math.max(this.count - segments, 0), this.merges.length / 2);
    const root = Int32Array.from({length: this.count + done}, (_, i) => i);
    for (let i = done - 1; i >= 0; i--) {
      root[this.merges[2 * i]] = root[this.merges[2 * i + 1]] = root[this.count + i];
    }
    return root.subarray(0, this.count);
  }

  shown(segments) {
    return Math.max(Math.min(segments, this.count), Math.min(this.count, 1));
  }
}

function mix(from, to, share) {
  return from.map((value, i) => value + share * (to[i] - value));
}

// One model's view of the image: a canvas, buttons for its levels, and facts about the segment pointed at.
class Panel {
  constructor(title) {
    this.element = document.createElement("section");
    this.element.className = "panel";
    const heading = document.createElement("h2");
    heading.textContent = title;
    this.title = heading.appendChild(document.createElement("span"));
    this.canvas = document.createElement("canvas");
    this.canvas.setAttribute("role", "img");
    this.levels = document.createElement("div");
    this.levels.className = "levels";
    this.facts = document.createElement("dl");
    this.facts.className = "facts";
    this.element.append(heading, this.canvas, this.levels, this.facts);
    this.canvas.addEventListener("pointermove", (event) => this.point(event));
    this.canvas.addEventListener("pointerdown", (event) => this.point(event));
    this.canvas.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "mouse") pointAt(null);  // A finger's last place stays.
    });
  }

  async load(image, model, photo) {
    const finest = await decodeFinest(model, image.width, image.height);
    Object.assign(this, {width: image.width, height: image.height, photo, finest, model});
    this.tree = new Tree(model, finest);
    this.shades = model.shades.map((one) => ({segments: one.segments, colors: hexBytes(one.colors)}));
    this.sums = new Float64Array(3 * this.tree.count);
    finest.forEach((segment, i) => {
      for (let k = 0; k < 3 && segment >= 0; k++) this.sums[3 * segment + k] += photo[4 * i + k];
    });
    this.canvas.width = image.width;
    this.canvas.height = image.height;
    this.canvas.style.setProperty("--ratio", image.width / image.height);
    this.context = this.canvas.getContext("2d");
    this.pixels = this.context.createImageData(image.width, image.height);
    this.roots = new Int32Array(image.width * image.height);
    this.levels.replaceChildren(...this.tree.levels.map((level, i) => this.button(level, i)));
  }

  button(level, i) {
    const button = document.createElement("button"), segments = this.tree.levelSegments[i];
    button.textContent = level.size;
    button.title = `level ${i}: ${segments} of ${level.size} segments have pixels here`;
    button.addEventListener("click", () => setSegments(segments));
    return button;
  }

  point(event) {
    const box = this.canvas.getBoundingClientRect();
    pointAt({x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height});
  }

  // The finest segment at a place that is given in shares of width and height, or -1.
  at(point) {
    if (!point || !(point.x >= 0 && point.x < 1 && point.y >= 0 && point.y < 1)) return -1;
    return this.finest[Math.floor(point.y * this.height) * this.width + Math.floor(point.x * this.width)];
  }

  // A color (r, g, b) for each finest segment, the same within each root.
  colors(root) {
    const kind = byId("colors").value, {count} = this.tree, table = new Uint8ClampedArray(3 * count);
    if (kind === "segments") {
      const shade = this.shades.findLast((one) => one.segments >= state.segments) ?? this.shades[0];
      for (let i = 0; i < count; i++) {
        const from = 3 * this.tree.largest[root[i]];
        for (let k = 0; k < 3; k++) table[3 * i + k] = shade.colors[from + k];
      }
      return table;
    }
    const paint = kind === "mean" ? this.meanColors(root) : this.evidenceColors(root, Number(kind));
    for (let i = 0; i < count; i++) table.set(paint(root[i]), 3 * i);
    return table;
  }

  meanColors(root) {
    const sums = [0, 1, 2].map((k) => this.total(root, (i) => this.sums[3 * i + k]));
    return (segment) => sums.map((sum) => sum.get(segment) / Math.max(this.tree.area[segment], 1));
  }

  evidenceColors(root, level) {
    const found = this.model.classes[level];
    if (!found) return () => NEITHER;
    const moved = this.total(root, (i) => found.moved[i]);
    const most = Math.max(1e-12, ...[...moved.values()].map(Math.abs));
    return (segment) => {
      const share = moved.get(segment) / most;
      return mix(NEITHER, share > 0 ? FOR : AGAINST, Math.abs(share));
    };
  }

  // Sums over the finest segments of each root.
  total(root, value) {
    const sums = new Map();
    root.forEach((segment, i) => sums.set(segment, (sums.get(segment) ?? 0) + value(i)));
    return sums;
  }

  draw() {
    const root = this.tree.cut(state.segments), {width, height, roots, finest} = this;
    const segment = this.at(state.point), hovered = segment < 0 ? -1 : root[segment];
    const family = this.family(root, hovered);
    for (let i = 0; i < finest.length; i++) roots[i] = finest[i] < 0 ? -1 : root[finest[i]];
    this.fill(this.colors(root), hovered, family);
    // Lines of a large image are thick, to be seen where it is shown small.
    const thick = width > 1.4 * (this.canvas.clientWidth || width) ? 2 : 1;
    for (let y = 0, i = 0; y < height; y++) {
      for (let x = 0; x < width; x++, i++) {
        for (let step = 1; step <= thick; step++) {
          if (x + step < width) this.border(i, i + step, hovered, family);
          if (y + step < height) this.border(i, i + step * width, hovered, family);
        }
      }
    }
    this.context.putImageData(this.pixels, 0, 0);
    this.describe(root, hovered, family);
  }

  // Of the segment pointed at: the finest ones in its parent, and its children; both by the next levels.
  family(root, hovered) {
    if (hovered < 0) return null;
    const {levels, levelSegments, largest} = this.tree, shown = this.tree.shown(state.segments);
    const up = levelSegments.findIndex((segments) => segments < shown);
    const down = levelSegments.findLastIndex((segments) => segments > shown);
    const parent = up < 0 ? null : levels[up].ids[largest[hovered]];
    return {
      inParent: Uint8Array.from(root, (_, i) => up >= 0 && levels[up].ids[i] === parent),
      children: down < 0 ? null : levels[down].ids, up, down,
    };
  }

  fill(colors, hovered, family) {
    const {photo, roots, finest} = this, out = this.pixels.data, opacity = byId("opacity").value / 100;
    for (let i = 0, p = 0; i < finest.length; i++, p += 4) {
      const segment = finest[i];
      const dim = !family || roots[i] === hovered ? 1 : segment >= 0 && family.inParent[segment] ? 0.75 : 0.4;
      const gray = 0.299 * photo[p] + 0.587 * photo[p + 1] + 0.114 * photo[p + 2];
      for (let k = 0; k < 3; k++) {
        const color = segment < 0 ? NOTHING[k] : colors[3 * segment + k];
        const under = photo[p + k] + opacity * (gray - photo[p + k]);
        out[p + k] = dim * (under + opacity * (color - under));
      }
      out[p + 3] = 255;
    }
  }

  border(i, j, hovered, family) {
    const {roots, finest} = this, a = roots[i], b = roots[j];
    if (a === b) {
      const split = a === hovered && family?.children && family.children[finest[i]] !== family.children[finest[j]];
      if (split) this.dot(i, INNER);
      return;
    }
    const edge = family && a !== b && (a === hovered || b === hovered);
    const outer = family && (family.inParent[finest[i]] ?? 0) !== (family.inParent[finest[j]] ?? 0);
    if (edge) {
      this.dot(i, CONTOUR);
      this.dot(j, CONTOUR);
    } else if (outer) {
      this.dot(i, PARENT);
    } else if (byId("contours").checked) {
      this.dot(i, family ? [170, 170, 170] : CONTOUR);
    }
  }

  dot(i, color) {
    for (let k = 0; k < 3; k++) this.pixels.data[4 * i + k] = color[k];
  }

  describe(root, hovered, family) {
    const {tree} = this, shown = tree.shown(state.segments);
    this.title.textContent = `${shown} of ${tree.count} segments`;
    this.canvas.setAttribute("aria-label", this.title.textContent);
    [...this.levels.children].forEach((button, i) => {
      button.setAttribute("aria-pressed", tree.levelSegments[i] === shown);
    });
    const rows = hovered < 0 ? [] : this.rows(root, hovered, family);
    const classes = this.model.classes.map((one, i) => {
      const moved = hovered < 0 ? null : this.total(root, (leaf) => one.moved[leaf]).get(hovered);
      const share = moved === null ? "" : `; this segment ${signed(moved)}`;
      return [i ? "" : "classes", `${one.name} ${one.probability.toFixed(2)}${share}`];
    });
    const hint = tree.count ? [["segment", "point at one in the image"]] : [["segment", "none"]];
    this.facts.replaceChildren(...[...(rows.length ? rows : hint), ...classes].flatMap(([name, value]) => {
      const [term, text] = [document.createElement("dt"), document.createElement("dd")];
      term.textContent = name;
      text.textContent = value;
      return [term, text];
    }));
  }

  rows(root, hovered, family) {
    const {tree} = this, share = 100 * tree.area[hovered] / this.finest.length;
    const numbered = (level) => `${level.ids[tree.largest[hovered]]} of ${level.size}`;
    const exact = tree.levelSegments.lastIndexOf(tree.shown(state.segments));
    const name = exact < 0 ? "between levels" : numbered(tree.levels[exact]);
    const above = family.up < 0 ? [] : tree.levels.slice(family.up).map(numbered);
    const size = family.down < 0 ? 0 : tree.levels[family.down].size;
    const inside = family.children ? [...new Set(family.children.filter((_, i) => root[i] === hovered))] : [];
    inside.sort((a, b) => a - b);
    const more = inside.length > 8 ? `, ... (${inside.length})` : "";
    return [
      ["segment", `${name}; ${tree.finestIn[hovered]} of ${tree.count} finest`],
      ["area", `${share.toFixed(1)} %, ${tree.area[hovered].toLocaleString("en")} pixels`],
      ["parents", above.join(" in ") || "none"],
      ["children", inside.length ? `${inside.slice(0, 8).join(", ")}${more} of ${size}` : "none"],
    ];
  }
}

function signed(value) {
  return (value < 0 ? "\u2212" : "+") + Math.abs(value).toPrecision(2);
}

function hexBytes(text) {
  return Uint8Array.from({length: text.length / 2}, (_, i) => parseInt(text.slice(2 * i, 2 * i + 2), 16));
}

async function decodePhoto(image) {
  const picture = new Image();
  picture.src = "data:image/jpeg;base64," + image.jpeg;
  await picture.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.width, image.height];
  const context = canvas.getContext("2d", {willReadFrequently: true});
  context.drawImage(picture, 0, 0);
  return context.getImageData(0, 0, image.width, image.height).data;
}

async function show(index, moment) {
  const wanted = (index + blocks.length) % blocks.length;
  if (panels.length && wanted === state.image && moment === state.moment) return;
  const turn = ++state.turn;
  Object.assign(state, {image: wanted, moment});
  byId("images").selectedIndex = wanted;
  byId("place").textContent = `${wanted + 1} of ${blocks.length}`;
  const {name, models, labels} = moments[moment];
  byId("moment").value = moment;
  byId("moment").setAttribute("aria-valuetext", name);
  byId("moment-name").textContent = name;
  const other = decoded?.index !== wanted;
  if (other) {
    const image = JSON.parse(blocks[wanted].textContent);
    decoded = {index: wanted, image, photo: await decodePhoto(image)};
  }
  const {image, photo} = decoded;
  const fresh = about.models.map((title, i) => new Panel(labels[i] ? `${title}, ${labels[i]}` : title));
  await Promise.all(fresh.map((panel, i) => panel.load(image, image.models[models[i]], photo)));
  if (state.turn !== turn) return;  // Another image or moment was chosen meanwhile.
  const began = panels.length === 0;
  panels = fresh;
  byId("panels").replaceChildren(...panels.map((panel) => panel.element));
  state.most = Math.max(1, ...panels.map((panel) => panel.tree.count));
  byId("slider").max = Math.ceil(state.most * Math.log(state.most + 1));
  if (other) state.point = null;
  offerClasses();
  setSegments(began ? Math.max(...panels.map((panel) => coarsest(panel.tree))) : state.segments);
}

// Segments of the coarsest level of some, to begin with something that a glance understands.
function coarsest(tree) {
  const last = tree.levelSegments.at(-1);
  return last > 64 ? 16 : last;
}

function offerClasses() {
  const select = byId("colors"), chosen = select.value, levels = Math.max(...panels.map((p) => p.model.classes.length));
  while (select.length > 2) select.remove(2);
  for (let i = 0; i < levels; i++) {
    const name = levels > 1 ? `of evidence, label level ${i}` : "of evidence";
    select.add(new Option(name, i));
  }
  select.value = [...select.options].some((option) => option.value === chosen) ? chosen : "segments";
}

// A notch of the slider is one merge; coarse ones, where a merge changes more, get more room.
function segmentsAt(position) {
  return Math.round(state.most ** (1 - position / Math.max(1, Number(byId("slider").max))));
}

function positionOf(segments) {
  return Math.round(Number(byId("slider").max) * (1 - Math.log(segments) / Math.log(Math.max(2, state.most))));
}

function setSegments(segments) {
  state.segments = Math.min(Math.max(Math.round(segments), 1), state.most);
  if (segmentsAt(byId("slider").value) !== state.segments) byId("slider").value = positionOf(state.segments);
  const text = `${state.segments} segment${state.segments === 1 ? "" : "s"}`;
  byId("count").textContent = text;
  byId("slider").setAttribute("aria-valuetext", text);
  redraw();
}

function pointAt(point) {
  const before = panels.map((panel) => panel.at(state.point));
  state.point = point;
  if (panels.some((panel, i) => panel.at(point) !== before[i])) redraw();
}

let due = false;
function redraw() {
  if (due) return;
  due = true;
  requestAnimationFrame(() => {
    due = false;
    panels.forEach((panel) => panel.draw());
  });
}

function stepLevel(coarser) {
  const levels = [...new Set(panels.flatMap((panel) => panel.tree.levelSegments)), 1].sort((a, b) => a - b);
  const next = coarser
    ? levels.findLast((segments) => segments < state.segments)
    : levels.find((segments) => segments > state.segments);
  if (next) setSegments(next);
}

function play() {
  if (state.playing) return stop();
  if (state.segments === 1) setSegments(state.most);
  byId("play").textContent = "stop";
  const began = performance.now(), from = positionOf(state.segments), to = Number(byId("slider").max);
  const frame = (now) => {
    const position = from + Math.max(0, now - began) / 1000 / SECONDS * to;
    setSegments(segmentsAt(Math.min(position, to)));
    state.playing = position < to ? requestAnimationFrame(frame) : 0;
    if (!state.playing) stop();
  };
  state.playing = requestAnimationFrame(frame);
}

function stop() {
  cancelAnimationFrame(state.playing);
  state.playing = 0;
  byId("play").textContent = "play";
}

function addOpacity(step) {
  byId("opacity").value = Number(byId("opacity").value) + step;
  redraw();
}

const KEYS = {
  ArrowRight: (event) => setSegments(state.segments - (event.shiftKey ? 10 : 1)),
  ArrowLeft: (event) => setSegments(state.segments + (event.shiftKey ? 10 : 1)),
  ArrowDown: () => stepLevel(true),
  ArrowUp: () => stepLevel(false),
  Home: () => setSegments(state.most),
  End: () => setSegments(1),
  PageDown: () => goTo(state.image + 1),
  PageUp: () => goTo(state.image - 1),
  ",": () => goTo(state.image, Math.max(0, state.moment - 1)),
  ".": () => goTo(state.image, Math.min(moments.length - 1, state.moment + 1)),
  " ": play,
  "+": () => addOpacity(10),
  "-": () => addOpacity(-10),
  c: () => { byId("contours").click(); },
  m: () => {
    byId("colors").selectedIndex = (byId("colors").selectedIndex + 1) % byId("colors").length;
    redraw();
  },
  Escape: () => pointAt(null),
};

// A focused control keeps the keys that it takes itself.
function taken(target, key) {
  if (target.matches("select")) return true;
  if (target.id === "moment") return key.length > 1;
  if (target.matches("button, summary")) return key === " ";
  return target.matches("input") && target.id !== "slider" && (key.length > 1 || key === " ");
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || taken(event.target, event.key)) return;
  const action = KEYS[event.key];
  if (!action) return;
  event.preventDefault();
  if (event.key !== " ") stop();
  action(event);
}

function goTo(index, moment = state.moment) {
  window.castssl.ready = show(index, moment).catch((error) => {
    byId("fault").hidden = false;
    byId("fault").textContent = `This page cannot be shown: ${error}. A browser of 2023 or later is needed.`;
    throw error;
  });
}

function listen() {
  about.images.forEach((name, i) => byId("images").add(new Option(name, i)));
  byId("images").addEventListener("change", (event) => goTo(event.target.selectedIndex));
  byId("previous").addEventListener("click", () => goTo(state.image - 1));
  byId("next").addEventListener("click", () => goTo(state.image + 1));
  byId("slider").addEventListener("input", (event) => {
    stop();
    setSegments(segmentsAt(event.target.value));
  });
  byId("training").hidden = moments.length < 2;
  byId("moment").max = moments.length - 1;
  byId("moment").addEventListener("input", (event) => goTo(state.image, Number(event.target.value)));
  for (const id of ["opacity", "contours", "colors"]) byId(id).addEventListener("input", redraw);
  byId("play").addEventListener("click", play);
  (byId("viewer") ?? document).addEventListener("keydown", onKey);  // A part of a page leaves the others their keys.
  window.addEventListener("resize", redraw);
}

// For tests and for the curious: what is shown, as the segment of each pixel in reading order.
window.castssl = {
  state,
  setSegments,
  partition: (panel) => {
    const root = panels[panel].tree.cut(state.segments);
    return Array.from(panels[panel].finest, (segment) => (segment < 0 ? -1 : root[segment]));
  },
};
listen();
goTo(0);
