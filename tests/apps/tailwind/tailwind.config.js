module.exports = { content: ["./views/**/*.html"], theme: { extend: require("./theme.js") } };
