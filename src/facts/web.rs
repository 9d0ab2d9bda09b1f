//! Where a Flask or FastAPI application object is.
//!
//! The files that people start from are looked through in a fixed order: at
//! the root, then in packages (also those in `src/`), the shallowest first. An
//! object made in the open (`app = Flask(…)`) beats one that a factory returns
//! (`app = create_app()`), and that beats the factory itself.

use super::{FactError, Facts, Files, depth, in_app, module_name};

/// The files that servers are pointed at, the likeliest first.
const ENTRIES: [&str; 7] =
    ["app.py", "main.py", "wsgi.py", "application.py", "server.py", "asgi.py", "__init__.py"];

/// How many packages deep an application is looked for.
const DEEPEST: usize = 2;

/// How an application object comes about, best first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Making {
    Object,
    Returned,
    Factory,
}

/// States `flask.app` and `fastapi.app`.
///
/// # Errors
/// What reading a candidate fails with.
pub fn collect(files: &dyn Files, facts: &mut Facts) -> Result<(), FactError> {
    let (flask, fastapi) =
        (facts.contains("python.package.flask"), facts.contains("python.package.fastapi"));
    let texts = candidates(files, facts.contains("python.src"))?;
    // `create_app` says nothing about the framework; the dependencies do, unless
    // both are there, and then it is Flask's habit.
    for (name, class, factories) in
        [("flask.app", "Flask", flask), ("fastapi.app", "FastAPI", fastapi && !flask)]
    {
        let found = texts.iter().enumerate().filter_map(|(rank, (path, module, text))| {
            let (making, object, line) = application(text, class)?;
            let usable = making == Making::Object || factories;
            usable.then_some((making, rank, format!("{module}:{object}"), format!("{path}:{line}")))
        });
        // Only gunicorn, which serves Flask, understands a call as the object.
        let found = found.filter(|(making, ..)| *making != Making::Factory || class == "Flask");
        if let Some((_, _, value, origin)) = found.min() {
            facts.insert(name, value, origin);
        }
    }
    Ok(())
}

/// Path, module and text of each file to look through, in order.
fn candidates(files: &dyn Files, src: bool) -> Result<Vec<(String, String, String)>, FactError> {
    let mut ranked = Vec::new();
    for path in files.paths() {
        let inner = if src { path.strip_prefix("src/").unwrap_or(path) } else { path };
        let (folder, name) = inner.rsplit_once('/').unwrap_or(("", inner));
        let Some(rank) = ENTRIES.iter().position(|entry| *entry == name) else { continue };
        if !in_app(path) {
            continue;
        }
        if let Some(module) = module_name(inner).filter(|_| depth(inner) <= DEEPEST) {
            ranked.push((depth(inner), folder, rank, path, module));
        }
    }
    ranked.sort();
    let mut texts = Vec::new();
    for (_, _, _, path, module) in ranked {
        if let Some(text) = files.read(path)? {
            texts.push((path.to_owned(), module, text));
        }
    }
    Ok(texts)
}

/// The best application that a module makes at its top level, with its line.
fn application(text: &str, class: &str) -> Option<(Making, String, usize)> {
    let found = (1..).zip(text.lines()).filter_map(|(line, content)| {
        if let Some(parameters) = content.strip_prefix("def create_app(") {
            let callable = callable_without_arguments(parameters);
            return callable.then(|| (Making::Factory, "create_app()".to_owned(), line));
        }
        let (target, value) = content.split_once('=')?;
        let target = target.split(':').next().unwrap_or_default();
        let name = target.trim_end();
        let plain = !name.is_empty() && name.chars().all(|c| c == '_' || c.is_alphanumeric());
        let callee = value.trim_start().split('(').next().filter(|_| value.contains('('))?;
        let making = match callee.trim().rsplit('.').next()? {
            callee if callee == class => Making::Object,
            "create_app" => Making::Returned,
            _ => return None,
        };
        plain.then(|| (making, name.to_owned(), line))
    });
    found.min_by_key(|(making, _, line)| (*making, *line))
}

/// Whether each parameter on the line has a default.
fn callable_without_arguments(parameters: &str) -> bool {
    let Some((inner, _)) = parameters.rsplit_once(')') else { return false };
    let inner = inner.split(") ->").next().unwrap_or_default();
    let optional = |part: &str| part.is_empty() || part.starts_with('*') || part.contains('=');
    inner.split(',').all(|part| optional(part.trim()))
}

#[cfg(test)]
mod tests {
    use crate::facts::collect;
    use crate::facts::tests::Tree;

    #[track_caller]
    fn check(package: &str, files: &[(&str, &str)], expected: Option<(&str, &str)>) {
        let mut all = vec![("requirements.txt", package)];
        all.extend(files);
        let facts = collect(&Tree::new(&all)).expect("facts");
        let name = format!("{}.app", package.lines().next().unwrap_or_default());
        let found = facts.fact(&name).map(|fact| (fact.value.as_str(), fact.origin.as_str()));
        assert_eq!(found, expected);
    }

    #[test]
    fn flask() {
        check(
            "flask",
            &[("app.py", "import flask\napp = Flask(__name__)")],
            Some(("app:app", "app.py:2")),
        );
        check(
            "flask",
            &[("app/server.py", "api: Flask = flask.Flask('x')")],
            Some(("app.server:api", "app/server.py:1")),
        );
        check(
            "flask",
            &[("src/x/__init__.py", ""), ("src/x/wsgi.py", "a = Flask(")],
            Some(("x.wsgi:a", "src/x/wsgi.py:1")),
        );
        check("flask", &[("app.py", "  app = Flask(__name__)")], None);
        check("flask", &[("tests/app.py", "app = Flask(__name__)")], None);
        check("flask", &[("app.py", "app = NotFlask()\nif app == Flask(): x")], None);
    }

    #[test]
    fn factories() {
        let factory = "def create_app(config=None) -> Flask:\n    return Flask(__name__)\n";
        check(
            "flask",
            &[("site/__init__.py", factory)],
            Some(("site:create_app()", "site/__init__.py:1")),
        );
        check(
            "flask",
            &[("site/__init__.py", factory), ("wsgi.py", "application = create_app()")],
            Some(("wsgi:application", "wsgi.py:1")),
        );
        check("flask", &[("app.py", "def create_app(config):\n")], None);
        check("django", &[("app.py", "app = create_app()")], None);
    }

    #[test]
    fn fastapi() {
        check("fastapi", &[("main.py", "app = FastAPI(\n")], Some(("main:app", "main.py:1")));
        check("fastapi", &[("main.py", "app = create_app()")], Some(("main:app", "main.py:1")));
        check("fastapi", &[("main.py", "def create_app():")], None);
        check("fastapi\nflask", &[("main.py", "app = create_app()")], None);
    }
}
