//! The nearest known word to a misspelt one.

/// The word of `known` with the fewest edits to `word`, if there are few enough.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .min()
        .filter(|(edits, candidate)| *edits <= candidate.len().max(word.len()).div_ceil(2))
        .map(|(_, candidate)| candidate)
}

/// Appends a suggestion to serde's message about an unknown field or variant.
pub(crate) fn with_suggestion(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let is_unknown = message.contains("unknown field") || message.contains("unknown variant");
    match (is_unknown, quoted.next()) {
        (true, Some(word)) => match nearest(word, quoted) {
            Some(known) => format!("{}; did you mean `{known}`?", message.trim_end()),
            None => message.to_owned(),
        },
        _ => message.to_owned(),
    }
}

/// Insertions, deletions and substitutions between two words.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_finds_its_word() {
        assert_eq!(
            nearest("learning_rat", ["epsilon", "learning_rate"]),
            Some("learning_rate")
        );
        assert_eq!(nearest("xyz", ["epsilon", "learning_rate"]), None);
    }

    #[test]
    fn serde_messages_gain_a_suggestion() {
        let message = "unknown field `evry`, expected one of `every`, `history`";
        assert!(with_suggestion(message).ends_with("did you mean `every`?"));
        assert_eq!(with_suggestion("missing field `a`"), "missing field `a`");
    }
}
