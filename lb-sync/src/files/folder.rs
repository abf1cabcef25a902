//! The directory of the sections: what is in it, what HAProxy is shown, and what is renamed into place.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use registry::name::ServiceName;

use super::error::FilesError;
use super::ownership::Found;
use super::template::MARK;
use crate::plan::routes::Routes;
use haproxy::answer::maps::ROUTES;

/// HAProxy reads files in the order of their names: these come after `00-…`, where base files are.
const PREFIX: &str = "50-";
const SUFFIX: &str = ".cfg";
/// What HAProxy is shown. It reads no hidden files, nor directories.
const CANDIDATE: &str = ".candidate";
/// Most files that are looked at.
const FILES_MAX: usize = 20_000;
/// Largest section that is read: 10,000 servers are 2 MB.
const FILE_MAX: u64 = 64 * 1024 * 1024;

/// The directory.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    /// Absolute, and of characters that mean nothing in HAProxy's configuration.
    dir: PathBuf,
}

/// What is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Scan {
    /// Files with the name of a service's section.
    pub(super) sections: BTreeMap<ServiceName, Found>,
    /// All that HAProxy reads.
    pub(super) names: Vec<OsString>,
}

impl Folder {
    /// Makes `dir` if need be, and tries whether it can be written to.
    pub(super) fn open(dir: &Path) -> Result<Self, FilesError> {
        let failed = |source| FilesError::Folder { dir: dir.to_owned(), source };
        let absolute = std::path::absolute(dir).map_err(failed)?;
        let plain = |c: char| c.is_ascii_alphanumeric() || "/_.-".contains(c);
        if !absolute.to_str().is_some_and(|path| path.chars().all(plain)) {
            return Err(FilesError::FolderName(absolute));
        }
        fs::create_dir_all(&absolute).map_err(failed)?;
        let folder = Self { dir: absolute };
        folder.clear_candidate().and_then(|()| fs::create_dir(folder.candidate())).map_err(failed)?;
        folder.clear_candidate().map_err(failed)?;
        // A frontend that names the map could not be started without it.
        create(&folder.routes_map()).map_err(failed)?;
        Ok(folder)
    }

    /// The directory itself.
    pub(super) fn path(&self) -> &Path {
        &self.dir
    }

    /// Where the section of `service` stands.
    pub(super) fn section(&self, service: &ServiceName) -> PathBuf {
        self.dir.join(file_name(service))
    }

    /// The map of those instances of `service` that are restarting. A section names it, so that it must be there.
    pub(super) fn restarting_map(&self, service: &ServiceName) -> PathBuf {
        self.dir.join(format!("{service}.restarting.map"))
    }

    /// The map of routes.
    pub(super) fn routes_map(&self) -> PathBuf {
        self.dir.join(ROUTES)
    }

    /// Writes the route map. Returns `false` without writing if lb-sync did not create the file.
    pub(super) fn write_routes_map(&self, routes: &Routes) -> io::Result<bool> {
        let path = self.routes_map();
        let before = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            read => read?,
        };
        if !before.trim_ascii().is_empty() && !before.starts_with(MARK.as_bytes()) {
            return Ok(false);
        }
        let mut text = format!("{MARK}: routes by the instances' labels. An edit does not last.\n");
        for (route, service) in routes {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{route} {service}");
        }
        if before != text.as_bytes() {
            daemon::file::replace(&path, |file| file.write_all(text.as_bytes()))?;
        }
        Ok(true)
    }

    /// What is there.
    pub(super) fn scan(&self) -> io::Result<Scan> {
        let mut scan = Scan::default();
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            let Some(text) = name.to_str().filter(|text| text.ends_with(SUFFIX) && !text.starts_with('.'))
            else {
                continue;
            };
            if scan.names.len() >= FILES_MAX {
                return Err(io::Error::other(format!("there are more than {FILES_MAX} files")));
            }
            if let Some(service) = service_of(text) {
                scan.sections.insert(service, found(&self.dir.join(text))?);
            }
            scan.names.push(name);
        }
        Ok(scan)
    }

    /// Makes the directory as it would be with `changes`, and returns where: for HAProxy to look at, never to run on.
    pub(super) fn stage(&self, scan: &Scan, changes: &BTreeMap<&ServiceName, &str>) -> io::Result<PathBuf> {
        self.clear_candidate()?;
        let candidate = self.candidate();
        fs::create_dir(&candidate)?;
        for (service, text) in changes {
            self.make_map(service)?;
            fs::write(candidate.join(file_name(service)), text)?;
        }
        for name in &scan.names {
            let to = candidate.join(name);
            if !to.exists() {
                symlink(self.dir.join(name), to)?;
            }
        }
        Ok(candidate)
    }

    /// Puts these in place, each as a whole; and takes what HAProxy was shown away.
    pub(super) fn place(&self, changes: &BTreeMap<&ServiceName, &str>) -> io::Result<()> {
        daemon::file::replace_all(changes.iter().map(|(service, text)| (self.section(service), *text)))?;
        self.clear_candidate()
    }

    /// Takes away what HAProxy was shown.
    pub(super) fn clear_candidate(&self) -> io::Result<()> {
        match fs::remove_dir_all(self.candidate()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn candidate(&self) -> PathBuf {
        self.dir.join(CANDIDATE)
    }

    /// Without its map, a section is no configuration.
    fn make_map(&self, service: &ServiceName) -> io::Result<()> {
        create(&self.restarting_map(service))
    }
}

/// An empty file, where there is none.
fn create(path: &Path) -> io::Result<()> {
    match File::create_new(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn file_name(service: &ServiceName) -> String {
    format!("{PREFIX}{service}{SUFFIX}")
}

fn service_of(file: &str) -> Option<ServiceName> {
    file.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.parse().ok()
}

fn found(path: &Path) -> io::Result<Found> {
    if fs::metadata(path)?.len() > FILE_MAX {
        return Ok(Found::Theirs);
    }
    let text = fs::read(path)?;
    Ok(match String::from_utf8(text) {
        Ok(text) if text.trim().is_empty() || text.starts_with(MARK) => Found::Ours(text),
        _ => Found::Theirs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_what_would_be_and_only_what_is_placed_stays() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(&dir.path().join("conf.d")).unwrap();
        let put = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        put("10-mine.cfg", "frontend f");
        put("50-web.cfg", &format!("{MARK}: old"));
        put("50-api.cfg", "backend api");
        put("50-empty.cfg", "\n");
        put("50-b a d.cfg", "");
        put(".50-hidden.cfg", "");
        let scan = folder.scan().unwrap();
        let found: Vec<_> =
            scan.sections.iter().map(|(name, it)| (name.as_str(), *it == Found::Theirs)).collect();
        assert_eq!(found, [("api", true), ("empty", false), ("web", false)]);

        let (web, new) = ("web".parse().unwrap(), "new".parse().unwrap());
        let changes = BTreeMap::from([(&web, "changed"), (&new, "made")]);
        let shown = folder.stage(&scan, &changes).unwrap();
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        assert_eq!(read(&shown.join("50-web.cfg")), "changed");
        assert_eq!(read(&shown.join("10-mine.cfg")), "frontend f");
        assert!(read(&folder.section(&web)).starts_with(MARK) && !folder.section(&new).exists());

        folder.place(&BTreeMap::from([(&new, "made")])).unwrap();
        assert_eq!(read(&folder.section(&new)), "made");
        assert!(read(&folder.section(&web)).starts_with(MARK) && !shown.exists());
        assert!(folder.restarting_map(&new).exists());
    }

    #[test]
    fn the_map_of_routes_is_kept_unless_another_wrote_it() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        let read = || fs::read_to_string(folder.routes_map()).unwrap();
        assert_eq!(read(), "");
        let routes = Routes::from([("/api".parse().unwrap(), "api".parse().unwrap())]);
        assert!(folder.write_routes_map(&routes).unwrap());
        assert!(read().starts_with(MARK) && read().ends_with("\n/api/ api\n"), "{}", read());
        assert!(folder.write_routes_map(&Routes::new()).unwrap());
        assert_eq!(read().lines().count(), 1);
        fs::write(folder.routes_map(), "mine web\n").unwrap();
        assert!(!folder.write_routes_map(&routes).unwrap());
        assert_eq!(read(), "mine web\n");
    }

    #[test]
    fn a_path_that_would_be_configuration_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let error = Folder::open(&dir.path().join("conf d")).unwrap_err();
        assert!(matches!(error, FilesError::FolderName(_)) && error.to_string().contains("--conf-dir"));
    }
}
