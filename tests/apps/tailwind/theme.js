module.exports = { colors: { chalk: "#eef2e6" } };
