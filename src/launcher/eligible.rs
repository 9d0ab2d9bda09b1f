//! Processes for one execution environment: those of the table that are meant
//! for what CNB_EXEC_ENV says. Pure.
//!
//! A process without `exec-env`, or with `*` in it, is for all of them. A type
//! that stands several times means the first one that is eligible.

use std::ffi::OsStr;

use crate::choose::Call;
use crate::failure::Failure;
use crate::table::Table;

/// The environment when nothing is said.
const DEFAULT: &str = "production";

/// What CNB_EXEC_ENV means.
pub fn wanted(variable: Option<&OsStr>) -> String {
    match variable {
        Some(value) if !value.is_empty() => value.to_string_lossy().into_owned(),
        _ => DEFAULT.to_owned(),
    }
}

/// Whether a process with that `exec-env` is for `wanted`.
pub fn eligible(exec_env: &[String], wanted: &str) -> bool {
    exec_env.is_empty() || exec_env.iter().any(|one| one == "*" || one == wanted)
}

/// Takes the processes out of the table that are not for `wanted`.
///
/// # Errors
/// The call names a type of which nothing is left: it must not become a
/// command, or the default process.
pub fn select(table: &mut Table, call: &Call, wanted: &str) -> Result<(), Failure> {
    let mut others: Vec<(String, Vec<String>)> = Vec::new();
    table.processes.retain(|process| {
        let keep = eligible(&process.exec_env, wanted);
        if !keep {
            others.push((process.kind.clone(), process.exec_env.clone()));
        }
        keep
    });
    let only = match call.arguments.as_slice() {
        [only] => only.to_str(),
        _ => None,
    };
    let named = [call.name.to_str().filter(|name| *name != "launcher"), only];
    // Called by the name of a process that is there, a word is its argument.
    let named = match named {
        [Some(name), _] if table.process(name).is_some() => [None, None],
        named => named,
    };
    for name in named.into_iter().flatten() {
        let Some((_, environments)) = others.iter().find(|(kind, _)| kind == name) else {
            continue;
        };
        if table.process(name).is_none() {
            return Err(Failure::own(
                &format!("start process `{name}`"),
                format!("it is for {}, and this is {wanted}", environments.join(", ")),
                "set CNB_EXEC_ENV to one of them, or start another process",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "
        [[processes]]
        type = 'web'
        command = 'a'
        exec-env = ['production']
        default = true
        [[processes]]
        type = 'web'
        command = 'b'
        exec-env = ['test', 'x']
        default = true
        [[processes]]
        type = 'web'
        command = 'c'
        exec-env = ['*']
        [[processes]]
        type = 'job'
        command = 'd'
        exec-env = ['production']
        [[processes]]
        type = 'all'
        command = 'e'
    ";

    /// The commands that are left, or the reason.
    #[track_caller]
    fn check(wanted: &str, line: &[&str], expected: &str) {
        let mut table = Table::parse(TABLE).expect("the fixture is well formed");
        let mut words = line.iter().map(|word| (*word).into());
        let name = words.next().expect("a name");
        let call = Call { name, arguments: words.collect() };
        let found = match select(&mut table, &call, wanted) {
            Ok(()) => table.processes.iter().map(|process| process.command.concat()).collect(),
            Err(failure) => failure.to_string().lines().next().unwrap_or_default().to_owned(),
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_left() {
        check("production", &["web"], "acde");
        check("test", &["web"], "bce");
        check("other", &["web", "job"], "ce");
        check("other", &["launcher", "job", "x"], "ce");
        let refused =
            "forge launcher: cannot start process `job`: it is for production, and this is other";
        check("other", &["job", "x"], refused);
        check("other", &["launcher", "job"], refused);
    }

    #[test]
    fn what_the_variable_means() {
        assert_eq!(wanted(None), "production");
        assert_eq!(wanted(Some("".as_ref())), "production");
        assert_eq!(wanted(Some("test".as_ref())), "test");
    }
}
