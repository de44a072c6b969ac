//! The part of YAML that configuration files are written in, read into a tree with line numbers.
//!
//! One document; scalars stay text, since what `5` or `on` means depends on who asks. Anchors and
//! merged documents of unbounded size are bounded here.

use saphyr_parser::{Event, Parser, ScalarStyle, StrInput};
use std::collections::BTreeMap;

/// Levels of nesting, twice as many as any file of ours has.
const DEPTH_MAX: usize = 16;
/// Nodes of a file, those behind aliases counted each time.
const NODES_MAX: usize = 10_000;

/// What is wrong with a text, and in which line, from 1.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub line: usize,
    pub what: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub line: usize,
    pub value: Value,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// Written without quotes: text, number, switch or nothing.
    Plain(String),
    /// Text, whatever it looks like.
    Text(String),
    List(Vec<Node>),
    /// In the order written; a key may be there twice.
    Map(Vec<(String, Node)>),
}

impl Value {
    /// Nothing, as a key without a value has it.
    pub(super) fn is_null(&self) -> bool {
        matches!(self, Self::Plain(text) if ["", "~", "null", "Null", "NULL"].contains(&text.as_str()))
    }
}

/// Reads the first document; none if the text has none.
pub(super) fn parse(text: &str) -> Result<Option<Node>, Fault> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let parser = Parser::new_from_str(text);
    let mut reader = Reader { parser, anchors: BTreeMap::new(), nodes: 0 };
    loop {
        match reader.next()? {
            (Event::StreamEnd, _) => return Ok(None),
            (Event::DocumentStart(_), _) => {
                let first = reader.next()?;
                return reader.node(first, 0).map(Some);
            }
            _ => {}
        }
    }
}

struct Reader<'i> {
    parser: Parser<'i, StrInput<'i>>,
    anchors: BTreeMap<usize, Node>,
    nodes: usize,
}

impl<'i> Reader<'i> {
    fn next(&mut self) -> Result<(Event<'i>, usize), Fault> {
        match self.parser.next() {
            Some(Ok((event, span))) => Ok((event, span.start.line())),
            Some(Err(error)) => {
                Err(Fault { line: error.marker().line(), what: error.info().to_owned() })
            }
            None => Ok((Event::StreamEnd, 0)),
        }
    }

    /// Reads the node that begins with an event.
    fn node(&mut self, first: (Event<'i>, usize), depth: usize) -> Result<Node, Fault> {
        let (event, line) = first;
        self.count(1, line)?;
        if depth > DEPTH_MAX {
            return Err(Fault { line, what: "nested too deeply".to_owned() });
        }
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let is_text = tag.is_some_and(|tag| tag.suffix == "str");
                let value = match style {
                    ScalarStyle::Plain if !is_text => Value::Plain(text.into_owned()),
                    _ => Value::Text(text.into_owned()),
                };
                (value, anchor)
            }
            Event::SequenceStart(anchor, _) => (self.list(depth)?, anchor),
            Event::MappingStart(anchor, _) => (self.map(depth)?, anchor),
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor).cloned() else {
                    let what = "an alias stands for what contains it".to_owned();
                    return Err(Fault { line, what });
                };
                self.count(size(&node), line)?;
                return Ok(node);
            }
            _ => return Err(Fault { line, what: "a value is missing".to_owned() }),
        };
        let node = Node { line, value };
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Result<Value, Fault> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Value::List(items)),
                first => items.push(self.node(first, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Value, Fault> {
        let mut pairs = Vec::new();
        loop {
            let key = match self.next()? {
                (Event::MappingEnd, _) => return Ok(Value::Map(pairs)),
                first => self.node(first, depth + 1)?,
            };
            let (Value::Plain(name) | Value::Text(name)) = key.value else {
                return Err(Fault { line: key.line, what: "a key must be a text".to_owned() });
            };
            let first = self.next()?;
            pairs.push((name, self.node(first, depth + 1)?));
        }
    }

    fn count(&mut self, nodes: usize, line: usize) -> Result<(), Fault> {
        self.nodes += nodes;
        match self.nodes > NODES_MAX {
            true => Err(Fault { line, what: format!("more than {NODES_MAX} values") }),
            false => Ok(()),
        }
    }
}

fn size(node: &Node) -> usize {
    1 + match &node.value {
        Value::Plain(_) | Value::Text(_) => 0,
        Value::List(items) => items.iter().map(size).sum(),
        Value::Map(pairs) => pairs.iter().map(|(_, node)| size(node)).sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(line: usize, text: &str) -> Node {
        Node { line, value: Value::Plain(text.to_owned()) }
    }

    #[test]
    fn blocks_and_json_give_the_same_tree() {
        for text in [
            "# a comment\na: 5\nb:\n  c: [x, y]\n  d:\n",
            "\u{feff}---\n\"a\": 5\n'b': {\"c\": [x, y],\n\n \"d\": null}",
        ] {
            let Some(Node { value: Value::Map(pairs), .. }) = parse(text).unwrap() else {
                panic!("a map: {text}");
            };
            assert_eq!(pairs[0], ("a".to_owned(), plain(2, "5")), "{text}");
            let (name, Node { value: Value::Map(inner), .. }) = &pairs[1] else { panic!("{text}") };
            assert_eq!((name.as_str(), inner.len()), ("b", 2));
            let Value::List(items) = &inner[0].1.value else { panic!("{text}") };
            let texts: Vec<&Value> = items.iter().map(|item| &item.value).collect();
            assert_eq!(texts, [&Value::Plain("x".into()), &Value::Plain("y".into())]);
            assert!(inner[1].1.value.is_null());
        }
    }

    #[test]
    fn quotes_make_text() {
        let Some(Node { value: Value::List(items), .. }) =
            parse("['1', \"on\", 1, !!str 2, '']").unwrap()
        else {
            panic!("a list");
        };
        let is_text: Vec<bool> = items.iter().map(|i| matches!(i.value, Value::Text(_))).collect();
        assert_eq!(is_text, [true, true, false, true, true]);
        assert!(items.iter().all(|item| !item.value.is_null()));
    }

    #[test]
    fn aliases_stand_for_what_they_name_within_bounds() {
        let Some(Node { value: Value::Map(pairs), .. }) = parse("a: &x {k: v}\nb: *x\n").unwrap()
        else {
            panic!("a map");
        };
        assert_eq!(pairs[0].1.value, pairs[1].1.value);
        // Ten times ten, five times over.
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..5 {
            let alias = format!("*a{},", n - 1).repeat(10);
            bomb.push_str(&format!("a{n}: &a{n} [{alias}]\n"));
        }
        assert!(parse(&bomb).unwrap_err().what.contains("more than 10000 values"));
    }

    #[test]
    fn faults_name_their_line() {
        for (text, line) in [("a: 1\nb: [\n", 3), ("a: b: c", 1), ("a: 1\n  b: 2\n", 2)] {
            let fault = parse(text).unwrap_err();
            assert_eq!(fault.line, line, "{text:?}: {}", fault.what);
            assert!(!fault.what.is_empty());
        }
        assert!(parse(&"[".repeat(100_000)).is_err());
        assert_eq!(parse("# nothing\n"), Ok(None));
    }
}
