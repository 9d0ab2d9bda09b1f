// Makes of what package managers read and leave what depends on the packages alone.
//
//   npm FROM TO      copies the content of a cache; the index, which holds addresses
//                    and times, stays behind: with the hash of the lock npm finds it
//   pnpm FOLDER      removes the times from the index of a store
//   lock FILE…       gives each package of an npm lock an address, without which npm
//                    would ask the registry for one before it looks at the hash
//   hosts FILE REGISTRY
//                    has a yarn.lock of Yarn 1 name this registry instead of the public
//   production       removes the packages for development from each package.json
import fs from "node:fs";
import path from "node:path";

const [what, from, to] = process.argv.slice(2);
const files = (folder) =>
  fs.readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => path.join(entry.parentPath ?? entry.path, entry.name));

if (what === "npm") {
  // Where the lock names no package, npm has fetched nothing.
  const content = path.join(from, "content-v2");
  if (fs.existsSync(content)) fs.cpSync(content, path.join(to, "content-v2"), { recursive: true });
} else if (what === "lock") {
  for (const file of process.argv.slice(3).filter((file) => fs.existsSync(file))) {
    const lock = JSON.parse(fs.readFileSync(file, "utf8"));
    for (const [at, entry] of Object.entries(lock.packages ?? {})) {
      if (!entry.integrity || entry.resolved) continue;
      const name = entry.name ?? at.slice(at.lastIndexOf("node_modules/") + "node_modules/".length);
      entry.resolved = `https://registry.invalid/${name}/-/${path.basename(name)}-${entry.version}.tgz`;
    }
    fs.writeFileSync(file, JSON.stringify(lock));
  }
} else if (what === "hosts") {
  // The public registry has two names, one of npm's and one of Yarn's.
  const resolved = /(resolved ")https?:\/\/registry\.(?:npm|yarn)[a-z]*\.[a-z]+\/(?=[^"]+\/-\/)/g;
  const lock = fs.readFileSync(from, "utf8");
  fs.writeFileSync(from, lock.replace(resolved, (_, start) => `${start}${to}/`));
} else if (what === "production") {
  for (const file of files(".").filter((file) => path.basename(file) === "package.json")) {
    const manifest = JSON.parse(fs.readFileSync(file, "utf8"));
    delete manifest.devDependencies;
    fs.writeFileSync(file, JSON.stringify(manifest));
  }
} else {
  for (const file of files(from).filter((file) => file.endsWith(".json"))) {
    const text = fs.readFileSync(file, "utf8");
    const stable = text.replace(/"checkedAt":\d+/g, '"checkedAt":0');
    if (stable !== text) fs.writeFileSync(file, stable);
  }
}
