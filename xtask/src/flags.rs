//! Command-line flags: a table of what a command accepts, its parser and its help text.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;

use anyhow::Result;

/// What a command accepts.
pub(crate) struct Spec {
    /// The word after `cargo xtask`.
    pub(crate) command: &'static str,
    /// One line for the overview.
    pub(crate) summary: &'static str,
    /// What the command does, for its help text.
    pub(crate) about: &'static str,
    /// Arguments that are not flags.
    pub(crate) positional: Positional,
    /// Flags besides `--help`.
    pub(crate) flags: &'static [Flag],
    /// What the arguments after `--` are handed to; `None` when there may be none.
    pub(crate) rest: Option<&'static str>,
    /// A command line that works.
    pub(crate) example: &'static str,
}

/// Arguments that are not flags.
pub(crate) enum Positional {
    /// None is accepted.
    None,
    /// At most one, with its name.
    Optional(&'static str),
    /// One or more, with their name.
    Required(&'static str),
}

/// One flag.
pub(crate) struct Flag {
    /// The name with its dashes.
    pub(crate) name: &'static str,
    /// The name of its value; `None` for a switch.
    pub(crate) value: Option<&'static str>,
    /// One line of help.
    pub(crate) help: &'static str,
}

impl Flag {
    /// A flag without a value.
    pub(crate) const fn switch(name: &'static str, help: &'static str) -> Self {
        Self {
            name,
            value: None,
            help,
        }
    }

    /// A flag that takes a value.
    pub(crate) const fn value(name: &'static str, value: &'static str, help: &'static str) -> Self {
        Self {
            name,
            value: Some(value),
            help,
        }
    }
}

/// The flag that asks for one JSON document on standard output.
pub(crate) const JSON: Flag = Flag::switch(
    "--json",
    "print one JSON document on standard output, the rest on standard error",
);

/// The flag that names the cargo features of `meltr-cli`.
pub(crate) const FEATURES: Flag = Flag::value(
    "--features",
    "F",
    "cargo features of meltr-cli, separated by commas (`tch`, ...)",
);

/// The flag that names the device.
pub(crate) const DEVICE: Flag = Flag::value(
    "--device",
    "D",
    "flex, tch[:i], vulkan[:i], wgpu[:i] or cuda[:i]",
);

impl Spec {
    /// The text of `--help`.
    pub(crate) fn help(&self) -> String {
        let mut text = format!("usage: cargo xtask {}", self.command);
        match self.positional {
            Positional::None => {}
            Positional::Optional(name) => text += &format!(" [{name}]"),
            Positional::Required(name) => text += &format!(" {name}..."),
        }
        if !self.flags.is_empty() {
            text += " [FLAGS]";
        }
        if self.rest.is_some() {
            text += " [-- ARGS]";
        }
        text += &format!("\n\n{}\n\n", self.about);
        for flag in self.flags {
            let name = match flag.value {
                Some(value) => format!("{} {value}", flag.name),
                None => flag.name.to_owned(),
            };
            text += &format!("  {name:<16} {}\n", flag.help);
        }
        text += &format!("  {:<16} print this text\n", "--help");
        if let Some(rest) = self.rest {
            text += &format!("  {:<16} handed to {rest}\n", "-- ARGS");
        }
        text + &format!("\nexample: {}\n", self.example)
    }
}

/// The arguments of one command, checked against its [`Spec`].
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Parsed {
    values: BTreeMap<&'static str, String>,
    switches: Vec<&'static str>,
    /// Arguments that are not flags, in order.
    pub(crate) positional: Vec<String>,
    /// Arguments after `--`.
    pub(crate) rest: Vec<String>,
    /// Whether `--help` was among the arguments.
    pub(crate) help: bool,
}

impl Parsed {
    /// Whether a switch was given.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.switches.contains(&name)
    }

    /// The value of a flag.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// The value of a flag that counts something.
    pub(crate) fn count(&self, name: &str) -> Result<Option<usize>> {
        let Some(value) = self.value(name) else {
            return Ok(None);
        };
        match value.parse() {
            Ok(count) if count > 0 => Ok(Some(count)),
            _ => Err(UsageError::new(format!(
                "`{name}` is `{value}`; give a whole number of at least 1"
            ))
            .into()),
        }
    }
}

/// A command line that cannot be followed. The program exits with status 2.
#[derive(Debug, PartialEq)]
pub(crate) struct UsageError {
    message: String,
}

impl UsageError {
    /// An error with a message that says what to do.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
        }
    }

    /// A name that is not among the known ones; the message suggests the nearest.
    pub(crate) fn unknown<'a>(
        what: &str,
        name: &str,
        known: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let known: Vec<&str> = known.into_iter().collect();
        let advice = match nearest(name, &known) {
            Some(nearest) => format!("did you mean `{nearest}`?"),
            None if known.is_empty() => format!("there is no {what} to choose from"),
            None => format!("known: {}", known.join(", ")),
        };
        Self::new(format!("unknown {what} `{name}`; {advice}"))
    }
}

impl fmt::Display for UsageError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for UsageError {}

/// The arguments as strings.
pub(crate) fn utf8(args: Vec<OsString>) -> Result<Vec<String>> {
    args.into_iter()
        .map(|arg| {
            arg.into_string().map_err(|arg| {
                let shown = arg.to_string_lossy();
                let message = format!("the argument `{shown}` is not valid UTF-8");
                anyhow::Error::from(UsageError::new(message))
            })
        })
        .collect()
}

/// Reads the arguments of a command. `--help` anywhere before `--` wins over every error.
pub(crate) fn parse(spec: &Spec, args: &[String]) -> Result<Parsed> {
    let mut parsed = Parsed::default();
    let own = args.iter().take_while(|arg| *arg != "--");
    if own.clone().any(|arg| arg == "--help" || arg == "-h") {
        parsed.help = true;
        return Ok(parsed);
    }
    let own_len = own.count();
    if let Some(rest) = args.get(own_len + 1..) {
        if spec.rest.is_none() && !rest.is_empty() {
            let message = format!("`{}` takes no arguments after `--`", spec.command);
            return Err(UsageError::new(message).into());
        }
        parsed.rest = rest.to_vec();
    }

    let mut own = args.iter().take(own_len);
    while let Some(arg) = own.next() {
        if !arg.starts_with('-') {
            parsed.positional.push(arg.clone());
            continue;
        }
        let (name, inline) = match arg.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (arg.as_str(), None),
        };
        let Some(flag) = spec.flags.iter().find(|flag| flag.name == name) else {
            let known = spec.flags.iter().map(|flag| flag.name).chain(["--help"]);
            return Err(UsageError::unknown("flag", name, known).into());
        };
        match (flag.value, inline) {
            (None, None) => parsed.switches.push(flag.name),
            (None, Some(_)) => {
                return Err(UsageError::new(format!("`{name}` takes no value")).into());
            }
            (Some(value_name), inline) => {
                let value = inline.or_else(|| own.next().map(String::as_str));
                let Some(value) = value.filter(|value| !value.is_empty()) else {
                    let message = format!("`{name}` needs a value: `{name} {value_name}`");
                    return Err(UsageError::new(message).into());
                };
                parsed.values.insert(flag.name, value.to_owned());
            }
        }
    }
    check_positional(spec, &parsed.positional)?;
    Ok(parsed)
}

fn check_positional(spec: &Spec, positional: &[String]) -> Result<()> {
    let message = match (&spec.positional, positional) {
        (Positional::None, [first, ..]) => {
            format!("`{}` takes no argument, but got `{first}`", spec.command)
        }
        (Positional::Optional(name), [_, second, ..]) => {
            format!(
                "`{}` takes one {name}, but got `{second}` as well",
                spec.command
            )
        }
        (Positional::Required(name), []) => {
            format!(
                "`{}` needs at least one {name}; example: {}",
                spec.command, spec.example
            )
        }
        _ => return Ok(()),
    };
    Err(UsageError::new(message).into())
}

/// The known name with the fewest edits from `name`, if they are few for its length.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let bare = name.trim_start_matches('-');
    let (edits, best) = known
        .iter()
        .map(|&candidate| {
            (
                edit_distance(bare, candidate.trim_start_matches('-')),
                candidate,
            )
        })
        .min_by_key(|&(edits, _)| edits)?;
    (edits <= 1 + bare.chars().count() / 3).then_some(best)
}

/// Number of insertions, deletions and substitutions that turn `left` into `right`.
fn edit_distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut diagonal = i;
        let mut before = i + 1;
        row[0] = before;
        for (j, b) in right.iter().enumerate() {
            let above = row[j + 1];
            before = (diagonal + usize::from(a != *b))
                .min(above + 1)
                .min(before + 1);
            diagonal = above;
            row[j + 1] = before;
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: Spec = Spec {
        command: "grow",
        summary: "grows",
        about: "Grows things.",
        positional: Positional::Optional("ROW"),
        flags: &[
            Flag::switch("--list", "list rows"),
            Flag::value("--seeds", "N", "how many"),
        ],
        rest: Some("the binary"),
        example: "cargo xtask grow --seeds 2",
    };

    fn parsed(args: &[&str]) -> Result<Parsed> {
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        parse(&SPEC, &args)
    }

    fn message(args: &[&str]) -> String {
        parsed(args).unwrap_err().to_string()
    }

    #[test]
    fn flags_positional_arguments_and_the_rest_are_told_apart() {
        let parsed = parsed(&["row", "--seeds", "2", "--list", "--", "--list", "x"]).unwrap();
        assert_eq!(parsed.positional, ["row"]);
        assert_eq!(parsed.count("--seeds").unwrap(), Some(2));
        assert!(parsed.has("--list"));
        assert_eq!(parsed.rest, ["--list", "x"]);
    }

    #[test]
    fn a_value_may_follow_an_equals_sign() {
        assert_eq!(parsed(&["--seeds=4"]).unwrap().value("--seeds"), Some("4"));
    }

    #[test]
    fn an_unknown_flag_suggests_the_nearest() {
        assert_eq!(
            message(&["--seed"]),
            "unknown flag `--seed`; did you mean `--seeds`?"
        );
        assert_eq!(
            message(&["--frobnicate"]),
            "unknown flag `--frobnicate`; known: --list, --seeds, --help"
        );
    }

    #[test]
    fn a_missing_or_superfluous_value_is_said() {
        assert_eq!(
            message(&["--seeds"]),
            "`--seeds` needs a value: `--seeds N`"
        );
        assert_eq!(message(&["--list=yes"]), "`--list` takes no value");
    }

    #[test]
    fn a_count_is_a_whole_number_of_at_least_one() {
        for value in ["0", "-1", "many", "1.5"] {
            let parsed = parsed(&["--seeds", value]).unwrap();
            let error = parsed.count("--seeds").unwrap_err();
            assert!(error.is::<UsageError>());
            assert!(error.to_string().contains("at least 1"));
        }
        assert_eq!(parsed(&[]).unwrap().count("--seeds").unwrap(), None);
    }

    #[test]
    fn too_many_and_too_few_arguments_are_refused() {
        assert_eq!(
            message(&["a", "b"]),
            "`grow` takes one ROW, but got `b` as well"
        );
        let none = Spec {
            positional: Positional::None,
            rest: None,
            ..SPEC
        };
        let error = parse(&none, &["a".to_owned()]).unwrap_err();
        assert_eq!(error.to_string(), "`grow` takes no argument, but got `a`");
        let error = parse(&none, &["--".to_owned(), "a".to_owned()]).unwrap_err();
        assert_eq!(error.to_string(), "`grow` takes no arguments after `--`");
        let required = Spec {
            positional: Positional::Required("DIR"),
            ..SPEC
        };
        assert!(
            parse(&required, &[])
                .unwrap_err()
                .to_string()
                .contains("at least one DIR")
        );
    }

    #[test]
    fn help_wins_over_errors_but_not_after_the_dashes() {
        assert!(parsed(&["--nonsense", "--help"]).unwrap().help);
        assert!(!parsed(&["--", "--help"]).unwrap().help);
    }

    #[test]
    fn the_help_text_names_every_flag() {
        let help = SPEC.help();
        assert!(help.starts_with("usage: cargo xtask grow [ROW] [FLAGS] [-- ARGS]\n"));
        for part in [
            "--list",
            "--seeds N",
            "--help",
            "example: cargo xtask grow --seeds 2",
        ] {
            assert!(help.contains(part), "{part}");
        }
    }

    #[test]
    fn edit_distance_counts_edits() {
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("same", "same"), 0);
    }
}
