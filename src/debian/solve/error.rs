//! Why there is no answer, told so that a reader can do something about it.

use thiserror::Error;

use super::MAX_STEPS;
use crate::debian::index::Index;
use crate::debian::relation::RelationError;

/// Why there is no answer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SolveError {
    /// A name that no package has or provides.
    #[error("there is no package `{name}`")]
    Unknown {
        /// The name asked for.
        name: String,
        /// Up to three names that look like it, the closest first.
        similar: Vec<String>,
    },
    /// A want that nothing in the index can meet.
    #[error("`{wanted}`, needed by {}, is not in the index{}", chain(.wanted_by), found(.available))]
    Missing {
        /// The relation, alternatives separated by `|`.
        wanted: String,
        /// The package that wants it, the one that wants that, and so on; empty for a root.
        wanted_by: Vec<String>,
        /// Packages with the right name and a wrong version or architecture, with their version.
        available: Vec<String>,
    },
    /// Two packages that cannot both be there.
    #[error("`{left}` and `{right}` cannot be installed together ({left}: {relation}); `{wanted}` is needed by {}", chain(.wanted_by))]
    Conflict {
        /// The package whose field says so.
        left: String,
        /// The other one.
        right: String,
        /// The relation in `Conflicts` or `Breaks`, or `another version is chosen`.
        relation: String,
        /// The want that led here.
        wanted: String,
        /// Who wants it, as above.
        wanted_by: Vec<String>,
    },
    /// A relation field of a package that matters here.
    #[error("package `{package}` has a malformed relation")]
    Malformed {
        /// The package.
        package: String,
        /// What is wrong.
        source: RelationError,
    },
    /// Too many combinations were tried; `first` is what went wrong first.
    #[error("gave up after {MAX_STEPS} attempts")]
    TooHard {
        /// The error that the first attempt met.
        #[source]
        first: Box<SolveError>,
    },
}

fn chain(wanted_by: &[String]) -> String {
    match wanted_by {
        [] => "the request".to_owned(),
        names => format!("`{}`", names.join("` ← `")),
    }
}

fn found(available: &[String]) -> String {
    if available.is_empty() {
        String::new()
    } else {
        format!(" (there is {})", available.join(", "))
    }
}

/// Up to three names within an edit distance that a typing mistake explains.
pub(super) fn similar(index: &Index, name: &str) -> Vec<String> {
    let limit = (name.len() / 3).clamp(1, 3);
    let mut found: Vec<(usize, &str)> = index
        .names()
        .into_iter()
        .filter(|other| other.len().abs_diff(name.len()) <= limit)
        .map(|other| (edit_distance(name.as_bytes(), other.as_bytes()), other))
        .filter(|(distance, _)| *distance <= limit)
        .collect();
    found.sort_unstable();
    found.into_iter().take(3).map(|(_, other)| other.to_owned()).collect()
}

fn edit_distance(left: &[u8], right: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[right.len()]
}
