//! The weights of a run on one's own clips.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use image::codecs::gif::GifEncoder;
use image::{Delay, Frame, Rgba, RgbaImage};
use meltr_data::TensorFileWriter;
use serde_json::Value;

use crate::support::{Ended, meltr, text, tiny_run};

/// A run of two steps of a row, with the plain sum and without an evaluation.
fn short_run(folder: &Path, row: &str, extra: &[&str]) -> PathBuf {
    let experiment = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../xtask/experiments")
        .join(format!("{row}.toml"));
    let out = folder.join("run");
    let command = [
        "fine-tune",
        text(&experiment),
        "--out",
        text(&out),
        "--set=train.iterations=2",
        "--set=train.eval_splits=[]",
        "--set=task.batch_size=4",
        "--set=combiner.name=sum",
    ];
    meltr(command.iter().chain(extra)).assert_status(0);
    out
}

/// Features of clips called `a`, `b` and `c`: `rows` rows of `width` numbers.
fn features(folder: &Path, rows: usize, width: usize) -> PathBuf {
    let mut writer = TensorFileWriter::new();
    for (number, id) in ["a", "b", "c"].into_iter().enumerate() {
        let value = |at: usize| ((at * (2 * number + 3)) % 17) as f32 / 8.0 - 1.0;
        writer.insert_f32(id, &[rows, width], (0..rows * width).map(value).collect());
    }
    let path = folder.join("features.safetensors");
    writer.write(&path).unwrap();
    path
}

/// A manifest of clips called `c` and `a`, which are nowhere.
fn manifest(folder: &Path) -> PathBuf {
    let path = folder.join("clips.jsonl");
    let lines = [
        r#"{"id": "c", "video": "c.mp4", "split": "test", "captions": ["crying face"]}"#,
        r#"{"id": "a", "video": "a.mp4", "split": "test", "captions": ["red heart"]}"#,
    ];
    fs::write(&path, lines.join("\n")).unwrap();
    path
}

fn ids(clips: &Value) -> Vec<&str> {
    let clips = clips.as_array().unwrap();
    clips
        .iter()
        .map(|clip| clip["id"].as_str().unwrap())
        .collect()
}

#[test]
fn clips_are_ranked_for_each_query() {
    let folder = tempfile::tempdir().unwrap();
    let run = tiny_run(folder.path());
    let features = features(folder.path(), 3, 512);
    let ask = |extra: &[&str]| -> Ended {
        let command = [
            "retrieve",
            "--run",
            text(&run),
            "--features",
            text(&features),
            "--query=water wave",
        ];
        meltr(command.iter().chain(extra))
    };
    let ended = ask(&["--query=red heart", "--json"]);
    ended.assert_status(0);
    let found = ended.json();
    assert_eq!(found["n_clips"], 3);
    let queries = found["queries"].as_array().unwrap();
    assert_eq!(queries.len(), 2);
    for query in queries {
        let clips = query["clips"].as_array().unwrap();
        let similarities: Vec<f64> = clips
            .iter()
            .map(|clip| clip["similarity"].as_f64().unwrap())
            .collect();
        assert_eq!(similarities.len(), 3);
        assert!(similarities.is_sorted_by(|a, b| a >= b), "{similarities:?}");
        let mut ids = ids(&query["clips"]);
        ids.sort_unstable();
        assert_eq!(ids, ["a", "b", "c"]);
    }
    // One of them alone has the similarity that it has among others.
    let few = ask(&["--top=1", "--json", text(&manifest(folder.path()))]);
    few.assert_status(0);
    let few = few.json();
    assert_eq!(few["n_clips"], 2);
    let best = &few["queries"][0]["clips"][0];
    let same = queries[0]["clips"]
        .as_array()
        .unwrap()
        .iter()
        .find(|clip| clip["id"] == best["id"])
        .unwrap();
    let [alone, among] = [best, same].map(|clip| clip["similarity"].as_f64().unwrap());
    assert!((alone - among).abs() < 1e-4, "{alone} {among}");

    let lines = ask(&[]);
    lines.assert_status(0);
    assert!(
        lines.stdout.contains("water wave (3 clips)"),
        "{}",
        lines.stdout
    );
}

#[test]
fn what_a_run_of_retrieval_cannot_do_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let run = tiny_run(folder.path());
    let run = text(&run);
    let narrow = features(folder.path(), 3, 16);
    let narrow = text(&narrow);
    meltr(["caption", "--run", run, "--features", narrow])
        .assert_refused(&["univl/emoji-clips-retrieval", "needs one of captioning"]);
    let clips = manifest(folder.path());
    let clips = text(&clips);
    meltr(["answer", "--run", run, "--question=why ?", clips])
        .assert_refused(&["`task.kind = \"retrieval\"`", "open-ended questions"]);
    meltr(["sentiment", "--run", run, clips]).assert_refused(&["needs one of sentiment"]);
    let query = "--query=wave";
    meltr(["retrieve", "--run", run, query]).assert_refused(&["--features FILE"]);
    meltr(["retrieve", "--run", run, query, "--features", narrow])
        .assert_refused(&[narrow, "512 features"]);
    meltr(["retrieve", "--run", narrow, query]).assert_refused(&["no config.toml"]);
    meltr(["retrieve", "--run", run, query, "nowhere.mp4"])
        .assert_refused(&["nowhere.mp4", "does not exist"]);
    let wide = features(folder.path(), 3, 512);
    let unknown = folder.path().join("other.jsonl");
    fs::write(
        &unknown,
        r#"{"id": "z", "video": "z.mp4", "split": "test"}"#,
    )
    .unwrap();
    meltr([
        "retrieve",
        "--run",
        run,
        query,
        "--features",
        text(&wide),
        text(&unknown),
    ])
    .assert_refused(&["`z`"]);
}

#[test]
fn every_clip_gets_a_caption() {
    let folder = tempfile::tempdir().unwrap();
    let run = short_run(
        folder.path(),
        "univl/emoji-clips-captioning",
        &[
            "--set=model.start=random",
            "--set=model.d_model=32",
            "--set=model.n_heads=2",
            "--set=model.d_ff=32",
            "--set=task.beam={ size = 2, max_steps = 5 }",
        ],
    );
    let features = features(folder.path(), 3, 512);
    let ended = meltr([
        "caption",
        "--run",
        text(&run),
        "--features",
        text(&features),
        "--json",
        text(&manifest(folder.path())),
    ]);
    ended.assert_status(0);
    let found = ended.json();
    assert_eq!(ids(&found["captions"]), ["c", "a"]);
    for caption in found["captions"].as_array().unwrap() {
        let words = caption["caption"].as_str().unwrap();
        assert!(words.split(' ').count() <= 5, "{words}");
    }
}

#[test]
fn utterances_have_a_sentiment() {
    let folder = tempfile::tempdir().unwrap();
    let run = short_run(folder.path(), "univl/emoji-clips-sentiment", &[]);
    let (features, clips) = (features(folder.path(), 4, 32), manifest(folder.path()));
    let ask = |extra: &[&str]| -> Ended {
        let command = ["sentiment", "--run", text(&run), text(&clips)];
        meltr(command.iter().chain(extra))
    };
    let ended = ask(&["--features", text(&features), "--json"]);
    ended.assert_status(0);
    let found = ended.json();
    assert_eq!(ids(&found["items"]), ["c", "a"]);
    for item in found["items"].as_array().unwrap() {
        assert!(item["sentiment"].as_f64().unwrap().is_finite(), "{item}");
    }
    ask(&[]).assert_refused(&["32 features", "--features FILE"]);
    let audio = ["--features", text(&features), "--audio-features", "x"];
    ask(&audio).assert_refused(&["--audio-features", "leave"]);
}

/// A GIF of four frames of one color.
fn gif(path: &Path, color: [u8; 3]) {
    let mut encoder = GifEncoder::new(File::create(path).unwrap());
    let frames = (0..4u8).map(|number| {
        let [red, green, blue] = color.map(|value| value.saturating_add(number));
        let pixels = RgbaImage::from_pixel(40, 30, Rgba([red, green, blue, 255]));
        Frame::from_parts(pixels, 0, 0, Delay::from_numer_denom_ms(100, 1))
    });
    encoder.encode_frames(frames).unwrap();
}

fn has_ffmpeg() -> bool {
    let has = Command::new("ffmpeg").arg("-version").output().is_ok();
    if !has {
        eprintln!("skipped: videos are decoded by ffmpeg, which is not installed");
    }
    has
}

#[test]
fn questions_about_videos_are_answered() {
    if !has_ffmpeg() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let run = short_run(folder.path(), "violet/clips-qa", &[]);
    let clips = folder.path().join("clips");
    fs::create_dir(&clips).unwrap();
    gif(&clips.join("red.gif"), [200, 10, 10]);
    gif(&clips.join("blue.gif"), [10, 10, 200]);
    let ask = |extra: &[&str]| -> Ended {
        let command = ["answer", "--run", text(&run), text(&clips)];
        meltr(command.iter().chain(extra))
    };
    let ended = ask(&["--question=what is it ?", "--top=2", "--json"]);
    ended.assert_status(0);
    let found = ended.json();
    assert_eq!(ids(&found["items"]), ["blue", "red"]);
    for item in found["items"].as_array().unwrap() {
        assert_eq!(item["question"], "what is it ?");
        let answers = item["answers"].as_array().unwrap();
        assert_eq!(answers.len(), 2);
        let shares: Vec<f64> = answers
            .iter()
            .map(|answer| answer["share"].as_f64().unwrap())
            .collect();
        assert!(shares[0] >= shares[1] && shares[1] > 0.0 && shares[0] <= 1.0);
        assert!(!answers[0]["answer"].as_str().unwrap().is_empty());
    }
    ask(&[]).assert_refused(&["nothing is asked about `blue`", "--question"]);
    ask(&["--question=which ?", "--option=a", "--option=b"]).assert_refused(&["leave --option"]);
}

#[test]
fn videos_are_ranked_by_their_frames() {
    if !has_ffmpeg() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let run = short_run(folder.path(), "allinone/clips-retrieval", &[]);
    let red = folder.path().join("red.gif");
    let blue = folder.path().join("blue.gif");
    gif(&red, [200, 10, 10]);
    gif(&blue, [10, 10, 200]);
    let command = [
        "retrieve",
        "--run",
        text(&run),
        "--query=red heart",
        text(&red),
        text(&blue),
    ];
    let ended = meltr(command.iter().chain(&["--json"]));
    ended.assert_status(0);
    assert_eq!(ended.json()["n_clips"], 2);
    let refused = ["--features", "x.safetensors"];
    meltr(command.iter().chain(&refused)).assert_refused(&["leave --features out"]);
}
