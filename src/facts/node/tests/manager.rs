//! Who installs the packages, and which release of it.

use super::{BERRY, CLASSIC, one, some};

#[test]
fn which_manager() {
    let of = |files: &[(&str, &str)], name, origin| {
        one(files, "node.manager", Some((name, origin)));
    };
    let p = ("package.json", "{}");
    let npm = ("package-lock.json", "{}");
    let classic = ("yarn.lock", CLASSIC);
    let berry = ("yarn.lock", BERRY);
    let pnpm = ("pnpm-lock.yaml", "lockfileVersion: '9.0'");
    of(&[p], "npm", "default");
    of(&[p, npm], "npm", "package-lock.json");
    of(&[p, ("npm-shrinkwrap.json", ""), npm], "npm", "npm-shrinkwrap.json");
    of(&[p, classic], "yarn", "yarn.lock");
    of(&[p, berry], "berry", "yarn.lock");
    of(&[p, pnpm], "pnpm", "pnpm-lock.yaml");
    of(&[p, ("bun.lock", "")], "bun", "bun.lock");
    of(&[p, ("bun.lockb", "")], "bun", "bun.lockb");
    of(&[p, npm, pnpm, classic], "yarn", "yarn.lock");
    of(&[p, npm, pnpm], "pnpm", "pnpm-lock.yaml");
    let says = |text| ("package.json", text);
    let at = "package.json:1";
    of(&[says("{\"packageManager\": \"pnpm@9.1.0\"}"), npm], "pnpm", at);
    of(&[says("{\"packageManager\": \"yarn@1.22.19\"}"), berry], "yarn", at);
    of(&[says("{\"packageManager\": \"yarn@3.2.1\"}")], "berry", at);
    of(&[says("{\"packageManager\": \"yarn@^3\"}")], "berry", at);
    of(&[says("{\"packageManager\": \"cnpm@9.1.0\"}"), pnpm], "pnpm", "pnpm-lock.yaml");
    of(&[says("{\"packageManager\": \"npm@10.1.0\", \"volta\": {\"pnpm\": \"9\"}}")], "npm", at);
    of(&[says("{\"volta\": {\"yarn\": \"1.22.19\", \"node\": \"20.1.0\"}}"), npm], "yarn", at);
    of(&[says("{\"volta\": {\"pnpm\": \"9\"}, \"engines\": {\"yarn\": \"1\"}}")], "pnpm", at);
    of(&[says("{\"engines\": {\"pnpm\": \">=8\"}}"), npm], "pnpm", at);
    of(&[says("{\"engines\": {\"npm\": \"no\", \"yarn\": \">=1.22\"}}"), npm], "yarn", at);
    of(&[says("{\"engines\": {\"yarn\": \">=1.22\"}}"), berry], "berry", at);
    of(&[says("{\"engines\": {\"yarn\": \">=2\"}}")], "berry", at);
    of(&[says("{\"engines\": {\"yarn\": \">=2\"}}"), classic], "berry", at);
    // npm comes with Node, so naming it alone says little.
    of(&[says("{\"engines\": {\"npm\": \">=9\"}}"), classic], "yarn", "yarn.lock");
    of(&[says("{\"engines\": {\"npm\": \">=9\"}}"), classic, npm], "npm", at);
    of(&[says("{\"engines\": {\"npm\": \">=9\", \"yarn\": \"1\"}}"), npm], "yarn", at);
    of(
        &[says("{\"engines\": {\"pnpm\": \"9\", \"yarn\": \"1\"}}"), npm],
        "npm",
        "package-lock.json",
    );
}

#[test]
fn a_yarn_that_the_app_brings_along() {
    let names = [
        "node.manager",
        "node.yarn.path",
        "node.manager.version",
        "node.manager.series",
        "node.inputs",
    ];
    let settings = ".yarnrc.yml";
    let path = ".yarn/releases/yarn-3.2.1.cjs";
    let yarnrc = "nodeLinker: node-modules\n\nyarnPath: .yarn/releases/yarn-3.2.1.cjs\n";
    let files = [
        ("package.json", "{\"packageManager\": \"npm@10.0.0\"}"),
        (settings, yarnrc),
        (path, ""),
        ("yarn.lock", "__metadata:\n  version: 6\n"),
    ];
    some(
        &files,
        &names,
        "berry; .yarn/releases/yarn-3.2.1.cjs; 3.2.1; 3; \
         .yarn/releases/ .yarn/releases/yarn-3.2.1.cjs .yarnrc.yml package.json yarn.lock",
    );
    one(&files, "node.manager", Some(("berry", ".yarnrc.yml:3")));
    let missing = [files[0], files[1]];
    some(&missing, &names[..3], "npm; -; 10.0.0");
    let elsewhere = [files[0], (settings, "yarnPath: tools/yarn.js"), ("tools/yarn.js", "")];
    some(&elsewhere, &names, "berry; tools/yarn.js; -; 4; .yarnrc.yml package.json tools/yarn.js");
}

#[test]
fn which_release_of_the_manager() {
    let names = ["node.manager.version", "node.manager.series", "node.manager.release"];
    let of = |files: &[(&str, &str)], expected| some(files, &names, expected);
    let node = |version| (".nvmrc", version);
    let p = ("package.json", "{}");
    of(&[p, node("24.1.0")], "-; 11; 11.21.2");
    of(&[p, node("20.17.0")], "-; 11; 11.21.2");
    of(&[p, node("20.16.0")], "-; 10; 10.9.9");
    of(&[p, node("20.4.0")], "-; 9; 9.9.4");
    of(&[p, node("18.20.8")], "-; 10; 10.9.9");
    of(&[p, node("16.20.2")], "-; 9; 9.9.4");
    of(&[p, node("14.21.3")], "-; 8; 8.19.4");
    of(&[p, node("12.22.12")], "-; 8; 8.19.4");
    of(&[p, node("8.17.0")], "-; -; -");
    let yarn = |version| format!("__metadata:\n  version: {version}\n");
    of(&[p, ("yarn.lock", CLASSIC)], "-; 1; 1.22.22");
    of(&[p, ("yarn.lock", &yarn("10"))], "-; 4; 4.18.1");
    of(&[p, ("yarn.lock", &yarn("9"))], "-; 4; 4.14.1");
    of(&[p, ("yarn.lock", &yarn("8"))], "-; 4; 4.13.0");
    of(&[p, ("yarn.lock", &yarn("6"))], "-; 3; 3.8.7");
    of(&[p, ("yarn.lock", &yarn("5"))], "-; 3; 3.1.1");
    of(&[p, ("yarn.lock", &yarn("4"))], "-; 3; 3.0.2");
    of(&[p, ("yarn.lock", &yarn("99"))], "-; -; -");
    of(&[p, ("yarn.lock", ""), (".yarnrc.yml", "")], "-; 4; 4.18.1");
    of(&[p, ("yarn.lock", ""), (".yarnrc.yml", ""), node("16.20.2")], "-; 3; 3.8.7");
    let pnpm = |version| format!("lockfileVersion: '{version}'\n");
    of(&[p, ("pnpm-lock.yaml", &pnpm("9.0"))], "-; 10; 10.34.9");
    of(&[p, ("pnpm-lock.yaml", &pnpm("6.1"))], "-; 8; 8.15.9");
    of(&[p, ("pnpm-lock.yaml", &pnpm("5.4"))], "-; 7; 7.33.7");
    of(&[p, ("pnpm-lock.yaml", &pnpm("9.0")), node("16.20.2")], "-; -; -");
    of(&[p, ("bun.lock", "")], "-; -; -");
    let says = |text| ("package.json", text);
    of(&[says("{\"packageManager\": \"pnpm@9.1.0+sha512.00\"}")], "9.1.0; 9; 9.1.0");
    of(&[says("{\"packageManager\": \"yarn@4.0.0-rc.50\"}")], "4.0.0-rc.50; 4; 4.0.0-rc.50");
    of(&[says("{\"volta\": {\"npm\": \"9.8.1\"}}")], "9.8.1; 9; 9.8.1");
    of(&[says("{\"engines\": {\"npm\": \"10.2.3\"}}")], "10.2.3; 10; 10.2.3");
    // pnpm and Yarn refuse to run when `engines` does not allow them.
    let nine = says("{\"engines\": {\"pnpm\": \"^9\"}}");
    of(&[nine, ("pnpm-lock.yaml", &pnpm("9.0"))], "-; 9; 9.15.9");
    of(&[says("{\"packageManager\": \"npm@10\"}")], "-; 10; 10.9.9");
    of(&[says("{\"engines\": {\"npm\": \">=99\"}}")], "-; 11; 11.21.2");
    one(&[p, ("yarn.lock", &yarn("8"))], "node.manager.release", Some(("4.13.0", "yarn.lock")));
    // A version said of another manager is not this one's.
    of(&[says("{\"volta\": {\"npm\": \"9.8.1\"}}"), ("yarn.lock", CLASSIC)], "-; 1; 1.22.22");
}
