//! Agreement with three reference tokenizers on the texts of the project's shared fixture.

use std::fs;
use std::ops::Range;

use meltr_data::{Casing, PaddedTokens, TextStyle, TokenizerRules, WordPiece};
use serde_json::Value;

use crate::support::shared;

/// One of the fixture's files and the vocabulary it was made with, read under the default rules.
fn fixture(file: &str) -> Option<(Value, WordPiece)> {
    let fixture = shared("fixtures/tokenizer")?.join(file);
    let vocab = shared("data/models")?.join("bert-base-uncased-vocab.txt");
    let expected = serde_json::from_slice(&fs::read(fixture).unwrap()).unwrap();
    Some((expected, WordPiece::from_vocab_file(&vocab).unwrap()))
}

fn items<'a>(expected: &'a Value, key: &str) -> &'a [Value] {
    let items = expected[key].as_array().unwrap();
    assert!(!items.is_empty());
    items
}

fn text(item: &Value) -> &str {
    item["text"].as_str().unwrap()
}

fn ids(list: &Value) -> Vec<i64> {
    let list = list.as_array().unwrap();
    list.iter().map(|id| id.as_i64().unwrap()).collect()
}

/// Where a mask of zeros and ones is one.
fn flags(list: &Value) -> Vec<bool> {
    ids(list).into_iter().map(|flag| flag == 1).collect()
}

/// Compares the ids of every item with the first of `keys` that the item has.
fn compare_ids(rules: TokenizerRules, casing: Casing, keys: &[&str]) {
    let Some((expected, word_piece)) = fixture("expected.json") else {
        return;
    };
    assert_eq!(word_piece.vocab_size(), 30_522);
    let word_piece = word_piece.with_rules(rules, casing).unwrap();
    let mut n_compared = 0;
    for item in items(&expected, "items") {
        // The fixture has an entry of its own only where it differs from the slow tokenizer's.
        let Some(list) = keys.iter().find_map(|&key| item.get(key)) else {
            continue;
        };
        let text = text(item);
        assert_eq!(
            word_piece.encode(text),
            ids(list),
            "{rules:?} {casing:?} {text:?}"
        );
        n_compared += 1;
    }
    let n_expected = match casing {
        Casing::Lower => 356,
        Casing::Keep => 70,
    };
    assert_eq!(n_compared, n_expected);
}

#[test]
fn token_ids_equal_those_of_the_fast_tokenizer() {
    compare_ids(TokenizerRules::Fast, Casing::Lower, &["fast_ids", "ids"]);
    let keys = ["cased_fast_ids", "cased_ids"];
    compare_ids(TokenizerRules::Fast, Casing::Keep, &keys);
}

#[test]
fn token_ids_equal_those_of_the_slow_tokenizer() {
    compare_ids(TokenizerRules::Slow, Casing::Lower, &["ids"]);
    compare_ids(TokenizerRules::Slow, Casing::Keep, &["cased_ids"]);
}

#[test]
fn token_ids_equal_those_of_univl() {
    compare_ids(TokenizerRules::UniVl, Casing::Lower, &["univl_ids", "ids"]);
    let keys = ["cased_univl_ids", "cased_ids"];
    compare_ids(TokenizerRules::UniVl, Casing::Keep, &keys);
}

#[test]
fn tokens_are_those_of_the_slow_tokenizer() {
    let Some((expected, word_piece)) = fixture("expected.json") else {
        return;
    };
    for item in items(&expected, "items") {
        let tokens: Vec<&str> = ids(&item["ids"])
            .into_iter()
            .map(|id| word_piece.token(id).unwrap())
            .collect();
        let expected: Vec<&str> = item["tokens"]
            .as_array()
            .unwrap()
            .iter()
            .map(|token| token.as_str().unwrap())
            .collect();
        assert_eq!(tokens, expected, "{:?}", text(item));
    }
}

#[test]
fn character_offsets_equal_those_of_the_fast_tokenizer() {
    let Some((expected, word_piece)) = fixture("expected.json") else {
        return;
    };
    for item in items(&expected, "items") {
        let offsets: Vec<Range<usize>> = word_piece
            .encode_with_offsets(text(item))
            .unwrap()
            .into_iter()
            .map(|(_, offsets)| offsets)
            .collect();
        let expected: Vec<Range<usize>> = item["fast_char_offsets"]
            .as_array()
            .unwrap()
            .iter()
            .map(|pair| {
                let pair = ids(pair);
                pair[0] as usize..pair[1] as usize
            })
            .collect();
        assert_eq!(offsets, expected, "{:?}", text(item));
    }
}

/// Where there is text.
fn attention(padded: &PaddedTokens) -> Vec<bool> {
    padded
        .padding()
        .into_iter()
        .map(|padding| !padding)
        .collect()
}

#[test]
fn padded_texts_equal_those_of_violet() {
    let Some((expected, word_piece)) = fixture("encodings.json") else {
        return;
    };
    for item in items(&expected, "encodings") {
        for length in [25, 40] {
            let padded = word_piece.encode_padded(text(item), length);
            let key = format!("violet_encode_{length}");
            assert_eq!(padded.ids, ids(&item[&key]), "{:?}", text(item));
            let mask = flags(&item[&format!("violet_mask_{length}")]);
            let nonzero: Vec<bool> = padded.ids.iter().map(|&id| id != 0).collect();
            assert_eq!(nonzero, mask, "{:?}", text(item));
            assert_eq!(attention(&padded), mask, "{:?}", text(item));
        }
    }
}

#[test]
fn padded_texts_equal_those_of_all_in_one() {
    let Some((expected, word_piece)) = fixture("encodings.json") else {
        return;
    };
    let word_piece = word_piece
        .with_rules(TokenizerRules::Slow, Casing::Lower)
        .unwrap();
    for item in items(&expected, "encodings") {
        let padded = word_piece.encode_padded(text(item), 40);
        let expected = &item["allinone_40"];
        assert_eq!(padded.ids, ids(&expected["input_ids"]), "{:?}", text(item));
        let mask = flags(&expected["attention_mask"]);
        assert_eq!(attention(&padded), mask, "{:?}", text(item));
        let special = flags(&expected["special_tokens_mask"]);
        assert_eq!(padded.special(), special, "{:?}", text(item));
    }
}

#[test]
fn padded_texts_equal_those_of_univl() {
    let Some((expected, word_piece)) = fixture("encodings.json") else {
        return;
    };
    let word_piece = word_piece
        .with_rules(TokenizerRules::UniVl, Casing::Lower)
        .unwrap();
    for item in items(&expected, "encodings") {
        for length in [20, 48] {
            let padded = word_piece.encode_padded(text(item), length);
            let expected = &item[&format!("univl_{length}")];
            assert_eq!(padded.ids, ids(&expected["ids"]), "{:?}", text(item));
            let mask = flags(&expected["mask"]);
            assert_eq!(attention(&padded), mask, "{:?}", text(item));
        }
    }
}

#[test]
fn decoded_texts_equal_those_of_the_references() {
    let Some((expected, word_piece)) = fixture("encodings.json") else {
        return;
    };
    let keys = [
        (TextStyle::Caption, "univl_caption_text"),
        (TextStyle::Tidy, "hf_decode_skip_special"),
        (TextStyle::Plain, "hf_decode_skip_special_no_cleanup"),
    ];
    for item in items(&expected, "decoding") {
        let ids = ids(&item["ids"]);
        for (style, key) in keys {
            let expected = item[key].as_str().unwrap();
            assert_eq!(
                word_piece.decode_as(&ids, style),
                expected,
                "{style:?} {ids:?}"
            );
        }
    }
}
