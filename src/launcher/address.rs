//! The services to wait for, from what the table says. Text and variables in, types out.
//!
//! | entry, or value of the variable | service |
//! | --- | --- |
//! | `tcp://host:port`, `host:port` | something that listens |
//! | `unix:/path`, `unix:///path`, `/path` | something that listens there |
//! | `postgres://user:password@host:port/name` | one that answers in its protocol |
//! | `postgres://%2Frun%2Fpostgresql/name`, `…?host=/run/postgresql` | the same by its socket |
//! | `host=db port=5432 dbname=name` | PostgreSQL, as libpq reads it |
//! | `postgres://a,b:5433/name`, `amqp://a;amqp://b` | any one of them |
//! | `$NAME`, `${NAME}`, also inside of an entry | what the variable holds |
//!
//! - An entry whose variable is unset is nothing to wait for: `required` is the list of what
//!   must be set. The same is true of SQLite and of what lives in the process itself.
//! - User and database are kept for PostgreSQL's first message alone; passwords are dropped
//!   here, and no error repeats a part of the text: in a malformed address the password may
//!   stand where the host or the port should.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use crate::environment::Environment;

/// What to wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The variable that it is from, as it stands in the table.
    pub variable: Option<String>,
    /// How it says that it is ready.
    pub service: Service,
    /// Where it is; one of them is enough.
    pub places: Vec<Place>,
}

/// How a service says that it is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Service {
    /// It accepts connections.
    Listening,
    /// It asks for a password, or refuses for another reason than that it starts up.
    Postgres {
        /// The user to connect as.
        user: String,
        /// The database, when it is not called like the user.
        database: Option<String>,
    },
    /// It greets.
    Mysql,
    /// It answers PING, and not that it is loading.
    Redis,
}

/// Where a service is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A host, by name or number, and a port.
    Host(String, u16),
    /// A socket among the files.
    Socket(PathBuf),
}

/// What an entry means.
#[derive(Debug, PartialEq, Eq)]
pub enum Entry {
    /// A service.
    Target(Target),
    /// Nothing, and why.
    Nothing(String),
}

/// A scheme: its name, the port when none is given, and what is behind it.
type Scheme = (&'static str, Option<u16>, Kind);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Listening,
    Postgres,
    Mysql,
    Redis,
    /// Not a service.
    Inside,
}

/// Schemes with `+…` behind are the same without it (`postgresql+psycopg`), if they are not
/// listed themselves. With TLS there is nothing to read before a handshake that this launcher
/// cannot make, so those must only listen.
const SCHEMES: [Scheme; 46] = [
    ("amqp", Some(5672), Kind::Listening),
    ("amqps", Some(5671), Kind::Listening),
    ("cockroachdb", Some(26257), Kind::Postgres),
    ("elasticsearch", Some(9200), Kind::Listening),
    ("file", None, Kind::Inside),
    ("http", Some(80), Kind::Listening),
    ("https", Some(443), Kind::Listening),
    ("kafka", Some(9092), Kind::Listening),
    ("ldap", Some(389), Kind::Listening),
    ("ldaps", Some(636), Kind::Listening),
    ("mariadb", Some(3306), Kind::Mysql),
    ("memcache", Some(11211), Kind::Listening),
    ("memcached", Some(11211), Kind::Listening),
    ("memory", None, Kind::Inside),
    ("mongodb", Some(27017), Kind::Listening),
    ("mssql", Some(1433), Kind::Listening),
    ("mysql", Some(3306), Kind::Mysql),
    ("mysql2", Some(3306), Kind::Mysql),
    ("mysqlgis", Some(3306), Kind::Mysql),
    ("nats", Some(4222), Kind::Listening),
    ("opensearch", Some(9200), Kind::Listening),
    ("oracle", Some(1521), Kind::Listening),
    ("pgsql", Some(5432), Kind::Postgres),
    ("postgis", Some(5432), Kind::Postgres),
    ("postgres", Some(5432), Kind::Postgres),
    ("postgresql", Some(5432), Kind::Postgres),
    ("pyamqp", Some(5672), Kind::Listening),
    ("pymemcache", Some(11211), Kind::Listening),
    ("redis", Some(6379), Kind::Redis),
    ("redis+tls", Some(6379), Kind::Listening),
    ("redis+unix", Some(6379), Kind::Redis),
    ("rediss", Some(6379), Kind::Listening),
    ("sentinel", Some(26379), Kind::Redis),
    ("smtp", Some(25), Kind::Listening),
    ("smtps", Some(465), Kind::Listening),
    ("sqlite", None, Kind::Inside),
    ("sqlite3", None, Kind::Inside),
    ("sqlserver", Some(1433), Kind::Listening),
    ("tcp", None, Kind::Listening),
    ("timescale", Some(5432), Kind::Postgres),
    ("timescalegis", Some(5432), Kind::Postgres),
    ("tls", None, Kind::Listening),
    ("trilogy", Some(3306), Kind::Mysql),
    ("unix", None, Kind::Listening),
    ("valkey", Some(6379), Kind::Redis),
    ("valkeys", Some(6379), Kind::Listening),
];

/// Where the local server listens when no host is given.
const POSTGRES_FOLDERS: [&str; 2] = ["/run/postgresql", "/tmp"];
const MYSQL_SOCKET: &str = "/run/mysqld/mysqld.sock";

/// Reads an entry.
///
/// # Errors
/// What is wrong with the address. It repeats nothing of it.
pub fn entry(text: &str, environment: &Environment) -> Result<Entry, String> {
    let (value, variables) = match expand(text, environment)? {
        Ok(expanded) => expanded,
        Err(unset) => return Ok(Entry::Nothing(format!("{unset} is not set"))),
    };
    // What is in the table is public, up to a password that somebody wrote there.
    let variable = (!variables.is_empty() && !text.contains(['@', '='])).then(|| text.to_owned());
    Ok(match address(value.trim())? {
        Some((service, places)) => Entry::Target(Target { variable, service, places }),
        None => Entry::Nothing("it is no service".to_owned()),
    })
}

/// The text with its variables replaced, and their names; or the first that is unset.
type Expanded = Result<(String, Vec<String>), String>;

fn expand(text: &str, environment: &Environment) -> Result<Expanded, String> {
    let (mut value, mut names, mut rest) = (String::new(), Vec::new(), text);
    while let Some((before, after)) = rest.split_once('$') {
        value.push_str(before);
        let name;
        (name, rest) = match after.strip_prefix('{') {
            Some(after) => after.split_once('}').ok_or("a `${` has no `}`")?,
            None => {
                let letter = |c: char| c.is_ascii_alphanumeric() || c == '_';
                after.split_at(after.find(|c| !letter(c)).unwrap_or(after.len()))
            }
        };
        if name.is_empty() {
            return Err("no name follows `$`".to_owned());
        }
        let Some(found) = environment.get(name).filter(|value| !value.is_empty()) else {
            return Ok(Err(name.to_owned()));
        };
        value.push_str(found.to_str().ok_or_else(|| format!("{name} is not UTF-8"))?);
        names.push(name.to_owned());
    }
    value.push_str(rest);
    Ok(Ok((value, names)))
}

type Address = Option<(Service, Vec<Place>)>;

fn address(text: &str) -> Result<Address, String> {
    let several: Vec<&str> = text.split(';').filter(|part| !part.is_empty()).collect();
    if several.len() > 1 && several.iter().all(|part| part.contains("://")) {
        return several.into_iter().map(address).try_fold(None, |all: Address, next| {
            Ok(match (all, next?) {
                (Some((service, mut places)), Some((_, more))) => {
                    places.extend(more);
                    Some((service, places))
                }
                (all, next) => all.or(next),
            })
        });
    }
    let text = text.strip_prefix("jdbc:").unwrap_or(text);
    if text.starts_with('/') {
        return Ok(Some((Service::Listening, vec![Place::Socket(text.into())])));
    }
    let scheme = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    if let Some((name, rest)) = text.split_once("://")
        && name.chars().all(scheme)
    {
        return url(&name.to_ascii_lowercase(), rest);
    }
    if let Some(path) = text.strip_prefix("unix:") {
        return url("unix", path);
    }
    if let Some(name) = text.split(':').next()
        && known(&name.to_ascii_lowercase()).is_some_and(|(_, _, kind)| kind == Kind::Inside)
    {
        return Ok(None);
    }
    if let Some(pairs) = pairs(text) {
        let pairs = pairs?;
        return Ok(Some(postgres(Url { query: pairs, ..Url::default() }, 5432)?));
    }
    let (host, port) = host_and_port(text, None)?;
    Ok(Some((Service::Listening, vec![Place::Host(host, port)])))
}

fn known(scheme: &str) -> Option<Scheme> {
    let find = |name: &str| SCHEMES.iter().find(|(known, _, _)| *known == name).copied();
    find(scheme).or_else(|| find(scheme.split_once('+')?.0))
}

/// The parts of a URL that matter, decoded.
#[derive(Default)]
struct Url {
    user: Option<String>,
    /// Not decoded.
    hosts: String,
    /// With the `/` in front.
    path: String,
    query: Vec<(String, String)>,
}

impl Url {
    fn get(&self, key: &str) -> Option<&str> {
        let found = self.query.iter().rev().find(|(found, _)| found == key)?;
        Some(found.1.as_str()).filter(|value| !value.is_empty())
    }
}

fn url(scheme: &str, rest: &str) -> Result<Address, String> {
    if scheme.ends_with("+srv") {
        return Err(format!(
            "`{scheme}` asks DNS for the hosts; name one of them with `tcp://host:port` instead"
        ));
    }
    let found = known(scheme);
    let (port, kind) = found.map_or((None, Kind::Listening), |(_, port, kind)| (port, kind));
    if kind == Kind::Inside {
        return Ok(None);
    }
    let url = parts(rest)?;
    let socket = scheme == "unix" || ["+socket", "+unix"].iter().any(|end| scheme.ends_with(end));
    if socket {
        if url.path.len() < 2 || !url.hosts.is_empty() {
            return Err("a socket is an absolute path: `unix:/path`".to_owned());
        }
        let service = if kind == Kind::Redis { Service::Redis } else { Service::Listening };
        return Ok(Some((service, vec![Place::Socket(url.path.into())])));
    }
    if kind == Kind::Postgres {
        return Ok(Some(postgres(url, port.unwrap_or(5432))?));
    }
    let named = ["socket", "unix_socket", "unixSocket"].into_iter().find_map(|key| url.get(key));
    if let (Kind::Mysql, Some(path)) = (kind, named) {
        return Ok(Some((Service::Mysql, vec![Place::Socket(path.into())])));
    }
    let service = match kind {
        Kind::Mysql => Service::Mysql,
        Kind::Redis => Service::Redis,
        _ => Service::Listening,
    };
    let mut places = Vec::new();
    if kind == Kind::Mysql && url.hosts.is_empty() {
        places.push(Place::Socket(MYSQL_SOCKET.into()));
    }
    for host in url.hosts.split(',') {
        let host = decoded(host)?;
        if host.starts_with('/') {
            places.push(Place::Socket(host.into()));
        } else {
            let (host, port) = host_and_port(&host, port)?;
            places.push(Place::Host(host, port));
        }
    }
    Ok(Some((service, places)))
}

fn parts(rest: &str) -> Result<Url, String> {
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    let (user, hosts) = match authority.rsplit_once('@') {
        Some((user, hosts)) => (Some(user.split_once(':').map_or(user, |(user, _)| user)), hosts),
        None => (None, authority),
    };
    // `user:pass/word@host`: what was taken for a host would be the user.
    if user.is_none()
        && let Some((before, _)) = tail.split_once('@')
        && !before.contains('=')
    {
        return Err("there is an `@` behind the host; in a password `/`, `?` and `#` are \
                    written as %2F, %3F and %23"
            .to_owned());
    }
    let tail = tail.split_once('#').map_or(tail, |(tail, _)| tail);
    let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
    let mut pairs = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        pairs.push((decoded(key)?, decoded(value)?));
    }
    Ok(Url {
        user: user.map(decoded).transpose()?.filter(|user| !user.is_empty()),
        hosts: hosts.to_owned(),
        path: decoded(path)?,
        query: pairs,
    })
}

/// As libpq: parameters win over the URL, each host may have a port of its own, a host with
/// a `/` is the folder of a socket, and without a host it is the local one.
fn postgres(url: Url, default: u16) -> Result<(Service, Vec<Place>), String> {
    let number = |text: &str| match text {
        "" => Ok(default),
        text => text.parse::<u16>().map_err(|_| "a port is no number".to_owned()),
    };
    let mut hosts: Vec<(String, u16)> = Vec::new();
    if let Some(named) = url.get("hostaddr").or_else(|| url.get("host")) {
        let ports: Vec<&str> = url.get("port").unwrap_or("").split(',').collect();
        for (index, host) in named.split(',').enumerate() {
            let port = if ports.len() == 1 { ports.first() } else { ports.get(index) };
            hosts.push((host.to_owned(), number(port.copied().unwrap_or(""))?));
        }
    } else {
        let default = number(url.get("port").unwrap_or(""))?;
        for host in url.hosts.split(',') {
            let host = decoded(host)?;
            // A socket's folder has no `:` but for the port.
            hosts.push(match host.rsplit_once(':') {
                Some((folder, port)) if host.starts_with('/') => (folder.to_owned(), number(port)?),
                _ if host.is_empty() || host.starts_with('/') => (host, default),
                _ => host_and_port(&host, Some(default))?,
            });
        }
    }
    let mut places = Vec::new();
    for (host, port) in hosts {
        let socket = |folder: &str| Place::Socket(format!("{folder}/.s.PGSQL.{port}").into());
        match host.as_str() {
            "" => places.extend(POSTGRES_FOLDERS.map(socket)),
            host if host.starts_with('/') => places.push(socket(host.trim_end_matches('/'))),
            host => places.push(Place::Host(host.to_owned(), port)),
        }
    }
    let name = url.path.trim_start_matches('/');
    let database = url.get("dbname").or((!name.is_empty()).then_some(name));
    let service = Service::Postgres {
        user: url.get("user").or(url.user.as_deref()).unwrap_or("postgres").to_owned(),
        database: database.map(str::to_owned),
    };
    Ok((service, places))
}

/// The pairs of a libpq connection string, or `None` if it is none.
fn pairs(text: &str) -> Option<Result<Vec<(String, String)>, String>> {
    let word =
        |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    word(text.split_once('=')?.0.trim_end()).then(|| {
        let (mut pairs, mut rest) = (Vec::new(), text);
        while let Some((key, after)) = rest.split_once('=') {
            let (mut value, mut characters) = (String::new(), after.trim_start().chars());
            let quoted = characters.as_str().starts_with('\'');
            if quoted {
                characters.next();
            }
            loop {
                match characters.next() {
                    None if quoted => return Err("a quoted value does not end".to_owned()),
                    Some('\'') if quoted => break,
                    Some(c) if !quoted && c.is_whitespace() => break,
                    Some('\\') => value.extend(characters.next()),
                    Some(c) => value.push(c),
                    None => break,
                }
            }
            pairs.push((key.trim().to_owned(), value));
            rest = characters.as_str().trim_start();
        }
        if rest.is_empty() { Ok(pairs) } else { Err("a parameter has no `=`".to_owned()) }
    })
}

/// `host:port`, `[host]:port`; an empty host is this machine.
fn host_and_port(text: &str, default: Option<u16>) -> Result<(String, u16), String> {
    let (host, port) = match text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, rest)) => {
            (host, Some(rest.strip_prefix(':').ok_or("the port needs a `:` in front")?))
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port = match port.filter(|port| !port.is_empty()) {
        Some(port) => Some(port.parse().map_err(|_| "the port is no number up to 65535")?),
        None => default,
    };
    let port = port.ok_or("it has no port: write `host:port`")?;
    let plain = |c: char| c.is_alphanumeric() || "-_.:%".contains(c);
    if !host.chars().all(plain) {
        return Err("the host has a character that no host has".to_owned());
    }
    Ok((if host.is_empty() { "localhost" } else { host }.to_owned(), port))
}

/// With `%2F` and the like replaced.
fn decoded(text: &str) -> Result<String, String> {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [byte, after @ ..] = rest {
        rest = after;
        let digit = |index: usize| char::from(*after.get(index)?).to_digit(16);
        match (*byte, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = after.get(2..).unwrap_or_default();
            }
            (byte, _, _) => bytes.push(byte),
        }
    }
    let text = OsString::from_vec(bytes);
    text.into_string().map_err(|_| "what `%` stands for in it is not UTF-8".to_owned())
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(variable) = &self.variable {
            write!(out, "`{variable}`: ")?;
        }
        let service = match self.service {
            Service::Listening => "a service",
            Service::Postgres { .. } => "PostgreSQL",
            Service::Mysql => "MySQL",
            Service::Redis => "Redis",
        };
        let places: Vec<String> = self.places.iter().map(Place::to_string).collect();
        write!(out, "{service} at {}", places.join(" or "))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Host(host, port) if host.contains(':') => write!(out, "[{host}]:{port}"),
            Place::Host(host, port) => write!(out, "{host}:{port}"),
            Place::Socket(path) => write!(out, "{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An address as messages show it, with what goes to PostgreSQL.
    #[track_caller]
    fn check(text: &str, expected: &str) {
        let environment = Environment::of_container(
            [
                ("DATABASE_URL", "postgres://me:s3$cret@db/app"),
                ("CACHE", "redis://cache"),
                ("EMPTY", ""),
                ("DB_HOST", "db"),
                ("DB_PORT", "tcp://172.17.0.5:5432"),
            ]
            .map(|(name, value)| (name.into(), value.into())),
        );
        let found = match entry(text, &environment) {
            Ok(Entry::Nothing(reason)) => format!("nothing: {reason}"),
            Err(reason) => format!("wrong: {reason}"),
            Ok(Entry::Target(target)) => match &target.service {
                Service::Postgres { user, database } => {
                    format!("{target} as {user} in {}", database.as_deref().unwrap_or("-"))
                }
                _ => target.to_string(),
            },
        };
        assert_eq!(found, expected, "{text}");
        assert!(!found.contains("cret"), "{found}");
    }

    #[test]
    fn plain() {
        check("tcp://cache:6379", "a service at cache:6379");
        check("cache:6379", "a service at cache:6379");
        check(":80", "a service at localhost:80");
        check("tcp://[::1]:80", "a service at [::1]:80");
        check("unix:/run/x.sock", "a service at /run/x.sock");
        check("unix:///run/x.sock?db=1", "a service at /run/x.sock");
        check("/run/x.sock", "a service at /run/x.sock");
        check("amqp://u:s3cret@mq//", "a service at mq:5672");
        check("amqp://a;amqp://b:1/", "a service at a:5672 or b:1");
        check("https://idp.example/x?y#z", "a service at idp.example:443");
        check("other://x:1/", "a service at x:1");
        check("rediss://:s3cret@cache:6380/0", "a service at cache:6380");
        check("TCP://Cache:1", "a service at Cache:1");
    }

    #[test]
    fn databases() {
        check("postgres://me:s3cret@db/app", "PostgreSQL at db:5432 as me in app");
        check("postgresql+psycopg://me@db:5433/app?x=y", "PostgreSQL at db:5433 as me in app");
        check("postgis://m%65:s3cret%40%2F@db/a%20b", "PostgreSQL at db:5432 as me in a b");
        check("postgres://db", "PostgreSQL at db:5432 as postgres in -");
        check("postgres://me:s3cr@et:1@db/app", "PostgreSQL at db:5432 as me in app");
        check(
            "postgres://%2Frun%2Fpostgresql/db",
            "PostgreSQL at /run/postgresql/.s.PGSQL.5432 as postgres in db",
        );
        check(
            "postgres://me@%2Frun%2Fpg:5433/db",
            "PostgreSQL at /run/pg/.s.PGSQL.5433 as me in db",
        );
        check(
            "postgres:///db?host=/run/pg&port=5433&user=me@x",
            "PostgreSQL at /run/pg/.s.PGSQL.5433 as me@x in db",
        );
        check(
            "postgres:///db",
            "PostgreSQL at /run/postgresql/.s.PGSQL.5432 or /tmp/.s.PGSQL.5432 as postgres in db",
        );
        check(
            "postgres://me:s3cret@a,b:5433,[::1]:1/db",
            "PostgreSQL at a:5432 or b:5433 or [::1]:1 as me in db",
        );
        check("postgres:///db?host=a,b&port=1,2", "PostgreSQL at a:1 or b:2 as postgres in db");
        check("postgres:///db?host=a,b&port=1", "PostgreSQL at a:1 or b:1 as postgres in db");
        check(
            r"host=db port=5433 user = me password='s3 \'cret' dbname=app",
            "PostgreSQL at db:5433 as me in app",
        );
        check("dbname=app host=/run/pg", "PostgreSQL at /run/pg/.s.PGSQL.5432 as postgres in app");
        check("mysql2://me:s3cret@db/app", "MySQL at db:3306");
        check("mysql://me@localhost/app?socket=/run/my.sock", "MySQL at /run/my.sock");
        check("mysql:///app", "MySQL at /run/mysqld/mysqld.sock or localhost:3306");
        check("mariadb://db:3307", "MySQL at db:3307");
        check("redis://", "Redis at localhost:6379");
        check("redis://me:s3cret@cache:1/2", "Redis at cache:1");
        check("redis+socket:///run/r.sock?virtual_host=0", "Redis at /run/r.sock");
        check("jdbc:postgresql://db/x", "PostgreSQL at db:5432 as postgres in x");
    }

    #[test]
    fn variables() {
        check("$DATABASE_URL", "`$DATABASE_URL`: PostgreSQL at db:5432 as me in app");
        check("${CACHE}", "`${CACHE}`: Redis at cache:6379");
        check("tcp://$DB_HOST:5432", "`tcp://$DB_HOST:5432`: a service at db:5432");
        check("$DB_PORT", "`$DB_PORT`: a service at 172.17.0.5:5432");
        check("postgres://me:s3cret@$DB_HOST/x", "PostgreSQL at db:5432 as me in x");
        check("host=$DB_HOST password=s3cret", "PostgreSQL at db:5432 as postgres in -");
        check("host=db password=s3cret://x", "PostgreSQL at db:5432 as postgres in -");
        check("$NOWHERE", "nothing: NOWHERE is not set");
        check("$EMPTY", "nothing: EMPTY is not set");
        check("sqlite3:db/production.sqlite3", "nothing: it is no service");
        check("sqlite:///db.sqlite3", "nothing: it is no service");
    }

    #[test]
    fn malformed() {
        let cut = "wrong: there is an `@` behind the host; in a password `/`, `?` and `#` are \
                   written as %2F, %3F and %23";
        check("postgres://me:12/s3cret@db/app", cut);
        check("postgres://me:12#s3cret@db/app", cut);
        check("postgres://me:12?s3cret@db/app", cut);
        check("postgres://me:s3cret", "wrong: the port is no number up to 65535");
        check("cache", "wrong: it has no port: write `host:port`");
        check("tcp://cache", "wrong: it has no port: write `host:port`");
        check("tcp://cache:66000", "wrong: the port is no number up to 65535");
        check("tcp://a b:1", "wrong: the host has a character that no host has");
        check("unix:x", "wrong: a socket is an absolute path: `unix:/path`");
        check("$", "wrong: no name follows `$`");
        check("${X", "wrong: a `${` has no `}`");
        check("host='s3cret", "wrong: a quoted value does not end");
        check(
            "mongodb+srv://me:s3cret@x/",
            "wrong: `mongodb+srv` asks DNS for the hosts; name one of them with \
             `tcp://host:port` instead",
        );
    }
}
