//! Tests of the whole program against real parts: docker, runc, skopeo, umoci, a
//! registry, PostgreSQL, Redis, a gem server. Each test names what it skips when a part is missing;
//! under `tests/run.sh` nothing may be missing.

#![allow(missing_docs, clippy::unwrap_used)]

mod architecture;
mod bad_input;
mod base;
mod builders;
mod cache;
mod container;
mod gems;
mod javascript;
mod launcher;
mod proxies;
mod pull;
mod push;
mod rails;
mod rails_bad_input;
mod registries;
mod reuse;
mod sandbox;
mod splitting;
mod start;
mod support;
mod traced;
mod usage;
