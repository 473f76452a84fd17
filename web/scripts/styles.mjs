// The hashes of the styles that Plot puts into its figures: the page's policy lets these through and no other.
import { createHash } from "node:crypto";
import { writeFileSync } from "node:fs";
import * as Plot from "@observablehq/plot";
import { JSDOM } from "jsdom";

const { document } = new JSDOM("").window;
const drawn = Plot.plot({ document, className: "plot", marks: [Plot.dot([[1, 2]], { symbol: "square" })] });
const styles = [...drawn.querySelectorAll("style")].map((style) => style.textContent ?? "");
if (styles.length === 0) throw new Error("Plot carries no style any more: nothing to let through, and scripts/styles.mjs can go");
const hashes = styles.map((text) => `sha256-${createHash("sha256").update(text).digest("base64")}`);
writeFileSync("../src/strandscope/report/page/static/styles.json", JSON.stringify([...new Set(hashes)]));
