// Called by lean.py: `node purge.mjs FOLDER` drops the rules that no page of the built site in FOLDER uses.
import { glob, writeFile } from "node:fs/promises";
import { PurgeCSS } from "purgecss";

process.chdir(process.argv[2]);
const css = await Array.fromAsync(glob("_static/**/*.css"));
const content = await Array.fromAsync(glob("**/*.{html,js}", { exclude: (path) => /fontawesome|locales/.test(path) }));
const purged = await new PurgeCSS().purge({
  css,
  content,
  dynamicAttributes: ["data-theme", "data-mode", "data-popper-placement", "aria-expanded", "aria-disabled", "open"],
  safelist: {
    standard: [/^::?[\w-]+$/], // such as :focus-visible, which belongs to no element
    greedy: [/tooltip/, /popper/], // Bootstrap makes these while one reads
  },
});
for (const { file, css } of purged) await writeFile(file, css);
