//! `read_files`, `write_files`, `list_files`, `remove_files`, and files as resources.

use super::answer::{Done, TEXT_BYTES_MAX, invalid};
use super::conversation::{Call, session_id};
use crate::http::body::percent_decode;
use crate::http::error::{Code, Problem};
use crate::http::{file::mime, time};
use crate::service::{ListRequest, Refusal};
use anchorhold_sandbox::{Download, EntryKind, Part, SessionId, WorkspacePath};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use rmcp::model::{ContentBlock, ReadResourceResult, Resource, ResourceContents, ResourceTemplate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// The most files of a call.
const FILES_MAX: usize = 64;
/// The most bytes of files that one answer holds.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// The most entries of a list.
const ENTRIES_DEFAULT: usize = 200;
const ENTRIES_MAX: u64 = 1000;
const SCHEME: &str = "anchorhold://";

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReadFiles {
    /// Paths below /workspace, at most 64.
    paths: Vec<String>,
    /// The session; where omitted the current one, or a new one.
    session_id: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WriteFiles {
    /// At most 64, and 1 MiB together.
    files: Vec<NewFile>,
    /// The session; where omitted the current one, or a new one.
    session_id: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct NewFile {
    /// Below /workspace.
    path: String,
    /// The whole file as text, or else content_base64.
    content: Option<String>,
    /// The whole file in base64.
    content_base64: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListFiles {
    /// The directory; /workspace where omitted.
    #[serde(default)]
    path: String,
    /// Also everything below.
    #[serde(default)]
    recursive: bool,
    /// From after this path: the next of an earlier answer.
    after: Option<String>,
    /// At most so many entries: up to 1000, 200 where omitted.
    limit: Option<u64>,
    /// The session; where omitted the current one, or a new one.
    session_id: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RemoveFiles {
    /// Paths below /workspace, at most 64.
    paths: Vec<String>,
    /// Also directories with everything in them.
    #[serde(default)]
    recursive: bool,
    /// The session; where omitted the current one, or a new one.
    session_id: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Contents {
    session_id: String,
    files: Vec<Content>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<Mistake>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Content {
    path: String,
    size: u64,
    mime: String,
    /// The file, or its beginning. Without it the content follows this text, as an image or a resource.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    /// Not all of it is here.
    truncated: bool,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Written {
    session_id: String,
    files: Vec<NewEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<Mistake>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct NewEntry {
    path: String,
    size: u64,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Listing {
    session_id: String,
    files: Vec<Entry>,
    /// More are there: give it back as after.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Entry {
    path: String,
    #[schemars(extend("enum" = ["file", "directory", "symlink", "other"]))]
    r#type: String,
    size: u64,
    modified_at: String,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Removed {
    session_id: String,
    removed: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<Mistake>,
}

/// One file that could not be had; the others were.
#[derive(Debug, Serialize, JsonSchema)]
struct Mistake {
    path: String,
    error: String,
}

/// Files of an answer, and what is left of its size.
struct Reading {
    session: SessionId,
    left: usize,
    files: Vec<Content>,
    blocks: Vec<ContentBlock>,
}

impl Call<'_> {
    pub(super) async fn read_files(&self, asked: ReadFiles) -> Result<Done, Problem> {
        let paths = paths(&asked.paths)?;
        let session = self.session(asked.session_id.as_deref()).await?;
        let mut reading = Reading { session, left: ANSWER_BYTES_MAX, files: Vec::new(), blocks: Vec::new() };
        let mut errors = Vec::new();
        // Never closed, so it only waits.
        let _turn = self.reads().acquire().await;
        for path in paths {
            match self.service().download(self.tenant(), session, &path, Part::Whole).await {
                Ok(download) => reading.read(&path, download).await?,
                Err(refusal) => errors.push(Mistake::of(&path, refusal)?),
            }
        }
        let session_id = format!("ses_{session}");
        let failed = !errors.is_empty();
        let done = Done::new(session_id.clone(), &Contents { session_id, files: reading.files, errors })?;
        Ok(Done { failed, blocks: reading.blocks, ..done })
    }

    pub(super) async fn write_files(&self, asked: WriteFiles) -> Result<Done, Problem> {
        if asked.files.is_empty() || asked.files.len() > FILES_MAX {
            return Err(invalid("files: must have 1 to 64 items"));
        }
        // All of them are looked at before the first is written.
        let new = asked.files.into_iter().map(NewFile::content).collect::<Result<Vec<_>, _>>()?;
        let session = self.session(asked.session_id.as_deref()).await?;
        let (mut files, mut errors) = (Vec::new(), Vec::new());
        for (path, content) in new {
            let length = u64::try_from(content.len()).unwrap_or(u64::MAX);
            let body = futures_util::stream::iter([Ok(content)]);
            match self.service().upload(self.tenant(), session, &path, Some(length), body).await {
                Ok(written) => files.push(NewEntry { path: path.to_string(), size: written.size }),
                Err(refusal) => errors.push(Mistake::of(&path, refusal)?),
            }
        }
        let session_id = format!("ses_{session}");
        let failed = !errors.is_empty();
        let done = Done::new(session_id.clone(), &Written { session_id, files, errors })?;
        Ok(Done { failed, ..done })
    }

    pub(super) async fn list_files(&self, asked: ListFiles) -> Result<Done, Problem> {
        let path: WorkspacePath = asked.path.parse().map_err(|error| invalid(format!("path: {error}")))?;
        let limit = match asked.limit {
            None => ENTRIES_DEFAULT,
            Some(limit @ 1..=ENTRIES_MAX) => usize::try_from(limit).unwrap_or(ENTRIES_DEFAULT),
            Some(_) => return Err(invalid("limit: must be from 1 to 1000")),
        };
        let session = self.session(asked.session_id.as_deref()).await?;
        let request = ListRequest { path, recursive: asked.recursive, after: asked.after, limit };
        let listing = self.service().list(self.tenant(), session, &request).await?;
        let files = listing.entries.into_iter().map(|entry| Entry {
            r#type: kind(entry.kind).to_owned(),
            size: entry.size,
            modified_at: time(entry.modified_us),
            path: entry.path,
        });
        let session_id = format!("ses_{session}");
        let listing = Listing { session_id: session_id.clone(), files: files.collect(), next: listing.next };
        Done::new(session_id, &listing)
    }

    pub(super) async fn remove_files(&self, asked: RemoveFiles) -> Result<Done, Problem> {
        let paths = paths(&asked.paths)?;
        let session = self.session(asked.session_id.as_deref()).await?;
        let (mut removed, mut errors) = (Vec::new(), Vec::new());
        for path in paths {
            match self.service().delete(self.tenant(), session, &path, asked.recursive).await {
                Ok(()) => removed.push(path.to_string()),
                Err(refusal) => errors.push(Mistake::of(&path, refusal)?),
            }
        }
        let session_id = format!("ses_{session}");
        let failed = !errors.is_empty();
        let done = Done::new(session_id.clone(), &Removed { session_id, removed, errors })?;
        Ok(Done { failed, ..done })
    }

    /// A file as a resource: all of it, or a refusal.
    pub(super) async fn resource(&self, location: &Location) -> Result<ReadResourceResult, Problem> {
        let _turn = self.reads().acquire().await;
        let download =
            self.service().download(self.tenant(), location.session, &location.path, Part::Whole).await?;
        if usize::try_from(download.entry.size).map_or(true, |size| size > ANSWER_BYTES_MAX) {
            let detail =
                format!("a resource has at most {ANSWER_BYTES_MAX} bytes; read a part of it by code");
            return Err(Problem::new(Code::PayloadTooLarge, detail));
        }
        let bytes = beginning(download, ANSWER_BYTES_MAX).await?;
        let uri = location.to_string();
        let contents = match String::from_utf8(bytes) {
            Ok(text) => ResourceContents::text(text, uri),
            Err(error) => ResourceContents::blob(STANDARD.encode(error.as_bytes()), uri),
        };
        Ok(ReadResourceResult::new(vec![contents.with_mime_type(mime(location.path.as_str()))]))
    }
}

impl Reading {
    /// Takes a file, in the form that says most to a model.
    async fn read(&mut self, path: &WorkspacePath, download: Download) -> Result<(), Problem> {
        let size = download.entry.size;
        let mime = mime(path.as_str());
        let whole = usize::try_from(size).unwrap_or(usize::MAX);
        let is_image = ["image/png", "image/jpeg", "image/gif", "image/webp"].contains(&mime);
        let most = if is_image { self.left } else { self.left.min(TEXT_BYTES_MAX) };
        let bytes = if is_image && whole > most { Vec::new() } else { beginning(download, most).await? };
        self.left -= bytes.len();
        let truncated = bytes.len() < whole;
        let mut content =
            Content { path: path.to_string(), size, mime: mime.to_owned(), text: None, truncated };
        let location = Location { session: self.session, path: path.clone() };
        if is_image && !truncated {
            self.blocks.push(ContentBlock::image(STANDARD.encode(bytes), mime));
        } else if let Some(text) = readable(&bytes, truncated).filter(|_| !is_image) {
            content.text = Some(text.to_owned());
        } else if !truncated {
            let blob = ResourceContents::blob(STANDARD.encode(bytes), location.to_string());
            self.blocks.push(ContentBlock::resource(blob.with_mime_type(mime)));
        }
        if truncated {
            let link = Resource::new(location.to_string(), path.as_str());
            self.blocks.push(ContentBlock::resource_link(link.with_mime_type(mime).with_size(size)));
        }
        self.files.push(content);
        Ok(())
    }
}

/// Text for people, or a beginning of it that may end within a character.
fn readable(bytes: &[u8], truncated: bool) -> Option<&str> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) if truncated && error.error_len().is_none() => {
            std::str::from_utf8(&bytes[..error.valid_up_to()]).ok()?
        }
        Err(_) => return None,
    };
    (!text.contains('\0')).then_some(text)
}

/// The first bytes of a file.
async fn beginning(download: Download, most: usize) -> Result<Vec<u8>, Problem> {
    let mut body = download.body;
    let mut bytes = Vec::new();
    while bytes.len() < most {
        let next = body.try_next().await.map_err(|error| {
            tracing::debug!(%error, "a file could not be read to its end");
            Problem::new(Code::Conflict, "the file changed or went away while it was read")
        })?;
        let Some(piece) = next else { break };
        bytes.extend_from_slice(&piece[..piece.len().min(most - bytes.len())]);
    }
    Ok(bytes)
}

impl NewFile {
    fn content(self) -> Result<(WorkspacePath, Bytes), Problem> {
        let path = path(&self.path)?;
        match (self.content, self.content_base64) {
            (Some(text), None) => Ok((path, Bytes::from(text))),
            (None, Some(text)) => {
                let bytes = STANDARD.decode(text);
                let bytes = bytes.map_err(|_| invalid(format!("{path}: content_base64 is not base64")))?;
                Ok((path, Bytes::from(bytes)))
            }
            _ => Err(invalid(format!("{path}: exactly one of content and content_base64 is needed"))),
        }
    }
}

impl Mistake {
    /// What concerns one file only; anything else is the whole call's.
    fn of(path: &WorkspacePath, refusal: Refusal) -> Result<Self, Problem> {
        let problem = Problem::from(refusal.clone());
        match refusal {
            Refusal::File(_) => {
                Ok(Self { path: path.to_string(), error: format!("{}: {}", problem.code, problem.detail) })
            }
            _ => Err(problem),
        }
    }
}

fn paths(texts: &[String]) -> Result<Vec<WorkspacePath>, Problem> {
    if texts.is_empty() || texts.len() > FILES_MAX {
        return Err(invalid("paths: must have 1 to 64 items"));
    }
    texts.iter().map(|text| path(text)).collect()
}

fn path(text: &str) -> Result<WorkspacePath, Problem> {
    match text.parse::<WorkspacePath>() {
        Ok(path) if path.is_root() => Err(Problem::new(Code::InvalidPath, "a path must name a file")),
        Ok(path) => Ok(path),
        Err(error) => Err(Problem::new(Code::InvalidPath, error.to_string())),
    }
}

fn kind(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::File => "file",
        EntryKind::Directory => "directory",
        EntryKind::Symlink => "symlink",
        EntryKind::Other => "other",
    }
}

/// A file's address for clients: `anchorhold://ses_…/path`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Location {
    session: SessionId,
    path: WorkspacePath,
}

/// How addresses of files are made.
pub(super) fn template() -> ResourceTemplate {
    ResourceTemplate::new(format!("{SCHEME}{{session_id}}/{{+path}}"), "workspace file")
        .with_description("A file of a session's /workspace.")
}

impl FromStr for Location {
    type Err = Problem;

    fn from_str(uri: &str) -> Result<Self, Problem> {
        let parts = uri.strip_prefix(SCHEME).and_then(|rest| rest.split_once('/'));
        let (session, sent) = parts.ok_or_else(|| Problem::new(Code::FileNotFound, "no such resource"))?;
        let text = percent_decode(sent)
            .ok_or_else(|| Problem::new(Code::InvalidPath, "the path is not percent-encoded UTF-8"))?;
        Ok(Self { session: session_id(session)?, path: path(&text)? })
    }
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{SCHEME}ses_{}/", self.session)?;
        for byte in self.path.as_str().bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
                write!(f, "{}", char::from(byte))?;
            } else {
                write!(f, "%{byte:02X}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_beginning_of_text_is_text() {
        let text = "aä".as_bytes();
        assert_eq!(readable(text, false), Some("aä"));
        assert_eq!(readable(&text[..2], true), Some("a"));
        assert_eq!(readable(&text[..2], false), None);
        assert_eq!(readable(b"a\0b", false), None);
        assert_eq!(readable(b"\xff\xfe", true), None);
    }

    #[test]
    fn addresses_name_files_of_sessions() {
        let session = SessionId::random();
        let path = "a dir/ü%.csv".parse().unwrap();
        let uri = Location { session, path }.to_string();
        assert_eq!(uri, format!("anchorhold://ses_{session}/a%20dir/%C3%BC%25.csv"));
        for (uri, code) in [
            ("file:///etc/passwd".to_owned(), Code::FileNotFound),
            ("anchorhold://ses_x/a".to_owned(), Code::SessionNotFound),
            (format!("anchorhold://ses_{session}/../a"), Code::InvalidPath),
            (format!("anchorhold://ses_{session}/%2e%2e/a"), Code::InvalidPath),
            (format!("anchorhold://ses_{session}/"), Code::InvalidPath),
        ] {
            assert_eq!(uri.parse::<Location>().unwrap_err().code, code, "{uri}");
        }
    }

    proptest! {
        #[test]
        fn addresses_lead_back(text in "[^/\0]{1,20}(/[^/\0]{1,20}){0,3}") {
            if let Ok(path) = text.parse::<WorkspacePath>() && !path.is_root() {
                let location = Location { session: SessionId::random(), path };
                prop_assert_eq!(location.to_string().parse::<Location>().unwrap(), location);
            }
        }
    }
}
