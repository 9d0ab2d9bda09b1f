//! The folder that layers are written into: entry by entry, and none outside of it.

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use ::tar::EntryType;
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, fchmod, linkat, mkdirat, mknodat,
    open, openat, openat2, readlinkat, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;

use super::names::{Extension, depth_is_good, from_root, joined, split};
use super::{AUFS, Lost, MAX_OPEN_FOLDERS, OPAQUE, Problem, Tar, UnpackError, Unpacked, WHITEOUT};
use crate::digest::Digest;
use crate::tree::OPAQUE_ATTRIBUTE;

/// A folder of the tree, and its path without links.
pub(super) type Folder = (Rc<OwnedFd>, Rc<[u8]>);

pub(super) struct Target {
    root: Rc<OwnedFd>,
    /// Folders by the path that led to them, for as long as no link on the way changes.
    open: HashMap<Vec<u8>, Folder>,
    /// Names of the paths, without links, that the layer at hand has written, where its whiteouts
    /// shall spare them.
    own: HashSet<[u8; 16]>,
    /// Whether whiteouts are written down instead of obeyed.
    pub(super) keeps_whiteouts: bool,
    pub(super) unpacked: Unpacked,
}

/// A short name of a path: a layer may have very many. That two have the same does not happen.
fn named(path: &[u8]) -> [u8; 16] {
    let mut name = [0; 16];
    name.copy_from_slice(&Digest::of(path).bytes()[..16]);
    name
}

impl Target {
    pub(super) fn new(root: &Path) -> Result<Target, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Target {
            root: Rc::new(open(root, flags, Mode::empty())?),
            open: HashMap::new(),
            own: HashSet::new(),
            keeps_whiteouts: false,
            unpacked: Unpacked::default(),
        })
    }

    /// Unpacks one layer; gives the digest of its tar and its length.
    pub(super) fn layer(
        &mut self,
        tar: Tar<impl Read>,
        layer: &Digest,
        max_entries: u64,
    ) -> Result<(Digest, u64), UnpackError> {
        let fail = |entry: &[u8], problem: Problem| {
            let (layer, entry) = (*layer, String::from_utf8_lossy(entry).into_owned());
            match problem {
                Problem::Refused(problem) => UnpackError::Refused { layer, entry, problem },
                Problem::Io(source) => UnpackError::Entry { layer, entry, source },
            }
        };
        let read = |source| UnpackError::Read { layer: *layer, source };
        self.own.clear();
        let mut archive = ::tar::Archive::new(tar);
        let mut extension = Extension::default();
        // Raw: the extension entries come to us, so that their size is checked before they are
        // read, and nobody else has an opinion on them.
        for entry in archive.entries().map_err(read)?.raw(true) {
            let mut entry = entry.map_err(read)?;
            let mut name = entry.path_bytes().into_owned();
            self.unpacked.entries += 1;
            if self.unpacked.entries > max_entries {
                return Err(fail(&name, Problem::Refused("is one entry too many")));
            }
            if extension.take(&mut entry).map_err(|problem| fail(&name, problem))? {
                continue;
            }
            let said = std::mem::take(&mut extension);
            name = said.path.unwrap_or(name);
            let link = said.link.or_else(|| entry.link_name_bytes().map(|link| link.into_owned()));
            let size = entry.header().entry_size().map_err(|error| fail(&name, error.into()))?;
            if said.size.is_some_and(|other| other != size) {
                return Err(fail(&name, Problem::Refused("has two names or two sizes")));
            }
            self.entry(&mut entry, &name, link, said.capabilities)
                .map_err(|problem| fail(&name, problem))?;
        }
        // What stands behind the end belongs to the digest.
        let mut tar = archive.into_inner();
        io::copy(&mut tar, &mut io::sink()).map_err(read)?;
        let (found, bytes, _) = tar.hasher.finish();
        Ok((found, bytes))
    }

    fn entry(
        &mut self,
        entry: &mut ::tar::Entry<'_, impl Read>,
        name: &[u8],
        link: Option<Vec<u8>>,
        capabilities: bool,
    ) -> Result<(), Problem> {
        let path = from_root(name)?;
        let header = entry.header();
        let (mode, mut kind) = (header.mode()?, header.entry_type());
        // As archives from before 1988 say it, and Go's readers still hear.
        if kind == EntryType::Regular && name.ends_with(b"/") {
            kind = EntryType::Directory;
        }
        if path.is_empty() {
            return match kind {
                EntryType::Directory => Ok(()),
                _ => Err(Problem::Refused("is the root and not a folder")),
            };
        }
        let (folder, last) = split(&path);
        if path.split(|&byte| byte == b'/').any(|part| part.starts_with(AUFS) && part != OPAQUE) {
            return Ok(());
        }
        if folder.split(|&byte| byte == b'/').any(|part| part.starts_with(WHITEOUT)) {
            return Err(Problem::Refused("lies in a whiteout"));
        }
        if last == OPAQUE {
            return if self.keeps_whiteouts {
                self.opaque(folder)
            } else {
                self.hide_content(folder)
            };
        }
        if let Some(victim) = last.strip_prefix(WHITEOUT) {
            return match victim {
                b"" | b"." | b".." => Err(Problem::Refused("is a whiteout of nothing")),
                victim if self.keeps_whiteouts => self.whiteout(&joined(folder, victim)),
                victim => self.hide(folder, victim),
            };
        }
        // Numbers that do not parse are not root's.
        let owned = header.uid().ok() != Some(0) || header.gid().ok() != Some(0);
        self.unpacked.owned += u64::from(owned);
        let link =
            || link.filter(|link| !link.is_empty()).ok_or(Problem::Refused("is a link to nothing"));
        match kind {
            EntryType::Directory => self.directory(&path, mode),
            EntryType::Regular | EntryType::Continuous => {
                let path = self.file(entry, &path, mode)?;
                if mode & 0o6000 != 0 {
                    self.unpacked.lost.insert(path, Lost::SetId);
                } else if capabilities {
                    self.unpacked.lost.insert(path, Lost::Capabilities);
                }
                Ok(())
            }
            EntryType::Symlink => self.symlink(&path, link()?),
            EntryType::Link => self.hard_link(&path, &from_root(&link()?)?),
            EntryType::Char | EntryType::Block => self.nothing(&path, Lost::Device),
            EntryType::Fifo => self.nothing(&path, Lost::Pipe),
            EntryType::GNUSparse => Err(Problem::Refused("is a sparse file")),
            _ => Err(Problem::Refused("is of a kind that no layer may contain")),
        }
    }

    fn directory(&mut self, path: &[u8], mode: u32) -> Result<(), Problem> {
        let (parent, name, path) = self.place(path)?;
        if kind_of(&parent, &name)? != Some(FileType::Directory) {
            self.remove(&parent, &name, &path)?;
            mkdirat(&*parent, &*name, Mode::from_raw_mode(0o700))?;
        }
        // A chmod, because mkdir is subject to the umask; nobody else writes here.
        fchmod(open_child(&parent, &name)?, Mode::from_raw_mode(mode & 0o1777 | 0o700))?;
        self.mark(&path);
        Ok(())
    }

    fn file(
        &mut self,
        entry: &mut ::tar::Entry<'_, impl Read>,
        path: &[u8],
        mode: u32,
    ) -> Result<Vec<u8>, Problem> {
        let (parent, name, path) = self.place(path)?;
        self.remove(&parent, &name, &path)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(&*parent, &*name, flags, Mode::from_raw_mode(0o600))?);
        if io::copy(entry, &mut file)? != entry.header().entry_size()? {
            return Err(Problem::Refused("is cut off"));
        }
        fchmod(&file, Mode::from_raw_mode(mode & 0o777))?;
        self.mark(&path);
        Ok(path)
    }

    fn symlink(&mut self, path: &[u8], to: Vec<u8>) -> Result<(), Problem> {
        let to = CString::new(to).map_err(|_| Problem::Refused("is a link with a NUL in it"))?;
        let (parent, name, path) = self.place(path)?;
        self.remove(&parent, &name, &path)?;
        symlinkat(&*to, &*parent, &*name)?;
        self.mark(&path);
        Ok(())
    }

    fn hard_link(&mut self, path: &[u8], to: &[u8]) -> Result<(), Problem> {
        let absent = Problem::Refused("is a hard link to something that is not there");
        let (to_folder, to_name) = split(to);
        let Some((to_parent, to_place)) = self.folder(to_folder)? else { return Err(absent) };
        let to_path = joined(&to_place, to_name);
        let to_name = c_string(to_name)?;
        let (parent, name, path) = self.place(path)?;
        match kind_of(&to_parent, &to_name)? {
            _ if to.is_empty() => return Err(Problem::Refused("is a hard link to the root")),
            Some(FileType::RegularFile) if path == to_path => {}
            Some(FileType::RegularFile) => {
                self.remove(&parent, &name, &path)?;
                linkat(&*to_parent, &*to_name, &*parent, &*name, AtFlags::empty())?;
            }
            // A tree knows hard links to files only; another link to the same is as good.
            Some(FileType::Symlink) if path != to_path => {
                let target = readlinkat(&*to_parent, &*to_name, Vec::new())?;
                self.remove(&parent, &name, &path)?;
                symlinkat(&*target, &*parent, &*name)?;
            }
            Some(_) => {
                return Err(Problem::Refused("is a hard link to something that is no file"));
            }
            None => return Err(absent),
        }
        self.mark(&path);
        Ok(())
    }

    /// What cannot be made still takes the place of what was there.
    fn nothing(&mut self, path: &[u8], lost: Lost) -> Result<(), Problem> {
        let (parent, name, path) = self.place(path)?;
        self.remove(&parent, &name, &path)?;
        self.unpacked.lost.insert(path, lost);
        Ok(())
    }

    /// A whiteout as overlayfs has it.
    fn whiteout(&mut self, path: &[u8]) -> Result<(), Problem> {
        let (parent, name, path) = self.place(path)?;
        self.remove(&parent, &name, &path)?;
        mknodat(&*parent, &*name, FileType::CharacterDevice, Mode::empty(), 0)?;
        self.mark(&path);
        Ok(())
    }

    /// A folder that hides what lower layers have in it, as overlayfs has it.
    fn opaque(&mut self, folder: &[u8]) -> Result<(), Problem> {
        let Some((found, _)) = self.folder(folder)? else { return Ok(()) };
        let found = open_child(&found, c".")?;
        rustix::fs::fsetxattr(&found, OPAQUE_ATTRIBUTE, b"y", rustix::fs::XattrFlags::empty())?;
        Ok(())
    }

    /// A whiteout: `name` in `folder` goes, but for what this layer has put there.
    fn hide(&mut self, folder: &[u8], name: &[u8]) -> Result<(), Problem> {
        let Some((parent, place)) = self.folder_if_any(folder)? else { return Ok(()) };
        let path = joined(&place, name);
        let name = c_string(name)?;
        if !self.own.contains(&named(&path)) {
            self.remove(&parent, &name, &path)
        } else if kind_of(&parent, &name)? == Some(FileType::Directory) {
            self.clear(&open_child(&parent, &name)?, &path)
        } else {
            Ok(())
        }
    }

    /// An opaque whiteout: what is in `folder` goes, but for what this layer has put there.
    fn hide_content(&mut self, folder: &[u8]) -> Result<(), Problem> {
        let Some((found, place)) = self.folder_if_any(folder)? else { return Ok(()) };
        let found = open_child(&found, c".")?;
        self.clear(&found, &place)
    }

    fn clear(&mut self, folder: &OwnedFd, path: &[u8]) -> Result<(), Problem> {
        for name in names(folder)? {
            let child = joined(path, name.to_bytes());
            if !self.own.contains(&named(&child)) {
                self.remove(folder, &name, &child)?;
            } else if kind_of(folder, &name)? == Some(FileType::Directory) {
                self.clear(&open_child(folder, &name)?, &child)?;
            }
        }
        Ok(())
    }

    /// Removes what is called `name` in `parent`, if anything is; `path` is both from the root.
    fn remove(&mut self, parent: &OwnedFd, name: &CStr, path: &[u8]) -> Result<(), Problem> {
        self.forget(path);
        match kind_of(parent, name)? {
            None => return Ok(()),
            Some(FileType::Directory) => {
                self.open.clear();
                remove_folder(parent, name)?;
            }
            // The way to an open folder may have led through it.
            Some(FileType::Symlink) => {
                self.open.clear();
                unlinkat(parent, name, AtFlags::empty())?;
            }
            Some(_) => unlinkat(parent, name, AtFlags::empty())?,
        }
        Ok(())
    }

    /// What was lost at `path` and below is not missed any more.
    fn forget(&mut self, path: &[u8]) {
        let below = joined(path, b"");
        let lost = self.unpacked.lost.range(path.to_vec()..).map(|(path, _)| path);
        let gone: Vec<Vec<u8>> = lost
            .take_while(|other| other.starts_with(path))
            .filter(|other| *other == path || other.starts_with(&below))
            .cloned()
            .collect();
        for path in gone {
            self.unpacked.lost.remove(&path);
        }
    }

    /// Notes that this layer has written `path`, and so the folders that lead there.
    fn mark(&mut self, path: &[u8]) {
        let mut path = path;
        while !self.keeps_whiteouts && !path.is_empty() && self.own.insert(named(path)) {
            path = split(path).0;
        }
    }

    /// Where `path` is to be written: its folder, made if need be, its last part, and its path
    /// without links.
    fn place(&mut self, path: &[u8]) -> Result<(Rc<OwnedFd>, CString, Vec<u8>), Problem> {
        let (folder, name) = split(path);
        let (parent, place) = match self.folder(folder)? {
            Some(found) => found,
            None => {
                // Layers of some tools do not list the folders.
                let (above, missing, path) = self.place(folder)?;
                match mkdirat(&*above, &*missing, Mode::from_raw_mode(0o755)) {
                    Ok(()) => {}
                    Err(Errno::EXIST) => {
                        return Err(Problem::Refused("lies behind a link that leads nowhere"));
                    }
                    Err(error) => return Err(error.into()),
                }
                fchmod(open_child(&above, &missing)?, Mode::from_raw_mode(0o755))?;
                self.mark(&path);
                self.folder(folder)?.ok_or(Errno::NOENT)?
            }
        };
        let path = joined(&place, name);
        depth_is_good(&path)?;
        Ok((parent, c_string(name)?, path))
    }

    /// The folder at `path`, or `None` when there is none; a file there is an error.
    fn folder(&mut self, path: &[u8]) -> Result<Option<Folder>, Problem> {
        if path.is_empty() {
            return Ok(Some((Rc::clone(&self.root), Rc::from(&b""[..]))));
        }
        if let Some(found) = self.open.get(path) {
            return Ok(Some(found.clone()));
        }
        let found = match self.resolve(path, ResolveFlags::NO_SYMLINKS) {
            Ok(found) => (Rc::new(found), Rc::from(path)),
            Err(Errno::LOOP) => match self.resolve(path, ResolveFlags::empty()) {
                Ok(found) => {
                    let place = self.path_of(&found)?;
                    (Rc::new(found), Rc::from(place))
                }
                Err(Errno::NOENT) => return Ok(None),
                Err(Errno::NOTDIR) => return Err(NOT_A_FOLDER),
                Err(Errno::LOOP) => return Err(Problem::Refused("lies behind links in a circle")),
                Err(error) => return Err(error.into()),
            },
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::NOTDIR) => return Err(NOT_A_FOLDER),
            Err(error) => return Err(error.into()),
        };
        if self.open.len() >= MAX_OPEN_FOLDERS {
            self.open.clear();
        }
        self.open.insert(path.to_vec(), found.clone());
        Ok(Some(found))
    }

    /// As [`Target::folder`], where a file in the way means that there is nothing to hide.
    fn folder_if_any(&mut self, path: &[u8]) -> Result<Option<Folder>, Problem> {
        match self.folder(path) {
            Err(Problem::Refused(_)) => Ok(None),
            other => other,
        }
    }

    fn resolve(&self, path: &[u8], more: ResolveFlags) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | more;
        loop {
            // The kernel gives up on `..` when anybody on the machine renames in that moment.
            match openat2(&*self.root, path, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN) => {}
                other => return other,
            }
        }
    }

    /// The path of an open folder from the root, without links.
    fn path_of(&self, folder: &OwnedFd) -> Result<Vec<u8>, Problem> {
        let path = |fd: &OwnedFd| {
            let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
            readlinkat(CWD, link.as_str(), Vec::new()).map(CString::into_bytes)
        };
        let (root, path) = (path(&self.root)?, path(folder)?);
        match path.strip_prefix(root.as_slice()) {
            Some([]) => Ok(Vec::new()),
            Some([b'/', rest @ ..]) => Ok(rest.to_vec()),
            _ if root == b"/" => Ok(path[1..].to_vec()),
            _ => Err(Problem::Refused("leads outside of the root")),
        }
    }
}

pub(super) const NOT_A_FOLDER: Problem = Problem::Refused("lies in something that is not a folder");

pub(super) fn c_string(name: &[u8]) -> Result<CString, Problem> {
    CString::new(name).map_err(|_| Problem::Refused("has a NUL in its name"))
}

pub(super) fn kind_of(parent: &OwnedFd, name: &CStr) -> Result<Option<FileType>, Errno> {
    match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(Some(FileType::from_raw_mode(found.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn open_child(parent: &OwnedFd, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

pub(super) fn names(folder: &OwnedFd) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        if ![c".", c".."].contains(&entry.file_name()) {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

/// Removes a folder with all in it; links are removed, not followed.
pub(super) fn remove_folder(parent: &OwnedFd, name: &CStr) -> Result<(), Errno> {
    let folder = open_child(parent, name)?;
    for child in names(&folder)? {
        match unlinkat(&folder, &*child, AtFlags::empty()) {
            Err(Errno::ISDIR) => remove_folder(&folder, &child)?,
            other => other?,
        }
    }
    drop(folder);
    unlinkat(parent, name, AtFlags::REMOVEDIR)
}
