//! Many videos decoded in parallel, in order, with a bounded number of them in memory.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use super::frame_rule::FrameRule;
use super::source::{DecodeOptions, DecodedFrames, Decoder, FrameSource, MediaFrames};
use crate::error::DataError;

/// One video to be decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeJob {
    /// The id of the video in its data set.
    pub id: String,
    /// Where the video is.
    pub path: PathBuf,
    /// Which frames are wanted.
    pub rule: FrameRule,
}

/// A decoded video, or why it could not be decoded.
#[derive(Debug)]
pub struct DecodeResult<T> {
    /// The id of the job.
    pub id: String,
    /// What became of it.
    pub result: Result<T, DataError>,
}

/// How many videos are decoded at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeParallelism {
    /// Videos that are decoded at the same time; 0 stands for the number of processors.
    pub workers: usize,
    /// Most videos that are being decoded or have been, and are not yet delivered: the bound on
    /// memory. It is raised to 1.
    pub prefetch: usize,
}

impl Default for DecodeParallelism {
    /// All processors, and twice as many videos as processors.
    fn default() -> Self {
        Self {
            workers: 0,
            prefetch: 2 * processors(),
        }
    }
}

fn processors() -> usize {
    thread::available_parallelism().map_or(1, |count| count.get())
}

/// Called with the number of videos delivered and the number of all.
pub type DecodeProgress = Box<dyn FnMut(usize, usize) + Send>;

/// The results of [`decode_many`] in the order of the jobs.
///
/// Dropping it stops the decoding: videos that are being decoded are finished, no other is begun.
pub struct DecodeMany<T> {
    shared: Arc<Shared<T>>,
    workers: Vec<JoinHandle<()>>,
    progress: Option<DecodeProgress>,
}

impl<T> fmt::Debug for DecodeMany<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("DecodeMany")
            .field("jobs", &self.shared.jobs.len())
            .field("workers", &self.workers.len())
            .finish_non_exhaustive()
    }
}

/// What the workers and the iterator share.
struct Shared<T> {
    jobs: Vec<DecodeJob>,
    window: usize,
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    /// The next job that no worker has.
    next: usize,
    /// The next job whose result is to be delivered.
    delivered: usize,
    done: BTreeMap<usize, Result<T, DataError>>,
    stopped: bool,
}

impl<T> Shared<T> {
    /// A worker that panics does so outside the lock, so a poisoned lock guards a sound state.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, guard: MutexGuard<'a, State<T>>) -> MutexGuard<'a, State<T>> {
        self.changed
            .wait(guard)
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The next job for a worker, once the window has room for it.
    fn take(&self) -> Option<usize> {
        let mut state = self.lock();
        loop {
            if state.stopped || state.next >= self.jobs.len() {
                return None;
            }
            if state.next < state.delivered.saturating_add(self.window) {
                let job = state.next;
                state.next += 1;
                return Some(job);
            }
            state = self.wait(state);
        }
    }

    fn finish(&self, job: usize, result: Result<T, DataError>) {
        self.lock().done.insert(job, result);
        self.changed.notify_all();
    }
}

/// Decodes many videos in parallel and returns an iterator over the results, in the order of the
/// jobs.
///
/// `finish` makes of the frames what is wanted, e.g. with an
/// [`ImageTransform`](super::transform::ImageTransform); it runs on the workers, so that only its
/// result waits in memory. An error of a video is the result of that video; the others go on.
///
/// # Errors
///
/// Returns an error if the decoder cannot be used at all, or if no thread can be started.
pub fn decode_many<T, F>(
    jobs: Vec<DecodeJob>,
    decoder: Decoder,
    options: DecodeOptions,
    parallelism: DecodeParallelism,
    finish: F,
) -> Result<DecodeMany<T>, DataError>
where
    T: Send + 'static,
    F: Fn(&DecodeJob, DecodedFrames) -> Result<T, DataError> + Send + Sync + 'static,
{
    let wanted = match parallelism.workers {
        0 => processors(),
        workers => workers,
    };
    let window = parallelism.prefetch.max(1);
    let count = wanted.min(window).min(jobs.len());
    let mut sources: Vec<MediaFrames> = Vec::with_capacity(count);
    // At least one, so that a decoder that is not installed is told even for no job.
    for _ in 0..count.max(1) {
        sources.push(MediaFrames::open(decoder, options)?);
    }
    sources.truncate(count);
    start(jobs, window, sources, finish)
}

/// Starts one worker for each source.
fn start<S, T, F>(
    jobs: Vec<DecodeJob>,
    window: usize,
    sources: Vec<S>,
    finish: F,
) -> Result<DecodeMany<T>, DataError>
where
    S: FrameSource + Send + 'static,
    T: Send + 'static,
    F: Fn(&DecodeJob, DecodedFrames) -> Result<T, DataError> + Send + Sync + 'static,
{
    let shared = Arc::new(Shared {
        jobs,
        window,
        state: Mutex::new(State {
            next: 0,
            delivered: 0,
            done: BTreeMap::new(),
            stopped: false,
        }),
        changed: Condvar::new(),
    });
    let finish = Arc::new(finish);
    let mut many = DecodeMany {
        shared: Arc::clone(&shared),
        workers: Vec::new(),
        progress: None,
    };
    for mut source in sources {
        let shared = Arc::clone(&shared);
        let finish = Arc::clone(&finish);
        let worker = thread::Builder::new()
            .name("decode".to_owned())
            .spawn(move || {
                while let Some(place) = shared.take() {
                    let job = &shared.jobs[place];
                    let decode = || {
                        let frames = source.frames(&job.path, job.rule)?;
                        finish(job, frames)
                    };
                    let result = panic::catch_unwind(AssertUnwindSafe(decode));
                    let result = result.unwrap_or_else(|_| {
                        Err(DataError::item(
                            &job.path,
                            job.id.clone(),
                            "the decoder has a fault and stopped; please report it",
                        ))
                    });
                    shared.finish(place, result);
                }
            })
            .map_err(|error| DataError::reading("threads for decoding".as_ref(), error))?;
        many.workers.push(worker);
    }
    Ok(many)
}

impl<T> DecodeMany<T> {
    /// Has `progress` called after each delivery.
    #[must_use]
    pub fn with_progress(mut self, progress: DecodeProgress) -> Self {
        self.progress = Some(progress);
        self
    }

    /// Stops the workers after the videos that they are decoding.
    fn stop(&self) {
        self.shared.lock().stopped = true;
        self.shared.changed.notify_all();
    }
}

impl<T> Iterator for DecodeMany<T> {
    type Item = DecodeResult<T>;

    fn next(&mut self) -> Option<Self::Item> {
        let total = self.shared.jobs.len();
        let mut state = self.shared.lock();
        if state.delivered >= total {
            return None;
        }
        let place = state.delivered;
        let result = loop {
            if let Some(result) = state.done.remove(&place) {
                break result;
            }
            state = self.shared.wait(state);
        };
        state.delivered += 1;
        drop(state);
        self.shared.changed.notify_all();
        if let Some(progress) = &mut self.progress {
            progress(place + 1, total);
        }
        Some(DecodeResult {
            id: self.shared.jobs[place].id.clone(),
            result,
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.shared.jobs.len() - self.shared.lock().delivered;
        (left, Some(left))
    }
}

impl<T> ExactSizeIterator for DecodeMany<T> {}

impl<T> Drop for DecodeMany<T> {
    fn drop(&mut self) {
        self.stop();
        for worker in self.workers.drain(..) {
            // A worker that panicked has nothing left to do either.
            drop(worker.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::source::{RgbFrame, VideoInfo};
    use super::*;

    /// Makes one frame of the length of the name, fails for `bad`, panics for `worse`, and counts
    /// how many it has begun.
    struct Names(Arc<AtomicUsize>);

    impl FrameSource for Names {
        fn probe(&mut self, path: &Path) -> Result<VideoInfo, DataError> {
            Err(DataError::item(path, "probe", "not used here"))
        }

        fn frames(&mut self, path: &Path, _rule: FrameRule) -> Result<DecodedFrames, DataError> {
            self.0.fetch_add(1, Ordering::SeqCst);
            let name = path.to_string_lossy().into_owned();
            assert!(name != "worse", "a fault on purpose");
            if name == "bad" {
                return Err(DataError::item(path, "frame 3", "damaged"));
            }
            let width = name.len() as u32;
            let frame = RgbFrame::new(width, 1, vec![0; 3 * name.len()]).unwrap();
            Ok(DecodedFrames {
                decodable_frames: 1,
                indices: vec![0],
                frames: vec![frame],
                warnings: vec![],
            })
        }
    }

    fn jobs(names: &[&str]) -> Vec<DecodeJob> {
        names
            .iter()
            .map(|name| DecodeJob {
                id: format!("id-{name}"),
                path: PathBuf::from(name),
                rule: FrameRule::All,
            })
            .collect()
    }

    fn widths(
        jobs: Vec<DecodeJob>,
        window: usize,
        workers: usize,
    ) -> (DecodeMany<u32>, Arc<AtomicUsize>) {
        let begun = Arc::new(AtomicUsize::new(0));
        let sources = (0..workers).map(|_| Names(Arc::clone(&begun))).collect();
        let many = start(jobs, window, sources, |_job, decoded: DecodedFrames| {
            Ok(decoded.frames[0].width())
        });
        (many.unwrap(), begun)
    }

    #[test]
    fn results_come_in_the_order_of_the_jobs() {
        let names: Vec<String> = (1..200).map(|len| "x".repeat(len)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let (many, begun) = widths(jobs(&names), 7, 4);
        assert_eq!(many.len(), 199);
        let widths: Vec<u32> = many.map(|item| item.result.unwrap()).collect();
        assert_eq!(widths, (1..200).collect::<Vec<u32>>());
        assert_eq!(begun.load(Ordering::SeqCst), 199);
    }

    #[test]
    fn an_error_and_a_panic_are_the_result_of_their_video_alone() {
        let (many, _) = widths(jobs(&["a", "bad", "worse", "abc"]), 2, 2);
        let results: Vec<DecodeResult<u32>> = many.collect();
        assert_eq!(results[1].id, "id-bad");
        let message = results[1].result.as_ref().unwrap_err().to_string();
        assert!(message.contains("frame 3"), "{message}");
        let message = results[2].result.as_ref().unwrap_err().to_string();
        assert!(message.contains("id-worse"), "{message}");
        assert_eq!(*results[3].result.as_ref().unwrap(), 3);
    }

    #[test]
    fn no_more_than_the_window_is_decoded_ahead_and_dropping_stops_the_rest() {
        let (mut many, begun) = widths(jobs(&["a"; 100]), 3, 2);
        assert!(many.next().is_some());
        drop(many);
        assert!(begun.load(Ordering::SeqCst) <= 4);
    }

    #[test]
    fn progress_is_reported_for_each_video() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let (many, _) = widths(jobs(&["a", "bad"]), 3, 1);
        let many = many.with_progress(Box::new(move |done, total| {
            sender.send((done, total)).unwrap();
        }));
        assert_eq!(many.count(), 2);
        assert_eq!(receiver.iter().collect::<Vec<_>>(), [(1, 2), (2, 2)]);
    }
}
