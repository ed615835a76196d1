// One network: what its ONNX file says of itself, and running it with ONNX Runtime Web.

import { letterbox } from "./rules.js";

const LARGEST_SIDE = 16384;
const MOST_THREADS = 4; // more gain little on networks of this size

/** ONNX Runtime on the graphics card or on the processor: {ort, provider}. */
export async function openEngine(gpu) {
  const ort = await import(gpu ? "./ort.webgpu.min.mjs" : "./ort.wasm.min.mjs");
  ort.env.logLevel = "error";
  ort.env.wasm.numThreads = crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, MOST_THREADS) : 1;
  ort.env.wasm.proxy = !gpu; // in a worker, so that the page can be used meanwhile
  return { ort, provider: gpu ? "webgpu" : "wasm" };
}

/** Whether the browser has WebGPU and lends a graphics card. */
export async function hasGpu() {
  try {
    return Boolean(await navigator.gpu?.requestAdapter());
  } catch {
    return false;
  }
}

/** The fields of a protobuf message that have a length: [number, bytes] each. */
function* fields(bytes) {
  let at = 0;
  const number = () => {
    let value = 0;
    for (let scale = 1; at < bytes.length; scale *= 128) {
      const byte = bytes[at++];
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
    throw new Error("it is no ONNX file");
  };
  while (at < bytes.length) {
    const key = number(), field = Math.floor(key / 8), wire = key % 8;
    const size = { 0: 0, 1: 8, 2: 0, 5: 4 }[wire];
    if (size === undefined) throw new Error("it is no ONNX file");
    const length = wire === 0 || wire === 2 ? number() : size; // of 0 it is the value itself
    if (wire === 0) continue;
    if (length > bytes.length - at) throw new Error("it is cut off");
    if (wire === 2) yield [field, bytes.subarray(at, at + length)];
    at += length;
  }
}

/** The metadata that export.py wrote, a Map of texts: field 14 of an ONNX model has pairs of key 1 and value 2. */
function metadataOf(bytes) {
  const found = new Map(), text = (value) => new TextDecoder().decode(value);
  for (const [field, pair] of fields(bytes)) {
    if (field !== 14) continue;
    const parts = new Map(fields(pair));
    found.set(text(parts.get(1)), text(parts.get(2)));
  }
  return found;
}

/** A value of the metadata, which are JSON, or undefined. */
function parsed(metadata, key) {
  try {
    return JSON.parse(metadata.get(key));
  } catch {
    return undefined;
  }
}

export class Network {
  /**
   * Opens an ONNX file and runs it once, as the first run prepares the others.
   * bytes: Uint8Array. Throws an Error that says what is wrong with the file.
   */
  static async open(name, bytes, engine) {
    const network = new Network(), metadata = metadataOf(bytes);
    const options = { executionProviders: [engine.provider] };
    const session = await engine.ort.InferenceSession.create(bytes.slice(), options); // it takes them away
    try {
      Object.assign(network, { name, bytes, session, ort: engine.ort });
      network.readInput(metadata);
      const { width, height } = network;
      const first = await network.run(new ImageData(Math.min(width, 64), Math.min(height, 64)));
      network.classes = first.classes;
      const names = parsed(metadata, "names") ?? {};
      network.names = Array.from({ length: first.classes }, (_, kind) => String(names[kind] ?? `class${kind}`));
    } catch (error) {
      await session.release();
      throw error;
    }
    return network;
  }

  /** The size of its pictures: from the metadata, else from the graph. */
  readInput(metadata) {
    const input = this.session.inputMetadata[0], shape = input.shape ?? [];
    if (this.session.inputNames.length !== 1 || shape.length !== 4) throw new Error("it takes no pictures");
    if (input.type !== "float32") throw new Error("it takes half-precision pictures; export it without --half");
    const [height, width] = parsed(metadata, "imgsz") ?? shape.slice(2);
    const sides = [height, width];
    if (!sides.every((side) => Number.isInteger(side) && side > 0 && side <= LARGEST_SIDE)) {
      throw new Error("it does not say which size of pictures it takes");
    }
    const channels = typeof shape[1] === "number" ? shape[1] : parsed(metadata, "channels");
    if (channels !== 1 && channels !== 3) throw new Error(`it takes pictures of ${channels} channels, not 1 or 3`);
    if (typeof shape[0] === "number" && shape[0] !== 1) throw new Error("it takes several pictures at a time");
    Object.assign(this, { height, width, channels });
  }

  /** Run on ImageData: {predictions, classes, prepared, ran}, the last two in milliseconds. */
  async run(image) {
    const start = performance.now();
    const { height, width, channels } = this;
    const input = new this.ort.Tensor("float32", letterbox(image, this), [1, channels, height, width]);
    const before = performance.now();
    const outputs = await this.session.run({ [this.session.inputNames[0]]: input });
    const after = performance.now(), output = outputs[this.session.outputNames[0]];
    if (this.session.outputNames.length !== 1 || output.dims.length !== 3 || output.dims[2] < 6) {
      throw new Error("it gives no boxes; export it without --raw and --nms");
    }
    const predictions = output.data, classes = output.dims[2] - 5;
    return { predictions, classes, prepared: before - start, ran: after - before };
  }

  async close() {
    await this.session.release();
  }
}
