//! What to say when the system refuses a program because its arguments and its
//! environment are too large.

use std::ffi::{OsStr, OsString};

use crate::environment::Environment;

/// The system's number for that.
pub const E2BIG: i32 = 7;

/// What Linux takes in one word or one `NAME=value`: 32 pages.
const ONE: usize = 128 << 10;

/// What to do about it.
pub const NEXT: &str = "make it smaller: put the value into a file and name the file instead";

/// Why it was refused, with the largest piece and where that is from.
pub fn reason(environment: &Environment, words: &[OsString]) -> String {
    // Each ends with a NUL byte.
    let variables: Vec<(&OsStr, usize, &str)> = environment
        .iter()
        .map(|(name, variable)| {
            (name, name.len() + variable.value.len() + 2, variable.origin.as_str())
        })
        .collect();
    let words: Vec<usize> = words.iter().map(|word| word.len() + 1).collect();
    let total =
        variables.iter().map(|(_, size, _)| size).sum::<usize>() + words.iter().sum::<usize>();
    let longest = words.iter().copied().max().unwrap_or_default();
    let variable = variables.into_iter().max_by_key(|(_, size, _)| *size);
    let largest = match variable {
        Some((name, size, origin)) if size >= longest => {
            format!("the largest is {} with {size}, from {origin}", name.to_string_lossy())
        }
        _ => format!("the largest is an argument with {longest}"),
    };
    format!(
        "its arguments and variables are too large: {total} bytes, {largest}; one may have {ONE}, \
         and all together a quarter of the limit of the stack"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest() {
        let mut environment = Environment::default();
        environment.set("A", "12", "a file");
        environment.set("B", "1", "b file");
        let found = reason(&environment, &["123".into()]);
        assert!(found.contains(": 13 bytes, the largest is A with 5, from a file;"), "{found}");
        let found = reason(&environment, &["12345".into()]);
        assert!(found.contains(": 15 bytes, the largest is an argument with 6;"), "{found}");
    }
}
