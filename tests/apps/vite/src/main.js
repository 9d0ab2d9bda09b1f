import "./style.css";
import { render } from "./board.js";

const notices = import.meta.glob("../notices/*.txt", { query: "?raw", import: "default", eager: true });

render(document.querySelector("#board"), Object.values(notices));
