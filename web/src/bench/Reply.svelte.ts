// One reply while it is written: its tokens with what the monitors scored, and what the server told of it.
import { stream, told, type Alarm, type Own } from "./api";
import { held } from "./state.svelte";

export interface Token {
  text: string;
  over: number | null; // the largest score less its threshold; null where nothing was scored
}

export class Reply {
  text = $state("");
  tokens = $state<Token[]>([]);
  alarms = $state<Alarm[]>([]);
  told = $state<string[]>([]);
  status = $state<"waiting" | "writing" | "done" | "stopped" | "refused">("waiting");
  wrong = $state("");
  seconds = $state(0);
  #prompt = 0;
  #thresholds: Record<string, (number | null)[]> = {};
  #stop = new AbortController();

  stop(): void {
    this.#stop.abort();
  }

  async write(path: string, body: unknown): Promise<void> {
    const began = performance.now();
    try {
      for await (const chunk of stream(path, body, this.#stop.signal)) {
        this.status = "writing";
        const said = chunk.choices[0]?.delta?.content ?? chunk.choices[0]?.text ?? "";
        this.text += said;
        if (chunk.strandscope) this.#take(chunk.strandscope);
        this.#write(said, chunk.strandscope?.token?.number);
        this.seconds = (performance.now() - began) / 1000;
      }
      this.status = "done";
    } catch (error) {
      if (error instanceof DOMException && error.name === "AbortError") this.status = "stopped";
      else [this.status, this.wrong] = ["refused", told(error)];
    }
  }

  #take(own: Own): void {
    if (own.prompt_tokens !== undefined) this.#prompt = own.prompt_tokens;
    for (const [name, one] of Object.entries(own.monitors ?? {})) {
      this.#thresholds[name] = one.thresholds;
      if (one.drift && one.drift.sequences >= (held.drift[name]?.sequences ?? 0)) held.drift[name] = one.drift;
    }
    if (own.edits) this.told.push(`held by ${own.edits.expression}`, ...own.edits.told);
    for (const [name, one] of Object.entries(own.scores ?? {})) {
      one.tokens.forEach((scores, number) => {
        const place = one.first + number - this.#prompt;
        if (place < 0) return;
        const token = this.#at(place);
        scores.forEach((score, concept) => {
          const threshold = this.#thresholds[name]?.[concept];
          if (score === null || threshold === null || threshold === undefined) return;
          token.over = Math.max(token.over ?? -Infinity, score - threshold);
        });
      });
    }
    this.alarms.push(...(own.alarms ?? [])); // of a pass, or of the end alone
    if (own.ended !== undefined && own.ended !== "stop" && own.ended !== "length") this.told.push(`ended: ${own.ended}`);
  }

  // What was said, at the token that was read with it: a token may add nothing yet, or what the ones before it began.
  #write(said: string, number: number | undefined): void {
    const place = number === undefined ? this.tokens.length - 1 : number - this.#prompt;
    if (place >= 0) this.#at(place).text += said;
  }

  #at(place: number): Token {
    while (this.tokens.length <= place) this.tokens.push({ text: "", over: null });
    return this.tokens[place]!;
  }
}
