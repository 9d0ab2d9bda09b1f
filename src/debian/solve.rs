//! Which packages to install, and in which order they are configured.
//!
//! First come, first served: wants are met in the order in which they arise, roots first; each
//! by what is already chosen or installed, else by its first alternative that works. A want
//! that cannot be met undoes the latest choice that had another alternative.
//!
//! - Same index, same request, same answer: no hash order, no randomness.
//! - `Recommends` and `Suggests` are not followed.
//! - Nothing installed is removed or downgraded. It is upgraded only when a chosen package
//!   needs that, or cannot be there with the version that is installed: packages built
//!   together (`= version`) move together. What was broken before may stay so.
//! - No optimisation: a leaf package on a known base hardly ever needs any.

mod error;
mod order;

use std::collections::{BTreeMap, BTreeSet, HashMap};

pub use self::error::SolveError;
use self::error::similar;
use self::order::{Needs, order};
use super::index::{Index, MultiArch, Package};
use super::relation::{self, Constraint, Group, Operator, Qualifier, Relation};
use super::version::Version;

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// `amd64`; packages of this one and of `all` are taken.
    pub architecture: &'a str,
    /// What must be there in the end, the first being chosen first.
    pub roots: &'a [Root],
    /// Whether the packages marked essential belong to it, as in a new root.
    pub essential: bool,
    /// What is there already, by name.
    pub installed: &'a BTreeMap<String, Installed>,
    /// Names that must not be chosen.
    pub exclude: &'a BTreeSet<String>,
}

/// A package, real or virtual, that must be there in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// Its name.
    pub name: String,
    /// Which of its versions will do.
    pub constraint: Option<Constraint>,
}

/// What is known of a package that is already there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// Its version.
    pub version: Version,
    /// What else it serves as, with the version if there is one.
    pub provides: BTreeMap<String, Option<Version>>,
    /// How it gets on with other architectures.
    pub multi_arch: MultiArch,
    /// `Pre-Depends` and `Depends` as one field; empty if nothing is known of them.
    pub depends: String,
    /// `Conflicts` and `Breaks` likewise.
    pub conflicts: String,
}

/// Undone choices before giving up. The archive needs none for what images
/// are made of; a search that goes this far is in a thicket.
const MAX_STEPS: usize = 20_000;

/// The packages to add, in the order in which they can be configured: what a
/// package needs comes before it, cycles are cut where the fewest others hang,
/// ties are broken by name. A package that is installed in a lower version and
/// must be upgraded is among them.
///
/// # Errors
/// [`SolveError`].
pub fn solve<'i>(index: &'i Index, request: &Request<'_>) -> Result<Vec<&'i Package>, SolveError> {
    for root in request.roots {
        let known = request.installed.contains_key(&root.name)
            || request.installed.values().any(|other| other.provides.contains_key(&root.name))
            || index.lookup(&root.name).is_some()
            || !index.providers(&root.name).is_empty();
        if !known {
            return Err(SolveError::Unknown {
                name: root.name.clone(),
                similar: similar(index, &root.name),
            });
        }
    }
    let mut search = Search::new(index, request)?;
    search.run()?;
    Ok(search.configure_order())
}

/// A group that must hold, and the chosen package that says so.
struct Want<'a> {
    by: Option<usize>,
    kind: Kind,
    group: Group<'a>,
}

/// Why a group must hold.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// `Pre-Depends`.
    BeforeUnpacking,
    /// `Depends`, or the request.
    BeforeConfiguring,
    /// What is installed cannot stay as it is.
    Along,
}

/// What an installed package asks of others.
struct Standing<'r> {
    depends: Vec<Group<'r>>,
    conflicts: Vec<Relation<'r>>,
}

struct Chosen<'a> {
    package: &'a Package,
    conflicts: Vec<Relation<'a>>,
    provides: Vec<Relation<'a>>,
    by: Option<usize>,
}

/// Where to go back to: lengths of the growing lists, and what is left to try.
struct Choice<'a> {
    chosen: usize,
    wants: usize,
    next: usize,
    /// The last one is tried first.
    left: Vec<&'a Package>,
}

/// `'a` is the index, `'r` the request, whose names are in the first wants.
struct Search<'a, 'r> {
    index: &'a Index,
    request: &'r Request<'r>,
    standing: BTreeMap<&'r str, Standing<'r>>,
    wants: Vec<Want<'r>>,
    /// The first want not looked at.
    next: usize,
    chosen: Vec<Chosen<'a>>,
    by_name: HashMap<&'a str, usize>,
    choices: Vec<Choice<'a>>,
}

impl<'a: 'r, 'r> Search<'a, 'r> {
    fn new(index: &'a Index, request: &'r Request<'r>) -> Result<Search<'a, 'r>, SolveError> {
        let mut wants: Vec<Want<'r>> = Vec::new();
        let want = |name: &'r str, constraint: Option<Constraint>| Want {
            by: None,
            kind: Kind::BeforeConfiguring,
            group: vec![Relation { name, qualifier: None, constraint, architectures: Vec::new() }],
        };
        let mut standing = BTreeMap::new();
        for (name, found) in request.installed {
            let parse = |field: &'r str| {
                relation::parse(field)
                    .map_err(|source| SolveError::Malformed { package: name.clone(), source })
            };
            let mut depends = parse(&found.depends)?;
            for group in &mut depends {
                group.retain(|relation| relation.applies_to(request.architecture));
            }
            let conflicts = parse(&found.conflicts)?.into_iter().flatten().collect();
            standing.insert(name.as_str(), Standing { depends, conflicts });
        }
        if request.essential {
            let mut names: Vec<&str> = index
                .packages()
                .filter(|package| package.essential && fits(package, request.architecture))
                .map(Package::name)
                .collect();
            names.sort_unstable();
            names.dedup();
            wants.extend(names.into_iter().map(|name| want(name, None)));
        }
        wants.extend(request.roots.iter().map(|root| want(&root.name, root.constraint.clone())));
        Ok(Search {
            index,
            request,
            standing,
            wants,
            next: 0,
            chosen: Vec::new(),
            by_name: HashMap::new(),
            choices: Vec::new(),
        })
    }

    fn run(&mut self) -> Result<(), SolveError> {
        let mut first_error = None;
        for _ in 0..MAX_STEPS {
            let Err(err) = self.descend() else {
                return Ok(());
            };
            if matches!(err, SolveError::Malformed { .. }) {
                return Err(err);
            }
            let first = first_error.get_or_insert(err);
            if !self.back()? {
                let unmet = SolveError::Unknown { name: String::new(), similar: Vec::new() };
                return Err(std::mem::replace(first, unmet));
            }
        }
        let first =
            first_error.unwrap_or(SolveError::Unknown { name: String::new(), similar: Vec::new() });
        Err(SolveError::TooHard { first: Box::new(first) })
    }

    /// Meets wants until all are met or one cannot be.
    fn descend(&mut self) -> Result<(), SolveError> {
        while let Some(want) = self.wants.get(self.next) {
            if self.is_met(&want.group) {
                self.next += 1;
                continue;
            }
            let by = want.by;
            let mut candidates = self.candidates(self.next)?;
            candidates.reverse();
            let Some(first) = candidates.pop() else {
                return Err(self.unmet(self.next));
            };
            if !candidates.is_empty() {
                self.choices.push(Choice {
                    chosen: self.chosen.len(),
                    wants: self.wants.len(),
                    next: self.next,
                    left: candidates,
                });
            }
            self.choose(first, by)?;
        }
        // An upgrade chosen late may have taken away what met an early want.
        match self.wants.iter().position(|want| !self.is_met(&want.group)) {
            Some(broken) => Err(self.unmet(broken)),
            None => Ok(()),
        }
    }

    /// Goes back to the latest choice with something left to try and tries it.
    fn back(&mut self) -> Result<bool, SolveError> {
        let Some(mut choice) = self.choices.pop() else {
            return Ok(false);
        };
        for undone in self.chosen.drain(choice.chosen..) {
            self.by_name.remove(undone.package.name());
        }
        self.wants.truncate(choice.wants);
        self.next = choice.next;
        let by = self.wants[choice.next].by;
        let Some(package) = choice.left.pop() else {
            return Ok(false);
        };
        if !choice.left.is_empty() {
            self.choices.push(choice);
        }
        self.choose(package, by)?;
        Ok(true)
    }

    fn choose(&mut self, package: &'a Package, by: Option<usize>) -> Result<(), SolveError> {
        let malformed =
            |source| SolveError::Malformed { package: package.name().to_owned(), source };
        let at = self.chosen.len();
        let conflicts = package.conflicts().map_err(malformed)?;
        let provides = package.provides().map_err(malformed)?;
        for (kind, groups) in [
            (Kind::BeforeUnpacking, package.pre_depends()),
            (Kind::BeforeConfiguring, package.depends()),
        ] {
            for mut group in groups.map_err(malformed)? {
                group.retain(|relation| relation.applies_to(self.request.architecture));
                if !group.is_empty() {
                    self.wants.push(Want { by: Some(at), kind, group });
                }
            }
        }
        let mut along: BTreeSet<&'r str> =
            self.clashes(package, &conflicts, &provides).map(|(other, ..)| other).collect();
        let lean: Vec<(&'r str, usize)> = self.leaning_on(package.name());
        self.by_name.insert(package.name(), at);
        self.chosen.push(Chosen { package, conflicts, provides, by });
        along.extend(lean.into_iter().filter_map(|(other, group)| {
            let holds = self.is_met(&self.standing[other].depends[group]);
            (!holds).then_some(other)
        }));
        for name in along {
            let version = self.request.installed[name].version.clone();
            let constraint = Some(Constraint { operator: Operator::After, version });
            let newer = Relation { name, qualifier: None, constraint, architectures: Vec::new() };
            self.wants.push(Want { by: Some(at), kind: Kind::Along, group: vec![newer] });
        }
        Ok(())
    }

    /// The installed packages that stay so far, but for `except`.
    fn staying(&self, except: &str) -> impl Iterator<Item = (&'r str, &'r Installed)> {
        let installed = self.request.installed.iter().map(|(name, found)| (name.as_str(), found));
        installed.filter(move |(name, _)| *name != except && !self.by_name.contains_key(name))
    }

    /// The needs of installed packages, by package and number, that hold now and that may not
    /// when the installed `name` is replaced by another version.
    fn leaning_on(&self, name: &str) -> Vec<(&'r str, usize)> {
        let Some(old) = self.request.installed.get(name) else { return Vec::new() };
        let meant = |relation: &Relation<'_>| {
            relation.name == name || old.provides.contains_key(relation.name)
        };
        let mut found = Vec::new();
        for (other, _) in self.staying(name) {
            for (number, group) in self.standing[other].depends.iter().enumerate() {
                if group.iter().any(meant) && self.is_met(group) {
                    found.push((other, number));
                }
            }
        }
        found
    }

    /// The installed packages that cannot be there together with `package`, with the relation
    /// that says so and whether that is the installed one's.
    fn clashes(
        &self,
        package: &'a Package,
        conflicts: &[Relation<'a>],
        offered: &[Relation<'a>],
    ) -> impl Iterator<Item = (&'r str, String, bool)> {
        self.staying(package.name()).filter_map(move |(other, found)| {
            let hit = conflicts.iter().find(|relation| {
                (other == relation.name && relation.accepts(&found.version))
                    || found
                        .provides
                        .get(relation.name)
                        .is_some_and(|version| provided_version(relation, version.as_ref()))
            });
            let ours = hit.map(|relation| (other, relation.to_string(), false));
            ours.or_else(|| {
                let hit = hits(&self.standing[other].conflicts, package, offered)?;
                Some((other, hit.to_string(), true))
            })
        })
    }

    /// Whether the index has a version of an installed package that is newer.
    fn can_be_newer(&self, name: &str) -> bool {
        let installed = &self.request.installed[name].version;
        self.index.versions(name).any(|package| {
            package.version > *installed
                && fits(package, self.request.architecture)
                && !self.request.exclude.contains(name)
        })
    }

    fn is_met(&self, group: &Group<'_>) -> bool {
        group.iter().any(|relation| {
            self.met_by_chosen(relation).is_some() || self.met_by_installed(relation)
        })
    }

    /// The chosen package that satisfies `relation`: the one so called, else the first that provides it.
    fn met_by_chosen(&self, relation: &Relation<'_>) -> Option<usize> {
        let named = self.by_name.get(relation.name).copied().filter(|&at| {
            let package = self.chosen[at].package;
            relation.accepts(&package.version) && serves(relation, package.multi_arch)
        });
        named.or_else(|| {
            self.chosen.iter().position(|chosen| {
                serves(relation, chosen.package.multi_arch)
                    && chosen.provides.iter().any(|provided| provides(provided, relation))
            })
        })
    }

    fn met_by_installed(&self, relation: &Relation<'_>) -> bool {
        let stays = |name: &str| !self.by_name.contains_key(name);
        let named = self.request.installed.get(relation.name).is_some_and(|found| {
            stays(relation.name)
                && relation.accepts(&found.version)
                && serves(relation, found.multi_arch)
        });
        named
            || self.request.installed.iter().any(|(name, found)| {
                found.provides.get(relation.name).is_some_and(|version| {
                    stays(name)
                        && serves(relation, found.multi_arch)
                        && provided_version(relation, version.as_ref())
                })
            })
    }

    /// What could meet a want now, best first.
    fn candidates(&self, want: usize) -> Result<Vec<&'a Package>, SolveError> {
        let mut found: Vec<&'a Package> = Vec::new();
        for package in self.wants[want].group.iter().flat_map(|relation| self.named(relation)) {
            let twice = found.iter().any(|&other| std::ptr::eq(other, package));
            if !twice && self.obstacle(package)?.is_none() {
                found.push(package);
            }
        }
        Ok(found)
    }

    /// The packages of the index that satisfy `relation`, whatever else is chosen.
    fn named(&self, relation: &Relation<'_>) -> Vec<&'a Package> {
        let real =
            self.index.versions(relation.name).filter(|package| relation.accepts(&package.version));
        let virtual_ones = self
            .index
            .providers(relation.name)
            .into_iter()
            .filter(|(_, version)| provided_version(relation, version.as_ref()))
            .map(|(package, _)| package);
        real.chain(virtual_ones)
            .filter(|package| {
                fits(package, self.request.architecture)
                    && serves(relation, package.multi_arch)
                    && !self.request.exclude.contains(package.name())
            })
            .collect()
    }

    /// What keeps `package` from being chosen: who, whose field, and what it says.
    fn obstacle(
        &self,
        package: &'a Package,
    ) -> Result<Option<(String, String, String)>, SolveError> {
        let malformed =
            |source| SolveError::Malformed { package: package.name().to_owned(), source };
        let name = package.name();
        let title = |name: &str, version: &Version| format!("{name} {version}");
        let own = title(name, &package.version);
        let other_version = || "another version is there".to_owned();
        if let Some(&at) = self.by_name.get(name) {
            return Ok(Some((own, title(name, &self.chosen[at].package.version), other_version())));
        }
        if let Some(found) = self.request.installed.get(name)
            && found.version >= package.version
        {
            return Ok(Some((own, title(name, &found.version), other_version())));
        }
        let conflicts = package.conflicts().map_err(malformed)?;
        let offered = package.provides().map_err(malformed)?;
        for chosen in &self.chosen {
            let other = title(chosen.package.name(), &chosen.package.version);
            if let Some(found) = hits(&conflicts, chosen.package, &chosen.provides) {
                return Ok(Some((own, other, found.to_string())));
            }
            if let Some(found) = hits(&chosen.conflicts, package, &offered) {
                return Ok(Some((other, own, found.to_string())));
            }
        }
        for (other, relation, is_theirs) in self.clashes(package, &conflicts, &offered) {
            // A newer one may get on with it; that is tried when it is wanted.
            if !self.can_be_newer(other) {
                let other = title(other, &self.request.installed[other].version);
                let (left, right) = if is_theirs { (other, own) } else { (own, other) };
                return Ok(Some((left, right, relation)));
            }
        }
        Ok(None)
    }

    fn unmet(&self, want: usize) -> SolveError {
        let Want { by, group, .. } = &self.wants[want];
        let wanted = group.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | ");
        let mut wanted_by = Vec::new();
        let mut next = *by;
        while let Some(at) = next {
            wanted_by.push(self.chosen[at].package.name().to_owned());
            next = self.chosen[at].by;
        }
        for package in group.iter().flat_map(|relation| self.named(relation)) {
            match self.obstacle(package) {
                Err(err) => return err,
                Ok(Some((left, right, relation))) => {
                    return SolveError::Conflict { left, right, relation, wanted, wanted_by };
                }
                Ok(None) => {}
            }
        }
        let mut available: Vec<String> = group
            .iter()
            .flat_map(|relation| self.index.versions(relation.name))
            .map(|package| {
                format!("{} {} {}", package.name(), package.version, package.architecture())
            })
            .collect();
        available.dedup();
        SolveError::Missing { wanted, wanted_by, available }
    }

    fn configure_order(&self) -> Vec<&'a Package> {
        let mut needs = vec![Needs::default(); self.chosen.len()];
        for Want { by, kind, group } in &self.wants {
            // They need each other; who is first is in their own fields.
            if *kind == Kind::Along {
                continue;
            }
            let met = group.iter().find_map(|relation| self.met_by_chosen(relation));
            if let (Some(by), Some(met)) = (*by, met)
                && by != met
            {
                needs[by].any.insert(met);
                if *kind == Kind::BeforeUnpacking {
                    needs[by].first.insert(met);
                }
            }
        }
        let mut by_name: Vec<usize> = (0..self.chosen.len()).collect();
        by_name.sort_by_key(|&at| self.chosen[at].package.name());
        order(&by_name, &needs).into_iter().map(|at| self.chosen[at].package).collect()
    }
}

fn fits(package: &Package, architecture: &str) -> bool {
    [architecture, "all"].contains(&package.architecture())
}

/// Whether a package of that kind may satisfy a relation with that qualifier,
/// there being one architecture only.
fn serves(relation: &Relation<'_>, multi_arch: MultiArch) -> bool {
    relation.qualifier != Some(Qualifier::Any) || multi_arch == MultiArch::Allowed
}

fn provides(provided: &Relation<'_>, relation: &Relation<'_>) -> bool {
    let version = provided.constraint.as_ref().map(|constraint| &constraint.version);
    provided.name == relation.name && provided_version(relation, version)
}

/// A relation with a version is satisfied only by what is provided with one.
fn provided_version(relation: &Relation<'_>, version: Option<&Version>) -> bool {
    match version {
        Some(version) => relation.accepts(version),
        None => relation.constraint.is_none(),
    }
}

/// The first of `conflicts` that means `package`.
fn hits<'c, 'a>(
    conflicts: &'c [Relation<'a>],
    package: &Package,
    provided: &[Relation<'_>],
) -> Option<&'c Relation<'a>> {
    conflicts.iter().find(|relation| {
        (relation.name == package.name() && relation.accepts(&package.version))
            || provided.iter().any(|provided| provides(provided, relation))
    })
}

#[cfg(test)]
mod tests;
