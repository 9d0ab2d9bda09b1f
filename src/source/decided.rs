//! What rules said of paths: of very many, maybe, but few different things.

use std::collections::HashMap;

use super::rules::Decision;
use crate::memory::Paths;

/// Paths of which a rule said something, sorted by bytes; folders that are excluded whole, with
/// `/` behind them, stand for all that is in them.
#[derive(Debug, Default)]
pub struct Decisions {
    /// Each with the number of what was said.
    paths: Paths<usize>,
    said: Vec<Decision>,
}

impl Decisions {
    /// What was said of a path.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&Decision> {
        let number = self.paths.find(|other| other.cmp(path.as_bytes())).ok()?;
        Some(&self.said[*self.paths.about(number)])
    }

    /// All, in the order of their paths.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Decision)> {
        self.paths.iter().filter_map(|(path, number)| {
            // It was one when it was added.
            Some((std::str::from_utf8(path).ok()?, &self.said[*number]))
        })
    }
}

/// Decisions that come one by one, in the order of their paths.
#[derive(Default)]
pub(super) struct Deciding {
    decisions: Decisions,
    /// Where among those said each is.
    numbers: HashMap<Decision, usize>,
}

impl Deciding {
    pub(super) fn add(&mut self, path: &str, decision: &Decision) {
        let Deciding { decisions: Decisions { paths, said }, numbers } = self;
        let number = numbers.get(decision).copied().unwrap_or_else(|| {
            numbers.insert(decision.clone(), said.len());
            said.push(decision.clone());
            said.len() - 1
        });
        paths.push(path.as_bytes(), number, b"");
    }

    pub(super) fn end(mut self) -> Decisions {
        self.decisions.paths.shrink();
        self.decisions
    }
}
