// The server's routes. The key comes in the address's fragment, which no server sees, and is then kept for this tab alone.
export interface Reading {
  value: number | null;
  low: number | null;
  high: number | null;
  level: number | null;
  n: number;
  unit: string;
  reason: string;
}
export interface StrandEntry {
  file: string;
  name: string;
  site: string;
  kind: "strand" | "eraser";
  pushes?: boolean;
  positive?: string;
  classes: string[];
  evidence?: Reading;
}
/** Of what a monitor has read since it was opened, requests with edits left out. */
export interface Drift {
  sequences: number;
  p: number; // valid at any time
  level: number;
  alarm: { channel: string; sequence: number; p: number } | null;
}
export interface MonitorEntry {
  name: string;
  rate: number;
  confidence: number;
  aggregation: string;
  concepts: { concept: string; threshold: number }[];
  drift: Drift;
}
export interface Shelf {
  strands: StrandEntry[];
  monitors: MonitorEntry[];
  left_out: { file: string; sentence: string }[];
}
export interface Job {
  id: string | null;
  what: string;
  status: "waiting" | "running" | "done" | "failed" | "cancelled";
  stage: string;
  done: number;
  of: number;
  error: { message: string } | string | null;
  result: unknown;
}
export interface Alarm {
  monitor: string;
  concept: string;
  token: number;
  in: "prompt" | "reply";
  text: string;
  score: number | null;
}
export interface Own {
  edits?: { expression: string; cost: Reading; told: string[] } | null;
  monitors?: Record<string, { concepts: string[]; thresholds: (number | null)[]; first: number; score?: (number | null)[] | null; drift?: Drift }>;
  prompt_tokens?: number;
  scores?: Record<string, { first: number; tokens: (number | null)[][] }>;
  alarms?: Alarm[];
  token?: { number: number; id: number; text: string };
  ended?: string;
}
export interface Chunk {
  choices: { delta?: { content?: string }; text?: string; finish_reason: string | null }[];
  strandscope?: Own;
  error?: { message: string };
}

const KEPT = "strandscope-key";

function key(): string {
  const said = new URLSearchParams(location.hash.slice(1));
  const given = said.get("key") ?? (location.hash.length > 1 && !location.hash.includes("=") ? location.hash.slice(1) : "");
  if (given) {
    sessionStorage.setItem(KEPT, given);
    said.delete("key");
    history.replaceState(null, "", location.pathname);
  }
  return sessionStorage.getItem(KEPT) ?? "";
}

const HEADERS = { Authorization: `Bearer ${key()}`, "Content-Type": "application/json" };

export class Refused extends Error {}

/** What to tell of an error: the server's sentence, or that it cannot be reached. Any other is a bug, and thrown on. */
export function told(error: unknown): string {
  if (error instanceof Refused) return error.message;
  if (error instanceof TypeError) return `the server cannot be reached (${error.message}); is it still running?`;
  throw error;
}

async function refusal(answer: Response): Promise<Refused> {
  const said = (await answer.json().catch(() => null)) as { error?: { message?: string } } | null;
  return new Refused(said?.error?.message ?? `the server answered ${answer.status}`);
}

export async function ask<T>(method: string, path: string, body?: unknown): Promise<T> {
  const init: RequestInit = { method, headers: HEADERS };
  if (body !== undefined) init.body = JSON.stringify(body);
  const answer = await fetch(path, init);
  if (!answer.ok) throw await refusal(answer);
  return (await answer.json()) as T;
}

/** A reply as it is written: each chunk of the stream, until it ends or `signal` stops it. */
export async function* stream(path: string, body: unknown, signal: AbortSignal): AsyncGenerator<Chunk> {
  const answer = await fetch(path, { method: "POST", headers: HEADERS, body: JSON.stringify(body), signal });
  if (!answer.ok || !answer.body) throw await refusal(answer);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    rest += value;
    const events = rest.split("\n\n");
    rest = events.pop() ?? "";
    for (const event of events) {
      const data = event.split("\n").find((line) => line.startsWith("data: "))?.slice(6);
      if (!data || data === "[DONE]") continue;
      const chunk = JSON.parse(data) as Chunk;
      if (chunk.error) throw new Refused(chunk.error.message);
      yield chunk;
    }
  }
}

const POLL = 400; // ms between looks at a job

/** Follow a job to its end; `told` hears of every step. */
export async function follow(first: Job, told: (job: Job) => void): Promise<Job> {
  let job = first;
  told(job);
  while (job.id !== null && (job.status === "waiting" || job.status === "running")) {
    await new Promise((resolve) => setTimeout(resolve, POLL));
    job = await ask<Job>("GET", `/api/jobs/${job.id}`);
    told(job);
  }
  if (job.status === "failed") throw new Refused(typeof job.error === "string" ? job.error : (job.error?.message ?? "it failed"));
  return job;
}

export function said(reading: Reading): string {
  if (reading.value === null) return `not measured (${reading.reason})`;
  const three = (value: number | null): string => (value === null ? "?" : String(Number(value.toPrecision(3))));
  const ends = reading.low === reading.high ? "" : ` [${three(reading.low)}, ${three(reading.high)}]`;
  return `${three(reading.value)}${ends} ${reading.unit}`;
}
