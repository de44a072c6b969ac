//! What an attempt put out: begin and end in memory, all of it in an artifact once it is long.

use super::artifacts::{Artifact, Artifacts, Unfinished};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::VecDeque;
use std::io::{self, Read as _};

/// Held in memory, for each output of each running task.
const HELD_BYTES_MAX: usize = 64 << 10;
/// Of what follows, the last bytes.
const TAIL_BYTES_MAX: usize = 16 << 10;

/// Takes an output in, in pieces.
pub(super) struct Capture<'a> {
    artifacts: &'a Artifacts,
    /// Of the artifact.
    bytes_max: u64,
    held: Vec<u8>,
    tail: VecDeque<u8>,
    bytes: u64,
    spill: Spill,
}

enum Spill {
    /// All is in memory.
    None,
    File(Box<Unfinished>),
    /// Nothing more can be written, and why.
    Broken(io::Error),
}

/// A complete output.
#[derive(Debug, Default)]
pub(super) struct Output {
    pub(super) head: Vec<u8>,
    pub(super) tail: VecDeque<u8>,
    pub(super) bytes: u64,
    pub(super) artifact: Option<Artifact>,
    /// Why there is no artifact, although the output is too long for memory.
    pub(super) fault: Option<String>,
}

impl<'a> Capture<'a> {
    pub(super) fn new(artifacts: &'a Artifacts, bytes_max: u64) -> Self {
        let (held, tail) = (Vec::new(), VecDeque::new());
        Self { artifacts, bytes_max, held, tail, bytes: 0, spill: Spill::None }
    }

    pub(super) async fn push(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        if matches!(self.spill, Spill::None) && self.held.len() + bytes.len() <= HELD_BYTES_MAX {
            self.held.extend_from_slice(bytes);
            return;
        }
        if let Err(error) = self.spill(bytes).await {
            self.spill = Spill::Broken(error);
        }
        let (head, rest) = bytes.split_at(bytes.len().min(HELD_BYTES_MAX - self.held.len()));
        self.held.extend_from_slice(head);
        let rest = &rest[rest.len().saturating_sub(TAIL_BYTES_MAX)..];
        self.tail.extend(rest);
        let excess = self.tail.len().saturating_sub(TAIL_BYTES_MAX);
        self.tail.drain(..excess);
    }

    async fn spill(&mut self, bytes: &[u8]) -> io::Result<()> {
        if matches!(self.spill, Spill::None) {
            let mut file = self.artifacts.begin(self.bytes_max).await?;
            file.write(&self.held).await?;
            self.spill = Spill::File(Box::new(file));
        }
        match &mut self.spill {
            Spill::File(file) => file.write(bytes).await,
            Spill::None | Spill::Broken(_) => Ok(()),
        }
    }

    /// Whether more of it would be thrown away.
    pub(super) fn is_full(&self) -> bool {
        matches!(&self.spill, Spill::File(file) if file.is_cut())
    }

    pub(super) async fn finish(self) -> Output {
        let Self { held: head, tail, bytes, .. } = self;
        let finished = match self.spill {
            Spill::None => Ok(None),
            Spill::File(file) => file.finish().await.map(Some),
            Spill::Broken(error) => Err(error),
        };
        let (artifact, fault) = match finished {
            Ok(artifact) => (artifact, None),
            Err(error) => (None, Some(error.to_string())),
        };
        Output { head, tail, bytes, artifact, fault }
    }
}

impl Output {
    /// All of it.
    ///
    /// # Errors
    /// Why it cannot be had: it is longer than `bytes_max`, or not kept.
    pub(super) fn content(
        &self,
        artifacts: &Artifacts,
        bytes_max: u64,
    ) -> Result<Cow<'_, [u8]>, String> {
        if self.is_held() {
            return Ok(Cow::Borrowed(&self.head));
        }
        if self.bytes > bytes_max {
            return Err(format!("more than {bytes_max} bytes are not compared"));
        }
        let artifact = self.artifact.as_ref().filter(|artifact| artifact.bytes == self.bytes);
        let read = artifact.map(|artifact| artifacts.read(&artifact.digest)).transpose();
        let file = read.map_err(|error| error.to_string())?.flatten();
        let (mut file, _) = file.ok_or("the output was too long to be kept as a whole")?;
        let mut content = Vec::new();
        file.read_to_end(&mut content).map_err(|error| error.to_string())?;
        Ok(Cow::Owned(content))
    }

    /// Whether all of it is in memory.
    pub(super) fn is_held(&self) -> bool {
        self.bytes == self.head.len() as u64
    }

    /// Tells of it under `name` in an object for people, in at most some `bytes_max` bytes of JSON:
    /// `name` is all of it, or its begin with `name_tail`, `name_bytes` and the digest
    /// `name_artifact` beside it.
    pub(super) async fn describe(
        mut self,
        artifacts: &Artifacts,
        bytes_max: usize,
        name: &str,
        into: &mut Map<String, Value>,
    ) {
        if self.bytes == 0 {
            return;
        }
        if self.is_held()
            && let Ok(text) = std::str::from_utf8(&self.head)
            && fitting(text.chars(), bytes_max).count() == text.chars().count()
        {
            into.insert(name.to_owned(), text.into());
            return;
        }
        if self.is_held() {
            match artifacts.keep(&self.head).await {
                Ok(artifact) => self.artifact = Some(artifact),
                Err(error) => self.fault = Some(error.to_string()),
            }
        }
        let head = String::from_utf8_lossy(&self.head);
        let head: String = fitting(head.chars(), bytes_max / 4 * 3).collect();
        into.insert(name.to_owned(), head.into());
        let end: Vec<u8> = self.head.iter().chain(&self.tail).copied().collect();
        // Not more than would be shown twice if all but the begin is the end.
        let end = String::from_utf8_lossy(&end[end.len().saturating_sub(bytes_max / 4)..]);
        let mut tail: Vec<char> = fitting(end.chars().rev(), bytes_max / 4).collect();
        tail.reverse();
        into.insert(format!("{name}_tail"), tail.into_iter().collect::<String>().into());
        into.insert(format!("{name}_bytes"), self.bytes.into());
        if let Some(artifact) = self.artifact {
            into.insert(format!("{name}_artifact"), artifact.digest.into());
            if artifact.bytes < self.bytes {
                into.insert(format!("{name}_artifact_bytes"), artifact.bytes.into());
            }
        }
        if let Some(fault) = self.fault {
            into.insert(format!("{name}_artifact_fault"), fault.into());
        }
    }
}

/// Of these characters the first that take no more than so many bytes within a string of JSON.
fn fitting(chars: impl Iterator<Item = char>, bytes_max: usize) -> impl Iterator<Item = char> {
    chars.scan(0, move |bytes, c| {
        *bytes += match c {
            '"' | '\\' | '\n' | '\r' | '\t' => 2,
            '\0'..='\x1f' => 6,
            c => c.len_utf8(),
        };
        (*bytes <= bytes_max).then_some(c)
    })
}

/// A text of JSON of at most so many bytes.
pub(super) fn shorten(text: &str, bytes_max: usize) -> String {
    let short: String = fitting(text.chars(), bytes_max).collect();
    if short.len() == text.len() { short } else { format!("{short}...") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    async fn described(artifacts: &Artifacts, bytes: &[u8], max: usize) -> Map<String, Value> {
        let mut capture = Capture::new(artifacts, 1 << 20);
        for piece in bytes.chunks(1000) {
            capture.push(piece).await;
        }
        let output = capture.finish().await;
        assert_eq!(output.content(artifacts, 1 << 20).unwrap(), bytes);
        let mut object = Map::new();
        output.describe(artifacts, max, "output", &mut object).await;
        object
    }

    fn whole(artifacts: &Artifacts, object: &Map<String, Value>) -> Vec<u8> {
        let digest = object["output_artifact"].as_str().unwrap();
        let (mut file, _) = artifacts.read(digest).unwrap().unwrap();
        let mut content = Vec::new();
        file.read_to_end(&mut content).unwrap();
        content
    }

    #[tokio::test]
    async fn what_is_short_is_told_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::open(folder.path(), 1 << 20).unwrap();
        let object = described(&artifacts, b"a \"b\"\n", 9).await;
        assert_eq!(Value::Object(object), json!({"output": "a \"b\"\n"}), "9 bytes of JSON");
        assert!(described(&artifacts, b"", 8).await.is_empty());
    }

    #[tokio::test]
    async fn what_is_long_is_told_by_both_ends_and_kept_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::open(folder.path(), 1 << 24).unwrap();
        for length in [9, 1000, 65_536, 65_537, 70_000, 200_000] {
            let mut bytes: Vec<u8> = (0..length).map(|n: u32| b'a' + (n % 23) as u8).collect();
            *bytes.last_mut().unwrap() = b'Z';
            let object = described(&artifacts, &bytes, 8).await;
            assert_eq!(
                (&object["output"], &object["output_bytes"]),
                (&json!("abcdef"), &json!(length))
            );
            let tail = object["output_tail"].as_str().unwrap();
            assert!(tail.len() == 2 && tail.ends_with('Z'), "{length}: {tail}");
            assert_eq!(whole(&artifacts, &object), bytes);
        }
    }

    #[tokio::test]
    async fn bytes_that_are_no_text_are_kept_aside() {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::open(folder.path(), 1 << 20).unwrap();
        let object = described(&artifacts, b"a\xff\0", 100).await;
        assert_eq!(object["output"], json!("a\u{fffd}\0"));
        assert_eq!(whole(&artifacts, &object), b"a\xff\0");
    }

    #[tokio::test]
    async fn what_has_no_room_is_told_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::open(folder.path(), 1000).unwrap();
        let mut capture = Capture::new(&artifacts, 1 << 20);
        capture.push(&vec![b'x'; 100_000]).await;
        assert!(capture.is_full());
        let output = capture.finish().await;
        let error = output.content(&artifacts, 1 << 20).unwrap_err();
        assert_eq!(error, "the output was too long to be kept as a whole");
        assert!(output.content(&artifacts, 99_999).is_err(), "nor is it read beyond the limit");
        let mut object = Map::new();
        output.describe(&artifacts, 40, "output", &mut object).await;
        assert_eq!(object["output_bytes"], json!(100_000));
        let short = shorten("\0\0", 11);
        assert_eq!(short, "\0...");
    }
}
