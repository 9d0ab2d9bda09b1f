//! Registries: pulling and pushing images, and what else is kept there (OCI distribution
//! specification 1.1).
//!
//! ```text
//! Access       credentials, certificates, mirrors ─► one Repository each
//! Repository   manifests and blobs by name; entries of a cache; push
//! Source       an image to pull: mirrors first, then the registry
//!
//! push: the tag names it already ─► done
//!       each blob: there? mounted? ─► sent; then the manifest, last the tags
//! pull: see `pull`
//! ```
//!
//! - Credentials come from the docker configuration, credential helpers, podman's files, and
//!   `CNB_REGISTRY_AUTH`: basic, or a token that the registry's challenge names.
//! - Plain HTTP only for loopback and for hosts that the settings name.
//! - What goes wrong on the way is in `docs/registries.md`, each with its test.
//! - Not here: referrers, listing of tags, deleting.

mod access;
mod content;
mod credentials;
mod entry;
mod error;
#[cfg(test)]
pub(crate) mod fake;
mod fetch;
mod helper;
mod index;
mod manifest;
mod pull;
mod push;
mod reference;
mod repository;
mod session;
mod token;
mod trust;
mod upload;
mod wire;

#[cfg(test)]
pub(crate) use access::Pace;
pub use access::{Access, Settings};
pub use content::{Told, untold};
pub use credentials::Credentials;
pub use entry::{Entry, ImageEntry, Record, Recording};
pub use error::{Reason, Refusal, RegistryError, Right};
pub use index::Member;
pub use manifest::{Descriptor, ManifestError, Platform};
pub use pull::{Resolved, Source};
pub use push::{Bring, Expected, Push};
pub use reference::Reference;
pub use repository::{Document, Name, Repository};
pub use upload::{Blob, Sent};
