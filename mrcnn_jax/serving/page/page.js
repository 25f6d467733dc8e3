"use strict";
// Sends each image to /predict once and draws the detections here: score and categories are chosen without the server.

const MIN_SHORT_SIDE = 480; // smaller images are enlarged by a whole factor, so that labels can be read
const MAX_LONG_SIDE = 1600; // of a canvas
const MAX_TRIES = 20; // while the server is busy

const element = (id) => document.getElementById(id);
const results = new Set(); // {name, answer, base, scale, layers, card}
const hiddenCategories = new Set(); // names
const queue = []; // files to send
let model = null;
let running = 0;

// ---- geometry and run-length codes (functions without side effects) ----

/** Returns the runs of a compressed COCO run-length code: background, object, background, ... down the columns. */
function decodeRuns(counts) {
  const runs = [];
  for (let at = 0; at < counts.length; ) {
    let value = 0, shift = 0, digit;
    do {
      digit = counts.charCodeAt(at++) - 48;
      value |= (digit & 31) << shift;
      shift += 5;
    } while (digit & 32);
    if (digit & 16 && shift < 32) value |= -1 << shift;
    if (runs.length > 2) value += runs[runs.length - 2];
    runs.push(value);
  }
  return runs;
}

/** Returns the factor from pixels of the image to pixels of its canvas. */
function canvasScale(width, height) {
  const long = Math.max(width, height), short = Math.min(width, height);
  if (long > MAX_LONG_SIDE) return MAX_LONG_SIDE / long;
  return Math.max(1, Math.min(Math.ceil(MIN_SHORT_SIDE / short), Math.floor(MAX_LONG_SIDE / long)));
}

/** Returns the first canvas pixel whose centre lies at or behind an image coordinate. */
const toCanvas = (coordinate, scale) => Math.ceil(coordinate * scale - 0.5);

/** Returns the mask in canvas pixels within its bounding box: {x, y, width, height, bits}, or null if it is empty. */
function rasterize(mask, scale) {
  const height = mask.size[0];
  const segments = []; // x, y0, y1 in pixels of the image
  let start = 0;
  decodeRuns(mask.counts).forEach((length, index) => {
    for (let from = start, end = start + length; index % 2 && from < end; ) {
      const x = Math.floor(from / height), stop = Math.min(end, (x + 1) * height);
      segments.push([x, from - x * height, stop - x * height]);
      from = stop;
    }
    start += length;
  });
  const scaled = segments.map(([x, y0, y1]) => [x, x + 1, y0, y1].map((value) => toCanvas(value, scale)));
  const filled = scaled.filter(([x0, x1, y0, y1]) => x1 > x0 && y1 > y0);
  if (!filled.length) return null;
  const box = filled.reduce(
    (b, [x0, x1, y0, y1]) => [Math.min(b[0], x0), Math.max(b[1], x1), Math.min(b[2], y0), Math.max(b[3], y1)],
    [Infinity, -Infinity, Infinity, -Infinity],
  );
  const [left, right, top, bottom] = box;
  const width = right - left, bits = new Uint8Array(width * (bottom - top));
  for (const [x0, x1, y0, y1] of filled)
    for (let y = y0; y < y1; y++) bits.fill(1, (y - top) * width + x0 - left, (y - top) * width + x1 - left);
  return { x: left, y: top, width, height: bottom - top, bits };
}

/** Returns a bright colour as [r, g, b]; neighbouring ranks differ, and a rank always has the same colour. */
function instanceColor(rank) {
  const hue = ((0.08 + rank * 0.618033988749895) % 1) * 6;
  const [saturation, value] = [[0.85, 1], [0.55, 1], [0.9, 0.8]][rank % 3];
  const channel = (n) => {
    const k = (n + hue) % 6;
    return Math.round(255 * value * (1 - saturation * Math.max(0, Math.min(k, 4 - k, 1))));
  };
  return [channel(5), channel(3), channel(1)];
}

const isShown = (detection) =>
  detection.score >= Number(element("score").value) && !hiddenCategories.has(detection.category);

// ---- drawing ----

/** Returns a canvas with the mask: its area half transparent, its contour opaque. */
function paintMask(raster, color, lineWidth) {
  const { width, height, bits } = raster;
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d"), data = context.createImageData(width, height);
  const isSet = (x, y) => x >= 0 && y >= 0 && x < width && y < height && bits[y * width + x];
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      if (!bits[y * width + x]) continue;
      let inside = true;
      for (let d = 1; d <= lineWidth && inside; d++)
        inside = isSet(x - d, y) && isSet(x + d, y) && isSet(x, y - d) && isSet(x, y + d);
      data.data.set([...color, inside ? 102 : 255], 4 * (y * width + x));
    }
  context.putImageData(data, 0, 0);
  return canvas;
}

/** Returns a canvas with m x m pixels, whose opacity is the probability that a pixel belongs to the object. */
function paintProbabilities({ side, values }, color) {
  const canvas = Object.assign(document.createElement("canvas"), { width: side, height: side });
  const context = canvas.getContext("2d"), data = context.createImageData(side, side);
  [...atob(values)].forEach((byte, index) => data.data.set([...color, byte.charCodeAt(0)], 4 * index));
  context.putImageData(data, 0, 0);
  return canvas;
}

/** Draws the proposals whose objectness is at least the lowest score, thinly: there are many. */
function drawProposals(context, proposals, scale) {
  const shown = proposals.filter(({ objectness }) => objectness >= Number(element("score").value));
  for (const [strokeStyle, lineWidth] of [["rgb(0 0 0 / 60%)", 2], ["white", 1]]) {
    Object.assign(context, { strokeStyle, lineWidth });
    for (const { box } of shown) {
      const [x0, y0, x1, y1] = box.map((side) => side * scale);
      context.strokeRect(x0, y0, x1 - x0, y1 - y0);
    }
  }
}

function drawKeypoints(context, detection, scale, lineWidth) {
  const points = detection.keypoints || [];
  const visible = (index) => points[index] && points[index][2] >= model.keypoint_score;
  const category = model.categories.find(({ id }) => id === detection.category_id);
  context.lineWidth = lineWidth;
  for (const [from, to] of category ? category.skeleton : []) {
    if (!visible(from - 1) || !visible(to - 1)) continue; // COCO counts keypoints from 1
    context.beginPath();
    context.moveTo(points[from - 1][0] * scale, points[from - 1][1] * scale);
    context.lineTo(points[to - 1][0] * scale, points[to - 1][1] * scale);
    context.stroke();
  }
  context.fillStyle = "white"; // the skeleton has the colour of the mask, on which coloured points would not be seen
  points.forEach(([x, y], index) => {
    if (!visible(index)) return;
    context.beginPath();
    context.arc(x * scale, y * scale, 2 * lineWidth, 0, 2 * Math.PI);
    context.fill();
    context.stroke();
  });
}

function drawLabel(context, detection, [r, g, b], scale, size) {
  const box = detection.box.map((side) => side * scale);
  const text = `${detection.category} ${detection.score.toFixed(2)}`;
  context.font = `600 ${size}px system-ui, sans-serif`;
  const width = context.measureText(text).width + size / 2, height = 1.3 * size;
  const x = Math.max(0, Math.min(box[0], context.canvas.width - width));
  const y = box[1] >= height ? box[1] - height : Math.min(box[1], context.canvas.height - height);
  context.fillStyle = `rgb(${r} ${g} ${b})`;
  context.fillRect(x, y, width, height);
  context.fillStyle = 0.299 * r + 0.587 * g + 0.114 * b > 140 ? "black" : "white";
  context.fillText(text, x + size / 4, y + size);
}

/** Draws the shown detections of a result, the best last, and updates its texts. */
function draw(result) {
  if (!result.answer) return;
  const { card, scale, answer } = result, canvas = card.querySelector("canvas"), context = canvas.getContext("2d");
  const lineWidth = Math.max(2, Math.round(Math.min(canvas.width, canvas.height) / 300));
  const size = Math.max(14, Math.round(Math.min(canvas.width, canvas.height) / 34));
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.drawImage(result.base, 0, 0, canvas.width, canvas.height);
  if (element("draw-proposals").checked) drawProposals(context, answer.proposals || [], scale);
  const indices = [...answer.detections.keys()].filter((index) => isShown(answer.detections[index]));
  for (const index of [...indices].reverse()) {
    const detection = answer.detections[index], color = instanceColor(index);
    if (element("draw-masks").checked && detection.mask) {
      if (!(index in result.layers)) {
        const raster = rasterize(detection.mask, scale);
        result.layers[index] = raster && { ...raster, bits: null, canvas: paintMask(raster, color, lineWidth) };
      }
      const layer = result.layers[index];
      if (layer) context.drawImage(layer.canvas, layer.x, layer.y);
    }
    context.strokeStyle = `rgb(${color.join(" ")})`;
    const [x0, y0, x1, y1] = detection.box.map((side) => side * scale);
    if (element("draw-probabilities").checked && detection.mask_probabilities)
      context.drawImage(paintProbabilities(detection.mask_probabilities, color), x0, y0, x1 - x0, y1 - y0);
    context.lineWidth = lineWidth;
    if (element("draw-boxes").checked) context.strokeRect(x0, y0, x1 - x0, y1 - y0);
    if (element("draw-keypoints").checked) drawKeypoints(context, detection, scale, lineWidth);
  }
  if (element("draw-labels").checked)
    for (const index of [...indices].reverse()) // above all boxes
      drawLabel(context, answer.detections[index], instanceColor(index), scale, size);
  const shown = indices.map((index) => answer.detections[index]);
  const counted = `${shown.length} of ${answer.detections.length} detections shown`;
  canvas.setAttribute("aria-label", `${result.name}: ${counted}`);
  setStatus(result, [`${answer.image.width} x ${answer.image.height} pixels, ${counted}.`, ...result.notes].join(" "));
  card.querySelector("tbody").replaceChildren(...shown.map(tableRow));
}

function tableRow(detection) {
  const row = document.createElement("tr");
  for (const text of [detection.category, detection.score.toFixed(3), detection.box.map((v) => v.toFixed(1)).join(", ")])
    row.insertCell().textContent = text;
  return row;
}

function drawAll() {
  element("score-value").textContent = Number(element("score").value).toFixed(2);
  results.forEach(draw);
}

// ---- results and categories ----

function setStatus(result, text, isError = false) {
  const status = result.card.querySelector(".status");
  if (status.textContent !== text) status.textContent = text;
  status.classList.toggle("error", isError);
}

function addResult(file) {
  const card = element("result").content.firstElementChild.cloneNode(true);
  const result = { name: file.name, file, answer: null, base: null, scale: 1, layers: {}, notes: [], card };
  card.querySelector("h2").textContent = card.querySelector("h2").title = file.name;
  card.querySelector(".remove").setAttribute("aria-label", `Remove ${file.name}`);
  card.querySelector(".remove").addEventListener("click", () => {
    results.delete(result);
    card.remove();
    listCategories();
    element("files").focus();
  });
  card.querySelector(".save-json").addEventListener("click", () => saveJson(result));
  card.querySelector(".save-png").addEventListener("click", () => savePng(result));
  results.add(result);
  element("results").append(card);
  return result;
}

/** Lists the categories of all detections, whatever their score, with a check box each. */
function listCategories() {
  const answers = [...results].filter(({ answer }) => answer);
  const names = [...new Set(answers.flatMap(({ answer }) => answer.detections.map(({ category }) => category)))].sort();
  element("controls").hidden = !answers.length;
  const parts = { "draw-masks": "mask", "draw-keypoints": "keypoints", "draw-probabilities": "mask_probabilities" };
  for (const [id, part] of Object.entries(parts))
    element(id).parentElement.hidden = !answers.some(({ answer }) => answer.detections.some((found) => part in found));
  element("draw-proposals").parentElement.hidden = !answers.some(({ answer }) => answer.proposals);
  element("category-list").replaceChildren(
    ...names.map((name) => {
      const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: !hiddenCategories.has(name) });
      box.addEventListener("change", () => {
        hiddenCategories[box.checked ? "delete" : "add"](name);
        drawAll();
      });
      const label = document.createElement("label");
      label.append(box, ` ${name}`);
      return label;
    }),
  );
}

function setCategories(shown) {
  for (const box of element("category-list").querySelectorAll("input"))
    if (box.checked !== shown) box.click();
}

function save(blob, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

const stem = (name) => name.replace(/\.[^.]*$/, "") || "image";

/** Saves the shown detections. */
function saveJson({ name, answer }) {
  const shown = { file_name: name, ...answer, detections: answer.detections.filter(isShown) };
  save(new Blob([JSON.stringify(shown, null, 1)], { type: "application/json" }), `${stem(name)}.json`);
}

function savePng({ name, card }) {
  card.querySelector("canvas").toBlob((blob) => save(blob, `${stem(name)}_detections.png`), "image/png");
}

// ---- requests ----

const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

/** Returns the server's answer for a file; throws an Error with one line for the user. */
async function askServer(result) {
  for (let tries = 1; ; tries++) {
    let response;
    try {
      response = await fetch("/predict", { method: "POST", body: result.file });
    } catch {
      throw new Error("The server cannot be reached. Is it still running?");
    }
    const content = await response.json().catch(() => ({ error: `The server answered with status ${response.status}.` }));
    if (response.ok) return content;
    if (response.status !== 503 || tries === MAX_TRIES) throw new Error(content.error);
    const seconds = Number(response.headers.get("Retry-After")) || 1;
    setStatus(result, `${content.error} Trying again in ${seconds} s.`);
    await pause(seconds);
  }
}

/** Returns the image as the browser shows it, on a canvas; plain grey if the browser cannot decode it. */
async function decodeBase(result) {
  const { width, height } = result.answer.image;
  const size = { width: Math.max(1, Math.round(width * result.scale)), height: Math.max(1, Math.round(height * result.scale)) };
  const canvas = Object.assign(document.createElement("canvas"), size), context = canvas.getContext("2d");
  try {
    const bitmap = await createImageBitmap(result.file);
    context.drawImage(bitmap, 0, 0, size.width, size.height);
    bitmap.close();
  } catch {
    context.fillStyle = "#777";
    context.fillRect(0, 0, size.width, size.height);
    result.notes.push("This browser cannot show the format, so the detections are drawn on grey.");
  }
  return canvas;
}

async function process(result) {
  if (result.file.size > model.max_megabytes * 1e6) throw new Error(`The file is larger than ${model.max_megabytes} MB.`);
  setStatus(result, "Detecting objects ...");
  const answer = await askServer(result);
  result.answer = answer;
  result.notes = answer.notes.map((note) => `Note: ${note}.`);
  result.scale = canvasScale(answer.image.width, answer.image.height);
  result.base = await decodeBase(result);
  const canvas = result.card.querySelector("canvas");
  Object.assign(canvas, { width: result.base.width, height: result.base.height });
  for (const part of result.card.querySelectorAll("canvas, .buttons, details")) part.hidden = false;
  listCategories();
  draw(result);
}

async function work() {
  running++;
  for (let result; (result = queue.shift()); ) {
    if (!results.has(result)) continue;
    try {
      await process(result);
    } catch (error) {
      result.answer = null;
      setStatus(result, error.message, true);
    }
    result.file = null;
  }
  running--;
}

function showMessage(text, isError = false) {
  element("message").textContent = text;
  element("message").hidden = !text;
  element("message").classList.toggle("error", isError);
}

function addFiles(files) {
  showMessage(files.length || !model ? "" : "No file was dropped.");
  if (!model) return showMessage("The server cannot be reached. Load the page again.", true);
  for (const file of files) {
    const result = addResult(file);
    setStatus(result, "Waiting ...");
    queue.push(result);
  }
  while (queue.length && running < Math.min(4, Math.max(2, model.batch_size))) work();
}

// ---- start ----

function listen() {
  for (const id of ["score", "draw-masks", "draw-boxes", "draw-keypoints", "draw-labels", "draw-probabilities", "draw-proposals"])
    element(id).addEventListener("input", drawAll);
  element("all").addEventListener("click", () => setCategories(true));
  element("none").addEventListener("click", () => setCategories(false));
  element("files").addEventListener("change", (event) => {
    addFiles([...event.target.files]);
    event.target.value = ""; // the same file may be chosen again
  });
  for (const type of ["dragover", "dragleave", "drop"])
    document.addEventListener(type, (event) => {
      event.preventDefault(); // a browser would open a dropped file instead of the page
      element("drop").classList.toggle("over", type === "dragover");
      if (type === "drop") addFiles([...event.dataTransfer.files]);
    });
}

async function start() {
  listen();
  try {
    model = await (await fetch("/model")).json();
  } catch {
    return showMessage("The server cannot be reached. Load the page again.", true);
  }
  const score = element("score");
  score.min = model.score_threshold;
  if (Number(score.value) < model.score_threshold) score.value = model.score_threshold;
  element("limits").textContent =
    `At most ${model.max_megabytes} MB and ${model.max_megapixels} megapixels each. The server does not keep images.`;
  drawAll();
}

start();
