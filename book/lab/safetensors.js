// The safetensors format: the header's length (8 bytes), a header in JSON, the tensors' bytes.

/** Read a file: {metadata, tensors}, tensors by name as {shape, data: Float32Array}; those of other types are left out. */
export function readSafetensors(buffer) {
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const { __metadata__: metadata, ...entries } = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const tensors = {};
  for (const [name, { dtype, shape, data_offsets: [start, end] }] of Object.entries(entries)) {
    // A Float32Array must start at a multiple of 4, so the bytes are copied.
    if (dtype === "F32") tensors[name] = { shape, data: new Float32Array(buffer.slice(8 + length + start, 8 + length + end)) };
  }
  return { metadata, tensors };
}
