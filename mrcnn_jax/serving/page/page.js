// Sends each image to /predict once, draws the detections with drawing.js, and saves them: score and categories are
// chosen without the server.

const MAX_TRIES = 20; // while the server is busy

const element = (id) => document.getElementById(id);
const results = new Set(); // {name, answer, base, scale, layers, card}
const hiddenCategories = new Set(); // names
const queue = []; // files to send
let model = null;
let running = 0;

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
