import "./style.css";
import { render } from "./board.js";

const folder = require.context("../notices", false, /\.txt$/);

render(document.body, folder.keys().map((name) => folder(name)));
