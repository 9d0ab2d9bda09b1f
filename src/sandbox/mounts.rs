//! The file system of a step, made of mounts in a namespace of its own.
//!
//! ```text
//! /            overlay: the spec's layers below, scratch/upper above
//! /tmp         scratch/tmp, empty and not part of any output
//! /dev         null, zero, full, random, urandom, tty, shm, pts, fd
//! /proc        of the step's own pid namespace
//! ```

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use super::Spec;
use super::child::failed;

/// Mounts everything and makes it `/`.
pub(super) fn set_up(spec: &Spec) -> Result<(), String> {
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(failed("making mounts private"))?;
    let root = spec.scratch.join("root");
    overlay(spec, &root)?;
    let at = |path: &str| root.join(path);
    for folder in ["proc", "dev", "tmp"] {
        place(&root, Path::new(folder), true)?;
    }
    process_files(&at("proc"))?;
    devices(&at("dev"))?;
    bind(&spec.scratch.join("tmp"), &at("tmp"), true)?;
    for entry in &spec.binds {
        let target = place(&root, &entry.to, entry.from.is_dir())?;
        bind(&entry.from, &target, entry.writable)?;
    }
    rustix::process::chdir(&root).map_err(failed("chdir"))?;
    rustix::process::pivot_root(".", ".").map_err(failed("pivot_root"))?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(failed("unmounting the old root"))?;
    rustix::process::chdir("/").map_err(failed("chdir"))
}

fn overlay(spec: &Spec, root: &Path) -> Result<(), String> {
    // One option at a time: the classic option string is cut at one page.
    use rustix::mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create,
        fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
    };
    let context =
        fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed("fsopen (overlay)"))?;
    let set = |name: &str, path: &Path| {
        fsconfig_set_string(context.as_fd_ref(), name, path.as_os_str().as_bytes()).map_err(
            |error| {
                format!("overlay option {name}={}: {}", path.display(), std::io::Error::from(error))
            },
        )
    };
    use FdRef as _;
    // Added top to bottom.
    let mut lowers: Vec<&Path> =
        spec.layers.iter().rev().map(std::path::PathBuf::as_path).collect();
    let empty = spec.scratch.join("empty");
    if lowers.is_empty() {
        fs::create_dir_all(&empty)
            .map_err(|error| format!("making `{}`: {error}", empty.display()))?;
        lowers.push(&empty);
    }
    for lower in lowers {
        set("lowerdir+", lower)?;
    }
    set("upperdir", &spec.scratch.join("upper"))?;
    set("workdir", &spec.scratch.join("work"))?;
    fsconfig_set_flag(context.as_fd_ref(), "userxattr")
        .map_err(failed("overlay option userxattr"))?;
    // The upper layer is scratch: synced once, by the store, if it is kept.
    fsconfig_set_flag(context.as_fd_ref(), "volatile")
        .map_err(failed("overlay option volatile"))?;
    fsconfig_create(context.as_fd_ref()).map_err(failed("mounting the overlay"))?;
    let mount =
        fsmount(context.as_fd_ref(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
            .map_err(failed("fsmount (overlay)"))?;
    move_mount(&mount, "", rustix::fs::CWD, root, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(failed("move_mount (overlay)"))
}

/// Makes the folder or file at `path` below `root` where it is missing, so that
/// something can be bound to it. A link on the way, which an input may have put
/// there, is replaced: it would lead out of the root, as seen from here.
pub(super) fn place(root: &Path, path: &Path, folder: bool) -> Result<PathBuf, String> {
    let mut full = root.to_owned();
    let parts: Vec<_> = path
        .components()
        .filter_map(|part| if let Component::Normal(name) = part { Some(name) } else { None })
        .collect();
    for (number, name) in parts.iter().enumerate() {
        full.push(name);
        let failed = |error: std::io::Error| format!("making `{}`: {error}", full.display());
        let wants_folder = folder || number + 1 < parts.len();
        match fs::symlink_metadata(&full) {
            Ok(there) if there.is_dir() == wants_folder && !there.is_symlink() => continue,
            Ok(there) if there.is_dir() => fs::remove_dir_all(&full).map_err(failed)?,
            Ok(_) => fs::remove_file(&full).map_err(failed)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        if wants_folder {
            fs::create_dir(&full).map_err(failed)?;
        } else {
            File::create(&full).map_err(failed)?;
        }
    }
    Ok(full)
}

/// The step's own processes; what is the machine's is read only or hidden, as
/// root in the sandbox may be root outside.
fn process_files(proc: &Path) -> Result<(), String> {
    rustix::mount::mount(
        "proc",
        proc,
        "proc",
        MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
        None,
    )
    .map_err(failed("mounting /proc"))?;
    for name in ["sys", "irq", "bus", "fs", "acpi", "scsi", "sysrq-trigger"] {
        let path = proc.join(name);
        if path.exists() {
            bind(&path, &path, false)?;
        }
    }
    for name in ["kcore", "keys", "timer_list", "sched_debug"] {
        let path = proc.join(name);
        if path.exists() {
            bind(Path::new("/dev/null"), &path, false)?;
        }
    }
    Ok(())
}

/// Shortens the repeated `as_fd` below.
trait FdRef {
    fn as_fd_ref(&self) -> std::os::fd::BorrowedFd<'_>;
}

impl<T: std::os::fd::AsFd> FdRef for T {
    fn as_fd_ref(&self) -> std::os::fd::BorrowedFd<'_> {
        self.as_fd()
    }
}

fn devices(dev: &Path) -> Result<(), String> {
    rustix::mount::mount("tmpfs", dev, "tmpfs", MountFlags::NOSUID, Some(c"mode=0755"))
        .map_err(failed("mounting /dev"))?;
    for name in ["null", "zero", "full", "random", "urandom", "tty"] {
        let target = dev.join(name);
        File::create(&target).map_err(|error| format!("making `/dev/{name}`: {error}"))?;
        // Read only keeps the node's mode and times; what it reads and writes is
        // not the file system's.
        bind(&Path::new("/dev").join(name), &target, false)?;
    }
    for name in ["shm", "pts"] {
        folder_at(&dev.join(name))?;
    }
    rustix::mount::mount(
        "tmpfs",
        dev.join("shm"),
        "tmpfs",
        MountFlags::NOSUID | MountFlags::NODEV,
        Some(c"mode=1777"),
    )
    .map_err(failed("mounting /dev/shm"))?;
    // Terminals are a comfort: a nested container may not allow a devpts.
    if rustix::mount::mount(
        "devpts",
        dev.join("pts"),
        "devpts",
        MountFlags::NOSUID | MountFlags::NOEXEC,
        Some(c"newinstance,ptmxmode=0666,mode=0620"),
    )
    .is_ok()
    {
        symlink("pts/ptmx", dev.join("ptmx"))
            .map_err(|error| format!("making `/dev/ptmx`: {error}"))?;
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        symlink(target, dev.join(name))
            .map_err(|error| format!("making `/dev/{name}`: {error}"))?;
    }
    Ok(())
}

fn folder_at(path: &Path) -> Result<(), String> {
    fs::create_dir_all(path).map_err(|error| format!("making `{}`: {error}", path.display()))
}

fn bind(from: &Path, to: &Path, writable: bool) -> Result<(), String> {
    let describe = |error: rustix::io::Errno| {
        format!(
            "binding `{}` to `{}`: {}",
            from.display(),
            to.display(),
            std::io::Error::from(error)
        )
    };
    rustix::mount::mount_bind_recursive(from, to).map_err(describe)?;
    if writable {
        return Ok(());
    }
    // The flags that the source mount carries may not be dropped in a user
    // namespace, so they are read and given again.
    let flags = rustix::fs::statvfs(to).map_err(describe)?.f_flag;
    let mut again = MountFlags::BIND | MountFlags::RDONLY;
    for (have, give) in [
        (rustix::fs::StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (rustix::fs::StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (rustix::fs::StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (rustix::fs::StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (rustix::fs::StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
        (rustix::fs::StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
    ] {
        if flags.contains(have) {
            again |= give;
        }
    }
    rustix::mount::mount_remount(to, again, "").map_err(describe)
}
