// Makes of a package manager's cache what depends on the packages alone.
//
//   npm FROM TO   copies the content; the index, which holds addresses and times,
//                 stays behind: with the hash of the lock npm finds the content
//   pnpm FOLDER   removes the times from the index
import fs from "node:fs";
import path from "node:path";

const [what, from, to] = process.argv.slice(2);
const files = (folder) =>
  fs.readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => path.join(entry.parentPath ?? entry.path, entry.name));

if (what === "npm") {
  fs.cpSync(path.join(from, "content-v2"), path.join(to, "content-v2"), { recursive: true });
} else {
  for (const file of files(from).filter((file) => file.endsWith(".json"))) {
    const text = fs.readFileSync(file, "utf8");
    const stable = text.replace(/"checkedAt":\d+/g, '"checkedAt":0');
    if (stable !== text) fs.writeFileSync(file, stable);
  }
}
