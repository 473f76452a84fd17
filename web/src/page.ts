// Made by `npm run types` from page.schema.json; do not edit.

export interface Page {
  schema: "strandscope/page/1";
  title: string;
  about: string;
  quick: boolean;
  cards: Card[];
  unmeasured: string[];
  concepts: string[];
  sections: Section[];
}
/**
 * One concept in the strip of verdicts.
 */
export interface Card {
  concept: string;
  question: string;
  verdict: string;
  tone: "shown" | "not shown" | "not measured";
  facts: Fact[];
}
/**
 * One line of a card: what it is about and what is known, in words.
 */
export interface Fact {
  name: string;
  value: string;
  status: "measured" | "not measured";
}
export interface Section {
  id: string;
  title: string;
  question: string;
  blocks: (Figure | Table | Prose | NotMeasured | Texts | Tokens)[];
}
/**
 * One pair of axes. `caption` states the finding in words; `python` gives the same figures from `report`, the report.json.
 */
export interface Figure {
  kind: "figure";
  id: string;
  title: string;
  caption: string;
  x: Axis;
  y: Axis;
  marks: Mark[];
  rules: Rule[];
  bands: Band[];
  python: string;
  concept: string;
}
/**
 * `link` names what a category stands for ("site"), so that choosing one here chooses it everywhere.
 */
export interface Axis {
  label: string;
  unit: string;
  scale: "linear" | "log" | "category";
  categories: string[];
  low: number | null;
  high: number | null;
  link: "" | "site" | "concept";
}
/**
 * A series: points (n,) with the ends of their intervals where they have some; a gap is a y of None, and `said` tells why.
 *
 * `said` has what each point says in words, for tips and screen readers.
 */
export interface Mark {
  name: string;
  role: "first" | "second" | "third" | "fourth" | "null" | "predicted" | "control";
  shape: "line" | "points";
  x: (number | string)[];
  y: (number | null)[];
  low: (number | null)[];
  high: (number | null)[];
  said: string[];
}
/**
 * A line across the figure at one value of an axis.
 */
export interface Rule {
  axis: "x" | "y";
  at: number;
  label: string;
}
/**
 * A range of y, shaded: a null, a tolerance.
 */
export interface Band {
  low: number;
  high: number;
  label: string;
}
export interface Table {
  kind: "table";
  id: string;
  caption: string;
  columns: string[];
  rows: string[][];
  folded: boolean;
  concept: string;
}
export interface Prose {
  kind: "prose";
  text: string;
  concept: string;
}
export interface NotMeasured {
  kind: "not measured";
  what: string;
  reason: string;
  concept: string;
}
/**
 * What was said to one prompt, in several ways side by side. Blocks of the same `example` are about the same prompt or row,
 * and choosing it in one chooses it in all.
 */
export interface Texts {
  kind: "texts";
  id: string;
  example: string;
  prompt: string;
  said: Said[];
  concept: string;
}
export interface Said {
  who: string;
  text: string;
}
/**
 * A text with a value for each token. Marked are those beyond `bound`, on either side or `above` it alone, a shade darker for
 * each `step`; `beyond` says in words what these are, with the unit. `example`: as of texts.
 */
export interface Tokens {
  kind: "tokens";
  id: string;
  example: string;
  title: string;
  tokens: string[];
  values: number[];
  bound: number;
  step: number;
  beyond: string;
  above: boolean;
  concept: string;
}
