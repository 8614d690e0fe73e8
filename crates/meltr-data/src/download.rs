//! Fetching a file over HTTP: resumed, checked, and put in place at once.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::checksum::{hex, sha256_of_file};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a server may be silent.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes that are read at a time.
const BUFFER_LEN: usize = 1 << 16;

/// A file to fetch.
#[derive(Clone, Copy, Debug)]
pub struct DownloadRequest<'a> {
    /// Address, `https://` or `http://`.
    pub url: &'a str,
    /// Where the file goes; its folder has to exist.
    pub to: &'a Path,
    /// Length in bytes, if it is known.
    pub size: Option<u64>,
    /// Hexadecimal SHA-256 of the content in lower case, if it is known.
    pub sha256: Option<&'a str>,
    /// How often to go on after a cut connection, as long as each attempt brings bytes; at least 1.
    pub attempts: u32,
}

/// What a download did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Downloaded {
    /// The file was there already.
    Present {
        /// Hexadecimal SHA-256 of the content.
        sha256: String,
    },
    /// The file was fetched.
    Fetched {
        /// Length in bytes.
        bytes: u64,
        /// Bytes that an earlier attempt had left and that were not fetched again.
        resumed_from: u64,
        /// Hexadecimal SHA-256 of the content.
        sha256: String,
    },
}

/// Why a file was not fetched. Nothing under its name has been touched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DownloadError {
    /// The address cannot be used.
    #[error("`{url}` is no address that can be fetched; it has to begin with https:// or http://")]
    Address {
        /// The address.
        url: String,
    },
    /// A file of another content is in the place.
    #[error("{} exists but {reason}; it is never overwritten: move it away, or choose another --dir", .path.display())]
    Occupied {
        /// The file.
        path: PathBuf,
        /// In what it differs.
        reason: String,
    },
    /// Another process fetches the same file.
    #[error("{} is being written by another download; wait for it", .path.display())]
    Busy {
        /// The partial file.
        path: PathBuf,
    },
    /// There is no connection.
    #[error(
        "cannot reach {url} ({reason}); check the network and the proxy settings, then run the same command again"
    )]
    Unreachable {
        /// The address.
        url: String,
        /// What the connection said.
        reason: String,
    },
    /// The server has no such file or does not give it.
    #[error("{url}: the server answers with status {status}, {meaning}")]
    Status {
        /// The address.
        url: String,
        /// The status of HTTP.
        status: u16,
        /// What it means and what to do.
        meaning: &'static str,
    },
    /// The connection ended early.
    #[error("{url}: the connection ended after {received} of {} bytes ({reason}); run the same command again to go on from there", in_words(.total))]
    Cut {
        /// The address.
        url: String,
        /// Bytes that have arrived and are kept.
        received: u64,
        /// Bytes of the whole file, if the server said so.
        total: Option<u64>,
        /// What the connection said.
        reason: String,
    },
    /// The file has another length than it should.
    #[error(
        "{url}: {actual} bytes instead of {expected}; the file behind the address has changed, or the registry is out of date"
    )]
    Size {
        /// The address.
        url: String,
        /// The known length.
        expected: u64,
        /// The length that the server has, or has exceeded.
        actual: u64,
    },
    /// The content is not the known one.
    #[error("{url}: SHA-256 is {actual} but should be {expected}; what has arrived is kept as {} for inspection, the next run starts anew", .kept.display())]
    Checksum {
        /// The address.
        url: String,
        /// The known SHA-256.
        expected: String,
        /// That of the content.
        actual: String,
        /// Where the content is kept.
        kept: PathBuf,
    },
    /// The disk refused.
    #[error("{} cannot be {action} ({source}); {}", .path.display(), advice(.source))]
    Disk {
        /// The file.
        path: PathBuf,
        /// `read` or `written`, for example.
        action: &'static str,
        /// The reason of the operating system.
        source: io::Error,
    },
}

impl DownloadError {
    /// Whether the same request may succeed later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Cut { .. })
    }

    fn disk(path: &Path, action: &'static str, source: io::Error) -> Self {
        Self::Disk {
            path: path.to_path_buf(),
            action,
            source,
        }
    }
}

fn in_words(total: &Option<u64>) -> String {
    match total {
        Some(total) => total.to_string(),
        None => "an unknown number of".to_owned(),
    }
}

fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "the disk is full: make room and run the same command again to go on"
        }
        io::ErrorKind::NotFound => "create the folder first",
        _ => "check the permissions of the folder",
    }
}

/// Fetches a file.
///
/// The content goes to `NAME.part`, with what the server said about it in `NAME.part.json`; the
/// next attempt goes on from there if the server still has the same file. The name is given only
/// when length and SHA-256 are right, as far as they are known. An existing file is never
/// overwritten. `progress` is told how many bytes there are, and of how many if that is known.
///
/// # Errors
///
/// See [`DownloadError`].
pub fn download(
    request: &DownloadRequest<'_>,
    progress: &mut dyn FnMut(u64, Option<u64>),
) -> Result<Downloaded, DownloadError> {
    if !request.url.starts_with("https://") && !request.url.starts_with("http://") {
        return Err(DownloadError::Address {
            url: request.url.to_owned(),
        });
    }
    if let Some(sha256) = present(request)? {
        return Ok(Downloaded::Present { sha256 });
    }
    let mut partial = Partial::open(request)?;
    let resumed_from = partial.len;
    let agent = agent(request.url);
    let mut attempts_left = request.attempts.max(1);
    loop {
        let before = partial.len;
        match transfer(&agent, request, &mut partial, progress) {
            Ok(()) => break,
            Err(error) => {
                attempts_left -= 1;
                let may_go_on = error.is_transient() && partial.len > before;
                if attempts_left == 0 || !may_go_on {
                    return Err(error);
                }
            }
        }
    }
    let resumed_from = if partial.restarted { 0 } else { resumed_from };
    let bytes = partial.len;
    let sha256 = partial.finish(request)?;
    Ok(Downloaded::Fetched {
        bytes,
        resumed_from,
        sha256,
    })
}

/// The checksum of the file if it is there and not known to be another one.
fn present(request: &DownloadRequest<'_>) -> Result<Option<String>, DownloadError> {
    let path = request.to;
    let information = match fs::symlink_metadata(path) {
        Ok(information) => information,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(DownloadError::disk(path, "read", source)),
    };
    let occupied = |reason: String| DownloadError::Occupied {
        path: path.to_path_buf(),
        reason,
    };
    if !path.is_file() {
        return Err(occupied("is not a regular file".to_owned()));
    }
    let len = match fs::metadata(path) {
        Ok(followed) => followed.len(),
        Err(_) => information.len(),
    };
    if let Some(size) = request.size
        && size != len
    {
        return Err(occupied(format!("has {len} bytes instead of {size}")));
    }
    let actual = sha256_of_file(path).map_err(|error| {
        DownloadError::disk(path, "read", io::Error::other(error.kind.to_string()))
    })?;
    match request.sha256 {
        Some(expected) if expected != actual => Err(occupied(format!(
            "its SHA-256 is {actual} instead of {expected}"
        ))),
        _ => Ok(Some(actual)),
    }
}

fn agent(url: &str) -> ureq::Agent {
    let mut config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        // The bytes that are hashed have to be those of the file.
        .accept_encoding("identity")
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(SILENCE_TIMEOUT))
        .timeout_per_read(Some(SILENCE_TIMEOUT));
    if is_loopback(url) {
        // No proxy knows this machine's own servers.
        config = config.proxy(None);
    }
    config.build().new_agent()
}

fn is_loopback(url: &str) -> bool {
    let host = url.split("://").nth(1).unwrap_or("");
    ["127.0.0.1", "localhost", "[::1]"].iter().any(|name| {
        host.strip_prefix(name)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '/']))
    })
}

/// What the server said about the file of which a part is there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Record {
    url: String,
    etag: Option<String>,
    last_modified: Option<String>,
    total: Option<u64>,
}

impl Record {
    /// What tells whether the server still has the same bytes. Weak tags do not.
    fn validator(&self) -> Option<&str> {
        match &self.etag {
            Some(etag) if !etag.starts_with("W/") => Some(etag),
            _ => self.last_modified.as_deref(),
        }
    }
}

/// The part of a file that has arrived.
struct Partial {
    path: PathBuf,
    record_path: PathBuf,
    file: File,
    len: u64,
    hasher: Sha256,
    record: Record,
    restarted: bool,
}

impl Partial {
    /// Goes on with what an earlier attempt has left, if that can be told to be of this file.
    fn open(request: &DownloadRequest<'_>) -> Result<Self, DownloadError> {
        let path = beside(request.to, ".part");
        let record_path = beside(request.to, ".part.json");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|source| DownloadError::disk(&path, "written", source))?;
        // A file system without locks leaves the checksum to find out.
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(DownloadError::Busy { path });
        }
        let record = fs::read(&record_path)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok())
            .filter(|record| record.url == request.url && record.validator().is_some());
        let mut partial = Self {
            path,
            record_path,
            file,
            len: 0,
            hasher: Sha256::new(),
            record: Record::default(),
            restarted: false,
        };
        match record {
            Some(record) => {
                partial.record = record;
                partial.read_back()?;
                if partial
                    .record
                    .total
                    .is_some_and(|total| total < partial.len)
                {
                    partial.restart()?;
                }
            }
            None => partial.restart()?,
        }
        partial.restarted = false;
        Ok(partial)
    }

    /// Hashes what is there.
    fn read_back(&mut self) -> Result<(), DownloadError> {
        let mut buffer = vec![0_u8; BUFFER_LEN];
        loop {
            match self.file.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(len) => {
                    self.hasher.update(&buffer[..len]);
                    self.len += len as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(DownloadError::disk(&self.path, "read", source)),
            }
        }
    }

    /// Forgets what is there.
    fn restart(&mut self) -> Result<(), DownloadError> {
        self.file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)))
            .map_err(|source| DownloadError::disk(&self.path, "written", source))?;
        self.len = 0;
        self.hasher = Sha256::new();
        self.record = Record::default();
        self.restarted = true;
        Ok(())
    }

    /// Keeps what the server said, before the bytes that belong to it.
    fn note(&mut self, record: Record) -> Result<(), DownloadError> {
        self.record = record;
        let failed = |source| DownloadError::disk(&self.record_path, "written", source);
        let text = serde_json::to_vec(&self.record).map_err(|error| failed(error.into()))?;
        fs::write(&self.record_path, text).map_err(failed)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), DownloadError> {
        if let Err(source) = self.file.write_all(bytes) {
            // A disk that is full may have taken a part: the length on the disk is what counts,
            // and the next run hashes it.
            return Err(DownloadError::disk(&self.path, "written", source));
        }
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Checks the content and gives it its name.
    fn finish(self, request: &DownloadRequest<'_>) -> Result<String, DownloadError> {
        let Self {
            path,
            record_path,
            file,
            len,
            hasher,
            ..
        } = self;
        let written = |source| DownloadError::disk(&path, "written", source);
        file.sync_all().map_err(written)?;
        drop(file);
        if let Some(expected) = request.size
            && expected != len
        {
            discard(&[&path, &record_path]);
            return Err(DownloadError::Size {
                url: request.url.to_owned(),
                expected,
                actual: len,
            });
        }
        let actual = hex(&hasher.finalize());
        if let Some(expected) = request.sha256
            && expected != actual
        {
            let kept = beside(request.to, ".part.bad");
            fs::rename(&path, &kept).map_err(written)?;
            discard(&[&record_path]);
            return Err(DownloadError::Checksum {
                url: request.url.to_owned(),
                expected: expected.to_owned(),
                actual,
                kept,
            });
        }
        if fs::symlink_metadata(request.to).is_ok() {
            return Err(DownloadError::Occupied {
                path: request.to.to_path_buf(),
                reason: "has appeared in the meantime".to_owned(),
            });
        }
        fs::rename(&path, request.to)
            .map_err(|source| DownloadError::disk(request.to, "written", source))?;
        discard(&[&record_path]);
        Ok(actual)
    }
}

/// Removes files that are of no more use; one that stays does no harm.
fn discard(paths: &[&Path]) {
    for path in paths {
        let _ = fs::remove_file(path);
    }
}

/// The path with something appended to the file name.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

/// Fetches what is missing.
fn transfer(
    agent: &ureq::Agent,
    request: &DownloadRequest<'_>,
    partial: &mut Partial,
    progress: &mut dyn FnMut(u64, Option<u64>),
) -> Result<(), DownloadError> {
    if partial.len > 0 && partial.record.total == Some(partial.len) {
        return Ok(());
    }
    let response = loop {
        let response = send(agent, request, partial)?;
        let status = response.status().as_u16();
        let asked_for_rest = partial.len > 0;
        match status {
            200 => {
                // The file has changed, or the server gives no parts.
                if asked_for_rest {
                    partial.restart()?;
                }
                break response;
            }
            206 if asked_for_rest && continues(&response, partial) => break response,
            206 | 416 if asked_for_rest => partial.restart()?,
            _ => {
                return Err(DownloadError::Status {
                    url: request.url.to_owned(),
                    status,
                    meaning: meaning(status),
                });
            }
        }
    };
    let total = match content_range(&response) {
        Some((_, total)) => total,
        None => header(&response, "content-length").and_then(|text| text.parse().ok()),
    };
    if let (Some(expected), Some(actual)) = (request.size, total)
        && expected != actual
    {
        discard(&[&partial.path, &partial.record_path]);
        return Err(DownloadError::Size {
            url: request.url.to_owned(),
            expected,
            actual,
        });
    }
    if partial.len == 0 {
        partial.record = Record::default();
    }
    partial.note(Record {
        url: request.url.to_owned(),
        etag: header(&response, "etag").or_else(|| partial.record.etag.clone()),
        last_modified: header(&response, "last-modified")
            .or_else(|| partial.record.last_modified.clone()),
        total,
    })?;
    let cut = |partial: &Partial, reason: String| DownloadError::Cut {
        url: request.url.to_owned(),
        received: partial.len,
        total,
        reason,
    };
    let mut reader = response.into_body().into_reader();
    let mut buffer = vec![0_u8; BUFFER_LEN];
    let limit = request.size.or(total);
    loop {
        let len = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(cut(partial, error.to_string())),
        };
        if let Some(limit) = limit
            && partial.len + len as u64 > limit
        {
            let actual = partial.len + len as u64;
            discard(&[&partial.path, &partial.record_path]);
            return Err(DownloadError::Size {
                url: request.url.to_owned(),
                expected: limit,
                actual,
            });
        }
        partial.append(&buffer[..len])?;
        progress(partial.len, total);
    }
    match total {
        Some(total) if partial.len < total => Err(cut(partial, "no more bytes came".to_owned())),
        _ => Ok(()),
    }
}

fn send(
    agent: &ureq::Agent,
    request: &DownloadRequest<'_>,
    partial: &Partial,
) -> Result<Response, DownloadError> {
    let mut builder = agent.get(request.url);
    if partial.len > 0 {
        builder = builder.header("Range", format!("bytes={}-", partial.len));
        if let Some(validator) = partial.record.validator() {
            builder = builder.header("If-Range", validator);
        }
    }
    builder.call().map_err(|error| match error {
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => DownloadError::Address {
            url: request.url.to_owned(),
        },
        error => DownloadError::Unreachable {
            url: request.url.to_owned(),
            reason: error.to_string(),
        },
    })
}

type Response = ureq::http::Response<ureq::Body>;

fn header(response: &Response, name: &str) -> Option<String> {
    let value = response.headers().get(name)?;
    value.to_str().ok().map(str::to_owned)
}

/// First byte and total length of a part.
fn content_range(response: &Response) -> Option<(u64, Option<u64>)> {
    parse_range(&header(response, "content-range")?)
}

fn parse_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, _) = range.split_once('-')?;
    Some((first.trim().parse().ok()?, total.trim().parse().ok()))
}

/// Whether a part is the rest of what is there.
fn continues(response: &Response, partial: &Partial) -> bool {
    let same_place = content_range(response).is_some_and(|(first, total)| {
        let same_total = match (total, partial.record.total) {
            (Some(now), Some(then)) => now == then,
            _ => true,
        };
        first == partial.len && same_total
    });
    let same_tag = match (header(response, "etag"), &partial.record.etag) {
        (Some(now), Some(then)) => now == *then,
        _ => true,
    };
    same_place && same_tag
}

fn meaning(status: u16) -> &'static str {
    match status {
        401 | 403 | 407 => "not allowed; the file needs a permission that has to be asked for",
        404 | 410 => "no such file; the address may be out of date: see the project page",
        429 => "too many requests; try again later",
        500..=599 => "a fault of the server; try again later",
        _ => "which is not the file; see the project page",
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::net::{TcpListener, TcpStream};
    use std::sync::{Arc, Mutex};
    use std::thread;

    use super::*;
    use crate::checksum::sha256_of_bytes;

    /// How the server answers one request.
    #[derive(Clone)]
    struct Answer {
        content: Vec<u8>,
        etag: &'static str,
        /// Bytes after which the connection is cut.
        cut_after: Option<usize>,
        ranges: Ranges,
    }

    #[derive(Clone, Copy, PartialEq)]
    enum Ranges {
        Honored,
        Ignored,
        Wrong,
    }

    fn whole(content: &[u8]) -> Answer {
        Answer {
            content: content.to_vec(),
            etag: "\"one\"",
            cut_after: None,
            ranges: Ranges::Honored,
        }
    }

    /// A server on this machine that gives the answers in turn and notes the heads of requests.
    struct Server {
        url: String,
        heads: Arc<Mutex<Vec<String>>>,
    }

    impl Server {
        fn new(answers: Vec<Option<Answer>>) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let url = format!("http://{}/file.bin", listener.local_addr().unwrap());
            let heads = Arc::new(Mutex::new(Vec::new()));
            let noted = Arc::clone(&heads);
            thread::spawn(move || {
                for answer in answers {
                    let Ok((stream, _)) = listener.accept() else {
                        return;
                    };
                    let head = read_head(&stream);
                    noted.lock().unwrap().push(head.clone());
                    // The client may have hung up, which is its right.
                    let _ = reply(stream, &head, answer.as_ref());
                }
            });
            Self { url, heads }
        }

        fn heads(&self) -> Vec<String> {
            self.heads.lock().unwrap().clone()
        }
    }

    fn read_head(stream: &TcpStream) -> String {
        let mut head = String::new();
        for line in BufReader::new(stream).lines() {
            let line = line.unwrap_or_default();
            if line.is_empty() {
                break;
            }
            head += &line.to_ascii_lowercase();
            head.push('\n');
        }
        head
    }

    fn reply(mut stream: TcpStream, head: &str, answer: Option<&Answer>) -> io::Result<()> {
        let Some(answer) = answer else {
            return stream.write_all(
                b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            );
        };
        let asked = head
            .lines()
            .find_map(|line| line.strip_prefix("range: bytes="))
            .and_then(|range| range.trim_end_matches('-').parse::<usize>().ok());
        let same = head
            .lines()
            .find_map(|line| line.strip_prefix("if-range: "))
            .is_none_or(|tag| tag == answer.etag);
        let total = answer.content.len();
        let (status, start) = match asked {
            Some(start) if same && answer.ranges == Ranges::Honored => {
                ("206 Partial Content", start)
            }
            Some(start) if same && answer.ranges == Ranges::Wrong => {
                ("206 Partial Content", start - 1)
            }
            _ => ("200 OK", 0),
        };
        let body = &answer.content[start..];
        let range = if start > 0 {
            format!("Content-Range: bytes {start}-{}/{total}\r\n", total - 1)
        } else {
            String::new()
        };
        write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nETag: {}\r\n{range}Connection: close\r\n\r\n",
            body.len(),
            answer.etag
        )?;
        let sent = answer.cut_after.unwrap_or(body.len()).min(body.len());
        stream.write_all(&body[..sent])?;
        stream.flush()
    }

    fn content() -> Vec<u8> {
        (0..300_000_u32)
            .map(|number| (number % 251) as u8)
            .collect()
    }

    fn fetch(
        url: &str,
        to: &Path,
        sha256: Option<&str>,
        attempts: u32,
    ) -> Result<Downloaded, DownloadError> {
        let request = DownloadRequest {
            url,
            to,
            size: None,
            sha256,
            attempts,
        };
        download(&request, &mut |_, _| {})
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_arrives_whole_and_alone() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("file.bin");
        let server = Server::new(vec![Some(whole(&content()))]);
        let sum = sha256_of_bytes(&content());
        let done = fetch(&server.url, &to, Some(&sum), 1).unwrap();
        let expected = Downloaded::Fetched {
            bytes: 300_000,
            resumed_from: 0,
            sha256: sum.clone(),
        };
        assert_eq!(done, expected);
        assert_eq!(fs::read(&to).unwrap(), content());
        assert_eq!(names(folder.path()), ["file.bin"]);
        // The server is gone: what is there is not fetched again.
        let again = fetch(&server.url, &to, Some(&sum), 1).unwrap();
        assert_eq!(again, Downloaded::Present { sha256: sum });
    }

    #[test]
    fn a_cut_connection_keeps_what_has_come_and_the_next_run_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("file.bin");
        let mut cut = whole(&content());
        cut.cut_after = Some(100_000);
        let server = Server::new(vec![Some(cut), Some(whole(&content()))]);
        let error = fetch(&server.url, &to, None, 1).unwrap_err();
        assert!(error.is_transient(), "{error}");
        assert!(
            error.to_string().contains("100000 of 300000 bytes"),
            "{error}"
        );
        assert!(!to.exists());
        let done = fetch(&server.url, &to, None, 1).unwrap();
        assert!(
            matches!(
                done,
                Downloaded::Fetched {
                    resumed_from: 100_000,
                    ..
                }
            ),
            "{done:?}"
        );
        assert_eq!(fs::read(&to).unwrap(), content());
        assert!(server.heads()[1].contains("range: bytes=100000-"));
        assert!(server.heads()[1].contains("if-range: \"one\""));
        assert_eq!(names(folder.path()), ["file.bin"]);
    }

    #[test]
    fn a_cut_connection_is_taken_up_at_once_if_attempts_are_left() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("file.bin");
        let mut cut = whole(&content());
        cut.cut_after = Some(100_000);
        let server = Server::new(vec![Some(cut.clone()), Some(cut), Some(whole(&content()))]);
        fetch(&server.url, &to, None, 5).unwrap();
        assert_eq!(fs::read(&to).unwrap(), content());
        assert!(server.heads()[2].contains("range: bytes=200000-"));
    }

    #[test]
    fn a_file_that_has_changed_meanwhile_is_fetched_anew() {
        for ranges in [Ranges::Honored, Ranges::Ignored] {
            let folder = tempfile::tempdir().unwrap();
            let to = folder.path().join("file.bin");
            let mut cut = whole(&content());
            cut.cut_after = Some(1000);
            let mut changed = whole(b"another content");
            changed.etag = "\"two\"";
            changed.ranges = ranges;
            let server = Server::new(vec![Some(cut), Some(changed)]);
            fetch(&server.url, &to, None, 1).unwrap_err();
            let done = fetch(&server.url, &to, None, 1).unwrap();
            assert!(matches!(
                done,
                Downloaded::Fetched {
                    resumed_from: 0,
                    ..
                }
            ));
            assert_eq!(fs::read(&to).unwrap(), b"another content");
        }
    }

    #[test]
    fn a_part_of_another_place_is_not_glued_on() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("file.bin");
        let mut cut = whole(&content());
        cut.cut_after = Some(1000);
        let mut wrong = whole(&content());
        wrong.ranges = Ranges::Wrong;
        let server = Server::new(vec![Some(cut), Some(wrong.clone()), Some(wrong)]);
        fetch(&server.url, &to, None, 1).unwrap_err();
        fetch(&server.url, &to, None, 1).unwrap();
        assert_eq!(fs::read(&to).unwrap(), content());
        assert!(!server.heads()[2].contains("range: bytes"));
    }

    #[test]
    fn a_wrong_checksum_sets_the_content_aside() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("file.bin");
        let server = Server::new(vec![Some(whole(b"not this"))]);
        let sum = sha256_of_bytes(b"but that");
        let error = fetch(&server.url, &to, Some(&sum), 1).unwrap_err();
        assert!(matches!(error, DownloadError::Checksum { .. }), "{error}");
        assert!(error.to_string().contains(&sum), "{error}");
        assert_eq!(names(folder.path()), ["file.bin.part.bad"]);
    }

    #[test]
    fn a_length_that_is_not_the_known_one_is_refused_before_the_bytes_come() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("file.bin");
        let server = Server::new(vec![Some(whole(b"12345"))]);
        let request = DownloadRequest {
            url: &server.url,
            to: &to,
            size: Some(4),
            sha256: None,
            attempts: 1,
        };
        let error = download(&request, &mut |_, _| {}).unwrap_err();
        assert!(
            error.to_string().contains("5 bytes instead of 4"),
            "{error}"
        );
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn another_file_in_the_place_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("file.bin");
        fs::write(&to, "mine").unwrap();
        let sum = sha256_of_bytes(b"theirs");
        let error = fetch("http://127.0.0.1:9/file.bin", &to, Some(&sum), 1).unwrap_err();
        assert!(matches!(error, DownloadError::Occupied { .. }), "{error}");
        assert_eq!(fs::read(&to).unwrap(), b"mine");
    }

    #[test]
    fn an_absent_file_and_an_absent_server_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("file.bin");
        let server = Server::new(vec![None]);
        let error = fetch(&server.url, &to, None, 3).unwrap_err();
        assert!(error.to_string().contains("404, no such file"), "{error}");
        // A port that was free a moment ago.
        let port = {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap().port()
        };
        let error = fetch(&format!("http://127.0.0.1:{port}/f"), &to, None, 3).unwrap_err();
        assert!(
            matches!(error, DownloadError::Unreachable { .. }),
            "{error}"
        );
        let error = fetch("ftp://127.0.0.1/f", &to, None, 1).unwrap_err();
        assert!(matches!(error, DownloadError::Address { .. }), "{error}");
    }

    #[test]
    fn two_downloads_of_one_file_do_not_mix() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("file.bin");
        let request = DownloadRequest {
            url: "http://127.0.0.1:9/file.bin",
            to: &to,
            size: None,
            sha256: None,
            attempts: 1,
        };
        let first = Partial::open(&request).unwrap();
        let second = Partial::open(&request);
        assert!(matches!(second, Err(DownloadError::Busy { .. })));
        drop(first);
    }

    #[test]
    fn an_absent_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("absent").join("file.bin");
        let error = fetch("http://127.0.0.1:9/file.bin", &to, None, 1).unwrap_err();
        assert!(error.to_string().contains("create the folder"), "{error}");
    }

    #[test]
    fn ranges_are_read_as_they_are_written() {
        assert_eq!(parse_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(parse_range("bytes 5-9/*"), Some((5, None)));
        assert_eq!(parse_range("bytes */10"), None);
        assert_eq!(parse_range("items 5-9/10"), None);
    }

    #[test]
    fn only_this_machine_is_reached_without_a_proxy() {
        assert!(is_loopback("http://127.0.0.1:80/a"));
        assert!(is_loopback("http://localhost"));
        assert!(!is_loopback("http://localhost.example/a"));
        assert!(!is_loopback("https://github.com/127.0.0.1"));
    }
}
