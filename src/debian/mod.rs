//! Debian packages: from a signed index to a root file system, without root.
//!
//! ```text
//! InRelease ─► release::verify ─► Packages ─► index::Index ─► solve::solve ─► .deb files
//!                                                                              │
//! configured root ◄─ configure_script (in the sandbox) ◄─ rootfs::write_database ◄─ deb::Deb::unpack
//! ```
//!
//! | file | owns |
//! | --- | --- |
//! | `version` | the order of versions |
//! | `control` | the stanza format of every Debian text |
//! | `relation` | the syntax of `Depends`, `Provides`, `Conflicts` |
//! | `archive` | mirrors, reading a release, choosing a step's packages |
//! | `sources` | the mirrors that a machine's apt uses |
//! | `release` | who signed an index, and what it lists |
//! | `index` | packages by name, several sources merged |
//! | `solve` | which packages, in which order |
//! | `deb` | one `.deb`: its fields, its scripts, its files |
//! | `linked` | which packages have the libraries that programs link against |
//! | `rootfs` | dpkg's database, and the script that finishes the installation |
//! | `base` | what a root is that others made: its system and its packages |
//!
//! - No clock, no environment, and no network but in `archive`: bytes and times come in.
//! - No script of a package is run here; the sandbox does that.
//! - No writing of `.deb` files, no source packages, no second architecture in one root.

pub mod archive;
pub mod base;
pub mod control;
pub mod deb;
pub mod index;
mod inside;
mod keyring;
pub mod linked;
pub mod relation;
pub mod release;
pub mod rootfs;
pub mod solve;
pub mod sources;
pub mod version;
