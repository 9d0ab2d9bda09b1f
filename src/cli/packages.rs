//! The exact operating system packages of a step: from `forge.lock`, or chosen
//! from the archives' indexes, each read once.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use super::app::App;
use super::base::FoundBase;
use super::failure::Failure;
use super::machine::architecture;
use super::settings;
use crate::debian::archive::{self, Archive, Wanted};
use crate::download::Downloads;
use crate::engine::{self, EngineError, Ground};
use crate::event::{Event, Events};
use crate::lock::{self, Lock, PackageSet};
use crate::plan::{Action, Package, Plan, Step};

/// Chooses packages for the steps of one build.
pub(super) struct Chooser<'a> {
    app: &'a App,
    /// Where events go.
    pub(super) events: Events,
    /// The image under the app, when there is one.
    pub(super) base: Option<&'a FoundBase>,
    archives: Mutex<BTreeMap<String, Archive>>,
}

impl<'a> Chooser<'a> {
    pub(super) fn new(app: &'a App, events: &Events, base: Option<&'a FoundBase>) -> Chooser<'a> {
        Chooser { app, events: events.clone(), base, archives: Mutex::default() }
    }

    /// Fills in the exact packages of each package step, but for those of which
    /// another step names some, or that stand on an image: their time comes when that
    /// step has run, or the image is there.
    pub(super) fn choose_all(&self, plan: &mut Plan, lock: &mut Lock) -> Result<(), Failure> {
        let mut chosen: BTreeMap<String, Vec<Package>> = BTreeMap::new();
        for step in &mut plan.steps {
            let below: Vec<_> = step
                .root
                .iter()
                .flat_map(|input| chosen.get(input).cloned().unwrap_or_default())
                .collect();
            if let Action::Packages { bottom, setup, .. } = &mut step.action {
                *setup = engine::setup(*bottom);
            }
            if matches!(step.action, Action::Packages { .. }) && !engine::is_chosen_late(step) {
                let answer = self.choose(step, &Ground { packages: below, image: None }, lock)?;
                if let Action::Packages { packages, .. } = &mut step.action {
                    packages.clone_from(&answer);
                }
                chosen.insert(step.name.clone(), answer);
            }
        }
        if !plan.steps.iter().any(engine::is_chosen_late) {
            self.forget();
        }
        Ok(())
    }

    /// Frees what was read of archives: it is much, and a build goes on long after.
    pub(super) fn forget(&self) {
        self.archives.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The packages of a package step on top of what is below; none for another step.
    pub(super) fn choose(
        &self,
        step: &Step,
        ground: &Ground,
        lock: &mut Lock,
    ) -> Result<Vec<Package>, EngineError> {
        let Action::Packages { release, names, bottom, .. } = &step.action else {
            return Ok(Vec::new());
        };
        let image = ground.image.as_ref();
        let request = lock::request(
            release,
            architecture(),
            names,
            &ground.packages,
            image.map(|(digest, _)| digest),
        );
        let known = lock.packages(&step.name, &request);
        let locked = known.is_some();
        let packages = match known {
            Some(packages) => packages,
            None if names.is_empty() && !bottom => Vec::new(),
            None if self.app.arguments.locked => {
                return Err(EngineError::NotLocked { step: step.name.clone() });
            }
            None => {
                let mut archives = self.archives.lock().unwrap_or_else(PoisonError::into_inner);
                let archive = match archives.entry(release.clone()) {
                    Entry::Occupied(read) => read.into_mut(),
                    Entry::Vacant(entry) => entry.insert(self.read(release)?),
                };
                let packages = archive.choose(&Wanted {
                    step: &step.name,
                    release,
                    architecture: architecture(),
                    names,
                    below: &ground.packages,
                    ground: &image
                        .map(|(_, base)| base.installed(architecture()))
                        .unwrap_or_default(),
                    essential: *bottom,
                })?;
                lock.set_packages(PackageSet {
                    step: step.name.clone(),
                    request,
                    release: archive.label.clone(),
                    packages: packages.clone(),
                });
                packages
            }
        };
        self.events.send(Event::Solved {
            step: step.name.clone(),
            packages: packages.len(),
            bytes: packages.iter().map(|package| package.size).sum(),
            locked,
        });
        Ok(packages)
    }

    fn read(&self, release: &str) -> Result<Archive, EngineError> {
        self.events.send(Event::Solving { release: release.to_owned() });
        let (mirrors, _) = settings::mirrors(&self.app.user.debian);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        let downloads = Downloads::new()?;
        Ok(archive::read(release, architecture(), &mirrors, &downloads, &self.app.store, now)?)
    }
}
