//! `meltr data tokens`.

use std::io::Read;

use meltr_data::{EmojiClips, WordPiece};
use serde_json::{Value, json};

use super::arguments::TokensArguments;
use crate::error::CliError;
use crate::output;

pub(super) fn run(arguments: &TokensArguments) -> Result<(), CliError> {
    let word_piece = match &arguments.vocabulary {
        Some(file) => WordPiece::from_vocab_file(file)?,
        None => EmojiClips::embedded()?.word_piece().clone(),
    };
    let texts = if arguments.texts.is_empty() {
        lines_of_input()?
    } else {
        arguments.texts.clone()
    };
    let mut documents: Vec<Value> = Vec::new();
    for text in &texts {
        let mut ids = word_piece.encode(text);
        if arguments.special {
            ids.insert(0, word_piece.special().cls);
            ids.push(word_piece.special().sep);
        }
        let tokens: Vec<&str> = ids
            .iter()
            .map(|&id| word_piece.token(id).unwrap_or("?"))
            .collect();
        if arguments.json {
            documents.push(json!({"text": text, "ids": ids, "tokens": tokens}));
        } else {
            let ids: Vec<String> = ids.iter().map(i64::to_string).collect();
            output::line(&format!("{}\t{}", ids.join(" "), tokens.join(" ")));
        }
    }
    if arguments.json {
        return output::json(&json!({
            "vocabulary": word_piece.vocab_size(),
            "texts": documents,
        }));
    }
    Ok(())
}

fn lines_of_input() -> Result<Vec<String>, CliError> {
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .map_err(|error| CliError::Input(format!("cannot read standard input: {error}")))?;
    Ok(text.lines().map(str::to_owned).collect())
}
