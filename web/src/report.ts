// The page over a report that is embedded in the file: reads it, and puts the live page where the plain one stood.
import { mount } from "svelte";
import App from "./App.svelte";
import type { Page } from "./page";
import "./page.css";

const KNOWN = "strandscope/page/1";

function start(): void {
  const target = document.getElementById("app");
  const data = document.getElementById("data");
  if (!target || !data) return;
  const page = JSON.parse(data.textContent ?? "null") as Page | null;
  if (page?.schema !== KNOWN) {
    const note = document.createElement("p");
    note.setAttribute("role", "alert");
    note.textContent = `This file holds ${String(page?.schema ?? "no page")}, its scripts draw ${KNOWN}; the tables below are whole.`;
    target.prepend(note);
    return;
  }
  target.replaceChildren();
  mount(App, { target, props: { page } });
}

start();
