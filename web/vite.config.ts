import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vite";

// One script and one style for each of the two pages, which Python puts into one file. Nothing is loaded from anywhere else.
const name = process.env["PAGE"] ?? "report";
if (name !== "report" && name !== "bench") throw new Error(`PAGE: got ${name}, wanted report or bench`);

export default defineConfig({
  plugins: [svelte({ compilerOptions: { css: "external", runes: true } })],
  build: {
    outDir: "../src/strandscope/report/page/static",
    emptyOutDir: name === "report",
    target: "es2022",
    cssCodeSplit: false,
    modulePreload: false,
    rollupOptions: {
      input: `src/${name}.ts`,
      output: { format: "iife", entryFileNames: `${name}.js`, assetFileNames: `${name}[extname]`, inlineDynamicImports: true },
    },
  },
});
