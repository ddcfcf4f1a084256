// Pictures as bytes in the order (channel, row, column), and back onto a canvas; all in memory.

/** A colour of the palette, as the page shows it now: [red, green, blue]. */
function colour(name) {
  const probe = document.body.appendChild(document.createElement("i"));
  probe.style.color = `var(--mixer-${name})`;
  const shown = getComputedStyle(probe).color.match(/\d+/g).map(Number);
  probe.remove();
  return shown;
}

/** Draw bytes of that shape, colour or grey. */
export function draw(canvas, pixels, [C, H, W]) {
  const data = new ImageData(W, H);
  for (let i = 0; i < H * W; i++) {
    for (let c = 0; c < 3; c++) data.data[4 * i + c] = pixels[(C === 3 ? c : 0) * H * W + i];
    data.data[4 * i + 3] = 255;
  }
  Object.assign(canvas, { width: W, height: H });
  canvas.getContext("2d").putImageData(data, 0, 0);
}

/** Draw numbers as pixels, `width` a row: negative vermilion, 0 as the paper, positive blue, the strongest at ±top. */
export function drawMap(canvas, values, width, top = Math.max(...values.map(Math.abs))) {
  const data = new ImageData(width, values.length / width), [paper, blue, vermilion] = ["paper", "blue", "vermilion"].map(colour);
  values.forEach((value, i) => {
    const end = value < 0 ? vermilion : blue, share = Math.sqrt(Math.abs(value) / top); // the root, since most are small
    for (let c = 0; c < 3; c++) data.data[4 * i + c] = paper[c] + share * (end[c] - paper[c]);
    data.data[4 * i + 3] = 255;
  });
  Object.assign(canvas, { width, height: values.length / width });
  canvas.getContext("2d").putImageData(data, 0, 0);
}

/** Draw the p_b × d matrix E whose transpose is `weight`. */
export function drawMatrix(canvas, weight, size) {
  const d = weight.length / size;
  drawMap(canvas, weight.map((_, i) => weight[(i % d) * size + Math.floor(i / d)]), d);
}

/** The pixels of a picture file, as bytes of (3, height, width). */
export async function load(bytes) {
  const bitmap = await createImageBitmap(new Blob([bytes]));
  return { pixels: grab(bitmap, 0, 0, bitmap.width, bitmap.height, bitmap.width, bitmap.height),
    shape: [3, bitmap.height, bitmap.width] };
}

/** The middle square of a picture or a video, reduced to 32 × 32 pixels. */
export function middle(source, width, height) {
  const side = Math.min(width, height);
  return grab(source, (width - side) / 2, (height - side) / 2, side, side, 32, 32);
}

function grab(source, left, top, w, h, W, H) {
  const canvas = Object.assign(document.createElement("canvas"), { width: W, height: H });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.fillRect(0, 0, W, H); // transparent pictures stand on black
  context.drawImage(source, left, top, w, h, 0, 0, W, H);
  const { data } = context.getImageData(0, 0, W, H), pixels = new Uint8Array(3 * H * W);
  for (let i = 0; i < H * W; i++) for (let c = 0; c < 3; c++) pixels[c * H * W + i] = data[4 * i + c];
  return pixels;
}

/** One picture out of a row of 32 × 32 pictures. */
export function tile({ pixels, shape: [C, H, W] }, index) {
  return crop(pixels, [C, H, W], 0, 32 * index, 1);
}

/** So many crops of the left or the right half of photographs, 1 to 4 times 32 pixels wide, reduced to 32 × 32. */
export function crops(photos, half, count, below) {
  return Array.from({ length: count }, () => {
    const { pixels, shape: [C, H, W] } = photos[below(photos.length)], scale = 1 + below(4), room = Math.floor(W / 2) - 32 * scale;
    const left = below(room + 1) + (half === "right" ? Math.ceil(W / 2) : 0);
    return crop(pixels, [C, H, W], below(H - 32 * scale + 1), left, scale);
  });
}

/** 32 × 32 means of scale × scale pixels each. */
function crop(pixels, [C, H, W], top, left, scale) {
  const result = new Uint8Array(C * 1024);
  for (let c = 0, i = 0; c < C; c++) for (let y = 0; y < 32; y++) for (let x = 0; x < 32; x++, i++) {
    let sum = 0;
    for (let dy = 0; dy < scale; dy++) for (let dx = 0; dx < scale; dx++) {
      sum += pixels[(c * H + top + y * scale + dy) * W + left + x * scale + dx];
    }
    result[i] = Math.round(sum / scale ** 2);
  }
  return result;
}
