//! The collectors over whole trees, and every parser over rubbish.

use std::collections::BTreeMap;

use super::{FactError, Files, collect};

/// Files in memory.
pub struct Tree<'t> {
    texts: BTreeMap<&'t str, &'t str>,
}

impl<'t> Tree<'t> {
    /// A tree of these paths and texts.
    pub fn new(files: &[(&'t str, &'t str)]) -> Tree<'t> {
        Tree { texts: files.iter().copied().collect() }
    }
}

impl Files for Tree<'_> {
    fn paths(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.texts.keys().copied())
    }

    fn has(&self, path: &str) -> bool {
        self.texts.contains_key(path)
    }

    fn read(&self, path: &str) -> Result<Option<String>, FactError> {
        Ok(self.texts.get(path).map(|text| (*text).to_owned()))
    }
}

/// Every fact but `python.allows.*` and `ruby.allows.*`, one `name = value (origin)` a line.
#[track_caller]
fn check(files: &[(&str, &str)], expected: Result<&[&str], &str>) {
    let found = collect(&Tree::new(files)).map(|facts| {
        let facts = facts.iter().filter(|(name, _)| !name.contains(".allows."));
        let line = |(name, fact): (&str, &super::Fact)| {
            format!("{name} = {} ({})", fact.value.replace('\n', " "), fact.origin)
        };
        facts.map(line).collect::<Vec<_>>()
    });
    let expected = expected.map(|lines| lines.iter().map(|line| (*line).to_owned()).collect());
    assert_eq!(found.map_err(|err| err.to_string()), expected.map_err(str::to_owned));
}

#[track_caller]
fn allows(files: &[(&str, &str)], expected: &str) {
    let facts = collect(&Tree::new(files)).expect("facts");
    let series = facts.iter().filter_map(|(name, _)| name.strip_prefix("python.allows."));
    let mut series: Vec<&str> = series.collect();
    series.sort_by_key(|text| text.len());
    assert_eq!(series.join(" "), expected);
}

const POETRY: &str = "[metadata]\npython-versions = \">=3.11\"\n";
const PROJECT: &str =
    "[project]\nname = \"x\"\nrequires-python = \">=3.12\"\ndependencies = [\"flask==3\"]\n";

#[test]
fn nothing_and_others() {
    check(&[], Ok(&[]));
    check(
        &[
            (".python-version", "rubbish"),
            ("Dockerfile", ""),
            ("Gemfile", ""),
            ("Procfile", "web: x\nworker: y\n"),
            ("package.json", "{}"),
            ("setup.py", ""),
        ],
        Ok(&[
            "dockerfile = Dockerfile (Dockerfile)",
            "node.dir = . (package.json)",
            "node.inputs = package.json (package.json)",
            "node.major = 24 (default)",
            "node.manager = npm (default)",
            "node.manager.release = 11.21.2 (default)",
            "node.manager.series = 11 (default)",
            "node.manifest = package.json (package.json)",
            "node.release = 24.21.0 (default)",
            "procfile.web = x (Procfile:1)",
            "procfile.worker = y (Procfile:2)",
            "ruby.gemfile = Gemfile (Gemfile)",
            "ruby.inputs = Gemfile (Gemfile)",
        ]),
    );
    check(
        &[("Procfile", "web\n")],
        Err("Procfile:1: expected `type: command`, such as `web: bin/start`"),
    );
}

#[test]
fn pip() {
    check(
        &[
            ("requirements.txt", "-r base.txt\n-e git+https://git.example/x#egg=x\n./lib\n"),
            ("base.txt", "Django==5.2 --hash=sha256:0\nDjango==4.2; python_version<'3.10'\n"),
            ("runtime.txt", "python-3.12.1\n"),
        ],
        Ok(&[
            "python.exact = 3.12.1 (runtime.txt:1)",
            "python.inputs = base.txt requirements.txt (requirements.txt)",
            "python.lock = requirements.txt (requirements.txt)",
            "python.manager = pip (requirements.txt)",
            "python.package.django =  (base.txt:1)",
            "python.package.x =  (requirements.txt:2)",
            "python.requirement.path = ./lib (requirements.txt:3)",
            "python.requirement.vcs = -e git+https://git.example/x#egg=x (requirements.txt:2)",
            "python.version = 3.12.1 (runtime.txt:1)",
        ]),
    );
    check(
        &[("requirements/base.txt", ""), ("requirements/prod.txt", "a==1 --hash=sha256:0")],
        Ok(&[
            "python.hashes = all (requirements/prod.txt)",
            "python.inputs = requirements/prod.txt (requirements/prod.txt)",
            "python.lock = requirements/prod.txt (requirements/prod.txt)",
            "python.manager = pip (requirements/prod.txt)",
            "python.package.a = 1 (requirements/prod.txt:1)",
        ]),
    );
}

#[test]
fn uv() {
    let lock = "requires-python = \">=3.12\"\n\
                [[package]]\nname = \"x\"\nsource = { editable = \".\" }\n\
                dependencies = [{ name = \"a\" }, { name = \"m\" }]\n\
                [[package]]\nname = \"a\"\nversion = \"1\"\nsource = { registry = \"https://index.example\" }\n\
                wheels = [{ hash = \"sha256:0\" }]\n\
                [[package]]\nname = \"m\"\nversion = \"2\"\nsource = { editable = \"libs/m\" }\n";
    check(
        &[
            ("uv.lock", lock),
            ("requirements.txt", "export==1"),
            ("pyproject.toml", "[project]\nname = \"x\"\n[build-system]\nrequires = []\n"),
            ("libs/m/pyproject.toml", ""),
            ("src/a/b/__init__.py", ""),
            ("src/x/__init__.py", ""),
        ],
        Ok(&[
            "python.hashes = all (uv.lock)",
            "python.inputs = libs/m/pyproject.toml pyproject.toml uv.lock (uv.lock)",
            "python.lock = uv.lock (uv.lock)",
            "python.manager = uv (uv.lock)",
            "python.package.a = 1 (uv.lock:7)",
            "python.package.m = 2 (uv.lock:12)",
            "python.project = package (pyproject.toml)",
            "python.requirement.path = m @ libs/m (uv.lock:12)",
            "python.src = src (src/x/__init__.py)",
            "python.version = >=3.12 (uv.lock:1)",
        ]),
    );
    check(
        &[("uv.lock", "")],
        Err("uv.lock: there is no pyproject.toml beside it: commit it, or remove uv.lock"),
    );
}

#[test]
fn other_managers() {
    check(
        &[("pyproject.toml", PROJECT)],
        Ok(&[
            "python.inputs = pyproject.toml (pyproject.toml)",
            "python.lock = pyproject.toml (pyproject.toml)",
            "python.manager = pyproject (pyproject.toml)",
            "python.package.flask = 3 (pyproject.toml:4)",
            "python.version = >=3.12 (pyproject.toml:3)",
        ]),
    );
    check(&[("pyproject.toml", "[tool.ruff]\n")], Ok(&[]));
    check(
        &[
            ("poetry.lock", POETRY),
            ("pyproject.toml", "[tool.poetry.dependencies]\npython = \"^3.11\"\n"),
        ],
        Ok(&[
            "python.inputs = poetry.lock pyproject.toml (poetry.lock)",
            "python.lock = poetry.lock (poetry.lock)",
            "python.manager = poetry (poetry.lock)",
            "python.version = >=3.11 (poetry.lock:2)",
        ]),
    );
    check(
        &[("Pipfile", ""), ("Pipfile.lock", "{}"), ("pyproject.toml", "")],
        Ok(&[
            "python.inputs = Pipfile Pipfile.lock (Pipfile.lock)",
            "python.lock = Pipfile.lock (Pipfile.lock)",
            "python.manager = pipenv (Pipfile.lock)",
        ]),
    );
    check(
        &[("poetry.lock", ""), ("uv.lock", ""), ("pyproject.toml", "")],
        Err("uv.lock: uv.lock and poetry.lock both lock the dependencies: remove one of them"),
    );
    for (path, text) in
        [("pyproject.toml", "\n[x"), ("pylock.toml", "a=1\na=2"), ("Pipfile.lock", "{\n,")]
    {
        let err = collect(&Tree::new(&[(path, text)])).expect_err(path);
        assert_eq!((err.path.as_str(), err.line), (path, Some(2)), "{err}");
    }
}

#[test]
fn versions() {
    let r = ("requirements.txt", "");
    allows(&[], "");
    allows(&[r], "3.9 3.10 3.11 3.12 3.13 3.14");
    allows(&[r, (".python-version", "3.12")], "3.12");
    allows(&[r, (".python-version", "3.8")], "");
    allows(&[("pyproject.toml", PROJECT)], "3.12 3.13 3.14");
    allows(&[("pyproject.toml", PROJECT), (".python-version", "3.13.1")], "3.13");
    allows(&[r, (".python-version", "3.12"), ("runtime.txt", "python-3.12.4")], "3.12");
    allows(&[r, (".tool-versions", "python 3.11.2"), ("mise.toml", "rubbish [")], "3.11");
    allows(&[r, (".python-version", "3.12"), (".tool-versions", "python 3.9.1")], "3.12");
}

#[test]
fn contradictions() {
    check(
        &[("pyproject.toml", PROJECT), (".python-version", "3.11")],
        Err(
            ".python-version:1: asks for Python 3.11, but pyproject.toml:3 asks for >=3.12: make them agree",
        ),
    );
    check(
        &[("requirements.txt", ""), ("runtime.txt", "python-3.11.1"), (".python-version", "3.12")],
        Err(
            ".python-version:1: asks for Python 3.12, but runtime.txt:1 asks for 3.11.1: make them agree",
        ),
    );
    check(
        &[("requirements.txt", ""), (".python-version", "3.12.*")],
        Err(".python-version:1: `3.12.*` is not a version: write `3.12`"),
    );
}

/// Pieces that the formats give a meaning to.
const PIECES: [&str; 59] = [
    "\n",
    "\r\n",
    " ",
    "\t",
    "\\\n",
    "#",
    "'",
    "\"",
    "[",
    "]",
    "{",
    "}",
    "(",
    ")",
    "=",
    "==",
    ">=",
    "~",
    "^",
    "*",
    ",",
    ".",
    "..",
    "/",
    ":",
    ";",
    "@",
    "-",
    "-r ",
    "-e ",
    "-c",
    "--hash=",
    "||",
    "3",
    "3.12",
    "99999999999999999999",
    "a",
    "é",
    "\u{feff}",
    "\0",
    "git+",
    "://",
    "name",
    "package",
    "[[package]]\n",
    "python = ",
    "[project]\n",
    "dependencies",
    "ruby ",
    "ruby '3.3.0'\n",
    "#{",
    "GEM\n",
    "    ",
    "  specs:\n",
    "CHECKSUMS\n",
    "RUBY VERSION\n",
    "File.read",
    "lts/",
    "packages:\n  - ",
];

/// The next number of a fixed sequence (xorshift), so that a failure repeats.
fn next(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    usize::try_from(*state >> 33).unwrap_or(0)
}

#[test]
fn rubbish_is_refused_without_a_panic() {
    let mut state = 0x9e37_79b9_7f4a_7c15;
    let mut parsers = super::python::parsers();
    parsers.extend(super::ruby::parsers());
    parsers.extend(super::node::parsers());
    for _ in 0..4000 {
        let length = next(&mut state) % 24;
        let text: String = (0..length).map(|_| PIECES[next(&mut state) % PIECES.len()]).collect();
        for parse in &parsers {
            parse(&text);
        }
        drop(text.parse::<super::Procfile>());
        drop(super::near_misses(&[&text, &format!("a/{text}")]));
        let quoted = format!("'DJANGO_SETTINGS_MODULE'{text}");
        let names = ["manage.py", "site/wsgi.py", "app.py", "site/settings.py"];
        let mut files: Vec<(&str, &str)> =
            names.iter().map(|name| (*name, quoted.as_str())).collect();
        files.push(("requirements.txt", "flask\ndjango"));
        drop(collect(&Tree::new(&files)));
    }
}

#[test]
fn cut_files_are_refused_without_a_panic() {
    let lock = "[[package]]\nname = \"é\"\nversion = \"1\"\nsource = { git = \"x\" }\n[metadata]\npython-versions = \"^3\"\n";
    let json = "{\"_meta\": {\"requires\": {\"python_version\": \"3.8\"}}, \"default\": {\"a\": {\"version\": \"==1\"}}}";
    for text in
        [lock, json, PROJECT, "a[x]==1 \\\n --hash=x\n-e git+x#egg=é\n", "~3.11 || ^3.12, >=3 <4"]
    {
        for (end, _) in text.char_indices() {
            super::python::parsers().iter().for_each(|parse| parse(&text[..end]));
        }
    }
    let lock = "GIT\n  remote: é\n  specs:\n    a (1-é)\nCHECKSUMS\n  a (1) sha256=0\nRUBY VERSION\n   ruby 3.3.8p1\n";
    let gemfile = "ruby \"~> #{File.read(\"é\")}\"\ngem 'é', :path => \"\\é#{\"#{x}\"}\"\n";
    for text in [lock, gemfile, "~> 3.3.0.é"] {
        for (end, _) in text.char_indices() {
            super::ruby::parsers().iter().for_each(|parse| parse(&text[..end]));
        }
    }
    let manifest = "{\"a\": {\"é\\\"\": [\"\\u00e9\", {}]}}";
    let settings = "packages:\n  - 'é*' # x\n  - \"b\"\nname: [\"é,\", 'b']\n";
    for text in [manifest, settings, "__metadata:\n  version: 8é\n", ">=18.1.0 <21 || lts/-1é"] {
        for (end, _) in text.char_indices() {
            super::node::parsers().iter().for_each(|parse| parse(&text[..end]));
        }
    }
}
