// Ciphertext-only key recovery, where the public pictures are of the encrypted ones' kind. It finds the same keys there
// as mixerkey/attacks/ciphertext.py, which a test compares, and needs neither its search nor its network.
// Matrices are Float64Arrays row by row; an image is a Uint8Array in the order (channel, row, column).
import { decrypt } from "../../mixerkey/parties/page/cipher.js";

const CONTRASTS = 6, COLOUR = 0.1, STEPS = 100;

/** What an attacker knows of natural images, from any that are public. */
export function imageStatistics(images, shape, M) {
  const levels = colourLevels(shape[0]);
  const counts = new Float64Array(levels ** shape[0] * CONTRASTS).fill(1); // no bin is impossible
  let total = counts.length;
  for (const image of images) for (const block of blockColours(image, shape, M)) {
    counts[colourBin(block.colour, block.contrast, levels)]++;
    total++;
  }
  return { distances: distances(moments(images, shape, M)), colours: counts.map((count) => Math.log(count / total)) };
}

/**
 * The key from encrypted images alone: {v, r, score} as it gets better, by the callback and at the end.
 * `found(done, key)` is told after each start which part is done and the best key so far.
 */
export function ciphertextOnly(images, shape, M, prior, { starts = 10, random = Math.random, found = () => {} } = {}) {
  const [C] = shape, size = M * M * C, evidence = moments(images, shape, M), signs = leadingSigns(evidence);
  const A = prior.distances, B = distances(evidence, signs), seen = new Set(), changes = relatives(M, C);
  let best = { score: -Infinity };
  for (let k = 0; k < starts; k++) {
    const v = match(A, B, size, start(A, B, size, k, random));
    if (!seen.has(String(v))) {
      seen.add(String(v));
      best = bestRelative({ patchSize: M, channels: C, v, r: Array.from(signs, (s) => (s < 0 ? 1 : 0)) }, best);
    }
    found((k + 1) / starts, best);
  }
  return best;

  /** The mirror image, order of channels or negative of the decrypted blocks that looks most natural. */
  function bestRelative(key, best) {
    const blocks = images.slice(0, 1000).flatMap((image) => blockColours(decrypt(image, shape, key), shape, M));
    const likelihoods = new Map(), levels = colourLevels(C);
    for (const g of changes) {
      const name = String([g.order, g.flip]);
      if (!likelihoods.has(name)) {
        const before = g.order.map((_, c) => g.order.indexOf(c)); // the channel that each came from
        let sum = 0;
        for (const { colour, contrast } of blocks) {
          const bin = colourBin(before.map((c) => (g.flip ? 1 - colour[c] : colour[c])), contrast, levels);
          sum += prior.colours[bin];
        }
        likelihoods.set(name, sum / blocks.length);
      }
      const v = key.v.map((i) => g.v[i]), score = correlation(A, B, v) + COLOUR * likelihoods.get(name);
      if (score > best.score) best = { ...key, v, r: key.r.map((bit) => bit ^ g.flip), score };
    }
    return best;
  }
}

/** Second moments of normalised pixels in a block and itself, its right and its lower neighbour. */
function moments(images, [C, H, W], M) {
  const size = C * M * M, h = H / M, w = W / M, x = new Float64Array(h * w * size);
  const pairs = [[0, 0], [0, 1], [1, 0]].map(([down, right]) => ({
    down, right, products: new Float64Array(size * size), before: new Float64Array(size), after: new Float64Array(size),
  }));
  for (const image of images) {
    for (let c = 0, i = 0; c < C; c++) for (let y = 0; y < H; y++) for (let column = 0; column < W; column++, i++) {
      const block = Math.floor(y / M) * w + Math.floor(column / M);
      x[block * size + (c * M + (y % M)) * M + (column % M)] = (2 * image[i] - 255) / 255;
    }
    for (const { down, right, products, before, after } of pairs) {
      const share = 1 / (images.length * (h - down) * (w - right));
      for (let row = 0; row < h - down; row++) for (let column = 0; column < w - right; column++) {
        const a = (row * w + column) * size, b = ((row + down) * w + column + right) * size;
        for (let i = 0; i < size; i++) {
          const value = share * x[a + i];
          before[i] += value * x[a + i];
          after[i] += share * x[b + i] ** 2;
          for (let j = 0; j < size; j++) products[i * size + j] += value * x[b + j];
        }
      }
    }
  }
  return pairs;
}

/** Logarithms of the mean squared differences between pixels, each of the three matrices centred on 0. */
function distances(pairs, signs) {
  const rounding = (2 * (2 / 255) ** 2) / 12; // of two 8-bit pixels
  return pairs.map(({ products, before, after }, pair) => {
    const size = before.length, D = new Float64Array(size * size);
    let sum = 0;
    for (let i = 0; i < size; i++) for (let j = 0; j < size; j++) {
      const sign = signs ? signs[i] * signs[j] : 1, own = pair === 0 && i === j;
      if (own) continue;
      const squared = before[i] + after[j] - 2 * sign * products[i * size + j];
      D[i * size + j] = Math.log(Math.max(squared, 0) + rounding);
      sum += D[i * size + j];
    }
    const mean = sum / (pair === 0 ? size * (size - 1) : size * size);
    return D.map((d, i) => (pair === 0 && i % (size + 1) === 0 ? 0 : d - mean));
  });
}

/** ±1 for each pixel: the signs of the leading eigenvector of a block's second moments, by the power method. */
function leadingSigns([{ products, before: { length: size } }]) {
  let u = products.slice(0, size);
  for (let step = 0; step < 300; step++) {
    const next = Float64Array.from(u, (_, i) => {
      let sum = 0;
      for (let j = 0; j < size; j++) sum += products[i * size + j] * u[j];
      return sum;
    });
    const norm = Math.hypot(...next);
    u = next.map((value) => value / norm);
  }
  return u.map((value) => (value < 0 ? -1 : 1));
}

/** A permutation v for which the sum of A[v_k, v_l] B[k, l] is large: Frank and Wolfe's method from X. */
export function match(A, B, size, X) {
  let G = gradient(A, B, size, X);
  for (let step = 0; step < STEPS; step++) {
    const direction = permutationMatrix(assign(G, size), size).map((p, i) => p - X[i]);
    const change = gradient(A, B, size, direction);
    let slope = 0, curvature = 0, scale = 0;
    for (let i = 0; i < G.length; i++) {
      slope += direction[i] * G[i];
      curvature += direction[i] * change[i];
      scale += Math.abs(G[i]);
    }
    if (slope <= 1e-9 * scale) break;
    const length = curvature >= 0 ? 1 : Math.min(1, -slope / curvature);
    X = X.map((x, i) => x + length * direction[i]);
    G = G.map((g, i) => g + length * change[i]);
  }
  const v = new Array(size);
  assign(X, size).forEach((k, i) => { v[k] = i; });
  return v;
}

/** The sum over the three pairs of A X Bᵀ + Aᵀ X B; the first pair is symmetric. */
function gradient(A, B, size, X) {
  const total = new Float64Array(size * size);
  A.forEach((a, m) => {
    if (m === 0) {
      const one = product(product(a, X, size), B[m], size);
      for (let i = 0; i < total.length; i++) total[i] += 2 * one[i];
    } else {
      const one = product(product(a, X, size), transposed(B[m], size), size);
      const two = product(product(transposed(a, size), X, size), B[m], size);
      for (let i = 0; i < total.length; i++) total[i] += one[i] + two[i];
    }
  });
  return total;
}

function product(a, b, size) {
  const result = new Float64Array(size * size);
  for (let i = 0; i < size; i++) for (let k = 0; k < size; k++) {
    const value = a[i * size + k], from = k * size, to = i * size;
    for (let j = 0; j < size; j++) result[to + j] += value * b[from + j];
  }
  return result;
}

function transposed(a, size) {
  return a.map((_, i) => a[(i % size) * size + Math.floor(i / size)]);
}

function permutationMatrix(columns, size) {
  const P = new Float64Array(size * size);
  columns.forEach((j, i) => { P[i * size + j] = 1; });
  return P;
}

/** The linear assignment with the largest total gain: the column of each row, by shortest augmenting paths (Kuhn's dual). */
export function assign(gain, size) {
  const rowPrice = new Float64Array(size + 1), columnPrice = new Float64Array(size + 1);
  const owner = new Int32Array(size + 1), from = new Int32Array(size + 1); // rows and columns count from 1; 0 is free
  for (let row = 1; row <= size; row++) {
    const least = new Float64Array(size + 1).fill(Infinity), done = new Uint8Array(size + 1);
    let column = 0;
    owner[0] = row;
    do {
      done[column] = 1;
      const i = owner[column];
      let delta = Infinity, next = 0;
      for (let j = 1; j <= size; j++) {
        if (done[j]) continue;
        const reduced = -gain[(i - 1) * size + j - 1] - rowPrice[i] - columnPrice[j];
        if (reduced < least[j]) { least[j] = reduced; from[j] = column; }
        if (least[j] < delta) { delta = least[j]; next = j; }
      }
      for (let j = 0; j <= size; j++) {
        if (done[j]) { rowPrice[owner[j]] += delta; columnPrice[j] -= delta; } else least[j] -= delta;
      }
      column = next;
    } while (owner[column] !== 0);
    while (column !== 0) { // hand the columns on along the path
      owner[column] = owner[from[column]];
      column = from[column];
    }
  }
  const columns = new Array(size);
  for (let j = 1; j <= size; j++) columns[owner[j] - 1] = j - 1;
  return columns;
}

/** The k-th start: pixels with like profiles of distances, all permutations alike, then random ones. */
function start(A, B, size, k, random) {
  if (k === 0) {
    const X = new Float64Array(size * size);
    A.forEach((a, m) => {
      const [one, two] = [a, B[m]].map((D) => profiles(D, size));
      for (let i = 0; i < size; i++) for (let j = 0; j < size; j++) {
        for (let c = 0; c < 2 * size; c++) X[i * size + j] += one[i][c] * two[j][c] - one[i][c] ** 2 / 2;
      }
    });
    return permutationMatrix(assign(X, size), size);
  }
  const X = new Float64Array(size * size).fill(1 / size);
  if (k === 1) return X;
  const order = Array.from({ length: size }, (_, i) => [random(), i]).sort(([a], [b]) => a - b).map(([, i]) => i);
  return X.map((x, i) => (x + (order[Math.floor(i / size)] === i % size ? 1 : 0)) / 2);
}

/** Of each pixel, its row and its column of distances, sorted: no longer dependent on the order of the pixels. */
function profiles(D, size) {
  const columns = transposed(D, size);
  return Array.from({ length: size }, (_, i) =>
    [D, columns].flatMap((d) => Array.from(d.slice(i * size, (i + 1) * size).sort())));
}

/** Changes of a plain block that leave it looking much like one: 8 symmetries, orders of channels, all flips at once. */
export function relatives(M, C) {
  const square = (place) => Array.from({ length: M * M }, (_, i) => {
    const [y, x] = place(Math.floor(i / M), i % M);
    return y * M + x;
  });
  const end = M - 1;
  const mirrors = [
    (y, x) => [y, x], (y, x) => [x, end - y], (y, x) => [end - y, end - x], (y, x) => [end - x, y],
    (y, x) => [x, y], (y, x) => [y, end - x], (y, x) => [end - x, end - y], (y, x) => [end - y, x],
  ].map(square);
  return orders(C).flatMap((order) => mirrors.flatMap((mirror) => [0, 1].map((flip) => ({
    order, flip, v: order.flatMap((c) => mirror.map((place) => c * M * M + place)),
  }))));
}

function orders(n) {
  if (n === 0) return [[]];
  return orders(n - 1).flatMap((rest) =>
    Array.from({ length: n }, (_, i) => [...rest.slice(0, i), n - 1, ...rest.slice(i)]));
}

/** Correlation of A[m][v_i, v_j] and B[m][i, j], which are centred. */
function correlation(A, B, v) {
  let both = 0, one = 0, two = 0;
  const size = v.length;
  A.forEach((a, m) => {
    for (let i = 0; i < size; i++) for (let j = 0; j < size; j++) {
      const x = a[v[i] * size + v[j]], y = B[m][i * size + j];
      both += x * y; one += x * x; two += y * y;
    }
  });
  return both / (Math.sqrt(one * two) || 1);
}

/** Mean colour in 0..1 and level of contrast of every block. */
function blockColours(image, [C, H, W], M) {
  const blocks = [], area = M * M;
  for (let top = 0; top < H; top += M) for (let left = 0; left < W; left += M) {
    const colour = new Array(C).fill(0);
    let sum = 0, squares = 0;
    for (let y = top; y < top + M; y++) for (let x = left; x < left + M; x++) {
      let grey = 0;
      for (let c = 0; c < C; c++) {
        const value = image[(c * H + y) * W + x];
        colour[c] += value / area / 255;
        grey += value / C;
      }
      sum += grey; squares += grey * grey;
    }
    const spread = Math.sqrt(Math.max(0, squares / area - (sum / area) ** 2));
    const contrast = Math.min(CONTRASTS - 1, Math.floor(Math.log2(Math.max(1, spread))));
    blocks.push({ colour, contrast });
  }
  return blocks;
}

const colourLevels = (C) => Math.max(2, Math.min(32, Math.round(512 ** (1 / C))));

const colourBin = (colour, contrast, levels) =>
  colour.reduceRight((bin, value) => bin * levels + Math.min(levels - 1, Math.floor(value * levels)), 0) * CONTRASTS + contrast;
