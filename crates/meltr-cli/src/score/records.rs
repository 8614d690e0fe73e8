//! JSON files of records with an id, in the forms that tools of the field write.

use std::fmt;
use std::fs;
use std::path::Path;

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::error::CliError;

/// One record: whose it is, where it stands, what it says.
#[derive(Debug, PartialEq)]
pub(super) struct Record {
    pub(super) id: String,
    /// `line 3` or `entry 3`; nothing if its id says where it is.
    pub(super) place: Option<String>,
    pub(super) value: Value,
}

impl Record {
    /// The record in a message, with its file.
    pub(super) fn shown(&self, path: &Path) -> String {
        match &self.place {
            Some(place) => format!("`{}`, {place}, item `{}`", path.display(), self.id),
            None => format!("`{}`, item `{}`", path.display(), self.id),
        }
    }

    /// Whether records of the same id belong together, as COCO's annotations of one image.
    pub(super) fn may_repeat(&self) -> bool {
        self.place.is_some()
    }
}

/// The records of a file, in its order: an object by id, a list of objects, COCO's `annotations`,
/// or one object a line. In lists the id is under the first of `id_keys` that an object has.
pub(super) fn read(path: &Path, id_keys: &[&str]) -> Result<Vec<Record>, CliError> {
    let text = fs::read_to_string(path).map_err(|error| {
        CliError::Input(format!(
            "`{}` cannot be read: {error}; check the path, and that it is text in UTF-8",
            path.display()
        ))
    })?;
    parse(text.trim_start_matches('\u{feff}'), id_keys)
        .map_err(|reason| CliError::Input(format!("`{}`: {reason}", path.display())))
}

fn parse(text: &str, id_keys: &[&str]) -> Result<Vec<Record>, String> {
    let mut documents = documents(text)?;
    let records = if documents.len() > 1 {
        documents
            .into_iter()
            .map(|(line, document)| match document {
                Document::Object(members) => listed(
                    format!("line {line}"),
                    members.into_iter().collect(),
                    id_keys,
                ),
                Document::List(_) => Err(format!("line {line} is a list, expected an object")),
            })
            .collect::<Result<Vec<_>, String>>()?
    } else {
        match documents.pop() {
            Some((_, Document::List(values))) => entries(values, id_keys)?,
            Some((line, Document::Object(members))) => {
                whole(format!("line {line}"), members, id_keys)?
            }
            None => Vec::new(),
        }
    };
    if records.is_empty() {
        return Err("holds no record; check that it is the right file".to_owned());
    }
    Ok(records)
}

/// The documents of a text with the lines where they start.
fn documents(text: &str) -> Result<Vec<(usize, Document)>, String> {
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Document>();
    let mut documents = Vec::new();
    let (mut line, mut counted) = (1, 0);
    loop {
        let rest = text.get(stream.byte_offset()..).unwrap_or_default();
        let start = text.len() - rest.trim_start().len();
        let Some(document) = stream.next() else {
            return Ok(documents);
        };
        let document = document.map_err(|error| format!("not valid JSON: {error}"))?;
        line += text[counted..start].matches('\n').count();
        counted = start;
        documents.push((line, document));
    }
}

/// The records of the only object of a file.
fn whole(
    place: String,
    members: Vec<(String, Value)>,
    id_keys: &[&str],
) -> Result<Vec<Record>, String> {
    let annotations = members
        .iter()
        .position(|(key, value)| key == "annotations" && value.is_array());
    if let Some(annotations) = annotations {
        let (_, value) = members.into_iter().nth(annotations).unwrap_or_default();
        let Value::Array(values) = value else {
            return Ok(Vec::new());
        };
        return entries(values, id_keys);
    }
    let is_record = members
        .iter()
        .any(|(key, value)| id_keys.contains(&key.as_str()) && id_text(value).is_some());
    if is_record {
        return Ok(vec![listed(place, members.into_iter().collect(), id_keys)?]);
    }
    Ok(members
        .into_iter()
        .map(|(id, value)| Record {
            id,
            place: None,
            value,
        })
        .collect())
}

fn entries(values: Vec<Value>, id_keys: &[&str]) -> Result<Vec<Record>, String> {
    values
        .into_iter()
        .enumerate()
        .map(|(index, value)| {
            let place = format!("entry {}", index + 1);
            match value {
                Value::Object(members) => listed(place, members, id_keys),
                _ => Err(format!("{place} is no object")),
            }
        })
        .collect()
}

/// A record that says its id itself.
fn listed(place: String, members: Map<String, Value>, id_keys: &[&str]) -> Result<Record, String> {
    let id = id_keys
        .iter()
        .find_map(|key| members.get(*key).and_then(id_text));
    match id {
        Some(id) => Ok(Record {
            id,
            place: Some(place),
            value: Value::Object(members),
        }),
        None => Err(format!(
            "{place} has no id; give it one of the keys `{}`",
            id_keys.join("`, `")
        )),
    }
}

/// An id as text: ids are strings in some files and numbers in others.
fn id_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// An object with all its members, repeated ones too, or a list.
enum Document {
    Object(Vec<(String, Value)>),
    List(Vec<Value>),
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DocumentVisitor)
    }
}

struct DocumentVisitor;

impl<'de> Visitor<'de> for DocumentVisitor {
    type Value = Document;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object or a list")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Document, M::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Document::Object(members))
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> Result<Document, S::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element()? {
            values.push(value);
        }
        Ok(Document::List(values))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const KEYS: [&str; 2] = ["image_id", "id"];

    fn ids(text: &str) -> Vec<String> {
        let records = parse(text, &KEYS).unwrap();
        records.into_iter().map(|record| record.id).collect()
    }

    #[test]
    fn an_object_by_id_keeps_its_order_and_its_repetitions() {
        assert_eq!(ids(r#"{"b": "x", "a": "y", "b": "z"}"#), ["b", "a", "b"]);
    }

    #[test]
    fn lists_annotations_and_lines_say_their_ids() {
        let list = r#"[{"image_id": 7, "id": 1, "caption": "x"}, {"id": "b"}]"#;
        assert_eq!(ids(list), ["7", "b"]);
        assert_eq!(
            ids(&format!(r#"{{"info": {{}}, "annotations": {list}}}"#)),
            ["7", "b"]
        );
        let lines = "{\"id\": \"a\"}\n\n{\"id\": \"b\",\n \"caption\": \"x\"}\n";
        let records = parse(lines, &KEYS).unwrap();
        assert_eq!(records[1].place.as_deref(), Some("line 3"));
        assert_eq!(records[1].value, json!({"id": "b", "caption": "x"}));
        assert_eq!(ids(r#"{"id": "only", "caption": "x"}"#), ["only"]);
    }

    #[test]
    fn what_is_no_record_is_said_with_its_place() {
        let error = |text: &str| parse(text, &KEYS).unwrap_err();
        assert!(error("{\"a\": \n}").contains("line 2"));
        assert!(error("[{\"caption\": \"x\"}]").contains("entry 1 has no id"));
        assert!(error("[1]").contains("entry 1 is no object"));
        assert!(error("{\"id\": \"a\"}\n[1]").contains("line 2 is a list"));
        assert!(error("").contains("holds no record"));
        assert!(error("7").contains("an object or a list"));
    }
}
