//! Sets of raw frames with texts, from the files of VIOLET and All-in-one, from one's own videos
//! and from the embedded clips, down to the batch.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::codecs::gif::GifEncoder;
use image::{Frame, ImageFormat, Rgb, RgbImage, Rgba, RgbaImage};
use meltr_data::{
    AllInOneFiles, AllInOnePaths, AllInOneTexts, CaptionSet, ClipCheck, ClipText, CollateMode,
    DataError, DecodeOptions, Decoder, Draw, EmojiFrames, EmojiFramesConfig, FaultyItems,
    FrameCache, FrameChoice, FrameDecoding, FrameRule, FrameSource, ImageTransform, KeywordUse,
    ManifestFrames, ManifestFramesConfig, MediaFrames, NO_ANSWER, OptionPrompt, PatchMasking,
    PixelCollator, PixelSample, PixelSet, PixelTask, PixelText, RgbFrame, Split, VideoQa,
    VioletFiles, VioletPaths, VioletTexts, VisualTargets, VisualTokens, WordPiece, check_clips,
};
use ndarray::{Axis, s};
use serde_json::Value;

use crate::support::shared;

const TRAINING: CollateMode = CollateMode::Training { seed: 1 };

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn bert() -> Option<WordPiece> {
    let path = shared("data/models/bert-base-uncased-vocab.txt")?;
    Some(WordPiece::from_vocab_file(&path).unwrap())
}

fn small_vocabulary() -> WordPiece {
    let vocab = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\nc\nd\n";
    WordPiece::from_vocab_text(Path::new("vocab.txt"), vocab).unwrap()
}

/// Whether videos can be decoded here; says so if not.
fn can_decode() -> bool {
    match MediaFrames::open(Decoder::Ffmpeg, DecodeOptions::default()) {
        Ok(_) => true,
        Err(error) => {
            println!("skipped: {error}");
            false
        }
    }
}

/// An animation of 8 x 6 pixels, a gray level a frame.
fn write_gif(path: &Path, levels: &[u8]) {
    let mut bytes: Vec<u8> = Vec::new();
    {
        let mut encoder = GifEncoder::new(&mut bytes);
        for &level in levels {
            let picture = RgbaImage::from_pixel(8, 6, Rgba([level, level, level, 255]));
            encoder.encode_frame(Frame::new(picture)).unwrap();
        }
    }
    fs::write(path, bytes).unwrap();
}

fn level_of(frame: &RgbFrame) -> u8 {
    frame.data()[0]
}

fn as_frame(picture: ndarray::Array3<u8>) -> RgbFrame {
    let (height, width, _) = picture.dim();
    let samples = picture.into_iter().collect();
    RgbFrame::new(width as u32, height as u32, samples).unwrap()
}

fn caption_of(sample: &PixelSample) -> &str {
    match &sample.text {
        PixelText::Caption(caption) => caption,
        _ => panic!("another kind of text"),
    }
}

fn violet_msrvtt(folder: &Path) -> VioletPaths {
    VioletPaths {
        frames: folder.join("img_msrvtt.pkl"),
        visual_tokens: Some(folder.join("msrvtt_vq.pkl")),
        texts: VioletTexts::Captions {
            train: folder.join("train_7k.json"),
            valid: None,
            test: folder.join("test.json"),
        },
    }
}

#[test]
fn retrieval_of_violet_is_read_down_to_the_batch() {
    let (Some(folder), Some(word_piece)) = (shared("fixtures/formats/violet/_data/msrvtt"), bert())
    else {
        return;
    };
    let set = VioletFiles::open(&violet_msrvtt(&folder), word_piece, 4).unwrap();
    assert_eq!(set.task(), PixelTask::Retrieval);
    let train = set.split("train").unwrap();
    let captions = CaptionSet::open_violet(&folder.join("train_7k.json")).unwrap();
    assert_eq!(train.len(), captions.n_captions());

    let collator = PixelCollator {
        n_frames: 4,
        ..PixelCollator::violet()
    };
    let batch = collator.collate(&set, &train[..3], TRAINING).unwrap();
    assert_eq!(batch.frames.dim(), (3, 4, 3, 224, 224));
    assert_eq!(batch.hidden_patches.dim(), (3, 4, 7, 7));
    assert_eq!(batch.text_ids.dim(), (3, 25));
    assert!(batch.answers.is_empty());

    let frames = FrameCache::open(&folder.join("img_msrvtt.pkl")).unwrap();
    let tokens = VisualTokens::open(&folder.join("msrvtt_vq.pkl")).unwrap();
    let found_tokens = batch.visual_tokens.as_ref().unwrap();
    let mask = set.word_piece().special().mask;
    for (item, pair) in captions.pairs().iter().take(3).enumerate() {
        assert_eq!(set.item_name(item), pair.video_id);
        // Middles of four equal parts of five frames.
        let rule = FrameRule::Uniform { frames: 4 };
        let chosen = rule
            .indices(frames.n_frames(pair.video_id).unwrap())
            .unwrap();
        let pictures: Vec<RgbFrame> = chosen
            .iter()
            .map(|&frame| as_frame(frames.frame(pair.video_id, frame).unwrap()))
            .collect();
        let expected = ImageTransform::violet().clip(&pictures, 0).unwrap();
        assert_eq!(batch.frames.index_axis(Axis(0), item), expected);
        let all = tokens.tokens(pair.video_id).unwrap();
        let expected = all.select(Axis(0), &chosen);
        assert_eq!(found_tokens.index_axis(Axis(0), item), expected);
        let expected = set.word_piece().encode_padded(pair.caption, 25);
        assert_eq!(batch.text_ids.row(item).to_vec(), expected.ids);
        assert_eq!(batch.text_pad.row(item).to_vec(), expected.padding());
        let special = expected.special();
        for (place, special) in special.into_iter().enumerate() {
            let predicted = batch.predict_words[[item, place]];
            let expected = if predicted {
                mask
            } else {
                batch.text_ids[[item, place]]
            };
            assert_eq!(batch.masked_text_ids[[item, place]], expected);
            assert!(!(predicted && special));
        }
    }
}

#[test]
fn evaluation_of_violet_has_one_caption_a_video() {
    let (Some(folder), Some(word_piece)) = (shared("fixtures/formats/violet/_data/msrvtt"), bert())
    else {
        return;
    };
    let set = VioletFiles::open(&violet_msrvtt(&folder), word_piece, 4).unwrap();
    let captions = CaptionSet::open_violet(&folder.join("test.json")).unwrap();
    let test = set.split("test").unwrap();
    let videos: Vec<String> = test.iter().map(|&index| set.item_name(index)).collect();
    assert_eq!(videos, captions.video_ids());
    for (&index, video) in test.iter().zip(&videos) {
        let sample = set.sample(index, Draw::Evaluation).unwrap();
        let last = captions.captions_of(video).last().copied();
        assert_eq!(Some(caption_of(&sample)), last);
    }
    // One of the videos has four frames only.
    let paths = violet_msrvtt(&folder);
    let error = VioletFiles::open(&paths, set.word_piece().clone(), 5).unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("img_msrvtt.pkl: item `video7012`: has 4 frames, `n_frames` is 5"),
        "{message}"
    );
}

/// A table with two small frames for every video of a file of questions.
fn frames_for(qa: &VideoQa, folder: &Path) -> PathBuf {
    let pictures: Vec<String> = [40, 200]
        .iter()
        .map(|&level| {
            let mut bytes = Cursor::new(Vec::new());
            RgbImage::from_pixel(12, 8, Rgb([level; 3]))
                .write_to(&mut bytes, ImageFormat::Jpeg)
                .unwrap();
            STANDARD.encode(bytes.into_inner())
        })
        .collect();
    let mut videos: Vec<&str> = Split::ALL
        .into_iter()
        .flat_map(|split| qa.questions(split).map(|question| question.video))
        .collect();
    videos.sort_unstable();
    videos.dedup();
    let table: String = videos
        .iter()
        .map(|video| format!("{video}\t{}\n", pictures.join("\t")))
        .collect();
    let path = folder.join("img.tsv");
    fs::write(&path, table).unwrap();
    path
}

fn violet_questions(file: &Path, folder: &Path, word_piece: WordPiece) -> VioletFiles {
    let qa = VideoQa::open(file).unwrap();
    let paths = VioletPaths {
        frames: frames_for(&qa, folder),
        visual_tokens: None,
        texts: VioletTexts::Questions(file.to_path_buf()),
    };
    VioletFiles::open(&paths, word_piece, 2).unwrap()
}

#[test]
fn open_ended_questions_of_violet_have_their_classes() {
    let Some(data) = shared("fixtures/formats/violet/_data") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    for name in ["msvd/txt_msvd-qa.json", "tgif/txt_tgif-frame.json"] {
        let file = data.join(name);
        let qa = VideoQa::open(&file).unwrap();
        let set = violet_questions(&file, folder.path(), small_vocabulary());
        assert_eq!(set.task(), PixelTask::OpenEnded);
        assert_eq!(set.answers().len(), qa.vocabulary().len());
        let collator = PixelCollator {
            n_frames: 2,
            image_size: 32,
            visual_targets: VisualTargets::MeanColor,
            ..PixelCollator::violet()
        };
        for split in Split::ALL {
            let indices = set.split(split.name()).unwrap();
            assert_eq!(indices.len(), qa.n_questions(split), "{name}");
            let batch = collator.collate(&set, &indices, TRAINING).unwrap();
            assert_eq!(batch.task, PixelTask::OpenEnded);
            assert_eq!(batch.unknown_answers, 0);
            let expected: Vec<i64> = qa
                .questions(split)
                .map(|question| question.answer as i64)
                .collect();
            assert_eq!(batch.answers, expected, "{name}");
        }
    }
}

#[test]
fn options_of_violet_are_rows_as_the_released_code_writes_them() {
    let (Some(formats), Some(word_piece)) = (shared("fixtures/formats"), bert()) else {
        return;
    };
    let key = "violet/_data/tgif/txt_tgif-action.json";
    let expected = json(&formats.join("expected.json"));
    let folder = tempfile::tempdir().unwrap();
    let set = violet_questions(&formats.join(key), folder.path(), word_piece);
    assert_eq!(set.task(), PixelTask::MultipleChoice);
    let collator = PixelCollator {
        max_words: 40,
        n_frames: 2,
        image_size: 64,
        visual_targets: VisualTargets::None,
        ..PixelCollator::violet()
    };
    let train = set.split("train").unwrap();
    let batch = collator.collate(&set, &train[..2], TRAINING).unwrap();
    assert_eq!((batch.n_options, batch.text_ids.dim()), (5, (10, 40)));
    let text = expected[key]["option_text_0"].as_str().unwrap();
    let first = set.word_piece().encode_padded(text, 40);
    assert_eq!(batch.text_ids.row(0).to_vec(), first.ids);
    let answer = expected[key]["first"]["answer"].as_i64().unwrap();
    assert_eq!(batch.answers[0], answer);
    assert_eq!(batch.own_texts()[0] as i64, answer);
    for row in batch.predict_words.rows() {
        assert!(row.iter().any(|&predict| predict));
    }
    // The short prompt ends in the option.
    let short = PixelCollator {
        option_prompt: OptionPrompt::QuestionAndOption,
        ..collator
    };
    let batch = short
        .collate(&set, &train[..1], CollateMode::Clean)
        .unwrap();
    let first = &expected[key]["first"];
    for option in 0..5 {
        let text = format!(
            "{} {}",
            first["question"].as_str().unwrap(),
            first[format!("option_{option}")].as_str().unwrap()
        );
        let expected = set.word_piece().encode_padded(&text, 40);
        assert_eq!(batch.text_ids.row(option).to_vec(), expected.ids);
    }
    assert_eq!(batch.cut_texts, 0);
}

fn all_in_one_msrvtt(formats: &Path, videos: PathBuf) -> AllInOnePaths {
    let folder = formats.join("allinone/msrvtt");
    AllInOnePaths {
        videos,
        texts: AllInOneTexts::Msrvtt {
            annotations: folder.join("MSR_VTT.json"),
            train: folder.join("train_list_9k.txt"),
            valid: None,
            test: folder.join("val_list_jsfusion.txt"),
            test_captions: folder.join("jsfusion_val_caption_idx.pkl"),
        },
    }
}

#[test]
fn retrieval_of_all_in_one_decodes_real_videos() {
    let (Some(formats), Some(videos), Some(word_piece)) =
        (shared("fixtures/formats"), shared("data/msrvtt-10"), bert())
    else {
        return;
    };
    if !can_decode() {
        return;
    }
    let expected = json(&formats.join("expected.json"));
    let decoding = FrameDecoding::new(3, FrameChoice::AllInOne);
    let paths = all_in_one_msrvtt(&formats, videos);
    let set = AllInOneFiles::open(&paths, word_piece, decoding).unwrap();
    assert_eq!(set.split("train").unwrap().len(), 3);
    let test = set.split("test").unwrap();

    let captions = &expected["allinone/msrvtt/jsfusion_val_caption_idx.pkl"]["test_caption"];
    let mut source = MediaFrames::open(Decoder::Ffmpeg, DecodeOptions::default()).unwrap();
    for &index in &test {
        let sample = set.sample(index, Draw::Evaluation).unwrap();
        let caption = captions[set.item_name(index)].as_str().unwrap();
        assert_eq!(caption_of(&sample), caption);
        let rule = FrameRule::MiddleOfSegment { frames: 3 };
        let decoded = source.frames(set.video(index).unwrap(), rule).unwrap();
        assert_eq!(sample.frames, decoded.frames);
        // Another view of the frames, and still the caption of the test.
        let view = set.sample(index, Draw::Training { seed: 1 }).unwrap();
        assert_eq!(caption_of(&view), caption);
        assert_ne!(view.frames, sample.frames);
    }
    let all = CaptionSet::open_all_in_one(&formats.join("allinone/msrvtt/MSR_VTT.json")).unwrap();
    let drawn = set.sample(0, Draw::Training { seed: 1 }).unwrap();
    assert!(
        all.captions_of(&set.item_name(0))
            .contains(&caption_of(&drawn))
    );

    let collator = PixelCollator::all_in_one();
    let batch = collator.collate(&set, &test, CollateMode::Clean).unwrap();
    assert_eq!(batch.frames.dim(), (2, 3, 3, 224, 224));
    assert_eq!(batch.text_ids.dim(), (2, 40));
    assert!(batch.visual_tokens.is_none());
    let first = set.sample(test[0], Draw::Evaluation).unwrap();
    let expected = ImageTransform::all_in_one_test()
        .clip(&first.frames, 0)
        .unwrap();
    assert_eq!(batch.frames.index_axis(Axis(0), 0), expected);
}

#[test]
fn questions_about_videos_that_are_not_there_are_refused_when_the_set_is_opened() {
    let Some(folder) = shared("fixtures/formats/allinone/msvdqa") else {
        return;
    };
    let videos = tempfile::tempdir().unwrap();
    let paths = AllInOnePaths {
        videos: videos.path().to_path_buf(),
        texts: AllInOneTexts::Msvd {
            train: folder.join("train.jsonl"),
            valid: None,
            test: folder.join("train.jsonl"),
            answers: folder.join("msvd_answer_set.txt"),
            names: folder.join("msvd_youtube_mapping.txt"),
        },
    };
    let decoding = FrameDecoding::new(3, FrameChoice::AllInOne);
    let error = AllInOneFiles::open(&paths, small_vocabulary(), decoding).unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains(".avi`: no such file, as 8 of the 8 videos"),
        "{message}"
    );
}

#[test]
fn questions_of_msvd_have_the_classes_of_the_answer_set() {
    let Some(formats) = shared("fixtures/formats") else {
        return;
    };
    if !can_decode() {
        return;
    }
    let folder = formats.join("allinone/msvdqa");
    let expected = json(&formats.join("expected.json"));
    // The content of a file decides how it is decoded, not its name.
    let videos = tempfile::tempdir().unwrap();
    let names = fs::read_to_string(folder.join("msvd_youtube_mapping.txt")).unwrap();
    for name in names.lines().filter_map(|line| line.split(' ').next()) {
        write_gif(
            &videos.path().join(format!("{name}.avi")),
            &[0, 60, 120, 180],
        );
    }
    let paths = AllInOnePaths {
        videos: videos.path().to_path_buf(),
        texts: AllInOneTexts::Msvd {
            train: folder.join("train.jsonl"),
            valid: None,
            test: folder.join("train.jsonl"),
            answers: folder.join("msvd_answer_set.txt"),
            names: folder.join("msvd_youtube_mapping.txt"),
        },
    };
    let decoding = FrameDecoding::new(2, FrameChoice::AllInOne);
    let set = AllInOneFiles::open(&paths, small_vocabulary(), decoding).unwrap();
    assert_eq!(set.answers().len(), 5);
    let collator = PixelCollator {
        n_frames: 2,
        image_size: 32,
        ..PixelCollator::all_in_one()
    };
    let test = set.split("test").unwrap();
    let batch = collator.collate(&set, &test, TRAINING).unwrap();
    let labels = expected["allinone/msvdqa/train.jsonl"]["labels"]
        .as_array()
        .unwrap();
    let labels: Vec<i64> = labels.iter().map(|label| label.as_i64().unwrap()).collect();
    assert_eq!(batch.answers, labels);
    assert!(!batch.hidden_patches.iter().any(|&hidden| hidden));
}

#[test]
fn gifs_are_decoded_by_the_rule_for_training_and_for_evaluation() {
    if !can_decode() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let levels: Vec<u8> = (0..12).map(|frame| 20 * frame).collect();
    write_gif(&folder.path().join("g.gif"), &levels);
    write_gif(&folder.path().join("short.gif"), &levels[..3]);
    let line = |gif: &str, answer: &str| {
        format!("{{\"gif_name\": \"{gif}\", \"question\": \"a b\", \"answer\": \"{answer}\"}}\n")
    };
    let train = folder.path().join("train.jsonl");
    let test = folder.path().join("test.jsonl");
    fs::write(&train, [line("g", "two"), line("short", "one")].concat()).unwrap();
    fs::write(&test, [line("g", "three"), line("g", "one")].concat()).unwrap();
    let paths = AllInOnePaths {
        videos: folder.path().to_path_buf(),
        texts: AllInOneTexts::Tgif {
            train,
            valid: None,
            test,
            answers: None,
        },
    };
    let decoding = FrameDecoding::new(3, FrameChoice::AllInOne);
    let set = AllInOneFiles::open(&paths, small_vocabulary(), decoding).unwrap();
    assert_eq!(set.answers(), ["one", "two"]);
    // Segments of four frames: the middle one is the second.
    let sample = set.sample(0, Draw::Evaluation).unwrap();
    let found: Vec<u8> = sample.frames.iter().map(level_of).collect();
    assert_eq!(found, [20, 100, 180]);
    let mut firsts: Vec<u8> = (0..30)
        .map(|seed| level_of(&set.sample(0, Draw::Training { seed }).unwrap().frames[0]))
        .collect();
    firsts.sort_unstable();
    firsts.dedup();
    assert_eq!(firsts, [0, 20, 40]);
    // Three frames are enough for the middles of three segments and not for random ones.
    assert!(set.sample(1, Draw::Evaluation).is_ok());
    let error = set.sample(1, Draw::Training { seed: 1 }).unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("short.gif") && message.contains("need 6 frames"),
        "{message}"
    );
    let collator = PixelCollator {
        image_size: 32,
        ..PixelCollator::all_in_one()
    };
    let test = set.split("test").unwrap();
    let batch = collator.collate(&set, &test, CollateMode::Clean).unwrap();
    assert_eq!(batch.answers, [NO_ANSWER, 0]);
    assert_eq!(batch.unknown_answers, 1);
}

/// A folder with four clips and a manifest; the third is cut off.
fn own_clips() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (number, name) in ["a", "b", "c", "d"].into_iter().enumerate() {
        let levels: Vec<u8> = (0..10).map(|frame| 20 * frame + number as u8).collect();
        write_gif(&folder.path().join(format!("{name}.gif")), &levels);
    }
    let cut = folder.path().join("c.gif");
    let bytes = fs::read(&cut).unwrap();
    fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    let manifest = r#"{"id": "a", "video": "a.gif", "split": "train", "captions": ["a", "b"], "question": "c", "answer": "yes"}
{"id": "b", "video": "b.gif", "split": "test", "captions": ["c"], "question": "c", "options": ["a", "b", "c"], "answer": "c"}
{"id": "c", "video": "c.gif", "split": "train", "captions": ["d"]}
{"id": "d", "video": "d.gif", "split": "test", "question": "d", "answer": "no"}
"#;
    fs::write(folder.path().join("manifest.jsonl"), manifest).unwrap();
    folder
}

fn own_set(
    folder: &Path,
    task: PixelTask,
    faulty: FaultyItems,
) -> Result<ManifestFrames, DataError> {
    let report = check_clips(folder, ClipCheck::default())?;
    let config = ManifestFramesConfig {
        task,
        faulty,
        decoding: FrameDecoding {
            cache_bytes: 1 << 20,
            ..FrameDecoding::new(2, FrameChoice::Uniform)
        },
    };
    ManifestFrames::open(folder, &report, small_vocabulary(), config)
}

#[test]
fn own_videos_serve_the_tasks_that_their_manifest_has_texts_for() {
    if !can_decode() {
        return;
    }
    let folder = own_clips();
    let error = own_set(folder.path(), PixelTask::Retrieval, FaultyItems::Refuse).unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("1 of 4 items cannot be used (`c`"),
        "{message}"
    );
    let open = |task| own_set(folder.path(), task, FaultyItems::LeaveOut).unwrap();

    let set = open(PixelTask::Retrieval);
    assert_eq!(set.n_other(), 1);
    let names: Vec<String> = ["train", "test"]
        .into_iter()
        .map(|split| set.item_name(set.split(split).unwrap()[0]))
        .collect();
    assert_eq!(names, ["a", "b"]);
    let sample = set.sample(0, Draw::Evaluation).unwrap();
    // Middles of the halves of ten frames.
    let levels: Vec<u8> = sample.frames.iter().map(level_of).collect();
    assert_eq!((caption_of(&sample), levels), ("a", vec![40, 140]));
    // Frames that have been kept are the same without the file.
    fs::remove_file(folder.path().join("a.gif")).unwrap();
    let again = set.sample(0, Draw::Evaluation).unwrap();
    assert_eq!(again, sample);
    assert!(set.sample(1, Draw::Evaluation).is_ok());
}

#[test]
fn own_questions_are_open_or_have_options() {
    if !can_decode() {
        return;
    }
    let folder = own_clips();
    let open = |task| own_set(folder.path(), task, FaultyItems::LeaveOut).unwrap();
    let collator = PixelCollator {
        n_frames: 2,
        image_size: 32,
        visual_targets: VisualTargets::MeanColor,
        ..PixelCollator::violet()
    };
    let set = open(PixelTask::OpenEnded);
    assert_eq!(set.answers(), ["yes"]);
    let batch = collator.collate(&set, &[0, 1], CollateMode::Clean).unwrap();
    assert_eq!(batch.answers, [0, NO_ANSWER]);
    let set = open(PixelTask::MultipleChoice);
    assert_eq!(set.split("test").unwrap(), [0]);
    assert!(set.split("train").is_err());
    let batch = collator.collate(&set, &[0], CollateMode::Clean).unwrap();
    assert_eq!((batch.answers, batch.n_options), (vec![2], 3));
}

fn emoji(task: PixelTask) -> EmojiFrames {
    EmojiFrames::embedded(EmojiFramesConfig {
        task,
        n_frames: 4,
        choice: FrameChoice::AllInOne,
        text: ClipText {
            keywords: KeywordUse::Sampled,
        },
        option_seed: 0,
    })
    .unwrap()
}

#[test]
fn the_embedded_clips_become_batches_for_every_task() {
    let collator = PixelCollator {
        max_words: 24,
        n_frames: 4,
        image_size: 64,
        visual_targets: VisualTargets::MeanColor,
        option_prompt: OptionPrompt::QuestionAndOption,
        ..PixelCollator::violet()
    };
    for (task, n_options) in [
        (PixelTask::Retrieval, 1),
        (PixelTask::OpenEnded, 1),
        (PixelTask::MultipleChoice, 5),
    ] {
        let set = emoji(task);
        let test = set.split("test").unwrap();
        let batch = collator.collate(&set, &test[..6], TRAINING).unwrap();
        assert_eq!(batch.task, task);
        assert_eq!(batch.frames.dim(), (6, 4, 3, 64, 64));
        assert_eq!(batch.text_ids.dim(), (6 * n_options, 24));
        let tokens = batch.visual_tokens.as_ref().unwrap();
        assert_eq!(tokens.dim(), (6, 4, 2, 2));
        assert!(tokens.iter().all(|token| (0..512).contains(token)));
        for item in 0..6 {
            let hidden = batch.hidden_patches.slice(s![item, .., .., ..]);
            assert!(hidden.iter().any(|&hidden| hidden));
        }
        assert!(
            batch
                .unrelated
                .iter()
                .enumerate()
                .all(|(item, &other)| item != other)
        );
        assert!(batch.frames.iter().all(|value| (0.0..=1.0).contains(value)));
        assert_eq!(batch, collator.collate(&set, &test[..6], TRAINING).unwrap());
        let other = CollateMode::Training { seed: 2 };
        assert_ne!(batch, collator.collate(&set, &test[..6], other).unwrap());

        let clean = collator
            .collate(&set, &test[..6], CollateMode::Clean)
            .unwrap();
        assert_eq!(clean.masked_text_ids, clean.text_ids);
        assert!(!clean.hidden_patches.iter().any(|&hidden| hidden));
        let none = PixelCollator {
            mask_probability: 0.0,
            patch_masking: PatchMasking::None,
            ..collator.clone()
        };
        let plain = none.collate(&set, &test[..6], TRAINING).unwrap();
        assert!(!plain.predict_words.iter().any(|&predict| predict));
    }
}
