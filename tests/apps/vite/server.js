import { createServer } from "node:http";
import { readFile } from "node:fs/promises";

createServer(async (request, response) => {
  response.end(await readFile(new URL("./dist/index.html", import.meta.url)));
}).listen(process.env.PORT);
