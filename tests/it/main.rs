//! Tests of the whole program against real parts: docker, runc, skopeo, umoci, a
//! registry, PostgreSQL. Each test names what it skips when a part is missing;
//! under `tests/run.sh` nothing may be missing.

#![allow(missing_docs, clippy::unwrap_used)]

mod architecture;
mod bad_input;
mod builders;
mod container;
mod pull;
mod push;
mod registries;
mod reuse;
mod sandbox;
mod support;
mod usage;
