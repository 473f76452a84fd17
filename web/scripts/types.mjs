// src/page.ts, made of the schema that Python publishes; `--check` fails where the two have drifted apart.
import { readFileSync, writeFileSync } from "node:fs";
import { compile } from "json-schema-to-typescript";

const schema = JSON.parse(readFileSync("../src/strandscope/report/page/page.schema.json", "utf8"));
const banner = "// Made by `npm run types` from page.schema.json; do not edit.";
const made = await compile(schema, "Page", { bannerComment: banner, additionalProperties: false, maxItems: -1 });
if (process.argv.includes("--check")) {
  if (readFileSync("src/page.ts", "utf8") !== made) {
    console.error("src/page.ts is not what page.schema.json says; run `npm run types` and mend what it breaks");
    process.exit(1);
  }
} else {
  writeFileSync("src/page.ts", made);
}
