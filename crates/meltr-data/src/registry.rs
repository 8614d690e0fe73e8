//! The registry: data sets and weights, who may have them, and how to get their files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{DataError, DataErrorKind};
use crate::word_piece::utf8;

/// The copy of `datasets.toml` at the top of the repository; a test keeps the two equal.
const BUILT_IN: &str = include_str!("../assets/datasets.toml");

/// The name of the embedded registry in messages.
const BUILT_IN_NAME: &str = "datasets.toml";

/// The only version of the format so far.
const FORMAT_VERSION: u32 = 1;

/// All data sets and weights that have an entry.
///
/// ```
/// use meltr_data::Registry;
///
/// # fn main() -> Result<(), meltr_data::DataError> {
/// let registry = Registry::built_in()?;
/// let entry = registry.entry("univl").map(|entry| entry.license.as_deref());
/// assert_eq!(entry, Some(Some("MIT")));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Registry {
    path: PathBuf,
    entries: Vec<RegistryEntry>,
}

/// What an entry is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// A data set.
    #[default]
    Set,
    /// Weights of a network, or a vocabulary.
    Weights,
}

impl EntryKind {
    /// The name in the file and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Set => "set",
            Self::Weights => "weights",
        }
    }
}

/// Whether anyone may have the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Anyone, under the license.
    Open,
    /// There are terms to agree to, or the terms are not known.
    Restricted,
}

/// One data set or one set of weights. What is `None` is not known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistryEntry {
    /// Data or weights.
    #[serde(skip_deserializing, default)]
    pub kind: EntryKind,
    /// Name on the command line: lower-case letters, digits and hyphens.
    pub id: String,
    /// Name for people.
    pub name: String,
    /// What it is, in a sentence.
    pub what: String,
    /// Whether anyone may have it.
    pub access: Access,
    /// SPDX identifier, or the terms in a few words.
    #[serde(default)]
    pub license: Option<String>,
    /// Who may have it.
    #[serde(default)]
    pub who: Option<String>,
    /// Where it comes from, by name.
    pub source: String,
    /// `owner/name` on GitHub.
    #[serde(default)]
    pub repository: Option<String>,
    /// The commit of the repository that was read.
    #[serde(default)]
    pub commit: Option<String>,
    /// What uses it.
    #[serde(default)]
    pub used_by: Vec<String>,
    /// Where the counts of `splits` come from.
    #[serde(default)]
    pub counted: Option<String>,
    /// Numbers of items by split.
    #[serde(default)]
    pub splits: BTreeMap<String, SplitCounts>,
    /// What a person has to do, in order.
    #[serde(default)]
    pub steps: Vec<String>,
    /// Whether it is in the program, so that there is nothing to fetch.
    #[serde(default)]
    pub embedded: bool,
    /// A list of checksums, relative to the root of the checkout.
    #[serde(default)]
    pub checksums: Option<String>,
    /// The single files that are known.
    #[serde(default, rename = "file")]
    pub files: Vec<RegistryFile>,
}

/// Numbers of items of one split. What is `None` was not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitCounts {
    /// Number of videos.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub videos: Option<u64>,
    /// Number of clips, i.e. parts of videos.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clips: Option<u64>,
    /// Number of sentences.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub texts: Option<u64>,
    /// Number of questions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub questions: Option<u64>,
}

impl SplitCounts {
    /// The counts that are known, with their names.
    pub fn known(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [
            ("videos", self.videos),
            ("clips", self.clips),
            ("texts", self.texts),
            ("questions", self.questions),
        ]
        .into_iter()
        .filter_map(|(name, count)| count.map(|count| (name, count)))
    }
}

/// One file of an entry. What is `None` is not known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistryFile {
    /// Name below the folder of the entry, with `/` between its parts.
    pub path: String,
    /// Length in bytes.
    #[serde(default)]
    pub size: Option<u64>,
    /// Hexadecimal SHA-256 of the content, in lower case.
    #[serde(default)]
    pub sha256: Option<String>,
    /// Tag of the release of the entry's repository that the file is attached to.
    #[serde(default)]
    pub release: Option<String>,
    /// Address of the file, if it is attached to no release.
    #[serde(default)]
    pub url: Option<String>,
    /// How the file was made; another converter may write other bytes of the same meaning.
    #[serde(default)]
    pub derived: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format_version: u32,
    #[serde(default, rename = "set")]
    sets: Vec<RegistryEntry>,
    #[serde(default)]
    weights: Vec<RegistryEntry>,
}

impl Registry {
    /// The registry that the crate carries.
    ///
    /// # Errors
    ///
    /// Returns an error if the embedded file is damaged, which the tests exclude.
    pub fn built_in() -> Result<Self, DataError> {
        Self::parse(Path::new(BUILT_IN_NAME), BUILT_IN)
    }

    /// The text of the registry that the crate carries.
    #[must_use]
    pub fn built_in_text() -> &'static str {
        BUILT_IN
    }

    /// Reads a registry of one's own.
    ///
    /// # Errors
    ///
    /// Returns an error if the file is absent or unreadable, and as [`parse`](Self::parse).
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let bytes = fs::read(path).map_err(|source| DataError::reading(path, source))?;
        Self::parse(path, utf8(path, &bytes)?)
    }

    /// Reads a registry from its text; `label` stands for the path in errors.
    ///
    /// # Errors
    ///
    /// Returns an error with the line if the text is no TOML or has an unknown key, and one with
    /// the entry if an id occurs twice, a path leaves the folder of its entry, a checksum is none,
    /// or an entry gives no way to its files.
    pub fn parse(label: &Path, text: &str) -> Result<Self, DataError> {
        let document: Document =
            toml::from_str(text).map_err(|error| not_toml(label, text, &error))?;
        if document.format_version != FORMAT_VERSION {
            let reason = format!(
                "is {}, but this program knows only {FORMAT_VERSION}",
                document.format_version
            );
            return Err(DataError::item(label, "format_version", reason));
        }
        let mut entries = document.sets;
        entries.extend(document.weights.into_iter().map(|mut entry| {
            entry.kind = EntryKind::Weights;
            entry
        }));
        let mut ids: BTreeSet<&str> = BTreeSet::new();
        for entry in &entries {
            if !ids.insert(&entry.id) {
                return Err(DataError::item(label, &entry.id, "the id occurs twice"));
            }
            entry
                .validate()
                .map_err(|reason| DataError::item(label, &entry.id, reason))?;
        }
        Ok(Self {
            path: label.to_path_buf(),
            entries,
        })
    }

    /// The path, or the label given instead of one.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All entries in the order of the file, sets before weights.
    #[must_use]
    pub fn entries(&self) -> &[RegistryEntry] {
        &self.entries
    }

    /// The entry of an id.
    #[must_use]
    pub fn entry(&self, id: &str) -> Option<&RegistryEntry> {
        self.entries.iter().find(|entry| entry.id == id)
    }
}

impl RegistryEntry {
    /// The address of one of this entry's files, or `None` if only a person can fetch it.
    ///
    /// A file of a release has the address that GitHub gives to it.
    #[must_use]
    pub fn url(&self, file: &RegistryFile) -> Option<String> {
        if let Some(url) = &file.url {
            return Some(url.clone());
        }
        let repository = self.repository.as_ref()?;
        let release = file.release.as_ref()?;
        let name = file.path.rsplit('/').next()?;
        Some(format!(
            "https://github.com/{repository}/releases/download/{release}/{name}"
        ))
    }

    fn validate(&self) -> Result<(), String> {
        let is_id =
            |symbol: char| symbol.is_ascii_lowercase() || symbol.is_ascii_digit() || symbol == '-';
        if self.id.is_empty() || !self.id.chars().all(is_id) {
            return Err("the id has to be of lower-case letters, digits and hyphens".to_owned());
        }
        for (key, value) in [
            ("name", &self.name),
            ("what", &self.what),
            ("source", &self.source),
        ] {
            if value.trim().is_empty() {
                return Err(format!("`{key}` is empty"));
            }
        }
        if let Some(repository) = &self.repository
            && repository
                .split('/')
                .filter(|part| !part.is_empty())
                .count()
                != 2
        {
            return Err(format!(
                "`repository` is `{repository}` but should be owner/name"
            ));
        }
        for (split, counts) in &self.splits {
            if counts.known().next().is_none() {
                return Err(format!("split `{split}` has no count"));
            }
        }
        let mut paths: BTreeSet<&str> = BTreeSet::new();
        for file in &self.files {
            if !paths.insert(&file.path) {
                return Err(format!("file `{}` occurs twice", file.path));
            }
            file.validate(self)?;
        }
        let by_hand = self.files.is_empty() || self.files.iter().any(|f| self.url(f).is_none());
        if by_hand && self.steps.is_empty() && !self.embedded {
            return Err(
                "there is neither an address for every file nor a list of `steps`".to_owned(),
            );
        }
        Ok(())
    }
}

impl RegistryFile {
    fn validate(&self, entry: &RegistryEntry) -> Result<(), String> {
        let path = &self.path;
        let all_normal = Path::new(path)
            .components()
            .all(|component| matches!(component, Component::Normal(_)));
        if path.is_empty() || !all_normal || path.contains(['\\', ':', '\0']) {
            return Err(format!(
                "file `{path}` has to be a relative path below the folder, with `/`"
            ));
        }
        if let Some(sha256) = &self.sha256 {
            let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            if sha256.len() != 64 || !sha256.bytes().all(is_hex) {
                return Err(format!(
                    "file `{path}`: `sha256` has to be 64 hexadecimal digits in lower case"
                ));
            }
        }
        if self.release.is_some() && entry.repository.is_none() {
            return Err(format!("file `{path}` has a `release` but no `repository`"));
        }
        if self.release.is_some() && self.url.is_some() {
            return Err(format!("file `{path}` has both a `release` and a `url`"));
        }
        if let Some(url) = &self.url
            && !url.starts_with("https://")
            && !url.starts_with("http://")
        {
            return Err(format!(
                "file `{path}`: `url` has to begin with https:// or http://"
            ));
        }
        Ok(())
    }
}

fn not_toml(label: &Path, text: &str, error: &toml::de::Error) -> DataError {
    let kind = DataErrorKind::Item {
        item: "TOML".to_owned(),
        reason: error.message().trim_end().to_owned(),
    };
    let before = error.span().and_then(|span| text.get(..span.start));
    match before {
        Some(before) => DataError::at_line(label, before.matches('\n').count() + 1, kind),
        None => DataError::new(label, kind),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: &str = "format_version = 1\n[[set]]\nid = \"a\"\nname = \"A\"\nwhat = \"w\"\n\
                         access = \"open\"\nsource = \"s\"\nrepository = \"o/n\"\n";

    fn parse(text: &str) -> Result<Registry, DataError> {
        Registry::parse(Path::new("sets.toml"), text)
    }

    fn refused(tail: &str, part: &str) {
        let error = parse(&format!("{ENTRY}{tail}")).unwrap_err().to_string();
        assert!(error.starts_with("sets.toml"), "{error}");
        assert!(error.contains(part), "no `{part}` in {error}");
    }

    #[test]
    fn a_file_of_a_release_has_the_address_of_the_release() {
        let text = format!("{ENTRY}[[set.file]]\npath = \"x/f.zip\"\nrelease = \"v0\"\n");
        let registry = parse(&text).unwrap();
        let entry = registry.entry("a").unwrap();
        assert_eq!(
            entry.url(&entry.files[0]).as_deref(),
            Some("https://github.com/o/n/releases/download/v0/f.zip")
        );
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let error = parse(&format!("{ENTRY}licence = \"MIT\"\n")).unwrap_err();
        assert_eq!(error.line, Some(9));
        assert!(error.to_string().contains("licence"), "{error}");
    }

    #[test]
    fn an_entry_without_a_way_to_its_files_is_refused() {
        refused("", "neither an address");
        refused("[[set.file]]\npath = \"f\"\n", "neither an address");
        assert!(parse(&format!("{ENTRY}steps = [\"ask\"]\n")).is_ok());
    }

    #[test]
    fn a_path_that_leaves_the_folder_is_refused() {
        for path in ["/f", "../f", "a/../f", "./f", "", "c:f"] {
            refused(
                &format!("steps = [\"ask\"]\n[[set.file]]\npath = \"{path}\"\n"),
                "relative path",
            );
        }
    }

    #[test]
    fn a_checksum_that_is_none_is_refused() {
        refused(
            "steps = [\"ask\"]\n[[set.file]]\npath = \"f\"\nsha256 = \"ABC\"\n",
            "64 hexadecimal digits",
        );
    }

    #[test]
    fn an_address_of_another_kind_is_refused() {
        refused(
            "[[set.file]]\npath = \"f\"\nurl = \"ftp://x/f\"\n",
            "https://",
        );
    }

    #[test]
    fn the_same_id_in_sets_and_weights_is_refused() {
        let weights = ENTRY
            .replace("format_version = 1\n", "")
            .replace("[[set]]", "[[weights]]");
        let text = format!("{ENTRY}steps = [\"ask\"]\n{weights}steps = [\"ask\"]\n");
        let error = parse(&text).unwrap_err().to_string();
        assert!(error.contains("occurs twice"), "{error}");
    }

    #[test]
    fn another_version_of_the_format_is_refused() {
        let error = parse("format_version = 2\n").unwrap_err().to_string();
        assert!(error.contains("is 2"), "{error}");
    }
}
