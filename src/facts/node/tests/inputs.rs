//! Which files installing may read.

use super::{BERRY, check, one, some};

#[test]
fn inputs_of_each_manager() {
    let of = |files: &[(&str, &str)], expected| some(files, &["node.inputs"], expected);
    let berry = [
        ("package.json", "{}"),
        ("yarn.lock", BERRY),
        (".npmrc", ""),
        (".pnp.cjs", ""),
        (".yarn/cache/a-npm-1.zip", ""),
        (".yarn/install-state.gz", ""),
        (".yarn/patches/a.patch", ""),
        (".yarn/plugins/x.cjs", ""),
        (".yarn/sdks/x/y.js", ""),
        (".yarn/versions/1.yml", ""),
        (".yarnrc", ""),
        (".yarnrc.yml", ""),
        ("index.js", ""),
        ("package-lock.json", ""),
    ];
    of(
        &berry,
        ".npmrc .pnp.cjs .yarn/cache/ .yarn/patches/ .yarn/plugins/ .yarn/sdks/ .yarn/versions/ \
         .yarnrc .yarnrc.yml package.json yarn.lock",
    );
    let pnpm = [
        ("package.json", "{\"pnpm\": {\"patchedDependencies\": {\"a@1\": \"fixes/a.patch\"}}}"),
        ("pnpm-lock.yaml", ""),
        ("pnpm-workspace.yaml", "packages:\n  - 'apps/*'\n  - '!apps/old'\n  - libs/**\n"),
        (".pnpmfile.cjs", ""),
        ("apps/new/package.json", "{}"),
        ("apps/new/index.js", ""),
        ("apps/old/package.json", "{}"),
        ("apps/new/deep/package.json", "{}"),
        ("fixes/a.patch", ""),
        ("fixes/b.patch", ""),
        ("libs/a/b/package.json", "{}"),
        ("patches/c.patch", ""),
    ];
    of(
        &pnpm,
        ".pnpmfile.cjs apps/new/package.json fixes/a.patch libs/a/b/package.json package.json \
         patches/ pnpm-lock.yaml pnpm-workspace.yaml",
    );
    of(
        &[("package.json", "{}"), ("bun.lock", ""), ("bunfig.toml", "")],
        "bun.lock bunfig.toml package.json",
    );
}

#[test]
fn inputs_of_workspaces_and_folders() {
    let of = |files: &[(&str, &str)], expected| some(files, &["node.inputs"], expected);
    let members = [
        ("packages/a/package.json", "{\"dependencies\": {\"l\": \"file:../../libs/l\"}}"),
        ("packages/a/index.js", ""),
        ("packages/b/package.json", "{\"scripts\": {\"postinstall\": \"x\"}}"),
        ("packages/b/x.js", ""),
        ("other/package.json", "{}"),
        ("libs/l/package.json", "{\"dependencies\": {\"m\": \"link:../m\"}}"),
        ("libs/l/l.js", ""),
        ("libs/m/m.js", ""),
        ("libs/more/m.js", ""),
    ];
    let with = |manifest| {
        let mut files = members.to_vec();
        files.push(("package.json", manifest));
        files
    };
    let found = "libs/l/ libs/l/package.json libs/m/ package.json packages/a/package.json \
                 packages/b/ packages/b/package.json";
    of(&with("{\"workspaces\": [\"packages/*\"]}"), found);
    of(&with("{\"workspaces\": {\"packages\": [\"./packages/*/\"]}}"), found);
    of(
        &with("{\"workspaces\": [\"packages/*\", \"!packages/a\"]}"),
        "package.json packages/b/ packages/b/package.json",
    );
    of(&with("{\"workspaces\": [\"{other,none}\"]}"), "other/package.json package.json");
    of(&with("{\"devDependencies\": {\"m\": \"portal:libs/m\"}}"), "libs/m/ package.json");
    of(
        &with("{\"resolutions\": {\"m\": \"patch:m@1#./libs/m/m.js\"}}"),
        "libs/m/m.js package.json",
    );
    of(&with("{\"dependencies\": {\"o\": \"file:../outside\", \"s\": \".\"}}"), "package.json");
    some(
        &[("package.json", "{\"dependencies\": {\"me\": \"file:.\"}}"), ("a/b.js", "")],
        &["node.inputs"],
        "a/ package.json",
    );
    check(
        &[("package.json", "{\n\"workspaces\": [\"a[\"]}")],
        Err("package.json:2: `a[` is not a pattern: unclosed character class; missing ']'"),
    );
    check(
        &[("package.json", "{}"), ("pnpm-workspace.yaml", "packages: x")],
        Err("pnpm-workspace.yaml:1: `packages` is not a list: write each on a `- ` line"),
    );
    check(
        &[("package.json", "{\"workspaces\": [\"a\"]}"), ("a/package.json", "{\n!}")],
        Err("a/package.json:2: not readable: key must be a string at line 2 column 1"),
    );
}

#[test]
fn scripts_that_run_while_installing_may_read_all() {
    let of = |folder: &str, name: &str, expected: &str| {
        let manifest = format!("{{\"scripts\": {{\"build\": \"x\", \"{name}\": \"y\"}}}}");
        let path = format!("{folder}package.json");
        let files = [(path.as_str(), manifest.as_str()), ("a.py", ""), ("web/a.js", "")];
        some(&files, &["node.scripts.install", "node.inputs"], expected);
    };
    for name in ["preinstall", "install", "postinstall", "prepare", "prepublish"] {
        of("", name, &format!("{name}; a.py package.json web/"));
    }
    of("web/", "prepare", "prepare; web/ web/package.json");
    of("", "prestart", "-; package.json");
    let several = "{\"scripts\": {\"prepare\": \"x\", \"postinstall\": \"y\"}}";
    one(
        &[("package.json", several)],
        "node.scripts.install",
        Some(("postinstall\nprepare", "package.json:1")),
    );
}
