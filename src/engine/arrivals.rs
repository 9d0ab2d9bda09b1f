//! Brings the files of package steps, some at once, and ahead of the steps that unpack them.
//!
//! - A package step asks for its packages and takes each as it comes. When it must run, those
//!   that stand on it must too: their files come behind its own, while it is set up.
//! - What fails ahead of time is forgotten: the step that needs it asks again, and fails with
//!   the reason.
//! - A file is known by its digest: wanted by several steps, it comes once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::{Engine, EngineError, State};
use crate::digest::Digest;
use crate::download::Downloads;
use crate::event::Event;
use crate::plan::Package;
use crate::store::StoreError;

/// Downloads at once: enough to fill a line, few enough to be polite.
pub(super) const DOWNLOADS: usize = 6;

/// What comes, and what has come, in one build.
#[derive(Default)]
pub(super) struct Arrivals {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Default)]
struct Inner {
    /// Step and package, the next one first.
    queue: VecDeque<(String, Package)>,
    coming: BTreeSet<Digest>,
    here: BTreeSet<Digest>,
    failed: BTreeMap<Digest, EngineError>,
    /// What a step waits for.
    asked: BTreeSet<Digest>,
    /// Bytes that have come and that are to come in all, by step.
    progress: BTreeMap<String, (u64, u64)>,
    downloads: Option<Downloads>,
    is_closed: bool,
}

impl Inner {
    /// Takes a package out of the queue, to be asked for in another place.
    fn take_out(&mut self, digest: &Digest) {
        let Some(at) = self.queue.iter().position(|(_, queued)| queued.digest == *digest) else {
            return;
        };
        if let Some((step, package)) = self.queue.remove(at)
            && let Some((_, total)) = self.progress.get_mut(&step)
        {
            *total -= package.size;
        }
    }

    fn is_known(&self, digest: &Digest) -> bool {
        self.here.contains(digest)
            || self.coming.contains(digest)
            || self.failed.contains_key(digest)
            || self.queue.iter().any(|(_, queued)| queued.digest == *digest)
    }
}

/// When what is asked for is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// Before all that was asked for until now.
    Now,
    /// After it.
    Ahead,
}

impl Arrivals {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for packages that the store does not have, for a step.
    pub(super) fn ask(&self, step: &str, packages: Vec<Package>, want: Want) {
        let mut inner = self.inner();
        let mut new = VecDeque::new();
        for package in packages {
            if want == Want::Now {
                inner.asked.insert(package.digest);
                inner.take_out(&package.digest);
            }
            if !inner.is_known(&package.digest) {
                inner.progress.entry(step.to_owned()).or_default().1 += package.size;
                new.push_back((step.to_owned(), package));
            }
        }
        match want {
            Want::Ahead => inner.queue.append(&mut new),
            Want::Now => {
                new.append(&mut inner.queue);
                inner.queue = new;
            }
        }
        drop(inner);
        self.changed.notify_all();
    }

    /// Waits until a package that was asked for is in the store.
    pub(super) fn wait(&self, step: &str, package: &Package) -> Result<(), EngineError> {
        let mut inner = self.inner();
        loop {
            // First, so that nothing goes on ahead of a step that never comes.
            if inner.is_closed {
                return Err(EngineError::Interrupted);
            }
            if inner.here.contains(&package.digest) {
                return Ok(());
            }
            if let Some(error) = inner.failed.remove(&package.digest) {
                return Err(error);
            }
            inner.asked.insert(package.digest);
            if !inner.is_known(&package.digest) {
                // It failed ahead of time, or another step has taken the error.
                inner.queue.push_front((step.to_owned(), package.clone()));
                self.changed.notify_all();
            }
            inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// What is in the store already.
    pub(super) fn is_here(&self, package: &Package) {
        self.inner().here.insert(package.digest);
    }

    /// The next package to bring; `None` when no more are wanted.
    fn next(&self) -> Option<(String, Package)> {
        let mut inner = self.inner();
        loop {
            if inner.is_closed {
                return None;
            }
            if let Some((step, package)) = inner.queue.pop_front() {
                inner.coming.insert(package.digest);
                return Some((step, package));
            }
            inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn came(&self, package: &Package, result: Result<(), EngineError>) {
        let mut inner = self.inner();
        inner.coming.remove(&package.digest);
        match result {
            Ok(()) => drop(inner.here.insert(package.digest)),
            Err(error) if inner.asked.contains(&package.digest) => {
                inner.failed.insert(package.digest, error);
            }
            // Nobody waits for it yet; who does so asks again, and is told.
            Err(_) => {}
        }
        drop(inner);
        self.changed.notify_all();
    }

    /// Ends all waiting: nothing more is wanted.
    pub(super) fn close(&self) {
        self.inner().is_closed = true;
        self.changed.notify_all();
    }
}

impl Engine<'_> {
    /// Asks for the packages of a step that the store does not have, the largest first: what
    /// takes longest to come and to unpack shall not be the last.
    pub(super) fn ask_for(
        &self,
        state: &State,
        step: &str,
        packages: &[Package],
        want: Want,
    ) -> Result<(), EngineError> {
        let mut missing = Vec::new();
        for package in packages {
            if self.store.blob_size(&package.digest)? == Some(package.size) {
                state.arrivals.is_here(package);
            } else {
                missing.push(package.clone());
            }
        }
        if !missing.is_empty() {
            missing.sort_by_key(|package| std::cmp::Reverse(package.size));
            state.arrivals.ask(step, missing, want);
            state.tell_background(super::Background::Bring);
        }
        Ok(())
    }

    /// Brings packages until no more are wanted; several threads do so.
    pub(super) fn bring_packages(&self, state: &State) {
        while let Some((step, package)) = state.arrivals.next() {
            let fetch = || self.fetch_package(state, &step, &package);
            // Whoever waits for a package must get an answer.
            let result =
                catch_unwind(AssertUnwindSafe(fetch)).unwrap_or(Err(EngineError::Panicked));
            state.arrivals.came(&package, result);
        }
    }

    fn fetch_package(
        &self,
        state: &State,
        step: &str,
        package: &Package,
    ) -> Result<(), EngineError> {
        let arrivals = &state.arrivals;
        let known = arrivals.inner().downloads.clone();
        let downloads = match known {
            Some(downloads) => downloads,
            None => {
                let made = (self.downloads)()?;
                arrivals.inner().downloads.get_or_insert(made).clone()
            }
        };
        let progress = |bytes: u64| {
            let mut inner = arrivals.inner();
            let (done, total) = inner.progress.entry(step.to_owned()).or_default();
            *done += bytes;
            let (done, total) = (*done, *total);
            drop(inner);
            self.events.send(Event::Download { step: step.to_owned(), done, total });
        };
        let shown = || format!("{} {}", package.name, package.version);
        let mut last = EngineError::NoMirror { package: shown() };
        for address in (self.addresses)(package) {
            if self.running.stopped() {
                return Err(EngineError::Interrupted);
            }
            let new = || {
                self.store.new_blob().map_err(|error| match error {
                    StoreError::Io { source, .. } => source,
                    other => std::io::Error::other(other.to_string()),
                })
            };
            match downloads.fetch(&address, package.size, new, &progress) {
                Ok(mut blob) => {
                    blob.flush().map_err(|source| EngineError::Io {
                        action: "write",
                        path: self.store.root().to_owned(),
                        source,
                    })?;
                    blob.keep(Some((&package.digest, &address)))?;
                    return Ok(());
                }
                Err(source) => last = EngineError::Package { package: shown(), source },
            }
        }
        Err(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str) -> Package {
        Package {
            name: name.to_owned(),
            version: "1".to_owned(),
            architecture: "all".to_owned(),
            digest: Digest::of(name.as_bytes()),
            size: 1,
            archive: "main".to_owned(),
            path: name.to_owned(),
        }
    }

    fn order(arrivals: &Arrivals) -> Vec<String> {
        let inner = arrivals.inner();
        inner.queue.iter().map(|(_, package)| package.name.clone()).collect()
    }

    #[test]
    fn what_is_wanted_now_comes_first_and_once() {
        let arrivals = Arrivals::default();
        let all = |names: &[&str]| names.iter().map(|name| package(name)).collect::<Vec<_>>();
        arrivals.ask("later", all(&["a", "b", "c"]), Want::Ahead);
        arrivals.ask("now", all(&["d", "b"]), Want::Now);
        assert_eq!(order(&arrivals), ["d", "b", "a", "c"]);
        let (step, next) = arrivals.next().expect("a package");
        assert_eq!((step.as_str(), next.name.as_str()), ("now", "d"));
        arrivals.ask("now", all(&["d"]), Want::Now);
        assert_eq!(order(&arrivals), ["b", "a", "c"]);
        arrivals.came(&next, Ok(()));
        arrivals.wait("now", &next).expect("it is here");
    }

    #[test]
    fn what_fails_ahead_is_asked_for_again() {
        let arrivals = Arrivals::default();
        let error = || EngineError::NoMirror { package: "a 1".to_owned() };
        arrivals.ask("later", vec![package("a")], Want::Ahead);
        let (_, next) = arrivals.next().expect("a package");
        arrivals.came(&next, Err(error()));
        assert!(order(&arrivals).is_empty());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| arrivals.wait("later", &package("a")));
            let (_, again) = arrivals.next().expect("the same package");
            arrivals.came(&again, Err(error()));
            let result = waiting.join().expect("no panic");
            assert!(matches!(result, Err(EngineError::NoMirror { .. })), "{result:?}");
            let waiting = scope.spawn(|| arrivals.wait("later", &package("a")));
            let (_, again) = arrivals.next().expect("the same package");
            arrivals.came(&again, Ok(()));
            waiting.join().expect("no panic").expect("it has come");
        });
        arrivals.close();
        assert!(arrivals.next().is_none());
        assert!(matches!(arrivals.wait("x", &package("b")), Err(EngineError::Interrupted)));
    }
}
