//! Clips of one's own with the texts that somebody asks about them, decoded on demand.

use std::path::{Path, PathBuf};

use super::clip_decoder::{ClipDecoder, FrameDecoding, Span};
use super::set::{PixelSample, PixelSet, PixelTask, PixelText, beyond};
use crate::error::{DataError, DataErrorKind};
use crate::video_text_set::Draw;
use crate::word_piece::WordPiece;

/// A clip and its text.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnClip {
    /// Its name in messages.
    pub id: String,
    /// The video file.
    pub video: PathBuf,
    /// Where the clip starts in the video, in seconds; at the first frame if `None`.
    pub start: Option<f64>,
    /// Where it ends; at the last frame if `None`.
    pub end: Option<f64>,
    /// What is asked about it.
    pub text: PixelText,
}

/// Clips that belong to no split: what a trained model is asked about.
///
/// Frames are chosen as for an evaluation, whatever a sample is drawn for.
#[derive(Debug)]
pub struct OwnClips {
    label: PathBuf,
    clips: Vec<OwnClip>,
    task: PixelTask,
    answers: Vec<String>,
    word_piece: WordPiece,
    decoder: ClipDecoder,
}

impl OwnClips {
    /// Prepares the decoder; no video is opened yet. `label` is what errors name, `answers` the
    /// classes that answer open-ended questions.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no clip, if the texts are not of one task, or if the decoder
    /// cannot be used.
    pub fn open(
        label: &Path,
        clips: Vec<OwnClip>,
        answers: Vec<String>,
        word_piece: WordPiece,
        decoding: FrameDecoding,
    ) -> Result<Self, DataError> {
        let Some(first) = clips.first() else {
            return Err(DataError::new(label, DataErrorKind::EmptyBatch));
        };
        let task = first.text.task();
        if let Some(other) = clips.iter().find(|clip| clip.text.task() != task) {
            let reason = format!(
                "is for {}, the first clip for {task}; ask for one at a time",
                other.text.task()
            );
            return Err(DataError::item(label, other.id.as_str(), reason));
        }
        Ok(Self {
            label: label.to_path_buf(),
            task,
            clips,
            answers,
            word_piece,
            decoder: ClipDecoder::open(label, decoding)?,
        })
    }

    /// The clips.
    #[must_use]
    pub fn clips(&self) -> &[OwnClip] {
        &self.clips
    }
}

impl PixelSet for OwnClips {
    fn label(&self) -> &Path {
        &self.label
    }

    fn word_piece(&self) -> &WordPiece {
        &self.word_piece
    }

    fn task(&self) -> PixelTask {
        self.task
    }

    fn answers(&self) -> &[String] {
        &self.answers
    }

    fn item_name(&self, index: usize) -> String {
        match self.clips.get(index) {
            Some(clip) => clip.id.clone(),
            None => format!("clip {index}"),
        }
    }

    fn split(&self, name: &str) -> Result<Vec<usize>, DataError> {
        let split = name.to_owned();
        Err(DataError::new(
            &self.label,
            DataErrorKind::EmptySplit { split },
        ))
    }

    fn sample(&self, index: usize, _draw: Draw) -> Result<PixelSample, DataError> {
        let Some(clip) = self.clips.get(index) else {
            return Err(beyond(&self.label, index, self.clips.len()));
        };
        let span = Span::new(clip.start, clip.end);
        Ok(PixelSample {
            id: index,
            frames: self.decoder.frames(&clip.video, span, Draw::Evaluation)?,
            text: clip.text.clone(),
            visual_tokens: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pixels::FrameChoice;

    fn clip(id: &str, text: PixelText) -> OwnClip {
        OwnClip {
            id: id.to_owned(),
            video: PathBuf::from(format!("{id}.mp4")),
            start: None,
            end: None,
            text,
        }
    }

    fn open(clips: Vec<OwnClip>) -> Result<OwnClips, DataError> {
        let vocab = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nwave\n";
        let words = WordPiece::from_vocab_text(Path::new("vocab.txt"), vocab).unwrap();
        let decoding = FrameDecoding::new(2, FrameChoice::Uniform);
        OwnClips::open(Path::new("mine"), clips, Vec::new(), words, decoding)
    }

    #[test]
    fn clips_of_two_tasks_and_no_clips_are_refused() {
        let caption = clip("a", PixelText::Caption("wave".to_owned()));
        let question = clip(
            "b",
            PixelText::OpenQuestion {
                question: "what is it ?".to_owned(),
                answer: None,
            },
        );
        let error = open(vec![caption, question]).unwrap_err().to_string();
        assert!(
            error.contains('b') && error.contains("open_ended"),
            "{error}"
        );
        assert!(open(Vec::new()).is_err());
    }
}
