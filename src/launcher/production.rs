//! The environment for production: secrets from files, defaults, numbers that fit the
//! container, libraries to preload. What the container sets wins over all but `NAME_FILE`.
//!
//! | | a variable is set | from |
//! | --- | --- | --- |
//! | secrets | when `NAME` is unset or empty and `NAME_FILE` is not | the file, but for one line end |
//! | defaults | when `NAME` is unset or empty | the table |
//! | counts | when `NAME` is unset or empty | processors and memory of the container |
//! | preload | when `LD_PRELOAD` is unset | the libraries that are in the image |
//!
//! - `NAME` and `NAME_FILE` with different values stop the start: either could be the stale
//!   one, and nobody would find out. An empty `NAME_FILE` turns the file off. The same value
//!   twice is fine, so the launcher may be called from what it has started.
//! - An empty `LD_PRELOAD` is a decision, and stays.
//! - No value of a secret is in any message or origin.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::environment::{Environment, FORGE_DEFAULT};
use crate::failure::Failure;
use crate::settings::{Count, Settings};

/// What the system passes on as one variable, `NAME=` and the final zero included
/// (MAX_ARG_STRLEN of Linux).
const LONGEST: usize = 32 * 4096;

const MEBIBYTE: u64 = 1 << 20;

/// What the container may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Processors, at least one. Of a part only the whole ones count.
    pub processors: u64,
    /// Bytes, if they can be found out.
    pub memory: Option<u64>,
}

/// Sets what the settings say.
///
/// # Errors
/// A file that cannot be read or whose content cannot be a variable; a secret that is given
/// twice and not the same.
pub fn apply(settings: &Settings, environment: &mut Environment) -> Result<(), Failure> {
    for name in &settings.secrets {
        secret(name, environment)?;
    }
    for (name, value) in &settings.defaults {
        set_default(environment, name, value, "the image's defaults".to_owned());
    }
    if !settings.counts.is_empty() {
        let limits = Limits::here();
        for count in &settings.counts {
            let (number, reason) = number(count, limits);
            set_default(environment, &count.name, &number.to_string(), reason);
        }
    }
    if environment.get("LD_PRELOAD").is_none() {
        let found: Vec<&Path> =
            settings.preload.iter().map(PathBuf::as_path).filter(|path| path.is_file()).collect();
        if !found.is_empty() {
            let found: Vec<&std::ffi::OsStr> = found.iter().map(|path| path.as_os_str()).collect();
            environment.set("LD_PRELOAD", found.join(":".as_ref()), "the image's libraries");
        }
    }
    Ok(())
}

/// As [`Environment::set_default`]; the launcher's own default is none here.
fn set_default(environment: &mut Environment, name: &str, value: &str, origin: String) {
    let own = environment.iter().any(|(found, variable)| {
        found == name && variable.origin == FORGE_DEFAULT && !variable.value.is_empty()
    });
    if own {
        environment.set(name, value, origin);
    } else {
        environment.set_default(name, value, origin);
    }
}

fn secret(name: &str, environment: &mut Environment) -> Result<(), Failure> {
    let file_name = format!("{name}_FILE");
    let Some(path) = environment.get(&file_name).filter(|path| !path.is_empty()) else {
        return Ok(());
    };
    let path = PathBuf::from(path);
    let doing = format!("set {name} from the file that {file_name} names, `{}`", path.display());
    let value = read(&path, LONGEST - name.len() - 2).map_err(|err| {
        let next = match err.kind() {
            io::ErrorKind::NotFound => {
                format!("mount the secret there, correct {file_name}, or set {name} itself")
            }
            io::ErrorKind::PermissionDenied => {
                "let the user of the container read the file and the folders above it".to_owned()
            }
            _ => format!("put the value alone into that file, or set {name} itself"),
        };
        Failure::own(&doing, err, &next)
    })?;
    match environment.get(name).filter(|found| !found.is_empty()) {
        None => {
            environment.set(name, value, format!("the file `{}` ({file_name})", path.display()));
            Ok(())
        }
        Some(found) if found == value => Ok(()),
        Some(_) => Err(Failure::own(
            &doing,
            format!("{name} is set too, to another value"),
            &format!("set one of them; an empty {file_name} turns the file off"),
        )),
    }
}

/// The content of a file, without one line end at its end.
fn read(path: &Path, longest: usize) -> io::Result<OsString> {
    let mut value = Vec::new();
    // One more than allowed, and the line end.
    File::open(path)?.take(longest as u64 + 2).read_to_end(&mut value)?;
    if value.last() == Some(&b'\n') {
        value.pop();
    }
    let refused = |reason: String| Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    if value.len() > longest {
        return refused(format!("it is longer than a variable can be ({longest} bytes)"));
    }
    if value.contains(&0) {
        return refused("it has a zero byte, which no variable can hold".to_owned());
    }
    Ok(OsString::from_vec(value))
}

/// The number, and how it came about.
fn number(count: &Count, limits: Limits) -> (u64, String) {
    let most = count.most.max(1);
    let wanted = limits.processors.saturating_mul(count.per_processor).saturating_add(count.more);
    let mut reason = format!("forge's count: {} of {} processors", wanted, limits.processors);
    let mut number = wanted.clamp(1, most);
    if number != wanted {
        reason = format!("{reason}, {} at {}", number, if number == 1 { "least" } else { "most" });
    }
    if let (Some(memory), 1..) = (limits.memory, count.megabytes) {
        let room = memory / count.megabytes.saturating_mul(MEBIBYTE);
        if room < number {
            number = room.max(1);
            reason = format!("{reason}, {number} as there are {} MiB of memory", memory / MEBIBYTE);
        }
    }
    (number, reason)
}

impl Limits {
    /// Those of the running system.
    ///
    /// Not by `available_parallelism` of the standard library: it would read the same files
    /// once more, by code of its own.
    fn here() -> Limits {
        Limits::read(Path::new("/"))
    }

    /// Those that the files below `root` tell.
    fn read(root: &Path) -> Limits {
        let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
        let mounted = root.join("sys/fs/cgroup");
        let processors = processors_of_machine(root).unwrap_or(1);
        let mut limits = Limits { processors, memory: memory_of_machine(root) };
        for group in groups.lines() {
            let mut parts = group.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
            let places = match controllers {
                "" => vec![mounted.clone(), mounted.join("unified")],
                _ => std::iter::once(controllers)
                    .chain(controllers.split(','))
                    .map(|controller| mounted.join(controller))
                    .collect(),
            };
            for place in places {
                limits.lower(&place, Path::new(path.trim_start_matches('/')));
            }
        }
        limits.processors = limits.processors.max(1);
        limits
    }

    /// With what the group and those above it allow. A container sees its own group as the
    /// root, whatever path it is told; groups that are not there are passed over.
    fn lower(&mut self, place: &Path, group: &Path) {
        for group in group.ancestors() {
            let folder = place.join(group);
            let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
            let number = |name: &str| read(name).and_then(|text| text.trim().parse::<u64>().ok());
            let quota = read("cpu.max").and_then(|text| {
                let (quota, period) = text.trim().split_once(' ')?;
                Some((quota.parse::<u64>().ok()?, period.parse::<u64>().ok()?))
            });
            // No number, -1, when the older form has no limit.
            let older = || Some((number("cpu.cfs_quota_us")?, number("cpu.cfs_period_us")?));
            if let Some((quota, period @ 1..)) = quota.or_else(older) {
                self.processors = self.processors.min(quota / period);
            }
            for bytes in ["memory.max", "memory.limit_in_bytes"].into_iter().filter_map(number) {
                self.memory = Some(self.memory.map_or(bytes, |memory| memory.min(bytes)));
            }
        }
    }
}

/// Those that this process may run on: `Cpus_allowed_list: 0-3,8`.
fn processors_of_machine(root: &Path) -> Option<u64> {
    let text = fs::read_to_string(root.join("proc/self/status")).ok()?;
    let list = text.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    list.trim().split(',').try_fold(0, |sum: u64, part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        sum.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

fn memory_of_machine(root: &Path) -> Option<u64> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    total.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;
    use crate::testing::Folder;

    const MACHINE: (&str, &str) = ("proc/meminfo", "MemFree: 1 kB\nMemTotal:       8388608 kB\n");

    #[track_caller]
    fn limits(files: &[(&str, &str)], processors: u64, megabytes: u64) {
        let status = ("proc/self/status", "Name:\tx\nCpus_allowed_list:\t0-3,6,9-11\n");
        let folder = Folder::with(&[files, &[status]].concat());
        let expected = Limits { processors, memory: Some(megabytes * MEBIBYTE) };
        assert_eq!(Limits::read(folder.path()), expected, "{files:?}");
    }

    #[test]
    fn limits_of_the_container() {
        let own = ("proc/self/cgroup", "0::/\n");
        limits(&[MACHINE], 8, 8192);
        limits(&[MACHINE, own], 8, 8192);
        limits(
            &[
                MACHINE,
                own,
                ("sys/fs/cgroup/cpu.max", "250000 100000\n"),
                ("sys/fs/cgroup/memory.max", "536870912\n"),
            ],
            2,
            512,
        );
        limits(
            &[
                MACHINE,
                own,
                ("sys/fs/cgroup/cpu.max", "max 100000\n"),
                ("sys/fs/cgroup/memory.max", "max\n"),
            ],
            8,
            8192,
        );
        limits(&[MACHINE, own, ("sys/fs/cgroup/cpu.max", "50000 100000\n")], 1, 8192);
    }

    #[test]
    fn the_smallest_on_the_way_up() {
        let nested = ("proc/self/cgroup", "0::/a/b/c\n");
        let cases = [
            ("sys/fs/cgroup/a/cpu.max", "300000 100000"),
            ("sys/fs/cgroup/a/b/c/cpu.max", "600000 100000"),
            ("sys/fs/cgroup/a/b/memory.max", "268435456"),
            ("sys/fs/cgroup/a/b/c/memory.max", "max"),
        ];
        limits(&[MACHINE, nested, cases[0], cases[1], cases[2], cases[3]], 3, 256);
    }

    #[test]
    fn the_older_form() {
        let groups = (
            "proc/self/cgroup",
            "5:cpu,cpuacct:/docker/x\n4:memory:/docker/x\n1:name=systemd:/docker/x\n0::/\n",
        );
        limits(
            &[
                MACHINE,
                groups,
                ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "400000\n"),
                ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
                ("sys/fs/cgroup/memory/memory.limit_in_bytes", "1073741824\n"),
            ],
            4,
            1024,
        );
        limits(
            &[
                MACHINE,
                groups,
                ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"),
                ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
                ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ],
            8,
            8192,
        );
    }

    #[test]
    fn of_this_machine() {
        let processors = std::thread::available_parallelism().map_or(1, |number| number.get());
        assert_eq!(Limits::here().processors, processors as u64);
        let nothing = Limits { processors: 1, memory: None };
        assert_eq!(Limits::read(Folder::with(&[]).path()), nothing);
    }

    #[test]
    fn numbers() {
        let count = |per_processor, more, megabytes, most| Count {
            name: "X".into(),
            per_processor,
            more,
            megabytes,
            most,
        };
        let limits = Limits { processors: 4, memory: Some(1024 * MEBIBYTE) };
        for (count, expected) in [
            (count(2, 1, 0, u64::MAX), 9),
            (count(2, 1, 300, u64::MAX), 3),
            (count(2, 1, 0, 5), 5),
            (count(0, 0, 0, 5), 1),
            (count(1, 0, 9999, 5), 1),
            (count(1, 0, 0, 0), 1),
            (count(u64::MAX, u64::MAX, u64::MAX, u64::MAX), 1),
        ] {
            assert_eq!(number(&count, limits).0, expected, "{count:?}");
        }
        let unknown = Limits { processors: 4, memory: None };
        assert_eq!(number(&count(2, 1, 300, u64::MAX), unknown).0, 9);
    }

    fn of(variables: &[(&str, &OsStr)]) -> Environment {
        Environment::of_container(variables.iter().map(|(name, value)| (name.into(), value.into())))
    }

    use std::ffi::OsStr;

    fn secrets() -> Settings {
        Settings { secrets: vec!["KEY".into()], ..Settings::default() }
    }

    #[test]
    fn secrets_of_files() {
        for (content, expected) in [
            ("one\n", "one"),
            ("one", "one"),
            ("one\n\n", "one\n"),
            (
                "-----BEGIN KEY-----\nabc\n-----END KEY-----\n",
                "-----BEGIN KEY-----\nabc\n-----END KEY-----",
            ),
            ("one\r\n", "one\r"),
            (" a b ", " a b "),
            ("", ""),
        ] {
            let folder = Folder::with(&[("key", content)]);
            let path = folder.path().join("key");
            let mut environment = of(&[("KEY", "".as_ref()), ("KEY_FILE", path.as_os_str())]);
            apply(&secrets(), &mut environment).expect("it can be read");
            assert_eq!(environment.get("KEY"), Some(expected.as_ref()), "{content:?}");
            let mut twice = environment.clone();
            apply(&secrets(), &mut twice).expect("the same value twice is fine");
            assert_eq!(twice, environment);
        }
        let folder = Folder::with(&[]);
        fs::write(folder.path().join("key"), b"\xff\xfe\n").expect("it can be written");
        let path = folder.path().join("key");
        let mut environment = of(&[("KEY_FILE", path.as_os_str())]);
        apply(&secrets(), &mut environment).expect("it can be read");
        assert_eq!(environment.get("KEY"), Some(OsStr::from_bytes(b"\xff\xfe")));
        let origin =
            environment.iter().find(|(name, _)| *name == "KEY").map(|(_, key)| &key.origin);
        assert_eq!(origin, Some(&format!("the file `{}` (KEY_FILE)", path.display())));
    }

    #[test]
    fn secrets_that_stop_the_start() {
        let folder = Folder::with(&[("key", "s3cret"), ("zero", "s3cret\0"), ("folder/x", "")]);
        fs::write(folder.path().join("long"), vec![b'x'; LONGEST]).expect("it can be written");
        for (key, file, part) in [
            ("0ther", "key", "KEY is set too, to another value"),
            ("", "nosuch", "No such file"),
            ("0ther", "nosuch", "No such file"),
            ("", "zero", "zero byte"),
            ("", "long", "longer than a variable"),
            ("", "folder", "s a directory"),
        ] {
            let path = folder.path().join(file);
            let mut environment = of(&[("KEY", key.as_ref()), ("KEY_FILE", path.as_os_str())]);
            let failure = apply(&secrets(), &mut environment).expect_err(file);
            let text = failure.to_string();
            assert_eq!(failure.code, 82);
            assert!(text.contains(part) && text.contains("KEY_FILE"), "{text}");
            assert!(text.contains(file) && !text.contains("s3cret"), "{text}");
            assert!(!text.contains("0ther"), "{text}");
        }
        // Off, and none at all.
        for variables in [&[("KEY", "a".as_ref()), ("KEY_FILE", "".as_ref())][..], &[]] {
            let mut environment = of(variables);
            let before = environment.clone();
            apply(&secrets(), &mut environment).expect("nothing to read");
            assert_eq!(environment, before);
        }
    }

    #[test]
    fn what_is_set() {
        let folder = Folder::with(&[("a.so", ""), ("b.so", "")]);
        let [a, no, b] = ["a.so", "no.so", "b.so"].map(|name| folder.path().join(name));
        let settings = Settings {
            preload: vec![a.clone(), no, b.clone()],
            defaults: vec![("PORT".into(), "3000".into()), ("MODE".into(), "production".into())],
            counts: vec![Count {
                name: "MODE".into(),
                per_processor: 1,
                more: 0,
                megabytes: 0,
                most: 1,
            }],
            ..Settings::default()
        };
        let mut environment = of(&[]);
        apply(&settings, &mut environment).expect("nothing can fail");
        let both = format!("{}:{}", a.display(), b.display());
        assert_eq!(environment.get("LD_PRELOAD"), Some(both.as_ref()));
        assert_eq!(environment.get("PORT"), Some("3000".as_ref()));
        assert_eq!(environment.get("MODE"), Some("production".as_ref()));
        let given = [("LD_PRELOAD", "".as_ref()), ("MODE", "x".as_ref()), ("PORT", "1".as_ref())];
        let mut environment = of(&given);
        let before = environment.clone();
        apply(&settings, &mut environment).expect("nothing can fail");
        assert_eq!(environment, before);
    }
}
