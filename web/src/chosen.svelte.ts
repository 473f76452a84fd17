// What is chosen, in one place and in the address: a concept, a site, an example, the section that is looked at.
type Name = "concept" | "site" | "example" | "at";
const NAMES: Name[] = ["concept", "site", "example", "at"];

class Chosen {
  concept = $state("");
  site = $state("");
  example = $state("");
  at = $state("");
  places = $state(0); // where the example stands, among what is shown

  constructor() {
    this.read();
    addEventListener("hashchange", () => this.read());
  }

  read(): void {
    const said = new URLSearchParams(location.hash.slice(1));
    for (const name of NAMES) this[name] = said.get(name) ?? "";
  }

  /** The address with these choices changed. */
  address(changed: Partial<Record<Name, string>>): string {
    const said = new URLSearchParams();
    for (const name of NAMES) {
      const value = changed[name] ?? this[name];
      if (value) said.set(name, value);
    }
    return `#${said}`;
  }

  choose(name: Name, value: string): void {
    this[name] = this[name] === value && name !== "at" ? "" : value;
    history.replaceState(null, "", this.address({}));
  }
}

export const chosen = new Chosen();
