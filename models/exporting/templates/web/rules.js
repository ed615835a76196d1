// The rules of detect.py: utils/data/letterbox.py, utils/nms.py and utils/detections/annotate.py.
// Sizes are in pixels; a detection is {box: [x1, y1, x2, y2], score, kind}, kind being the class's number.

const BACKGROUND = 114;
const MAX_CANDIDATES = 30000;
const LINE_SHARE = 0.003;
const SMALLEST_TEXT = 11;
const TEXT_SHARE = 0.02;
const ASCENT = 0.78;
const DESCENT = 0.24;

/** As in Python: a half goes to the even number. */
export function round(value) {
  const low = Math.floor(value);
  return value - low === 0.5 ? low + Math.abs(low % 2) : Math.round(value);
}

/** How a picture goes into the network's input: scale, size there, and half of the padding. */
export function fit(picture, input) {
  const scale = Math.min(input.height / picture.height, input.width / picture.width);
  const width = Math.max(round(picture.width * scale), 1);
  const height = Math.max(round(picture.height * scale), 1);
  return { scale, width, height, padX: (input.width - width) / 2, padY: (input.height - height) / 2 };
}

/**
 * Two neighbours of every target pixel along one side, and the weight of the second in 2048ths: OpenCV's
 * INTER_LINEAR, whose whole numbers `letterbox` follows, as half a level of every pixel shows in the scores.
 */
function neighbours(from, to) {
  const first = new Int32Array(to), second = new Int32Array(to), weight = new Int32Array(to);
  for (let place = 0; place < to; place++) {
    const at = Math.min(Math.max((place + 0.5) * (from / to) - 0.5, 0), from - 1);
    first[place] = Math.floor(at);
    second[place] = Math.min(first[place] + 1, from - 1);
    weight[place] = round((at - first[place]) * 2048);
  }
  return { first, second, weight };
}

/** RGBA values with the brightness in place of red, as OpenCV weighs it. */
function grey(data) {
  const levels = new Uint8ClampedArray(data.length);
  for (let at = 0; at < data.length; at += 4) {
    levels[at] = (data[at] * 9798 + data[at + 1] * 19235 + data[at + 2] * 3735 + 16384) >> 15;
  }
  return levels;
}

/**
 * ImageData to the network's (1, C, H, W) float32 0–1, red first: bilinear, centred, the rest grey.
 * One channel is brightness.
 */
export function letterbox(image, input) {
  const { width, height, channels } = input, plan = fit(image, input), area = width * height;
  const start = round(plan.padY - 0.1) * width + round(plan.padX - 0.1);
  const planes = new Float32Array(channels * area).fill(BACKGROUND / 255);
  const across = neighbours(image.width, plan.width), down = neighbours(image.height, plan.height);
  const data = channels === 1 ? grey(image.data) : image.data;
  for (let y = 0; y < plan.height; y++) {
    const above = down.first[y] * image.width, below = down.second[y] * image.width, low = down.weight[y];
    for (let x = 0; x < plan.width; x++) {
      const near = across.first[x], far = across.second[x], right = across.weight[x], left = 2048 - right;
      const a = 4 * (above + near), b = 4 * (above + far), c = 4 * (below + near), d = 4 * (below + far);
      const place = start + y * width + x;
      for (let channel = 0; channel < channels; channel++) {
        const upper = (data[a + channel] * left + data[b + channel] * right) >> 4;
        const lower = (data[c + channel] * left + data[d + channel] * right) >> 4;
        const level = (((upper * (2048 - low)) >> 16) + ((lower * low) >> 16) + 2) >> 2;
        planes[channel * area + place] = level / 255;
      }
    }
  }
  return planes;
}

/**
 * Detections of one picture in pixels of the network's input, most confident first.
 * predictions: N rows of cx, cy, w, h, objectness and a score for each class; wanted: whether a class is kept.
 */
export function suppress(predictions, classes, { confidence, overlap, most, wanted }) {
  const row = 5 + classes, candidates = [];
  for (let at = 0; at < predictions.length; at += row) {
    if (!(predictions[at + 4] > confidence)) continue;
    let kind = 0;
    for (let other = 1; other < classes; other++) {
      if (predictions[at + 5 + other] > predictions[at + 5 + kind]) kind = other;
    }
    const score = predictions[at + 4] * predictions[at + 5 + kind];
    if (!(score > confidence) || !wanted(kind)) continue;
    const [x, y, width, height] = predictions.subarray(at, at + 4);
    candidates.push({ box: [x - width / 2, y - height / 2, x + width / 2, y + height / 2], score, kind });
  }
  candidates.sort((one, other) => other.score - one.score);
  const kept = [];
  for (const candidate of candidates.slice(0, MAX_CANDIDATES)) {
    if (kept.length === most) break;
    const hidden = kept.some((other) => other.kind === candidate.kind && iou(other.box, candidate.box) > overlap);
    if (!hidden) kept.push(candidate);
  }
  return kept;
}

function iou(one, other) {
  const width = Math.min(one[2], other[2]) - Math.max(one[0], other[0]);
  const height = Math.min(one[3], other[3]) - Math.max(one[1], other[1]);
  const shared = Math.max(width, 0) * Math.max(height, 0);
  const area = (box) => (box[2] - box[0]) * (box[3] - box[1]);
  return shared / (area(one) + area(other) - shared);
}

/** A detection on the picture itself, clipped to it. */
export function placed(detection, picture, input) {
  const { scale, padX, padY } = fit(picture, input);
  const box = detection.box.map((value, index) => {
    const [pad, most] = index % 2 ? [padY, picture.height] : [padX, picture.width];
    return Math.min(Math.max((value - pad) / scale, 0), most);
  });
  return { ...detection, box };
}

/** Draw detections in pixels of the canvas, most confident first. colours: "#rrggbb", repeating over the classes. */
export function annotate(pen, detections, names, colours) {
  const { width, height } = pen.canvas, side = (width + height) / 2;
  const line = Math.max(round(side * LINE_SHARE), 1), text = Math.max(round(side * TEXT_SHARE), SMALLEST_TEXT);
  const drawn = detections.map(({ box, score, kind }) => ({
    box: box.map(round), colour: colours[kind % colours.length], label: `${names[kind]} ${score.toFixed(2)}`,
  }));
  for (const { box, colour } of [...drawn].reverse()) outline(pen, box, colour, line);
  const taken = [];
  pen.font = `500 ${text}px system-ui, sans-serif`;
  pen.textBaseline = "alphabetic";
  for (const { box, colour, label } of drawn) {
    const margin = Math.max(round(text * 0.2), 2), ascent = round(text * ASCENT);
    const size = [
      Math.ceil(pen.measureText(label).width) + 2 * margin, ascent + round(text * DESCENT) + 2 * margin,
    ];
    const area = labelPlace(pen.canvas, box, size, (line + 1) >> 1, taken);
    pen.fillStyle = colour;
    pen.fillRect(area[0], area[1], ...size);
    pen.fillStyle = inkOn(colour);
    pen.fillText(label, area[0] + margin, area[1] + margin + ascent);
    taken.push(area);
  }
}

/** A frame of exactly `line` pixels; the box's own pixels belong to it. */
function outline(pen, [x1, y1, x2, y2], colour, line) {
  const inward = line >> 1, outward = (line - 1) >> 1;
  const left = x1 - outward, top = y1 - outward, right = x2 + outward, bottom = y2 + outward;
  pen.fillStyle = colour;
  for (const [a, b, c, d] of [
    [left, top, right, y1 + inward],
    [left, y2 - inward, right, bottom],
    [left, top, x1 + inward, bottom],
    [x2 - inward, top, right, bottom],
  ]) pen.fillRect(Math.min(a, c), Math.min(b, d), Math.abs(c - a) + 1, Math.abs(d - b) + 1);
}

/** The best free place: above the box, inside at its top, below it, inside at its bottom. */
function labelPlace(frame, box, [width, height], overhang, taken) {
  const left = Math.max(Math.min(box[0] - overhang, frame.width - width), 0);
  const choices = [box[1] - height, box[1], box[3], box[3] - height]
    .filter((top) => top >= 0 && top <= frame.height - height)
    .map((top) => [left, top, left + width, top + height]);
  const top = choices.length ? choices[0][1] : Math.max(Math.min(box[1], frame.height - height), 0);
  const meets = (one, other) =>
    one[0] < other[2] && other[0] < one[2] && one[1] < other[3] && other[1] < one[3];
  const free = choices.find((choice) => !taken.some((other) => meets(choice, other)));
  return free ?? [left, top, left + width, top + height];
}

/** Black or white, whichever reads better. */
function inkOn(colour) {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  return 0.299 * red + 0.587 * green + 0.114 * blue > 150 ? "#000" : "#fff";
}
