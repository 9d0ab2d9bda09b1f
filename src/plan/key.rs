//! Keys: the names under which results are known.
//!
//! | in the key | not in the key |
//! | --- | --- |
//! | format version, platform | the step's name and description |
//! | command and its scripts, or packages by digest | which steps made the inputs |
//! | environment, directory, network policy | time, machine, user, processors |
//! | the *content* of every input, in stacking order | where anything lies on this machine |
//! | output paths and what is dropped from them | caches, hints, mirrors |
//!
//! Of forge's own code that carries out an action, the key says a number: [`TAKE`] and its like.
//! What a command makes is made by the command, which is in the key as it stands.
//!
//! As inputs are named by content, a step that was run again and gave the same
//! tree does not make its dependents run again (early cutoff).

use std::collections::BTreeMap;

use super::{Action, MadeFile, Plan, Step, UnitRule};
use crate::digest::{Digest, Fields};

/// Bumped whenever the meaning of a key changes; every old result is then
/// rebuilt. Changing it is a format break: say so in the changelog.
const KEY_VERSION: u64 = 1;

/// Which generation of forge's code installs packages: [`Action::Packages`]. Like those below,
/// it is bumped whenever the same inputs give something else, which a test beside that code
/// notices; all results of such steps are then made anew. 1 is not written into keys.
pub const PACKAGES: u64 = 1;
/// Which one unpacks the image of others: [`Action::Image`].
pub const IMAGE: u64 = 1;
/// Which one finds the packages of libraries: [`Action::Libraries`].
pub const LIBRARIES: u64 = 1;
/// Which one takes files of inputs: [`Action::Take`].
pub const TAKE: u64 = 1;

/// The key of a step whose inputs have these trees, bottom to top, on
/// `platform` (`linux/amd64`).
#[must_use]
pub fn key(step: &Step, platform: &str, inputs: &[Digest]) -> Digest {
    let mut fields = definition(step, platform);
    fields.number(inputs.len() as u64);
    for input in inputs {
        fields.digest(input);
    }
    fields.finish()
}

/// The key of a pinned step: what it was asked, without the tools it used, so
/// that a pin outlives an update of the base. `sources` are the trees of its
/// inputs that are files of the app.
#[must_use]
pub fn pin_key(step: &Step, platform: &str, sources: &[Digest]) -> Digest {
    let mut fields = definition(step, platform);
    fields.text("pin").number(sources.len() as u64);
    for source in sources {
        fields.digest(source);
    }
    fields.finish()
}

/// The name of all that a plan makes, known before anything is: from the steps as they
/// are planned, the files of the app that they see (`sources`: step → tree), and the
/// lock, which says what everything else stands for.
#[must_use]
pub fn deep_key(
    plan: &Plan,
    platform: &str,
    sources: &BTreeMap<String, Digest>,
    lock: &str,
) -> Digest {
    let mut fields = Fields::new("forge-image");
    fields.number(plan.steps.len() as u64);
    for step in &plan.steps {
        let own = definition(step, platform).finish();
        fields.text(&step.name).digest(&own).texts(step.root.iter().map(String::as_str));
        if let Some(source) = sources.get(&step.name) {
            fields.digest(source);
        }
        if let Action::Packages { names, linked, .. } = &step.action {
            fields.texts(names.iter().map(String::as_str)).text(linked.as_deref().unwrap_or(""));
        }
    }
    fields.number(plan.image.layers.len() as u64);
    for layer in &plan.image.layers {
        fields.text(&layer.step).text(if layer.of_app { "of app" } else { "" });
        fields.number(layer.units.len() as u64);
        for UnitRule { path, lists, beside } in &layer.units {
            fields.text(path).text(if *lists { "lists" } else { "" });
            fields.text(beside.as_deref().unwrap_or(""));
        }
    }
    fields.text(lock);
    fields.finish()
}

/// The generation of the code that carries out an action.
fn generation(action: &Action) -> u64 {
    match action {
        Action::Packages { .. } => PACKAGES,
        Action::Image { .. } => IMAGE,
        Action::Libraries { .. } => LIBRARIES,
        Action::Take { .. } => TAKE,
        // What it makes, its command makes.
        Action::Command { .. } => 1,
        // Their trees are known without a key.
        Action::Source { .. } | Action::Files { .. } => 1,
    }
}

fn beginning(platform: &str, generation: u64) -> Fields {
    let mut fields = Fields::new("forge-step");
    fields.number(KEY_VERSION).text(platform);
    // The first ones were made before there was a number.
    if generation > 1 {
        fields.text("generation").number(generation);
    }
    fields
}

pub(super) fn definition(step: &Step, platform: &str) -> Fields {
    let mut fields = beginning(platform, generation(&step.action));
    match &step.action {
        Action::Command { command, files } => {
            fields
                .text("command")
                .texts(command.iter().map(String::as_str))
                .number(files.len() as u64);
            for (name, text) in files {
                fields.text(name).text(text);
            }
        }
        Action::Packages { packages, bottom, release, setup, .. } => {
            fields.digest(setup);
            fields.text("packages").text(release).text(if *bottom { "bottom" } else { "on top" });
            fields.number(packages.len() as u64);
            for package in packages {
                fields.digest(&package.digest);
            }
        }
        Action::Image { reference, digest } => {
            fields.text("image");
            match digest {
                Some(digest) => fields.digest(digest),
                None => fields.text(reference),
            };
        }
        Action::Libraries { inspected } => {
            fields.text("libraries").number(*inspected as u64);
        }
        Action::Take { patterns } => {
            fields.text("take").texts(patterns.iter().map(String::as_str));
        }
        Action::Source { selection } => {
            fields.text("source").texts(selection.rules.iter().map(String::as_str));
        }
        Action::Files { files } => {
            fields.text("files").number(files.len() as u64);
            for (path, file) in files {
                fields.text(path);
                match file {
                    MadeFile::File { content, mode } => {
                        fields.text("file").number(u64::from(*mode)).bytes(content.bytes())
                    }
                    MadeFile::Link { target } => fields.text("link").text(target),
                    MadeFile::Folder { mode } => fields.text("folder").number(u64::from(*mode)),
                };
            }
        }
    }
    fields.text(if step.network { "network" } else { "offline" }).text(&step.directory);
    fields.number(step.environment.len() as u64);
    for (name, value) in &step.environment {
        fields.text(name).text(value);
    }
    fields.number(step.outputs.len() as u64);
    for output in &step.outputs {
        fields.text(&output.path).text(if output.optional { "optional" } else { "required" });
    }
    fields.texts(step.drop.iter().map(String::as_str));
    fields
}

#[cfg(test)]
mod tests {
    use super::super::tests::step;
    use super::*;

    fn keys(change: impl Fn(&mut Step)) -> (Digest, Digest) {
        let inputs = [Digest::of(b"base")];
        let mut changed = step("a", &["base"]);
        change(&mut changed);
        (key(&step("a", &["base"]), "linux/amd64", &inputs), key(&changed, "linux/amd64", &inputs))
    }

    #[test]
    fn what_a_whole_plan_is_named_by() {
        use super::super::ImageRecipe;
        let recipe = || ImageRecipe {
            layers: Vec::new(),
            environment: BTreeMap::new(),
            processes: BTreeMap::new(),
            labels: BTreeMap::new(),
        };
        let plan = |steps| Plan::new(steps, recipe()).expect("a plan");
        let sources = |text: &str| BTreeMap::from([("a".to_owned(), Digest::of(text.as_bytes()))]);
        let one = plan(vec![step("a", &[]), step("b", &["a"])]);
        let key = |plan: &Plan, source, lock| deep_key(plan, "linux/amd64", &sources(source), lock);
        let known = key(&one, "1", "lock");
        assert_eq!(known, key(&one, "1", "lock"));
        assert_ne!(known, key(&one, "2", "lock"));
        assert_ne!(known, key(&one, "1", "another"));
        assert_ne!(known, key(&plan(vec![step("a", &[]), step("b", &[])]), "1", "lock"));
        assert_ne!(known, deep_key(&one, "linux/arm64", &sources("1"), "lock"));
    }

    #[track_caller]
    fn in_the_key(change: impl Fn(&mut Step)) {
        let (before, after) = keys(change);
        assert_ne!(before, after);
    }

    #[track_caller]
    fn not_in_the_key(change: impl Fn(&mut Step)) {
        let (before, after) = keys(change);
        assert_eq!(before, after);
    }

    #[test]
    fn what_is_in_the_key() {
        in_the_key(|step| step.network = true);
        in_the_key(|step| step.directory = "/x".to_owned());
        in_the_key(|step| step.outputs[0].path.push('2'));
        in_the_key(|step| step.outputs[0].optional = true);
        in_the_key(|step| step.drop.push("more".to_owned()));
        in_the_key(|step| {
            step.environment.insert("A".to_owned(), "b".to_owned());
        });
        in_the_key(|step| {
            if let Action::Command { command, .. } = &mut step.action {
                command.push("x".to_owned());
            }
        });
        in_the_key(|step| {
            if let Action::Command { files, .. } = &mut step.action {
                files.insert("script".to_owned(), String::new());
            }
        });
    }

    #[test]
    fn values_of_variables_are_in_the_key() {
        let with = |value: &str| {
            let mut step = step("a", &[]);
            step.environment.insert("A".to_owned(), value.to_owned());
            key(&step, "linux/amd64", &[])
        };
        assert_ne!(with("b"), with("c"));
    }

    #[test]
    fn what_is_not_in_the_key() {
        not_in_the_key(|step| step.name = "b".to_owned());
        not_in_the_key(|step| step.about = "other words".to_owned());
        not_in_the_key(|step| step.root = vec!["another maker of the same content".to_owned()]);
        not_in_the_key(|step| step.cache = Some("pip".to_owned()));
        not_in_the_key(|step| step.traced = true);
    }

    #[test]
    fn order_of_inputs_counts() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let step = step("s", &[]);
        assert_ne!(key(&step, "linux/amd64", &[a, b]), key(&step, "linux/amd64", &[b, a]));
        assert_ne!(key(&step, "linux/amd64", &[a]), key(&step, "linux/arm64", &[a]));
        assert_ne!(key(&step, "linux/amd64", &[a]), pin_key(&step, "linux/amd64", &[a]));
    }

    #[test]
    fn another_generation_has_other_keys_and_the_first_has_none() {
        let first = beginning("linux/amd64", 1).finish();
        let mut unnumbered = Fields::new("forge-step");
        assert_eq!(unnumbered.number(KEY_VERSION).text("linux/amd64").finish(), first);
        let second = beginning("linux/amd64", 2).finish();
        assert_ne!(first, second);
        assert_ne!(second, beginning("linux/amd64", 3).finish());
    }

    /// Pins the keys of built-in actions, for as long as their numbers are 1.
    #[test]
    fn keys_of_built_in_actions_are_pinned() {
        let digest = Digest::of(b"x");
        let packages = Action::Packages {
            release: "trixie".to_owned(),
            names: Vec::new(),
            packages: Vec::new(),
            setup: digest,
            bottom: true,
            linked: None,
        };
        let image = Action::Image { reference: "r/x:1".to_owned(), digest: Some(digest) };
        let take = Action::Take { patterns: vec!["layers".to_owned()] };
        let found = [packages, image, Action::Libraries { inspected: 1 }, take]
            .map(|action| key(&Step::new("a", "", action), "linux/amd64", &[digest]).hex());
        assert_eq!(
            found,
            [
                "49cd89e231e12c229af13aed68c3686c5055baa485e57bc5281c8d6ddb0b9242",
                "120a229ee88932a88ba79119e748bef2045a594821b0a7360f8433410185d223",
                "327cdadaf95c59dbc25e713b81f7dbdf752c305b8e232cc07e017a7eb8dee3a5",
                "6c9a5edb1d11f5b2db380a587d8c12b08cb320503526b9db9b2557a2dc624106"
            ]
        );
    }

    /// Pins the encoding: when this changes, so must [`KEY_VERSION`].
    #[test]
    fn key_is_pinned() {
        let key = key(&step("a", &["base"]), "linux/amd64", &[Digest::of(b"base")]);
        assert_eq!(
            key.to_string(),
            "sha256:49ebe2f085567cafd346298fd023a53270bfa2dd9a6dd70640fa021c3b2259ad"
        );
    }
}
