//! What a submit keeps of its cases until they are packed into keys. Of a million cases most are alike:
//! each is kept as what it says other than another one with the same fields.

use super::case::FREE_TEXTS;
use super::definitions::{Fields, quoted};
use super::{Environment, Outline, Repeats, Rules, TestCase};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of definitions in one key.
const PACK_BYTES: usize = 256 * 1024;
/// Cases that are looked at to see what most of a pack say.
const PACK_CASES: usize = 4_096;
/// Examples with which the next case is compared, and how many there are.
const RECENT_MAX: usize = 4;
const SHAPES_MAX: usize = 256;
/// Ends a value; within a JSON text it stands escaped.
const END: char = '\0';

/// A case that others are like.
#[derive(Debug)]
struct Shape {
    number: usize,
    outline: Outline,
    /// As it was written; at most as many as a case has.
    fields: Box<[Field]>,
}

#[derive(Debug)]
struct Field {
    /// As it stands before the value: in quotes, with a colon.
    name: Box<str>,
    value: Box<str>,
    is_free: bool,
}

/// The copy of a case.
#[derive(Debug)]
pub struct CaseCopy {
    pub outline: Outline,
    shape: Arc<Shape>,
    /// Fields of which it has its own value, bit by bit.
    own: u64,
    /// These values, one after the other.
    values: Box<str>,
}

/// Makes copies of cases.
#[derive(Debug, Default)]
pub struct Copier {
    shapes: Vec<Arc<Shape>>,
    /// The last ones that were used, the last one first.
    recent: Vec<Arc<Shape>>,
    /// One of each kind, by the names of its fields.
    by_names: BTreeMap<String, Arc<Shape>>,
    /// Of the case that was added last.
    rules: Option<Arc<Rules>>,
}

impl Copier {
    /// Copies a case as it was read at `now`, in milliseconds since 1970; nothing if it is none.
    pub fn read(&mut self, text: &[u8], now: u64) -> Option<CaseCopy> {
        let text = std::str::from_utf8(text).ok()?;
        let like = self.recent.iter().enumerate();
        let found = like.filter_map(|(at, shape)| Some((at, shape.copy(text)?))).next();
        if let Some((at, copy)) = found {
            self.recent[..=at].rotate_right(1);
            return Some(copy);
        }
        let mut case: TestCase = serde_json::from_str(text).ok()?;
        let state = case.state;
        case.state = case.state_at(now);
        if case.state != state {
            return self.keep(&case, &written(&case));
        }
        self.keep(&case, text)
    }

    pub fn copy(&mut self, mut case: TestCase, now: u64) -> Option<CaseCopy> {
        case.state = case.state_at(now);
        self.keep(&case, &written(&case))
    }

    fn keep(&mut self, case: &TestCase, text: &str) -> Option<CaseCopy> {
        let fields = serde_json::from_str::<Fields<'_>>(text).ok()?.0;
        let outline = Outline::new(case, &mut self.rules);
        let names: Vec<&str> = fields.iter().map(|(name, _)| &**name).collect();
        let names = names.join(",");
        let values = fields.iter().map(|(_, value)| value.get());
        let known = self.by_names.get(&names).filter(|_| self.shapes.len() >= SHAPES_MAX);
        if let Some(shape) = known.cloned() {
            return Some(shape.copy_with(outline, values));
        }
        let field = |(name, value): (&str, &str)| Field {
            name: format!("{}:", quoted(name)).into(),
            value: value.into(),
            is_free: FREE_TEXTS.contains(&name),
        };
        let of_shape = fields.iter().map(|(name, _)| &**name).zip(values);
        let shape = Arc::new(Shape {
            number: self.shapes.len(),
            outline: outline.clone(),
            fields: of_shape.map(field).collect(),
        });
        self.shapes.push(shape.clone());
        self.by_names.insert(names, shape.clone());
        self.recent.insert(0, shape.clone());
        self.recent.truncate(RECENT_MAX);
        Some(CaseCopy { outline, shape, own: 0, values: Box::default() })
    }
}

fn written(case: &TestCase) -> String {
    // What was read as a case can be written as one.
    serde_json::to_string(case).unwrap_or_default()
}

impl Shape {
    /// A case that differs in nothing but texts that say nothing to its run: it need not be understood.
    fn copy(self: &Arc<Self>, text: &str) -> Option<CaseCopy> {
        let mut rest = text.strip_prefix('{')?;
        let (mut own, mut values, mut id) = (0, String::new(), None);
        for (n, field) in self.fields.iter().enumerate() {
            rest = if n > 0 { rest.strip_prefix(',')? } else { rest };
            rest = rest.strip_prefix(&*field.name)?;
            let same = rest.strip_prefix(&*field.value);
            let same = same.filter(|rest| rest.starts_with([',', '}']));
            rest = match same {
                Some(rest) => rest,
                None if field.is_free => {
                    let (value, after) = rest.split_at(string_end(rest)?);
                    if &*field.name == r#""id":"# {
                        id = Some(&value[1..value.len() - 1]);
                    }
                    own |= 1 << n;
                    values.push_str(value);
                    values.push(END);
                    after
                }
                None => return None,
            };
        }
        if rest != "}" {
            return None;
        }
        let outline = id.map_or_else(|| self.outline.clone(), |id| self.outline.alike(id));
        Some(CaseCopy { outline, shape: self.clone(), own, values: values.into() })
    }

    /// A case with these values of the same fields.
    fn copy_with<'a>(
        self: &Arc<Self>,
        outline: Outline,
        values: impl Iterator<Item = &'a str>,
    ) -> CaseCopy {
        let mut copy = CaseCopy { outline, shape: self.clone(), own: 0, values: Box::default() };
        let mut differing = String::new();
        for (n, (field, value)) in self.fields.iter().zip(values).enumerate() {
            if *field.value != *value {
                copy.own |= 1 << n;
                differing.push_str(value);
                differing.push(END);
            }
        }
        copy.values = differing.into();
        copy
    }
}

/// Where a string ends that begins here, if nothing in it is escaped.
fn string_end(text: &str) -> Option<usize> {
    let inner = text.strip_prefix('"')?.as_bytes();
    let end = inner.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f))?;
    (inner[end] == b'"').then_some(end + 2)
}

impl CaseCopy {
    /// Values of the fields, each with whether it is this case's own.
    fn values(&self) -> impl Iterator<Item = (&Field, &str, bool)> {
        let mut own = self.values.split(END);
        self.shape.fields.iter().enumerate().map(move |(n, field)| match self.own >> n & 1 {
            0 => (field, &*field.value, false),
            _ => (field, own.next().unwrap_or_default(), true),
        })
    }

    /// Adds the case in full.
    fn write(&self, text: &mut String) {
        let values = self.values().map(|(field, value, _)| (&*field.name, value));
        write_object(values, text);
    }
}

fn write_object<'a>(fields: impl Iterator<Item = (&'a str, &'a str)>, text: &mut String) {
    text.push('{');
    for (n, (name, value)) in fields.enumerate() {
        if n > 0 {
            text.push(',');
        }
        text.push_str(name);
        text.push_str(value);
    }
    text.push('}');
}

/// What most cases of a pack say.
struct Base<'a> {
    fields: Vec<(&'a str, &'a str)>,
    /// By the number of a shape.
    views: BTreeMap<usize, View<'a>>,
}

/// How a base looks to cases of one shape.
struct View<'a> {
    /// For each field, what the base says.
    fields: Vec<Option<&'a str>>,
    /// What the base says and they do not, to be taken back.
    beyond: Vec<&'a str>,
}

impl<'a> Base<'a> {
    fn new(cases: &[(&'a CaseCopy, &'a Repeats)]) -> Self {
        let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
        for (case, _) in cases {
            *counts.entry(case.shape.number).or_default() += 1;
        }
        let most = counts.into_iter().max_by_key(|(_, count)| *count);
        let is_of_most = |case: &&CaseCopy| most.is_some_and(|(most, _)| case.shape.number == most);
        let of_most: Vec<&CaseCopy> =
            cases.iter().map(|(case, _)| *case).filter(is_of_most).collect();
        let Some(first) = of_most.first() else {
            return Self { fields: Vec::new(), views: BTreeMap::new() };
        };
        let fields = first.shape.fields.iter().enumerate().filter(|(n, _)| {
            let own = of_most.iter().filter(|case| case.own >> n & 1 == 1).count();
            own * 2 <= of_most.len()
        });
        let fields = fields.map(|(_, field)| (&*field.name, &*field.value)).collect();
        Self { fields, views: BTreeMap::new() }
    }

    /// Adds a case, without what the base says as well.
    fn write(&mut self, case: &'a CaseCopy, text: &mut String) {
        let shape = &case.shape;
        let view = self.views.entry(shape.number).or_insert_with(|| {
            let said = |name: &str| self.fields.iter().find(|(found, _)| *found == name);
            let fields =
                shape.fields.iter().map(|field| said(&field.name).map(|(_, value)| *value));
            let is_beyond = |name: &&str| shape.fields.iter().all(|field| *field.name != **name);
            let names = self.fields.iter().map(|(name, _)| *name);
            View { fields: fields.collect(), beyond: names.filter(is_beyond).collect() }
        });
        let values = case.values().zip(&view.fields);
        let differing = values.filter(|((_, value, _), base)| **base != Some(*value));
        let differing = differing.map(|((field, value, _), _)| (&*field.name, value));
        write_object(differing.chain(view.beyond.iter().map(|name| (*name, "null"))), text);
    }
}

/// Definitions that go into one key.
pub struct Pack {
    /// The number of the first case.
    pub first: u32,
    /// As `Definitions` is written.
    pub text: String,
}

/// The definitions of a run, as many together as fit into a key, made one after the other.
pub struct Packs<'a> {
    /// The cases in the order of the lanes, each with its repeats.
    cases: &'a [(&'a CaseCopy, &'a Repeats)],
    environments: &'a [Environment],
    /// The run does not name its cases: their repeats are here, and what most say is said once.
    is_long: bool,
    next: usize,
}

impl<'a> Packs<'a> {
    pub fn new(
        cases: &'a [(&'a CaseCopy, &'a Repeats)],
        environments: &'a [Environment],
        is_long: bool,
    ) -> Self {
        Self { cases, environments, is_long, next: 0 }
    }

    /// The one pack that holds all, if one does.
    pub fn only(mut self) -> Option<Pack> {
        let pack = self.next();
        pack.filter(|_| self.next == self.cases.len())
    }
}

impl Iterator for Packs<'_> {
    type Item = Pack;

    fn next(&mut self) -> Option<Pack> {
        let start = self.next;
        let rest = self.cases.get(start..).filter(|rest| !rest.is_empty())?;
        let rest = &rest[..rest.len().min(PACK_CASES)];
        let (total, first) = (self.cases.len(), start as u32);
        let mut text = format!(r#"{{"total":{total},"first":{first}"#);
        let mut base = self.is_long.then(|| Base::new(rest));
        if let Some(base) = &base {
            text.push_str(r#","base":"#);
            write_object(base.fields.iter().copied(), &mut text);
        }
        text.push_str(r#","cases":["#);
        let (begin, mut repeats) = (text.len(), String::new());
        for (case, times) in rest {
            let before = (text.len(), repeats.len());
            if self.next > start {
                text.push(',');
                repeats.push(',');
            }
            match &mut base {
                Some(base) => base.write(case, &mut text),
                None => case.write(&mut text),
            }
            match times {
                Repeats::Same(times) => repeats.push_str(&times.to_string()),
                // What was read as repeats can be written as such.
                each => repeats.push_str(&serde_json::to_string(each).unwrap_or_default()),
            }
            // A longer case has a key of its own.
            if text.len() - begin + repeats.len() > PACK_BYTES && self.next > start {
                text.truncate(before.0);
                repeats.truncate(before.1);
                break;
            }
            self.next += 1;
        }
        text.push(']');
        if self.is_long {
            text.push_str(&format!(r#","repeats":[{repeats}]"#));
        }
        if start == 0 && !self.environments.is_empty() {
            let environments = serde_json::to_string(self.environments).unwrap_or_default();
            text.push_str(&format!(r#","environments":{environments}"#));
        }
        text.push('}');
        Some(Pack { first, text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::model::{CaseState, Definitions};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn case(id: &str, bytes: usize) -> TestCase {
        TestCase { id: id.into(), name: "x".repeat(bytes), ..Default::default() }
    }

    fn times(n: u32) -> Repeats {
        match n % 2 {
            0 => Repeats::Each(Box::new([("lab".into(), n)].into())),
            _ => n.into(),
        }
    }

    /// Packs of cases, read again.
    fn packed(cases: &[TestCase], places: &[Environment], is_long: bool) -> Vec<Definitions> {
        let mut copier = Copier::default();
        let copies = cases.iter().map(|case| copier.read(written(case).as_bytes(), 0).unwrap());
        let copies: Vec<CaseCopy> = copies.collect();
        let repeats: Vec<Repeats> = (1..).map(times).take(copies.len()).collect();
        let of_run: Vec<_> = copies.iter().zip(&repeats).collect();
        let outlines: Vec<&Outline> = copies.iter().map(|copy| &copy.outline).collect();
        let texts: Vec<String> =
            Packs::new(&of_run, places, is_long).map(|pack| pack.text).collect();
        let only = Packs::new(&of_run, places, is_long).only();
        assert_eq!(only.map(|pack| pack.text), texts.first().filter(|_| texts.len() == 1).cloned());
        let mut rules = None;
        let read =
            |text: &String| Definitions::outlines(text.as_bytes(), &mut rules).unwrap().cases;
        let read: Vec<Outline> = texts.iter().flat_map(read).collect();
        assert_eq!(read.iter().collect::<Vec<_>>(), outlines);
        for text in &texts {
            let unread = Definitions::unread(text.as_bytes()).unwrap();
            let read: Vec<_> = unread.cases.iter().map(|case| case.read().unwrap()).collect();
            assert_eq!(read, Definitions::parse(text.as_bytes()).unwrap().cases);
        }
        texts.iter().map(|text| Definitions::parse(text.as_bytes()).unwrap()).collect()
    }

    #[test]
    fn packs_hold_all_definitions_once_and_in_order() {
        let places: Vec<Environment> =
            ["lab", "field"].map(|id| Environment { id: id.into(), ..Default::default() }).into();
        for (sizes, expected) in [
            (vec![1], vec![1]),
            (vec![1, 2, 3], vec![3]),
            (vec![PACK_BYTES, 1, 1], vec![1, 2]),
            (vec![1, 2 * PACK_BYTES, 1], vec![1, 1, 1]),
            (vec![PACK_BYTES / 2; 4], vec![1, 1, 1, 1]),
            (vec![PACK_BYTES / 3; 4], vec![2, 2]),
        ] {
            for is_long in [false, true] {
                let cases: Vec<TestCase> =
                    sizes.iter().zip(1..).map(|(size, n)| case(&format!("c{n}"), *size)).collect();
                // What all say needs no room.
                let is_same = is_long && sizes.iter().all(|size| *size == sizes[0]);
                let expected = if is_same { vec![sizes.len()] } else { expected.clone() };
                let packs = packed(&cases, &places, is_long);
                let lengths: Vec<usize> = packs.iter().map(|pack| pack.cases.len()).collect();
                assert_eq!(lengths, expected, "{sizes:?}");
                let found: Vec<&TestCase> = packs.iter().flat_map(|pack| &pack.cases).collect();
                assert_eq!(found, cases.iter().collect::<Vec<_>>());
                let repeats: Vec<Repeats> = packs.iter().flat_map(|p| p.repeats.clone()).collect();
                let of_all: Vec<Repeats> =
                    (1..=cases.len() as u32).filter(|_| is_long).map(times).collect();
                assert_eq!(repeats, of_all);
                let mut first = 0;
                for (n, pack) in packs.iter().enumerate() {
                    assert_eq!((pack.first, pack.total), (first, cases.len() as u32));
                    assert_eq!(pack.environments.len(), if n == 0 { 2 } else { 0 });
                    first += pack.cases.len() as u32;
                }
            }
        }
    }

    #[test]
    fn a_long_run_of_cases_that_are_alike_is_short() {
        let alike = |n: u32| TestCase {
            id: format!("c{n:07}"),
            url: "http://127.0.0.1/".into(),
            output: Some("ok".into()),
            est_ms: Some(if n == 17 { 5 } else { 100 }),
            ..Default::default()
        };
        let cases: Vec<TestCase> = (0..20_000).map(alike).collect();
        let mut copier = Copier::default();
        let copies: Vec<CaseCopy> =
            cases.iter().map(|case| copier.copy(case.clone(), 0).unwrap()).collect();
        let once = Repeats::Same(1);
        let of_run: Vec<_> = copies.iter().map(|copy| (copy, &once)).collect();
        let texts: Vec<String> = Packs::new(&of_run, &[], true).map(|pack| pack.text).collect();
        let bytes: usize = texts.iter().map(String::len).sum();
        assert!(bytes < 20_000 * 25, "{bytes}");
        assert_eq!(texts.len(), 20_000usize.div_ceil(PACK_CASES));
        let read = |text: &String| Definitions::parse(text.as_bytes()).unwrap().cases;
        assert_eq!(texts.iter().flat_map(read).collect::<Vec<_>>(), cases);
    }

    #[test]
    fn free_texts_change_no_rules() {
        let plain = json!({"id": "a", "url": "http://x/", "est_ms": 5, "mutual_tag": ["t"]});
        let rules = Outline::from(&serde_json::from_value::<TestCase>(plain.clone()).unwrap());
        for name in FREE_TEXTS {
            let mut other = plain.clone();
            other[name] = "anything".into();
            let read: TestCase = serde_json::from_value(other).expect(name);
            assert_eq!(*Outline::from(&read), *rules, "{name}");
        }
    }

    #[test]
    fn what_is_no_case_is_not_copied_whatever_came_before() {
        let mut copier = Copier::default();
        assert!(copier.read(br#"{"id":"a","est_ms":1}"#, 0).is_some());
        for text in [
            r#"{"id":"b","est_ms":"1"}"#,
            r#"{"id":"b","est_ms":1"#,
            r#"{"id":"b","est_ms":1}}"#,
            r#"{"id":"b,"est_ms":1}"#,
            r#"{"id":"b","id":"c"}"#,
            r#"{"id":"b","what":1}"#,
            r#"{"id":5,"est_ms":1}"#,
            "",
        ] {
            assert!(copier.read(text.as_bytes(), 0).is_none(), "{text}");
        }
        for (text, id) in [
            (r#"{"id":"b","est_ms":1}"#, "b"),
            (r#"{"id":"b\"c","est_ms":1}"#, "b\"c"),
            (r#"{ "id" : "c" , "est_ms":12 }"#, "c"),
            (r#"{"id":"","est_ms":1}"#, ""),
        ] {
            let copy = copier.read(text.as_bytes(), 0).unwrap();
            let case: TestCase = serde_json::from_str(text).unwrap();
            assert_eq!(*copy.outline.id, *id, "{text}");
            assert_eq!(copy.outline, Outline::from(&case), "{text}");
        }
    }

    #[test]
    fn a_state_that_is_over_is_so_in_the_copy() {
        let muted = TestCase {
            state: CaseState::Muted,
            state_until: Some("2000-01-01T00:00:00Z".into()),
            ..case("a", 1)
        };
        let mut copier = Copier::default();
        for now in [1, u64::MAX] {
            let copy = copier.read(written(&muted).as_bytes(), now).unwrap();
            let state = if now == 1 { CaseState::Muted } else { CaseState::Enabled };
            assert_eq!(copy.outline.state, state);
            copier = Copier::default();
        }
    }

    fn any_case() -> impl Strategy<Value = TestCase> {
        let text = || prop::sample::select(vec!["", "a", "b\"", "x y\n", "ä", "null"]);
        let some = || prop::option::of(text());
        let fields = (text(), text(), some(), some(), 0..3u64, prop::option::of(0..2u64));
        (fields, any::<bool>(), prop::option::of(text())).prop_map(|(fields, has_tag, step)| {
            let (id, name, input, owner, timeout, est_ms) = fields;
            let value = json!({
                "id": id, "name": name, "input": input, "timeout_ms": timeout, "est_ms": est_ms,
                "owner": owner.unwrap_or_default(), "steps": step.map(|step| json!([step, null])),
                "mutual_tag": if has_tag { json!("t") } else { Value::Null },
            });
            serde_json::from_value(value).unwrap()
        })
    }

    proptest! {
        #[test]
        fn whatever_cases_say_is_read_again(cases in prop::collection::vec(any_case(), 1..40)) {
            for is_long in [false, true] {
                let packs = packed(&cases, &[], is_long);
                let found: Vec<TestCase> = packs.into_iter().flat_map(|pack| pack.cases).collect();
                prop_assert_eq!(&found, &cases);
            }
        }
    }
}
