// The live bench: the same look as the report, over a running server.
import { mount } from "svelte";
import Bench from "./bench/Bench.svelte";
import "./page.css";
import "./bench/bench.css";
import "uplot/dist/uPlot.min.css";

const target = document.getElementById("app");
if (target) {
  target.replaceChildren();
  mount(Bench, { target });
}
