//! Many videos decoded in parallel, in order, with a bounded number of them in memory.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use super::frame_rule::FrameRule;
use super::source::{BatchSource, DecodeOptions, DecodedFrames, Decoder, MediaFrames};
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
    /// memory. It is raised to 1. Short videos share runs of FFmpeg's program, `prefetch / (2
    /// workers)` of them and 16 at most, which is faster.
    pub prefetch: usize,
}

impl Default for DecodeParallelism {
    /// All processors, and sixteen times as many videos as processors.
    fn default() -> Self {
        Self {
            workers: 0,
            prefetch: 16 * processors(),
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
    workers: usize,
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

    /// The next jobs for a worker, at most `most` of them, once the window has room.
    fn take(&self, most: usize) -> Option<Range<usize>> {
        // With two shares for each worker, one can be delivered while the other is decoded.
        let share = self.window / (2 * self.workers.max(1));
        let mut state = self.lock();
        loop {
            let left = self.jobs.len() - state.next;
            if state.stopped || left == 0 {
                return None;
            }
            let end = state.delivered.saturating_add(self.window);
            let room = end.saturating_sub(state.next);
            if room > 0 {
                // The last jobs are spread over all workers.
                let fair = left.div_ceil(self.workers.max(1));
                let count = most.min(share).min(fair).min(room).max(1);
                let first = state.next;
                state.next += count;
                return Some(first..state.next);
            }
            state = self.wait(state);
        }
    }

    fn is_stopped(&self) -> bool {
        self.lock().stopped
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
    S: BatchSource + Send + 'static,
    T: Send + 'static,
    F: Fn(&DecodeJob, DecodedFrames) -> Result<T, DataError> + Send + Sync + 'static,
{
    let shared = Arc::new(Shared {
        jobs,
        window,
        workers: sources.len(),
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
                while let Some(places) = shared.take(source.batch_size()) {
                    work(&shared, &mut source, places, &*finish);
                }
            })
            .map_err(|error| DataError::reading("threads for decoding".as_ref(), error))?;
        many.workers.push(worker);
    }
    Ok(many)
}

/// Decodes the jobs at `places`, together as far as that goes well.
fn work<S, T, F>(shared: &Shared<T>, source: &mut S, places: Range<usize>, finish: &F)
where
    S: BatchSource,
    F: Fn(&DecodeJob, DecodedFrames) -> Result<T, DataError>,
{
    let jobs = &shared.jobs[places.clone()];
    let mut together: Vec<Option<DecodedFrames>> = Vec::new();
    if jobs.len() > 1 {
        let wanted: Vec<(&Path, FrameRule)> = jobs
            .iter()
            .map(|job| (job.path.as_path(), job.rule))
            .collect();
        // After a panic each job is tried alone, and tells of its own.
        let batch = panic::catch_unwind(AssertUnwindSafe(|| source.try_batch(&wanted)));
        together = batch.unwrap_or_default();
    }
    together.resize_with(jobs.len(), || None);
    for ((place, job), decoded) in places.zip(jobs).zip(together) {
        // Nobody waits for the rest any more.
        if shared.is_stopped() {
            return;
        }
        let decode = || {
            let frames = match decoded {
                Some(frames) => frames,
                None => source.frames(&job.path, job.rule)?,
            };
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
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::source::{FrameSource, RgbFrame, VideoInfo};
    use super::*;

    /// Makes one frame of the length of the name, fails for `bad`, panics for `worse`, and counts
    /// how many it has begun.
    struct Names {
        begun: Arc<AtomicUsize>,
        batch_size: usize,
    }

    fn frame_of(name: &str) -> DecodedFrames {
        let frame = RgbFrame::new(name.len() as u32, 1, vec![0; 3 * name.len()]).unwrap();
        DecodedFrames {
            decodable_frames: 1,
            indices: vec![0],
            frames: vec![frame],
            warnings: vec![],
        }
    }

    impl BatchSource for Names {
        fn batch_size(&self) -> usize {
            self.batch_size
        }

        /// Leaves every third file out, and all of them if one panics.
        fn try_batch(&mut self, wanted: &[(&Path, FrameRule)]) -> Vec<Option<DecodedFrames>> {
            assert!((2..=self.batch_size).contains(&wanted.len()));
            wanted
                .iter()
                .enumerate()
                .map(|(place, (path, _))| {
                    let name = path.to_string_lossy();
                    assert!(name != "worse", "a fault on purpose");
                    (place % 3 != 2 && name != "bad").then(|| {
                        self.begun.fetch_add(1, Ordering::SeqCst);
                        frame_of(&name)
                    })
                })
                .collect()
        }
    }

    impl FrameSource for Names {
        fn probe(&mut self, path: &Path) -> Result<VideoInfo, DataError> {
            Err(DataError::item(path, "probe", "not used here"))
        }

        fn frames(&mut self, path: &Path, _rule: FrameRule) -> Result<DecodedFrames, DataError> {
            self.begun.fetch_add(1, Ordering::SeqCst);
            let name = path.to_string_lossy().into_owned();
            assert!(name != "worse", "a fault on purpose");
            if name == "bad" {
                return Err(DataError::item(path, "frame 3", "damaged"));
            }
            Ok(frame_of(&name))
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
        batch_size: usize,
    ) -> (DecodeMany<u32>, Arc<AtomicUsize>) {
        let begun = Arc::new(AtomicUsize::new(0));
        let names = |_| Names {
            begun: Arc::clone(&begun),
            batch_size,
        };
        let sources = (0..workers).map(names).collect();
        let many = start(jobs, window, sources, |_job, decoded: DecodedFrames| {
            Ok(decoded.frames[0].width())
        });
        (many.unwrap(), begun)
    }

    #[test]
    fn results_come_in_the_order_of_the_jobs() {
        let names: Vec<String> = (1..200).map(|len| "x".repeat(len)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        for (window, batch_size) in [(7, 1), (7, 8), (80, 8), (1, 8)] {
            let (many, begun) = widths(jobs(&names), window, 4, batch_size);
            assert_eq!(many.len(), 199);
            let widths: Vec<u32> = many.map(|item| item.result.unwrap()).collect();
            assert_eq!(widths, (1..200).collect::<Vec<u32>>());
            assert_eq!(begun.load(Ordering::SeqCst), 199);
        }
    }

    #[test]
    fn an_error_and_a_panic_are_the_result_of_their_video_alone() {
        for (window, batch_size) in [(2, 1), (80, 8)] {
            let names = ["a", "bad", "worse", "abc"];
            let (many, _) = widths(jobs(&names), window, 2, batch_size);
            let results: Vec<DecodeResult<u32>> = many.collect();
            assert_eq!(results[1].id, "id-bad");
            let message = results[1].result.as_ref().unwrap_err().to_string();
            assert!(message.contains("frame 3"), "{message}");
            let message = results[2].result.as_ref().unwrap_err().to_string();
            assert!(message.contains("id-worse"), "{message}");
            assert_eq!(*results[3].result.as_ref().unwrap(), 3);
        }
    }

    #[test]
    fn the_shares_of_the_workers_leave_room_in_the_window_and_something_for_the_others() {
        let shared = |window, workers, names: &[&str]| Shared::<u32> {
            jobs: jobs(names),
            window,
            workers,
            state: Mutex::new(State {
                next: 0,
                delivered: 0,
                done: BTreeMap::new(),
                stopped: false,
            }),
            changed: Condvar::new(),
        };
        let wide = shared(64, 2, &["a"; 30]);
        let shares = std::iter::from_fn(|| wide.take(8));
        let lens: Vec<usize> = shares.map(|share| share.len()).collect();
        assert_eq!(lens, [8, 8, 7, 4, 2, 1]);
        let narrow = shared(8, 2, &["a"; 30]);
        assert_eq!(narrow.take(8), Some(0..2));
        assert_eq!(narrow.take(1), Some(2..3));
        narrow.lock().stopped = true;
        assert_eq!(narrow.take(8), None);
    }

    #[test]
    fn no_more_than_the_window_is_decoded_ahead_and_dropping_stops_the_rest() {
        let (mut many, begun) = widths(jobs(&["a"; 100]), 3, 2, 1);
        assert!(many.next().is_some());
        drop(many);
        assert!(begun.load(Ordering::SeqCst) <= 4);
    }

    #[test]
    fn progress_is_reported_for_each_video() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let (many, _) = widths(jobs(&["a", "bad"]), 3, 1, 1);
        let many = many.with_progress(Box::new(move |done, total| {
            sender.send((done, total)).unwrap();
        }));
        assert_eq!(many.count(), 2);
        assert_eq!(receiver.iter().collect::<Vec<_>>(), [(1, 2), (2, 2)]);
    }
}
