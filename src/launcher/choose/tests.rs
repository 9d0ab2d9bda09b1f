//! What `choose` promises.

use super::*;

const TABLE: &str = r#"
    [[buildpacks]]
    id = "old"
    api = "0.8"
    [[processes]]
    type = "web"
    command = "puma -p $PORT"
    [[processes]]
    type = "chain"
    command = "a && b\n"
    args = ["x y"]
    [[processes]]
    type = "one"
    command = ["one"]
    args = ["def"]
    direct = true
    working-dir = "/sub"
    [[processes]]
    type = "two"
    command = ["two", "fixed"]
    args = ["def"]
    direct = true
    buildpack-id = "old"
    [[processes]]
    type = "aged"
    command = ["aged"]
    args = ["def"]
    direct = true
    buildpack-id = "old"
    [[processes]]
    type = "empty"
    direct = true
"#;

/// What a command line leads to, on one line: words in `<>`, scripts in `«»`.
fn found(table: &str, line: &[&str]) -> String {
    let table = Table::parse(table).expect("the fixture is well formed");
    let call = match request(line.iter().map(OsString::from)) {
        Ok(Request::About) => return "about".to_owned(),
        Ok(Request::Launch(call)) => call,
        Err(failure) => return format!("{} {failure}", failure.code),
    };
    let launch = match choose(&table, &call) {
        Ok(Choice::List) => return "list".to_owned(),
        Ok(other @ (Choice::All(_) | Choice::Env { .. } | Choice::Explain(_))) => {
            return format!("{other:?}");
        }
        Ok(Choice::Launch(launch)) => launch,
        Err(failure) => return format!("{} {failure}", failure.code),
    };
    let origin = match launch.origin {
        Origin::Operator => "operator".to_owned(),
        Origin::Process(None) => "process".to_owned(),
        Origin::Process(Some(dir)) => format!("process in {}", dir.display()),
    };
    let form = match launch.form {
        Form::Shell(script) => format!("«{}»", script.to_string_lossy()),
        Form::Direct { program, arguments } => std::iter::once(program)
            .chain(arguments)
            .map(|word| format!("<{}>", word.to_string_lossy()))
            .collect(),
    };
    format!("{origin} {form}")
}

#[test]
fn choices() {
    let cases: [(&[&str], &str); 27] = [
        (&["/cnb/lifecycle/launcher"], "process «exec puma -p $PORT»"),
        (&["launcher", "web"], "process «exec puma -p $PORT»"),
        (&["launcher", "one"], "process in /sub <one><def>"),
        (&["launcher", "web", "x"], "operator <web><x>"),
        (&["launcher", "--", "web"], "operator <web>"),
        (&["launcher", "--", "--", "x"], "operator <--><x>"),
        (&["launcher", "rails", "console", "-e", "p"], "operator <rails><console><-e><p>"),
        (&["launcher", "echo", "a  b", "$HOME", ""], "operator <echo><a  b><$HOME><>"),
        (&["launcher", "--help"], "operator <--help>"),
        (&["launcher", "--list"], "list"),
        (&["launcher", "--list", "x"], "operator <--list><x>"),
        (&["somebody", "web"], "process «exec puma -p $PORT»"),
        (&[], "process «exec puma -p $PORT»"),
        (&["/cnb/process/web"], "process «exec puma -p $PORT»"),
        (&["web", "-C", "it's; $X"], r"process «exec puma -p $PORT '-C' 'it'\''s; $X'»"),
        (&["chain", "z"], "process «a && b 'x y' 'z'»"),
        (&["one"], "process in /sub <one><def>"),
        (&["one", "--", "u"], "process in /sub <one><--><u>"),
        (&["two"], "process <two><fixed><def>"),
        (&["two", "u"], "process <two><fixed><u>"),
        (&["aged", "u"], "process <aged><def><u>"),
        (&["forge"], "about"),
        (&["forge", "--help"], "about"),
        (&["forge", "launcher"], "process «exec puma -p $PORT»"),
        (&["forge", "launcher", "one"], "process in /sub <one><def>"),
        (&["/bin/forge", "launcher", "rails", "db:migrate"], "operator <rails><db:migrate>"),
        (&["forge", "launcher", "--list"], "list"),
    ];
    for (line, expected) in cases {
        assert_eq!(found(TABLE, line), expected, "{line:?}");
    }
}

#[test]
fn refusals() {
    let two = "[[processes]]\ntype = 'a'\n[[processes]]\ntype = 'b'";
    let cases: [(&str, &[&str], &str); 6] = [
        (
            two,
            &["launcher"],
            "82 forge launcher: cannot choose a process: none is the default and none is called `web`\n  name one of a, b, or give a command\n",
        ),
        (
            "",
            &["launcher"],
            "82 forge launcher: cannot choose a process: none is the default and none is called `web`\n  give a command: `launcher COMMAND ARG…`, or add a Procfile and build again\n",
        ),
        (
            TABLE,
            &["launcher", "--"],
            "82 forge launcher: cannot run a command: no word follows `--`\n  write the command after it: `launcher -- COMMAND ARG…`\n",
        ),
        (
            TABLE,
            &["empty"],
            "82 forge launcher: cannot start process `empty`: it has no command\n  give it one in the Procfile and build again\n",
        ),
        (
            two,
            &["a"],
            "82 forge launcher: cannot start process `a`: it has no command\n  give it one in the Procfile and build again\n",
        ),
        (
            TABLE,
            &["forge", "build"],
            "2 forge launcher: cannot run `forge build`: inside an image forge is only the launcher\n  run `forge launcher COMMAND ARG…`; `forge --help` tells more\n",
        ),
    ];
    for (table, line, expected) in cases {
        assert_eq!(found(table, line), expected, "{line:?}");
    }
}

#[test]
fn where_exec_may_stand() {
    let cases = [
        ("puma", true),
        ("bundle exec puma -p ${PORT:-3000} -e \"$RAILS_ENV\"", true),
        ("  gunicorn app:app\n", true),
        ("bin/rails server -b '[::]'", true),
        ("echo a=b", true),
        ("./x=y", true),
        ("$SERVER --flag", true),
        ("", false),
        ("a && b", false),
        ("a; b", false),
        ("a | b", false),
        ("a > log", false),
        ("a < in", false),
        ("(a)", false),
        ("echo $(date)", false),
        ("a\nb", false),
        ("echo 'a;b'", false),
        ("RAILS_ENV=production puma", false),
        ("A+=1 puma", false),
        ("A[0]=1 puma", false),
        ("exec puma", false),
        ("cd sub", false),
        (". ./start.sh", false),
        ("exit 3", false),
        ("{ a", false),
        ("! a", false),
        ("-x", false),
    ];
    for (command, expected) in cases {
        assert_eq!(takes_exec(command), expected, "{command}");
    }
}

#[test]
fn words_that_are_not_utf8() {
    let odd = OsString::from_vec(vec![b'a', 0xff, b'\'']);
    assert_eq!(quoted(&odd), b"'a\xff'\\'''");
    let call = Call { name: "launcher".into(), arguments: vec!["x".into(), odd.clone()] };
    let table = Table::parse("").expect("an empty table is well formed");
    let Ok(Choice::Launch(launch)) = choose(&table, &call) else { panic!("nothing chosen") };
    assert_eq!(launch.form, Form::Direct { program: "x".into(), arguments: vec![odd] });
}

#[test]
fn the_list() {
    let text = "[[processes]]\ntype = 'web'\ncommand = 'puma -p $PORT'\n\
                [[processes]]\ntype = 'worker'\ncommand = ['sh', '-c']\nargs = ['a b']\ndirect = true\n\
                [[processes]]\ntype = 'long'\ncommand = \"one\\ntwo\"";
    let table = Table::parse(text).expect("the fixture is well formed");
    let expected = "web (default)  puma -p $PORT\n\
                    worker         sh -c 'a b'\n\
                    long           one\n               two\n";
    assert_eq!(list(&table), expected);
}
