//! Django: where manage.py is, which settings count, what can be started.
//!
//! Only what is written in plain sight is taken: a settings module that is put
//! together at run time gives no fact, and the buildpack asks for it. Modules
//! are dotted names relative to the folder of manage.py, as `python manage.py`
//! sees them; a `src/` folder with packages counts as a root.

use std::collections::BTreeSet;

use super::{FactError, Facts, Files, depth, in_app, is_dotted, module_name};

/// How many folders below the root manage.py may lie.
const DEEPEST: usize = 2;

/// The variable that names the settings.
const VARIABLE: &str = "DJANGO_SETTINGS_MODULE";

/// States the `django.*` facts; needs the `python.*` facts.
///
/// # Errors
/// What reading a file fails with.
pub fn collect(files: &dyn Files, facts: &mut Facts) -> Result<(), FactError> {
    let manage = match manage(files, facts.contains("python.package.django"))?.as_slice() {
        [] => return Ok(()),
        [one] => one.clone(),
        several => {
            facts.insert("django.ambiguous", several.join("\n"), several[0].clone());
            return Ok(());
        }
    };
    let folder = manage.rsplit_once('/').map_or(".", |(folder, _)| folder).to_owned();
    facts.insert("django.dir", folder.as_str(), manage.as_str());
    facts.insert("django.manage", manage.as_str(), manage.as_str());
    let mut app =
        App { files, folder: &folder, src: facts.contains("python.src"), paths: Vec::new() };
    // Of all others nobody asks.
    let asked = files.paths().filter(|path| path.ends_with(".py") || path.ends_with(".po"));
    app.paths = asked.filter_map(|path| Some((path, app.inner(path)?))).collect();
    // They are in order, and stay so where they are equally deep.
    app.paths.sort_by_cached_key(|(_, inner)| depth(inner));

    let by_manage = setting_in(files, &manage)?;
    let package = by_manage.as_ref().and_then(|(module, _)| module.split('.').next());
    let package = package.unwrap_or_default().to_owned();
    let (wsgi, asgi) = (app.server("wsgi.py", &package), app.server("asgi.py", &package));
    let mut setting = by_manage;
    for path in [&wsgi, &asgi].into_iter().flatten().map(|(path, _)| path) {
        if let Some(by_server) = setting_in(files, path)? {
            if setting.as_ref().map(|(module, _)| module) != Some(&by_server.0) {
                setting = Some(by_server);
            }
            break;
        }
    }
    for (name, server) in [("django.wsgi", wsgi), ("django.asgi", asgi)] {
        if let Some((path, module)) = server {
            facts.insert(name, module, path);
        }
    }
    let mut module = String::new();
    if let Some((name, origin)) = setting {
        if let Some(origin) = app.compress(&name)? {
            facts.insert("django.compress", "yes", origin);
        }
        if let Some(better) = for_production(&name, files) {
            facts.insert("django.settings.production", better, origin.as_str());
        }
        facts.insert("django.settings", name.as_str(), origin);
        module = name;
    }
    if let Some((package, origin)) = app.celery(&module)? {
        facts.insert("django.celery", package, origin);
    }
    if let Some(path) = app.untranslated() {
        facts.insert("django.messages", "yes", path);
    }
    Ok(())
}

/// Settings for production that stand beside settings whose name says that they
/// are for development.
fn for_production(module: &str, files: &dyn Files) -> Option<String> {
    let (package, name) = module.rsplit_once('.')?;
    if !["dev", "development", "local"].contains(&name) {
        return None;
    }
    let folder = package.replace('.', "/");
    ["production", "prod"]
        .iter()
        .find(|better| {
            let file = format!("{folder}/{better}.py");
            files.paths().any(|path| {
                path.strip_suffix(&file)
                    .is_some_and(|front| front.is_empty() || front.ends_with('/'))
            })
        })
        .map(|better| format!("{package}.{better}"))
}

/// The shallowest manage.py; several when nothing tells them apart.
fn manage(files: &dyn Files, django: bool) -> Result<Vec<String>, FactError> {
    let mut found: Vec<(&str, bool)> = Vec::new();
    let named = |path: &str| path == "manage.py" || path.ends_with("/manage.py");
    for path in files.paths().filter(|path| named(path) && depth(path) <= DEEPEST && in_app(path)) {
        let mentions = files.read(path)?.is_some_and(|text| text.contains(VARIABLE));
        if mentions || django {
            found.push((path, mentions));
        }
    }
    let Some(least) = found.iter().map(|(path, _)| depth(path)).min() else {
        return Ok(Vec::new());
    };
    found.retain(|(path, _)| depth(path) == least);
    if found.iter().any(|(_, mentions)| *mentions) {
        found.retain(|(_, mentions)| *mentions);
    }
    Ok(found.into_iter().map(|(path, _)| path.to_owned()).collect())
}

/// The settings module that a file sets, and `file:line`.
fn setting_in(files: &dyn Files, path: &str) -> Result<Option<(String, String)>, FactError> {
    let text = files.read(path)?.unwrap_or_default();
    Ok(setting(&text).map(|(module, line)| (module, format!("{path}:{line}"))))
}

/// The settings module that a text sets by `setdefault` or by assignment, with
/// its line. A file that first sets test settings for `manage.py test` means
/// the second.
fn setting(text: &str) -> Option<(String, usize)> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices(VARIABLE) {
        let (before, rest) = (&text[..at], &text[at + VARIABLE.len()..]);
        let line_start = before.rfind('\n').map_or(0, |end| end + 1);
        let commented = before[line_start..].contains('#');
        let Some(quote) = before.chars().next_back().filter(|c| matches!(c, '"' | '\'')) else {
            continue;
        };
        let Some(rest) = rest.strip_prefix(quote).map(str::trim_start) else { continue };
        let assigned = || rest.strip_prefix(']')?.trim_start().strip_prefix('=');
        let value =
            rest.strip_prefix(',').or_else(assigned).and_then(|rest| literal(rest.trim_start()));
        if let Some(module) = value.filter(|_| !commented) {
            found.push((module, before.matches('\n').count() + 1));
        }
    }
    let for_tests = |(module, _): &(String, usize)| {
        module.rsplit('.').next().is_some_and(|last| last.starts_with("test"))
    };
    let position = found.iter().position(|one| !for_tests(one)).unwrap_or(0);
    (position < found.len()).then(|| found.swap_remove(position))
}

/// The dotted name in a string literal that stands alone.
fn literal(text: &str) -> Option<String> {
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let (value, after) = text[1..].split_once(quote)?;
    let after = after.trim_start_matches([' ', '\t']);
    let alone = after.is_empty() || after.starts_with([')', ',', '\r', '\n', '#', ';']);
    (alone && is_dotted(value)).then(|| value.to_owned())
}

/// The files of the application, seen from the folder of manage.py.
struct App<'a> {
    files: &'a dyn Files,
    folder: &'a str,
    src: bool,
    /// Path, and the path relative to where imports begin; the shallowest first.
    paths: Vec<(&'a str, &'a str)>,
}

impl<'a> App<'a> {
    fn inner(&self, path: &'a str) -> Option<&'a str> {
        if !in_app(path) {
            return None;
        }
        if self.folder == "." {
            return Some(if self.src { path.strip_prefix("src/").unwrap_or(path) } else { path });
        }
        path.strip_prefix(self.folder)?.strip_prefix('/')
    }

    /// Path and module of wsgi.py or asgi.py: the shallowest, then the one in the
    /// package of the settings.
    fn server(&self, name: &str, package: &str) -> Option<(&'a str, String)> {
        let named = self.paths.iter().filter(|(_, inner)| inner.rsplit('/').next() == Some(name));
        let mut found: Vec<_> =
            named.filter_map(|(path, inner)| Some((*path, *inner, module_name(inner)?))).collect();
        let least = found.first().map(|(_, inner, _)| depth(inner))?;
        found.retain(|(_, inner, _)| depth(inner) == least);
        let beside =
            found.iter().position(|(_, inner, _)| inner.split('/').next() == Some(package));
        let (path, _, module) = found.swap_remove(beside.unwrap_or(0));
        Some((path, module))
    }

    /// The package with celery.py: beside the settings or above them, else any
    /// that makes a `Celery(`.
    fn celery(&self, settings: &str) -> Result<Option<(String, String)>, FactError> {
        let mut package = settings;
        while let Some((above, _)) = package.rsplit_once('.') {
            package = above;
            let wanted = format!("{}/celery.py", package.replace('.', "/"));
            if let Some((path, _)) = self.paths.iter().find(|(_, inner)| *inner == wanted) {
                return Ok(Some((package.to_owned(), (*path).to_owned())));
            }
        }
        for (path, inner) in &self.paths {
            let Some(folder) = inner.strip_suffix("/celery.py") else { continue };
            let package = folder.replace('/', ".");
            if is_dotted(&package)
                && self.files.read(path)?.is_some_and(|text| text.contains("Celery("))
            {
                return Ok(Some((package, (*path).to_owned())));
            }
        }
        Ok(None)
    }

    /// Where the settings, or what they import with a star, switch on offline
    /// compression.
    fn compress(&self, settings: &str) -> Result<Option<String>, FactError> {
        let mut waiting = vec![settings.to_owned()];
        let mut seen = BTreeSet::new();
        while let Some(module) = waiting.pop() {
            if !seen.insert(module.clone()) {
                continue;
            }
            let stem = module.replace('.', "/");
            let [file, package] = [format!("{stem}.py"), format!("{stem}/__init__.py")];
            let found = self.paths.iter().find(|(_, inner)| *inner == file || *inner == package);
            let Some((path, inner)) = found else { continue };
            let text = self.files.read(path)?.unwrap_or_default();
            for (line, content) in (1..).zip(text.lines()) {
                let bare: String = content.chars().filter(|c| !c.is_whitespace()).collect();
                let bare = bare.split('#').next().unwrap_or_default();
                if bare == "COMPRESS_OFFLINE=True" {
                    return Ok(Some(format!("{path}:{line}")));
                }
                waiting.extend(star_import(content, &module, *inner == package));
            }
        }
        Ok(None)
    }

    /// The first `.po` under a `locale/` folder without its `.mo`.
    fn untranslated(&self) -> Option<&'a str> {
        let catalogue = |path: &str| path.split('/').rev().skip(1).any(|part| part == "locale");
        let sources =
            self.paths.iter().filter(|(path, _)| path.ends_with(".po") && catalogue(path));
        let mut missing = sources.filter(|(path, _)| {
            let stem = path.strip_suffix(".po").unwrap_or(path);
            !self.files.has(&format!("{stem}.mo"))
        });
        missing.next().map(|(path, _)| *path)
    }
}

/// The module of `from x import *`, with leading dots resolved.
fn star_import(line: &str, module: &str, is_package: bool) -> Option<String> {
    let mut words = line.split_whitespace();
    let (from, target) = (words.next()?, words.next()?);
    if from != "from" || words.next() != Some("import") || words.next() != Some("*") {
        return None;
    }
    let name = target.trim_start_matches('.');
    let mut ups = target.len() - name.len();
    if ups == 0 {
        return is_dotted(name).then(|| name.to_owned());
    }
    // The first dot is the package that holds the module: the module itself,
    // when it is a package.
    ups -= usize::from(is_package);
    let parts: Vec<&str> = module.split('.').collect();
    let kept = parts.get(..parts.len().checked_sub(ups)?)?;
    let joined = kept.iter().copied().chain(Some(name).filter(|name| !name.is_empty()));
    Some(joined.collect::<Vec<_>>().join("."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::collect as collect_all;
    use crate::facts::tests::Tree;

    #[track_caller]
    fn sets(text: &str, expected: Option<(&str, usize)>) {
        assert_eq!(setting(text), expected.map(|(module, line)| (module.to_owned(), line)));
    }

    #[test]
    fn settings_in_plain_sight() {
        sets(
            "os.environ.setdefault(\"DJANGO_SETTINGS_MODULE\", \"a.settings\")",
            Some(("a.settings", 1)),
        );
        sets("\n\nx.setdefault('DJANGO_SETTINGS_MODULE','a.b_c')\n", Some(("a.b_c", 3)));
        sets("setdefault(\n  'DJANGO_SETTINGS_MODULE',\n  'a.b',\n)", Some(("a.b", 2)));
        sets("os.environ['DJANGO_SETTINGS_MODULE'] = 'a'\n", Some(("a", 1)));
        sets("os.environ['DJANGO_SETTINGS_MODULE'] == 'a'", None);
        sets("# setdefault('DJANGO_SETTINGS_MODULE', 'a')\n", None);
        sets("setdefault('DJANGO_SETTINGS_MODULE', f'a.{x}')", None);
        sets("setdefault('DJANGO_SETTINGS_MODULE', 'a.' + x)", None);
        sets("setdefault('DJANGO_SETTINGS_MODULE', 'a' % x)", None);
        sets("print(DJANGO_SETTINGS_MODULE)", None);
        let two = "e('DJANGO_SETTINGS_MODULE', 'a.test')\ne('DJANGO_SETTINGS_MODULE', 'a.live')\n";
        sets(two, Some(("a.live", 2)));
    }

    #[track_caller]
    fn check(files: &[(&str, &str)], expected: &[(&str, &str)]) {
        let facts = collect_all(&Tree::new(files)).expect("facts");
        let found: Vec<(&str, &str)> = facts
            .iter()
            .filter_map(|(name, fact)| Some((name.strip_prefix("django.")?, fact.value.as_str())))
            .collect();
        assert_eq!(found, expected);
    }

    const MANAGE: &str = "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'site.settings')";
    const SERVER: &str = "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'site.live')";

    #[test]
    fn whole_application() {
        check(
            &[
                ("manage.py", MANAGE),
                ("site/asgi.py", ""),
                ("site/celery.py", ""),
                ("site/live.py", "from .settings import *\n"),
                ("site/settings.py", "from site.base import *"),
                ("site/base/__init__.py", "from .all import *"),
                ("site/base/all.py", "# x\nCOMPRESS_OFFLINE = True  # y\n"),
                ("site/wsgi.py", SERVER),
                ("aaaa/deep/wsgi.py", ""),
                ("aaaa/wsgi.py", ""),
                ("x/locale/de/LC_MESSAGES/django.po", ""),
            ],
            &[
                ("asgi", "site.asgi"),
                ("celery", "site"),
                ("compress", "yes"),
                ("dir", "."),
                ("manage", "manage.py"),
                ("messages", "yes"),
                ("settings", "site.live"),
                ("wsgi", "site.wsgi"),
            ],
        );
    }

    #[test]
    fn below_the_root() {
        check(
            &[
                ("backend/manage.py", MANAGE),
                ("backend/tasks/celery.py", "app = Celery('x')"),
                ("backend/site/wsgi.py", ""),
                ("backend/locale/de/a.po", ""),
                ("backend/locale/de/a.mo", ""),
                ("tests/manage.py", MANAGE),
                ("wsgi.py", ""),
            ],
            &[
                ("celery", "tasks"),
                ("dir", "backend"),
                ("manage", "backend/manage.py"),
                ("settings", "site.settings"),
                ("wsgi", "site.wsgi"),
            ],
        );
        check(&[("a/b/c/manage.py", MANAGE)], &[]);
    }

    #[test]
    fn src_layout() {
        check(
            &[
                ("manage.py", MANAGE),
                ("requirements.txt", "django"),
                ("src/site/__init__.py", ""),
                ("src/site/wsgi.py", ""),
            ],
            &[
                ("dir", "."),
                ("manage", "manage.py"),
                ("settings", "site.settings"),
                ("wsgi", "site.wsgi"),
            ],
        );
    }

    #[test]
    fn which_manage() {
        check(&[("manage.py", "from flask_script import Manager")], &[]);
        check(
            &[("manage.py", "x"), ("requirements.txt", "Django")],
            &[("dir", "."), ("manage", "manage.py")],
        );
        check(
            &[("a/manage.py", MANAGE), ("b/manage.py", MANAGE)],
            &[("ambiguous", "a/manage.py\nb/manage.py")],
        );
        check(
            &[("a/manage.py", MANAGE), ("b/manage.py", ""), ("requirements.txt", "django")],
            &[("dir", "a"), ("manage", "a/manage.py"), ("settings", "site.settings")],
        );
    }

    #[track_caller]
    fn star(line: &str, module: &str, is_package: bool, expected: Option<&str>) {
        assert_eq!(star_import(line, module, is_package).as_deref(), expected);
    }

    #[test]
    fn settings_for_development() {
        let check = |module: &str, paths: &[&str], expected: Option<&str>| {
            let files = paths.iter().map(|&path| (path, "")).collect::<Vec<_>>();
            assert_eq!(for_production(module, &Tree::new(&files)).as_deref(), expected, "{module}");
        };
        let both = ["site/settings/dev.py", "site/settings/production.py"];
        check("site.settings.dev", &both, Some("site.settings.production"));
        check("site.settings.dev", &["src/site/settings/prod.py"], Some("site.settings.prod"));
        check("site.settings.dev", &["other-site/settings/prod.py"], None);
        check("site.settings.base", &both, None);
        check("settings", &both, None);
    }

    #[test]
    fn star_imports() {
        star("from .base import *  # noqa", "a.settings.live", false, Some("a.settings.base"));
        star("from .base import *", "a.settings", true, Some("a.settings.base"));
        star("from ..base import *", "a.settings.live", false, Some("a.base"));
        star("from b.c import *", "a", false, Some("b.c"));
        star("from ....x import *", "a", false, None);
        star("from .x import y", "a.b", false, None);
    }
}
