//! The guest's root file system: a newc cpio archive, built in memory.
//!
//! It is not compressed: under TCG, decompression costs more time than copying.

use std::{
    collections::BTreeSet,
    fs,
    io::{Seek, Write},
    os::unix::fs::PermissionsExt,
    path::{Component, Path},
};

use anyhow::{Context, Result, bail};
use cpio::newc;

const DIRECTORY: u32 = 0o040_755;
const SYMLINK: u32 = 0o120_777;
const REGULAR: u32 = 0o100_000;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// An archive under construction.
#[derive(Debug)]
pub struct Initramfs<W> {
    out: W,
    inode: u32,
    directories: BTreeSet<String>,
}

impl<W: Write + Seek> Initramfs<W> {
    /// Starts an archive with `/dev/console`: the kernel opens it for init before devtmpfs can be mounted.
    pub fn new(out: W) -> Result<Self> {
        let mut archive = Self { out, inode: 0, directories: BTreeSet::new() };
        for dir in ["dev", "proc", "sys", "run", "tmp", "root", "etc", "bin", "sbin", "usr/bin", "usr/sbin", "var"] {
            archive.directory(dir)?;
        }
        let console = newc::Builder::new("dev/console")
            .ino(archive.next())
            .mode(CHARACTER_DEVICE)
            .nlink(1)
            .rdev_major(5)
            .rdev_minor(1);
        archive.entry(console, &[])?;
        Ok(archive)
    }

    /// Adds a directory and those above it, once.
    pub fn directory(&mut self, path: &str) -> Result<()> {
        let path = relative(path)?;
        let mut so_far = String::new();
        for part in path.split('/').filter(|p| !p.is_empty()) {
            if !so_far.is_empty() {
                so_far.push('/');
            }
            so_far.push_str(part);
            if self.directories.insert(so_far.clone()) {
                let header = newc::Builder::new(&so_far).ino(self.next()).mode(DIRECTORY).nlink(2);
                self.entry(header, &[])?;
            }
        }
        Ok(())
    }

    /// Adds a file with the permissions `mode`.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        let path = self.place(path)?;
        let header = newc::Builder::new(&path).ino(self.next()).mode(REGULAR | (mode & 0o7777)).nlink(1);
        self.entry(header, content)
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) -> Result<()> {
        let path = self.place(path)?;
        let header = newc::Builder::new(&path).ino(self.next()).mode(SYMLINK).nlink(1);
        self.entry(header, target.as_bytes())
    }

    /// Adds a file of the host, or a directory with all that is in it. Links are followed.
    pub fn copy(&mut self, from: &Path, to: &str) -> Result<()> {
        let describe = || format!("cannot put {} into the guest", from.display());
        let metadata = fs::metadata(from).with_context(describe)?;
        if metadata.is_dir() {
            self.directory(to)?;
            let mut entries =
                fs::read_dir(from).and_then(Iterator::collect::<Result<Vec<_>, _>>).with_context(describe)?;
            entries.sort_by_key(fs::DirEntry::file_name);
            for entry in entries {
                let name = entry.file_name();
                let name = name.to_str().with_context(|| format!("{} is not UTF-8", entry.path().display()))?;
                self.copy(&entry.path(), &format!("{to}/{name}"))?;
            }
            return Ok(());
        }
        let content = fs::read(from).with_context(describe)?;
        self.file(to, metadata.permissions().mode(), &content)
    }

    /// Adds a directory of the host as it is: links stay links, and what is neither file, link nor directory stays out.
    pub fn tree(&mut self, from: &Path, to: &str) -> Result<()> {
        let describe = || format!("cannot put {} into the guest", from.display());
        self.directory(to)?;
        let mut entries = fs::read_dir(from).and_then(Iterator::collect::<Result<Vec<_>, _>>).with_context(describe)?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            let name = entry.file_name();
            let name = name.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?;
            let to = format!("{to}/{name}");
            let kind = entry.file_type().with_context(describe)?;
            if kind.is_dir() {
                self.tree(&path, &to)?;
            } else if kind.is_symlink() {
                let target = fs::read_link(&path).with_context(describe)?;
                self.symlink(&to, target.to_str().with_context(|| format!("{} is not UTF-8", target.display()))?)?;
            } else if kind.is_file() {
                self.copy(&path, &to)?;
            }
        }
        Ok(())
    }

    /// Ends the archive.
    pub fn finish(self) -> Result<W> {
        newc::trailer(self.out).context("cannot write the initramfs")
    }

    /// Makes room for an entry: its directory comes before it.
    fn place(&mut self, path: &str) -> Result<String> {
        let path = relative(path)?;
        if let Some((dir, _)) = path.rsplit_once('/') {
            self.directory(dir)?;
        }
        Ok(path)
    }

    fn next(&mut self) -> u32 {
        self.inode += 1;
        self.inode
    }

    fn entry(&mut self, header: newc::Builder, content: &[u8]) -> Result<()> {
        let size = u32::try_from(content.len()).context("a file for the guest is larger than 4 GiB")?;
        let mut writer = header.write(&mut self.out, size);
        writer.write_all(content).and_then(|()| writer.finish()).context("cannot write the initramfs")?;
        Ok(())
    }
}

/// A guest path as the archive wants it: no leading slash, nothing that climbs.
fn relative(path: &str) -> Result<String> {
    let mut parts = Vec::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(part) => parts.push(part.to_str().context("a guest path is not UTF-8")?),
            Component::RootDir | Component::CurDir => {}
            _ => bail!("guest path {path} climbs out of the guest's root"),
        }
    }
    if parts.is_empty() {
        bail!("guest path {path:?} names nothing");
    }
    Ok(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        io::{Cursor, Read},
    };

    use super::*;

    /// Name → mode and content.
    type Files = BTreeMap<String, (u32, Vec<u8>)>;

    /// Reads an archive back: what is in it, and the names in order.
    fn unpack(archive: Vec<u8>) -> (Files, Vec<String>) {
        let (mut files, mut order) = (BTreeMap::new(), Vec::new());
        let mut input = Cursor::new(archive);
        loop {
            let mut reader = newc::Reader::new(input).unwrap();
            if reader.entry().is_trailer() {
                return (files, order);
            }
            let (name, mode) = (reader.entry().name().to_owned(), reader.entry().mode());
            let mut content = Vec::new();
            reader.read_to_end(&mut content).unwrap();
            order.push(name.clone());
            files.insert(name, (mode, content));
            input = reader.finish().unwrap();
        }
    }

    #[test]
    fn files_links_and_modes_come_back_as_they_went_in() {
        let mut archive = Initramfs::new(Cursor::new(Vec::new())).unwrap();
        archive.file("/init", 0o755, b"program").unwrap();
        archive.file("opt/deep/er/data", 0o640, &[7; 4097]).unwrap();
        archive.symlink("/bin/sh", "busybox").unwrap();
        let (files, order) = unpack(archive.finish().unwrap().into_inner());
        assert_eq!(files["init"], (0o100_755, b"program".to_vec()));
        assert_eq!(files["opt/deep/er/data"], (0o100_640, vec![7; 4097]));
        assert_eq!(files["bin/sh"], (0o120_777, b"busybox".to_vec()));
        assert_eq!(files["dev/console"].0, 0o020_600);
        let at = |name: &str| order.iter().position(|n| n == name).unwrap();
        assert!(at("opt") < at("opt/deep") && at("opt/deep/er") < at("opt/deep/er/data"));
        assert_eq!(order.iter().filter(|n| *n == "bin").count(), 1);
    }

    #[test]
    fn a_directory_of_the_host_is_copied_whole() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("sub/a"), "A").unwrap();
        fs::write(dir.path().join("b"), "B").unwrap();
        let mut archive = Initramfs::new(Cursor::new(Vec::new())).unwrap();
        archive.copy(dir.path(), "/data").unwrap();
        let (files, _) = unpack(archive.finish().unwrap().into_inner());
        assert_eq!(files["data/sub/a"].1, b"A");
        assert_eq!(files["data/b"].1, b"B");
    }

    #[test]
    fn a_tree_keeps_its_links_even_those_that_lead_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("usr")).unwrap();
        fs::write(dir.path().join("usr/a"), "A").unwrap();
        std::os::unix::fs::symlink("usr", dir.path().join("bin")).unwrap();
        std::os::unix::fs::symlink("/nowhere", dir.path().join("dangling")).unwrap();
        let mut archive = Initramfs::new(Cursor::new(Vec::new())).unwrap();
        archive.tree(dir.path(), "/debian").unwrap();
        let (files, _) = unpack(archive.finish().unwrap().into_inner());
        assert_eq!(files["debian/usr/a"].1, b"A");
        assert_eq!(files["debian/bin"], (0o120_777, b"usr".to_vec()));
        assert_eq!(files["debian/dangling"].1, b"/nowhere");
        assert!(!files.contains_key("debian/bin/a"));
    }

    #[test]
    fn a_path_that_climbs_is_refused() {
        let mut archive = Initramfs::new(Cursor::new(Vec::new())).unwrap();
        assert!(archive.file("/../etc/passwd", 0o644, b"").is_err());
        assert!(archive.file("/", 0o644, b"").is_err());
    }
}
