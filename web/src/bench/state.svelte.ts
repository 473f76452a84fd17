// What the bench holds: the shelf, the dose of each strand, what is erased, which monitors look on.
import { ask, type Drift, type MonitorEntry, type Shelf, type StrandEntry } from "./api";

export interface Settings {
  doses: Record<string, number>;
  erased: string[];
  watching: string[];
  action: string;
  where: string;
  temperature: number;
  tokens: number;
}

function fresh(): Settings {
  return { doses: {}, erased: [], watching: [], action: "log", where: "", temperature: 0, tokens: 120 };
}

/** A name as expressions take it: in quotes where it is no plain word. */
function quoted(name: string): string {
  return /^[A-Za-z_][\w.]*$/.test(name) && !["clamp", "set", "rotate"].includes(name) ? name : `"${name}"`;
}

class Held {
  strands = $state<StrandEntry[]>([]);
  monitors = $state<MonitorEntry[]>([]);
  broken = $state<Shelf["left_out"]>([]);
  drift = $state<Record<string, Drift>>({}); // by monitor
  settings = $state<Settings>(fresh());

  async load(again = false): Promise<void> {
    const shelf = again ? await ask<Shelf>("POST", "/api/strands/reload") : await ask<Shelf>("GET", "/api/strands");
    this.strands = shelf.strands;
    this.monitors = shelf.monitors;
    this.broken = shelf.left_out;
    this.drift = Object.fromEntries(shelf.monitors.map((one) => [one.name, one.drift]));
  }

  /** What the network is held by, as the command line would have it; "" where by nothing. */
  get expression(): string {
    const scope = this.settings.where ? `@${this.settings.where}` : "";
    const pushes = Object.entries(this.settings.doses).filter(([, nats]) => nats !== 0);
    const terms = pushes.map(([name, nats]) => `${nats < 0 ? "-" : ""}${Math.abs(nats)}nats*${quoted(name)}${scope}`);
    return [...terms, ...this.settings.erased.map((name) => `!${quoted(name)}${scope}`)].join(" + ").replaceAll("+ -", "- ");
  }

  take(settings: Partial<Settings>): void {
    this.settings = { ...fresh(), ...settings };
  }
}

export const held = new Held();
