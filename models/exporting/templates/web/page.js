// The page: where pictures come from, settings, and what is shown of one network or of two beside each other.

import { Network, hasGpu, openEngine } from "./network.js";
import { annotate, placed, suppress } from "./rules.js";

const REMEMBERED = 15; // frames whose median time is shown
const ROUNDS = 20; // of a measurement

const $ = (id) => document.getElementById(id);
const source = document.createElement("canvas"); // the picture, or the frame of a video, as it is
const sourcePen = source.getContext("2d", { alpha: false, willReadFrequently: true });
const video = $("video");
const views = []; // of one network or two: {network, figure, rows, times}
const unwanted = new Set(); // names of classes that are not shown
let settings, engine, pictures = [], shown = 0, turn = 0, hasFrame = false;

// ---- messages ----

function say(text) {
  $("status").textContent = text;
}

function complain(text) {
  $("problem").textContent = text;
  $("problem").hidden = !text;
}

const reason = (error) => String(error?.message ?? error).split("\n")[0].slice(0, 300);
const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];

// What runs networks does so one after the other: a later call waits for the earlier ones.
let queue = Promise.resolve();
function inTurn(work) {
  const result = queue.then(work);
  queue = result.catch(() => {});
  return result;
}

// ---- networks ----

async function fetchBytes(file) {
  const answer = await fetch(encodeURIComponent(file));
  if (!answer.ok) throw new Error(`${file}: the server answers ${answer.status}`);
  return new Uint8Array(await answer.arrayBuffer());
}

/** Put a network into the first place or the second, and close the one that was there. */
async function place(index, name, bytes) {
  const network = await Network.open(name, bytes, engine);
  await views[index]?.network.close();
  const figure = views[index]?.figure ?? $("view").content.firstElementChild.cloneNode(true);
  views[index] = { network, figure, rows: [], times: [], found: null };
  figure.querySelector(".name").textContent = `${name}, ${(bytes.length / 1e6).toFixed(1)} MB`;
  $("stage").append(figure);
  $("single").hidden = views.length < 2;
  listClasses();
}

/** Open networks, {name, bytes} each, on the graphics card or, where that fails, on the processor. */
async function openAll(gpu, networks) {
  try {
    engine = await openEngine(gpu);
    for (const [index, { name, bytes }] of networks.entries()) await place(index, name, bytes);
  } catch (error) {
    if (!gpu) throw error;
    complain(`The graphics card does not run it (${reason(error)}); the processor does.`);
    $("engine").value = "cpu";
    await openAll(false, networks);
  }
}

function describeEngine() {
  const threads = engine.ort.env.wasm.numThreads, gpu = engine.provider === "webgpu";
  say(gpu ? "Ready, on the graphics card (WebGPU)." : `Ready, on the processor, ${threads} thread${threads > 1 ? "s" : ""}.`);
  $("threads").hidden = gpu || crossOriginIsolated;
}

function listClasses() {
  const names = new Set(views.flatMap(({ network }) => network.names));
  $("classes").replaceChildren($("classes").firstElementChild, ...[...names].map((name) => {
    const label = document.createElement("label"), box = document.createElement("input");
    box.type = "checkbox";
    box.checked = !unwanted.has(name);
    box.addEventListener("change", () => {
      unwanted[box.checked ? "delete" : "add"](name);
      draw();
    });
    label.append(box, name);
    return label;
  }));
}

function chooseClasses(checked) {
  for (const box of $("classes").querySelectorAll("input")) {
    if (box.checked !== checked) box.click();
  }
}

// ---- one frame ----

/** Take over a picture, or what a video shows now. */
function capture(drawable, width, height) {
  source.width = width;
  source.height = height;
  sourcePen.drawImage(drawable, 0, 0);
  hasFrame = true;
  $("measure").disabled = false;
}

async function detect() {
  const image = sourcePen.getImageData(0, 0, source.width, source.height);
  for (const view of views) {
    view.found = await view.network.run(image);
    view.picture = { width: image.width, height: image.height };
    view.times.push(view.found.ran);
    if (view.times.length > Math.max(REMEMBERED, ROUNDS)) view.times.shift();
  }
  draw();
}

/** Show what the networks found, by the present settings. */
function draw() {
  const rules = {
    confidence: Number($("confidence").value), overlap: Number($("overlap").value), most: settings.max_det,
  };
  for (const view of hasFrame ? views.filter(({ found }) => found) : []) {
    const { network, figure, found } = view, start = performance.now();
    const wanted = (kind) => !unwanted.has(network.names[kind]);
    const rows = suppress(found.predictions, found.classes, { ...rules, wanted })
      .map((detection) => placed(detection, view.picture, network));
    const after = performance.now() - start, canvas = figure.querySelector("canvas");
    canvas.width = source.width;
    canvas.height = source.height;
    const pen = canvas.getContext("2d");
    pen.drawImage(source, 0, 0);
    annotate(pen, rows, network.names, settings.colours);
    canvas.setAttribute("aria-label", `The picture with ${rows.length} boxes: ${listed(rows, network.names)}`);
    showTimes(view, rows.length, after);
    showBoxes(figure, rows, network.names);
  }
}

/** "2 cat, 1 dog" */
function listed(rows, names) {
  const counts = new Map();
  for (const { kind } of rows) counts.set(kind, (counts.get(kind) ?? 0) + 1);
  return [...counts].map(([kind, count]) => `${count} ${names[kind]}`).join(", ") || "none";
}

function showTimes(view, count, after) {
  const { found, times, figure } = view, typical = median(times), first = views[0];
  const faster = view !== first && first.times.length ? `, ${(typical / median(first.times)).toFixed(2)} of the first's` : "";
  figure.querySelector(".times").textContent =
    `${typical.toFixed(1)} ms a frame in the network${faster}; ${found.prepared.toFixed(1)} ms before, ` +
    `${after.toFixed(1)} ms after; ${count} ${count === 1 ? "box" : "boxes"}`;
}

function showBoxes(figure, rows, names) {
  figure.querySelector("tbody").replaceChildren(...rows.map(({ box, score, kind }) => {
    const row = document.createElement("tr");
    for (const text of [names[kind], score.toFixed(4), ...box.map((side) => side.toFixed(1))]) {
      row.insertCell().textContent = text;
    }
    return row;
  }));
}

function forgetTimes() {
  for (const view of views) view.times = [];
}

// ---- sources ----

/** Leave what is shown: whatever still runs for it sees that its turn is over. */
function leave() {
  turn += 1;
  complain("");
  for (const track of video.srcObject?.getTracks() ?? []) track.stop();
  if (video.src) URL.revokeObjectURL(video.src);
  video.srcObject = null;
  video.removeAttribute("src");
  video.load();
  video.hidden = $("pages").hidden = true;
  $("camera").textContent = "Camera";
  forgetTimes();
  return turn;
}

async function showPicture(index) {
  const mine = leave(), file = pictures[index];
  shown = index;
  $("stage").ariaBusy = "true";
  $("pages").hidden = pictures.length < 2;
  $("page").textContent = `${index + 1} of ${pictures.length}: ${file.name}`;
  $("back").disabled = index === 0;
  $("next").disabled = index === pictures.length - 1;
  try {
    const options = { imageOrientation: "from-image", colorSpaceConversion: "none" };
    const picture = await createImageBitmap(file, options);
    await inTurn(async () => {
      if (mine !== turn) return;
      capture(picture, picture.width, picture.height);
      picture.close();
      await detect();
    });
  } catch (error) {
    complain(`${file.name} cannot be shown as a picture: ${reason(error)}`);
  }
  if (mine === turn) $("stage").ariaBusy = "false";
}

/** The next frame that a video shows; where browsers do not tell, the next one of the screen. */
function nextFrame() {
  return new Promise((resolve) => {
    if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(resolve);
    else requestAnimationFrame(resolve);
  });
}

async function play(mine) {
  video.hidden = false;
  await video.play();
  while (mine === turn) {
    await nextFrame();
    if (mine !== turn || !video.videoWidth) continue;
    await inTurn(async () => {
      capture(video, video.videoWidth, video.videoHeight);
      await detect();
    });
  }
}

async function showVideo(file) {
  const mine = leave();
  video.src = URL.createObjectURL(file);
  try {
    await play(mine);
  } catch (error) {
    if (mine === turn) complain(`${file.name} cannot be played: ${reason(error)}`);
  }
}

async function toggleCamera() {
  const running = video.srcObject, mine = leave();
  if (running) return;
  try {
    if (!navigator.mediaDevices) throw new Error("browsers lend it to pages of this machine (localhost) or of https only");
    const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    if (mine !== turn) return void stream.getTracks().forEach((track) => track.stop());
    video.srcObject = stream;
    $("camera").textContent = "Stop camera";
    await play(mine);
  } catch (error) {
    if (mine === turn) complain(`No camera: ${reason(error)}`);
  }
}

async function compareWith(file) {
  complain("");
  say(`Opening ${file.name} …`);
  try {
    await inTurn(async () => place(1, file.name, new Uint8Array(await file.arrayBuffer())));
    forgetTimes();
    if (hasFrame && video.hidden) await inTurn(detect);
  } catch (error) {
    complain(`${file.name} cannot be compared: ${reason(error)}`);
  }
  describeEngine();
}

function open(files) {
  const networks = files.filter(({ name }) => name.toLowerCase().endsWith(".onnx"));
  const others = files.filter((file) => !networks.includes(file));
  if (networks.length) compareWith(networks[0]);
  if (!others.length) return;
  if (others[0].type.startsWith("video/")) showVideo(others[0]);
  else showPicture(0, pictures = others);
}

// ---- controls ----

async function measure() {
  $("measure").disabled = true;
  forgetTimes();
  for (let round = 1; round <= ROUNDS; round++) {
    say(`Measuring, ${round} of ${ROUNDS} …`);
    await inTurn(detect);
    await new Promise(requestAnimationFrame);
  }
  $("measure").disabled = false;
  describeEngine();
}

function connect() {
  for (const [id, value] of [["confidence", settings.conf_thres], ["overlap", settings.iou_thres]]) {
    const slider = $(id), show = () => ($(`${id}-value`).textContent = Number(slider.value).toFixed(2));
    slider.value = value;
    slider.addEventListener("input", () => {
      show();
      draw();
    });
    show();
  }
  $("files").addEventListener("change", ({ target }) => open([...target.files]));
  $("other").addEventListener("change", ({ target }) => open([...target.files]));
  $("camera").addEventListener("click", toggleCamera);
  $("measure").addEventListener("click", measure);
  $("back").addEventListener("click", () => showPicture(shown - 1));
  $("next").addEventListener("click", () => showPicture(shown + 1));
  $("every").addEventListener("click", () => chooseClasses(true));
  $("none").addEventListener("click", () => chooseClasses(false));
  $("single").addEventListener("click", () => inTurn(async () => {
    const [second] = views.splice(1);
    second?.figure.remove();
    await second?.network.close();
    $("single").hidden = true;
    listClasses();
  }));
  $("engine").addEventListener("change", async ({ target }) => {
    say("Opening the network …");
    await inTurn(() => openAll(target.value === "gpu", views.map(({ network }) => network)));
    forgetTimes();
    if (hasFrame) await inTurn(detect);
    describeEngine();
  });
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      document.body.classList.toggle("dropping", kind === "dragenter" || kind === "dragover");
      if (kind === "drop") open([...event.dataTransfer.files]);
    });
  }
}

async function start() {
  say("Opening the network …");
  try {
    settings = await (await fetch("page.json")).json();
    const gpu = await hasGpu();
    $("engine").value = gpu ? "gpu" : "cpu";
    $("engine").closest(".field").hidden = !gpu;
    const files = settings.networks.slice(0, 2);
    await openAll(gpu, await Promise.all(files.map(async (name) => ({ name, bytes: await fetchBytes(name) }))));
    $("title").textContent = settings.title;
    document.title = settings.title;
    connect();
    describeEngine();
  } catch (error) {
    say("");
    complain(`The network cannot be opened: ${reason(error)}`);
  }
}

start();
