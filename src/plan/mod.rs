//! The plan: an acyclic graph of steps, and the recipe of the image.
//!
//! Everything here is a pure value. A [`Plan`] says *what* would run and what the
//! image would be made of; whether a step runs or a known result is reused is
//! the engine's decision, taken with [`key`].

pub mod key;
pub mod recorded;
mod start;

use std::borrow::Cow;
use std::collections::BTreeMap;

use petgraph::graphmap::DiGraphMap;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::digest::Digest;

pub use start::{Count, Preparation, Publish, Start};

/// Where the app's files stand, in the sandbox and in the image.
pub const APP_FOLDER: &str = "workspace";

/// The user that the image runs as, and its group.
pub const APP_USER: u32 = 1000;

/// The file in which a [`Action::Libraries`] step names packages, one a line.
pub const LIBRARIES: &str = "opt/forge/libraries";

/// What will be done, in an order in which every step comes after its inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Sorted so that inputs come first, ties in the order of the buildpacks.
    pub steps: Vec<Step>,
    /// What the image is made of.
    pub image: ImageRecipe,
}

/// One build action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Unique in the plan.
    pub name: String,
    /// A few words for people: `Python packages`.
    pub about: String,
    /// What it does.
    pub action: Action,
    /// Names of the steps whose outputs make up the file system, bottom to top.
    pub root: Vec<String>,
    /// What is kept of what the action wrote.
    pub outputs: Vec<Output>,
    /// Globs of paths that are dropped from the outputs.
    pub drop: Vec<String>,
    /// Whether the action reaches the network. Fetch steps only fetch; their
    /// results are checked by hash.
    pub network: bool,
    /// Whether the files of the output are pinned, as text, in `forge.lock`.
    pub pinned: bool,
    /// Whether, of the app's files, only those count for its result that it was seen to
    /// read, besides the names of all. They are then its last input.
    pub traced: bool,
    /// A folder that fetch steps of this name share between builds, mounted at
    /// `/forge/cache`. Never part of a result.
    pub cache: Option<String>,
    /// The whole environment of the command, sorted.
    pub environment: BTreeMap<String, String>,
    /// Working directory in the sandbox.
    pub directory: String,
    /// What a failed run's output may mean.
    #[serde(skip)]
    pub hints: Vec<Hint>,
}

/// A file or folder that a step makes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Output {
    /// Without leading slash; empty for everything that was written.
    pub path: String,
    /// Whether the step may leave it unmade.
    pub optional: bool,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Action {
    /// Runs a command in the sandbox.
    Command {
        /// Program and arguments.
        command: Vec<String>,
        /// Scripts that the command finds in `/forge`: name → text.
        files: BTreeMap<String, String>,
    },
    /// Takes the file system of an image that others made.
    Image {
        /// Where it is: `docker.io/library/ruby:3.4.8-slim`.
        reference: String,
        /// What the reference names; filled in from `forge.lock` or by the registry.
        digest: Option<Digest>,
    },
    /// Installs operating system packages.
    Packages {
        /// The release they come from: `trixie`; empty on top of an image, which
        /// is asked when it is there.
        release: String,
        /// What was asked for; dependencies come along.
        names: Vec<String>,
        /// What that means exactly; filled in from `forge.lock` or by solving.
        packages: Vec<Package>,
        /// How they are set up: the digest of the script that does it.
        setup: Digest,
        /// Whether this is the bottom of the file system: the packages marked
        /// essential come along, and the app's user is made.
        bottom: bool,
        /// The [`Action::Libraries`] step among the inputs that names further
        /// packages. They are then known, and filled in, only while the plan is
        /// carried out.
        linked: Option<String>,
    },
    /// Names the packages whose shared libraries the programs of the last inputs
    /// link against, in the file [`LIBRARIES`].
    Libraries {
        /// How many inputs, from the last one backwards, are looked at. The first
        /// input is what the image has anyway, the others have packages to name.
        inspected: usize,
    },
    /// Takes files of its inputs as they are. Where several have a path, the last
    /// one counts.
    Take {
        /// Patterns as in `.gitignore`, of paths without leading slash: what they
        /// match is taken.
        patterns: Vec<String>,
    },
    /// Takes files of the app.
    Source {
        /// Which ones.
        selection: Selection,
    },
    /// Writes files that forge makes itself.
    Files {
        /// Path without leading slash → file.
        files: BTreeMap<String, MadeFile>,
    },
}

/// Files of the app, by rules in the order given: the last rule that matches a
/// path decides, `!` in front excludes. Patterns are those of `.gitignore`,
/// rooted at the app's folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Selection {
    /// The rules.
    pub rules: Vec<String>,
}

/// What is in a file that forge makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MadeContent {
    bytes: Cow<'static, [u8]>,
    digest: Digest,
}

impl Default for MadeContent {
    fn default() -> MadeContent {
        Vec::new().into()
    }
}

impl MadeContent {
    /// Bytes that have this digest.
    #[must_use]
    pub fn known(bytes: &'static [u8], digest: Digest) -> MadeContent {
        MadeContent { bytes: Cow::Borrowed(bytes), digest }
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Their digest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

impl<B: Into<Cow<'static, [u8]>>> From<B> for MadeContent {
    fn from(bytes: B) -> MadeContent {
        let bytes = bytes.into();
        MadeContent { digest: Digest::of(&bytes), bytes }
    }
}

/// A file or link that forge itself puts into the image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MadeFile {
    /// A regular file.
    File {
        /// What is in it.
        #[serde(skip)]
        content: MadeContent,
        /// Permission bits.
        mode: u32,
    },
    /// A symbolic link.
    Link {
        /// Where it points.
        target: String,
    },
    /// An empty directory.
    Folder {
        /// Permission bits.
        mode: u32,
    },
}

/// One operating system package, exactly.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// `amd64`, `all`.
    pub architecture: String,
    /// Digest of the .deb.
    pub digest: Digest,
    /// Length of the .deb in bytes.
    pub size: u64,
    /// Which of the release's archives has it: `main`, `updates`, `security`.
    pub archive: String,
    /// Where in the archive it lies: `pool/main/…`.
    pub path: String,
}

/// What the image is made of besides its layers' content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRecipe {
    /// Bottom to top.
    pub layers: Vec<LayerRecipe>,
    /// Static environment.
    pub environment: BTreeMap<String, String>,
    /// Process types by name.
    pub processes: BTreeMap<String, Process>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// A step's output as a layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LayerRecipe {
    /// The step.
    pub step: String,
    /// Whether the app's user owns the files in the app's folder.
    pub of_app: bool,
    /// Which of its files belong together, for a layer that is split; none for one that is not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub units: Vec<UnitRule>,
}

impl LayerRecipe {
    /// A layer that is not split, of files that belong to root.
    #[must_use]
    pub fn whole(step: &str) -> LayerRecipe {
        LayerRecipe { step: step.to_owned(), of_app: false, units: Vec::new() }
    }
}

/// How some files are known to belong to a unit: a package of the app's language, as a rule. Of
/// several rules the first that has an answer for a file counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnitRule {
    /// A regular expression of paths without leading slash. Its group `unit` names the unit,
    /// without its version: what is called the same stays in its place.
    pub path: String,
    /// Whether the files are lists of what belongs to the unit: CSV with a path in the first
    /// field, relative to what the group `from` captures.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lists: bool,
    /// The file beside which they belong, `${group}` standing for what a group captures; there is
    /// then no group `unit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beside: Option<String>,
}

/// The most layers that an image has of steps that are split, all together. Container engines take
/// about 127 layers (overlayfs 500), which the base and the app share; and each is a request or
/// three. Changing it gives every user other layers once.
const MOST_PARTS: usize = 24;

impl ImageRecipe {
    /// The most layers of each step that is split.
    #[must_use]
    pub fn parts_each(&self) -> usize {
        MOST_PARTS / self.layers.iter().filter(|layer| !layer.units.is_empty()).count().max(1)
    }
}

/// One way to start the image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Process {
    /// The command line; run by a shell, unless `direct`.
    pub command: String,
    /// Which file or buildpack says so.
    pub origin: String,
    /// What happens before it starts.
    #[serde(flatten)]
    pub preparation: Preparation,
}

/// What a line in a failed step's output means, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hint {
    /// A regular expression.
    pub pattern: String,
    /// Advice; `$1` stands for the first group of the pattern.
    pub advice: String,
    /// What `$known` stands for, by what a group found; where there is any, the
    /// hint holds for these words alone.
    #[serde(default)]
    pub known: BTreeMap<String, String>,
}

/// Why steps do not form a plan.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum PlanError {
    /// Two steps of one name.
    #[error("two steps are named `{0}`")]
    Twice(String),
    /// An input that no step makes.
    #[error("step `{step}` needs `{input}`, and no step of that name is planned")]
    Missing {
        /// The step.
        step: String,
        /// What it needs.
        input: String,
    },
    /// Steps that need each other.
    #[error("step `{0}` needs its own output")]
    Cycle(String),
}

impl Step {
    /// A step that does `action`, with nothing below it, no environment, no
    /// network, and all that it writes as its output.
    #[must_use]
    pub fn new(name: &str, about: &str, action: Action) -> Step {
        Step {
            name: name.to_owned(),
            about: about.to_owned(),
            action,
            root: Vec::new(),
            outputs: vec![Output { path: String::new(), optional: false }],
            drop: Vec::new(),
            network: false,
            pinned: false,
            traced: false,
            cache: None,
            environment: BTreeMap::new(),
            directory: "/".to_owned(),
            hints: Vec::new(),
        }
    }
}

impl Plan {
    /// Checks that the steps form an acyclic graph and sorts them.
    ///
    /// # Errors
    /// Names that are not unique, inputs that are missing, cycles.
    pub fn new(steps: Vec<Step>, image: ImageRecipe) -> Result<Plan, PlanError> {
        let mut index = BTreeMap::new();
        for (number, step) in steps.iter().enumerate() {
            if index.insert(step.name.clone(), number).is_some() {
                return Err(PlanError::Twice(step.name.clone()));
            }
        }
        let mut graph = DiGraphMap::<usize, ()>::new();
        for (number, step) in steps.iter().enumerate() {
            graph.add_node(number);
            for input in &step.root {
                let input = index.get(input).ok_or_else(|| PlanError::Missing {
                    step: step.name.clone(),
                    input: input.clone(),
                })?;
                graph.add_edge(*input, number, ());
            }
        }
        petgraph::algo::toposort(&graph, None)
            .map_err(|cycle| PlanError::Cycle(steps[cycle.node_id()].name.clone()))?;
        for layer in &image.layers {
            if !index.contains_key(&layer.step) {
                return Err(PlanError::Missing {
                    step: "the image".to_owned(),
                    input: layer.step.clone(),
                });
            }
        }
        // petgraph's order is any topological one; ours is the first by position.
        let mut sorted = Vec::with_capacity(steps.len());
        let mut left: Vec<Option<Step>> = steps.into_iter().map(Some).collect();
        while sorted.len() < left.len() {
            let next = left.iter().position(|step| {
                step.as_ref()
                    .is_some_and(|step| step.root.iter().all(|input| left[index[input]].is_none()))
            });
            let Some(step) = next.and_then(|next| left[next].take()) else { break };
            sorted.push(step);
        }
        Ok(Plan { steps: sorted, image })
    }

    /// The step of that name.
    #[must_use]
    pub fn step(&self, name: &str) -> Option<&Step> {
        self.steps.iter().find(|step| step.name == name)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn step(name: &str, root: &[&str]) -> Step {
        let action = Action::Command { command: vec!["true".to_owned()], files: BTreeMap::new() };
        Step {
            root: root.iter().map(|&name| name.to_owned()).collect(),
            outputs: vec![Output { path: "out".to_owned(), optional: false }],
            ..Step::new(name, "", action)
        }
    }

    fn recipe() -> ImageRecipe {
        ImageRecipe {
            layers: Vec::new(),
            environment: BTreeMap::new(),
            processes: BTreeMap::new(),
            labels: BTreeMap::new(),
        }
    }

    #[track_caller]
    fn check(steps: &[(&str, &[&str])], expected: Result<&[&str], PlanError>) {
        let steps = steps.iter().map(|(name, root)| step(name, root)).collect();
        let found = Plan::new(steps, recipe())
            .map(|plan| plan.steps.into_iter().map(|step| step.name).collect::<Vec<_>>());
        assert_eq!(
            found,
            expected.map(|names| names.iter().map(|&name| name.to_owned()).collect())
        );
    }

    #[test]
    fn inputs_come_first_and_ties_keep_their_order() {
        check(
            &[("c", &["a", "b"]), ("b", &["a"]), ("d", &[]), ("a", &[])],
            Ok(&["d", "a", "b", "c"]),
        );
    }

    #[test]
    fn what_is_no_plan() {
        check(&[("a", &[]), ("a", &[])], Err(PlanError::Twice("a".to_owned())));
        check(
            &[("a", &["x"])],
            Err(PlanError::Missing { step: "a".to_owned(), input: "x".to_owned() }),
        );
        check(&[("a", &["a"])], Err(PlanError::Cycle("a".to_owned())));
    }
}
