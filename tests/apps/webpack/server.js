const { readdirSync } = require("node:fs");

require("node:http")
  .createServer((request, response) => response.end(readdirSync(`${__dirname}/dist`).join("\n")))
  .listen(process.env.PORT);
