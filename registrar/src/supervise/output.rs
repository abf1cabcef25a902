//! What the programs print: handed on whole line by whole line, as it is or as JSON, and copied to a FIFO for a log
//! forwarder.
//!
//! Each line is written by a thread of its own: who reads our output slowly holds up the programs, as without us, and
//! not the registration. The copy holds nothing up: what does not fit is dropped and counted.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use registry::time::Clock;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

/// Longest line, in bytes; what is longer is handed on in pieces.
const LINE_LEN_MAX: u64 = 16 * 1024;
/// Lines that wait to be written; beyond that the programs wait.
const LINES_MAX: usize = 256;

/// In which form the programs' output is handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LineFormat {
    /// They write to our output themselves.
    Inherit,
    /// Whole lines, as they are.
    Lines,
    /// An object a line.
    Json,
}

/// What is to become of the programs' output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputConfig {
    /// The form.
    pub format: LineFormat,
    /// The FIFO that gets a copy.
    pub copy: Option<PathBuf>,
}

/// Whose output it is; read anew for each line, since a name may be found late.
pub trait Origin: Send + 'static {
    /// Service and instance; `None` as long as there is none.
    fn names(&self) -> (Option<String>, Option<String>);
}

/// A FIFO that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// Something else stands there.
    #[error(
        "{0} is not a FIFO, and the programs' output is copied to nothing else: a file would grow without end\n  name a path where nothing stands: the FIFO is made there"
    )]
    NoFifo(String),
    /// It cannot be made.
    #[error("cannot make a FIFO at {path}: {cause}")]
    Fifo {
        /// Where.
        path: String,
        /// What was seen.
        cause: io::Error,
    },
    /// The thread that writes cannot be started.
    #[error("cannot start the thread that hands on the output: {0}")]
    Thread(io::Error),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    Out,
    Err,
}

#[derive(Debug)]
struct Line {
    process: String,
    stream: Stream,
    /// Without its newline.
    text: Vec<u8>,
}

/// Takes the programs' output, and hands it on.
#[derive(Debug)]
pub struct Output {
    lines: Option<mpsc::Sender<Line>>,
    writer: Option<JoinHandle<()>>,
}

impl Output {
    /// Starts the thread, where the form needs one.
    pub fn start(config: &OutputConfig, origin: impl Origin) -> Result<Self, OutputError> {
        let tee = config.copy.clone();
        if let Some(path) = &tee {
            make_fifo(path)?;
        }
        let tee = tee.map(FifoTee::new);
        if config.format == LineFormat::Inherit && tee.is_none() {
            return Ok(Self { lines: None, writer: None });
        }
        let (lines, queue) = mpsc::channel(LINES_MAX);
        let format = config.format;
        let writer = thread::Builder::new()
            .name("output".into())
            .spawn(move || write(queue, format, &origin, tee))
            .map_err(OutputError::Thread)?;
        Ok(Self { lines: Some(lines), writer: Some(writer) })
    }

    /// Has `command`, which is called `process`, write to us. Call it once for each start; the output is read until the
    /// last process that inherited it has closed it.
    pub fn attach(&self, command: &mut Command, process: &str) -> io::Result<()> {
        let Some(lines) = &self.lines else { return Ok(()) };
        command.stdout(piped(lines, process, Stream::Out)?);
        command.stderr(piped(lines, process, Stream::Err)?);
        Ok(())
    }

    /// Writes what has been read; waits for the programs' last words, but `max` at most.
    pub async fn finish(mut self, max: Duration) {
        self.lines = None;
        let Some(writer) = self.writer.take() else { return };
        let joined = tokio::task::spawn_blocking(move || writer.join());
        // Late: our output is not read, or a process that is not ours holds a program's.
        let _ = tokio::time::timeout(max, joined).await;
    }
}

/// The writing end of a pipe that is read into `lines`.
fn piped(lines: &mpsc::Sender<Line>, process: &str, stream: Stream) -> io::Result<Stdio> {
    let (reader, writer) = io::pipe()?;
    let reader = pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?;
    tokio::spawn(read(reader, lines.clone(), process.to_owned(), stream));
    Ok(Stdio::from(writer))
}

async fn read(reader: pipe::Receiver, lines: mpsc::Sender<Line>, process: String, stream: Stream) {
    let mut reader = BufReader::new(reader);
    loop {
        let mut text = vec![];
        match (&mut reader).take(LINE_LEN_MAX).read_until(b'\n', &mut text).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                text.pop_if(|last| *last == b'\n');
                let line = Line { process: process.clone(), stream, text };
                if lines.send(line).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Until the last sender has gone.
fn write(
    mut queue: mpsc::Receiver<Line>,
    format: LineFormat,
    origin: &impl Origin,
    mut tee: Option<FifoTee>,
) {
    while let Some(line) = queue.blocking_recv() {
        let mut bytes = if format == LineFormat::Json { as_json(&line, origin.names()) } else { line.text };
        bytes.push(b'\n');
        // With our output closed there is no reader; the program goes on.
        let _ = match line.stream {
            Stream::Out => io::stdout().write_all(&bytes).and_then(|()| io::stdout().flush()),
            Stream::Err => io::stderr().write_all(&bytes),
        };
        if let Some(tee) = &mut tee {
            tee.put(&bytes);
        }
    }
}

fn as_json(line: &Line, (service, instance): (Option<String>, Option<String>)) -> Vec<u8> {
    let stream = if line.stream == Stream::Out { "stdout" } else { "stderr" };
    let at = humantime::format_rfc3339_millis(Clock.time_of_day()).to_string();
    let text = String::from_utf8_lossy(&line.text);
    json!({
        "at": at, "service": service, "instance": instance, "process": line.process, "stream": stream, "line": text,
    })
    .to_string()
    .into_bytes()
}

/// Makes a FIFO at `path`, unless there is one.
fn make_fifo(path: &Path) -> Result<(), OutputError> {
    let text = || path.display().to_string();
    match nix::unistd::mkfifo(path, Mode::from_bits_truncate(0o640)) {
        Ok(()) => Ok(()),
        Err(Errno::EEXIST) if fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo()) => Ok(()),
        Err(Errno::EEXIST) => Err(OutputError::NoFifo(text())),
        Err(errno) => Err(OutputError::Fifo { path: text(), cause: errno.into() }),
    }
}

/// Writes to a FIFO without ever blocking. Lines that do not fit are dropped and counted.
struct FifoTee {
    path: PathBuf,
    fifo: Option<File>,
    /// The rest of a line of which a part was taken.
    rest: Vec<u8>,
    dropped: u64,
}

impl FifoTee {
    fn new(path: PathBuf) -> Self {
        Self { path, fifo: None, rest: vec![], dropped: 0 }
    }

    fn put(&mut self, line: &[u8]) {
        if self.fifo.is_none() {
            // Refused as long as there is no reader.
            let options = OFlag::O_NONBLOCK.bits();
            self.fifo = OpenOptions::new().write(true).custom_flags(options).open(&self.path).ok();
            self.rest.clear();
        }
        let rest = std::mem::take(&mut self.rest);
        let taken = self.write(&rest);
        let line_taken = if taken == Some(rest.len()) { self.write(line) } else { Some(0) };
        if taken.is_some_and(|taken| taken < rest.len()) {
            self.rest = rest;
            self.rest.drain(..taken.unwrap_or(0));
        }
        match line_taken {
            None | Some(0) => self.dropped += 1,
            Some(taken) => {
                self.rest = line.get(taken..).unwrap_or_default().to_vec();
                if self.dropped > 0 {
                    tracing::warn!(lines = self.dropped, fifo = %self.path.display(), "dropped from the copy of the output: it was not read, or too slowly");
                    self.dropped = 0;
                }
            }
        }
    }

    /// How much of `bytes` was taken; `None` without a reader.
    fn write(&mut self, bytes: &[u8]) -> Option<usize> {
        let fifo = self.fifo.as_mut()?;
        if bytes.is_empty() {
            return Some(0);
        }
        match fifo.write(bytes) {
            Ok(written) => Some(written),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Some(0),
            Err(_) => {
                self.fifo = None;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn reader(path: &Path) -> File {
        let options = OFlag::O_NONBLOCK.bits();
        OpenOptions::new().read(true).custom_flags(options).open(path).unwrap()
    }

    fn read_all(fifo: &mut File) -> Vec<u8> {
        let mut text = vec![];
        // It ends with "would block", what was there has been read by then.
        let _ = fifo.read_to_end(&mut text);
        text
    }

    #[test]
    fn a_copy_holds_nothing_up_and_is_whole_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        make_fifo(&path).unwrap();
        let mut tee = FifoTee::new(path.clone());
        tee.put(b"without a reader\n");
        assert_eq!(tee.dropped, 1);

        let mut fifo = reader(&path);
        let line = [vec![b'x'; 10_000], b"\n".to_vec()].concat();
        for _ in 0..20 {
            tee.put(&line);
        }
        assert!(tee.dropped > 5, "a pipe holds 64 KiB");
        let mut text = read_all(&mut fifo);
        tee.put(b"after\n");
        text.extend(read_all(&mut fifo));
        let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
        let (last, whole) = lines.split_last().unwrap();
        assert!(last.is_empty() && whole.last() == Some(&&b"after"[..]));
        assert!(whole[..whole.len() - 1].iter().all(|one| one.len() == 10_000));

        drop(fifo);
        tee.put(b"lost\n");
        let mut fifo = reader(&path);
        tee.put(b"found\n");
        assert_eq!(
            read_all(&mut fifo),
            b"found\n",
            "a forwarder that was started again goes on with a whole line"
        );
    }

    #[test]
    fn what_is_no_fifo_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "precious").unwrap();
        let error = make_fifo(&path).unwrap_err().to_string();
        assert!(error.contains("is not a FIFO"), "{error}");
        let error = make_fifo(&dir.path().join("no/such")).unwrap_err().to_string();
        assert!(error.contains("cannot make a FIFO"), "{error}");
    }

    #[test]
    fn a_line_as_json_says_whose_it_is() {
        let line = Line { process: "app".into(), stream: Stream::Err, text: b"a \"b\" \xff".to_vec() };
        let json = as_json(&line, (Some("web".into()), None));
        let value: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!((&value["service"], &value["instance"]), (&json!("web"), &json!(null)));
        assert_eq!((&value["process"], &value["stream"]), (&json!("app"), &json!("stderr")));
        assert_eq!(value["line"], "a \"b\" \u{fffd}");
    }
}
