//! JSON files that hold named lists of flat records, read without building a tree.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;

use crate::error::DataError;
use crate::text_file::{TextFile, excerpt, item_at_line};

/// Lists and objects within each other, at most.
const MAX_DEPTH: usize = 100;

/// Strings of a list inside a record, at most.
const MAX_TEXTS: usize = 64;

/// Keys that a message lists at most.
const MAX_LISTED: usize = 12;

/// One list of the object that a file is.
pub(crate) struct List {
    pub(crate) name: &'static str,
    pub(crate) need: Need,
    /// Keys read of every element; all others are skipped. None: the elements are no objects.
    pub(crate) fields: &'static [&'static str],
}

/// Whether a file without a list is refused.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    Required,
    Optional,
}

/// Reads a file `{"name": [{"field": ..}, ..], ..}` and hands every element of `lists` to `sink`
/// with the number of its list and its number in the list.
///
/// The order is that of the file. What `sink` refuses becomes an error about that element. Stricter
/// than Python's `json`: an error are also `NaN`, half a surrogate pair in a text that is read, and
/// a key that is read and occurs twice (Python keeps the last). Keys that are not read are only
/// checked for syntax.
pub(crate) fn read_lists<F>(
    file: &TextFile,
    lists: &'static [List],
    mut sink: F,
) -> Result<(), DataError>
where
    F: FnMut(usize, usize, Record<'_>) -> Result<(), String>,
{
    check_depth(file, file.text(), 1)?;
    let mut progress = Progress {
        place: Place::File,
        seen: vec![false; lists.len()],
        keys: Vec::new(),
    };
    let mut deserializer = serde_json::Deserializer::from_str(file.text());
    let seed = FileSeed {
        lists,
        progress: &mut progress,
        sink: &mut sink,
    };
    let read = seed
        .deserialize(&mut deserializer)
        .and_then(|()| deserializer.end());
    if let Err(error) = read {
        return Err(failure(file, 1, progress.place, &error));
    }
    for (list, seen) in lists.iter().zip(&progress.seen) {
        if list.need == Need::Required && !seen {
            return Err(file.refuse(missing_list(list.name, &progress.keys)));
        }
    }
    Ok(())
}

/// The reason for a file without the list `name`.
fn missing_list(name: &str, keys: &[String]) -> String {
    format!("'{name}' missing; keys found: {}", keys.join(", "))
}

/// Reads a file with one object a line and hands `fields` of each to `sink` with its line, counted
/// from 1; blank lines are skipped, and strict as [`read_lists`].
pub(crate) fn read_lines<F>(
    file: &TextFile,
    fields: &'static [&'static str],
    mut sink: F,
) -> Result<(), DataError>
where
    F: FnMut(usize, Record<'_>) -> Result<(), String>,
{
    for (index, text) in file.text().lines().enumerate() {
        if text.trim().is_empty() {
            continue;
        }
        let line = index + 1;
        check_depth(file, text, line)?;
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let read = RecordSeed { fields }
            .deserialize(&mut deserializer)
            .and_then(|record| deserializer.end().map(|()| record));
        let record = read.map_err(|error| failure(file, line, Place::Line(line), &error))?;
        sink(line, record)
            .map_err(|reason| item_at_line(file.path(), line, format!("line {line}"), reason))?;
    }
    Ok(())
}

/// Some values of one object, or a value that is no object.
pub(crate) struct Record<'de> {
    fields: &'static [&'static str],
    values: Vec<Option<Scalar<'de>>>,
}

impl Record<'_> {
    fn value(&self, field: &str) -> Result<&Scalar<'_>, String> {
        self.optional(field)
            .ok_or_else(|| format!("'{field}' missing"))
    }

    fn optional(&self, field: &str) -> Option<&Scalar<'_>> {
        let place = self.fields.iter().position(|name| *name == field)?;
        self.values.get(place)?.as_ref()
    }

    pub(crate) fn has(&self, field: &str) -> bool {
        self.optional(field).is_some()
    }

    pub(crate) fn text(&self, field: &str) -> Result<&str, String> {
        match self.value(field)? {
            Scalar::Text(text) => Ok(text.as_ref()),
            other => Err(format!(
                "'{field}' is {}, expected a string",
                other.describe()
            )),
        }
    }

    /// A text that is not blank.
    pub(crate) fn id(&self, field: &str) -> Result<&str, String> {
        let text = self.text(field)?;
        if text.trim().is_empty() {
            return Err(format!("'{field}' is blank"));
        }
        Ok(text)
    }

    /// A text, or `None` where it is absent or null.
    pub(crate) fn optional_text(&self, field: &str) -> Result<Option<&str>, String> {
        match self.optional(field) {
            None | Some(Scalar::Null) => Ok(None),
            Some(_) => self.text(field).map(Some),
        }
    }

    pub(crate) fn integer(&self, field: &str) -> Result<i64, String> {
        match self.value(field)? {
            Scalar::Integer(value) => Ok(*value),
            other => Err(format!(
                "'{field}' is {}, expected an integer",
                other.describe()
            )),
        }
    }

    /// A list of at most 64 texts.
    pub(crate) fn texts(&self, field: &str) -> Result<&[String], String> {
        match self.value(field)? {
            Scalar::Texts(texts) => Ok(texts.as_slice()),
            other => Err(format!(
                "'{field}' is {}, expected a list of at most {MAX_TEXTS} strings",
                other.describe()
            )),
        }
    }

    /// The element itself, where the list has no fields.
    pub(crate) fn own_text(&self) -> Result<&str, String> {
        match self.values.first() {
            Some(Some(Scalar::Text(text))) => Ok(text.as_ref()),
            Some(Some(other)) => Err(format!("is {}, expected a string", other.describe())),
            _ => Err("is missing, expected a string".to_owned()),
        }
    }
}

/// A value without its inside, except for lists of few strings.
enum Scalar<'de> {
    Null,
    Bool,
    Integer(i64),
    /// With a fraction or beyond 64 bits.
    Number,
    Text(Cow<'de, str>),
    Texts(Vec<String>),
    List,
    Object,
}

impl Scalar<'_> {
    fn describe(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool => "a truth value",
            Self::Integer(_) => "a number",
            Self::Number => "a number that is not an integer of 64 bits",
            Self::Text(_) => "a string",
            Self::Texts(_) => "a list of strings",
            Self::List => "a list",
            Self::Object => "an object",
        }
    }
}

impl<'de> Deserialize<'de> for Scalar<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(Scalar::Null)
    }

    fn visit_bool<E: Error>(self, _value: bool) -> Result<Self::Value, E> {
        Ok(Scalar::Bool)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Scalar::Integer(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        Ok(match i64::try_from(value) {
            Ok(value) => Scalar::Integer(value),
            Err(_) => Scalar::Number,
        })
    }

    fn visit_f64<E: Error>(self, _value: f64) -> Result<Self::Value, E> {
        Ok(Scalar::Number)
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Scalar::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Scalar::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        let mut texts: Vec<String> = Vec::new();
        let mut only_texts = true;
        // Recursion ends at the depth that was checked before.
        while let Some(element) = elements.next_element::<Scalar<'de>>()? {
            match element {
                Scalar::Text(text) if only_texts && texts.len() < MAX_TEXTS => {
                    texts.push(text.into_owned());
                }
                _ => only_texts = false,
            }
        }
        Ok(if only_texts {
            Scalar::Texts(texts)
        } else {
            Scalar::List
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::Object)
    }
}

/// Where the reader is, for errors.
#[derive(Clone, Copy)]
enum Place {
    File,
    List(&'static str),
    Element(&'static str, usize),
    Line(usize),
}

struct Progress {
    place: Place,
    seen: Vec<bool>,
    keys: Vec<String>,
}

struct FileSeed<'s, F> {
    lists: &'static [List],
    progress: &'s mut Progress,
    sink: &'s mut F,
}

impl<'de, F> DeserializeSeed<'de> for FileSeed<'_, F>
where
    F: FnMut(usize, usize, Record<'_>) -> Result<(), String>,
{
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, F> Visitor<'de> for FileSeed<'_, F>
where
    F: FnMut(usize, usize, Record<'_>) -> Result<(), String>,
{
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    // The message of the default would quote the whole text.
    fn visit_str<E: Error>(self, _text: &str) -> Result<(), E> {
        Err(E::custom("is a string, expected an object"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        while let Some(key) = entries.next_key::<Scalar<'de>>()? {
            let name: &str = match &key {
                Scalar::Text(text) => text.as_ref(),
                _ => "",
            };
            if self.progress.keys.len() < MAX_LISTED {
                self.progress.keys.push(excerpt(name));
            }
            let Some(number) = self.lists.iter().position(|list| list.name == name) else {
                entries.next_value::<IgnoredAny>()?;
                continue;
            };
            let list: &'static List = &self.lists[number];
            if self.progress.seen.get(number).copied().unwrap_or(false) {
                return Err(A::Error::custom(format!("'{name}' occurs twice")));
            }
            if let Some(seen) = self.progress.seen.get_mut(number) {
                *seen = true;
            }
            self.progress.place = Place::List(list.name);
            entries.next_value_seed(ListSeed {
                list,
                number,
                progress: &mut *self.progress,
                sink: &mut *self.sink,
            })?;
            self.progress.place = Place::File;
        }
        Ok(())
    }
}

struct ListSeed<'s, F> {
    list: &'static List,
    number: usize,
    progress: &'s mut Progress,
    sink: &'s mut F,
}

impl<'de, F> DeserializeSeed<'de> for ListSeed<'_, F>
where
    F: FnMut(usize, usize, Record<'_>) -> Result<(), String>,
{
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, F> Visitor<'de> for ListSeed<'_, F>
where
    F: FnMut(usize, usize, Record<'_>) -> Result<(), String>,
{
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list")
    }

    fn visit_str<E: Error>(self, _text: &str) -> Result<(), E> {
        Err(E::custom("is a string, expected a list"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        let mut index: usize = 0;
        loop {
            self.progress.place = Place::Element(self.list.name, index);
            let seed = RecordSeed {
                fields: self.list.fields,
            };
            match elements.next_element_seed(seed)? {
                Some(record) => {
                    let sink = &mut *self.sink;
                    sink(self.number, index, record).map_err(A::Error::custom)?;
                }
                None => return Ok(()),
            }
            index += 1;
        }
    }
}

struct RecordSeed {
    fields: &'static [&'static str],
}

impl<'de> DeserializeSeed<'de> for RecordSeed {
    type Value = Record<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Record<'de>, D::Error> {
        if self.fields.is_empty() {
            let value = Scalar::deserialize(deserializer)?;
            return Ok(Record {
                fields: self.fields,
                values: vec![Some(value)],
            });
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for RecordSeed {
    type Value = Record<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_str<E: Error>(self, _text: &str) -> Result<Record<'de>, E> {
        Err(E::custom("is a string, expected an object"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Record<'de>, A::Error> {
        let mut values: Vec<Option<Scalar<'de>>> = Vec::with_capacity(self.fields.len());
        values.resize_with(self.fields.len(), || None);
        while let Some(key) = entries.next_key::<Scalar<'de>>()? {
            let name: &str = match &key {
                Scalar::Text(text) => text.as_ref(),
                _ => "",
            };
            let place = self.fields.iter().position(|field| *field == name);
            let Some(place) = place else {
                entries.next_value::<IgnoredAny>()?;
                continue;
            };
            if values.get(place).is_some_and(Option::is_some) {
                return Err(A::Error::custom(format!("'{name}' occurs twice")));
            }
            let value = entries.next_value::<Scalar<'de>>()?;
            if let Some(slot) = values.get_mut(place) {
                *slot = Some(value);
            }
        }
        Ok(Record {
            fields: self.fields,
            values,
        })
    }
}

/// An error of `serde_json` with its place in the file; `first_line` is the line of its text.
fn failure(
    file: &TextFile,
    first_line: usize,
    place: Place,
    error: &serde_json::Error,
) -> DataError {
    let line = first_line.saturating_add(error.line().saturating_sub(1));
    let column = error.column();
    let text = error.to_string();
    let suffix = format!(" at line {} column {column}", error.line());
    let message = text.strip_suffix(&suffix).unwrap_or(&text);
    match (error.classify(), place) {
        (Category::Data, Place::Element(list, index)) => {
            item_at_line(file.path(), line, format!("{list}[{index}]"), message)
        }
        (Category::Data, Place::List(list)) => item_at_line(file.path(), line, list, message),
        (Category::Data, Place::Line(line)) => {
            item_at_line(file.path(), line, format!("line {line}"), message)
        }
        (Category::Data, Place::File) => {
            file.fault_in_line(line, format!("column {column}: {message}"))
        }
        _ => {
            let hint = if message.contains("hex escape") {
                " (a \\u escape is cut off or is a lone surrogate)"
            } else if message == "trailing characters" {
                " (a second document?)"
            } else {
                ""
            };
            let within = match place {
                Place::Element(list, index) => format!(" in {list}[{index}]"),
                Place::List(list) => format!(" in '{list}'"),
                Place::File | Place::Line(_) => String::new(),
            };
            file.fault_in_line(line, format!("column {column}: {message}{within}{hint}"))
        }
    }
}

/// Refuses deep nesting before a parser recurses into it; `first_line` is the line of `text`.
fn check_depth(file: &TextFile, text: &str, first_line: usize) -> Result<(), DataError> {
    let mut depth: usize = 0;
    let mut in_string = false;
    let mut escaped = false;
    let mut line = first_line;
    let mut line_start: usize = 0;
    for (offset, &byte) in text.as_bytes().iter().enumerate() {
        if byte == b'\n' {
            line += 1;
            line_start = offset + 1;
        }
        if in_string {
            if escaped {
                escaped = false;
            } else if byte == b'\\' {
                escaped = true;
            } else if byte == b'"' {
                in_string = false;
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            let column = offset - line_start + 1;
            let reason =
                format!("column {column}: nesting beyond the admissible depth of {MAX_DEPTH}");
            return Err(file.fault_in_line(line, reason));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    const LISTS: &[List] = &[
        List {
            name: "items",
            need: Need::Required,
            fields: &["id", "n", "note", "parts"],
        },
        List {
            name: "words",
            need: Need::Optional,
            fields: &[],
        },
    ];

    fn file(text: &str) -> TextFile {
        TextFile::from_bytes(Path::new("a.json"), "JSON", text.as_bytes().to_vec()).unwrap()
    }

    /// Every element as one line, or the message.
    fn read(text: &str) -> Result<Vec<String>, String> {
        let mut found = Vec::new();
        let result = read_lists(&file(text), LISTS, |list, index, record| {
            found.push(if list == 0 {
                let note = record.optional_text("note")?;
                let n_parts = match record.has("parts") {
                    true => record.texts("parts")?.len(),
                    false => 0,
                };
                let (id, n) = (record.id("id")?, record.integer("n")?);
                format!("{index} {id} {n} {note:?} {n_parts}")
            } else {
                format!("{index} {}", record.own_text()?)
            });
            Ok(())
        });
        match result {
            Ok(()) => Ok(found),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn elements_come_in_the_order_of_the_file_and_other_keys_are_skipped() {
        let text = r#"{"words": ["a", "b\n"], "more": [{"x": [1e5]}],
            "items": [{"n": -3, "z": {}, "id": "v", "note": null, "parts": ["p", "q"]}]}"#;
        assert_eq!(read(text).unwrap(), ["0 a", "1 b\n", "0 v -3 None 2"]);
    }

    #[test]
    fn bad_files_are_errors_with_their_place() {
        let cases = [
            ("[1]", "a.json:1: not a valid JSON file: column"),
            ("[1]", "expected an object"),
            (r#""a""#, "is a string, expected an object"),
            ("{}", "a.json: not a valid JSON file: 'items' missing"),
            (r#"{"item": []}"#, "keys found: item"),
            (
                r#"{"items": 3}"#,
                "item `items`: invalid type: integer `3`, expected a list",
            ),
            (
                r#"{"items": "x"}"#,
                "item `items`: is a string, expected a list",
            ),
            (
                "{\"items\":\n[3]}",
                "a.json:2: item `items[0]`: invalid type",
            ),
            (r#"{"items": [{"n": 1}]}"#, "item `items[0]`: 'id' missing"),
            (
                r#"{"items": [{"id": " ", "n": 1}]}"#,
                "item `items[0]`: 'id' is blank",
            ),
            (
                r#"{"items": [{"id": "a", "n": 1}, {"id": 5}]}"#,
                "item `items[1]`: 'id' is a number, expected a string",
            ),
            (
                r#"{"items": [{"id": "a", "n": 1.5}]}"#,
                "'n' is a number that is not an integer of 64 bits, expected an integer",
            ),
            (
                r#"{"items": [{"id": "a", "n": 1, "parts": ["a", 1]}]}"#,
                "'parts' is a list, expected a list of at most 64 strings",
            ),
            (
                r#"{"items": [{"id": "a", "n": 1, "note": {}}]}"#,
                "'note' is an object, expected a string",
            ),
            (
                r#"{"items": [], "words": [null]}"#,
                "item `words[0]`: is null",
            ),
            (r#"{"items": [], "items": []}"#, "'items' occurs twice"),
            (
                r#"{"items": [{"id": "a", "id": "b"}]}"#,
                "item `items[0]`: 'id' occurs twice",
            ),
            (
                "{\"items\": []}\n {}",
                "a.json:2: not a valid JSON file: column 2: trailing characters",
            ),
            (
                r#"{"items": [],}"#,
                "a.json:1: not a valid JSON file: column 14: trailing comma",
            ),
            (r#"{"items": [{"n": NaN}]}"#, "expected value in items[0]"),
            (r#"{"items": [{"id": "\ud800"}]}"#, "lone surrogate"),
            (r#"{"items": [{"id": "\udc00"}]}"#, "surrogate"),
            (r#"{"items": [{"id": "#, "EOF while parsing"),
        ];
        for (text, message) in cases {
            let error = read(text).unwrap_err();
            assert!(error.contains(message), "{error} lacks {message}");
        }
    }

    #[test]
    fn nesting_ends_at_its_limit_but_brackets_in_strings_are_text() {
        let nested = |depth: usize| {
            let (open, close) = ("[".repeat(depth - 1), "]".repeat(depth - 1));
            format!("{{\"items\": [], \"x\":\n{open}{close}}}")
        };
        assert!(read(&nested(MAX_DEPTH)).is_ok());
        let error = read(&nested(MAX_DEPTH + 1)).unwrap_err();
        assert!(
            error.contains("a.json:2:") && error.contains("depth of 100"),
            "{error}"
        );
        let text = format!(r#"{{"items": [], "words": ["\"{}"]}}"#, "[".repeat(300));
        assert_eq!(read(&text).unwrap().len(), 1);
    }

    #[test]
    fn lines_are_objects_with_their_number() {
        let mut ids = Vec::new();
        let text = "{\"id\": \"a\"}\n\n{\"id\": \"b\", \"x\": 1}\r\n";
        read_lines(&file(text), &["id"], |line, record| {
            ids.push(format!("{line} {}", record.id("id")?));
            Ok(())
        })
        .unwrap();
        assert_eq!(ids, ["1 a", "3 b"]);
        for (text, message) in [
            (
                "{\"id\": \"a\"}\n{\"id\": 1}",
                "a.json:2: item `line 2`: 'id' is a number",
            ),
            (
                "{\"id\": \"a\"}\n[]",
                "a.json:2: item `line 2`: invalid type",
            ),
            (
                "\n{\"id\": \"a\"",
                "a.json:2: not a valid JSON file: column 10: EOF",
            ),
        ] {
            let check = |_: usize, record: Record<'_>| record.id("id").map(|_| ());
            let error = read_lines(&file(text), &["id"], check)
                .unwrap_err()
                .to_string();
            assert!(error.contains(message), "{error} lacks {message}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(file) = TextFile::from_bytes(Path::new("a"), "JSON", bytes) {
                let _ = read_lists(&file, LISTS, |_, _, record| record.id("id").map(|_| ()));
                let _ = read_lines(&file, &["id"], |_, record| record.id("id").map(|_| ()));
            }
        }

        #[test]
        fn no_pieces_of_json_make_the_reader_panic(
            pieces in prop::collection::vec(
                prop::sample::select(vec![
                    "{", "}", "[", "]", ",", ":", "\"items\"", "\"words\"", "\"id\"", "\"n\"",
                    "1", "-1e400", "null", "true", "\"\\ud800\"", "\"", "\\", "\n",
                ]),
                0..40,
            ),
        ) {
            let text = format!("{{\"items\":[{{\"id\":{}", pieces.concat());
            let _ = read(&text);
            let _ = read(&format!(" {}", pieces.concat()));
        }
    }
}
