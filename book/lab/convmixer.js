// ConvMixer, Eq. (1) to (3), for one image, and model encryption, Eq. (8) and (9); tested against mixerkey.ConvMixer.
import { readSafetensors } from "./safetensors.js";
import { ERFC, kernels } from "./simd.js";

/** The network in a file that mixerkey.convmixer.save_model wrote. */
export function readNetwork(buffer) {
  const { metadata, tensors } = readSafetensors(buffer);
  const sizes = JSON.parse(metadata.convmixer);
  const data = (name) => tensors[name].data;
  const linear = (name) => ({ weight: data(`${name}.weight`), bias: data(`${name}.bias`) });
  /** Batch normalisation in use: y ↦ scale · y + shift, by channel. */
  const norm = (name) => {
    const variance = data(`${name}.running_var`), mean = data(`${name}.running_mean`), bias = data(`${name}.bias`);
    const scale = data(`${name}.weight`).map((w, i) => w / Math.sqrt(variance[i] + 1e-5));
    return { scale, shift: bias.map((b, i) => b - mean[i] * scale[i]) };
  };
  const layers = Array.from({ length: sizes.depth }, (_, i) => i + 3).map((l) => ({
    depthwise: linear(`${l}.0.fn.0`), norm1: norm(`${l}.0.fn.2`), pointwise: linear(`${l}.1`), norm2: norm(`${l}.3`),
  }));
  return { sizes, embedding: linear("0"), norm: norm("2"), layers, classifier: linear(String(sizes.depth + 5)) };
}

/** A copy that expects images encrypted with the key: row k of E' is ± row v[k] of E. */
export function encryptNetwork(network, { v, r }) {
  const { weight, bias } = network.embedding, size = v.length, encrypted = new Float32Array(weight.length);
  for (let row = 0; row < weight.length; row += size) { // one output channel after the other: the weight is E transposed
    for (let k = 0; k < size; k++) encrypted[row + k] = r[k] ? -weight[row + v[k]] : weight[row + v[k]];
  }
  return { ...network, embedding: { weight: encrypted, bias } };
}

/**
 * The logits of an image, bytes in the order (channel, row, column). On the way `watch` is shown, by name, the patches as
 * columns, the embedding, the first layer's maps, those of the last, and their means.
 */
export function classify(network, pixels, [C, H, W], normalised = true, watch = () => {}) {
  const { dim, patch_size: P, kernel_size: kernel, num_classes: classes } = network.sizes;
  const h = H / P, w = W / P, size = C * P * P, N = h * w;
  const { activate, convolve, multiply } = fastest(network.sizes, h, w);
  const columns = patches(pixels, [C, H, W], P, normalised);
  watch("patches", columns);
  let z = multiply(network.embedding, columns, size, N);
  watch("embedding", z);
  activate(z, network.norm);
  watch("activated", z);
  for (const [layer, { depthwise, norm1, pointwise, norm2 }] of network.layers.entries()) {
    const mixed = convolve(depthwise, z, h, w, kernel);
    if (!layer) watch("depthwise", mixed);
    activate(mixed, norm1);
    for (let i = 0; i < mixed.length; i++) mixed[i] += z[i];
    z = multiply(pointwise, mixed, dim, N);
    if (!layer) watch("pointwise", z);
    activate(z, norm2);
  }
  watch("last", z);
  const { weight, bias } = network.classifier;
  const pooled = Array.from({ length: dim }, (_, c) => z.subarray(c * N, (c + 1) * N).reduce((a, b) => a + b) / N);
  watch("pooled", pooled);
  return Array.from({ length: classes }, (_, i) => pooled.reduce((sum, x, c) => sum + x * weight[i * dim + c], bias[i]));
}

/** Softmax. */
export function probabilities(logits) {
  const top = Math.max(...logits), powers = logits.map((x) => Math.exp(x - top)), sum = powers.reduce((a, b) => a + b);
  return powers.map((x) => x / sum);
}

/** Normalised patches as columns (p_b, N): Eq. (7) takes 0..255 to -1..1, without it pixels are 0..1. */
function patches(pixels, [C, H, W], P, normalised) {
  const N = (H / P) * (W / P), columns = new Float32Array(C * P * P * N);
  for (let c = 0, i = 0; c < C; c++) for (let y = 0; y < H; y++) for (let x = 0; x < W; x++, i++) {
    const k = (c * P + (y % P)) * P + (x % P), n = Math.floor(y / P) * (W / P) + Math.floor(x / P);
    columns[k * N + n] = normalised ? (2 * pixels[i] - 255) / 255 : pixels[i] / 255;
  }
  return columns;
}

/** weight (rows, inner) times X (inner, N), plus bias; rows and N multiples of 4, four by four for speed. */
function multiply({ weight, bias }, X, inner, N) {
  const rows = bias.length, result = new Float32Array(rows * N);
  for (let o = 0; o < rows; o += 4) {
    const w0 = o * inner, w1 = w0 + inner, w2 = w1 + inner, w3 = w2 + inner;
    for (let n = 0; n < N; n += 4) {
      let a0 = bias[o], a1 = a0, a2 = a0, a3 = a0, b0 = bias[o + 1], b1 = b0, b2 = b0, b3 = b0;
      let c0 = bias[o + 2], c1 = c0, c2 = c0, c3 = c0, d0 = bias[o + 3], d1 = d0, d2 = d0, d3 = d0;
      for (let i = 0, j = n; i < inner; i++, j += N) {
        const x0 = X[j], x1 = X[j + 1], x2 = X[j + 2], x3 = X[j + 3];
        const a = weight[w0 + i], b = weight[w1 + i], c = weight[w2 + i], d = weight[w3 + i];
        a0 += a * x0; a1 += a * x1; a2 += a * x2; a3 += a * x3;
        b0 += b * x0; b1 += b * x1; b2 += b * x2; b3 += b * x3;
        c0 += c * x0; c1 += c * x1; c2 += c * x2; c3 += c * x3;
        d0 += d * x0; d1 += d * x1; d2 += d * x2; d3 += d * x3;
      }
      result.set([a0, a1, a2, a3], o * N + n);
      result.set([b0, b1, b2, b3], (o + 1) * N + n);
      result.set([c0, c1, c2, c3], (o + 2) * N + n);
      result.set([d0, d1, d2, d3], (o + 3) * N + n);
    }
  }
  return result;
}

/** Depthwise convolution of (dim, h, w), zero outside; w a multiple of 4, four places of a row at a time for speed. */
function convolve({ weight, bias }, z, h, w, kernel) {
  const reach = (kernel - 1) / 2, wide = w + 2 * reach, rows = new Float32Array(h * wide), result = new Float32Array(z.length);
  for (let c = 0, i = 0; c < bias.length; c++) {
    for (let y = 0; y < h; y++) rows.set(z.subarray((c * h + y) * w, (c * h + y + 1) * w), y * wide + reach);
    for (let y = 0; y < h; y++) for (let x = 0; x < w; x += 4, i += 4) {
      const bottom = Math.min(h, y + reach + 1);
      let s0 = bias[c], s1 = s0, s2 = s0, s3 = s0;
      for (let row = Math.max(0, y - reach); row < bottom; row++) {
        let j = row * wide + x, tap = (c * kernel + row - y + reach) * kernel, x0 = rows[j], x1 = rows[j + 1], x2 = rows[j + 2];
        for (const end = tap + kernel; tap < end; tap++, j++) {
          const x3 = rows[j + 3], t = weight[tap];
          s0 += t * x0; s1 += t * x1; s2 += t * x2; s3 += t * x3;
          x0 = x1; x1 = x2; x2 = x3;
        }
      }
      result[i] = s0; result[i + 1] = s1; result[i + 2] = s2; result[i + 3] = s3;
    }
  }
  return result;
}

const [c1, c2, c3, c4, c5, c6] = ERFC;

/** GELU, then batch normalisation, in place. */
function activate(z, { scale, shift }) {
  const N = z.length / scale.length;
  for (let c = 0, i = 0; c < scale.length; c++) for (let n = 0; n < N; n++, i++) {
    const u = Math.abs(z[i]) * Math.SQRT1_2, p = 1 + u * (c1 + u * (c2 + u * (c3 + u * (c4 + u * (c5 + u * c6)))));
    const p4 = p * p * p * p;
    z[i] = scale[c] * (Math.max(z[i], 0) - u * Math.SQRT1_2 / (p4 * p4 * p4 * p4)) + shift[c];
  }
}

const script = { activate, convolve, multiply }, made = new Map();

/** The three kernels in WebAssembly or, where the browser has none or it lacks SIMD, in script. */
function fastest(sizes, h, w) {
  const name = JSON.stringify([sizes, h, w]);
  if (!made.has(name)) {
    try {
      made.set(name, kernels(sizes, h, w));
    } catch {
      made.set(name, script);
    }
  }
  return made.get(name);
}
