//! Facts and buildpacks in, plan out.

use std::collections::{BTreeMap, BTreeSet};

use super::launch::{ProcessWish, launcher_step, processes, start};
use super::steps::{Maker, in_image, source_step};
use super::template::{Filled, fill, holds};
use super::{Buildpack, BuildpackError, DerivedFact, Library, StepTemplate};
use crate::facts::Facts;
use crate::plan::{Hint, ImageRecipe, LayerRecipe, MadeContent, Plan, Start, Step};

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
    pub launcher: MadeContent,
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
mod tests;
