//! Sends layers while the build goes on, so that little is left for the push at its end.
//!
//! - Only what was packed just now: what is known from before is there most likely, and the
//!   push asks for it anyway.
//! - Nobody sees a blob that no manifest names: when the build fails, the registry removes it.
//! - What goes wrong here ends the sending and nothing else. The push sends what is missing,
//!   and says what it cannot.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;

use super::app::App;
use super::cache::SharedCache;
use super::failure::Failure;
use super::interrupt;
use super::registries::by_repository;
use crate::digest::Digest;
use crate::engine::Packed;
use crate::event::{Event, Events};
use crate::layer::Layer;
use crate::registry::{Blob, Reference, Sent, Told};

/// Layers that are sent at once: fewer than by the push, as the build wants the machine too.
const SENDERS: usize = 2;

/// What is sent ahead of the push.
pub(super) struct Sending<'a> {
    app: &'a App,
    cache: Option<&'a SharedCache<'a>>,
    /// One reference for each repository.
    to: Vec<Reference>,
    events: Events,
    /// What has arrived: repository and blob.
    sent: Mutex<BTreeSet<(String, Digest)>>,
    is_over: AtomicBool,
}

impl<'a> Sending<'a> {
    pub(super) fn new(
        app: &'a App,
        cache: Option<&'a SharedCache<'a>>,
        tags: &[Reference],
        events: &Events,
    ) -> Sending<'a> {
        Sending {
            app,
            cache,
            to: by_repository(tags).into_iter().map(|(repository, _)| repository).collect(),
            events: events.clone(),
            sent: Mutex::default(),
            is_over: AtomicBool::new(false),
        }
    }

    /// Sends what `build` tells of while it runs, and waits for what is on its way.
    pub(super) fn during<T, E>(
        &self,
        build: impl FnOnce(Option<&Packed<'_>>) -> Result<T, E>,
    ) -> Result<T, E> {
        if self.to.is_empty() {
            return build(None);
        }
        self.is_over.store(false, Ordering::SeqCst);
        let (out, layers) = mpsc::channel::<(String, Layer)>();
        let layers = Mutex::new(layers);
        thread::scope(|scope| {
            for _ in 0..SENDERS {
                scope.spawn(|| {
                    loop {
                        let next = layers.lock().unwrap_or_else(PoisonError::into_inner).recv();
                        let Ok((title, layer)) = next else { break };
                        self.send(&title, &layer);
                    }
                });
            }
            let packed = move |title: &str, layer: &Layer| {
                // The receiver outlives the build.
                let _received = out.send((title.to_owned(), layer.clone()));
            };
            let built = build(Some(&packed));
            if built.is_err() {
                self.is_over.store(true, Ordering::SeqCst);
            }
            drop(packed);
            built
        })
    }

    fn send(&self, title: &str, layer: &Layer) {
        for repository in &self.to {
            if self.is_over.load(Ordering::SeqCst) || interrupt::happened() {
                return;
            }
            // The push says what is wrong, if it still is then.
            if self.send_to(repository, title, layer).is_err() {
                self.is_over.store(true, Ordering::SeqCst);
            }
        }
    }

    fn send_to(&self, to: &Reference, title: &str, layer: &Layer) -> Result<(), Failure> {
        let is_doubted =
            self.cache.is_some_and(|cache| cache.doubted(&to.host).contains(&layer.digest));
        let blob = Blob { digest: layer.digest, size: layer.size, from: &[], is_doubted };
        let (events, what, total) = (self.events.clone(), title.to_owned(), layer.size);
        let told: Told = Arc::new(move |done| {
            events.send(Event::Pushing { what: what.clone(), done, total });
        });
        let repository = self.app.access()?.repository(to)?;
        if let Sent::Uploaded(sent) = repository.push_blob(&blob, &self.app.store, &told)? {
            self.sent().insert((name(to), layer.digest));
            self.events.send(Event::Pushed { what: title.to_owned(), sent });
        }
        Ok(())
    }

    fn sent(&self) -> MutexGuard<'_, BTreeSet<(String, Digest)>> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a repository was sent by this build, of which people were told.
    pub(super) fn sent_to(&self, to: &Reference) -> BTreeSet<Digest> {
        let name = name(to);
        self.sent().iter().filter(|(of, _)| *of == name).map(|(_, digest)| *digest).collect()
    }
}

fn name(repository: &Reference) -> String {
    format!("{}/{}", repository.host, repository.repository)
}
