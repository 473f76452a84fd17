import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vite";

// One script and one style, which Python puts into report.html. Nothing is loaded from anywhere else.
export default defineConfig({
  plugins: [svelte({ compilerOptions: { css: "external", runes: true } })],
  build: {
    outDir: "../src/strandscope/report/page/static",
    emptyOutDir: true,
    target: "es2022",
    cssCodeSplit: false,
    modulePreload: false,
    rollupOptions: {
      input: "src/report.ts",
      output: { format: "iife", entryFileNames: "report.js", assetFileNames: "report[extname]", inlineDynamicImports: true },
    },
  },
});
