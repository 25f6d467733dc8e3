"use strict";
// Decodes masks and draws the detections of a result. It is one script together with page.js, which follows it.

const MIN_SHORT_SIDE = 480; // smaller images are enlarged by a whole factor, so that labels can be read
const MAX_LONG_SIDE = 1600; // of a canvas

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
