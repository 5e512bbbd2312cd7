//! Many files in one request: archives of every kind both ways, and what hostile ones come to.

use crate::Shared;
use anchorhold_tests::{Answer, Client, Options, Server};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{Cursor, Read, Write};
use std::time::{Duration, Instant};
use tar::{EntryType, Header};
use zip::write::SimpleFileOptions;

tests!(
    every_format_goes_both_ways,
    another_reader_agrees,
    what_is_unpacked_replaces_files_only,
    odd_names_come_back_exactly,
    modes_owners_and_attributes_are_not_taken,
    hostile_tars_change_nothing,
    hostile_zips_change_nothing,
    links_are_neither_followed_nor_packed,
    bombs_reach_their_limits,
    an_archive_that_a_crash_cuts_is_not_seen,
    requests_are_read_strictly,
);

const FORMATS: [(&str, &str); 4] = [
    ("tar", "application/x-tar"),
    ("tar.gz", "application/gzip"),
    ("tar.zst", "application/zstd"),
    ("zip", "application/zip"),
];
/// What ends a tar.
const END: [u8; 1024] = [0; 1024];

fn archive(session: &str) -> String {
    format!("/v1/sessions/{session}/archive")
}

fn send(client: &Client, session: &str, body: Vec<u8>) -> Result<Answer> {
    client.raw("POST", &archive(session), &[], body)
}

/// Everything in a workspace: kind, mode and content by path.
type Contents = BTreeMap<String, (Value, Value, Vec<u8>)>;

fn snapshot(client: &Client, session: &str) -> Result<Contents> {
    let files = format!("/v1/sessions/{session}/files");
    let listed = client.get(&format!("{files}?recursive=true&limit=1000"))?.expect(200);
    let mut all = BTreeMap::new();
    for item in listed["items"].as_array().into_iter().flatten() {
        let path = item["path"].as_str().context("path")?;
        let content = if item["type"] == "file" {
            let encoded: String = path.bytes().map(|byte| format!("%{byte:02X}")).collect();
            client.get(&format!("{files}/{encoded}"))?.bytes
        } else {
            Vec::new()
        };
        all.insert(path.to_owned(), (item["type"].clone(), item["mode"].clone(), content));
    }
    Ok(all)
}

/// A tar with one header and content after another, without its end.
#[derive(Default, Clone)]
struct Tar(Vec<u8>);

impl Tar {
    /// An entry whose header says exactly this, whatever follows it.
    fn entry(mut self, kind: EntryType, name: &[u8], size: u64, content: &[u8]) -> Self {
        let mut header = Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.set_mode(0o644);
        header.set_size(size);
        header.set_entry_type(kind);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, content: &str) -> Self {
        self.entry(EntryType::Regular, name.as_bytes(), content.len() as u64, content.as_bytes())
    }

    fn directory(self, name: &str) -> Self {
        self.entry(EntryType::Directory, name.as_bytes(), 0, b"")
    }

    /// A link to `target`.
    fn link(mut self, kind: EntryType, name: &str, target: &str) -> Self {
        let mut header = Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target.as_bytes());
        header.set_mode(0o777);
        header.set_size(0);
        header.set_entry_type(kind);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self
    }

    /// A PAX header with one record.
    fn pax(self, kind: EntryType, key: &str, value: &str) -> Self {
        let rest = format!(" {key}={value}\n");
        let length = (1..).find(|length: &usize| length.to_string().len() + rest.len() == *length);
        let record = format!("{}{rest}", length.unwrap_or_default());
        self.entry(kind, b"pax", record.len() as u64, record.as_bytes())
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&END);
        self.0
    }
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes)?;
    Ok(out.finish()?)
}

fn every_format_goes_both_ways(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let from = client.session(&json!({}))?;
    let files = format!("/v1/sessions/{from}/files");
    let large: Vec<u8> =
        (0..1_500_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let long = format!("d/{}/{}", "x".repeat(200), "y".repeat(100));
    for (path, content) in
        [("a.txt", b"x".to_vec()), ("d/large", large), ("d/%C3%BCber%20da", vec![]), (&long, vec![7])]
    {
        client.put(&format!("{files}/{path}"), content)?.expect(201);
    }
    let tar = Tar::default().directory("empty/").file("./dot", "").end();
    client.raw("POST", &format!("{}?path=in/here", archive(&from)), &[], tar)?.expect(201);
    let before = snapshot(&client, &from)?;
    assert_eq!(before.len(), 10, "{:?}", before.keys());
    for (format, media_type) in FORMATS {
        let packed = client.get(&format!("{}?format={format}", archive(&from)))?;
        assert_eq!((packed.status, packed.header("content-type")), (200, Some(media_type)));
        assert_eq!(packed.header("x-content-type-options"), Some("nosniff"));
        for (query, headers) in [
            (format!("?format={format}"), vec![]),
            (String::new(), vec![("content-type", media_type)]),
            (String::new(), vec![]),
        ] {
            let to = client.session(&json!({}))?;
            let body = packed.bytes.clone();
            let answer = client.raw("POST", &format!("{}{query}", archive(&to)), &headers, body)?;
            let answer = answer.expect(201);
            assert_eq!((&answer["entries"], &answer["size"]), (&json!(10), &json!(6_000_002)), "{format}");
            assert!(snapshot(&client, &to)? == before, "{format} {query} {headers:?}");
            client.close(&to)?;
        }
    }
    let part = client.get(&format!("{}?path=in&format=tar", archive(&from)))?;
    let names = tar::Archive::new(&part.bytes[..]);
    let mut names = names;
    let names: Vec<_> =
        names.entries()?.map(|e| Ok(e?.path()?.display().to_string())).collect::<Result<_>>()?;
    assert_eq!(names, ["here/", "here/dot", "here/empty/"]);
    client.close(&from)?;
    Ok(())
}

/// Python's own readers, in the session, see what was packed; and what Python's writers make is unpacked.
fn another_reader_agrees(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    let files = format!("/v1/sessions/{session}/files");
    client.put(&format!("{files}/in/a/b.txt"), "hello")?.expect(201);
    client.put(&format!("{files}/in/{}", "n".repeat(150)), "long")?.expect(201);
    for (format, code) in [
        (
            "tar",
            "import tarfile\nt = tarfile.open('got')\n{m.name: m.isfile() and t.extractfile(m).read() for m in t}",
        ),
        (
            "tar.gz",
            "import tarfile\nt = tarfile.open('got')\n{m.name: m.isfile() and t.extractfile(m).read() for m in t}",
        ),
        (
            "zip",
            "import zipfile\nz = zipfile.ZipFile('got')\nassert z.testzip() is None\n\
             {n.rstrip('/'): not n.endswith('/') and z.read(n) for n in z.namelist()}",
        ),
    ] {
        let packed = client.get(&format!("{}?path=in&format={format}", archive(&session)))?;
        assert_eq!(packed.status, 200, "{}", packed.text());
        client.put(&format!("{files}/got"), packed.bytes)?.expect(201);
        let seen = client.execute(&session, "python", code)?;
        let expected = format!("{{'a': False, 'a/b.txt': b'hello', '{}': b'long'}}", "n".repeat(150));
        assert_eq!(seen["results"][0]["mime"]["text/plain"], expected, "{format}: {seen}");
    }
    let code = "import tarfile, zipfile\n\
        for mode, name in [('w', 'm.tar'), ('w:gz', 'm.tgz')]:\n    with tarfile.open(name, mode) as t: t.add('in', 'made')\n\
        with zipfile.ZipFile('m.zip', 'w', zipfile.ZIP_DEFLATED) as z: z.write('in/a/b.txt', 'made/a/b.txt')";
    let made = client.execute(&session, "python", code)?;
    assert_eq!(made["status"], "succeeded", "{made}");
    for name in ["m.tar", "m.tgz", "m.zip"] {
        let bytes = client.get(&format!("{files}/{name}"))?.bytes;
        send(&client, &session, bytes)?.expect(201);
        assert_eq!(client.get(&format!("{files}/made/a/b.txt"))?.text(), "hello", "{name}");
        client.delete(&format!("{files}/made?recursive=true"))?;
    }
    client.close(&session)?;
    Ok(())
}

fn what_is_unpacked_replaces_files_only(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    let files = format!("/v1/sessions/{session}/files");
    for path in ["a", "d/kept", "d/old"] {
        client.put(&format!("{files}/{path}"), "before")?.expect(201);
    }
    let tar = Tar::default().file("a", "after").file("d/old", "after").file("new/x", "after").end();
    send(&client, &session, tar)?.expect(201);
    let read = |path: &str| Ok::<_, anyhow::Error>(client.get(&format!("{files}/{path}"))?.text());
    assert_eq!(
        (read("a")?, read("d/old")?, read("d/kept")?),
        ("after".into(), "after".into(), "before".into())
    );
    let before = snapshot(&client, &session)?;
    // The last entry does not fit what is there.
    for last in [
        Tar::default().file("a", "again").file("z/z", "z").file("d", "x"),
        Tar::default().file("new/y", "").directory("a/b"),
    ] {
        assert_eq!(send(&client, &session, last.end())?.problem(409), "conflict");
        assert!(snapshot(&client, &session)? == before);
    }
    let inside = client.execute(&session, "python", "import os\nsorted(os.listdir('.'))")?;
    assert_eq!(inside["results"][0]["mime"]["text/plain"], "['a', 'd', 'new']", "nothing of ours is left");
    client.close(&session)?;
    Ok(())
}

/// security.md 85: names that look alike stay apart, none is changed on the way.
fn odd_names_come_back_exactly(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let (from, to) = (client.session(&json!({}))?, client.session(&json!({}))?);
    let longest = "n".repeat(255);
    let names = [
        "e\u{301}",
        "\u{e9}",
        "new\nline",
        "tab\tbell\u{7}",
        " space ",
        "...",
        "CON",
        "a\\b",
        "-rf",
        "~",
        "\u{202e}ltr",
        "100%",
        "<script>",
        &longest,
    ];
    let tar = names
        .iter()
        .fold(Tar::default(), |tar, name| tar.pax(EntryType::XHeader, "path", name).file("short", name));
    send(&client, &from, tar.end())?.expect(201);
    let inside = client.execute(
        &from,
        "python",
        "import os\n[name == open(name).read() for name in os.listdir('.')]",
    )?;
    let all_true = format!("[{}]", vec!["True"; names.len()].join(", "));
    assert_eq!(inside["results"][0]["mime"]["text/plain"], all_true.as_str(), "{inside}");
    for (format, _) in FORMATS {
        let packed = client.get(&format!("{}?format={format}", archive(&from)))?;
        assert_eq!(packed.status, 200, "{}", packed.text());
        send(&client, &to, packed.bytes)?.expect(201);
        assert!(snapshot(&client, &to)? == snapshot(&client, &from)?, "{format}");
    }
    let too_long = "n".repeat(256);
    let files = format!("/v1/sessions/{from}/files");
    assert_eq!(client.put(&format!("{files}/{too_long}"), "x")?.problem(400), "invalid_path");
    let tar = Tar::default().pax(EntryType::XHeader, "path", &too_long).file("short", "x").end();
    assert_eq!(send(&client, &from, tar)?.problem(422), "archive_limit");
    client.close(&from)?;
    client.close(&to)?;
    Ok(())
}

/// security.md 83: setuid, world-writable, somebody else's, with attributes: what arrives is a plain file of the session.
fn modes_owners_and_attributes_are_not_taken(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    let mut tar = Tar::default();
    for (name, mode) in [("plain", 0o6666), ("program", 0o7777), ("secret", 0o000)] {
        tar = tar.pax(EntryType::XHeader, "SCHILY.xattr.security.capability", "\u{1}");
        let at = tar.0.len();
        tar = tar.file(name, "x");
        let mut header = Header::from_byte_slice(&tar.0[at..at + 512]).clone();
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_cksum();
        tar.0[at..at + 512].copy_from_slice(header.as_bytes());
    }
    send(&client, &session, tar.end())?.expect(201);
    let listed = client.get(&format!("/v1/sessions/{session}/files"))?.expect(200);
    let modes: Vec<_> = listed["items"].as_array().into_iter().flatten().map(|item| &item["mode"]).collect();
    assert_eq!(modes, ["0644", "0755", "0644"]);
    let seen = client.execute(
        &session,
        "python",
        "[open(name).read() for name in ('plain', 'program', 'secret')]",
    )?;
    assert_eq!(seen["results"][0]["mime"]["text/plain"], "['x', 'x', 'x']", "{seen}");
    client.close(&session)?;
    Ok(())
}

/// Sends each after a good entry; each is refused so, and the workspace is as before.
fn refused(client: &Client, session: &str, cases: Vec<(&str, Vec<u8>, u16, &str)>) -> Result<()> {
    let files = format!("/v1/sessions/{session}/files");
    client.put(&format!("{files}/good"), "before")?.expect(201);
    client.put(&format!("{files}/d/below"), "before")?.expect(201);
    let before = snapshot(client, session)?;
    for (what, body, status, code) in cases {
        let answer = send(client, session, body)?;
        ensure!(answer.status == status, "{what}: {} {}", answer.status, answer.text());
        assert_eq!(answer.problem(status), code, "{what}");
        ensure!(snapshot(client, session)? == before, "{what} changed something");
    }
    let inside = client.execute(session, "python", "import os\nsorted(os.listdir('.'))")?;
    assert_eq!(inside["results"][0]["mime"]["text/plain"], "['d', 'good']", "nothing of ours is left");
    Ok(())
}

/// security.md 81, 83, 84, 85.
fn hostile_tars_change_nothing(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    let good = || Tar::default().file("good", "after").file("new/file", "after");
    let whole = good().file("last", &"x".repeat(2000)).end();
    let (long, pax) = (EntryType::GNULongName, EntryType::XHeader);
    let mut cases: Vec<(&str, Vec<u8>, u16, &str)> = Vec::new();
    let mut invalid = |what, tar: Tar| cases.push((what, tar.end(), 400, "invalid_archive"));
    for name in
        ["../x", "a/../../x", "/etc/x", "a//x", "a/./x", "..", ".anchorhold-x", "a/.anchorhold-x/b", "./../x"]
    {
        invalid(name, good().file(name, "x"));
        invalid(name, good().pax(pax, "path", name).file("innocent", "x"));
        invalid(name, good().entry(long, b"long", name.len() as u64, name.as_bytes()).file("innocent", "x"));
    }
    invalid("empty name", good().file("", "x"));
    invalid("no UTF-8", good().entry(EntryType::Regular, b"\xff", 0, b""));
    invalid("symlink", good().link(EntryType::Symlink, "s", "/etc/passwd"));
    invalid("symlink, then through it", good().link(EntryType::Symlink, "s", "/tmp").file("s/x", "x"));
    invalid("symlink and directory", good().link(EntryType::Symlink, "s", "d").directory("s/"));
    invalid("hard link", good().link(EntryType::Link, "h", "good"));
    invalid("hard link outside", good().link(EntryType::Link, "h", "../../etc/passwd"));
    invalid("PAX linkpath", good().pax(pax, "linkpath", "/etc/passwd").link(EntryType::Symlink, "s", "x"));
    for kind in
        [EntryType::Char, EntryType::Block, EntryType::Fifo, EntryType::GNUSparse, EntryType::Continuous]
    {
        invalid("special", good().entry(kind, b"special", 0, b""));
    }
    invalid("PAX sparse", good().pax(pax, "GNU.sparse.realsize", "1000000").file("s", "x"));
    invalid("PAX size", good().pax(pax, "size", "5").file("s", "x"));
    invalid("PAX size that is none", good().pax(pax, "size", "-1").file("s", "x"));
    invalid("PAX path twice", good().pax(pax, "path", "a").pax(pax, "path", "b").file("s", "x"));
    invalid("two long names", good().pax(pax, "path", "a").entry(long, b"l", 1, b"b").file("s", "x"));
    invalid("PAX path for all", good().pax(EntryType::XGlobalHeader, "path", "a").file("s", "x"));
    invalid("PAX garbage", good().entry(pax, b"pax", 5, b"9 a=b").file("s", "x"));
    invalid("a name for nothing", good().pax(pax, "path", "a"));
    invalid("repeated", good().file("good", "again"));
    invalid("repeated otherwise", good().file("./good", "again"));
    invalid("below a file", good().file("good/x", "x"));
    invalid("a file where a directory was", good().file("new", "x"));
    invalid("a directory with content", good().entry(EntryType::Directory, b"dir", 512, &[1; 512]));
    invalid("larger than the archive", good().entry(EntryType::Regular, b"huge", 1 << 60, b"x"));
    let mut wrong_sum = whole.clone();
    wrong_sum[0] ^= 1;
    cases.push(("checksum", wrong_sum, 400, "invalid_archive"));
    cases.push(("trailing", [&whole[..], b"x"].concat(), 400, "invalid_archive"));
    cases.push(("nothing", Vec::new(), 400, "invalid_archive"));
    cases.push(("no archive", b"hello".repeat(500), 400, "invalid_archive"));
    for cut in [100, 512, 600, 1024, 2048, 2500, 4000, whole.len() - 1024] {
        cases.push(("cut tar", whole[..cut].to_vec(), 400, "invalid_archive"));
    }
    let zipped = gzip(&whole)?;
    let squeezed = zstd::encode_all(&whole[..], 3)?;
    for packed in [&zipped, &squeezed] {
        for cut in [3, 12, packed.len() / 2, packed.len() - 1] {
            cases.push(("cut compressed", packed[..cut].to_vec(), 400, "invalid_archive"));
        }
        cases.push(("trailing garbage", [packed, &b"x"[..]].concat(), 400, "invalid_archive"));
    }
    refused(&client, &session, cases)?;
    client.close(&session)?;
    Ok(())
}

/// A zip of entries with a Unix mode and stored content.
fn zip_of(entries: &[(&str, u32, &str)]) -> Result<Vec<u8>> {
    let mut out = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, mode, content) in entries {
        let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        out.start_file(*name, options.unix_permissions(*mode))?;
        out.write_all(content.as_bytes())?;
    }
    Ok(out.finish()?.into_inner())
}

/// Replaces every one of some bytes by as many others.
fn replaced(mut bytes: Vec<u8>, old: &[u8], new: &[u8]) -> Vec<u8> {
    let mut at = 0;
    while let Some(found) = bytes[at..].windows(old.len()).position(|part| part == old) {
        bytes[at + found..at + found + new.len()].copy_from_slice(new);
        at += found + new.len();
    }
    bytes
}

/// Two stored entries that agree with all their headers, where the first one's content is the second entry.
fn overlapping() -> Vec<u8> {
    let described = |name: &str, content: &[u8]| {
        let mut crc = flate2::Crc::new();
        crc.update(content);
        let size = u32::try_from(content.len()).unwrap_or_default().to_le_bytes();
        // Version 2.0, no flags, stored, the beginning of 1980; the check sum, both sizes, the lengths of two names.
        let fixed = [20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0];
        let lengths = [u8::try_from(name.len()).unwrap_or_default(), 0, 0, 0];
        [&fixed[..], &crc.sum().to_le_bytes(), &size, &size, &lengths].concat()
    };
    let local = |name: &str, content: &[u8]| {
        [&b"PK\x03\x04"[..], &described(name, content)[..], name.as_bytes(), content].concat()
    };
    let central = |name: &str, content: &[u8], offset: u8| {
        // No comment, one disk, no attributes.
        let rest = [&[0; 10][..], &[offset, 0, 0, 0]].concat();
        [&b"PK\x01\x02"[..], &[20, 0], &described(name, content), &rest, name.as_bytes()].concat()
    };
    let inner = local("b", b"content");
    let outer = local("a", &inner);
    let offset = u8::try_from(outer.len() - inner.len()).unwrap_or_default();
    let directory = [central("a", &inner, 0), central("b", b"content", offset)].concat();
    let numbers = [0, 0, 0, 0, 2, 0, 2, 0, u8::try_from(directory.len()).unwrap_or_default(), 0, 0, 0];
    let end = [&numbers[..], &[u8::try_from(outer.len()).unwrap_or_default(), 0, 0, 0, 0, 0]].concat();
    [outer, directory, b"PK\x05\x06".to_vec(), end].concat()
}

/// security.md 81, 82 (overlapping), 83.
fn hostile_zips_change_nothing(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    let with = |name: &str, mode: u32, content: &str| {
        zip_of(&[("good", 0o644, "after"), ("new/file", 0o644, "after"), (name, mode, content)])
    };
    let plain = with("innocent", 0o644, "content")?;
    let mut cases: Vec<(&str, Vec<u8>, u16, &str)> = Vec::new();
    let mut invalid = |what, zip| cases.push((what, zip, 400, "invalid_archive"));
    for name in ["../evil!", "/etc/pwn", "a/../../", ".anchorhold-"] {
        let same_length = format!("{name:x<12}");
        invalid(name, replaced(with("innocent.txt", 0o644, "x")?, b"innocent.txt", same_length.as_bytes()));
    }
    invalid("repeated", replaced(with("g00d", 0o644, "x")?, b"g00d", b"good"));
    let last = plain.windows(4).rposition(|part| part == b"PK\x01\x02").context("a central header")?;
    let mode_of_last = |mode: u32| {
        let mut zip = plain.clone();
        // Made by Unix; its mode is in the upper half of the external attributes.
        zip[last + 5] = 3;
        zip[last + 38..last + 42].copy_from_slice(&(mode << 16).to_le_bytes());
        zip
    };
    for mode in [0o120_777, 0o020_666, 0o060_666, 0o010_666, 0o140_777] {
        invalid("not a file", mode_of_last(mode));
    }
    invalid("overlapping", overlapping());
    // Names and sizes that the two headers of an entry disagree about.
    let mut other_name = plain.clone();
    other_name[last + 46] = b'I';
    invalid("two names", other_name);
    let mut other_size = plain.clone();
    other_size[last + 24] += 1;
    invalid("two sizes", other_size);
    let mut encrypted = plain.clone();
    for header in [last + 8, plain.windows(8).position(|part| part == b"innocent").context("local")? - 24] {
        encrypted[header] |= 1;
    }
    invalid("encrypted", encrypted);
    invalid("damaged", replaced(plain.clone(), b"content", b"c0ntent"));
    for cut in [4, 30, plain.len() / 2, plain.len() - 1] {
        invalid("cut", plain[..cut].to_vec());
    }
    refused(&client, &session, cases)?;
    client.close(&session)?;
    Ok(())
}

/// Links that hostile native code left in the workspace.
fn links_are_neither_followed_nor_packed(_: &Shared) -> Result<()> {
    let server = Server::start(Options::default().evil())?;
    let client = server.client()?;
    let session = client.session(&json!({}))?;
    let files = format!("/v1/sessions/{session}/files");
    client.put(&format!("{files}/real"), "inside")?.expect(201);
    assert_eq!(client.execute(&session, "python", "links")?["stdout"], "8\n");
    for n in 0..8 {
        for name in [format!("l{n}"), format!("l{n}/x"), format!("l{n}/deep/er/x")] {
            let answer =
                send(&client, &session, Tar::default().file("real", "after").file(&name, "x").end())?;
            ensure!((400..500).contains(&answer.status), "{name}: {} {}", answer.status, answer.text());
        }
        let below = format!("{}?path=l{n}", archive(&session));
        let answer = client.raw("POST", &below, &[], Tar::default().file("x", "x").end())?;
        ensure!((400..500).contains(&answer.status), "{below}: {} {}", answer.status, answer.text());
        assert!((400..500).contains(&client.get(&below)?.status), "{below}");
    }
    assert_eq!(client.get(&format!("{files}/real"))?.text(), "inside");
    for (format, _) in FORMATS {
        let packed = client.get(&format!("{}?format={format}", archive(&session)))?;
        let to = client.session(&json!({}))?;
        send(&client, &to, packed.bytes)?.expect(201);
        let listed = snapshot(&client, &to)?;
        assert_eq!(listed.keys().collect::<Vec<_>>(), ["real"], "{format}");
        client.close(&to)?;
    }
    client.close(&session)?;
    server.stop()?;
    Ok(())
}

/// 64 MiB of zeros in gzip: members of one after the other are one stream.
fn zeros() -> Result<Vec<u8>> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::copy(&mut std::io::repeat(0).take(64 << 20), &mut out)?;
    Ok(out.finish()?)
}

/// security.md 82, 83.
fn bombs_reach_their_limits(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({"limits": {"disk_bytes": 64 << 20}}))?;
    let good = || Tar::default().file("good", "after");
    let ten_gigabytes = zeros()?.repeat(160);
    assert!(ten_gigabytes.len() < 12 << 20, "{}", ten_gigabytes.len());
    let entry = good().entry(EntryType::Regular, b"bomb", 10 << 30, b"");
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    zip.start_file("bomb", SimpleFileOptions::default())?;
    std::io::copy(&mut std::io::repeat(0).take(200 << 20), &mut zip)?;
    // Directories: they take no room before all of it was read.
    let many = gzip(&(0..100_000).fold(good(), |tar, n| tar.directory(&format!("d{n}/"))).end())?;
    let long_name = "x".repeat(256);
    let long_path = vec!["x".repeat(250); 17].join("/");
    let long = |name: &str| {
        good().entry(EntryType::GNULongName, b"l", name.len() as u64, name.as_bytes()).file("l", "").end()
    };
    let deep = |depth| long(&vec!["d"; depth].join("/"));
    let window = [0x28, 0xb5, 0x2f, 0xfd, 0x00, (27 - 10) << 3, 0, 0, 0, 0];
    let cases = vec![
        ("a file of 10 GB", [gzip(&entry.0)?, ten_gigabytes.clone()].concat(), 422, "archive_limit"),
        ("10 GB behind the end", [gzip(&good().end())?, ten_gigabytes].concat(), 422, "archive_limit"),
        ("200 MB in a zip", zip.finish()?.into_inner(), 422, "archive_limit"),
        ("100,001 entries", many.clone(), 422, "archive_limit"),
        ("too deep", deep(65), 422, "archive_limit"),
        ("a long name", long(&long_name), 422, "archive_limit"),
        ("a long path", long(&long_path), 422, "archive_limit"),
        ("a long header", good().entry(EntryType::XHeader, b"x", 1 << 40, b"").end(), 422, "archive_limit"),
        ("a large window", window.to_vec(), 422, "archive_limit"),
    ];
    for case in cases {
        let (what, begun) = (case.0, Instant::now());
        refused(&client, &session, vec![case])?;
        let took = begun.elapsed();
        println!("{what}: {} ms", took.as_millis());
        ensure!(took < Duration::from_secs(20), "{what} took {took:?}");
    }
    assert!(send(&client, &session, many)?.text().contains("too many entries"));
    send(&client, &session, deep(64))?.expect(201);
    // The room is there again.
    let path = format!("/v1/sessions/{session}/files/large");
    client.put(&path, vec![1; 48 << 20])?.expect(201);
    client.close(&session)?;
    Ok(())
}

fn an_archive_that_a_crash_cuts_is_not_seen(_: &Shared) -> Result<()> {
    let mut server = Server::start(Options::default())?;
    let client = server.client()?;
    let session = client.session(&json!({}))?;
    client.put(&format!("/v1/sessions/{session}/files/good"), "before")?.expect(201);
    let before = snapshot(&client, &session)?;
    let key = std::fs::read_to_string(server.data_dir().join("admin.key"))?.trim().to_owned();
    let tar = Tar::default().file("good", "after").file("new/file", &"x".repeat(3000)).end();
    let request = |server: &Server, length: &str, body: &[u8]| -> Result<std::net::TcpStream> {
        let mut socket = std::net::TcpStream::connect(server.base().trim_start_matches("http://"))?;
        let head = format!(
            "POST {} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n{length}\r\n\r\n",
            archive(&session)
        );
        socket.write_all(head.as_bytes())?;
        socket.write_all(body)?;
        Ok(socket)
    };
    let chunk = [format!("{:x}\r\n", tar.len()).as_bytes(), &tar[..], b"\r\n"].concat();
    let promised = format!("Content-Length: {}", tar.len() + 512);
    for (length, body) in [("Transfer-Encoding: chunked", &chunk), (&promised[..], &tar)] {
        // All of the archive, but not its sender's last word.
        let cut = request(&server, length, body)?;
        std::thread::sleep(Duration::from_millis(500));
        server.kill()?;
        std::thread::sleep(Duration::from_millis(200));
        server.launch()?;
        drop(cut);
        let client = server.client()?;
        assert!(snapshot(&client, &session)? == before, "{length}");
        let inside = client.execute(&session, "python", "import os\nos.listdir('.')")?;
        assert_eq!(inside["results"][0]["mime"]["text/plain"], "['good']", "nothing of ours is left");
    }
    let client = server.client()?;
    let mut whole = request(&server, "Transfer-Encoding: chunked", &[&chunk[..], b"0\r\n\r\n"].concat())?;
    let mut answer = [0; 12];
    whole.read_exact(&mut answer)?;
    assert_eq!(&answer, b"HTTP/1.1 201");
    assert_eq!(client.get(&format!("/v1/sessions/{session}/files/good"))?.text(), "after");
    client.close(&session)?;
    server.stop()?;
    Ok(())
}

fn requests_are_read_strictly(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    let path = archive(&session);
    let tar = || Tar::default().file("a", "x").end();
    let post = |query: &str, kind: &str| {
        client.raw("POST", &format!("{path}{query}"), &[("content-type", kind)], tar())
    };
    assert_eq!(post("", "application/json")?.problem(415), "unsupported_media_type");
    assert_eq!(post("?format=rar", "application/x-tar")?.problem(422), "invalid_request");
    assert_eq!(post("?paths=a", "application/x-tar")?.problem(422), "invalid_request");
    assert_eq!(post("?path=../a", "application/x-tar")?.problem(400), "invalid_path");
    assert_eq!(post("?format=zip", "application/x-tar")?.problem(400), "invalid_archive");
    assert_eq!(post("", "application/gzip")?.problem(400), "invalid_archive");
    assert_eq!(client.get(&format!("/v1/sessions/{session}/files"))?.expect(200)["items"], json!([]));
    post("?format=tar&path=a", "application/json")?.expect(201);
    assert_eq!(client.get(&format!("{path}?path=none"))?.problem(404), "file_not_found");
    assert_eq!(client.get(&format!("{path}?path=a/a"))?.problem(409), "conflict");
    assert_eq!(client.get(&format!("{path}?format=7z"))?.problem(422), "invalid_request");
    client.close(&session)?;
    Ok(())
}
