//! Replaces a file whole or not at all, also when the machine loses power.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

/// Replaces the file at `path` by what `write` writes.
///
/// The content goes to `<path>.new`, which is made anew: a link or a file that stands there in its place is removed, never
/// followed. Then it is synced, renamed over `path`, and the directory is synced: after a power loss the old or the new
/// content is there, whole.
pub fn replace(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> io::Result<()> {
    exchange(path, write)?;
    sync_directory(path)
}

/// Replaces files of one directory by these texts, each as [`replace`] does; the directory is synced once, at the end.
pub fn replace_all<'a>(texts: impl IntoIterator<Item = (PathBuf, &'a str)>) -> io::Result<()> {
    let mut last = None;
    for (path, text) in texts {
        exchange(&path, |file| file.write_all(text.as_bytes()))?;
        last = Some(path);
    }
    last.map_or(Ok(()), |path| sync_directory(&path))
}

fn exchange(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> io::Result<()> {
    let new = temporary(path);
    let mut file = BufWriter::new(create(&new)?);
    let written = write(&mut file).and_then(|()| file.flush()).and_then(|()| file.get_ref().sync_all());
    let replaced = written.and_then(|()| fs::rename(&new, path));
    if replaced.is_err() {
        // What is half written is of no use; the error that counts is the first.
        let _ = fs::remove_file(&new);
    }
    replaced
}

/// `<path>.new`
fn temporary(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".new");
    name.into()
}

fn create(new: &Path) -> io::Result<File> {
    let open = || {
        let flags = (OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC).bits();
        OpenOptions::new().write(true).create_new(true).custom_flags(flags).open(new)
    };
    match open() {
        // Left behind by an earlier life, or put there by another program: either way it goes.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(new)?;
            open()
        }
        opened => opened,
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_or_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        replace(&path, |file| file.write_all(b"one")).unwrap();
        let failed = replace(&path, |file| {
            file.write_all(b"tw")?;
            Err(io::Error::other("the disk is full"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "the disk is full");
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
        replace(&path, |file| file.write_all(b"two")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
    }

    #[test]
    fn what_stands_at_the_temporary_name_is_never_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, victim) = (folder.path().join("a"), folder.path().join("victim"));
        fs::write(&victim, "mine").unwrap();
        std::os::unix::fs::symlink(&victim, folder.path().join("a.new")).unwrap();
        replace(&path, |file| file.write_all(b"one")).unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"mine");
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert!(!fs::symlink_metadata(&path).unwrap().is_symlink());
    }

    #[test]
    fn a_temporary_file_of_an_earlier_life_is_in_no_one_s_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(folder.path().join("a.new"), "half").unwrap();
        replace(&path, |file| file.write_all(b"one")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one");
    }
}
