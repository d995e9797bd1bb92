"use strict";
// Draws the charts of this page, which castssl report wrote, and serves its buttons and sliders.
(() => {
  const {runs, charts} = JSON.parse(document.getElementById("charts").textContent);
  const figures = [...document.querySelectorAll("figure.chart")];
  const PLACES = ["steps", "epochs", "hours"];
  const shown = {place: 1, logarithmic: false, hidden: new Set()};
  const frame = document.createElement("template");
  frame.innerHTML = "<svg></svg>";
  const namespace = frame.content.firstChild.namespaceURI;

  function svg(name, attributes, ...children) {
    const element = document.createElementNS(namespace, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  }

  function html(name, attributes, ...children) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  }

  const colorOf = (run) => `c${runs[run].color % 8} p${Math.floor(runs[run].color / 8) % 3}`;
  const cut = (name, most) => (name.length > most ? name.slice(0, most - 1) + "\u2026" : name);

  function number(value) {
    const size = Math.abs(value);
    if (size === 0) return "0";
    if (size >= 1e6 || size < 1e-3) return value.toExponential(2).replace("e+", "e");
    if (size >= 1000) return Math.round(value).toLocaleString("en");
    return String(Number(value.toPrecision(4)));
  }

  // Round numbers from low to high, about as many as asked for.
  function ticks(low, high, count) {
    const rough = (high - low) / Math.max(1, count), power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= rough) ?? 10 * power;
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step);
    return found;
  }

  function powers(low, high) {
    const found = [];
    for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++) {
      for (const one of high / low < 30 ? [1, 2, 5] : [1]) found.push(one * 10 ** e);
    }
    return found.filter((one) => one >= low * 0.999 && one <= high * 1.001);
  }

  function label(tick, step) {
    if (tick === 0) return "0";
    if (Math.abs(tick) < 1e-3 || Math.abs(tick) >= 1e5) return Number(tick.toPrecision(6)).toExponential().replace("e+", "e");
    return tick.toFixed(Math.min(6, Math.max(0, -Math.floor(Math.log10(step) + 1e-9))));
  }

  // The curves of a chart that are not hidden, as points.
  function visible(chart, logarithmic) {
    return chart.curves.filter((curve) => !shown.hidden.has(runs[curve.run].color)).map((curve) => ({
      run: curve.run,
      points: curve.values.map((y, i) => [curve.places[shown.place][i], y])
        .filter(([x, y]) => x !== null && y !== null && (!logarithmic || y > 0)),
    })).filter((curve) => curve.points.length);
  }

  function range(values, logarithmic) {
    let [low, high] = [Math.min(...values), Math.max(...values)];
    if (logarithmic) return [low / 1.1, high * 1.1];
    if (low === high) [low, high] = [low - (Math.abs(low) / 10 || 1), high + (Math.abs(high) / 10 || 1)];
    const pad = 0.06 * (high - low);
    return [low >= 0 && low - pad < 0 ? 0 : low - pad, high + pad];
  }

  function drawCurves(figure, chart) {
    const logarithmic = shown.logarithmic && chart.logarithmic, curves = visible(chart, logarithmic);
    const width = Math.max(260, figure.clientWidth), height = width < 420 ? 210 : 240;
    const levels = logarithmic ? chart.levels.filter((one) => one.low > 0) : chart.levels;
    const names = runs.length > 1 && curves.length > 1 && curves.length <= 6 && width >= 460;
    const longest = Math.max(...curves.map((curve) => runs[curve.run].short.length), 0);
    const room = Math.min(0.32 * width, 16 + 7.8 * longest);  // for the names
    const box = {left: 54, right: width - (names ? room : 14), top: 12, bottom: height - 38};
    const root = svg("svg", {viewBox: `0 0 ${width} ${height}`, width, height, role: "img", tabindex: "0"});
    root.setAttribute("aria-label", summary(chart, curves));
    const place = {root, box, curves, chart, index: -1};
    figure.querySelector("svg")?.remove();
    figure.querySelector(".canvas").prepend(root);
    figure.place = place;
    if (!curves.length) {
      root.append(svg("text", {x: width / 2, y: height / 2, class: "tick", "text-anchor": "middle"}, "no curve is chosen"));
      return;
    }
    const xs = curves.flatMap((curve) => curve.points.map(([x]) => x));
    const ys = [...curves.flatMap((curve) => curve.points.map(([, y]) => y)), ...levels.flatMap((one) => [one.low, one.high])];
    let [low, high] = range(ys, logarithmic);
    if (chart.from_zero) low = 0;
    const most = Math.max(...xs) || 1, least = Math.min(0, ...xs);
    place.x = (x) => box.left + (x - least) / (most - least) * (box.right - box.left);
    const scale = logarithmic ? Math.log : (y) => y;
    place.y = (y) => box.bottom - (scale(y) - scale(low)) / (scale(high) - scale(low)) * (box.bottom - box.top);
    axes(place, [least, most], [low, high], logarithmic);
    const used = [];
    for (const one of levels) {
      const y = place.y(one.high), height = place.y(one.low) - y;
      if (height > 0) root.append(svg("rect", {x: box.left, y, width: box.right - box.left, height, class: "band"}));
      for (const edge of new Set([y, y + height])) {
        root.append(svg("line", {x1: box.left, x2: box.right, y1: edge, y2: edge, class: "level"}));
      }
      const text = `${one.name} ${one.shown}`, at = y - box.top > 16 ? y - 4 : y + 13;
      const crowded = used.some((other) => Math.abs(other - at) < 14);  // Then its name is at the other end.
      if (!crowded) used.push(at);
      const end = crowded ? {x: box.right - 4, "text-anchor": "end"} : {x: box.left + 5};
      root.append(svg("text", {...end, y: at, class: "level-name"}, text));
    }
    for (const curve of curves) {
      const path = curve.points.map(([x, y], i) => `${i ? "L" : "M"}${place.x(x).toFixed(1)},${place.y(y).toFixed(1)}`);
      root.append(svg("path", {d: path.join(""), class: `curve ${colorOf(curve.run)}`}));
      for (const [x, y] of curve.points.length <= 30 ? curve.points : []) {
        root.append(svg("circle", {cx: place.x(x), cy: place.y(y), r: 2.6, class: `dot ${colorOf(curve.run)}`}));
      }
    }
    if (names) endNames(place);
    place.marks = root.appendChild(svg("g", {class: "marks"}));
  }

  function axes({root, box, x, y}, [least, most], [low, high], logarithmic) {
    const vertical = logarithmic ? powers(low, high) : ticks(low, high, 5);
    for (const tick of vertical) {
      root.append(svg("line", {x1: box.left, x2: box.right, y1: y(tick), y2: y(tick), class: "rule"}));
      const step = logarithmic ? tick : vertical[1] - vertical[0] || 1;
      root.append(svg("text", {x: box.left - 7, y: y(tick) + 4, class: "tick", "text-anchor": "end"}, label(tick, step)));
    }
    const across = ticks(least, most, (box.right - box.left) / 60);
    for (const tick of across) {
      root.append(svg("line", {x1: x(tick), x2: x(tick), y1: box.bottom, y2: box.bottom + 4, class: "axis"}));
      const text = label(tick, across[1] - across[0] || 1);
      root.append(svg("text", {x: x(tick), y: box.bottom + 17, class: "tick", "text-anchor": "middle"}, text));
    }
    root.append(svg("line", {x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom, class: "axis"}));
    const middle = (box.left + box.right) / 2;
    root.append(svg("text", {x: middle, y: box.bottom + 33, class: "tick", "text-anchor": "middle"}, PLACES[shown.place]));
  }

  // The names of the curves at their ends, moved apart.
  function endNames({root, box, curves, x, y}) {
    const ends = curves.map((curve) => ({run: curve.run, at: y(curve.points.at(-1)[1]), x: x(curve.points.at(-1)[0])}));
    const spread = [...new Map(ends.map((end) => [runs[end.run].color, end])).values()].sort((a, b) => a.at - b.at);
    spread.forEach((end, i) => { if (i) end.at = Math.max(end.at, spread[i - 1].at + 14); });
    const most = Math.floor((root.viewBox.baseVal.width - box.right - 8) / 7.7);
    const over = Math.max(0, (spread.at(-1)?.at ?? 0) - box.bottom);
    for (const end of spread) {
      const text = svg("text", {x: box.right + 7, y: end.at - over + 4, class: `end ${colorOf(end.run)}`}, cut(runs[end.run].short, most));
      text.append(svg("title", {}, runs[end.run].name));
      root.append(text);
    }
  }

  function summary(chart, curves) {
    const unit = chart.unit ? ` in ${chart.unit}` : "", parts = curves.slice(0, 8).map(({run, points}) => {
      const name = runs.length > 1 ? `${runs[run].name}: ` : "";
      return `${name}${number(points[0][1])} to ${number(points.at(-1)[1])}`;
    });
    return `${chart.title}${unit} over ${PLACES[shown.place]}. ${parts.join("; ")}`;
  }

  // Show the points of all curves next to a place along the axis.
  function pointAt(figure, across) {
    const {box, curves, marks, x, y, chart, root} = figure.place, tip = figure.querySelector(".tip");
    if (!marks) return;
    marks.replaceChildren();
    tip.hidden = across === null;
    if (across === null) return;
    const nearest = curves.map(({run, points}) => {
      const best = points.reduce((a, b) => (Math.abs(x(b[0]) - across) < Math.abs(x(a[0]) - across) ? b : a));
      return {run, best};
    });
    const first = nearest.reduce((a, b) => (Math.abs(x(b.best[0]) - across) < Math.abs(x(a.best[0]) - across) ? b : a));
    const line = x(first.best[0]);
    marks.append(svg("line", {x1: line, x2: line, y1: box.top, y2: box.bottom, class: "cursor"}));
    const near = nearest.filter(({best}) => Math.abs(x(best[0]) - line) < 24).sort((a, b) => b.best[1] - a.best[1]);
    for (const {run, best} of near) {
      marks.append(svg("circle", {cx: x(best[0]), cy: y(best[1]), r: 4, class: `dot ${colorOf(run)}`}));
    }
    const rows = near.slice(0, 12).map(({run, best}) => {
      const name = runs.length > 1 ? [html("span", {class: `swatch ${colorOf(run)}`}), `${runs[run].name} `] : [];
      return html("div", {}, ...name, html("b", {}, `${number(best[1])} ${chart.unit}`));
    });
    tip.replaceChildren(html("div", {class: "faint"}, `${number(first.best[0])} ${PLACES[shown.place]}`), ...rows);
    const ratio = root.clientWidth / root.viewBox.baseVal.width || 1;
    move(tip, figure, line * ratio);
  }

  function move(tip, figure, at) {
    const most = figure.clientWidth - tip.offsetWidth - 4;
    tip.style.left = `${Math.max(0, Math.min(most, at > most - 14 ? at - tip.offsetWidth - 14 : at + 14))}px`;
  }

  function drawDots(figure, chart) {
    const width = Math.max(260, figure.clientWidth), step = 26;
    const longest = Math.max(...chart.rows.map((row) => row.length)), left = Math.min(0.5 * width, 16 + 6.6 * longest);
    const top = chart.levels.length ? 18 + 14 * Math.min(chart.levels.length, 3) : 10;
    const box = {left, right: width - 18, top, bottom: top + step * chart.rows.length};
    const height = box.bottom + 38, ends = chart.seeds.map((seeds) => seeds.filter((value) => value !== null))
      .flatMap((seeds) => (seeds.length ? [...seeds, ...bar(seeds)] : []));
    const [low, high] = range([...ends, ...chart.levels.flatMap((one) => [one.low, one.high])], false);
    const x = (value) => box.left + (value - low) / (high - low) * (box.right - box.left);
    const text = chart.rows.map((row, i) => `${row}: ${spread(chart.seeds[i])}`).join("; ");
    const root = svg("svg", {viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": `${chart.title}. ${text}`});
    for (const tick of ticks(low, high, (box.right - box.left) / 70)) {
      root.append(svg("line", {x1: x(tick), x2: x(tick), y1: box.top, y2: box.bottom, class: "rule"}));
      root.append(svg("text", {x: x(tick), y: box.bottom + 17, class: "tick", "text-anchor": "middle"}, number(tick)));
    }
    const unit = chart.unit || chart.title;
    root.append(svg("text", {x: (box.left + box.right) / 2, y: box.bottom + 33, class: "tick", "text-anchor": "middle"}, unit));
    chart.levels.forEach(({name, low: least, high: most}, i) => {
      const at = x(least), after = at < (box.left + box.right) / 2, y = 6 + 14 * (i % 3);
      if (most > least) root.append(svg("rect", {x: at, y, width: x(most) - at, height: box.bottom - y, class: "band"}));
      for (const edge of new Set([at, x(most)])) {
        root.append(svg("line", {x1: edge, x2: edge, y1: y, y2: box.bottom, class: "level"}));
      }
      const anchor = after ? "start" : "end";
      root.append(svg("text", {x: at + (after ? 4 : -4), y: 14 + 14 * (i % 3), class: "level-name", "text-anchor": anchor}, name));
    });
    chart.rows.forEach((row, i) => {
      const y = box.top + step * (i + 0.5), seeds = chart.seeds[i].filter((value) => value !== null);
      const group = svg("g", {}, svg("title", {}, `${row}: ${spread(seeds)}`));
      group.append(svg("text", {x: box.left - 9, y: y + 4, class: "tick", "text-anchor": "end"}, cut(row, Math.floor((left - 10) / 6.2))));
      for (const value of seeds) group.append(svg("circle", {cx: x(value), cy: y, r: 3.4, class: "seed c0"}));
      if (seeds.length) {
        const [from, to] = bar(seeds), mean = (from + to) / 2;
        group.append(svg("line", {x1: x(from), x2: x(to), y1: y, y2: y, class: "curve c0"}));
        group.append(svg("circle", {cx: x(mean), cy: y, r: 4.6, class: "dot c0"}));
      }
      root.append(group);
    });
    figure.querySelector("svg")?.remove();
    figure.querySelector(".canvas").prepend(root);
  }

  function moments(values) {
    const mean = values.reduce((a, b) => a + b, 0) / values.length;
    const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
    return [mean, values.length > 1 ? Math.sqrt(squares / (values.length - 1)) : 0];
  }

  function bar(values) {
    const [mean, deviation] = moments(values);
    return [mean - deviation, mean + deviation];
  }

  function spread(seeds) {
    if (!seeds.length) return "not finished";
    const [mean, deviation] = moments(seeds);
    return seeds.length > 1 ? `${number(mean)} \u00b1 ${number(deviation)}, ${seeds.length} seeds` : number(mean);
  }

  function build(figure) {
    const chart = charts[Number(figure.dataset.chart)], unit = chart.unit ? `, ${chart.unit}` : "";
    const caption = html("figcaption", {}, html("b", {}, chart.title + unit));
    if (chart.note) caption.append(html("span", {}, chart.note));
    const tip = html("div", {class: "tip", role: "status"});
    tip.hidden = true;
    figure.append(caption, html("div", {class: "canvas"}, tip));
    figure.draw = () => (chart.rows ? drawDots : drawCurves)(figure, chart);
    if (chart.rows) return;
    const canvas = figure.querySelector(".canvas"), leave = () => pointAt(figure, null);
    const follow = (event) => {
      const box = figure.place.root.getBoundingClientRect();
      pointAt(figure, (event.clientX - box.left) * figure.place.root.viewBox.baseVal.width / box.width);
    };
    canvas.addEventListener("pointermove", follow);
    canvas.addEventListener("pointerdown", follow);
    canvas.addEventListener("pointerleave", leave);
    canvas.addEventListener("focusout", leave);
    canvas.addEventListener("keydown", (event) => step(figure, event));
  }

  // Left and right go from point to point of the longest curve.
  function step(figure, event) {
    const {curves, x} = figure.place, direction = {ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity}[event.key];
    if (event.key === "Escape") pointAt(figure, null);
    if (direction === undefined || !curves.length) return;
    event.preventDefault();
    const points = curves.reduce((a, b) => (b.points.length > a.points.length ? b : a)).points;
    figure.place.index = Math.min(points.length - 1, Math.max(0, figure.place.index + direction));
    pointAt(figure, x(points[figure.place.index][0]));
  }

  const drawAll = () => figures.filter((figure) => figure.clientWidth).forEach((figure) => figure.draw());

  function controls(place) {
    const axis = html("select", {"aria-label": "horizontal axis"}, ...PLACES.map((name, i) => new Option(name, i)));
    if (!charts.some((chart) => chart.curves?.some((curve) => curve.places[1].some((epoch) => epoch > 0)))) shown.place = 0;
    axis.value = shown.place;
    axis.addEventListener("change", () => { shown.place = Number(axis.value); drawAll(); });
    const box = html("input", {type: "checkbox"});
    box.addEventListener("change", () => { shown.logarithmic = box.checked; drawAll(); });
    place.append(html("label", {}, "over ", axis), html("label", {}, box, " logarithmic loss and rate"));
    const groups = [...new Map(runs.map((run, i) => [run.color, i])).entries()];
    for (const [color, run] of groups.length > 1 ? groups : []) {
      const button = html("button", {type: "button", class: "legend", "aria-pressed": "true", title: runs[run].name});
      button.append(html("span", {class: `swatch ${colorOf(run)}`}), runs[run].name.length > 44 ? runs[run].short : runs[run].name);
      button.addEventListener("click", () => {
        const hide = !shown.hidden.has(color);
        shown.hidden[hide ? "add" : "delete"](color);
        button.setAttribute("aria-pressed", String(!hide));
        drawAll();
      });
      place.append(button);
    }
  }

  async function copy(button) {
    const code = button.parentElement.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
    } catch {  // A browser may refuse it to a file.
      getSelection().selectAllChildren(code);
      document.execCommand("copy");
    }
    button.textContent = "copied";
    setTimeout(() => { button.textContent = "copy"; }, 1500);
  }

  function pictures(part) {
    const slider = part.querySelector("input"), name = part.querySelector("output"), all = [...part.querySelectorAll("button")];
    const turn = () => {
      all.forEach((button, i) => { button.hidden = i !== Number(slider.value); });
      name.textContent = all[slider.value].firstChild.alt;
      slider.setAttribute("aria-valuetext", name.textContent);
    };
    slider.addEventListener("input", turn);
    turn();
    all.forEach((button) => button.addEventListener("click", () => enlarge(button.firstChild)));
  }

  // A picture in its own size, until it is clicked or Esc is pressed.
  function enlarge(image) {
    const dialog = html("dialog", {"aria-label": image.alt}, image.cloneNode());
    dialog.addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => dialog.remove());
    document.body.append(dialog);
    dialog.showModal();
  }

  // A table that goes on to the right fades there.
  function fade(table) {
    const mark = () => table.classList.toggle("more", table.scrollLeft + table.clientWidth < table.scrollWidth - 2);
    table.addEventListener("scroll", mark, {passive: true});
    new ResizeObserver(mark).observe(table);
  }

  figures.forEach(build);
  const above = document.getElementById("controls");
  if (above) controls(above);
  drawAll();
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth !== width) drawAll();
    width = innerWidth;
  });
  document.querySelectorAll(".pictures").forEach(pictures);
  document.querySelectorAll(".scroll").forEach(fade);
  document.querySelectorAll("button.copy").forEach((button) => button.addEventListener("click", () => copy(button)));
  document.querySelectorAll("details").forEach((part) => part.addEventListener("toggle", drawAll));
  addEventListener("beforeprint", () => {
    document.querySelectorAll("main details:not(.keys)").forEach((part) => { part.open = true; });
    drawAll();
  });
  window.castsslReport = {shown, drawAll};  // For tests.
})();
