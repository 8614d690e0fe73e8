//! Tables, JSON files, lists and vocabularies of the shared fixtures, good and hostile.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use meltr_data::{
    AnswerSet, CaptionPair, CaptionSet, CsvTable, DataError, Delimiter, FrameTable, IdList,
    JsfusionTest, Msrvtt, MsvdNames, MsvdQuestions, QuestionKind, Split, VideoQa, WordPiece,
    YoucookVideos,
};
use serde_json::Value;

use crate::support;

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn texts(value: &Value) -> Vec<&str> {
    let items = value.as_array().unwrap();
    items.iter().map(|item| item.as_str().unwrap()).collect()
}

fn size(value: &Value) -> usize {
    usize::try_from(value.as_u64().unwrap()).unwrap()
}

#[test]
fn csv_files_have_the_rows_that_python_wrote() {
    let Some(folder) = support::shared("fixtures/formats") else {
        return;
    };
    let expected = json(&folder.join("expected.json"));
    let mut n_files = 0;
    for (name, entry) in expected.as_object().unwrap() {
        if entry["format"] != "csv" {
            continue;
        }
        let table = CsvTable::open(&folder.join(name), Delimiter::Comma, &["video_id"]).unwrap();
        let rows = entry["content"].as_array().unwrap();
        assert_eq!(table.n_rows(), rows.len(), "{name}");
        for (row, expected) in table.rows().zip(rows) {
            let cells = expected.as_object().unwrap();
            assert_eq!(table.columns().len(), cells.len(), "{name}");
            for (column, cell) in cells {
                assert_eq!(row.text(column).unwrap(), cell.as_str().unwrap(), "{name}");
            }
        }
        n_files += 1;
    }
    assert!(n_files >= 4);
    for name in ["youcookii_train.csv", "youcookii_val.csv"] {
        let read = YoucookVideos::open(&folder.join("univl").join(name)).unwrap();
        let rows = expected[format!("univl/{name}")]["content"]
            .as_array()
            .unwrap();
        assert_eq!(read.videos().len(), rows.len());
        for (video, row) in read.videos().iter().zip(rows) {
            assert_eq!(video.video_id, row["video_id"]);
            assert_eq!(video.feature_file, row["feature_file"]);
        }
    }
    let test = JsfusionTest::open(&folder.join("univl/MSRVTT_JSFUSION_test.csv")).unwrap();
    let rows = expected["univl/MSRVTT_JSFUSION_test.csv"]["content"]
        .as_array()
        .unwrap();
    for (pair, row) in test.pairs().iter().zip(rows) {
        assert_eq!(pair.video_id, row["video_id"]);
        assert_eq!(pair.sentence, row["sentence"]);
    }
}

#[test]
fn the_json_of_univl_gives_videos_captions_and_transcripts() {
    let Some(folder) = support::shared("fixtures/formats") else {
        return;
    };
    let expected = json(&folder.join("expected.json"));
    let entry = &expected["univl/MSRVTT_data.json"];
    let set = Msrvtt::open(&folder.join("univl/MSRVTT_data.json")).unwrap();
    let captions = set.captions();
    assert_eq!(captions.video_ids().len(), size(&entry["n_videos"]));
    assert_eq!(captions.n_captions(), size(&entry["n_sentences"]));
    assert_first(&captions.pairs(), &entry["first_sentence"]);
    for (video, first) in entry["captions_of"].as_object().unwrap() {
        assert!(
            captions.captions_of(video).starts_with(&texts(first)),
            "{video}"
        );
    }
    let shared = texts(&entry["two_clips_share_url"]);
    assert!(set.url(shared[0]).is_some());
    assert_eq!(set.url(shared[0]), set.url(shared[1]));
    assert!(
        captions
            .video_ids()
            .iter()
            .all(|id| set.transcript(id).is_none())
    );

    let name = "univl/MSRVTT_transcript_data_v2.json";
    let with_transcripts = Msrvtt::open(&folder.join(name)).unwrap();
    let ids: Vec<&str> = with_transcripts
        .captions()
        .video_ids()
        .iter()
        .map(String::as_str)
        .filter(|id| with_transcripts.transcript(id).is_some())
        .collect();
    assert_eq!(ids, texts(&expected[name]["with_transcript"]));
}

#[test]
fn the_splits_of_univl_choose_captions() {
    let Some(folder) = support::shared("fixtures/formats/univl") else {
        return;
    };
    let expected = json(&folder.join("../expected.json"));
    let set = Msrvtt::open(&folder.join("MSRVTT_data.json")).unwrap();
    let train = IdList::open_csv(&folder.join("MSRVTT_train.9k.csv")).unwrap();
    let n_pairs = size(&expected["univl/MSRVTT_train.9k.csv"]["pairs_expanded"]);
    assert_eq!(set.train_9k(&train).unwrap().len(), n_pairs);
    let single = set.captions().one_pair_each(&train, 1).unwrap();
    assert_eq!(single.len(), train.ids().len());

    let ids = set.captions().video_ids();
    let first_two = set.pairs_of_first(2).unwrap();
    assert_eq!(first_two.len(), 40);
    assert!(
        first_two
            .iter()
            .all(|pair| ids[..2].iter().any(|id| id == pair.video_id))
    );
    let test = set.test_from(2).unwrap();
    assert_eq!(test.len(), 3);
    for video in &test {
        assert_eq!(video.references.len(), 20);
        assert_eq!(video.references, set.captions().captions_of(video.video_id));
        assert_eq!(video.label, video.references[0]);
    }
    assert!(set.train_7k().is_err() && set.test_full().is_err());
}

fn assert_first(pairs: &[CaptionPair<'_>], expected: &Value) {
    assert_eq!(pairs[0].video_id, expected["video_id"]);
    assert_eq!(pairs[0].caption, expected["caption"]);
}

#[test]
fn the_captions_of_violet_and_of_all_in_one_are_read() {
    let Some(folder) = support::shared("fixtures/formats") else {
        return;
    };
    let expected = json(&folder.join("expected.json"));
    for name in ["train_7k.json", "train_9k.json", "test.json"] {
        let key = format!("violet/_data/msrvtt/{name}");
        let set = CaptionSet::open_violet(&folder.join(&key)).unwrap();
        let entry = &expected[&key];
        assert_eq!(set.n_captions(), size(&entry["n"]), "{name}");
        assert_first(&set.pairs(), &entry["first"]);
        let found: HashSet<&str> = set.video_ids().iter().map(String::as_str).collect();
        let expected_ids: HashSet<&str> = texts(&entry["ids"]).into_iter().collect();
        assert_eq!(found, expected_ids, "{name}");
    }

    let key = "allinone/msrvtt/MSR_VTT.json";
    let set = CaptionSet::open_all_in_one(&folder.join(key)).unwrap();
    assert_eq!(set.n_captions(), size(&expected[key]["n_annotations"]));
    for (video, captions) in expected[key]["grouped"].as_object().unwrap() {
        assert_eq!(set.captions_of(video), texts(captions));
    }
    for name in [
        "train_list_7k.txt",
        "train_list_9k.txt",
        "val_list_jsfusion.txt",
    ] {
        let key = format!("allinone/msrvtt/{name}");
        let list = IdList::open(&folder.join(&key)).unwrap();
        assert_eq!(list.ids(), texts(&expected[&key]["ids"]), "{name}");
        assert_eq!(set.pairs_of(&list).unwrap().len(), 20 * list.ids().len());
    }
}

#[test]
fn the_questions_of_violet_are_read() {
    let Some(folder) = support::shared("fixtures/formats") else {
        return;
    };
    let expected = json(&folder.join("expected.json"));
    let mut n_files = 0;
    for (name, entry) in expected.as_object().unwrap() {
        if !name.starts_with("violet/") || !name.contains("/txt_") {
            continue;
        }
        n_files += 1;
        let qa = VideoQa::open(&folder.join(name)).unwrap();
        let sizes = &entry["sizes"];
        for (split, key) in Split::ALL.into_iter().zip(["train", "val", "test"]) {
            assert_eq!(qa.n_questions(split), size(&sizes[key]), "{name}");
            assert_eq!(qa.questions(split).count(), size(&sizes[key]), "{name}");
        }
        let first = qa.question(Split::Train, 0).unwrap();
        assert_eq!(first.video, entry["first"]["video"]);
        assert_eq!(first.question, entry["first"]["question"]);
        assert_eq!(first.answer, size(&entry["first"]["answer"]));
        match qa.kind() {
            QuestionKind::OpenEnded => {
                assert_eq!(qa.vocabulary().len(), size(&sizes["vocab"]), "{name}");
                if let Some(words) = entry.get("vocab_first") {
                    assert!(qa.vocabulary().starts_with(&texts(words)));
                }
            }
            QuestionKind::MultipleChoice => {
                assert!(sizes.get("vocab").is_none(), "{name}");
                for (option, text) in first.options.iter().enumerate() {
                    assert_eq!(*text, entry["first"][format!("option_{option}")]);
                }
                assert_eq!(first.option_text(0).unwrap(), entry["option_text_0"]);
            }
        }
    }
    assert!(n_files >= 3);
}

#[test]
fn the_questions_of_all_in_one_have_the_labels_of_its_answers() {
    let Some(folder) = support::shared("fixtures/formats/allinone/msvdqa") else {
        return;
    };
    let expected = json(&folder.join("../../expected.json"));
    let questions = MsvdQuestions::open(&folder.join("train.jsonl")).unwrap();
    let answers = AnswerSet::open(&folder.join("msvd_answer_set.txt")).unwrap();
    let entry = &expected["allinone/msvdqa/msvd_answer_set.txt"];
    assert_eq!(answers.answers(), texts(&entry["answers"]));
    let entry = &expected["allinone/msvdqa/train.jsonl"];
    assert_eq!(questions.questions().len(), size(&entry["n"]));
    let labels = entry["labels"].as_array().unwrap();
    for (question, label) in questions.questions().iter().zip(labels) {
        assert_eq!(answers.label(&question.answer), Some(size(label)));
    }
    let names = MsvdNames::open(&folder.join("msvd_youtube_mapping.txt")).unwrap();
    let first = texts(&expected["allinone/msvdqa/msvd_youtube_mapping.txt"]["first"]);
    let number = first[1].strip_prefix("vid").unwrap().parse().unwrap();
    assert_eq!(names.name(number).unwrap(), first[0]);
    for question in questions.questions() {
        names.name(question.video).unwrap();
    }
}

#[test]
fn rows_of_the_frame_table_are_found_by_their_offset() {
    let Some(folder) = support::shared("fixtures/formats/violet/_data/msrvtt") else {
        return;
    };
    let expected = json(&folder.join("../../../expected.json"));
    let table = FrameTable::open(
        &folder.join("img_msrvtt.tsv"),
        &folder.join("img_msrvtt.lineidx"),
    )
    .unwrap();
    let entry = &expected["violet/_data/msrvtt/img_msrvtt.tsv"];
    assert_eq!(table.ids(), texts(&entry["ids"]));
    let offsets = &expected["violet/_data/msrvtt/img_msrvtt.lineidx"]["offsets"];
    let offsets = offsets.as_array().unwrap();
    assert_eq!(table.offsets().len(), offsets.len());
    for (found, offset) in table.offsets().iter().zip(offsets) {
        assert_eq!(Some(*found), offset.as_u64());
    }
    // Backwards, because every row is found by seeking.
    for (index, n_frames) in entry["columns"]
        .as_array()
        .unwrap()
        .iter()
        .enumerate()
        .rev()
    {
        let row = table.row(index).unwrap();
        assert_eq!(row.id(), table.ids()[index]);
        assert_eq!(row.frames().count(), size(n_frames));
        // Every JPEG file starts with the bytes FF D8 FF.
        assert!(row.frames().all(|frame| frame.starts_with("/9j/")));
    }
}

/// Opens a hostile file as what it pretends to be.
fn open(folder: &Path, name: &str) -> Result<(), DataError> {
    let path = folder.join(name);
    if name == "csv/unknown_feature.csv" {
        let known = youcook_ids(folder, "csv/crlf.csv");
        YoucookVideos::open(&path)?.check_features(&known)
    } else if name.starts_with("csv/jsfusion") {
        JsfusionTest::open(&path).map(|_| ())
    } else if name.starts_with("csv/") {
        YoucookVideos::open(&path).map(|_| ())
    } else if name.starts_with("json/qa") {
        VideoQa::open(&path).map(|_| ())
    } else if name.starts_with("json/") {
        Msrvtt::open(&path).map(|_| ())
    } else {
        WordPiece::from_vocab_file(&path).map(|_| ())
    }
}

fn youcook_ids(folder: &Path, name: &str) -> HashSet<String> {
    let read = YoucookVideos::open(&folder.join(name)).unwrap();
    let ids = read.videos().iter().map(|video| video.feature_file.clone());
    ids.collect()
}

#[test]
fn every_hostile_text_file_is_accepted_or_refused_as_it_must_be() {
    let Some(folder) = support::shared("fixtures/formats/hostile") else {
        return;
    };
    let expected = json(&folder.join("expected.json"));
    let mut n_files = 0;
    for (name, entry) in expected["files"].as_object().unwrap() {
        if !["csv/", "json/", "vocab/"]
            .iter()
            .any(|kind| name.starts_with(kind))
        {
            continue;
        }
        n_files += 1;
        let start = Instant::now();
        let result = open(&folder, name);
        assert!(start.elapsed() < Duration::from_secs(2), "{name}");
        match (entry["must"].as_str().unwrap(), result) {
            ("error", Ok(())) => panic!("{name} was accepted"),
            ("accept", Err(error)) => panic!("{name} was refused: {error}"),
            (_, Ok(())) => {}
            (_, Err(error)) => {
                let path = folder.join(name).display().to_string();
                assert!(error.to_string().starts_with(&path), "{name}: {error}");
            }
        }
    }
    assert!(n_files >= 40);
}

#[test]
fn refusals_name_the_place_and_the_fault() {
    let Some(folder) = support::shared("fixtures/formats/hostile") else {
        return;
    };
    let clean = youcook_ids(&folder, "csv/crlf.csv");
    assert_eq!(clean.len(), 2);
    // The text behind the path of the file, then what else the message has to hold.
    let cases: [(&str, &str, &[&str]); 48] = [
        ("csv/zero_bytes.csv", ": ", &["empty file"]),
        ("csv/only_newlines.csv", ": ", &["no header"]),
        ("csv/header_only.csv", ": ", &["no rows"]),
        (
            "csv/missing_column.csv",
            ":1: ",
            &[
                "column 'feature_file' missing",
                "columns found: video_id, path",
            ],
        ),
        ("csv/no_header.csv", ":1: ", &["column 'video_id' missing"]),
        ("csv/duplicate_ids.csv", ":4: ", &["video_id", "line 2"]),
        (
            "csv/duplicate_columns.csv",
            ":1: ",
            &["duplicate column video_id"],
        ),
        ("csv/invalid_utf8.csv", ":4: ", &["byte 72", "UTF-8"]),
        ("csv/utf16.csv", ":1: ", &["UTF-16", "UTF-8"]),
        ("csv/ragged_short.csv", ":4: ", &["1 field, expected 2"]),
        ("csv/ragged_long.csv", ":4: ", &["3 fields, expected 2"]),
        ("csv/unclosed_quote.csv", ":4: ", &["quote"]),
        ("csv/nul_byte.csv", ":4: ", &["NUL"]),
        ("csv/semicolons.csv", ":1: ", &["column 'video_id' missing"]),
        ("csv/blank_id.csv", ":4: ", &["video_id", "blank"]),
        (
            "csv/space_in_header.csv",
            ":1: ",
            &["column", "blanks belong to a name"],
        ),
        (
            "csv/unknown_feature.csv",
            ":4: ",
            &["nosuchvideo", "not in the features"],
        ),
        (
            "csv/jsfusion_missing_sentence.csv",
            ":1: ",
            &["column 'sentence' missing"],
        ),
        (
            "csv/jsfusion_duplicate_video.csv",
            ":3: ",
            &["video1", "line 2"],
        ),
        ("json/zero_bytes.json", ": ", &["empty file"]),
        ("json/truncated.json", ":1: ", &["column 102", "EOF"]),
        (
            "json/missing_sentences.json",
            ": ",
            &["'sentences' missing"],
        ),
        (
            "json/sentence_without_caption.json",
            ":1: ",
            &["sentences[0]", "'caption' missing"],
        ),
        (
            "json/caption_number.json",
            ":1: ",
            &["sentences[1]", "'caption' is a number, expected a string"],
        ),
        (
            "json/caption_null.json",
            ":1: ",
            &["sentences[0]", "'caption' is null"],
        ),
        (
            "json/trailing_comma.json",
            ":1: ",
            &["column", "trailing comma"],
        ),
        ("json/top_level_list.json", ":1: ", &["expected an object"]),
        ("json/invalid_utf8.json", ":1: ", &["byte 105", "UTF-8"]),
        (
            "json/lone_surrogate.json",
            ":1: ",
            &["column", "surrogate", "sentences[0]"],
        ),
        (
            "json/nan_literal.json",
            ":1: ",
            &["column", "expected value"],
        ),
        (
            "json/duplicate_key.json",
            ":1: ",
            &["'sentences' occurs twice"],
        ),
        ("json/deep_nesting.json", ":1: ", &["column 101", "depth"]),
        ("json/empty_sentences.json", ": ", &["no sentences"]),
        (
            "json/two_documents.json",
            ":1: ",
            &["column 112", "second document"],
        ),
        (
            "json/qa_answer_out_of_range.json",
            ": ",
            &["train[0]", "answer 5", "2 words"],
        ),
        (
            "json/qa_answer_negative.json",
            ":1: ",
            &["train[0]", "answer -1"],
        ),
        (
            "json/qa_answer_string.json",
            ":1: ",
            &["train[0]", "'answer' is a string, expected an integer"],
        ),
        (
            "json/qamc_missing_option.json",
            ":1: ",
            &["train[0]", "'option_3' missing"],
        ),
        ("json/qa_no_test.json", ": ", &["'test' missing"]),
        ("vocab/empty.txt", ": ", &["empty"]),
        ("vocab/no_unk.txt", ": ", &["[UNK]"]),
        ("vocab/duplicate_line.txt", ":201: ", &["[unused145]"]),
        ("vocab/invalid_utf8.txt", ":6: ", &["byte 34", "UTF-8"]),
        // Those that are accepted.
        ("csv/bom.csv", "", &[]),
        ("csv/bom_crlf_no_final_newline.csv", "", &[]),
        ("csv/cr_only.csv", "", &[]),
        ("csv/blank_lines.csv", "", &[]),
        ("csv/quoted_fields.csv", "", &[]),
    ];
    for (name, place, parts) in cases {
        if place.is_empty() {
            assert_eq!(youcook_ids(&folder, name), clean, "{name}");
            continue;
        }
        let message = open(&folder, name).unwrap_err().to_string();
        let start = format!("{}{place}", folder.join(name).display());
        assert!(message.starts_with(&start), "{message}");
        for part in parts {
            assert!(message.contains(part), "{message} lacks {part}");
        }
    }
    let set = Msrvtt::open(&folder.join("json/bom.json")).unwrap();
    assert_eq!(set.captions().n_captions(), 1);
}
