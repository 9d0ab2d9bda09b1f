//! Facts and buildpacks in, plan out.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::launch::{ProcessWish, launcher_step, processes, start};
use super::steps::{Maker, in_image, source_step};
use super::template::{Filled, fill, holds};
use super::{Buildpack, BuildpackError, DerivedFact, Library, StepTemplate};
use crate::facts::Facts;
use crate::plan::{Hint, ImageRecipe, LayerRecipe, Plan, Start, Step};

/// What the user asks for beyond what facts say.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// The buildpack to use, whatever matches.
    pub buildpack: Option<String>,
    /// Steps to leave out.
    pub skip: Vec<String>,
    /// The operating system release.
    pub release: Option<String>,
    /// The image under the app.
    pub image: Option<String>,
    /// Packages in the image.
    pub runtime: Vec<String>,
    /// Packages while steps run.
    pub build: Vec<String>,
    /// Environment of the image.
    pub environment: BTreeMap<String, String>,
    /// Environment of steps that run the app's code.
    pub build_environment: BTreeMap<String, String>,
    /// Process types.
    pub processes: BTreeMap<String, ProcessWish>,
    /// What holds for all that the image starts.
    pub start: Start,
    /// Labels of the image.
    pub labels: BTreeMap<String, String>,
    /// The launcher's bytes.
    pub launcher: Cow<'static, [u8]>,
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
    /// What else could be done when the image that was chosen cannot be had.
    pub instead_of_image: Option<String>,
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
    collect(library, primary, facts, &mut chain)?;
    let mut facts = facts.clone();
    refuse(&chain, &facts)?;
    choose_base(&chain, &mut facts, wishes)?;
    derive(&chain, &mut facts)?;
    // Once more, for what only derived facts tell.
    refuse(&chain, &facts)?;
    let templates = instances(&chain, &facts)?;
    check_skips(&templates, wishes)?;
    let maker = Maker { library, facts: &facts, wishes, hints: hints(&chain, &facts) };
    let left: Vec<_> =
        templates.iter().filter(|(_, step)| !wishes.skip.contains(&step.name)).collect();
    let libraries = left.iter().find(|(_, step)| !step.libraries_of.is_empty());
    let mut steps = maker.package_steps(&chain, libraries.map(|(_, step)| step.name.as_str()));
    let mut layers: Vec<LayerRecipe> = steps
        .iter()
        .filter(|step| step.name != "build" && !step.name.starts_with("build-"))
        .map(|step| LayerRecipe::whole(&step.name))
        .collect();
    let planned: BTreeSet<String> = steps
        .iter()
        .map(|step| step.name.clone())
        .chain(left.iter().map(|(_, step)| step.name.clone()))
        .collect();
    let mut of_app = vec!["*".to_owned()];
    for (buildpack, template) in left {
        steps.extend(maker.step(buildpack, template, &planned)?);
        of_app.extend(maker.replaced(buildpack, template)?);
        if in_image(template, &facts) {
            layers.push(LayerRecipe {
                step: template.name.clone(),
                of_app: template.of_app,
                units: template.units.clone(),
            });
        }
    }
    let processes = processes(&chain, &facts, wishes)?;
    let environment = maker.image_environment(&chain)?;
    steps.push(source_step("app", "the app's files", &of_app));
    let start = start(&chain, wishes)?;
    steps.push(launcher_step(&processes, &start, wishes.launcher.clone()));
    layers.push(LayerRecipe { of_app: true, ..LayerRecipe::whole("app") });
    layers.push(LayerRecipe::whole("launcher"));
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
        plan: Plan::new(needed(steps, &image), image)?,
        buildpack: primary.name.clone(),
        about: primary.about.clone(),
        evidence,
        notices: notices(&chain, &facts, &planned),
        instead_of_image: (wishes.image.is_none() && facts.contains("base.image"))
            .then(|| chain.iter().rev().find_map(|buildpack| buildpack.no_base.as_ref()))
            .flatten()
            .map(|no_base| text(&no_base.advice, &facts)),
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
        collect(library, buildpack, facts, &mut chain)?;
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
    facts: &Facts,
    chain: &mut Vec<&'a Buildpack>,
) -> Result<(), BuildpackError> {
    // A buildpack that uses itself by way of others is entered once as well.
    if chain.iter().any(|entered| entered.name == buildpack.name) {
        return Ok(());
    }
    for used in &buildpack.uses {
        let optional = used.ends_with('?');
        let used = library.get(used.trim_end_matches('?'))?;
        let wanted = !optional || holds(&used.matches, facts);
        if wanted && used.name != buildpack.name && !used.uses.contains(&buildpack.name) {
            collect(library, used, facts, chain)?;
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

/// The step templates that apply, one for each word of `each`, with their names.
fn instances<'a>(
    chain: &[&'a Buildpack],
    facts: &Facts,
) -> Result<Vec<(&'a Buildpack, StepTemplate)>, BuildpackError> {
    let mut instances = Vec::new();
    for buildpack in chain {
        for template in &buildpack.steps {
            let own: Vec<StepTemplate> = match &template.each {
                None => vec![template.clone()],
                // The library has checked that there is the list.
                Some(list) => buildpack
                    .lists
                    .get(list)
                    .into_iter()
                    .flatten()
                    .map(|word| template.with_each(word))
                    .collect(),
            };
            for mut instance in own {
                if holds(&instance.when, facts) {
                    instance.name = required(&buildpack.name, &instance.name, facts)?;
                    instances.push((*buildpack, instance));
                }
            }
        }
    }
    Ok(instances)
}

/// The steps that the image is made of, and those that they need.
fn needed(steps: Vec<Step>, image: &ImageRecipe) -> Vec<Step> {
    let mut needed: BTreeSet<String> = BTreeSet::new();
    let mut pending: Vec<String> = image.layers.iter().map(|layer| layer.step.clone()).collect();
    while let Some(name) = pending.pop() {
        if let Some(step) = steps.iter().find(|step| step.name == name)
            && needed.insert(name)
        {
            pending.extend(step.root.iter().cloned());
        }
    }
    steps.into_iter().filter(|step| needed.contains(&step.name)).collect()
}

/// Whether each step that is to be skipped is one, and one that no other needs.
fn check_skips(
    templates: &[(&Buildpack, StepTemplate)],
    wishes: &Wishes,
) -> Result<(), BuildpackError> {
    let steps: Vec<&StepTemplate> = templates.iter().map(|(_, step)| step).collect();
    let needed_by = |name: &str| {
        steps.iter().find(|step| {
            step.root.iter().chain(&step.libraries_of).any(|input| input == name)
                && !wishes.skip.contains(&step.name)
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

/// Chooses what is under the app, and states it as a fact.
fn choose_base(
    chain: &[&Buildpack],
    facts: &mut Facts,
    wishes: &Wishes,
) -> Result<(), BuildpackError> {
    if let Some(image) = &wishes.image {
        facts.insert("base.image", image.clone(), "settings");
        return Ok(());
    }
    let bases = || chain.iter().flat_map(|buildpack| &buildpack.base);
    if let Some(name) = &wishes.release
        && !bases().any(|base| base.release.as_ref() == Some(name))
    {
        let known = bases().filter_map(|base| base.release.clone()).collect();
        return Err(BuildpackError::Release { name: name.clone(), known });
    }
    let fits = chain
        .iter()
        .flat_map(|buildpack| buildpack.base.iter().map(move |base| (buildpack, base)))
        .find(|(_, base)| {
            holds(&base.when, facts) && (wishes.release.is_none() || wishes.release == base.release)
        });
    if let Some((buildpack, base)) = fits {
        let origin = format!("buildpack {}", buildpack.name);
        for (name, value) in &base.facts {
            let value = required(&buildpack.name, value, facts)?;
            facts.insert(name, value, origin.clone());
        }
        for (name, value) in [("base.release", &base.release), ("base.image", &base.image)] {
            if let Some(value) = value {
                let value = required(&buildpack.name, value, facts)?;
                facts.insert(name, value, origin.clone());
            }
        }
        return Ok(());
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

impl DerivedFact {
    /// Conditions and value, once for each word of `each`.
    fn instances(&self, buildpack: &Buildpack) -> Vec<(Vec<String>, String)> {
        let Some(list) = &self.each else { return vec![(self.when.clone(), self.value.clone())] };
        let put = |text: &String, word: &str| text.replace("${each}", word);
        // The library has checked that there is the list.
        let words = buildpack.lists.get(list).into_iter().flatten();
        words
            .map(|word| {
                let when = self.when.iter().map(|condition| put(condition, word)).collect();
                (when, put(&self.value, word))
            })
            .collect()
    }
}

/// Adds the facts that follow from others.
fn derive(chain: &[&Buildpack], facts: &mut Facts) -> Result<(), BuildpackError> {
    for buildpack in chain.iter().rev() {
        for derived in &buildpack.facts {
            if facts.contains(&derived.name) {
                continue;
            }
            let mut lines = Vec::new();
            for (when, value) in derived.instances(buildpack) {
                if holds(&when, facts) {
                    lines.push(required(&buildpack.name, &value, facts)?);
                }
            }
            if !lines.is_empty() {
                let origin = format!("buildpack {}", buildpack.name);
                facts.insert(&derived.name, lines.join("\n"), origin);
            }
        }
    }
    Ok(())
}

fn notices(
    chain: &[&Buildpack],
    facts: &Facts,
    planned: &BTreeSet<String>,
) -> Vec<(String, String)> {
    chain
        .iter()
        .flat_map(|buildpack| &buildpack.notices)
        .filter(|notice| holds(&notice.when, facts))
        .filter(|notice| notice.step.as_ref().is_none_or(|step| planned.contains(step)))
        .map(|notice| (text(&notice.message, facts), text(&notice.advice, facts)))
        .collect()
}

fn hints(chain: &[&Buildpack], facts: &Facts) -> Vec<Hint> {
    // The framework's own knowledge comes before the language's.
    chain
        .iter()
        .rev()
        .flat_map(|buildpack| &buildpack.hints)
        .map(|hint| Hint {
            pattern: text(&hint.pattern, facts),
            advice: text(&hint.advice, facts),
            known: hint.known.clone(),
        })
        .collect()
}

pub(super) fn required(
    buildpack: &str,
    template: &str,
    facts: &Facts,
) -> Result<String, BuildpackError> {
    match fill(template, facts) {
        Filled::Text(text) => Ok(text),
        Filled::Nothing => Ok(String::new()),
        Filled::Missing(fact) => {
            Err(BuildpackError::NoFact { buildpack: buildpack.to_owned(), fact })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Action;

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
        assert_eq!(
            names,
            ["base", "runtime", "python-packages", "collectstatic", "app", "launcher"]
        );
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
        assert_eq!(planned.notices, []);
        for (name, value) in [
            ("ruby.version.conflict", "a asks for 3.3, b for 3.1"),
            ("rails.assets.ready", "public/assets/.manifest.json"),
            ("rails.public_files", "off"),
        ] {
            facts.insert(name, value, "t");
        }
        let planned = super::plan(
            &Library::new(&BTreeMap::new()).expect("parses"),
            &facts,
            &Wishes::default(),
        );
        let notices = planned.expect("a plan").notices;
        let starts = ["a asks for 3.3", "public/assets/.manifest.json: ", "config/environments/"];
        assert_eq!(notices.len(), starts.len());
        for ((message, _), start) in notices.iter().zip(starts) {
            assert!(message.starts_with(start), "{message}");
        }
        facts.insert("ruby.platform.missing", "only arm64-darwin", "Gemfile.lock:9");
        let error = super::plan(
            &Library::new(&BTreeMap::new()).expect("parses"),
            &facts,
            &Wishes::default(),
        )
        .expect_err("refused")
        .to_string();
        assert!(error.starts_with("Gemfile.lock:9: there is no platform"), "{error}");
    }

    #[test]
    fn what_a_step_replaces_is_given_to_nobody() {
        let mut facts = Facts::new();
        for (name, value) in [
            ("ruby.gemfile", "Gemfile"),
            ("ruby.lock", "Gemfile.lock"),
            ("ruby.inputs", "Gemfile\nGemfile.lock"),
            ("ruby.allows.3.3.8", "yes"),
            ("rails.application", "config/application.rb"),
            ("rails.assets", "sprockets"),
        ] {
            facts.insert(name, value, "t");
        }
        let selected = |facts: &Facts, skip: &[&str], step: &str| {
            let skip = skip.iter().map(|&step| step.to_owned()).collect();
            let plan = planned(facts, &Wishes { skip, ..Wishes::default() }).expect("a plan").plan;
            let Some(Action::Source { selection }) =
                plan.step(step).map(|step| step.action.clone())
            else {
                panic!("{step} takes no files")
            };
            selection.rules
        };
        // Without a manifest of theirs, files in public/assets are the app's own.
        assert_eq!(selected(&facts, &[], "app"), ["*"]);
        facts.insert("rails.assets.ready", "public/assets/.manifest.json", "t");
        assert_eq!(selected(&facts, &[], "app"), ["*", "!/public/assets/**"]);
        let assets = selected(&facts, &[], "assets files");
        assert_eq!(assets.last().map(String::as_str), Some("!/public/assets/**"));
        assert_eq!(selected(&facts, &["assets"], "app"), ["*"]);
        for (javascript, expected) in
            [("webpacker", "!/public/packs/**"), ("vite", "!/public/vite/**"), ("jsbundling", "")]
        {
            let mut facts = facts.clone();
            facts.insert("rails.javascript", javascript, "t");
            facts.insert("node.lock", "yarn.lock", "t");
            for (name, value) in [
                ("node.dir", "."),
                ("node.manager", "yarn"),
                ("node.manager.release", "1.22.22"),
                ("node.release", "22.1.0"),
                ("node.inputs", "package.json"),
                ("node.manifest", "package.json"),
            ] {
                facts.insert(name, value, "t");
            }
            let found = selected(&facts, &[], "app");
            let more: Vec<&str> = found[2..].iter().map(String::as_str).collect();
            assert_eq!(more.concat(), expected, "{javascript}");
        }
    }

    #[test]
    fn notices_about_steps_that_are_left_out() {
        let mut facts = Facts::new();
        for (name, value) in [
            ("ruby.gemfile", "Gemfile"),
            ("ruby.lock", "Gemfile.lock"),
            ("ruby.inputs", "Gemfile\nGemfile.lock"),
            ("ruby.allows.3.3.8", "yes"),
            ("rails.application", "config/application.rb"),
            ("rails.assets", "sprockets"),
            ("rails.assets.ready", "public/assets/.manifest.json"),
        ] {
            facts.insert(name, value, "t");
        }
        let told = |skip: &[&str]| {
            let skip = skip.iter().map(|&step| step.to_owned()).collect();
            let wishes = Wishes { skip, ..Wishes::default() };
            planned(&facts, &wishes).expect("a plan").notices.len()
        };
        assert_eq!((told(&[]), told(&["assets"])), (1, 0));
    }

    fn with_node(mut facts: Facts, more: &[(&str, &str)]) -> Facts {
        let every = [
            ("node.manifest", "package.json"),
            ("node.dir", "."),
            ("node.manager", "npm"),
            ("node.manager.release", "11.21.2"),
            ("node.release", "24.21.0"),
            ("node.inputs", "package.json\npackage-lock.json"),
        ];
        for (name, value) in every.iter().chain(more) {
            facts.insert(*name, *value, "package.json:2");
        }
        facts
    }

    #[track_caller]
    fn layers(facts: &Facts, expected: &[&str]) -> Plan {
        let plan = planned(facts, &Wishes::default()).expect("a plan").plan;
        let names: Vec<_> = plan.image.layers.iter().map(|layer| layer.step.as_str()).collect();
        assert_eq!(names, expected);
        plan
    }

    #[test]
    fn a_front_end_of_a_django_app() {
        let plain = ["base", "runtime", "python-packages", "collectstatic", "app", "launcher"];
        // Only for those who work on it.
        let lint = [("node.package.eslint", "9"), ("node.script.lint", "eslint .")];
        let plan = layers(&with_node(django(), &lint), &plain);
        assert!(plan.step("node").is_none() && plan.step("npm").is_none());

        let build = [("node.lock", "package-lock.json"), ("node.script.build", "vite build")];
        let built = [
            "base",
            "runtime",
            "python-packages",
            "javascript-build",
            "collectstatic",
            "app",
            "launcher",
        ];
        let plan = layers(&with_node(django(), &build), &built);
        let collectstatic = plan.step("collectstatic").expect("planned");
        for step in ["modules", "javascript-build"] {
            assert!(collectstatic.root.contains(&step.to_owned()), "{:?}", collectstatic.root);
        }
        assert!(!plan.image.environment["PATH"].contains("node"));

        // The settings may name files of packages.
        let production = [("node.lock", "package-lock.json"), ("node.package.production", "yes")];
        let plan = layers(&with_node(django(), &production), &plain);
        let collectstatic = plan.step("collectstatic").expect("planned");
        assert!(collectstatic.root.contains(&"modules".to_owned()), "{:?}", collectstatic.root);

        let error = planned(&with_node(django(), &build[1..]), &Wishes::default());
        let error = error.expect_err("refused").to_string();
        assert!(error.contains("there is a package.json and no lock file"), "{error}");
    }

    #[test]
    fn a_node_app() {
        let more = [
            ("node.lock", "package-lock.json"),
            ("node.script.build", "tsc"),
            ("node.script.start", "node dist/server.js"),
        ];
        let expected = [
            "base",
            "runtime",
            "node-runtime",
            "javascript-build",
            "modules-production",
            "app",
            "launcher",
        ];
        let facts = with_node(Facts::new(), &more);
        let plan = layers(&facts, &expected);
        assert_eq!(plan.image.processes["web"].command, "node dist/server.js");
        assert!(!plan.image.environment.contains_key("NODE_OPTIONS"));
        let without_network = ["modules", "modules-production", "javascript-build"];
        assert!(without_network.iter().all(|name| !plan.step(name).expect("planned").network));

        let pnp = [("node.manager", "berry"), ("node.pnp", ".pnp.cjs"), ("node.type", "module")];
        let plan = layers(&with_node(facts, &[&more[..], &pnp[..]].concat()), &expected);
        assert_eq!(
            plan.image.environment["NODE_OPTIONS"],
            "--require /workspace/.pnp.cjs --experimental-loader /workspace/.pnp.loader.mjs"
        );
    }

    #[test]
    fn a_rails_app_whose_assets_only_the_build_script_makes() {
        let mut facts = Facts::new();
        for (name, value) in [
            ("ruby.gemfile", "Gemfile"),
            ("ruby.lock", "Gemfile.lock"),
            ("ruby.inputs", "Gemfile\nGemfile.lock"),
            ("ruby.allows.3.3.8", "yes"),
            ("rails.application", "config/application.rb"),
        ] {
            facts.insert(name, value, "t");
        }
        let more = [("node.lock", "yarn.lock"), ("node.script.build", "webpack")];
        let plan = layers(
            &with_node(facts, &more),
            &["base", "runtime", "gems", "javascript-build", "app", "launcher"],
        );
        // It may load the app.
        let build = plan.step("javascript-build").expect("planned");
        assert!(build.root.contains(&"gems".to_owned()) && !build.network);
        assert_eq!(build.environment["BUNDLE_GEMFILE"], "/workspace/Gemfile");
        assert!(plan.step("assets").is_none());
    }

    #[test]
    fn ruby_as_it_cannot_be_built() {
        let refused = |name: &str, value: &str, expected: &str| {
            let mut facts = Facts::new();
            facts.insert("ruby.gemfile", "Gemfile", "Gemfile");
            if name != "ruby.broken" && value != "gems.rb" {
                facts.insert("ruby.lock", "Gemfile.lock", "Gemfile.lock");
            }
            facts.insert(name, value, "there:1");
            let error = planned(&facts, &Wishes::default()).expect_err("refused").to_string();
            assert!(error.starts_with(expected), "{error}");
        };
        refused("ruby.broken", "a merge conflict", "there:1: a merge conflict");
        refused("ruby.gemfile", "gems.rb", "there:1: there is a gems.rb");
        refused("ruby.stale", "Gemfile has `a`", "there:1: Gemfile has `a`");
        refused("ruby.path.outside", "../a", "there:1: gems come from `../a`");
        refused("ruby.unsupported", "Rails 5.2 runs", "there:1: Rails 5.2 runs");
        refused("ruby.requirement", "3.4.8", "there:1: no Debian release has a Ruby");
        let mut django = django();
        django.insert("ruby.gemfile", "Gemfile", "Gemfile");
        django.insert("ruby.broken", "a merge conflict", "Gemfile.lock:2");
        let planned = planned(&django, &Wishes::default()).expect("a plan");
        assert_eq!(planned.buildpack, "django");
    }

    #[test]
    fn packages_follow_facts() {
        let mut facts = django();
        facts.insert("python.package.psycopg2", "2.9", "requirements.txt:3");
        let planned = planned(&facts, &Wishes::default()).expect("a plan");
        let names = |step: &str| match &planned.plan.step(step).expect("planned").action {
            Action::Packages { names, linked, .. } => (names.clone(), linked.clone()),
            _ => panic!("{step} installs no packages"),
        };
        assert_eq!(names("build-psycopg2").0, ["libpq-dev"]);
        assert_eq!(names("runtime"), (Vec::new(), Some("libraries".to_owned())));
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
    fn a_fact_has_a_line_for_each_word() {
        let step = |facts: &Facts, step: &str| {
            let planned = planned(facts, &Wishes::default()).expect("a plan").plan;
            planned.step(step).expect("planned").clone()
        };
        let mut facts = django();
        let told = step(&facts, "python-fetch").environment;
        assert!(!told.contains_key("COMPILED") && !told.contains_key("LARGE"), "{told:?}");
        for name in ["django", "psycopg2", "mysqlclient"] {
            facts.insert(format!("python.package.{name}"), "", "requirements.txt:3");
        }
        // In the order of the list.
        let told = step(&facts, "python-fetch").environment;
        assert_eq!(
            (told["COMPILED"].as_str(), told["LARGE"].as_str()),
            ("mysqlclient\npsycopg2", "django")
        );
        let root = step(&facts, "python-packages").root;
        for step in
            ["python-compile mysqlclient", "python-compile psycopg2", "python-install django"]
        {
            assert!(root.contains(&step.to_owned()), "{root:?}");
        }
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
        assert_eq!(release(&facts).expect("a plan").get("base.release"), Some("bookworm"));
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
        let command =
            |text: &str| ProcessWish { command: Some(text.to_owned()), ..ProcessWish::default() };
        wishes.processes.insert("clock".to_owned(), command("tock"));
        wishes.processes.insert("release".to_owned(), command(""));
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
