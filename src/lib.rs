//! forge turns an application into an OCI image: no Dockerfile, no daemon, no
//! root.
//!
//! ```text
//! source ─► snapshot ─► facts ─► buildpacks ─► plan ─► keys ─► [store | lock | sandbox] ─► outputs ─► layers ─► image ─► registry / layout / archive
//! ```
//!
//! Each module is a room with one duty; `docs/architecture.md` is the map, and
//! [`cli::build`] the whole way in one function.

pub mod buildpack;
pub mod cli;
pub mod daemon;
pub mod debian;
pub mod digest;
pub mod download;
pub mod engine;
pub mod event;
pub mod facts;
pub mod image;
pub mod layer;
pub mod lock;
mod memory;
pub mod plan;
pub mod registry;
pub mod sandbox;
pub mod source;
pub mod store;
pub mod tree;
