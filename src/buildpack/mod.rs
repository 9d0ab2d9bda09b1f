//! Buildpacks: what an app needs, as data.
//!
//! A buildpack is a TOML file; [`Buildpack`] is its schema. It names facts and
//! says what follows from them: system packages, steps, environment, processes.
//! [`plan`] turns facts and buildpacks into a [`crate::plan::Plan`], and explains itself when
//! nothing fits. Nothing here runs anything or reads a disk.
//!
//! Conditions (`when`, `match`) are lists of which all must hold:
//! `fact`, `!fact`, `fact=value`, `fact!=value`.
//! Texts may hold `${fact.name}`; names without a dot are left to the shell, and
//! `${fact.name?}` is empty when there is no such fact.

mod launch;
mod library;
mod planner;
mod steps;
mod template;

use std::collections::BTreeMap;

use serde::Deserialize;
use thiserror::Error;

use crate::plan::{Hint, PlanError, Preparation, Start, UnitRule};

pub use launch::ProcessWish;
pub use library::Library;
pub use planner::{Planned, Wishes, plan};

/// A buildpack file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Buildpack {
    /// Its name; the file's name without `.toml`.
    pub name: String,
    /// What it is for, in a word or two.
    pub about: String,
    /// Among buildpacks that match, the highest wins.
    pub priority: i32,
    /// When it matches.
    #[serde(rename = "match")]
    pub matches: Vec<String>,
    /// What it looks for, in words, for the message when nothing matches.
    pub looks_for: String,
    /// Buildpacks that are planned along with it, before it; with `?` behind
    /// those that are only when they match.
    #[serde(default)]
    pub uses: Vec<String>,
    /// Lists of words by name, for steps that there are several of and facts of several lines.
    #[serde(default)]
    pub lists: BTreeMap<String, Vec<String>>,
    /// What it cannot build.
    #[serde(default)]
    pub refuse: Vec<Refuse>,
    /// Facts that follow from others; of several with one name the first that
    /// holds counts, those of a framework before those of its language.
    #[serde(default, rename = "fact")]
    pub facts: Vec<DerivedFact>,
    /// What the user should know, though it stops nothing.
    #[serde(default, rename = "notice")]
    pub notices: Vec<NoticeTemplate>,
    /// What can be under the app, the first that fits wins.
    #[serde(default)]
    pub base: Vec<Base>,
    /// What to say when no release fits.
    pub no_base: Option<NoBase>,
    /// Operating system packages.
    #[serde(default)]
    pub packages: Vec<Packages>,
    /// Steps.
    #[serde(default, rename = "step")]
    pub steps: Vec<StepTemplate>,
    /// Environment of the image.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// What holds for all that the image starts.
    #[serde(default)]
    pub start: Start,
    /// Process types; of several with one type the first that fits wins.
    #[serde(default, rename = "process")]
    pub processes: Vec<ProcessTemplate>,
    /// What a failed step's output may mean.
    #[serde(default, rename = "hint")]
    pub hints: Vec<Hint>,
}

/// Something that is said before anything runs.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refuse {
    /// When it applies.
    pub when: Vec<String>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub advice: String,
    /// The fact whose origin is shown as the place.
    pub fact: String,
}

/// A fact that follows from others.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DerivedFact {
    /// The list of words for which it is asked whether it holds; `${each}` stands for the word
    /// in what follows but the name, and the value has a line for each for which it does.
    pub each: Option<String>,
    /// When it holds.
    #[serde(default)]
    pub when: Vec<String>,
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// Something that the user should know.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoticeTemplate {
    /// When it applies.
    pub when: Vec<String>,
    /// The step that must be planned for it to apply, if one must.
    pub step: Option<String>,
    /// What is so.
    pub message: String,
    /// What to do about it.
    pub advice: String,
}

/// What can be under the app: a release of Debian or an image. When it is taken, the
/// fact `base.release` or `base.image` says which.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Base {
    /// When it fits.
    #[serde(default)]
    pub when: Vec<String>,
    /// The code name: `trixie`.
    pub release: Option<String>,
    /// The image: `docker.io/library/ruby:3.4.8-slim`.
    pub image: Option<String>,
    /// Facts that hold when it is taken.
    #[serde(default)]
    pub facts: BTreeMap<String, String>,
}

/// What to say when no [`Base`] fits.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoBase {
    /// The fact whose origin is shown as the place.
    pub fact: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub advice: String,
}

/// Operating system packages that go together.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Packages {
    /// When they are needed.
    #[serde(default)]
    pub when: Vec<String>,
    /// At the bottom of the image, for every app of the kind.
    #[serde(default)]
    pub base: Vec<String>,
    /// In the image, for this app.
    #[serde(default)]
    pub runtime: Vec<String>,
    /// Whose `build` packages these are: they are then a step of their own,
    /// `build-<set>`, and only steps that name it have them. What others need does
    /// not change with them.
    pub set: Option<String>,
    /// While steps run.
    #[serde(default)]
    pub build: Vec<String>,
}

/// A step, with texts that facts fill in. It does one of three things: run a
/// `command`, `take` files of other steps, or name the packages of the
/// `libraries_of` others.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepTemplate {
    /// Its name.
    pub name: String,
    /// The list of words for each of which there is such a step; `${each}` stands
    /// for the word in all texts.
    pub each: Option<String>,
    /// What it makes, in a few words.
    pub about: String,
    /// When it is needed.
    #[serde(default)]
    pub when: Vec<String>,
    /// Steps whose outputs make up its file system; with `?` behind those that
    /// may not be planned, and `*` for all whose names begin so. A fact of several
    /// lines stands for several steps.
    pub root: Vec<String>,
    /// The app's files that it sees, as `.gitignore` patterns that select.
    #[serde(default)]
    pub source: Vec<String>,
    /// Which of these files count for its result: all, or, with `traced`, those that it was
    /// seen to read.
    #[serde(default)]
    pub inputs: Inputs,
    /// The app's files in whose place the step makes others, as patterns like those
    /// of `source`. When it is in the image, neither it nor the image is given them.
    #[serde(default)]
    pub replaces: Vec<String>,
    /// Program and arguments.
    #[serde(default)]
    pub command: Vec<String>,
    /// Globs of the files that it takes out of `root`, without leading slash. A
    /// fact of several lines stands for several.
    #[serde(default)]
    pub take: Vec<String>,
    /// Steps, on top of `root`, of whose programs the libraries' packages are
    /// installed in the image; with `?` behind those that may not be planned. The
    /// first step of `root` is what the image has already.
    #[serde(default)]
    pub libraries_of: Vec<String>,
    /// Scripts from the buildpack's folder, seen in `/forge`; those of another
    /// buildpack with its name in front: `javascript/build.sh`.
    #[serde(default)]
    pub files: Vec<String>,
    /// Working directory.
    #[serde(default = "slash")]
    pub directory: String,
    /// What it makes; with `?` behind what it may leave unmade.
    #[serde(default)]
    pub outputs: Vec<String>,
    /// Globs of what is dropped from the outputs.
    #[serde(default)]
    pub drop: Vec<String>,
    /// Whether it reaches the network.
    #[serde(default)]
    pub network: bool,
    /// Whether its output is pinned in `forge.lock`.
    #[serde(default)]
    pub pinned: bool,
    /// The shared download folder of a fetch step.
    #[serde(default)]
    pub cache: Option<String>,
    /// Whether its output is a layer of the image: yes, no, or on these conditions.
    #[serde(default)]
    pub in_image: Decision,
    /// Whether the app's user owns what it made in the app's folder.
    #[serde(default)]
    pub of_app: bool,
    /// Which of its files belong together, when it is in the image: it then becomes several
    /// layers, so that what changes in one unit sends none of the others again.
    #[serde(default)]
    pub units: Vec<UnitRule>,
    /// Whether it gets `[build.environment]` of `forge.toml`: steps that run code
    /// of the app.
    #[serde(default)]
    pub build_environment: bool,
    /// Its environment.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
}

/// Which of the files that a step is given count for its result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Inputs {
    /// All.
    #[default]
    Whole,
    /// Those that it was seen to read.
    Traced,
}

/// Yes, no, or when all of these conditions hold.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Decision {
    /// Whatever the facts are.
    Always(bool),
    /// When they hold.
    When(Vec<String>),
}

impl Default for Decision {
    fn default() -> Decision {
        Decision::Always(false)
    }
}

fn slash() -> String {
    "/".to_owned()
}

/// A process type.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessTemplate {
    /// `web`, `worker`.
    #[serde(rename = "type")]
    pub kind: String,
    /// When it is offered.
    #[serde(default)]
    pub when: Vec<String>,
    /// The command line.
    pub command: String,
    /// What happens before it starts.
    #[serde(default)]
    pub start: Preparation,
}

fn can(known: &[String]) -> String {
    if known.is_empty() {
        "no step can".to_owned()
    } else {
        format!("these can: {}", known.join(", "))
    }
}

/// Why there is no plan.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BuildpackError {
    /// A buildpack file that does not parse.
    #[error("buildpack `{file}` does not parse: {problem}")]
    Parse {
        /// The file.
        file: String,
        /// What the parser said, with the line.
        problem: String,
    },
    /// A buildpack that is wanted and is not there.
    #[error("there is no buildpack `{name}`; there are {}", known.join(", "))]
    Unknown {
        /// What was wanted.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// A buildpack that is asked for and does not fit the app.
    #[error("buildpack `{name}` does not fit: it looks for {looks_for}")]
    Unfit {
        /// What was asked for.
        name: String,
        /// What it looks for.
        looks_for: String,
    },
    /// A release that the buildpacks do not know.
    #[error("there is no release `{name}` for this app; there are {}", known.join(", "))]
    Release {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// A step that cannot be left out.
    #[error("step `{name}` cannot be skipped: {problem}; {}", can(known))]
    Skip {
        /// What was to be skipped.
        name: String,
        /// Why it cannot be.
        problem: String,
        /// What can.
        known: Vec<String>,
    },
    /// No buildpack matches.
    #[error("nothing that forge can build was found")]
    NothingDetected {
        /// Buildpack and what it looks for.
        looked_for: Vec<(String, String)>,
    },
    /// The app is of a known kind, but cannot be built as it is.
    #[error("{}{message}", if origin.is_empty() { String::new() } else { format!("{origin}: ") })]
    Refused {
        /// File and line.
        origin: String,
        /// What is wrong.
        message: String,
        /// What to do.
        advice: String,
    },
    /// A buildpack that asks for a fact that nobody knows: an error in it.
    #[error("buildpack `{buildpack}` uses `${{{fact}}}`, and there is no such fact")]
    NoFact {
        /// The buildpack.
        buildpack: String,
        /// The fact.
        fact: String,
    },
    /// A buildpack that names a script it does not have.
    #[error("buildpack `{buildpack}` names the script `{script}`, which it does not have")]
    NoScript {
        /// The buildpack.
        buildpack: String,
        /// The script.
        script: String,
    },
    /// A process type that cannot be one.
    #[error("{origin}: `{kind}` cannot be the name of a process: {problem}")]
    ProcessName {
        /// File and line.
        origin: String,
        /// The name.
        kind: String,
        /// Why not.
        problem: &'static str,
    },
    /// What is said of a process cannot be meant.
    #[error("{origin}: process `{kind}`: {problem}")]
    Process {
        /// File or buildpack.
        origin: String,
        /// The type.
        kind: String,
        /// What is wrong.
        problem: String,
    },
    /// What is said of all processes cannot be meant.
    #[error("{origin}: [start]: {problem}")]
    Start {
        /// File or buildpack.
        origin: String,
        /// What is wrong.
        problem: String,
    },
    /// The steps do not fit together.
    #[error(transparent)]
    Plan(#[from] PlanError),
}
