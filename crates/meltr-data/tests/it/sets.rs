//! Data sets as samples: the shared files in UniVL's formats, and the real sets.

use std::collections::HashSet;
use std::path::Path;

use meltr_data::{
    Draw, FaultyItems, FrameEncoder, ItemUnit, Modalities, Modality, MosiSettings, MosiSplits,
    MsrvttFiles, MsrvttPairs, MsrvttSettings, MsrvttSplit, NonFinite, SentenceUse,
    SentimentCollator, SentimentSet, TextRole, VideoTextSet, WordPiece, YouCook2, YouCook2Files,
    YouCook2Settings, YouCook2Small, YouCook2SmallSettings,
};
use serde_json::Value;

use crate::support::shared;

fn expected(formats: &Path) -> Value {
    let text = std::fs::read_to_string(formats.join("expected.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn word_piece() -> WordPiece {
    let vocab = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nthe\n";
    WordPiece::from_vocab_text(Path::new("vocab.txt"), vocab).unwrap()
}

fn size(value: &Value) -> usize {
    usize::try_from(value.as_u64().unwrap()).unwrap()
}

/// Panics unless every item has its name, finite frames of the set's width, and its text among
/// its references.
fn check_items(set: &dyn VideoTextSet) {
    let mut names = HashSet::new();
    for index in 0..set.n_items() {
        let sample = set.sample(index, Draw::Evaluation).unwrap();
        assert_eq!(sample.id, index);
        assert!(sample.frames.nrows() > 0);
        assert_eq!(sample.frames.ncols(), set.feature_width());
        assert!(sample.frames.iter().all(|value| value.is_finite()));
        let caption = sample.caption.unwrap_or(sample.text);
        assert!(set.references(index).contains(&caption), "{caption}");
        names.insert(set.item_name(index));
    }
    assert!(!names.is_empty());
    assert!(set.sample(set.n_items(), Draw::Evaluation).is_err());
}

/// Panics unless the two parts of the training items make up all of them.
fn check_held_out(set: &dyn VideoTextSet) {
    let mut parts = set.split("train_fit").unwrap();
    parts.extend(set.split("train_held_out").unwrap());
    parts.sort_unstable();
    assert_eq!(parts, set.split("train").unwrap());
}

fn youcook2(univl: &Path, data: &str, features: &str) -> YouCook2Files {
    YouCook2Files {
        train: univl.join("youcookii_train.csv"),
        val: univl.join("youcookii_val.csv"),
        segments: univl.join(data),
        features: univl.join(features),
    }
}

#[test]
fn youcook2_has_the_segments_of_its_tables() {
    let Some(formats) = shared("fixtures/formats") else {
        return;
    };
    let expected = expected(&formats);
    let univl = formats.join("univl");
    // So few rows cover minutes that a row stands for fifty seconds.
    let settings = YouCook2Settings {
        feature_framerate: 0.02,
        ..YouCook2Settings::default()
    };
    let mut earlier: Option<Vec<f32>> = None;
    for writer in ["np1.p5", "np2.p3", "py27.p2"] {
        let files = youcook2(
            &univl,
            &format!("youcookii_data.{writer}.pickle"),
            &format!("youcookii_videos_features.{writer}.pickle"),
        );
        let set = YouCook2::open(&files, settings, word_piece()).unwrap();
        let count = |name: &str| set.split(name).unwrap().len();
        assert_eq!(
            count("train"),
            size(&expected["univl/youcookii_train.csv"]["segments"])
        );
        assert_eq!(
            count("val"),
            size(&expected["univl/youcookii_val.csv"]["segments"])
        );
        assert_eq!(set.split("test").unwrap(), set.split("val").unwrap());
        // One of three videos with five segments each.
        assert_eq!((count("train_held_out"), count("train_fit")), (5, 10));
        assert_eq!(set.item_name(0), "7dUpBLA2C6I/0");
        assert!(set.left_out().is_empty());
        check_items(&set);
        check_held_out(&set);
        let last = set.sample(set.n_items() - 1, Draw::Evaluation).unwrap();
        let values: Vec<f32> = last.frames.iter().copied().collect();
        if let Some(earlier) = earlier.replace(values.clone()) {
            assert_eq!(values, earlier, "{writer}");
        }
    }
}

#[test]
fn youcook2_reads_transcripts_and_reports_segments_behind_the_features() {
    let Some(formats) = shared("fixtures/formats") else {
        return;
    };
    let univl = formats.join("univl");
    let files = youcook2(
        &univl,
        "youcookii_data_transcript.np2.p5.pickle",
        "youcookii_videos_features.np2.p5.pickle",
    );
    let settings = YouCook2Settings {
        text: TextRole::Transcript,
        feature_framerate: 0.02,
        ..YouCook2Settings::default()
    };
    let set = YouCook2::open(&files, settings, word_piece()).unwrap();
    check_items(&set);
    let first = set.sample(0, Draw::Evaluation).unwrap();
    assert_eq!(first.text, "NONE");
    assert_eq!(
        first.caption.as_deref(),
        Some("bake two pieces of white bread")
    );
    let second = set.sample(1, Draw::Evaluation).unwrap();
    assert!(second.text.starts_with("so now we melt some butter"));

    // At the published rate nearly all segments begin behind the few rows.
    let settings = YouCook2Settings {
        feature_framerate: 1.0,
        ..settings
    };
    let error = YouCook2::open(&files, settings, word_piece()).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("item `7dUpBLA2C6I/0`: segment 0 starts at 13 s"),
        "{text}"
    );
    assert!(text.contains("19 of 19 items cannot be used"), "{text}");
    let settings = YouCook2Settings {
        faulty_items: FaultyItems::LeaveOut,
        ..settings
    };
    let set = YouCook2::open(&files, settings, word_piece()).unwrap();
    assert_eq!((set.left_out().len(), set.n_items()), (19, 0));
    let error = set.split("train").unwrap_err().to_string();
    assert!(error.contains("no item is in split train"), "{error}");
}

fn msrvtt(univl: &Path) -> MsrvttFiles {
    MsrvttFiles {
        data: univl.join("MSRVTT_data.json"),
        features: univl.join("msrvtt_videos_features.pickle"),
        train: Some(univl.join("MSRVTT_train.9k.csv")),
        test: Some(univl.join("MSRVTT_JSFUSION_test.csv")),
    }
}

#[test]
fn msrvtt_has_the_pairs_of_its_splits() {
    let Some(formats) = shared("fixtures/formats") else {
        return;
    };
    let expected = expected(&formats);
    let files = msrvtt(&formats.join("univl"));
    let settings = MsrvttSettings::new(MsrvttSplit::NineK);
    let set = MsrvttPairs::open(&files, settings, word_piece()).unwrap();
    let list = &expected["univl/MSRVTT_train.9k.csv"];
    let count = |set: &MsrvttPairs, name: &str| set.split(name).unwrap().len();
    assert_eq!(count(&set, "train"), size(&list["pairs_expanded"]));
    assert_eq!(
        (count(&set, "train_held_out"), count(&set, "train_fit")),
        (20, 40)
    );
    check_items(&set);
    check_held_out(&set);
    let rows = expected["univl/MSRVTT_JSFUSION_test.csv"]["content"]
        .as_array()
        .unwrap();
    let test = set.split("test").unwrap();
    assert_eq!(test.len(), rows.len());
    for (&index, row) in test.iter().zip(rows) {
        let sample = set.sample(index, Draw::Evaluation).unwrap();
        assert_eq!(sample.text, row["sentence"].as_str().unwrap());
        assert_eq!(set.item_name(index), row["video_id"].as_str().unwrap());
        assert_eq!(set.references(index)[0], sample.text);
        assert!((20..=21).contains(&set.references(index).len()));
        let features = &expected["univl/msrvtt_videos_features.pickle"]["content"];
        let shape = &features[set.item_name(index)]["shape"];
        assert_eq!(sample.frames.dim(), (size(&shape[0]), size(&shape[1])));
    }

    let settings = MsrvttSettings {
        sentences: SentenceUse::OneRandom,
        ..settings
    };
    let set = MsrvttPairs::open(&files, settings, word_piece()).unwrap();
    assert_eq!(
        count(&set, "train"),
        list["content"].as_array().unwrap().len()
    );
    let draws: HashSet<String> = (0..200)
        .map(|seed| set.sample(0, Draw::Training { seed }).unwrap().text)
        .collect();
    assert!(draws.len() > 10 && draws.len() <= 20, "{}", draws.len());
    for text in draws {
        assert!(set.references(0).contains(&text));
    }
    for split in [MsrvttSplit::SevenK, MsrvttSplit::Full] {
        let set = MsrvttPairs::open(&files, MsrvttSettings::new(split), word_piece());
        let error = set.unwrap_err().to_string();
        assert!(error.contains("the split needs the first 7010"), "{error}");
    }
}

#[test]
fn transcripts_of_msrvtt_are_read_where_there_are_some() {
    let Some(formats) = shared("fixtures/formats") else {
        return;
    };
    let expected = expected(&formats);
    let univl = formats.join("univl");
    let files = MsrvttFiles {
        data: univl.join("MSRVTT_transcript_data_v2.json"),
        ..msrvtt(&univl)
    };
    let settings = MsrvttSettings {
        text: TextRole::Transcript,
        ..MsrvttSettings::new(MsrvttSplit::NineK)
    };
    let set = MsrvttPairs::open(&files, settings, word_piece()).unwrap();
    check_items(&set);
    let listed = &expected["univl/MSRVTT_transcript_data_v2.json"]["with_transcript"];
    let spoken: HashSet<&str> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_str().unwrap())
        .collect();
    for index in 0..set.n_items() {
        let text = set.sample(index, Draw::Evaluation).unwrap().text;
        assert_eq!(
            !text.is_empty(),
            spoken.contains(set.item_name(index).as_str())
        );
    }
}

#[test]
fn six_hundred_videos_of_youcook2_have_three_steps_each() {
    let Some(folder) = shared("data/youcook2-600") else {
        return;
    };
    for encoder in [FrameEncoder::MobileNetV2, FrameEncoder::EfficientNetLite0] {
        for (unit, sizes) in [
            (ItemUnit::Step, [1350, 450, 1215, 135]),
            (ItemUnit::Video, [450, 150, 405, 45]),
        ] {
            let settings = YouCook2SmallSettings { encoder, unit };
            let set = YouCook2Small::open(&folder, settings, word_piece()).unwrap();
            let names = ["train", "valid", "train_fit", "train_held_out"];
            assert_eq!(names.map(|name| set.split(name).unwrap().len()), sizes);
            assert_eq!(set.feature_width(), 1280);
            check_items(&set);
            check_held_out(&set);
            let n_frames = set.sample(0, Draw::Evaluation).unwrap().frames.nrows();
            assert_eq!(n_frames, if unit == ItemUnit::Step { 1 } else { 3 });
        }
    }
}

#[test]
fn the_utterances_of_mosi_become_batches() {
    let Some(folder) = shared("data/cmu-mosi") else {
        return;
    };
    let all = Modalities::new(&[Modality::Text, Modality::Audio, Modality::Video]);
    let open = |splits, features| {
        let settings = MosiSettings { splits, features };
        SentimentSet::open(&folder, settings, word_piece()).unwrap()
    };
    let sdk = open(MosiSplits::Sdk, all);
    assert_eq!(sdk.n_items(), 2199);
    let names = ["train", "valid", "test", "train_fit", "train_held_out"];
    let sizes = names.map(|name| sdk.split(name).unwrap().len());
    assert_eq!(sizes, [1284, 229, 686, 1152, 132]);
    let warnings = sdk.warnings();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("leak") && warnings[0].contains("0.941"));
    assert!(
        open(MosiSplits::Sdk, Modalities::default())
            .warnings()
            .is_empty()
    );

    let poria = open(MosiSplits::Poria, all);
    assert!(poria.warnings().is_empty() && poria.split("valid").is_err());
    let names = ["train", "test", "train_fit", "train_held_out"];
    let sizes = names.map(|name| poria.split(name).unwrap().len());
    assert_eq!(sizes, [1447, 752, 1266, 181]);
    let widths = (poria.text_width(), poria.audio_width(), poria.video_width());
    assert_eq!(widths, (100, 73, 100));
    let collator = SentimentCollator {
        max_words: 24,
        max_frames: 8,
        mask_probability: 0.15,
    };
    let test = poria.split("test").unwrap();
    let batch = collator.collate_clean(&poria, &test[..16]).unwrap();
    assert_eq!(batch.text_features.dim(), (16, 1, 100));
    assert_eq!(batch.audio.dim(), (16, 1, 73));
    assert_eq!(batch.video.dim(), (16, 1, 100));
    assert!(!batch.video_pad.iter().any(|&pad| pad));
    assert!(batch.labels.iter().all(|label| label.abs() <= 3.0));
    // The first row of the table.
    assert_eq!(poria.item_name(test[0]), "03bSnISJMiM/1");
    assert!((batch.labels[0] - 2.4).abs() < 1e-4);
}

#[test]
fn the_sequences_of_mmsa_become_batches() {
    let Some(formats) = shared("fixtures/formats") else {
        return;
    };
    let expected = expected(&formats);
    let used = Modalities::new(&[Modality::Text, Modality::Audio, Modality::Video]);
    let collator = SentimentCollator {
        max_words: 12,
        max_frames: 5,
        mask_probability: 0.15,
    };
    for name in ["mosi/aligned_50.pkl", "mosi/unaligned_50.pkl"] {
        let path = formats.join(name);
        let error = SentimentSet::open_sequences(&path, NonFinite::Refuse, used, word_piece());
        assert!(error.unwrap_err().to_string().contains("-inf"), "{name}");
        let set = SentimentSet::open_sequences(&path, NonFinite::Zero, used, word_piece()).unwrap();
        assert_eq!(set.warnings().len(), 3, "{:?}", set.warnings());
        assert!(set.warnings()[0].contains("of audio in split train"));
        let sizes = ["train", "valid", "test"].map(|name| set.split(name).unwrap().len());
        assert_eq!(sizes, [6, 3, 4]);
        let widths = (set.text_width(), set.audio_width(), set.video_width());
        assert_eq!(widths, (16, 5, 20));
        let content = &expected[name]["content"]["train"];
        for index in set.split("train").unwrap() {
            let sample = set.sample(index).unwrap();
            if let Some(lengths) = content["audio_lengths"].as_array() {
                assert_eq!(sample.audio.nrows(), size(&lengths[index]));
                assert_eq!(
                    sample.video.nrows(),
                    size(&content["vision_lengths"][index])
                );
            } else {
                // The mask of the tokens of the first utterance ends after four.
                let n_steps = if index == 0 { 4 } else { 6 };
                assert_eq!(sample.text_features.nrows(), n_steps);
                assert_eq!(sample.audio.nrows(), n_steps);
            }
        }
        let train = set.split("train").unwrap();
        let batch = collator.collate(&set, &train, 1).unwrap();
        assert_eq!(batch.video.dim(), (6, 5, 20));
        assert_eq!(batch.text_features.dim(), (6, 5, 16));
        for (&predict, &pad) in batch.predict_frames.iter().zip(&batch.video_pad) {
            assert!(!(predict && pad));
        }
    }
    let path = formats.join("mosi/mosi_data.py27.p2.pkl");
    let error = SentimentSet::open_sequences(&path, NonFinite::Refuse, used, word_piece());
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("use a file in the layout of MMSA"),
        "{error}"
    );
}
