//! One file over HTTP: into `NAME.part`, from where it stopped, and in place once it is what it must be.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::http::{Response, StatusCode, header};
use ureq::typestate::WithoutBody;
use ureq::{Agent, Body, RequestBuilder};

use crate::error::{Error, Result};
use crate::run::{files, hub, interrupt, progress::Progress};

/// Attempts in a row that bring nothing new, after which a download fails; one that goes on counts anew.
const FRUITLESS_ATTEMPTS: u32 = 3;
/// Bytes between two looks at Ctrl-C.
const CHUNK: usize = 1 << 17;

/// Fetches files.
#[derive(Debug, Clone)]
pub struct Client {
    agent: Agent,
    /// Sent to `huggingface.co` alone, for files behind a gate.
    token: Option<String>,
    /// Waited between two attempts.
    pub(super) pause: Duration,
}

/// What to fetch.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    pub address: &'a str,
    /// Where the file appears.
    pub path: &'a Path,
    pub bytes: Option<u64>,
    pub sha256: Option<&'a str>,
}

impl Client {
    /// A client that uses the proxy of the environment, and the token of the Hugging Face hub.
    pub fn new() -> Self {
        Self { agent: Agent::new_with_config(config().build()), token: hub::token(), pause: Duration::from_secs(2) }
    }

    /// Downloads the file and returns its SHA-256. What a broken download brought stays in `NAME.part`, and the next one goes on
    /// from there.
    ///
    /// # Errors
    /// The server refuses, the connection breaks again and again, the disk is full, or the content is not what it must be.
    pub fn download(&self, wanted: Wanted) -> Result<String> {
        if let Some(parent) = wanted.path.parent() {
            files::create_dir(parent)?;
        }
        let part = part_name(wanted.path);
        let mut attempts = 0;
        loop {
            let before = length(&part);
            match self.attempt(&wanted, &part)? {
                Attempt::Complete => break,
                Attempt::Broken(reason) => {
                    attempts = if length(&part) > before { 0 } else { attempts + 1 };
                    if attempts == FRUITLESS_ATTEMPTS {
                        let got = length(&part);
                        let hint = "run the same command again; it goes on where it stopped";
                        return Err(failed(&wanted, format!("the connection broke after {got} bytes: {reason}"), hint));
                    }
                    std::thread::sleep(self.pause);
                }
            }
        }
        let found = files::sha256_file(&part)?;
        if let Some(expected) = wanted.sha256.filter(|expected| **expected != found) {
            // Going on from a wrong start would never end well.
            forget(&part)?;
            let hint = "run the same command again; if it happens again, the file has changed at its address: get it elsewhere, or, \
                        if it is named in `datasets/sources.toml` and you trust the new one, change the hash there";
            return Err(failed(&wanted, format!("SHA-256 is {found}, expected {expected}"), hint));
        }
        fs::rename(&part, wanted.path).map_err(Error::io("rename into place", wanted.path))?;
        forget(&part)?;
        Ok(found)
    }

    /// A request for `address`, with the token where it is for.
    pub(super) fn get(&self, address: &str) -> RequestBuilder<WithoutBody> {
        let request = self.agent.get(address);
        match self.token.as_ref().filter(|_| address.starts_with("https://huggingface.co/")) {
            Some(token) => request.header(header::AUTHORIZATION, format!("Bearer {token}")),
            None => request,
        }
    }

    fn attempt(&self, wanted: &Wanted, part: &Path) -> Result<Attempt> {
        let have = length(part);
        let etag = fs::read_to_string(etag_name(part)).ok().filter(|_| have > 0);
        let mut request = self.get(wanted.address);
        if have > 0 {
            request = request.header(header::RANGE, format!("bytes={have}-"));
            if let Some(etag) = &etag {
                // The server starts anew where the file has changed since.
                request = request.header(header::IF_RANGE, etag);
            }
        }
        let response = match request.call() {
            Ok(response) => response,
            Err(error) => return Ok(Attempt::Broken(error.to_string())),
        };
        match response.status() {
            StatusCode::OK => self.receive(wanted, part, 0, response),
            StatusCode::PARTIAL_CONTENT if range_start(&response) == Some(have) => self.receive(wanted, part, have, response),
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                if wanted.bytes == Some(have) || range_total(&response) == Some(have) {
                    return Ok(Attempt::Complete);
                }
                forget(part)?;
                Ok(Attempt::Broken(format!("the server does not go on from byte {have}")))
            }
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                Ok(Attempt::Broken(format!("the server answers {status}")))
            }
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                let hint = "the file may be behind a gate: accept its terms in a browser, make an access token, and set HF_TOKEN to it; \
                            or put the file in place by hand";
                Err(failed(wanted, format!("the server answers {status}"), hint))
            }
            status => {
                let hint = "the file may have moved: get it elsewhere and put it in place by hand, or give its folder with `--from`";
                Err(failed(wanted, format!("the server answers {status}"), hint))
            }
        }
    }

    /// Appends the body to what the part has up to `start`.
    fn receive(&self, wanted: &Wanted, part: &Path, start: u64, mut response: Response<Body>) -> Result<Attempt> {
        let rest = content_length(&response);
        let total = rest.map(|rest| rest + start);
        if let (Some(expected), Some(total)) = (wanted.bytes, total)
            && expected != total
        {
            let hint =
                "the file has changed at its address: get it elsewhere, or, if it is named in `datasets/sources.toml`, change it there";
            return Err(failed(wanted, format!("the server has {total} bytes, expected {expected}"), hint));
        }
        let etag = response.headers().get(header::ETAG).and_then(|etag| etag.to_str().ok()).filter(|etag| !etag.starts_with("W/"));
        match etag {
            Some(etag) => fs::write(etag_name(part), etag).map_err(Error::io("write", etag_name(part)))?,
            None => remove(&etag_name(part))?,
        }
        let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(part).map_err(Error::io("create", part))?;
        file.set_len(start).map_err(Error::io("write", part))?;
        std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(start)).map_err(Error::io("write", part))?;

        let name = wanted.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut progress = Progress::new(name, start, total.or(wanted.bytes).unwrap_or(start));
        let mut body = response.body_mut().as_reader();
        let (mut buffer, mut have) = (vec![0; CHUNK], start);
        let outcome = loop {
            interrupt::check()?;
            match body.read(&mut buffer) {
                Ok(0) => break Ok(()),
                Ok(n) => {
                    file.write_all(&buffer[..n]).map_err(Error::io("write", part))?;
                    have += n as u64;
                    progress.set(have, "bytes");
                }
                Err(error) => break Err(error.to_string()),
            }
        };
        file.sync_all().map_err(Error::io("write", part))?;
        let expected = total.or(wanted.bytes);
        match outcome {
            Err(reason) => Ok(Attempt::Broken(reason)),
            Ok(()) if expected.is_some_and(|expected| have < expected) => Ok(Attempt::Broken(format!("{have} of {expected:?} bytes came"))),
            Ok(()) => {
                progress.finish("bytes");
                Ok(Attempt::Complete)
            }
        }
    }
}

impl Default for Client {
    fn default() -> Self {
        Self::new()
    }
}

/// How one attempt ended.
enum Attempt {
    Complete,
    /// Worth another try, with the reason.
    Broken(String),
}

fn config() -> ureq::config::ConfigBuilder<ureq::typestate::AgentScope> {
    Agent::config_builder()
        .user_agent(concat!("scaledown/", env!("CARGO_PKG_VERSION")))
        .http_status_as_error(false)
        .timeout_connect(Some(Duration::from_secs(30)))
        .timeout_recv_response(Some(Duration::from_secs(60)))
        // A stalled connection ends some time, and the download goes on with the next.
        .timeout_recv_body(Some(Duration::from_secs(3600)))
}

/// Where an unfinished download lies.
pub fn part_name(path: &Path) -> PathBuf {
    with_ending(path, ".part")
}

/// Where the version that a part belongs to is kept.
fn etag_name(part: &Path) -> PathBuf {
    with_ending(part, ".etag")
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |info| info.len())
}

/// Removes a part with its version.
fn forget(part: &Path) -> Result<()> {
    remove(part)?;
    remove(&etag_name(part))
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}

fn header_text(response: &Response<Body>, name: header::HeaderName) -> Option<&str> {
    response.headers().get(name)?.to_str().ok()
}

pub(super) fn content_length(response: &Response<Body>) -> Option<u64> {
    header_text(response, header::CONTENT_LENGTH)?.parse().ok()
}

/// First byte of the answer's range.
fn range_start(response: &Response<Body>) -> Option<u64> {
    content_range(header_text(response, header::CONTENT_RANGE)?).0
}

/// Length of the whole file, where the answer gives it.
pub(super) fn range_total(response: &Response<Body>) -> Option<u64> {
    content_range(header_text(response, header::CONTENT_RANGE)?).1
}

/// First byte and length of the whole file in `bytes 5-9/10`; only the length in `bytes */10`, only the first byte in `bytes 5-9/*`.
pub fn content_range(text: &str) -> (Option<u64>, Option<u64>) {
    let Some((range, total)) = text.strip_prefix("bytes ").and_then(|rest| rest.split_once('/')) else { return (None, None) };
    let start = range.split_once('-').and_then(|(start, _)| start.trim().parse().ok());
    (start, total.trim().parse().ok())
}

fn failed(wanted: &Wanted, reason: String, hint: &str) -> Error {
    Error::Download { address: wanted.address.to_owned(), path: wanted.path.to_owned(), reason, hint: hint.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;
    use std::sync::{Arc, Mutex};

    use super::*;

    const CONTENT: &[u8] = b"a red car\na blue house\nthree dogs\n";

    /// What the server does with one request after another; the last one repeats.
    #[derive(Clone, Copy)]
    enum Answer {
        /// The file, or its rest where a range is asked for and the version fits.
        File,
        /// As `File`, but the connection ends after so many bytes.
        CutOff(usize),
        /// The whole file, whatever is asked for.
        WithoutRanges,
        Status(&'static str),
        /// Other bytes of the same length.
        Other,
    }

    /// Serves on the loopback; returns the address and the requests seen.
    fn server(answers: Vec<Answer>) -> (String, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/prompts.txt", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = requests.clone();
        std::thread::spawn(move || {
            for i in 0.. {
                let Ok((mut stream, _)) = listener.accept() else { return };
                let mut head = String::new();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                while reader.read_line(&mut head).unwrap_or(0) > 2 {}
                let head = head.to_lowercase();
                seen.lock().unwrap().push(head.clone());
                let asked = head.lines().find_map(|line| line.strip_prefix("range: bytes=")?.strip_suffix('-')?.parse().ok());
                let start: usize = asked.unwrap_or(0);
                let answer = answers[i.min(answers.len() - 1)];
                let other = vec![b'x'; CONTENT.len()];
                let (status, body, length, range) = match answer {
                    Answer::Status(status) => (status, &b""[..], 0, None),
                    _ if start >= CONTENT.len() && start > 0 => {
                        ("416 Range Not Satisfiable", &b""[..], 0, Some(format!("bytes */{}", CONTENT.len())))
                    }
                    Answer::WithoutRanges => ("200 OK", CONTENT, CONTENT.len(), None),
                    Answer::Other => ("200 OK", &other[..], other.len(), None),
                    Answer::File | Answer::CutOff(_) => {
                        let body = &CONTENT[start..];
                        let sent = if let Answer::CutOff(n) = answer { &body[..n.min(body.len())] } else { body };
                        let range = (start > 0).then(|| format!("bytes {start}-{}/{}", CONTENT.len() - 1, CONTENT.len()));
                        (if start > 0 { "206 Partial Content" } else { "200 OK" }, sent, body.len(), range)
                    }
                };
                let range = range.map_or(String::new(), |range| format!("Content-Range: {range}\r\n"));
                let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nETag: \"v1\"\r\n{range}Connection: close\r\n\r\n");
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
            }
        });
        (address, requests)
    }

    fn client() -> Client {
        Client { agent: Agent::new_with_config(config().proxy(None).build()), token: Some("secret".into()), pause: Duration::ZERO }
    }

    struct Downloaded {
        outcome: Result<String>,
        folder: tempfile::TempDir,
        requests: Vec<String>,
    }

    impl Downloaded {
        fn path(&self) -> PathBuf {
            self.folder.path().join("sub/prompts.txt")
        }

        /// Names of the files that are there.
        fn files(&self) -> Vec<String> {
            let mut names: Vec<String> = fs::read_dir(self.folder.path().join("sub"))
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        }

        fn error(self) -> (String, String) {
            let error = self.outcome.unwrap_err();
            (error.to_string(), error.hint().unwrap())
        }
    }

    fn download(answers: Vec<Answer>, prepare: impl FnOnce(&Path)) -> Downloaded {
        let (address, requests) = server(answers);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sub/prompts.txt");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        prepare(&path);
        let sha256 = files::sha256_bytes(CONTENT);
        let outcome = client().download(Wanted { address: &address, path: &path, bytes: None, sha256: Some(&sha256) });
        let requests = requests.lock().unwrap().clone();
        Downloaded { outcome, folder, requests }
    }

    #[test]
    fn ranges_of_answers_are_read() {
        assert_eq!(content_range("bytes 5-9/10"), (Some(5), Some(10)));
        assert_eq!(content_range("bytes */10"), (None, Some(10)));
        assert_eq!(content_range("bytes 5-9/*"), (Some(5), None));
        assert_eq!(content_range("5-9"), (None, None));
    }

    #[test]
    fn a_file_arrives_whole_and_alone() {
        let done = download(vec![Answer::File], |_| {});
        assert_eq!(*done.outcome.as_ref().unwrap(), files::sha256_bytes(CONTENT));
        assert_eq!(fs::read(done.path()).unwrap(), CONTENT);
        assert_eq!(done.files(), ["prompts.txt"]);
        // The token is for one host.
        assert!(!done.requests[0].contains("secret"));
    }

    #[test]
    fn a_broken_download_goes_on_where_it_stopped() {
        let done = download(vec![Answer::CutOff(10), Answer::Status("503 Service Unavailable"), Answer::CutOff(5), Answer::File], |_| {});
        done.outcome.as_ref().unwrap();
        assert_eq!(fs::read(done.path()).unwrap(), CONTENT);
        let ranges: Vec<bool> = done.requests.iter().map(|head| head.contains("range: bytes=")).collect();
        assert_eq!(ranges, [false, true, true, true]);
        assert!(done.requests[3].contains("range: bytes=15-") && done.requests[3].contains("if-range: \"v1\""), "{}", done.requests[3]);
    }

    #[test]
    fn a_later_run_goes_on_with_the_part() {
        let done = download(vec![Answer::File], |path| fs::write(part_name(path), &CONTENT[..12]).unwrap());
        assert_eq!(fs::read(done.path()).unwrap(), CONTENT);
        assert!(done.requests[0].contains("range: bytes=12-"));
        let done = download(vec![Answer::WithoutRanges], |path| fs::write(part_name(path), b"something else").unwrap());
        assert_eq!(fs::read(done.path()).unwrap(), CONTENT);
        let done = download(vec![Answer::File], |path| fs::write(part_name(path), CONTENT).unwrap());
        assert_eq!(fs::read(done.path()).unwrap(), CONTENT);
    }

    #[test]
    fn a_connection_that_breaks_for_good_leaves_the_part_and_says_so() {
        let done = download(vec![Answer::CutOff(10), Answer::CutOff(0)], |_| {});
        assert!(!done.path().exists());
        assert_eq!(done.files(), ["prompts.txt.part", "prompts.txt.part.etag"]);
        let (message, hint) = done.error();
        assert!(message.contains("prompts.txt") && message.contains("broke after 10 bytes") && hint.contains("goes on"), "{message}");
    }

    #[test]
    fn another_content_is_refused_and_forgotten() {
        let done = download(vec![Answer::Other], |path| fs::write(path, b"old").unwrap());
        assert_eq!(fs::read(done.path()).unwrap(), b"old");
        assert_eq!(done.files(), ["prompts.txt"]);
        let (message, _) = done.error();
        assert!(message.contains("SHA-256 is") && message.contains(&files::sha256_bytes(CONTENT)), "{message}");
    }

    #[test]
    fn a_missing_file_and_a_gate_are_told_apart() {
        let (message, hint) = download(vec![Answer::Status("404 Not Found")], |_| {}).error();
        assert!(message.contains("404") && hint.contains("--from"), "{message}");
        for status in ["401 Unauthorized", "403 Forbidden"] {
            let (message, hint) = download(vec![Answer::Status(status)], |_| {}).error();
            assert!(message.contains(status) && hint.contains("HF_TOKEN"), "{message}");
        }
    }

    #[test]
    fn another_length_is_refused_before_anything_is_written() {
        let (address, _) = server(vec![Answer::File]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prompts.txt");
        let error = client().download(Wanted { address: &address, path: &path, bytes: Some(7), sha256: None }).unwrap_err().to_string();
        assert!(error.contains(&format!("has {} bytes, expected 7", CONTENT.len())), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_server_that_is_not_there_and_a_folder_that_cannot_be_made_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prompts.txt");
        // A port that was free a moment ago.
        let address = format!("http://{}/x", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
        let error = client().download(Wanted { address: &address, path: &path, bytes: None, sha256: None }).unwrap_err().to_string();
        assert!(error.contains(&address) && error.contains("broke after 0 bytes"), "{error}");
        fs::write(&path, b"").unwrap();
        let below = path.join("x.txt");
        let error = client().download(Wanted { address: &address, path: &below, bytes: None, sha256: None }).unwrap_err().to_string();
        assert!(error.contains("cannot create folder") && error.contains("prompts.txt"), "{error}");
    }
}
