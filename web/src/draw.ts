// Our figure specification drawn by Plot. The only file that knows Plot: another library would be another draw.ts.
import * as Plot from "@observablehq/plot";
import type { Axis, Figure, Mark } from "./page";

export interface Place {
  mark: string;
  x: number | string;
  y: number | null; // null where it was not measured; `said` tells why
  low: number | null;
  high: number | null;
  said: string;
}

const SYMBOLS = {
  first: "circle", second: "square", third: "triangle", fourth: "diamond", null: "times", predicted: "circle", control: "star",
} as const; // prettier-ignore
const DASHES = { first: "", second: "6 3", third: "2 3", fourth: "8 3 2 3", null: "3 3", predicted: "", control: "4 4" };

/** Every point, in the order of the marks. */
export function places(figure: Figure): Place[] {
  return figure.marks.flatMap((mark) => points(mark));
}

function points(mark: Mark): Place[] {
  return mark.x.map((x, number) => {
    const y = mark.y[number] ?? null;
    const told = mark.said[number] ?? `${mark.name}: ${x}, ${y === null ? "not measured" : y.toPrecision(3)}`;
    return { mark: mark.name, x, y, low: mark.low[number] ?? null, high: mark.high[number] ?? null, said: told };
  });
}

/** Which of the figure's places are drawn as dots, in the order in which they are drawn. */
export function dotted(figure: Figure): number[] {
  const shown = figure.marks.flatMap((mark) => mark.x.map((_, number) => mark.shape === "points" && (mark.y[number] ?? null) !== null));
  return shown.flatMap((one, place) => (one ? [place] : []));
}

export function label(axis: Axis): string {
  return axis.unit ? `${axis.label} (${axis.unit})` : axis.label;
}

export function draw(figure: Figure, width: number, chosen: { site: string; focus: Place | null }): SVGElement {
  const several = figure.x.scale === "category" && figure.marks.length > 1;
  const crowded = figure.x.scale === "category" && figure.x.categories.length > 12;
  const floor = figure.y.scale === "log" ? reach(figure)[0] : -Infinity; // below it a logarithmic axis has no place
  const marks: Plot.Markish[] = [];
  for (const band of figure.bands) {
    marks.push(Plot.rectY([band], { y1: "low", y2: "high", fill: "var(--shade)" }));
  }
  for (const rule of figure.rules) {
    const style = { stroke: "var(--quiet)", strokeDasharray: "4 4" };
    marks.push(rule.axis === "y" ? Plot.ruleY([rule.at], style) : Plot.ruleX([rule.at], style));
  }
  if (figure.x.link === "site" && chosen.site && figure.x.categories.includes(chosen.site)) {
    marks.push(Plot.ruleX([chosen.site], { stroke: "var(--mark)", strokeWidth: 10, strokeOpacity: 0.35 }));
  }
  figure.marks.forEach((mark, number) => {
    const colour = `var(--${mark.role})`;
    const rows = points(mark);
    const shift = several ? (number - (figure.marks.length - 1) / 2) * 4 : 0;
    const bars = rows.filter((row) => row.low !== null && row.high !== null && row.high > floor).map((row) => ({ ...row, low: Math.max(row.low ?? floor, floor) }));
    marks.push(Plot.ruleX(bars, { x: "x", y1: "low", y2: "high", stroke: colour, strokeWidth: 1.2, dx: shift }));
    if (mark.shape === "line" || (figure.x.scale === "category" && figure.x.link === "site")) {
      const dash = DASHES[mark.role] || undefined;
      marks.push(Plot.lineY(rows, { x: "x", y: "y", stroke: colour, strokeWidth: 1.4, strokeDasharray: dash, dx: shift }));
    }
    if (mark.shape === "points") {
      const symbol = SYMBOLS[mark.role];
      marks.push(Plot.dot(rows.filter((row) => row.y !== null), { x: "x", y: "y", stroke: colour, fill: colour, symbol, r: 3.2, dx: shift }));
    }
  });
  if (chosen.focus && chosen.focus.y !== null) {
    marks.push(Plot.dot([chosen.focus], { x: "x", y: "y", r: 9, stroke: "var(--ink)", strokeWidth: 2 }));
  }
  return Plot.plot({
    width,
    height: 320,
    marginLeft: 56,
    marginBottom: crowded ? 70 : 46,
    className: "plot",
    x: {
      type: figure.x.scale === "category" ? "point" : figure.x.scale,
      label: label(figure.x),
      tickRotate: crowded ? -60 : 0,
      ...(figure.x.scale === "category" ? { domain: figure.x.categories } : bounds(figure.x, places(figure).map((one) => Number(one.x)))),
      ...(figure.x.scale === "log" ? { ticks: 6, tickFormat: plain } : {}),
    },
    y: {
      type: figure.y.scale === "log" ? "log" : "linear",
      label: label(figure.y),
      grid: true,
      ...(figure.y.scale === "log" ? { domain: reach(figure), ticks: 6, tickFormat: plain } : bounds(figure.y, drawn(figure))),
    },
    marks,
  }) as SVGElement;
}

/** The ends of what is drawn on y, with a little room; for a logarithmic axis, where nothing may be 0. */
function reach(figure: Figure): [number, number] {
  const rules = figure.rules.filter((rule) => rule.axis === "y").map((rule) => rule.at);
  const all = [...drawn(figure), ...rules].filter((value) => value > 0);
  return [Math.min(...all) / 1.3, Math.max(...all) * 1.3];
}

/** Every y that has to have room: points and the ends of their intervals. */
function drawn(figure: Figure): number[] {
  return places(figure).flatMap((one) => [one.y, one.low, one.high].filter((value) => value !== null));
}

function plain(value: number): string {
  return value >= 1e5 || value < 1e-3 ? value.toExponential(0) : String(Number(value.toPrecision(3)));
}

/** The axis's own ends, moved out where the data go beyond them: nothing is drawn where it is not. */
function bounds(axis: Axis, data: number[]): { domain?: [number, number]; nice?: boolean } {
  if (axis.low === null || axis.high === null) return { nice: true };
  return { domain: [Math.min(axis.low, ...data), Math.max(axis.high, ...data)] };
}

/** The figure's numbers, a row a point. */
export function csv(figure: Figure): string {
  const cell = (value: unknown): string => {
    const text = value === null || value === undefined ? "" : String(value);
    const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text; // no spreadsheet runs it
    return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  const head = ["series", label(figure.x), label(figure.y), "low", "high", "note"];
  const rows = places(figure).map((one) => [one.mark, one.x, one.y, one.low, one.high, one.y === null ? one.said : ""]);
  return [head, ...rows].map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}

/** The drawn figure as a file that stands alone: colours written out, a title, no class that a page would have to know. */
export function svg(drawn: SVGElement, title: string): string {
  const alone = drawn.cloneNode(true) as SVGElement;
  const styles = getComputedStyle(drawn);
  const named = /var\((--[\w-]+)\)/g;
  for (const element of [alone, ...alone.querySelectorAll("*")]) {
    for (const name of ["fill", "stroke", "color"]) {
      const value = element.getAttribute(name);
      if (value) element.setAttribute(name, value.replace(named, (_, one: string) => styles.getPropertyValue(one).trim()));
    }
  }
  alone.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  alone.setAttribute("color", styles.color);
  const told = document.createElementNS("http://www.w3.org/2000/svg", "title");
  told.textContent = title;
  alone.prepend(told);
  return new XMLSerializer().serializeToString(alone);
}
