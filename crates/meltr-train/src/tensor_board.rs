//! The event file of a run, which TensorBoard reads.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::TrainError;
use crate::record::Record;
use crate::run::io_error;

/// Name of the file.
///
/// TensorBoard looks for `tfevents` in it, and other readers for a number in the fourth part,
/// where its own writer puts the time. Here it is always the same, so that a run that goes on
/// finds its file again.
pub(crate) const EVENT_FILE: &str = "events.out.tfevents.0.meltr";

/// What the first event says about the others.
const FILE_VERSION: &[u8] = b"brain.Event:2";

/// The scalars of a run, as TensorBoard reads them: TFRecord frames around protocol buffers.
///
/// | record | tags | step |
/// |---|---|---|
/// | train | `loss/TASK`, `loss/combined`, `learning_rate`, `gradient_norm`, `time` | inner steps before it |
/// | weights | `weight/TASK` | likewise |
/// | meta | `sensitivity/TASK`, `outer_objective`, `hypergradient/norm`; `hypergradient/error` where it was audited, `hypergradient/estimated_error` where it was estimated | likewise |
/// | eval | `eval/SPLIT/METRIC` | inner steps before the evaluation |
/// | response | none: curves are no scalars | |
///
/// Values are f32, as in all such files. The wall time of an event is when the run was created
/// plus the seconds that it had taken, so pauses between two processes do not count.
///
/// # References
///
/// - `tensorflow/tensorflow`, `tensorflow/core/util/event.proto`, `summary.proto` and
///   `tensorflow/core/lib/io/record_writer.h`.
#[derive(Debug)]
pub(crate) struct EventFile {
    path: PathBuf,
    file: File,
    /// Names of the tasks, in token order.
    tasks: Vec<String>,
    /// When the run was created, in seconds since 1970.
    created: f64,
    /// Seconds that the run had taken at the last record that tells them.
    seconds: f64,
}

impl EventFile {
    /// An empty file at `path`, whatever is there.
    pub(crate) fn create(path: &Path, tasks: &[String], created: f64) -> Result<Self, TrainError> {
        let mut events = Self {
            path: path.to_owned(),
            file: File::create(path).map_err(io_error("create", path))?,
            tasks: tasks.to_owned(),
            created,
            seconds: 0.0,
        };
        events.write(&version_event(created))?;
        Ok(events)
    }

    /// Appends the scalars of a record, if it has any, in one write.
    pub(crate) fn append(&mut self, record: &Record) -> Result<(), TrainError> {
        if let Record::Train(train) = record {
            self.seconds = train.seconds;
        }
        let (step, scalars) = scalars(record, &self.tasks);
        if scalars.is_empty() {
            return Ok(());
        }
        self.write(&summary_event(self.created + self.seconds, step, &scalars))
    }

    fn write(&mut self, event: &[u8]) -> Result<(), TrainError> {
        self.file
            .write_all(&framed(event))
            .map_err(io_error("write", &self.path))
    }
}

/// The step of a record and its scalars by tag.
fn scalars(record: &Record, tasks: &[String]) -> (usize, Vec<(String, f64)>) {
    let by_task = |group: &str, values: &[f64]| -> Vec<(String, f64)> {
        tasks
            .iter()
            .zip(values)
            .map(|(task, value)| (format!("{group}/{task}"), *value))
            .collect()
    };
    match record {
        Record::Train(train) => {
            let mut scalars = by_task("loss", &train.task_losses);
            scalars.extend([
                ("loss/combined".to_owned(), train.combined_loss),
                ("learning_rate".to_owned(), train.learning_rate),
                ("gradient_norm".to_owned(), train.gradient_norm),
                ("time".to_owned(), train.seconds),
            ]);
            (train.iteration, scalars)
        }
        Record::Weights(weights) => (weights.iteration, by_task("weight", &weights.weights)),
        Record::Meta(meta) => {
            let mut scalars = by_task("sensitivity", &meta.sensitivities);
            scalars.extend([
                ("outer_objective".to_owned(), meta.outer_objective),
                ("hypergradient/norm".to_owned(), meta.hypergradient_norm),
            ]);
            let errors = [
                ("hypergradient/error", meta.certificate.audited_error),
                (
                    "hypergradient/estimated_error",
                    meta.certificate.estimated_error,
                ),
            ];
            for (tag, error) in errors {
                scalars.extend(error.map(|error| (tag.to_owned(), error)));
            }
            (meta.iteration, scalars)
        }
        Record::Eval(eval) => {
            let scalars = eval
                .metrics
                .iter()
                .map(|(metric, value)| (format!("eval/{}/{metric}", eval.split), *value))
                .collect();
            (eval.iteration, scalars)
        }
        Record::Response(response) => (response.iteration, Vec::new()),
    }
}

/// Keys of the protocol buffers' fields: number times 8, plus 1 for eight bytes, 5 for four, 0
/// for a varint, 2 for a length and as many bytes.
mod key {
    pub(super) const EVENT_WALL_TIME: u8 = 8 + 1;
    pub(super) const EVENT_STEP: u8 = 2 * 8;
    pub(super) const EVENT_FILE_VERSION: u8 = 3 * 8 + 2;
    pub(super) const EVENT_SUMMARY: u8 = 5 * 8 + 2;
    pub(super) const SUMMARY_VALUE: u8 = 8 + 2;
    pub(super) const VALUE_TAG: u8 = 8 + 2;
    pub(super) const VALUE_SIMPLE_VALUE: u8 = 2 * 8 + 5;
}

/// An event that gives the version of the file, the first one.
fn version_event(wall_time: f64) -> Vec<u8> {
    let mut event = event_at(wall_time);
    put_bytes(&mut event, key::EVENT_FILE_VERSION, FILE_VERSION);
    event
}

/// An event with scalars.
fn summary_event(wall_time: f64, step: usize, scalars: &[(String, f64)]) -> Vec<u8> {
    let mut event = event_at(wall_time);
    // A zero is what a field without a value means.
    if step > 0 {
        event.push(key::EVENT_STEP);
        put_varint(&mut event, step as u64);
    }
    let mut summary = Vec::new();
    for (tag, scalar) in scalars {
        let mut value = Vec::new();
        put_bytes(&mut value, key::VALUE_TAG, tag.as_bytes());
        value.push(key::VALUE_SIMPLE_VALUE);
        value.extend_from_slice(&(*scalar as f32).to_le_bytes());
        put_bytes(&mut summary, key::SUMMARY_VALUE, &value);
    }
    put_bytes(&mut event, key::EVENT_SUMMARY, &summary);
    event
}

fn event_at(wall_time: f64) -> Vec<u8> {
    let mut event = vec![key::EVENT_WALL_TIME];
    event.extend_from_slice(&wall_time.to_le_bytes());
    event
}

/// Appends a field of any length.
fn put_bytes(message: &mut Vec<u8>, key: u8, bytes: &[u8]) {
    message.push(key);
    put_varint(message, bytes.len() as u64);
    message.extend_from_slice(bytes);
}

/// Appends a number, seven bits a byte, the lowest first.
fn put_varint(message: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        message.push(number as u8 | 0x80);
        number >>= 7;
    }
    message.push(number as u8);
}

/// One TFRecord: length, its checksum, data, their checksum.
fn framed(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut frame = Vec::with_capacity(data.len() + 16);
    frame.extend_from_slice(&length);
    frame.extend_from_slice(&masked_crc(&length).to_le_bytes());
    frame.extend_from_slice(data);
    frame.extend_from_slice(&masked_crc(data).to_le_bytes());
    frame
}

/// The checksum as TFRecord stores it.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xA282_EAD8)
}

/// CRC-32C: the Castagnoli polynomial, its lowest bit first.
fn crc32c(bytes: &[u8]) -> u32 {
    let crc = bytes.iter().fold(u32::MAX, |crc, byte| {
        CRC_OF_BYTE[usize::from(crc as u8 ^ byte)] ^ (crc >> 8)
    });
    !crc
}

const CRC_OF_BYTE: [u32; 256] = crc_of_bytes();

const fn crc_of_bytes() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < table.len() {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ 0x82F6_3B78
            } else {
                crc >> 1
            };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use super::*;
    use crate::record::{
        CertificateRecord, EvalRecord, MetaRecord, ResponseRecord, TrainRecord, WeightsRecord,
    };

    /// The messages of a file, every frame checked.
    pub(crate) fn messages(path: &Path) -> Vec<Vec<u8>> {
        let bytes = fs::read(path).unwrap();
        let mut rest = bytes.as_slice();
        let mut messages = Vec::new();
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            let message = &rest[12..12 + length];
            assert_eq!(rest[..16 + length], framed(message));
            messages.push(message.to_vec());
            rest = &rest[16 + length..];
        }
        messages
    }

    fn train() -> Record {
        Record::Train(TrainRecord {
            iteration: 300,
            epoch: 2,
            task_losses: vec![1.0, 2.0],
            combined_loss: 3.0,
            learning_rate: 0.5,
            gradient_norm: 0.25,
            seconds: 8.0,
        })
    }

    fn meta() -> Record {
        Record::Meta(MetaRecord {
            iteration: 300,
            outer_objective: 1.5,
            task_losses: vec![1.0, 2.0],
            sensitivities: vec![0.75, -0.5],
            directional: vec![0.0, 0.0],
            hypergradient_norm: 4.0,
            anomalies: Vec::new(),
            certificate: Box::new(CertificateRecord {
                estimator: "identity".to_owned(),
                product: "forward_mode".to_owned(),
                difference_step: None,
                estimated_error: None,
                audited_error: Some(0.125),
                relative_residual: None,
                smallest_curvature: None,
                findings: Vec::new(),
                forward_passes: 1,
                backward_passes: 1,
            }),
        })
    }

    fn tags_of(record: &Record) -> Vec<(String, f64)> {
        scalars(record, &["retrieval".to_owned(), "mlm".to_owned()]).1
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_checksum_has_its_published_check_values() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        // RFC 3720, B.4: 32 bytes of zeros, of ones, rising.
        assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
        assert_eq!(crc32c(&[0xFF; 32]), 0x62A8_AB43);
        let rising: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(&rising), 0x46DD_794E);
    }

    #[test]
    fn the_bytes_are_those_of_tensorboards_own_writer() {
        // tensorboard 2.21.0: `RecordWriter.write(Event(...).SerializeToString())` with
        // `Event(wall_time=1700000000.0, file_version="brain.Event:2")`, then at 1700000000.25
        // `weight/a` 0.5 and `weight/b` -2 of step 0, then `weight/a` 0.1 of step 300.
        let golden = "1800000000000000a37f4b220900000040fc54d9411a0d627261696e2e4576656e743a32\
                      eced8f9d\
                      2d000000000000003c418afb0900001040fc54d9412a220a0f0a087765696768742f6115\
                      0000003f0a0f0a087765696768742f6215000000c062f80d35\
                      1f00000000000000514b44180900001040fc54d94110ac022a110a0f0a08776569676874\
                      2f6115cdcccc3d2b246de5";
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(EVENT_FILE);
        let tasks = ["a".to_owned(), "b".to_owned()];
        let mut events = EventFile::create(&path, &tasks, 1_700_000_000.0).unwrap();
        events.seconds = 0.25;
        for (iteration, weights) in [(0, vec![0.5, -2.0]), (300, vec![0.1])] {
            events
                .append(&Record::Weights(WeightsRecord { iteration, weights }))
                .unwrap();
        }
        assert_eq!(hex(&fs::read(&path).unwrap()), golden);
    }

    #[test]
    fn every_record_has_its_tags() {
        let tagged = |pairs: &[(&str, f64)]| -> Vec<(String, f64)> {
            pairs
                .iter()
                .map(|(tag, value)| ((*tag).to_owned(), *value))
                .collect()
        };
        assert_eq!(
            tags_of(&train()),
            tagged(&[
                ("loss/retrieval", 1.0),
                ("loss/mlm", 2.0),
                ("loss/combined", 3.0),
                ("learning_rate", 0.5),
                ("gradient_norm", 0.25),
                ("time", 8.0),
            ])
        );
        assert_eq!(
            tags_of(&meta()),
            tagged(&[
                ("sensitivity/retrieval", 0.75),
                ("sensitivity/mlm", -0.5),
                ("outer_objective", 1.5),
                ("hypergradient/norm", 4.0),
                ("hypergradient/error", 0.125),
            ])
        );
        let eval = Record::Eval(EvalRecord {
            iteration: 301,
            split: "test".to_owned(),
            n_items: 4,
            metrics: BTreeMap::from([("text_to_video.r1".to_owned(), 0.5)]),
        });
        assert_eq!(
            tags_of(&eval),
            tagged(&[("eval/test/text_to_video.r1", 0.5)])
        );
    }

    #[test]
    fn curves_are_no_scalars_and_time_goes_on_from_the_last_step() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(EVENT_FILE);
        let mut events = EventFile::create(&path, &[], 1000.0).unwrap();
        events.append(&train()).unwrap();
        events
            .append(&Record::Response(ResponseRecord {
                iteration: 300,
                at: Vec::new(),
                curves: Vec::new(),
                attention: Vec::new(),
            }))
            .unwrap();
        events.append(&meta()).unwrap();
        let times: Vec<f64> = messages(&path)
            .iter()
            .map(|message| f64::from_le_bytes(message[1..9].try_into().unwrap()))
            .collect();
        assert_eq!(times, [1000.0, 1008.0, 1008.0]);
    }

    #[test]
    fn a_long_number_takes_seven_bits_a_byte() {
        let mut message = Vec::new();
        put_varint(&mut message, u64::MAX);
        assert_eq!(message, [[0xFF_u8; 9].as_slice(), &[0x01]].concat());
    }
}
