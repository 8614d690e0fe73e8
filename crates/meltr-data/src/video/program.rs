//! The programs of FFmpeg: where they are, and one run of one of them, bounded in time and memory.

use std::env;
use std::env::consts::EXE_SUFFIX;
use std::ffi::{OsStr, OsString};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::source::{MAX_MESSAGES, VIDEO};
use crate::error::{DataError, DataErrorKind};

/// Names another `ffmpeg` than that of the `PATH`, or the folder of both programs.
const VARIABLE: &str = "MELTR_FFMPEG";

/// Bytes of a line that are kept; the rest of it is dropped.
const MAX_LINE: usize = 400;

/// How often the end of a program that has closed its pipes is awaited.
const POLL: Duration = Duration::from_millis(1);

/// The paths of the two programs.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    pub(super) ffmpeg: PathBuf,
    pub(super) ffprobe: PathBuf,
}

impl Programs {
    /// Looks where the variable says, or along the `PATH`.
    pub(super) fn find() -> Result<Self, DataError> {
        let ffmpeg = format!("ffmpeg{EXE_SUFFIX}");
        let ffprobe = format!("ffprobe{EXE_SUFFIX}");
        if let Some(value) = env::var_os(VARIABLE).filter(|value| !value.is_empty()) {
            let path = PathBuf::from(value);
            let (first, second) = if path.is_dir() {
                (path.join(&ffmpeg), path.join(&ffprobe))
            } else {
                let second = path.with_file_name(&ffprobe);
                (path, second)
            };
            for program in [&first, &second] {
                if !program.is_file() {
                    return Err(unusable(
                        program,
                        &format!("no such file; correct the variable {VARIABLE}"),
                    ));
                }
            }
            return Ok(Self {
                ffmpeg: first,
                ffprobe: second,
            });
        }
        Ok(Self {
            ffmpeg: on_path(&ffmpeg)?,
            ffprobe: on_path(&ffprobe)?,
        })
    }
}

fn on_path(name: &str) -> Result<PathBuf, DataError> {
    let folders = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&folders)
        .filter(|folder| !folder.as_os_str().is_empty())
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
        .ok_or_else(|| {
            unusable(
                Path::new(name),
                &format!(
                    "not found on the PATH; install FFmpeg (`apt-get install ffmpeg`, `brew \
                     install ffmpeg`), or set {VARIABLE} to the program"
                ),
            )
        })
}

fn unusable(program: &Path, reason: &str) -> DataError {
    DataError::new(
        program,
        DataErrorKind::Program {
            program: program.display().to_string(),
            reason: reason.to_owned(),
        },
    )
}

/// What a program said.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// The last `frame=` of the progress report: the frames decoded.
    pub(super) frames: Option<usize>,
    /// The first messages about damage.
    pub(super) damage: Vec<String>,
    /// Number of all messages about damage.
    pub(super) damage_count: usize,
    /// Whether the program is older than the option `-fps_mode`.
    pub(super) lacks_fps_mode: bool,
}

impl Log {
    fn line(&mut self, line: &[u8]) {
        let text = String::from_utf8_lossy(line);
        if let Some(count) = text.strip_prefix("frame=") {
            if let Ok(count) = count.trim().parse() {
                self.frames = Some(count);
            }
            return;
        }
        if text.contains("Unrecognized option 'fps_mode'") {
            self.lacks_fps_mode = true;
        }
        // With the log level `level+warning` each line has its level in brackets. Damaged packets
        // and frames are warnings, other faults are errors.
        let level = ["[error] ", "[fatal] ", "[panic] "]
            .into_iter()
            .find(|level| text.contains(*level));
        let corrupt = text.contains("[warning] ") && text.to_lowercase().contains("corrupt");
        let level = match level {
            Some(level) => level,
            None if corrupt => "[warning] ",
            None => return,
        };
        // An output that got no frame is no fault of the input.
        if text.contains("Nothing was written into output file") {
            return;
        }
        self.damage_count += 1;
        if self.damage.len() < MAX_MESSAGES {
            self.damage.push(message(&text, level));
        }
    }

    /// The messages about damage, and how many more there were.
    pub(super) fn messages(&self) -> Vec<String> {
        let mut messages = self.damage.clone();
        if self.damage_count > messages.len() {
            messages.push(format!(
                "and {} more messages",
                self.damage_count - messages.len()
            ));
        }
        messages
    }
}

/// `[h264 @ 0x5581] [error] no frame!` as `h264: no frame!`.
fn message(text: &str, level: &str) -> String {
    let (context, rest) = text.split_once(level).unwrap_or(("", text));
    let name = context
        .trim_start_matches('[')
        .split(" @ ")
        .next()
        .unwrap_or_default();
    let clean: String = rest.chars().filter(|c| !c.is_control()).collect();
    if name.trim().is_empty() {
        clean
    } else {
        format!("{}: {clean}", name.trim())
    }
}

/// Calls `each` for each line of a stream, cut at 400 bytes, until the stream ends or fails.
pub(super) fn each_line(stream: &mut impl Read, mut each: impl FnMut(&[u8])) {
    let mut chunk = [0_u8; 8192];
    let mut line: Vec<u8> = Vec::new();
    loop {
        let count = match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        for &byte in &chunk[..count] {
            if byte == b'\n' || byte == b'\r' {
                each(&line);
                line.clear();
            } else if line.len() < MAX_LINE {
                line.push(byte);
            }
        }
    }
    if !line.is_empty() {
        each(&line);
    }
}

/// A run that has ended.
#[derive(Debug)]
pub(super) struct Ended<T> {
    /// What the reader of the standard output made of it.
    pub(super) output: T,
    /// What the program said.
    pub(super) log: Log,
    /// Why the program failed, if it did.
    pub(super) failure: Option<String>,
}

impl<T> Ended<T> {
    /// Whether the program ended well and said nothing about damage.
    pub(super) fn is_sound(&self) -> bool {
        self.failure.is_none() && self.log.damage_count == 0
    }
}

/// The time by which a video has to be decoded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    start: Instant,
    limit: Duration,
}

impl Deadline {
    /// `limit` from now on.
    pub(super) fn after(limit: Duration) -> Self {
        Self {
            start: Instant::now(),
            limit,
        }
    }

    /// The time left, zero when there is none.
    pub(super) fn left(self) -> Duration {
        self.limit.saturating_sub(self.start.elapsed())
    }

    /// The error for a video that takes longer.
    pub(super) fn error(self, path: &Path) -> DataError {
        DataError::format(
            path,
            VIDEO,
            None::<u64>,
            format!(
                "decoding was stopped after {:.1} s, the longest time that is allowed",
                self.limit.as_secs_f64()
            ),
        )
    }
}

/// A child that does not outlive its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only if the child has ended already, which is what is wanted.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Runs a program on behalf of the file `path`, without a shell and without standard input, and
/// lets `consume` read its standard output on a thread of its own.
///
/// The program is killed at the deadline, and when `consume` refuses the output.
pub(super) fn run<T, F>(
    path: &Path,
    program: &Path,
    arguments: &[OsString],
    deadline: Deadline,
    consume: F,
) -> Result<Ended<T>, DataError>
where
    T: Send + 'static,
    F: FnOnce(ChildStdout) -> Result<T, String> + Send + 'static,
{
    let failed = |error: std::io::Error| unusable(program, &format!("{error}; reinstall FFmpeg"));
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let pipes = (child.stdout.take(), child.stderr.take());
    let mut running = Running(child);
    let (Some(stdout), Some(mut stderr)) = pipes else {
        return Err(unusable(program, "its output cannot be read"));
    };
    let (log_sender, log_receiver) = mpsc::channel();
    thread::Builder::new()
        .spawn(move || {
            let mut log = Log::default();
            each_line(&mut stderr, |line| log.line(line));
            // Nobody listens any more after the deadline.
            drop(log_sender.send(log));
        })
        .map_err(failed)?;
    let (output_sender, output_receiver) = mpsc::channel();
    thread::Builder::new()
        .spawn(move || drop(output_sender.send(consume(stdout))))
        .map_err(failed)?;
    let output = receive(path, &output_receiver, deadline)?
        .map_err(|reason| DataError::format(path, VIDEO, None::<u64>, reason))?;
    let log = receive(path, &log_receiver, deadline)?;
    let status = loop {
        if let Some(status) = running.0.try_wait().map_err(failed)? {
            break status;
        }
        if deadline.left().is_zero() {
            return Err(deadline.error(path));
        }
        thread::sleep(POLL);
    };
    let failure = if status.success() {
        None
    } else {
        let name = program.file_name().unwrap_or(OsStr::new("FFmpeg"));
        Some(format!("{} ended with {status}", name.display()))
    };
    Ok(Ended {
        output,
        log,
        failure,
    })
}

fn receive<T>(path: &Path, receiver: &Receiver<T>, deadline: Deadline) -> Result<T, DataError> {
    receiver
        .recv_timeout(deadline.left())
        .map_err(|error| match error {
            RecvTimeoutError::Timeout => deadline.error(path),
            RecvTimeoutError::Disconnected => DataError::format(
                path,
                VIDEO,
                None::<u64>,
                "the thread that reads FFmpeg's output has failed",
            ),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_line_is_progress_damage_or_nothing() {
        let mut log = Log::default();
        for line in [
            "frame=12",
            "fps=0.00",
            "[h264 @ 0x55f2] [error] error while decoding MB 3 5",
            "[warning] file:a.mp4: corrupt input packet in stream 0",
            "[warning] -vsync is deprecated. Use -fps_mode",
            "[out#1 @ 0x1] [error] Nothing was written into output file, because of nothing",
            "frame=108",
        ] {
            log.line(line.as_bytes());
        }
        assert_eq!(log.frames, Some(108));
        assert_eq!(
            log.messages(),
            [
                "h264: error while decoding MB 3 5",
                "file:a.mp4: corrupt input packet in stream 0"
            ]
        );
        assert!(!log.lacks_fps_mode);
        log.line(b"[error] Unrecognized option 'fps_mode'.");
        assert!(log.lacks_fps_mode);
    }

    #[test]
    fn a_flood_of_messages_is_counted_not_kept() {
        let mut log = Log::default();
        for _ in 0..100_000 {
            log.line(b"[error] bad");
        }
        assert_eq!(log.messages().len(), MAX_MESSAGES + 1);
        assert_eq!(log.messages()[MAX_MESSAGES], "and 99994 more messages");
    }

    #[test]
    fn an_endless_line_is_cut() {
        let mut lines: Vec<usize> = Vec::new();
        let mut stream: &[u8] = &[b'x'; 100_000];
        each_line(&mut stream, |line| lines.push(line.len()));
        assert_eq!(lines, [MAX_LINE]);
    }

    #[cfg(unix)]
    mod unix {
        use super::*;

        fn sleep(limit: Duration) -> Result<Ended<u64>, DataError> {
            run(
                Path::new("a.mp4"),
                Path::new("sleep"),
                &[OsString::from("60")],
                Deadline::after(limit),
                |mut stdout| {
                    std::io::copy(&mut stdout, &mut std::io::sink())
                        .map_err(|error| error.to_string())
                },
            )
        }

        #[test]
        fn a_program_that_hangs_is_killed() {
            let start = Instant::now();
            let message = sleep(Duration::from_millis(50)).unwrap_err().to_string();
            assert!(message.contains("stopped after 0.1 s"), "{message}");
            assert!(start.elapsed() < Duration::from_secs(20));
        }

        #[test]
        fn a_failing_program_and_an_absent_one_are_told() {
            let deadline = Deadline::after(Duration::from_secs(20));
            let ended = run(
                Path::new("a"),
                Path::new("false"),
                &[],
                deadline,
                |_| Ok(()),
            );
            assert!(ended.unwrap().failure.unwrap().contains("false ended with"));
            let absent = Path::new("no-such-program-of-meltr");
            let error = run(Path::new("a"), absent, &[], deadline, |_| Ok(())).unwrap_err();
            assert!(error.to_string().contains("no-such-program-of-meltr"));
        }
    }
}
