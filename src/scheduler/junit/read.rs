//! From XML to a report.
//!
//! What is read comes from strangers: nothing is fetched, no entities beyond XML's own five are
//! known, and a document type, which could define some, is refused. Size, depth and the number of
//! attributes are bounded.

use super::{Case, Reason, Report, Suite};
use crate::scheduler::model::Status;
use quick_xml::XmlVersion;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesStart, Event};
use quick_xml::reader::Reader;
use std::fmt;

const BYTES_MAX: usize = 256 << 20;
/// Suites within suites, and elements that are not known.
const DEPTH_MAX: usize = 32;
const ATTRIBUTES_MAX: usize = 64;

/// Why a text is no report, and in which line, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    pub line: usize,
    pub message: String,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

impl std::error::Error for Invalid {}

/// Reads a report in UTF-8.
///
/// # Errors
/// With the line, for what is no well-formed XML, no report, or beyond the limits.
pub fn read(bytes: &[u8]) -> Result<Report, Invalid> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    if bytes.len() > BYTES_MAX {
        let message = format!("more than {BYTES_MAX} bytes");
        return Err(Invalid { line: 1, message });
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = line_at(bytes, error.valid_up_to());
        Invalid { line, message: "not UTF-8".to_owned() }
    })?;
    let mut reader = Reader::from_str(text);
    reader.config_mut().expand_empty_elements = true;
    let reading = Reading { text, reader, report: Report::default(), depth: 0, bytes: 0 };
    reading.document()
}

fn line_at(bytes: &[u8], end: usize) -> usize {
    let before = &bytes[..end.min(bytes.len())];
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

/// What stands in an element, as far as anybody wants to know.
enum Part<'t> {
    Start(BytesStart<'t>),
    Text(String),
    End,
    /// Of the document.
    Nothing,
}

struct Reading<'t> {
    text: &'t str,
    reader: Reader<&'t [u8]>,
    report: Report,
    depth: usize,
    /// Of text that was taken over.
    bytes: usize,
}

impl<'t> Reading<'t> {
    fn invalid(&self, message: impl Into<String>) -> Invalid {
        let at = usize::try_from(self.reader.buffer_position()).unwrap_or(usize::MAX);
        Invalid { line: line_at(self.text.as_bytes(), at), message: message.into() }
    }

    /// The next thing that counts.
    fn next(&mut self) -> Result<Part<'t>, Invalid> {
        loop {
            let event = match self.reader.read_event() {
                Ok(event) => event,
                Err(error) => {
                    let at = usize::try_from(self.reader.error_position()).unwrap_or(usize::MAX);
                    let line = line_at(self.text.as_bytes(), at);
                    return Err(Invalid { line, message: error.to_string() });
                }
            };
            let text = match event {
                Event::Start(start) | Event::Empty(start) => {
                    self.depth += 1;
                    if self.depth > DEPTH_MAX {
                        return Err(self.invalid(format!("more than {DEPTH_MAX} elements deep")));
                    }
                    return Ok(Part::Start(start));
                }
                Event::End(_) => {
                    self.depth -= 1;
                    return Ok(Part::End);
                }
                Event::Eof if self.depth > 0 => {
                    return Err(self.invalid("it ends within an element"));
                }
                Event::Eof => return Ok(Part::Nothing),
                Event::DocType(_) => return Err(self.invalid("a document type is not taken")),
                Event::Comment(_) | Event::Decl(_) | Event::PI(_) => continue,
                Event::Text(text) => text.xml10_content().into_owned(),
                Event::CData(text) => text.xml10_content().into_owned(),
                Event::GeneralRef(name) => {
                    let character = name.resolve_char_ref();
                    let character = character.map_err(|error| self.invalid(error.to_string()))?;
                    match (character, resolve_predefined_entity(&name.xml10_content())) {
                        (Some(character), _) => character.to_string(),
                        (None, Some(known)) => known.to_owned(),
                        (None, None) => {
                            let name = name.xml10_content().into_owned();
                            return Err(self.invalid(format!("unknown entity {name}")));
                        }
                    }
                }
            };
            return Ok(Part::Text(text));
        }
    }

    fn document(mut self) -> Result<Report, Invalid> {
        let mut is_found = false;
        loop {
            match self.next()? {
                Part::Start(start) => {
                    match start.name().0 {
                        _ if is_found => return Err(self.invalid("a second root")),
                        "testsuites" => self.suites(&start)?,
                        "testsuite" => self.suite(&start, "")?,
                        other => {
                            let message = format!("<{other}> is no report of tests");
                            return Err(self.invalid(message));
                        }
                    }
                    is_found = true;
                }
                Part::Text(text) if text.trim().is_empty() => {}
                Part::Text(_) | Part::End => {
                    return Err(self.invalid("text outside of the root"));
                }
                Part::Nothing if is_found => return Ok(self.report),
                Part::Nothing => return Err(self.invalid("no report in it")),
            }
        }
    }

    fn suites(&mut self, start: &BytesStart<'t>) -> Result<(), Invalid> {
        self.report.name = self.attribute(start, "name")?.unwrap_or_default();
        while let Some(start) = self.child()? {
            match start.name().0 {
                "testsuite" => self.suite(&start, "")?,
                _ => self.skip()?,
            }
        }
        Ok(())
    }

    fn suite(&mut self, start: &BytesStart<'t>, outer: &str) -> Result<(), Invalid> {
        let mut suite = Suite {
            name: self.attribute(start, "name")?.unwrap_or_default(),
            host: self.attribute(start, "hostname")?.unwrap_or_default(),
            timestamp: self.attribute(start, "timestamp")?.unwrap_or_default(),
            ..Suite::default()
        };
        if !outer.is_empty() {
            suite.name = format!("{outer}/{}", suite.name);
        }
        let name = suite.name.clone();
        let at = self.report.suites.len();
        self.report.suites.push(Suite::default());
        while let Some(start) = self.child()? {
            match start.name().0 {
                "testsuite" => self.suite(&start, &name)?,
                "testcase" => suite.cases.push(self.case(&start)?),
                "properties" => self.properties(&mut suite.properties)?,
                "system-out" => suite.output.push_str(&self.content()?),
                "system-err" => suite.stderr.push_str(&self.content()?),
                _ => self.skip()?,
            }
        }
        self.report.suites[at] = suite;
        Ok(())
    }

    fn case(&mut self, start: &BytesStart<'t>) -> Result<Case, Invalid> {
        let mut case = Case {
            name: self.attribute(start, "name")?.unwrap_or_default(),
            class: self.attribute(start, "classname")?.unwrap_or_default(),
            file: self.attribute(start, "file")?.unwrap_or_default(),
            time_us: self.attribute(start, "time")?.as_deref().and_then(microseconds),
            ..Case::default()
        };
        while let Some(start) = self.child()? {
            match start.name().0 {
                "failure" => self.verdict(&start, &mut case, Status::Failed)?,
                "error" => self.verdict(&start, &mut case, Status::Error)?,
                "skipped" => self.verdict(&start, &mut case, Status::Skipped)?,
                "rerunFailure" | "rerunError" | "flakyFailure" | "flakyError" => {
                    let reason = self.reason(&start)?;
                    case.earlier.push(reason);
                }
                "properties" => self.properties(&mut case.properties)?,
                "system-out" => case.output.push_str(&self.content()?),
                "system-err" => case.stderr.push_str(&self.content()?),
                _ => self.skip()?,
            }
        }
        Ok(case)
    }

    /// A test can fail and then fail to clean up: the first counts, and failures more than errors.
    fn verdict(
        &mut self,
        start: &BytesStart<'t>,
        case: &mut Case,
        status: Status,
    ) -> Result<(), Invalid> {
        let reason = self.reason(start)?;
        // The words that we write ourselves.
        let told = [Status::TimedOut, Status::Lost, Status::Canceled];
        let status = told.into_iter().find(|told| told.word() == reason.kind).unwrap_or(status);
        if case.status == Status::Passed
            || (case.status == Status::Error && status == Status::Failed)
        {
            case.status = status;
            case.reason = reason;
        }
        Ok(())
    }

    fn reason(&mut self, start: &BytesStart<'t>) -> Result<Reason, Invalid> {
        let message = self.attribute(start, "message")?.unwrap_or_default();
        let kind = self.attribute(start, "type")?.unwrap_or_default();
        Ok(Reason { message, kind, text: self.content()? })
    }

    fn properties(&mut self, into: &mut Vec<(String, String)>) -> Result<(), Invalid> {
        while let Some(start) = self.child()? {
            if start.name().0 == "property" {
                let name = self.attribute(&start, "name")?.unwrap_or_default();
                let value = self.attribute(&start, "value")?;
                let text = self.content()?;
                into.push((name, value.unwrap_or(text)));
            } else {
                self.skip()?;
            }
        }
        Ok(())
    }

    /// The next element within this one; none at its end.
    fn child(&mut self) -> Result<Option<BytesStart<'t>>, Invalid> {
        loop {
            match self.next()? {
                Part::Start(start) => return Ok(Some(start)),
                Part::Text(_) => {}
                Part::End | Part::Nothing => return Ok(None),
            }
        }
    }

    fn skip(&mut self) -> Result<(), Invalid> {
        let outside = self.depth - 1;
        while self.depth > outside {
            self.next()?;
        }
        Ok(())
    }

    /// The text of an element, without what further elements in it say: those of an attempt hold
    /// its outputs.
    fn content(&mut self) -> Result<String, Invalid> {
        let mut content = String::new();
        loop {
            match self.next()? {
                Part::Text(text) => content.push_str(&text),
                Part::Start(_) => self.skip()?,
                Part::End | Part::Nothing => break,
            }
        }
        self.bytes += content.len();
        // Not possible without expansion; if it is, better now than when memory is gone.
        if self.bytes > BYTES_MAX {
            return Err(self.invalid("more text than the report can hold"));
        }
        Ok(content)
    }

    fn attribute(&self, start: &BytesStart<'t>, name: &str) -> Result<Option<String>, Invalid> {
        for (at, attribute) in start.attributes().enumerate() {
            if at >= ATTRIBUTES_MAX {
                return Err(self.invalid(format!("more than {ATTRIBUTES_MAX} attributes")));
            }
            let attribute = attribute.map_err(|error| self.invalid(error.to_string()))?;
            if attribute.key.0 == name {
                let value = attribute.normalized_value(XmlVersion::Implicit1_0);
                let value = value.map_err(|error| self.invalid(error.to_string()))?;
                return Ok(Some(value.into_owned()));
            }
        }
        Ok(None)
    }
}

/// Seconds, which some tools write with separators of thousands, and some with a comma for the point.
fn microseconds(seconds: &str) -> Option<u64> {
    let seconds = seconds.trim();
    let is_point = |(whole, part): &(&str, &str)| {
        let is_thousands = part.len() == 3 && !whole.is_empty() && whole != &"0";
        !is_thousands && !part.contains([',', '.'])
    };
    let seconds = match seconds.split_once(',').filter(is_point) {
        Some((whole, part)) => format!("{whole}.{part}"),
        None => seconds.replace(',', ""),
    };
    let seconds: f64 = seconds.parse().ok()?;
    let is_time = seconds.is_finite() && (0.0..1e12).contains(&seconds);
    is_time.then(|| (seconds * 1e6).round() as u64)
}
