// The network's three kernels in WebAssembly, four numbers at a time (SIMD). Their code is put together here, for the sizes of
// one network, byte by byte as https://webassembly.github.io/spec/core/binary says: nothing to fetch and nothing to build.

/** A whole number below 2^28, in five bytes that are right with a sign and without (LEB128). */
const number = (n) => [0, 7, 14, 21, 28].map((shift) => ((n >> shift) & 127) | (shift < 28 ? 128 : 0));
const list = (items) => [number(items.length), items];
const sized = (...code) => list(code.flat(Infinity));
const section = (id, items) => [id, sized(list(items))];

// Code that leaves a value on the stack: a whole number, which is an address or a size in bytes, or four floats.
const get = (local) => [0x20, number(local)];
const constant = (n) => [0x41, number(n)];
const add = (a, b) => [a, b, 0x6a];
const mul = (a, b) => [a, b, 0x6c];
const f32x4 = (operation) => (...values) => [values, 0xfd, number(operation)];
const [abs, plus, minus, product, quotient, max] = [0xe0, 0xe4, 0xe5, 0xe6, 0xe7, 0xe9].map(f32x4);
const four = (x) => f32x4(0x13)(0x43, ...new Uint8Array(Float32Array.of(x).buffer));
const access = (operation) => (address, offset, ...value) => [f32x4(operation)(address, ...value), number(0), number(offset)];
const [load, spread, store] = [0, 9, 11].map(access); // `spread` reads one float, four times; `store` leaves nothing

// Code that does something.
const set = (local, value) => [value, 0x21, number(local)];
const loop = (local, end, step, ...body) => [ // for (local = 0; local < end; local += step)
  set(local, constant(0)), 0x03, 0x40, body, set(local, add(get(local), constant(step))),
  get(local), constant(end), 0x49, 0x0d, number(0), 0x0b,
];
const times = (count, code) => Array.from({ length: count }, (_, i) => code(i)); // not a loop: one code after the other

// A kernel's locals: four whole numbers, then fours of floats.
const LOCALS = [[4, 0x7f], [11, 0x7b]], [a, b, c, d, t, x0, x1, ...sums] = times(15, (i) => i);
const accumulate = (sum, x) => set(sum, plus(get(sum), product(get(t), get(x))));

/** weight (rows, inner) times x (inner, N), plus bias: four rows and eight columns at a time. */
const multiply = ({ weight, bias, x, result }, rows, inner, N) =>
  loop(a, 4 * rows, 16, loop(b, 4 * N, 32,
    times(8, (i) => set(sums[i], spread(get(a), bias + 4 * (i >> 1)))),
    loop(c, 4 * inner, 4,
      set(d, add(mul(get(c), constant(N)), get(b))),
      set(x0, load(get(d), x)), set(x1, load(get(d), x + 16)),
      set(d, add(mul(get(a), constant(inner)), get(c))),
      times(4, (i) => [
        set(t, spread(get(d), weight + 4 * i * inner)), accumulate(sums[2 * i], x0), accumulate(sums[2 * i + 1], x1),
      ])),
    set(d, add(mul(get(a), constant(N)), get(b))),
    times(8, (i) => store(get(d), result + 4 * (i >> 1) * N + 16 * (i & 1), get(sums[i])))));

/** Depthwise convolution of x (channels, h, w), each channel in a frame of zeros: sixteen places at a time. */
const convolve = ({ weight, bias, x, result, framed }, channels, h, w, kernel) => {
  const reach = (kernel - 1) / 2, wide = w + 2 * reach;
  const place = (i) => framed + 4 * (Math.floor((4 * i) / w) * wide + ((4 * i) % w)); // of the i-th four, in the frame
  return loop(a, 4 * channels, 4,
    set(b, mul(get(a), constant(h * w))),
    times((h * w) / 4, (i) => store(constant(0), place(i) + 4 * reach * (wide + 1), load(get(b), x + 16 * i))),
    times((h * w) / 16, (k) => [
      times(4, (i) => set(sums[i], spread(get(a), bias))),
      loop(c, 4 * kernel, 4,
        set(b, mul(get(c), constant(wide))),
        set(d, mul(add(mul(get(a), constant(kernel)), get(c)), constant(kernel))),
        times(kernel, (j) => [
          set(t, spread(get(d), weight + 4 * j)),
          times(4, (i) => [set(x0, load(get(b), place(4 * k + i) + 4 * j)), accumulate(sums[i], x0)]),
        ])),
      set(b, mul(get(a), constant(h * w))),
      times(4, (i) => store(get(b), result + 16 * (4 * k + i), get(sums[i]))),
    ]));
};

/** 1 - erf(u) = 1 / (1 + c[0] u + … + c[5] u^6)^16 for u ≥ 0, to 3e-7 (Abramowitz and Stegun 7.1.28). */
export const ERFC = [0.0705230784, 0.0422820123, 0.0092705272, 0.0001520143, 0.0002765672, 0.0000430638];

/** GELU, then batch normalisation. */
const activate = ({ weight: scale, bias: shift, x, result }, channels, N) => {
  const [last, ...others] = [1, ...ERFC].reverse(), half = product(get(x1), four(Math.SQRT1_2)); // of |x|
  return loop(a, 4 * channels, 4, loop(b, 4 * N, 16,
    set(c, add(mul(get(a), constant(N)), get(b))),
    set(x0, load(get(c), x)),
    set(x1, product(abs(get(x0)), four(Math.SQRT1_2))),
    set(t, four(last)),
    others.map((k) => set(t, plus(product(get(t), get(x1)), four(k)))),
    times(4, () => set(t, product(get(t), get(t)))),
    set(t, minus(max(get(x0), four(0)), quotient(half, get(t)))),
    store(get(c), result, plus(product(get(t), spread(get(a), scale)), spread(get(a), shift)))));
};

/** multiply, convolve and activate as in convmixer.js, for a network and images of h by w patches: multiples of 4 all. */
export function kernels({ dim, patch_size: P, in_channels: C, kernel_size: kernel }, h, w) {
  const N = h * w, inner = C * P * P;
  const counts = {
    weight: dim * Math.max(dim, inner, kernel ** 2), bias: dim, x: Math.max(dim, inner) * N, result: dim * N,
    framed: (h + kernel - 1) * (w + kernel - 1),
  };
  let end = 0;
  const places = Object.fromEntries(Object.entries(counts).map(([name, count]) => [name, (end += 4 * count) - 4 * count]));
  const codes = [
    multiply(places, dim, inner, N), multiply(places, dim, dim, N), convolve(places, dim, h, w, kernel), activate(places, dim, N),
  ];
  const module = new WebAssembly.Module(Uint8Array.from([
    0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, // "\0asm", version 1
    section(1, [[0x60, 0, 0]]), // one type: takes nothing, gives nothing
    section(3, codes.map(() => 0)), // of it are all functions
    section(5, [[0, number(Math.ceil(end / 65536))]]), // the memory
    section(7, [[1, 109, 2, 0], ...codes.map((_, i) => [1, 97 + i, 0, i])]), // the exports' names: m; a, b, c, d
    section(10, codes.map((code) => sized(list(LOCALS), code, 0x0b))),
  ].flat(Infinity)));
  const { m, a: embed, b: mix, c: depthwise, d: activation } = new WebAssembly.Instance(module).exports;
  const memory = new Float32Array(m.buffer);
  const run = (kernel, given) => {
    for (const [name, values] of Object.entries(given)) memory.set(values, places[name] / 4);
    kernel();
    return memory.slice(places.result / 4, places.result / 4 + dim * N);
  };
  return {
    multiply: ({ weight, bias }, x, inner) => run(inner === dim ? mix : embed, { weight, bias, x }),
    convolve: ({ weight, bias }, x) => run(depthwise, { weight, bias, x }),
    activate: (x, { scale, shift }) => x.set(run(activation, { weight: scale, bias: shift, x })),
  };
}
