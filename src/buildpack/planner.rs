//! Facts and buildpacks in, plan out.

use std::collections::{BTreeMap, BTreeSet};

use super::template::{Filled, fill, holds};
use super::{Buildpack, BuildpackError, Library, StepTemplate};
use crate::digest::Digest;
use crate::facts::Facts;
use crate::plan::{
    APP_FOLDER, Action, Hint, ImageRecipe, LayerRecipe, MadeFile, Output, Plan, Process, Selection,
    Step,
};
use crate::tree::STAMP;

/// Where the launcher looks for the process table; the layout of Cloud Native
/// Buildpacks, so that platforms that know it feel at home.
const TABLE: &str = "layers/config/metadata.toml";
const LAUNCHER: &str = "cnb/lifecycle/launcher";

/// What packages ship for people at a terminal and not for apps. Licences stay.
const DROPPED_FROM_PACKAGES: &[&str] = &[
    "usr/share/doc/**",
    "!usr/share/doc/*/copyright",
    "usr/share/man/**",
    "usr/share/info/**",
    "usr/share/locale/**",
    "!usr/share/locale/locale.alias",
    "usr/share/lintian/**",
    "usr/share/bug/**",
    "usr/share/gcc/python/**",
    "usr/share/gdb/**",
    "var/cache/**",
    "var/log/**",
    "var/lib/apt/lists/**",
    "run/**",
    "/forge",
];

/// What the user asks for beyond what facts say.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// The buildpack to use, whatever matches.
    pub buildpack: Option<String>,
    /// Steps to leave out.
    pub skip: Vec<String>,
    /// The operating system release.
    pub release: Option<String>,
    /// Packages in the image.
    pub runtime: Vec<String>,
    /// Packages while steps run.
    pub build: Vec<String>,
    /// Environment of the image.
    pub environment: BTreeMap<String, String>,
    /// Environment of steps that run the app's code.
    pub build_environment: BTreeMap<String, String>,
    /// Process types; an empty command removes one.
    pub processes: BTreeMap<String, String>,
    /// Labels of the image.
    pub labels: BTreeMap<String, String>,
    /// The launcher's bytes.
    pub launcher: Vec<u8>,
}

/// A plan and how it came about.
#[derive(Clone, Debug)]
pub struct Planned {
    /// The plan.
    pub plan: Plan,
    /// The buildpack that matched.
    pub buildpack: String,
    /// What it is for.
    pub about: String,
    /// The facts that made it match: name, value, origin.
    pub evidence: Vec<(String, String, String)>,
    /// What the user should know: message and advice.
    pub notices: Vec<(String, String)>,
    /// The facts, with those that the choice of a base added.
    pub facts: Facts,
}

/// Makes the plan for an app with these facts.
///
/// # Errors
/// Nothing matches, the app cannot be built as it is, or a buildpack is wrong.
pub fn plan(library: &Library, facts: &Facts, wishes: &Wishes) -> Result<Planned, BuildpackError> {
    let primary = choose(library, facts, wishes)?;
    let mut chain = Vec::new();
    collect(library, primary, &mut chain)?;
    let mut facts = facts.clone();
    refuse(&chain, &facts)?;
    let release = choose_release(&chain, &mut facts, wishes)?;
    derive(&chain, &mut facts)?;
    check_skips(&chain, &facts, wishes)?;
    let maker =
        Maker { library, facts: &facts, wishes, release: &release, hints: hints(&chain, &facts) };
    let mut steps = maker.package_steps(&chain);
    let mut layers: Vec<LayerRecipe> = steps
        .iter()
        .filter(|step| step.name != "build")
        .map(|step| LayerRecipe { step: step.name.clone(), of_app: false })
        .collect();
    for buildpack in &chain {
        for template in &buildpack.steps {
            if !holds(&template.when, &facts) || wishes.skip.contains(&template.name) {
                continue;
            }
            let planned: BTreeSet<String> = steps.iter().map(|step| step.name.clone()).collect();
            steps.extend(maker.step(buildpack, template, &planned)?);
            if template.in_image {
                layers.push(LayerRecipe { step: template.name.clone(), of_app: template.of_app });
            }
        }
    }
    let processes = processes(&chain, &facts, wishes)?;
    let environment = maker.image_environment(&chain)?;
    steps.push(source_step("app", "the app's files", &["*".to_owned()]));
    steps.push(launcher_step(&processes, &wishes.launcher));
    layers.push(LayerRecipe { step: "app".to_owned(), of_app: true });
    layers.push(LayerRecipe { step: "launcher".to_owned(), of_app: false });
    let image = ImageRecipe { layers, environment, processes, labels: wishes.labels.clone() };
    let evidence = chain
        .iter()
        .rev()
        .flat_map(|buildpack| buildpack.matches.iter())
        .filter_map(|condition| {
            let name = condition.split('=').next().unwrap_or(condition);
            facts.fact(name).map(|fact| (name.to_owned(), fact.value.clone(), fact.origin.clone()))
        })
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    Ok(Planned {
        plan: Plan::new(steps, image)?,
        buildpack: primary.name.clone(),
        about: primary.about.clone(),
        evidence,
        notices: notices(&chain, &facts),
        facts,
    })
}

fn choose<'a>(
    library: &'a Library,
    facts: &Facts,
    wishes: &Wishes,
) -> Result<&'a Buildpack, BuildpackError> {
    if let Some(name) = &wishes.buildpack {
        let buildpack = library.get(name)?;
        let mut chain = Vec::new();
        collect(library, buildpack, &mut chain)?;
        if let Some(unfit) = chain.iter().find(|buildpack| !holds(&buildpack.matches, facts)) {
            return Err(BuildpackError::Unfit {
                name: name.clone(),
                looks_for: unfit.looks_for.clone(),
            });
        }
        return Ok(buildpack);
    }
    library
        .iter()
        .filter(|buildpack| holds(&buildpack.matches, facts))
        .max_by_key(|buildpack| (buildpack.priority, std::cmp::Reverse(&buildpack.name)))
        .ok_or_else(|| {
            let mut looked: Vec<&Buildpack> = library.iter().collect();
            looked.sort_by_key(|buildpack| std::cmp::Reverse(buildpack.priority));
            BuildpackError::NothingDetected {
                looked_for: looked
                    .into_iter()
                    .map(|buildpack| (buildpack.about.clone(), buildpack.looks_for.clone()))
                    .collect(),
            }
        })
}

/// Depth first, each once, what is used before what uses it.
fn collect<'a>(
    library: &'a Library,
    buildpack: &'a Buildpack,
    chain: &mut Vec<&'a Buildpack>,
) -> Result<(), BuildpackError> {
    // A buildpack that uses itself by way of others is entered once as well.
    if chain.iter().any(|entered| entered.name == buildpack.name) {
        return Ok(());
    }
    for used in &buildpack.uses {
        let used = library.get(used)?;
        if used.name != buildpack.name && !used.uses.contains(&buildpack.name) {
            collect(library, used, chain)?;
        }
    }
    chain.push(buildpack);
    Ok(())
}

fn text(text: &str, facts: &Facts) -> String {
    match fill(text, facts) {
        Filled::Text(text) => text,
        Filled::Nothing => String::new(),
        // Told as it stands rather than not at all.
        Filled::Missing(_) => text.to_owned(),
    }
}

/// Whether each step that is to be skipped is one, and one that no other needs.
fn check_skips(chain: &[&Buildpack], facts: &Facts, wishes: &Wishes) -> Result<(), BuildpackError> {
    let steps: Vec<&StepTemplate> = chain
        .iter()
        .flat_map(|buildpack| &buildpack.steps)
        .filter(|step| holds(&step.when, facts))
        .collect();
    let needed_by = |name: &str| {
        steps.iter().find(|step| {
            step.root.iter().any(|input| input == name) && !wishes.skip.contains(&step.name)
        })
    };
    for name in &wishes.skip {
        let problem = match needed_by(name) {
            _ if !steps.iter().any(|step| step.name == *name) => "there is no such step".to_owned(),
            Some(step) => format!("step `{}` needs it", step.name),
            None => continue,
        };
        let known = steps
            .iter()
            .map(|step| step.name.clone())
            .filter(|name| needed_by(name).is_none())
            .collect();
        return Err(BuildpackError::Skip { name: name.clone(), problem, known });
    }
    Ok(())
}

fn refuse(chain: &[&Buildpack], facts: &Facts) -> Result<(), BuildpackError> {
    match chain
        .iter()
        .flat_map(|buildpack| &buildpack.refuse)
        .find(|refuse| holds(&refuse.when, facts))
    {
        None => Ok(()),
        Some(refuse) => Err(BuildpackError::Refused {
            origin: facts.fact(&refuse.fact).map(|fact| fact.origin.clone()).unwrap_or_default(),
            message: text(&refuse.message, facts),
            advice: text(&refuse.advice, facts),
        }),
    }
}

fn choose_release(
    chain: &[&Buildpack],
    facts: &mut Facts,
    wishes: &Wishes,
) -> Result<String, BuildpackError> {
    let bases = || chain.iter().flat_map(|buildpack| &buildpack.base);
    if let Some(name) = &wishes.release
        && !bases().any(|base| base.release == *name)
    {
        let known = bases().map(|base| base.release.clone()).collect();
        return Err(BuildpackError::Release { name: name.clone(), known });
    }
    let fits = chain.iter().flat_map(|buildpack| &buildpack.base).find(|base| {
        holds(&base.when, facts)
            && wishes.release.as_ref().is_none_or(|release| *release == base.release)
    });
    if let Some(base) = fits {
        for (name, value) in &base.facts {
            facts.insert(name, value.clone(), format!("Debian {}", base.release));
        }
        return Ok(base.release.clone());
    }
    let no_base = chain.iter().rev().find_map(|buildpack| buildpack.no_base.as_ref());
    Err(match no_base {
        Some(no_base) => BuildpackError::Refused {
            origin: facts.fact(&no_base.fact).map(|fact| fact.origin.clone()).unwrap_or_default(),
            message: text(&no_base.message, facts),
            advice: text(&no_base.advice, facts),
        },
        None => BuildpackError::Refused {
            origin: String::new(),
            message: "no operating system release fits the app".to_owned(),
            advice: "name one that the buildpack knows: `[base] release` in forge.toml".to_owned(),
        },
    })
}

/// Adds the facts that follow from others.
fn derive(chain: &[&Buildpack], facts: &mut Facts) -> Result<(), BuildpackError> {
    for buildpack in chain.iter().rev() {
        for derived in &buildpack.facts {
            if !facts.contains(&derived.name) && holds(&derived.when, facts) {
                let value = required(&buildpack.name, &derived.value, facts)?;
                facts.insert(&derived.name, value, format!("buildpack {}", buildpack.name));
            }
        }
    }
    Ok(())
}

fn notices(chain: &[&Buildpack], facts: &Facts) -> Vec<(String, String)> {
    chain
        .iter()
        .flat_map(|buildpack| &buildpack.notices)
        .filter(|notice| holds(&notice.when, facts))
        .map(|notice| (text(&notice.message, facts), text(&notice.advice, facts)))
        .collect()
}

fn hints(chain: &[&Buildpack], facts: &Facts) -> Vec<Hint> {
    // The framework's own knowledge comes before the language's.
    chain
        .iter()
        .rev()
        .flat_map(|buildpack| &buildpack.hints)
        .map(|hint| Hint { pattern: text(&hint.pattern, facts), advice: text(&hint.advice, facts) })
        .collect()
}

fn processes(
    chain: &[&Buildpack],
    facts: &Facts,
    wishes: &Wishes,
) -> Result<BTreeMap<String, Process>, BuildpackError> {
    let mut processes = BTreeMap::new();
    for buildpack in chain.iter().rev() {
        for template in &buildpack.processes {
            if holds(&template.when, facts) && !processes.contains_key(&template.kind) {
                let command = required(&buildpack.name, &template.command, facts)?;
                let origin = format!("buildpack {}", buildpack.name);
                processes.insert(template.kind.clone(), Process { command, origin });
            }
        }
    }
    for (name, fact) in facts.iter() {
        if let Some(kind) = name.strip_prefix("procfile.") {
            processes.insert(
                kind.to_owned(),
                Process { command: fact.value.clone(), origin: fact.origin.clone() },
            );
        }
    }
    for (kind, command) in &wishes.processes {
        if command.is_empty() {
            processes.remove(kind);
        } else {
            let origin = "forge.toml".to_owned();
            processes.insert(kind.clone(), Process { command: command.clone(), origin });
        }
    }
    for (kind, process) in &processes {
        let problem = if ["launcher", "forge"].contains(&kind.as_str()) {
            "the launcher answers to it"
        } else if kind.is_empty()
            || !kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        {
            "only letters, digits, `.`, `_` and `-` may be in it"
        } else {
            continue;
        };
        return Err(BuildpackError::ProcessName {
            origin: process.origin.clone(),
            kind: kind.clone(),
            problem,
        });
    }
    Ok(processes)
}

fn required(buildpack: &str, template: &str, facts: &Facts) -> Result<String, BuildpackError> {
    match fill(template, facts) {
        Filled::Text(text) => Ok(text),
        Filled::Nothing => Ok(String::new()),
        Filled::Missing(fact) => {
            Err(BuildpackError::NoFact { buildpack: buildpack.to_owned(), fact })
        }
    }
}

struct Maker<'a> {
    library: &'a Library,
    facts: &'a Facts,
    wishes: &'a Wishes,
    release: &'a str,
    hints: Vec<Hint>,
}

impl Maker<'_> {
    /// `base`, and `runtime` and `build` when there is something in them.
    fn package_steps(&self, chain: &[&Buildpack]) -> Vec<Step> {
        let mut names: [BTreeSet<String>; 3] = Default::default();
        for packages in chain.iter().flat_map(|buildpack| &buildpack.packages) {
            if holds(&packages.when, self.facts) {
                for (set, add) in
                    names.iter_mut().zip([&packages.base, &packages.runtime, &packages.build])
                {
                    set.extend(add.iter().cloned());
                }
            }
        }
        let [base, mut runtime, mut build] = names;
        runtime.extend(self.wishes.runtime.iter().cloned());
        build.extend(self.wishes.build.iter().cloned());
        let mut steps =
            vec![self.packages("base", "Debian and the language's runtime", base, true)];
        if !runtime.is_empty() {
            steps.push(self.packages("runtime", "packages that the app runs with", runtime, false));
        }
        if !build.is_empty() {
            steps.push(self.packages("build", "packages that steps build with", build, false));
        }
        steps
    }

    fn packages(&self, name: &str, about: &str, names: BTreeSet<String>, bottom: bool) -> Step {
        let action = Action::Packages {
            release: self.release.to_owned(),
            names: names.into_iter().collect(),
            packages: Vec::new(),
            setup: Digest::of(b""),
            bottom,
        };
        Step {
            root: if bottom { Vec::new() } else { vec!["base".to_owned()] },
            drop: DROPPED_FROM_PACKAGES.iter().map(|&glob| glob.to_owned()).collect(),
            environment: base_environment(),
            hints: self.hints.clone(),
            ..Step::new(name, about, action)
        }
    }

    /// The step, and before it the step that provides the app's files to it.
    fn step(
        &self,
        buildpack: &Buildpack,
        template: &StepTemplate,
        planned: &BTreeSet<String>,
    ) -> Result<Vec<Step>, BuildpackError> {
        let filled = |text: &str| required(&buildpack.name, text, self.facts);
        let mut steps = Vec::new();
        let mut root: Vec<String> = template
            .root
            .iter()
            .filter_map(|name| match name.strip_suffix('?') {
                Some(name) => planned.contains(name).then(|| name.to_owned()),
                None => Some(name.clone()),
            })
            .collect();
        if !template.source.is_empty() {
            let mut rules = Vec::new();
            for rule in &template.source {
                let text = filled(rule)?;
                if text == *rule {
                    rules.push(text);
                } else {
                    // A fact lists files, one a line: each is meant literally.
                    rules.extend(text.lines().map(|path| format!("/{}", literal(path))));
                }
            }
            let name = format!("{} files", template.name);
            steps.push(source_step(&name, "files of the app", &rules));
            root.push(name);
        }
        let mut environment = base_environment();
        for (name, value) in &template.environment {
            match fill(value, self.facts) {
                Filled::Text(text) => drop(environment.insert(name.clone(), text)),
                Filled::Nothing => {}
                Filled::Missing(fact) => {
                    return Err(BuildpackError::NoFact { buildpack: buildpack.name.clone(), fact });
                }
            }
        }
        if template.build_environment {
            environment.extend(self.wishes.build_environment.clone());
        }
        let mut files = BTreeMap::new();
        for script in &template.files {
            let path = format!("{}/{script}", buildpack.name);
            let text = self.library.text(&path).ok_or_else(|| BuildpackError::NoScript {
                buildpack: buildpack.name.clone(),
                script: script.clone(),
            })?;
            files.insert(script.clone(), text.to_owned());
        }
        steps.push(Step {
            name: template.name.clone(),
            about: template.about.clone(),
            action: Action::Command {
                command: template
                    .command
                    .iter()
                    .map(|word| filled(word))
                    .collect::<Result<_, _>>()?,
                files,
            },
            root,
            outputs: template
                .outputs
                .iter()
                .map(|path| match path.strip_suffix('?') {
                    Some(path) => Output { path: path.to_owned(), optional: true },
                    None => Output { path: path.clone(), optional: false },
                })
                .collect(),
            drop: template.drop.clone(),
            network: template.network,
            pinned: template.pinned,
            cache: template.cache.clone(),
            environment,
            directory: filled(&template.directory)?,
            hints: self.hints.clone(),
        });
        Ok(steps)
    }

    fn image_environment(
        &self,
        chain: &[&Buildpack],
    ) -> Result<BTreeMap<String, String>, BuildpackError> {
        let mut environment = BTreeMap::from([
            ("CNB_APP_DIR".to_owned(), format!("/{APP_FOLDER}")),
            ("CNB_LAYERS_DIR".to_owned(), "/layers".to_owned()),
            ("HOME".to_owned(), "/home/app".to_owned()),
            ("LANG".to_owned(), "C.UTF-8".to_owned()),
        ]);
        for buildpack in chain {
            for (name, value) in &buildpack.environment {
                match fill(value, self.facts) {
                    Filled::Text(text) => drop(environment.insert(name.clone(), text)),
                    Filled::Nothing => {}
                    Filled::Missing(fact) => {
                        return Err(BuildpackError::NoFact {
                            buildpack: buildpack.name.clone(),
                            fact,
                        });
                    }
                }
            }
        }
        environment.extend(self.wishes.environment.clone());
        let path =
            environment.remove("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".to_owned());
        // The launcher first, and process types as commands, as platforms expect.
        environment.insert("PATH".to_owned(), format!("/cnb/process:/cnb/lifecycle:{path}"));
        Ok(environment)
    }
}

/// `.gitignore` patterns give some characters a meaning.
fn literal(path: &str) -> String {
    let mut pattern = String::with_capacity(path.len());
    for character in path.chars() {
        if "*?[]!#\\".contains(character) {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern
}

/// What every command finds, so that no result depends on where it ran.
fn base_environment() -> BTreeMap<String, String> {
    [
        ("HOME", "/tmp/home".to_owned()),
        ("LANG", "C.UTF-8".to_owned()),
        ("LC_ALL", "C.UTF-8".to_owned()),
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
        ("SOURCE_DATE_EPOCH", STAMP.to_string()),
        ("TERM", "dumb".to_owned()),
        ("TMPDIR", "/tmp".to_owned()),
        ("TZ", "UTC".to_owned()),
        ("USER", "root".to_owned()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

fn source_step(name: &str, about: &str, rules: &[String]) -> Step {
    Step::new(name, about, Action::Source { selection: Selection { rules: rules.to_vec() } })
}

/// The launcher, a link for each process type, and the process table.
fn launcher_step(processes: &BTreeMap<String, Process>, launcher: &[u8]) -> Step {
    let link = |target: &str| MadeFile::Link { target: target.to_owned() };
    let mut files = BTreeMap::from([
        (LAUNCHER.to_owned(), MadeFile::File { content: launcher.to_vec(), mode: 0o755 }),
        ("cnb/lifecycle/forge".to_owned(), link("launcher")),
        (TABLE.to_owned(), MadeFile::File { content: table(processes).into_bytes(), mode: 0o644 }),
    ]);
    for kind in processes.keys() {
        files.insert(format!("cnb/process/{kind}"), link("/cnb/lifecycle/launcher"));
    }
    Step::new("launcher", "launcher and process types", Action::Files { files })
}

/// The process table in the form of the buildpacks specification
/// (`platform.md`, "metadata.toml").
fn table(processes: &BTreeMap<String, Process>) -> String {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let mut table = String::from("# Made by forge; read by the launcher.\n");
    for (kind, process) in processes {
        table.push_str(&format!(
            "\n[[processes]]\ntype = {}\ncommand = [{}]\ndirect = false\ndefault = {}\nworking-dir = \"/{APP_FOLDER}\"\n",
            quoted(kind),
            quoted(&process.command),
            kind == "web",
        ));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn django() -> Facts {
        let mut facts = Facts::new();
        for (name, value) in [
            ("django.manage", "manage.py"),
            ("django.dir", "."),
            ("django.wsgi", "site.wsgi"),
            ("python.manager", "pip"),
            ("python.lock", "requirements.txt"),
            ("python.inputs", "requirements.txt\nrequirements/[odd].txt"),
            ("python.allows.3.13", "yes"),
            ("python.allows.3.11", "yes"),
            ("python.package.gunicorn", "23.0"),
        ] {
            facts.insert(name, value, format!("{value}:1"));
        }
        facts
    }

    fn planned(facts: &Facts, wishes: &Wishes) -> Result<Planned, BuildpackError> {
        plan(&Library::new(&BTreeMap::new()).expect("parses"), facts, wishes)
    }

    #[test]
    fn a_django_app() {
        let planned = planned(&django(), &Wishes::default()).expect("a plan");
        assert_eq!(planned.buildpack, "django");
        let names: Vec<_> =
            planned.plan.image.layers.iter().map(|layer| layer.step.as_str()).collect();
        assert_eq!(names, ["base", "python-packages", "collectstatic", "app", "launcher"]);
        let lock = planned.plan.step("python-lock files").expect("planned");
        let Action::Source { selection } = &lock.action else { panic!("{lock:?}") };
        assert_eq!(selection.rules, ["/requirements.txt", "/requirements/\\[odd\\].txt"]);
        assert_eq!(
            planned.plan.image.processes["web"].command,
            "gunicorn --bind 0.0.0.0:${PORT} --access-logfile - site.wsgi"
        );
        assert!(!planned.plan.image.environment.contains_key("DJANGO_SETTINGS_MODULE"));
    }

    #[test]
    fn a_rails_app() {
        let mut facts = Facts::new();
        for (name, value) in [
            ("ruby.gemfile", "Gemfile"),
            ("ruby.lock", "Gemfile.lock"),
            ("ruby.inputs", "Gemfile\nGemfile.lock"),
            ("ruby.allows.3.3.8", "yes"),
            ("ruby.gem.pg", "1.5.6"),
            ("ruby.gem.puma", "6.6.0"),
            ("puma.config", "config/puma.rb"),
            ("rails.application", "config/application.rb"),
            ("rails.assets", "propshaft"),
            ("rails.database", "postgres"),
            ("rails.jobs", "delayed_job"),
        ] {
            facts.insert(name, value, "t");
        }
        let planned = planned(&facts, &Wishes::default()).expect("a plan");
        assert_eq!(planned.buildpack, "rails");
        let layers: Vec<_> =
            planned.plan.image.layers.iter().map(|layer| layer.step.as_str()).collect();
        assert_eq!(layers, ["base", "runtime", "gems", "assets", "app", "launcher"]);
        let assets = planned.plan.step("assets").expect("planned");
        assert_eq!(
            assets.environment["DATABASE_URL"],
            "postgres://forge:forge@127.0.0.1:5432/forge"
        );
        assert!(!assets.network && !assets.root.contains(&"build".to_owned()));
        let commands: Vec<_> =
            planned.plan.image.processes.values().map(|process| process.command.as_str()).collect();
        assert_eq!(
            commands,
            [
                "bundle exec rails db:migrate",
                "bundle exec puma -C config/puma.rb",
                "bundle exec rake jobs:work"
            ]
        );
        facts.insert("ruby.platform.missing", "only arm64-darwin", "Gemfile.lock:9");
        let error = super::plan(
            &Library::new(&BTreeMap::new()).expect("parses"),
            &facts,
            &Wishes::default(),
        )
        .expect_err("refused")
        .to_string();
        assert!(error.starts_with("Gemfile.lock:9: Gemfile.lock has no platform"), "{error}");
    }

    #[test]
    fn packages_follow_facts() {
        let mut facts = django();
        facts.insert("python.package.psycopg2", "2.9", "requirements.txt:3");
        let planned = planned(&facts, &Wishes::default()).expect("a plan");
        let Some(Step { action: Action::Packages { names, .. }, .. }) =
            planned.plan.step("runtime")
        else {
            panic!("no runtime packages")
        };
        assert_eq!(names, &["libpq5"]);
        assert!(
            planned
                .plan
                .step("collectstatic")
                .expect("planned")
                .root
                .contains(&"runtime".to_owned())
        );
    }

    #[test]
    fn the_version_chooses_the_release() {
        let mut facts = Facts::new();
        for (name, fact) in django().iter() {
            if name != "python.allows.3.13" {
                facts.insert(name, fact.value.clone(), fact.origin.clone());
            }
        }
        let release =
            |facts: &Facts| planned(facts, &Wishes::default()).map(|planned| planned.facts);
        assert_eq!(release(&facts).expect("a plan").get("python.series"), Some("3.11"));
        let mut none = Facts::new();
        for (name, fact) in facts.iter().filter(|(name, _)| !name.starts_with("python.allows")) {
            none.insert(name, fact.value.clone(), fact.origin.clone());
        }
        none.insert("python.version", "3.12", ".python-version");
        let error = release(&none).expect_err("refused").to_string();
        assert!(error.starts_with(".python-version: no Debian release"), "{error}");
    }

    #[test]
    fn the_procfile_wins_over_defaults_and_forge_toml_over_both() {
        let mut facts = django();
        facts.insert("procfile.web", "from procfile", "Procfile:1");
        facts.insert("procfile.clock", "tick", "Procfile:2");
        let mut wishes = Wishes::default();
        wishes.processes.insert("clock".to_owned(), "tock".to_owned());
        wishes.processes.insert("release".to_owned(), String::new());
        let processes = planned(&facts, &wishes).expect("a plan").plan.image.processes;
        let found: Vec<_> = processes
            .iter()
            .map(|(kind, process)| (kind.as_str(), process.command.as_str()))
            .collect();
        assert_eq!(found, [("clock", "tock"), ("web", "from procfile")]);
        facts.insert("procfile.forge", "x", "Procfile:3");
        assert!(matches!(planned(&facts, &wishes), Err(BuildpackError::ProcessName { .. })));
    }

    #[test]
    fn skipped_steps_leave_no_layer() {
        let wishes = Wishes { skip: vec!["collectstatic".to_owned()], ..Wishes::default() };
        let plan = planned(&django(), &wishes).expect("a plan").plan;
        assert!(plan.step("collectstatic").is_none());
        assert!(plan.image.layers.iter().all(|layer| layer.step != "collectstatic"));
    }

    #[test]
    fn nothing_and_the_unknown() {
        assert!(matches!(
            planned(&Facts::new(), &Wishes::default()),
            Err(BuildpackError::NothingDetected { looked_for }) if looked_for[0].0 == "Rails"
        ));
        let wishes = Wishes { buildpack: Some("cobol".to_owned()), ..Wishes::default() };
        assert!(matches!(planned(&django(), &wishes), Err(BuildpackError::Unknown { .. })));
    }
}
