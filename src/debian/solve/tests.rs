//! What `solve` promises, as cases.

use super::*;
use crate::debian::relation;
use crate::digest::Digest;

/// Each line: `name version; Field: value; …`. Fields of one word are given as `essential`.
fn index(lines: &[&str]) -> Index {
    let mut text = String::new();
    for line in lines {
        let mut parts = line.split("; ");
        let (name, version) = parts.next().and_then(|head| head.split_once(' ')).unwrap();
        text.push_str(&format!(
            "Package: {name}\nVersion: {version}\nFilename: pool/{name}.deb\nSize: 1\n"
        ));
        text.push_str(&format!("SHA256: {}\n", Digest::of(line.as_bytes()).hex()));
        let mut architecture = "amd64";
        for part in parts {
            match part.split_once(": ") {
                Some(("Architecture", value)) => architecture = value,
                _ => text.push_str(&format!("{part}\n")),
            }
        }
        text.push_str(&format!("Architecture: {architecture}\n\n"));
    }
    let mut index = Index::new();
    index.add(&text, 0).unwrap();
    index
}

struct Case<'a> {
    index: &'a [&'a str],
    roots: &'a [&'a str],
    installed: &'a [&'a str],
    exclude: &'a [&'a str],
    essential: bool,
}

const CASE: Case<'static> =
    Case { index: &[], roots: &[], installed: &[], exclude: &[], essential: false };

#[track_caller]
fn check(case: &Case<'_>, expected: Result<&[&str], &str>) {
    let index = index(case.index);
    let roots: Vec<Root> = case
        .roots
        .iter()
        .map(|text| relation::relation(text).unwrap())
        .map(|root| Root { name: root.name.to_owned(), constraint: root.constraint })
        .collect();
    // `name version provided provided`, and fields as in the index.
    let installed = case.installed.iter().map(|line| {
        let mut parts = line.split("; ");
        let (name, rest) = parts.next().and_then(|head| head.split_once(' ')).unwrap();
        let (version, provides) = rest.split_once(' ').unwrap_or((rest, ""));
        let mut found = Installed {
            version: version.parse().unwrap(),
            provides: provides.split_whitespace().map(|name| (name.to_owned(), None)).collect(),
            multi_arch: MultiArch::No,
            depends: String::new(),
            conflicts: String::new(),
        };
        for part in parts {
            match part.split_once(": ").unwrap() {
                ("Depends", value) => found.depends = value.to_owned(),
                ("Breaks", value) => found.conflicts = value.to_owned(),
                other => panic!("{other:?}"),
            }
        }
        (name.to_owned(), found)
    });
    let request = Request {
        architecture: "amd64",
        roots: &roots,
        essential: case.essential,
        installed: &installed.collect(),
        exclude: &case.exclude.iter().map(|&name| name.to_owned()).collect(),
    };
    let found = solve(&index, &request).map_err(|err| err.to_string()).map(|packages| {
        packages
            .iter()
            .map(|found| format!("{} {}", found.name(), found.version))
            .collect::<Vec<_>>()
    });
    let expected = expected.map(|names| names.iter().map(|&name| name.to_owned()).collect());
    assert_eq!(found, expected.map_err(str::to_owned));
}

#[test]
fn needs_come_first_and_ties_go_by_name() {
    let index =
        &["z 1", "a 1; Depends: m, z", "m 1; Pre-Depends: z", "b 1", "r 1; Recommends: q", "q 1"];
    check(
        &Case { index, roots: &["r", "b", "a"], ..CASE },
        Ok(&["b 1", "r 1", "z 1", "m 1", "a 1"]),
    );
}

#[test]
fn alternatives() {
    let index = &[
        "a 1; Depends: x | y",
        "x 1",
        "y 1",
        "c 1; Depends: none | y",
        "d 1; Depends: v",
        "p 1; Provides: v",
        "o 1; Provides: v",
    ];
    check(&Case { index, roots: &["a"], ..CASE }, Ok(&["x 1", "a 1"]));
    check(&Case { index, roots: &["a", "y"], ..CASE }, Ok(&["y 1", "a 1"]));
    check(&Case { index, roots: &["c"], ..CASE }, Ok(&["y 1", "c 1"]));
    check(&Case { index, roots: &["a"], installed: &["y 1"], ..CASE }, Ok(&["a 1"]));
    check(&Case { index, roots: &["a"], exclude: &["x"], ..CASE }, Ok(&["y 1", "a 1"]));
    check(&Case { index, roots: &["d"], ..CASE }, Ok(&["o 1", "d 1"]));
    check(&Case { index, roots: &["d"], installed: &["k 1 v"], ..CASE }, Ok(&["d 1"]));
    check(&Case { index, roots: &["v"], exclude: &["o"], ..CASE }, Ok(&["p 1"]));
}

#[test]
fn goes_back_when_an_alternative_fails_later() {
    let index = &["a 1; Depends: x | y", "x 1; Depends: deep", "deep 1; Depends: gone", "y 1"];
    check(&Case { index, roots: &["a"], ..CASE }, Ok(&["y 1", "a 1"]));
    let index = &["a 1; Depends: x | y, z", "x 1", "y 1", "z 1; Conflicts: x"];
    check(&Case { index, roots: &["a"], ..CASE }, Ok(&["y 1", "z 1", "a 1"]));
}

#[test]
fn versions() {
    let index = &[
        "l 2",
        "l 1",
        "a 1; Depends: l (<< 2)",
        "b 1; Depends: v (>= 2)",
        "p 1; Provides: v",
        "q 1; Provides: v (= 3)",
    ];
    check(&Case { index, roots: &["l"], ..CASE }, Ok(&["l 2"]));
    check(&Case { index, roots: &["l (= 1)"], ..CASE }, Ok(&["l 1"]));
    check(&Case { index, roots: &["a", "l"], ..CASE }, Ok(&["l 1", "a 1"]));
    check(&Case { index, roots: &["b"], ..CASE }, Ok(&["q 1", "b 1"]));
}

#[test]
fn installed() {
    let index = &["l 2", "a 1; Depends: l", "b 1; Depends: l (>= 2)", "c 1; Depends: l (<< 2)"];
    check(&Case { index, roots: &["a"], installed: &["l 1"], ..CASE }, Ok(&["a 1"]));
    check(&Case { index, roots: &["b"], installed: &["l 1"], ..CASE }, Ok(&["l 2", "b 1"]));
    check(&Case { index, roots: &["l"], installed: &["l 3"], ..CASE }, Ok(&[]));
    check(
        &Case { index, roots: &["c"], installed: &["l 3"], ..CASE },
        Err("`l (<< 2)`, needed by `c`, is not in the index (there is l 2 amd64)"),
    );
    // `c` was content with what is installed until `b` upgrades it.
    check(
        &Case { index, roots: &["c", "b"], installed: &["l 1"], ..CASE },
        Err("`l (<< 2)`, needed by `c`, is not in the index (there is l 2 amd64)"),
    );
}

#[test]
fn qualifiers_and_architectures() {
    let index = &[
        "a 1; Depends: p:any, n:native, f [i386]",
        "p 2; Multi-Arch: foreign",
        "p 1; Multi-Arch: allowed",
        "n 1; Architecture: all",
        "x 1; Architecture: i386",
        "y 1; Depends: x",
    ];
    check(&Case { index, roots: &["a"], ..CASE }, Ok(&["n 1", "p 1", "a 1"]));
    check(
        &Case { index, roots: &["y"], ..CASE },
        Err("`x`, needed by `y`, is not in the index (there is x 1 i386)"),
    );
}

#[test]
fn essential() {
    let index = &["b 1; Essential: yes; Pre-Depends: c", "c 1", "a 1"];
    check(&Case { index, roots: &["a"], essential: true, ..CASE }, Ok(&["a 1", "c 1", "b 1"]));
    check(&Case { index, roots: &["a"], ..CASE }, Ok(&["a 1"]));
}

#[test]
fn cycles() {
    // libc and libgcc need each other; what needs them waits for both.
    let index = &[
        "app 1; Depends: libc",
        "libc 1; Depends: libgcc",
        "libgcc 1; Depends: libc, base",
        "base 1",
    ];
    check(&Case { index, roots: &["app"], ..CASE }, Ok(&["base 1", "libc 1", "libgcc 1", "app 1"]));
    let index = &["a 1; Pre-Depends: b", "b 1; Depends: a"];
    check(&Case { index, roots: &["a"], ..CASE }, Ok(&["b 1", "a 1"]));
}

#[test]
fn errors() {
    let index = &[
        "python3 3",
        "python2 2",
        "a 1; Depends: b",
        "b 1; Depends: gone (>= 2) | nowhere",
        "c 1; Breaks: d (<< 2)",
        "d 1",
        "m 1; Conflicts: v",
        "w 1; Provides: v",
        "s 1; Provides: v; Conflicts: v",
    ];
    let request = Request {
        architecture: "amd64",
        roots: &[Root { name: "pyton3".into(), constraint: None }],
        essential: false,
        installed: &BTreeMap::new(),
        exclude: &BTreeSet::new(),
    };
    match solve(&self::index(index), &request) {
        Err(SolveError::Unknown { similar, .. }) => assert_eq!(similar, ["python3", "python2"]),
        other => panic!("{other:?}"),
    }
    check(
        &Case { index, roots: &["a"], ..CASE },
        Err("`gone (>= 2) | nowhere`, needed by `b` ← `a`, is not in the index"),
    );
    check(
        &Case { index, roots: &["d (>= 2)"], ..CASE },
        Err("`d (>= 2)`, needed by the request, is not in the index (there is d 1 amd64)"),
    );
    check(
        &Case { index, roots: &["c", "d"], ..CASE },
        Err(
            "`c 1` and `d 1` cannot be installed together (c 1: d (<< 2)); `d` is needed by the request",
        ),
    );
    check(
        &Case { index, roots: &["m", "w"], ..CASE },
        Err("`m 1` and `w 1` cannot be installed together (m 1: v); `w` is needed by the request"),
    );
    check(
        &Case { index, roots: &["c"], installed: &["d 1"], ..CASE },
        Err(
            "`c 1` and `d 1` cannot be installed together (c 1: d (<< 2)); `c` is needed by the request",
        ),
    );
    check(&Case { index, roots: &["s"], ..CASE }, Ok(&["s 1"]));
}

#[test]
fn what_was_built_together_moves_together() {
    let index = &[
        "l-dev 2; Depends: l (= 2)",
        "l 2; Depends: base (= 2)",
        "base 2",
        "k 2; Depends: base (= 2)",
        "m 2",
        "x 1",
    ];
    let old = &["l 1; Depends: base (= 1)", "base 1", "k 1; Depends: base (= 1), x", "m 1"];
    check(
        &Case { index, roots: &["l-dev"], installed: old, ..CASE },
        Ok(&["base 2", "k 2", "l 2", "l-dev 2"]),
    );
    // One that is of somebody else and cannot move.
    let foreign = &["l 1", "base 1", "y 1; Depends: base (= 1)"];
    check(
        &Case { index, roots: &["l-dev"], installed: foreign, ..CASE },
        Err("`y (>> 1)`, needed by `base` ← `l` ← `l-dev`, is not in the index"),
    );
    // What others give as well, or was missing before, is not in the way.
    let others = &[
        "l 1 v",
        "base 1 v",
        "n 1; Depends: v",
        "o 1; Depends: v | base (= 1)",
        "p 1; Depends: base (= 0)",
        "w 1 v",
    ];
    check(
        &Case { index, roots: &["l-dev"], installed: others, ..CASE },
        Ok(&["base 2", "l 2", "l-dev 2"]),
    );
}

#[test]
fn what_is_installed_has_a_say() {
    let index = &["a 2", "b 1; Conflicts: v", "c 1; Breaks: d (<< 2)", "d 2", "e 2; Provides: w"];
    let theirs = &["z 1; Breaks: a (>= 2)"];
    check(
        &Case { index, roots: &["a"], installed: theirs, ..CASE },
        Err(
            "`z 1` and `a 2` cannot be installed together (z 1: a (>= 2)); `a` is needed by the request",
        ),
    );
    let provided = &["z 1; Breaks: w"];
    check(
        &Case { index, roots: &["e"], installed: provided, ..CASE },
        Err("`z 1` and `e 2` cannot be installed together (z 1: w); `e` is needed by the request"),
    );
    // A newer version that gets on with it comes along.
    check(&Case { index, roots: &["c"], installed: &["d 1"], ..CASE }, Ok(&["c 1", "d 2"]));
    check(
        &Case { index, roots: &["a"], installed: &["d 1; Breaks: a (>= 2)"], ..CASE },
        Ok(&["a 2", "d 2"]),
    );
    check(
        &Case { index, roots: &["b"], installed: &["z 1 v"], ..CASE },
        Err("`b 1` and `z 1` cannot be installed together (b 1: v); `b` is needed by the request"),
    );
    check(
        &Case { index, roots: &["a"], installed: &["z 1; Depends: ("], ..CASE },
        Err("package `z` has a malformed relation"),
    );
}
