// One reply while it is written: its tokens with what the monitors scored, and what the server told of it.
import { chat, Refused, type Alarm, type Own } from "./api";

export interface Token {
  text: string;
  share: number | null; // the largest score over its threshold's distance: 1 is the threshold
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

  async write(body: unknown): Promise<void> {
    const began = performance.now();
    try {
      for await (const chunk of chat(body, this.#stop.signal)) {
        this.status = "writing";
        this.text += chunk.choices[0]?.delta?.content ?? "";
        if (chunk.strandscope) this.#take(chunk.strandscope);
        this.seconds = (performance.now() - began) / 1000;
      }
      this.status = "done";
    } catch (error) {
      if (error instanceof DOMException && error.name === "AbortError") this.status = "stopped";
      else if (error instanceof Refused || error instanceof TypeError) [this.status, this.wrong] = ["refused", error.message];
      else throw error;
    }
  }

  #take(own: Own): void {
    if (own.prompt_tokens !== undefined) this.#prompt = own.prompt_tokens;
    for (const [name, one] of Object.entries(own.monitors ?? {})) this.#thresholds[name] = one.thresholds;
    if (own.edits) this.told.push(`held by ${own.edits.expression}`, ...own.edits.told);
    if (own.token) this.#at(own.token.number - this.#prompt).text = own.token.text;
    for (const [name, one] of Object.entries(own.scores ?? {})) {
      one.tokens.forEach((scores, number) => {
        const place = one.first + number - this.#prompt;
        if (place < 0) return;
        const token = this.#at(place);
        scores.forEach((score, concept) => {
          const threshold = this.#thresholds[name]?.[concept];
          if (score === null || threshold === null || threshold === undefined || threshold <= 0) return;
          token.share = Math.max(token.share ?? -Infinity, score / threshold);
        });
      });
    }
    if (own.ended === undefined) this.alarms.push(...(own.alarms ?? []));
    else if (own.ended !== "stop" && own.ended !== "length") this.told.push(`ended: ${own.ended}`);
  }

  #at(place: number): Token {
    while (this.tokens.length <= place) this.tokens.push({ text: "", share: null });
    return this.tokens[place]!;
  }
}
