//! Parquet tables that stay where they are published: the footer and the wanted columns of one row group after another are asked
//! for by byte range, nothing else of the file is.

use std::io::{Cursor, Read};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData};
use parquet::file::reader::{ChunkReader, Length};
use ureq::http::{StatusCode, header};

use super::download::{self, Client};
use crate::error::{Error, Result};
use crate::run::interrupt;

/// Bytes at the end of a file that are asked for first; most footers are shorter.
const TAIL: u64 = 1 << 16;
/// Times that a range is asked for.
const ATTEMPTS: u32 = 4;
/// The longest footer and the longest columns of one row group that are taken into memory.
const LONGEST_RANGE: u64 = 1 << 30;

/// The web address that a path of a configuration stands for; `None` for a local file.
///
/// `hf://datasets/OWNER/NAME[@REVISION]/PATH` is a file of the hub, `s3://BUCKET/PATH` and `gs://BUCKET/PATH` are public files of an
/// object store, `http://` and `https://` stand for themselves.
pub fn address(path: &Path) -> Result<Option<String>> {
    let Some(text) = path.to_str() else { return Ok(None) };
    let Some((scheme, rest)) = text.split_once("://") else { return Ok(None) };
    let unusable = |message: String| {
        let hint = "give https://HOST/FILE, hf://datasets/OWNER/NAME/FILE, s3://BUCKET/FILE or gs://BUCKET/FILE, one file each";
        Error::config(format!("`{text}` {message}"), hint)
    };
    // In a web address a question mark starts the query.
    let pattern = rest.contains('*') || (rest.contains('?') && !scheme.starts_with("http"));
    if pattern {
        return Err(unusable("is a pattern, and no pattern can be matched at an address".into()));
    }
    let bucket = || rest.split_once('/').filter(|(bucket, path)| !bucket.is_empty() && !path.is_empty());
    let address = match scheme {
        "http" | "https" => Some(text.to_owned()),
        "s3" => bucket().map(|(bucket, path)| format!("https://{bucket}.s3.amazonaws.com/{path}")),
        "gs" => bucket().map(|(bucket, path)| format!("https://storage.googleapis.com/{bucket}/{path}")),
        "hf" => hub(rest),
        other => return Err(unusable(format!("has the unknown scheme `{other}`"))),
    };
    address.map(Some).ok_or_else(|| unusable("names no file".into()))
}

/// `datasets/OWNER/NAME[@REVISION]/PATH` at the hub.
fn hub(rest: &str) -> Option<String> {
    let mut parts = rest.strip_prefix("datasets/")?.splitn(3, '/');
    let (owner, name, path) = (parts.next()?, parts.next()?, parts.next()?);
    let (name, revision) = name.split_once('@').unwrap_or((name, "main"));
    let whole = [owner, name, revision, path].iter().all(|part| !part.is_empty());
    whole.then(|| format!("https://huggingface.co/datasets/{owner}/{name}/resolve/{revision}/{path}"))
}

/// A file at an address.
#[derive(Debug, Clone)]
pub struct Remote {
    client: Client,
    address: String,
    length: u64,
}

/// Parts of a file that are in memory; reading anything else of it fails.
#[derive(Debug, Clone)]
pub struct Parts {
    length: u64,
    /// Where each part starts.
    parts: Vec<(u64, Bytes)>,
}

impl Remote {
    /// Asks for the footer of the parquet file at `address`.
    ///
    /// # Errors
    /// The server is not there, refuses, or knows no byte ranges; the file is no parquet file.
    pub fn open(client: &Client, address: &str) -> Result<(Self, Arc<ParquetMetaData>)> {
        let mut remote = Self { client: client.clone(), address: address.to_owned(), length: 0 };
        let (mut tail, length) = remote.ask(&format!("bytes=-{TAIL}"))?;
        remote.length = length.ok_or_else(|| remote.failed("the server does not say how long the file is".into()))?;
        loop {
            let start = remote.length.saturating_sub(tail.len() as u64);
            let parts = Parts { length: remote.length, parts: vec![(start, tail)] };
            let mut reader = ParquetMetaDataReader::new();
            // Parts fail for what they lack, with the number of bytes that the footer needs.
            match reader.try_parse_sized(&parts, remote.length) {
                Ok(()) => {
                    let metadata = reader.finish().map_err(|error| Error::format("parquet file", address, error))?;
                    return Ok((remote, Arc::new(metadata)));
                }
                Err(ParquetError::NeedMoreData(needed)) if (needed as u64) <= remote.length => {
                    tail = remote.range(remote.length - needed as u64..remote.length)?;
                }
                Err(error) => return Err(Error::format("parquet file", address, error)),
            }
        }
    }

    /// The wanted top-level columns of one row group.
    pub fn columns(&self, group: &RowGroupMetaData, wanted: &[&str]) -> Result<Parts> {
        let mut parts = Vec::new();
        for column in group.columns() {
            if wanted.contains(&column.column_path().parts()[0].as_str()) {
                let (start, length) = column.byte_range();
                parts.push((start, self.range(start..start.saturating_add(length))?));
            }
        }
        Ok(Parts { length: self.length, parts })
    }

    /// Some bytes of the file.
    fn range(&self, range: Range<u64>) -> Result<Bytes> {
        let wanted = range.end - range.start;
        if wanted > LONGEST_RANGE {
            return Err(self.failed(format!("a range of {wanted} bytes is too long to be held in memory; download the file")));
        }
        let (bytes, _) = self.ask(&format!("bytes={}-{}", range.start, range.end.saturating_sub(1)))?;
        if bytes.len() as u64 == wanted {
            return Ok(bytes);
        }
        Err(self.failed(format!("{} of {wanted} bytes came from byte {} on", bytes.len(), range.start)))
    }

    /// The bytes of a range, and the length of the whole file where the server gives it. Asks again where the connection breaks.
    fn ask(&self, range: &str) -> Result<(Bytes, Option<u64>)> {
        let mut attempt = 1;
        loop {
            interrupt::check()?;
            match self.attempt(range)? {
                Ok(found) => return Ok(found),
                Err(reason) if attempt == ATTEMPTS => return Err(self.failed(reason)),
                Err(_) => std::thread::sleep(self.client.pause * attempt),
            }
            attempt += 1;
        }
    }

    /// One attempt; the inner error is worth another one.
    fn attempt(&self, range: &str) -> Result<Result<(Bytes, Option<u64>), String>> {
        let mut response = match self.client.get(&self.address).header(header::RANGE, range).call() {
            Ok(response) => response,
            Err(error) => return Ok(Err(error.to_string())),
        };
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {}
            StatusCode::OK => return Err(self.failed("the server knows no byte ranges; download the file".into())),
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                return Ok(Err(format!("the server answers {status}")));
            }
            status => return Err(self.failed(format!("the server answers {status}"))),
        }
        let (total, promised) = (download::range_total(&response), download::content_length(&response));
        let mut bytes = Vec::new();
        let read = response.body_mut().as_reader().take(LONGEST_RANGE).read_to_end(&mut bytes);
        Ok(match read {
            Ok(n) if promised.is_none_or(|promised| promised == n as u64) => Ok((bytes.into(), total)),
            Ok(n) => Err(format!("the connection ended after {n} bytes")),
            Err(error) => Err(error.to_string()),
        })
    }

    fn failed(&self, reason: String) -> Error {
        let hint = "check the address and the network; or download the file, put it below the folder of the sources and name it there";
        Error::Remote { address: self.address.clone(), reason, hint: hint.into() }
    }
}

impl Length for Parts {
    fn len(&self) -> u64 {
        self.length
    }
}

impl ChunkReader for Parts {
    type T = Cursor<Bytes>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        let part = self.parts.iter().find(|(from, bytes)| (*from..from + bytes.len() as u64).contains(&start));
        let (from, bytes) = part.ok_or_else(|| ParquetError::EOF(format!("byte {start} was not asked for")))?;
        Ok(Cursor::new(bytes.slice((start - from) as usize..)))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let end = start.saturating_add(length as u64);
        let part = self.parts.iter().find(|(from, bytes)| *from <= start && end <= from + bytes.len() as u64);
        let Some((from, bytes)) = part else { return Err(ParquetError::NeedMoreData((self.length.saturating_sub(start)) as usize)) };
        let start = (start - from) as usize;
        Ok(bytes.slice(start..start + length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_hub_and_of_stores_become_web_addresses() {
        let of = |text: &str| address(Path::new(text));
        assert_eq!(of("laion/*.parquet").unwrap(), None);
        let cases = [
            ("hf://datasets/a/b/c/d.parquet", "https://huggingface.co/datasets/a/b/resolve/main/c/d.parquet"),
            ("hf://datasets/a/b@v1/d.parquet", "https://huggingface.co/datasets/a/b/resolve/v1/d.parquet"),
            ("s3://bucket/a/b.parquet", "https://bucket.s3.amazonaws.com/a/b.parquet"),
            ("gs://bucket/b.parquet", "https://storage.googleapis.com/bucket/b.parquet"),
            ("https://example.org/b.parquet?download=true", "https://example.org/b.parquet?download=true"),
        ];
        for (text, expected) in cases {
            assert_eq!(of(text).unwrap().as_deref(), Some(expected));
        }
        for text in
            ["hf://datasets/a/b", "hf://models/a/b/c", "s3://bucket", "gs:///x", "ftp://a/b", "s3://b/*.parquet", "https://a/*.parquet"]
        {
            assert_eq!(of(text).unwrap_err().exit_code(), 2, "{text}");
        }
    }

    #[test]
    fn parts_give_what_they_hold_and_nothing_else() {
        let parts = Parts { length: 100, parts: vec![(10, Bytes::from_static(b"abcdef")), (50, Bytes::from_static(b"xyz"))] };
        assert_eq!(parts.get_bytes(12, 3).unwrap(), "cde");
        assert_eq!(parts.get_bytes(50, 3).unwrap(), "xyz");
        let mut text = String::new();
        parts.get_read(14).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "ef");
        assert!(parts.get_read(16).is_err() && parts.get_bytes(51, 3).is_err() && parts.get_bytes(u64::MAX, 3).is_err());
    }
}
