//! The Node facts over whole trees.

mod inputs;
mod manager;

use crate::facts::collect;
use crate::facts::tests::Tree;

/// Every fact as `name = value (origin)`.
#[track_caller]
fn check(files: &[(&str, &str)], expected: Result<&[&str], &str>) {
    let found = collect(&Tree::new(files)).map(|facts| {
        let facts = facts.iter().map(|(name, fact)| {
            format!("{name} = {} ({})", fact.value.replace('\n', " "), fact.origin)
        });
        facts.collect::<Vec<_>>()
    });
    let expected = expected.map(|lines| lines.iter().map(|line| (*line).to_owned()).collect());
    assert_eq!(found.map_err(|err| err.to_string()), expected.map_err(str::to_owned));
}

/// The facts of these names, as `value; value`.
#[track_caller]
fn some(files: &[(&str, &str)], names: &[&str], expected: &str) {
    let facts = collect(&Tree::new(files)).expect("facts");
    let values: Vec<String> =
        names.iter().map(|name| facts.get(name).unwrap_or("-").replace('\n', " ")).collect();
    assert_eq!(values.join("; "), expected);
}

/// The value of a fact and its origin.
#[track_caller]
fn one(files: &[(&str, &str)], name: &str, expected: Option<(&str, &str)>) {
    let facts = collect(&Tree::new(files)).expect("facts");
    let found = facts.fact(name).map(|fact| (fact.value.as_str(), fact.origin.as_str()));
    assert_eq!(found, expected);
}

const CLASSIC: &str = "# yarn lockfile v1\n";
const BERRY: &str = "__metadata:\n  version: 8\n";

#[test]
fn rails_with_yarn() {
    let manifest = "{\n  \"name\": \"blog\",\n  \"main\": \"x.js\",\n  \"packageManager\": \"yarn@4.1.0+sha512.00\",\n  \
                    \"engines\": { \"node\": \">=18\" },\n  \"scripts\": {\n    \"build\": \"esbuild a\",\n    \
                    \"build:css\": \"sass b\"\n  },\n  \"dependencies\": {\n    \"@hotwired/turbo-rails\": \"^8.0.0\",\n    \
                    \"own\": \"github:me/own#v1\"\n  },\n  \"devDependencies\": { \"esbuild\": \"0.20.0\" }\n}\n";
    check(
        &[
            ("package.json", manifest),
            ("yarn.lock", BERRY),
            ("package-lock.json", "{}"),
            (".nvmrc", "# x\nlts/iron\n"),
            ("app/javascript/a.js", ""),
        ],
        Ok(&[
            "node.dir = . (package.json)",
            "node.git = own @ github:me/own#v1 (package.json:12)",
            "node.inputs = package.json yarn.lock (package.json)",
            "node.lock = yarn.lock (yarn.lock)",
            "node.lock.others = package-lock.json (package-lock.json)",
            "node.main = x.js (package.json:3)",
            "node.major = 20 (.nvmrc:2)",
            "node.manager = berry (package.json:4)",
            "node.manager.release = 4.1.0 (package.json:4)",
            "node.manager.series = 4 (package.json:4)",
            "node.manager.version = 4.1.0 (package.json:4)",
            "node.manifest = package.json (package.json)",
            "node.package.@hotwired/turbo-rails = ^8.0.0 (package.json:11)",
            "node.package.esbuild = 0.20.0 (package.json:14)",
            "node.package.own = github:me/own#v1 (package.json:12)",
            "node.package.production = yes (package.json:10)",
            "node.pnp = .pnp.cjs (default)",
            "node.release = 20.20.2 (.nvmrc:2)",
            "node.script.build = esbuild a (package.json:7)",
            "node.script.build:css = sass b (package.json:8)",
            "node.version = lts/iron (.nvmrc:2)",
        ]),
    );
}

#[test]
fn nothing_said() {
    check(&[(".nvmrc", "20"), ("yarn.lock", ""), ("tests/a/package.json", "<")], Ok(&[]));
    check(
        &[("package.json", "\u{feff}{}")],
        Ok(&[
            "node.dir = . (package.json)",
            "node.inputs = package.json (package.json)",
            "node.major = 24 (default)",
            "node.manager = npm (default)",
            "node.manager.release = 11.21.2 (default)",
            "node.manager.series = 11 (default)",
            "node.manifest = package.json (package.json)",
            "node.release = 24.21.0 (default)",
        ]),
    );
    // What is of another shape is not there.
    let odd = "{\"scripts\": [], \"dependencies\": {\"a\": 1}, \"engines\": \"x\", \"volta\": {\"node\": 1}, \
               \"workspaces\": \"x\", \"packageManager\": 1, \"main\": []}";
    let names = ["node.package.production", "node.version", "node.inputs", "node.main"];
    some(&[("package.json", odd)], &names, "-; -; package.json; -");
}

#[test]
fn which_manifest() {
    let at = |files: &[(&str, &str)], expected| {
        some(files, &["node.manifest", "node.dir", "node.ambiguous"], expected);
    };
    let build = "{\"scripts\": {\"build\": \"x\"}}";
    at(&[("package.json", "{}"), ("frontend/package.json", build)], "package.json; .; -");
    at(&[("frontend/package.json", build)], "frontend/package.json; frontend; -");
    at(
        &[("static/package.json", "{}"), ("static/yarn.lock", "")],
        "static/package.json; static; -",
    );
    at(&[("frontend/package.json", "{}")], "-; -; -");
    at(&[("frontend/package.json", "{\"scripts\": {\"start\": \"x\"}}")], "-; -; -");
    at(&[("a/b/package.json", build)], "-; -; -");
    at(
        &[("frontend/package.json", build), ("lib/package.json", "{}")],
        "frontend/package.json; frontend; -",
    );
    at(&[("a/package.json", build), ("b/package.json", build)], "-; -; a, b");
    for folder in [".github", "node_modules", "tests", "docs", "vendor"] {
        at(&[(&format!("{folder}/package.json"), build)], "-; -; -");
    }
    at(&[("{{ name }}/package.json", "{{% if x %}}")], "-; -; -");
    check(
        &[("a/package.json", build), ("b/package.json", build), ("Procfile", "web: x")],
        Ok(&["node.ambiguous = a, b (a/package.json)", "procfile.web = x (Procfile:1)"]),
    );
}

#[test]
fn below_the_root() {
    let manifest = "{\"scripts\": {\"build\": \"vite\"}}";
    let files = [
        ("frontend/package.json", manifest),
        ("frontend/pnpm-lock.yaml", "lockfileVersion: '6.0'\n"),
        ("frontend/.npmrc", ""),
        ("frontend/src/a.js", ""),
        ("package-lock.json", ""),
        (".nvmrc", "18"),
        ("manage.py", ""),
    ];
    let names =
        ["node.inputs", "node.lock", "node.release", "node.manager", "node.manager.release"];
    some(
        &files,
        &names,
        "frontend/.npmrc frontend/package.json frontend/pnpm-lock.yaml; frontend/pnpm-lock.yaml; \
         18.20.8; pnpm; 8.15.9",
    );
    let nearer = [files[0], files[5], ("frontend/.nvmrc", "20")];
    one(&nearer, "node.version", Some(("20", "frontend/.nvmrc:1")));
}

#[test]
fn which_node() {
    let names = ["node.version", "node.release", "node.major"];
    let of = |files: &[(&str, &str)], expected| {
        let mut all = vec![("package.json", "{}")];
        all.extend(files);
        some(&all, &names, expected);
    };
    let all = "{\"volta\": {\"node\": \"22.1.0\"}, \"engines\": {\"node\": \"^20\"}, \
               \"devEngines\": {\"runtime\": {\"name\": \"node\", \"version\": \"18\"}}}";
    let files = [
        ("package.json", all),
        (".nvmrc", "20.1.0"),
        (".node-version", "20.2.0"),
        (".tool-versions", "nodejs 20.3.0"),
        ("mise.toml", "[tools]\nnode = \"20.4.0\""),
    ];
    of(&files, "22.1.0; 22.1.0; 22");
    let without = ("package.json", all.replacen("volta", "other", 1));
    let without = (without.0, without.1.as_str());
    of(&[without, files[1], files[2], files[3], files[4]], "20.1.0; 20.1.0; 20");
    of(&[without, files[2], files[3], files[4]], "20.2.0; 20.2.0; 20");
    of(&[without, files[3], files[4]], "20.3.0; 20.3.0; 20");
    of(&[without, files[4]], "20.4.0; 20.4.0; 20");
    of(&[without], "^20; 20.20.2; 20");
    let last = "{\"devEngines\": {\"runtime\": [{\"name\": \"bun\"}, {\"name\": \"node\", \"version\": \"18\"}]}}";
    of(&[("package.json", last)], "18; 18.20.8; 18");
    of(&[(".nvmrc", "system"), (".tool-versions", "nodejs 22")], "22; 22.23.3; 22");
    of(&[(".mise.toml", "[tools]\nnode = \"lts\"")], "lts; 24.21.0; 24");
    of(&[(".nvmrc", "v20.11.1"), ("mise.toml", "rubbish [")], "v20.11.1; 20.11.1; 20");
    check(
        &[("package.json", "{}"), ("mise.toml", "\nrubbish [")],
        Err("mise.toml:2: not readable: key with no value, expected `=`"),
    );
}

#[test]
fn no_node_will_do() {
    let missing = |version: &str, expected| {
        let files = [("package.json", "{}"), (".nvmrc", version)];
        some(&files, &["node.release", "node.major"], "-; -");
        one(&files, "node.release.missing", expected);
    };
    missing(
        "11",
        Some((
            "`11` is asked for, and no release that forge knows is one: there are Node 12, 13, 14, 15, \
             16, 17, 18, 19, 20, 21, 22, 23, 24, 25 and 26",
            ".nvmrc:1",
        )),
    );
    missing(
        "banana",
        Some((
            "`banana` is not a Node version: write a version such as `24.1.0`, a range such as `^24`, \
             or `lts/*`",
            ".nvmrc:1",
        )),
    );
}

#[test]
fn contradictions() {
    let of = |version, engines: &str, expected| {
        let manifest = format!("{{\"engines\": {{\"node\": \"{engines}\"}}}}");
        let files = [("package.json", manifest.as_str()), (".nvmrc", version)];
        one(&files, "node.version.conflict", expected);
    };
    let at = "package.json:1";
    of(
        "20",
        ">=22",
        Some(("package.json:1 asks for Node >=22, but .nvmrc:1 asks for 20: 20.20.2 is used", at)),
    );
    of(
        "20.11.1",
        "20.10.0",
        Some((
            "package.json:1 asks for Node 20.10.0, but .nvmrc:1 asks for 20.11.1: 20.11.1 is used",
            at,
        )),
    );
    of("20", ">=18", None);
    of("20", "20.10.0", None);
    of("20.11.1", "lts/*", None);
    of(
        "23.6.0",
        "lts/*",
        Some((
            "package.json:1 asks for Node lts/*, but .nvmrc:1 asks for 23.6.0: 23.6.0 is used",
            at,
        )),
    );
    of("23.6.0", "node", None);
    of("20.11.1", "lts/iron", None);
    of("22.0.0", "lts/-1", None);
    of("20.11.1", "please", None);
}

#[test]
fn dependencies_from_git() {
    let of = |range: &str, expected: bool| {
        let manifest = format!("{{\"devDependencies\": {{\"a\": \"{range}\"}}}}");
        let facts = collect(&Tree::new(&[("package.json", &manifest)])).expect("facts");
        assert_eq!(facts.contains("node.git"), expected, "{range}");
    };
    for range in [
        "git+https://git.example/x.git#v1",
        "git+ssh://git@git.example/x",
        "git://git.example/x",
        "git@git.example:me/x.git",
        "https://git.example/me/x.git#main",
        "ssh://git@git.example/x",
        "github:me/x",
        "gitlab:me/x",
        "me/x",
        "me/x.js#v1/2",
    ] {
        of(range, true);
    }
    for range in [
        "^1.0.0",
        "file:a/b",
        "./a",
        "../b",
        "npm:@a/b@1",
        "https://a.example/x.tgz",
        "a/b/c",
        "@a/b",
        "*",
    ] {
        of(range, false);
    }
    let both = "{\"dependencies\": {\"b\": \"me/b\"}, \"devDependencies\": {\"a\": \"me/a\"}}";
    one(&[("package.json", both)], "node.git", Some(("b @ me/b", "package.json:1")));
}

#[test]
fn not_readable() {
    check(
        &[("package.json", "{\n  \"a\": 1\n  \"b\": 2\n}")],
        Err("package.json:3: not readable: expected `,` or `}` at line 3 column 3"),
    );
    check(
        &[("package.json", "[]")],
        Err("package.json: not a JSON object: it has to begin with `{`"),
    );
    check(
        &[("web/package.json", "{"), ("web/yarn.lock", "")],
        Err("web/package.json:1: not readable: EOF while parsing an object at line 1 column 1"),
    );
    check(
        &[("package.json", "{}"), (".yarnrc.yml", "a: 1\nyarnPath: *x")],
        Err(".yarnrc.yml:2: not readable: write `*x` in single quotes"),
    );
}
