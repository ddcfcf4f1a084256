// Called by scripts.py: `node bundle.mjs OUT NAME…` writes each script of the pages as one classic script, since a page that
// is opened from the disk may load no modules. `import code from "./x.js?worker"` gives the bundled text of a worker.
import path from "node:path";
import { build } from "esbuild";

const [outdir, ...entryPoints] = process.argv.slice(2);
const shape = { bundle: true, format: "iife", minify: true, target: "es2022", charset: "utf8" };
const workers = {
  name: "workers",
  setup({ onLoad, onResolve }) {
    onResolve({ filter: /\?worker$/ }, ({ path: name, resolveDir }) => (
      { path: path.join(resolveDir, name.replace("?worker", "")), namespace: "worker" }
    ));
    onLoad({ filter: /.*/, namespace: "worker" }, async ({ path: file }) => {
      const { outputFiles: [{ text }] } = await build({ ...shape, entryPoints: [file], write: false });
      return { contents: text, loader: "text" };
    });
  },
};
await build({ ...shape, entryPoints, outdir, outbase: "book", plugins: [workers] });
