//! Where a build writes its image, and the time that the image carries.

use std::collections::BTreeSet;
use std::env;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use super::failure::{Failure, Kind};
use crate::daemon::{self, DaemonError};
use crate::image::{Image, archive as image_archive, layout};
use crate::registry::Reference;
use crate::store::Store;
use crate::tree::STAMP;

/// Where an image is written to.
pub(super) struct Target {
    pub(super) text: String,
    kind: TargetKind,
    pub(super) path: PathBuf,
}

enum TargetKind {
    Layout,
    Archive(image_archive::Kind),
    /// Docker Engine on this machine; the path is its socket.
    Daemon,
}

impl Target {
    pub(super) fn parse(text: &str) -> Result<Target, Failure> {
        let (kind, path) = text.split_once(':').unwrap_or((text, ""));
        let kind = match kind {
            "oci" => TargetKind::Layout,
            "oci-archive" => TargetKind::Archive(image_archive::Kind::Oci),
            "docker-archive" => TargetKind::Archive(image_archive::Kind::Docker),
            "docker-daemon" => TargetKind::Daemon,
            _ => {
                return Err(Failure::usage(format!("`{text}` is no output")).advise(
                    "write oci:FOLDER, oci-archive:FILE, docker-archive:FILE or docker-daemon",
                ));
            }
        };
        if matches!(kind, TargetKind::Daemon) && path.is_empty() {
            return Ok(Target { text: text.to_owned(), kind, path: docker_socket()? });
        }
        if path.is_empty() {
            return Err(Failure::usage(format!("output `{text}` names no path")));
        }
        Ok(Target { text: text.to_owned(), kind, path: PathBuf::from(path) })
    }

    pub(super) fn write(
        &self,
        image: &Image,
        store: &Store,
        tags: &[Reference],
    ) -> Result<(), Failure> {
        match self.kind {
            TargetKind::Layout => layout::write(image, store, &self.path, &tag_names(tags))?,
            TargetKind::Archive(kind) => {
                let names = match kind {
                    image_archive::Kind::Docker => tags.iter().map(ToString::to_string).collect(),
                    image_archive::Kind::Oci => tag_names(tags),
                };
                image_archive::write(image, store, &self.path, kind, &names)?;
            }
            TargetKind::Daemon => {
                let names: Vec<String> = tags.iter().map(ToString::to_string).collect();
                daemon::load(&self.path, image, store, &names)?;
            }
        }
        Ok(())
    }
}

/// The socket of Docker Engine, as docker itself finds it.
fn docker_socket() -> Result<PathBuf, Failure> {
    match env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty()) {
        None => Ok(PathBuf::from(daemon::SOCKET)),
        Some(host) => match host.strip_prefix("unix://") {
            Some(path) => Ok(PathBuf::from(path)),
            None => Err(Failure::usage(format!(
                "DOCKER_HOST is `{host}`, and forge loads into Docker through a Unix socket only"
            ))
            .advise("name the socket (`--output docker-daemon:PATH`), or push to a registry that Docker pulls from")),
        },
    }
}

/// What to do about a daemon that cannot be reached, or hangs up.
impl From<DaemonError> for Failure {
    fn from(error: DaemonError) -> Failure {
        let failure = Failure::of(Kind::Network, &error);
        match error {
            DaemonError::Unreachable { source, .. }
                if source.kind() == ErrorKind::PermissionDenied =>
            {
                failure.advise("the socket is not for this user: become a member of the group that owns it (`docker`), or write `--output docker-archive:FILE`")
            }
            DaemonError::Unreachable { .. } => {
                failure.advise("is Docker running? DOCKER_HOST or `--output docker-daemon:PATH` names another socket; `--output docker-archive:FILE` needs none")
            }
            DaemonError::Silent { .. } => {
                failure.advise("is it Docker's socket, and does `docker version` answer? If not, restart Docker; `--output docker-archive:FILE` needs none")
            }
            DaemonError::Broken { .. } | DaemonError::CutOff { .. } => {
                failure.advise("Docker may have been restarted, or may have no memory or disk left: its own log says (`journalctl -u docker`); `docker images` shows whether the image is there. Then build again, which only loads it again")
            }
            _ => failure,
        }
    }
}

/// The tags by which a layout names the image; a layout knows no repositories.
fn tag_names(tags: &[Reference]) -> Vec<String> {
    let names: BTreeSet<String> = tags.iter().map(|tag| tag.tag.clone()).collect();
    if names.is_empty() { vec!["latest".to_owned()] } else { names.into_iter().collect() }
}

/// The time of creation as RFC 3339.
pub(super) fn created(argument: Option<&str>) -> Result<String, Failure> {
    const YEAR_10000: i64 = 253_402_300_800;
    let variable = env::var("SOURCE_DATE_EPOCH").ok().filter(|text| !text.is_empty());
    let (text, origin) = match (argument, variable.as_deref()) {
        (Some(text), _) => (text, "--created"),
        (None, Some(text)) => (text, "SOURCE_DATE_EPOCH"),
        (None, None) => ("fixed", ""),
    };
    let now = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .ok()
            .and_then(|time| i64::try_from(time.as_secs()).ok())
    };
    let seconds = match text {
        "fixed" => Some(STAMP),
        "now" if origin == "--created" => now(),
        text => text.parse().ok().filter(|seconds| (0..YEAR_10000).contains(seconds)),
    };
    let seconds = seconds.ok_or_else(|| {
        Failure::usage(format!("{origin}: `{text}` is no time"))
            .advise("write `fixed`, `now` or seconds since 1970")
    })?;
    Ok(rfc3339(seconds))
}

/// Civil date from days since 1970 (Howard Hinnant's algorithm for the
/// proleptic Gregorian calendar).
fn rfc3339(seconds: i64) -> String {
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn times() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (STAMP, "1980-01-01T00:00:01Z"),
            (951_827_696, "2000-02-29T12:34:56Z"),
            (4_102_444_800, "2100-01-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(seconds), expected);
        }
    }

    #[test]
    fn outputs() {
        assert!(Target::parse("oci:x").is_ok());
        assert!(
            Target::parse("docker-archive:/a:b")
                .is_ok_and(|target| target.path == Path::new("/a:b"))
        );
        for wrong in ["oci", "oci:", "tar:x", ""] {
            assert!(Target::parse(wrong).is_err(), "{wrong}");
        }
    }
}
