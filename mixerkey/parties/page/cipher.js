// The image cipher of Iijima and Kiya (2022), Eq. (4) and (5), and the keys it takes.
// Pixels are a Uint8Array in the order (channel, row, column); a key is {patchSize: M, channels: C, v, r}.

/** Encrypt: pixel k of each block becomes pixel v[k] of that block, flipped (XOR 255) where r[k] is 1. */
export function encrypt(pixels, [C, H, W], { patchSize: M, v, r }) {
  const encrypted = new Uint8Array(pixels.length);
  const place = (k, top, left) => {
    const channel = Math.floor(k / (M * M)), row = top + (Math.floor(k / M) % M), column = left + (k % M);
    return (channel * H + row) * W + column;
  };
  for (let top = 0; top < H; top += M) {
    for (let left = 0; left < W; left += M) {
      for (let k = 0; k < M * M * C; k++) {
        encrypted[place(k, top, left)] = pixels[place(v[k], top, left)] ^ (r[k] ? 255 : 0);
      }
    }
  }
  return encrypted;
}

/** Decrypt: undo encrypt with the same key. */
export const decrypt = (pixels, shape, key) => encrypt(pixels, shape, inverse(key));

/** The key that undoes a key. */
export function inverse({ v, r, ...shape }) {
  const back = { ...shape, v: new Array(v.length), r: new Array(v.length) };
  v.forEach((from, k) => { back.v[from] = k; back.r[from] = r[k]; });
  return back;
}

/** Read a key file that mixerkey wrote; throws an Error that says what is wrong. */
export function readKey(text, patchSize, channels) {
  let file;
  try {
    file = JSON.parse(text);
  } catch {
    throw new Error("This is not a complete JSON file; copy the key again.");
  }
  if (file?.format !== "mixerkey Key" || file.version !== 1) throw new Error("This is not a mixerkey key, version 1.");
  if (file.patch_size !== patchSize || file.channels !== channels) {
    throw new Error(`This key is for blocks of ${file.patch_size} and ${file.channels} channel(s); ` +
      `the model needs ${patchSize} and ${channels}.`);
  }
  const size = patchSize * patchSize * channels, { permutation: v, flips: r } = file;
  const complete = Array.isArray(v) && Array.isArray(r) && v.length === size && r.length === size;
  if (!complete || new Set(v).size !== size || v.some((k) => !Number.isInteger(k) || k < 0 || k >= size)) {
    throw new Error("The key's permutation is damaged; copy the key again.");
  }
  if (r.some((bit) => bit !== 0 && bit !== 1) || r.reduce((a, b) => a + b) !== Math.floor(size / 2)) {
    throw new Error("The key's flips are damaged; copy the key again.");
  }
  return { patchSize, channels, v, r };
}

/** A key of that block shape, each equally likely. */
export function randomKey(patchSize, channels) {
  const size = patchSize * patchSize * channels;
  const half = Math.floor(size / 2);
  const v = shuffled(Array.from({ length: size }, (_, k) => k));
  const r = shuffled(Array.from({ length: size }, (_, k) => (k < half ? 1 : 0)));
  return { patchSize, channels, v, r };
}

/** Fisher and Yates, with the browser's cryptographic random numbers. */
export function shuffled(items) {
  for (let i = items.length - 1; i > 0; i--) {
    const j = below(i + 1);
    [items[i], items[j]] = [items[j], items[i]];
  }
  return items;
}

/** Uniform over 0..n-1: draws again where 2**32 is not a multiple of n. */
export function below(n) {
  const limit = 2 ** 32 - (2 ** 32 % n), drawn = new Uint32Array(1);
  do crypto.getRandomValues(drawn); while (drawn[0] >= limit);
  return drawn[0] % n;
}
