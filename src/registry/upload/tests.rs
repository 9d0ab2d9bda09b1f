//! Uploads to registries that fail.
