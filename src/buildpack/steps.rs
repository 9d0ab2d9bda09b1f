//! Steps from templates: what a buildpack wrote, with the app's facts filled in,
//! and the steps that every plan has. Which of them are planned is the planner's.

use std::collections::{BTreeMap, BTreeSet};

use super::library::is_plain;
use super::planner::{Wishes, required};
use super::template::{Filled, fill, fill_lines, holds};
use super::{Buildpack, BuildpackError, Decision, Inputs, Library, StepTemplate};
use crate::digest::Digest;
use crate::facts::Facts;
use crate::plan::{APP_FOLDER, APP_USER, Action, Hint, Output, Selection, Step};
use crate::tree::STAMP;

/// Programs ask who they are: the numeric user of the image has a name.
const USER: &str = "grep -q '^[^:]*:[^:]*:1000:' /etc/group || echo 'app:x:1000:' >> /etc/group
grep -q '^[^:]*:[^:]*:1000:' /etc/passwd || echo 'app:x:1000:1000:app:/home/app:/bin/sh' >> /etc/passwd
mkdir -p /home/app
";

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

/// Makes the steps of one plan.
pub(super) struct Maker<'a> {
    pub(super) library: &'a Library,
    pub(super) facts: &'a Facts,
    pub(super) wishes: &'a Wishes,
    pub(super) hints: Vec<Hint>,
}

impl Maker<'_> {
    /// `base`, and `runtime` and `build` when there is something in them.
    /// `libraries` is the step that names further packages of `runtime`.
    pub(super) fn package_steps(&self, chain: &[&Buildpack], libraries: Option<&str>) -> Vec<Step> {
        let mut names: [BTreeSet<String>; 3] = Default::default();
        let mut sets: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        for packages in chain.iter().flat_map(|buildpack| &buildpack.packages) {
            if holds(&packages.when, self.facts) {
                let [base, runtime, build] = &mut names;
                base.extend(packages.base.iter().cloned());
                runtime.extend(packages.runtime.iter().cloned());
                let build = match &packages.set {
                    Some(set) => sets.entry(set).or_default(),
                    None => build,
                };
                build.extend(packages.build.iter().cloned());
            }
        }
        let [base, mut runtime, mut build] = names;
        runtime.extend(self.wishes.runtime.iter().cloned());
        build.extend(self.wishes.build.iter().cloned());
        let mut steps = match self.facts.get("base.image") {
            Some(reference) => {
                // What would be at the bottom goes on top of it.
                runtime.extend(base);
                let action = Action::Image { reference: reference.to_owned(), digest: None };
                let image = Step::new("base", "the image under the app", action);
                vec![image, self.user_step()]
            }
            None => vec![self.packages("base", "Debian and the language's runtime", base, true)],
        };
        if !runtime.is_empty() || libraries.is_some() {
            let mut step =
                self.packages("runtime", "packages that the app runs with", runtime, false);
            step.root.extend(libraries.map(str::to_owned));
            if let Action::Packages { linked, .. } = &mut step.action {
                *linked = libraries.map(str::to_owned);
            }
            steps.push(step);
        }
        if !build.is_empty() {
            steps.push(self.packages("build", "packages that steps build with", build, false));
        }
        let below: Vec<String> = ["base", "build"]
            .map(str::to_owned)
            .into_iter()
            .filter(|name| steps.iter().any(|step| step.name == *name))
            .collect();
        for (set, names) in sets.into_iter().filter(|(_, names)| !names.is_empty()) {
            let name = format!("build-{set}");
            let about = format!("packages that {set} builds with");
            let step = self.packages(&name, &about, names, false);
            steps.push(Step { root: below.clone(), ..step });
        }
        steps
    }

    fn packages(&self, name: &str, about: &str, names: BTreeSet<String>, bottom: bool) -> Step {
        let action = Action::Packages {
            release: self.facts.get("base.release").unwrap_or_default().to_owned(),
            names: names.into_iter().collect(),
            packages: Vec::new(),
            setup: Digest::of(b""),
            bottom,
            linked: None,
        };
        Step {
            root: if bottom { Vec::new() } else { vec!["base".to_owned()] },
            drop: DROPPED_FROM_PACKAGES.iter().map(|&glob| glob.to_owned()).collect(),
            environment: base_environment(),
            hints: self.hints.clone(),
            ..Step::new(name, about, action)
        }
    }

    /// The app's user, in an image that knows none of that number.
    fn user_step(&self) -> Step {
        let output = |path: &str| Output { path: path.to_owned(), optional: true };
        Step {
            root: vec!["base".to_owned()],
            outputs: ["etc/passwd", "etc/group", "home"].map(output).into(),
            environment: base_environment(),
            ..Step::new(
                "user",
                "the app's user",
                Action::Command {
                    command: ["sh", "-eu", "/forge/user.sh"].map(str::to_owned).into(),
                    files: BTreeMap::from([(
                        "user.sh".to_owned(),
                        USER.replace("1000", &APP_USER.to_string()),
                    )]),
                },
            )
        }
    }

    /// The step, and before it the step that provides the app's files to it.
    pub(super) fn step(
        &self,
        buildpack: &Buildpack,
        template: &StepTemplate,
        planned: &BTreeSet<String>,
    ) -> Result<Vec<Step>, BuildpackError> {
        let filled = |text: &str| required(&buildpack.name, text, self.facts);
        let traced = template.inputs == Inputs::Traced;
        let traceable = !template.source.is_empty()
            && !template.command.is_empty()
            && !template.network
            && !template.pinned;
        if traced && !traceable {
            return Err(BuildpackError::Parse {
                file: format!("{}.toml", buildpack.name),
                problem: format!(
                    "step `{}`: `inputs = \"traced\"` is for steps that run a command on files of the app (`source`), without network and not pinned",
                    template.name
                ),
            });
        }
        let mut steps = Vec::new();
        let present = |name: String| {
            if let Some(beginning) = name.strip_suffix('*') {
                planned.iter().filter(|name| name.starts_with(beginning)).cloned().collect()
            } else if let Some(name) = name.strip_suffix('?') {
                planned.get(name).cloned().into_iter().collect()
            } else {
                vec![name]
            }
        };
        let mut root: Vec<String> = Vec::new();
        for name in template.root.iter().chain(&template.libraries_of) {
            root.extend(self.lines(buildpack, name)?.into_iter().flat_map(present));
        }
        if !template.source.is_empty() {
            let mut rules = Vec::new();
            for rule in &template.source {
                let text = filled(rule)?;
                if text == *rule {
                    rules.push(text);
                } else {
                    // A fact lists files, and folders with `/` behind them, one a line: each is
                    // meant literally.
                    rules.extend(text.lines().map(|path| format!("/{}", literal(path))));
                }
            }
            rules.extend(self.replaced(buildpack, template)?);
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
            let path = if script.contains('/') {
                script.clone()
            } else {
                format!("{}/{script}", buildpack.name)
            };
            let text = self.library.text(&path).ok_or_else(|| BuildpackError::NoScript {
                buildpack: buildpack.name.clone(),
                script: script.clone(),
            })?;
            let name = script.rsplit('/').next().unwrap_or(script);
            files.insert(name.to_owned(), text.to_owned());
        }
        let action = if !template.libraries_of.is_empty() {
            let inspected =
                template.libraries_of.iter().flat_map(|name| present(name.clone())).count();
            Action::Libraries { inspected }
        } else if !template.take.is_empty() {
            let mut patterns = Vec::new();
            for pattern in &template.take {
                let lines = self.lines(buildpack, pattern)?;
                patterns.extend(lines.into_iter().map(|line| format!("/{line}")));
            }
            Action::Take { patterns }
        } else {
            let command = template.command.iter().map(|word| filled(word));
            Action::Command { command: command.collect::<Result<_, _>>()?, files }
        };
        let mut outputs = Vec::new();
        for path in &template.outputs {
            let (path, optional) = match path.strip_suffix('?') {
                Some(path) => (path, true),
                None => (path.as_str(), false),
            };
            let path = filled(path)?;
            if !is_plain(&path) {
                return Err(BuildpackError::Parse {
                    file: format!("{}.toml", buildpack.name),
                    problem: format!(
                        "step `{}`: the output `{path}` is no path below the root",
                        template.name
                    ),
                });
            }
            outputs.push(Output { path, optional });
        }
        steps.push(Step {
            name: template.name.clone(),
            about: template.about.clone(),
            action,
            root,
            outputs,
            drop: template.drop.iter().map(|glob| filled(glob)).collect::<Result<_, _>>()?,
            network: template.network,
            pinned: template.pinned,
            traced,
            cache: template.cache.clone(),
            environment,
            directory: filled(&template.directory)?,
            hints: self.hints.clone(),
        });
        Ok(steps)
    }

    /// Rules that leave out the app's files that the step makes anew.
    pub(super) fn replaced(
        &self,
        buildpack: &Buildpack,
        template: &StepTemplate,
    ) -> Result<Vec<String>, BuildpackError> {
        if !in_image(template, self.facts) {
            return Ok(Vec::new());
        }
        let mut rules = Vec::new();
        for pattern in &template.replaces {
            rules
                .extend(self.lines(buildpack, pattern)?.into_iter().map(|line| format!("!{line}")));
        }
        Ok(rules)
    }

    /// The text once for each line of the facts in it; not at all when it is about
    /// an optional fact that there is not.
    fn lines(&self, buildpack: &Buildpack, text: &str) -> Result<Vec<String>, BuildpackError> {
        fill_lines(text, self.facts)
            .map_err(|fact| BuildpackError::NoFact { buildpack: buildpack.name.clone(), fact })
    }

    pub(super) fn image_environment(
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

/// Whether the step's output is a layer of the image.
pub(super) fn in_image(template: &StepTemplate, facts: &Facts) -> bool {
    match &template.in_image {
        Decision::Always(decided) => *decided,
        Decision::When(conditions) => holds(conditions, facts),
    }
}

impl StepTemplate {
    /// The template for one word of `each`.
    pub(super) fn with_each(&self, word: &str) -> StepTemplate {
        let put = |text: &String| text.replace("${each}", word);
        let all = |texts: &[String]| texts.iter().map(put).collect::<Vec<_>>();
        StepTemplate {
            name: put(&self.name),
            about: put(&self.about),
            when: all(&self.when),
            root: all(&self.root),
            source: all(&self.source),
            replaces: all(&self.replaces),
            command: all(&self.command),
            take: all(&self.take),
            libraries_of: all(&self.libraries_of),
            directory: put(&self.directory),
            outputs: all(&self.outputs),
            drop: all(&self.drop),
            environment: self
                .environment
                .iter()
                .map(|(name, value)| (name.clone(), put(value)))
                .collect(),
            each: None,
            ..self.clone()
        }
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

pub(super) fn source_step(name: &str, about: &str, rules: &[String]) -> Step {
    Step::new(name, about, Action::Source { selection: Selection { rules: rules.to_vec() } })
}
