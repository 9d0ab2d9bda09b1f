const { readFileSync } = require("node:fs");

require("node:http")
  .createServer((request, response) => response.end(readFileSync(`${__dirname}/views/index.html`)))
  .listen(process.env.PORT);
