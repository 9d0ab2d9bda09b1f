const path = require("node:path");

module.exports = {
  entry: "./src/main.js",
  output: { path: path.resolve(__dirname, "dist"), filename: "board.[contenthash].js", clean: true },
  module: {
    rules: [
      { test: /\.css$/, use: ["style-loader", "css-loader"] },
      { test: /\.txt$/, type: "asset/source" },
      { test: /\.svg$/, type: "asset/inline" },
    ],
  },
};
