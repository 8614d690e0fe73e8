//! Discrete visual tokens of video frames, as a variational encoder makes them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use ndarray::Array3;

use crate::error::DataError;
use crate::frame_cache::FrameCache;
use crate::host_array::{ElementType, HostArray, StorageOrder};
use crate::inspect::{shape_text, short_repr};
use crate::pickle::{ItemId, Pickle, Value};

/// Rows and columns of the grid of tokens of one frame.
pub const TOKEN_GRID: usize = 7;

/// Number of different tokens: the vocabulary of the published encoder.
pub const TOKEN_COUNT: i64 = 8192;

/// Tokens of one frame.
const FRAME_LEN: usize = TOKEN_GRID * TOKEN_GRID;

/// The visual tokens of every video of one file, as VIOLET's `*_vq.pkl` holds them.
///
/// The file is a dict of video id to an integer array of shape `[frames, 7, 7]` with values in
/// `0..8192`. Everything is checked when the file is opened.
#[derive(Clone, Debug)]
pub struct VisualTokens {
    path: PathBuf,
    ids: Vec<String>,
    /// Id to position in `arrays`; several ids may share an array, as they may in the file.
    places: HashMap<String, usize>,
    arrays: Vec<HostArray>,
}

impl VisualTokens {
    /// Reads a pickle.
    ///
    /// # Errors
    ///
    /// Returns an error if the file is absent or damaged, or if an array is not of type `int16`,
    /// `int32` or `int64`, has another shape, or holds a number that is no token; it names the
    /// video and the place.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let mut pickle = Pickle::open(path)?;
        let mut places: Vec<(String, usize)> = Vec::new();
        let mut sources: Vec<ItemId> = Vec::new();
        {
            let mut known: HashMap<usize, usize> = HashMap::new();
            let root = pickle.root();
            let Value::Dict(entries) = root.value() else {
                let reason = format!("is a {}, expected a dict of id to tokens", root.kind());
                return Err(DataError::item(path, "top level", reason));
            };
            for (key, item) in entries {
                let Some(id) = key.text() else {
                    let reason = format!("is a {}, expected a text id", key.kind());
                    return Err(DataError::item(
                        path,
                        format!("key {}", short_repr(key)),
                        reason,
                    ));
                };
                let Value::Array(array) = item.value() else {
                    let reason = format!("is a {}, expected an array of tokens", item.kind());
                    return Err(DataError::item(path, id, reason));
                };
                let address = std::ptr::from_ref(array) as usize;
                let place = match known.get(&address) {
                    Some(&place) => place,
                    None => {
                        check(array).map_err(|reason| DataError::item(path, id, reason))?;
                        known.insert(address, sources.len());
                        sources.push(item.id());
                        sources.len() - 1
                    }
                };
                places.push((id.to_owned(), place));
            }
        }
        let mut tokens = Self {
            path: path.to_path_buf(),
            ids: Vec::new(),
            places: HashMap::new(),
            arrays: Vec::new(),
        };
        for source in sources {
            let array = pickle.take_array(source).ok_or_else(|| {
                DataError::item(path, "top level", "holds an array that cannot be read")
            })?;
            tokens.arrays.push(array);
        }
        for (id, place) in places {
            if tokens.places.insert(id.clone(), place).is_some() {
                return Err(DataError::item(path, id, "occurs twice"));
            }
            tokens.ids.push(id);
        }
        if tokens.ids.is_empty() {
            return Err(DataError::item(path, "top level", "has no entries"));
        }
        Ok(tokens)
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The ids of the videos in the order of the file.
    #[must_use]
    pub fn ids(&self) -> &[String] {
        &self.ids
    }

    /// Whether there is a video of this id.
    #[must_use]
    pub fn contains(&self, id: &str) -> bool {
        self.places.contains_key(id)
    }

    /// Number of frames of one video.
    ///
    /// # Errors
    ///
    /// Returns an error if the id is unknown.
    pub fn n_frames(&self, id: &str) -> Result<usize, DataError> {
        Ok(frames_of(self.array(id)?))
    }

    /// The tokens of one video.
    ///
    /// # Shapes
    ///
    /// - output: `[frames, 7, 7]`, values in `0..8192`.
    ///
    /// # Errors
    ///
    /// Returns an error if the id is unknown.
    pub fn tokens(&self, id: &str) -> Result<Array3<i64>, DataError> {
        let array = self.array(id)?;
        let shape = (frames_of(array), TOKEN_GRID, TOKEN_GRID);
        let values = array.to_i64_vec().unwrap_or_default();
        Array3::from_shape_vec(shape, values)
            .map_err(|error| DataError::item(&self.path, id, error.to_string()))
    }

    /// Checks that every video has as many token frames as it has images.
    ///
    /// Videos that are in one of the two files only are not compared.
    ///
    /// # Errors
    ///
    /// Returns an error that names the first video whose numbers differ.
    pub fn check_frames(&self, images: &FrameCache) -> Result<(), DataError> {
        for id in self.ids.iter().filter(|id| images.contains(id)) {
            let (tokens, images) = (self.n_frames(id)?, images.n_frames(id)?);
            if tokens != images {
                let reason = format!("the tokens have {tokens} frames, images have {images}");
                return Err(DataError::item(&self.path, id.as_str(), reason));
            }
        }
        Ok(())
    }

    fn array(&self, id: &str) -> Result<&HostArray, DataError> {
        let place = self.places.get(id).copied();
        place
            .and_then(|place| self.arrays.get(place))
            .ok_or_else(|| {
                let reason = format!("is not among the {} videos with tokens", self.ids.len());
                DataError::item(&self.path, id, reason)
            })
    }
}

fn frames_of(array: &HostArray) -> usize {
    array.shape().first().copied().unwrap_or(0)
}

fn check(array: &HostArray) -> Result<(), String> {
    let element = array.element();
    if !matches!(
        element,
        ElementType::I16 | ElementType::I32 | ElementType::I64
    ) {
        return Err(format!(
            "has dtype {element}, expected int16, int32 or int64"
        ));
    }
    if !matches!(array.shape(), &[frames, TOKEN_GRID, TOKEN_GRID] if frames > 0) {
        return Err(format!(
            "has shape {}, expected (frames, {TOKEN_GRID}, {TOKEN_GRID}) with one frame at least",
            shape_text(array.shape())
        ));
    }
    // One frame at a time, so that the check takes no more memory than the file.
    let bytes = array.c_bytes();
    for (frame, chunk) in bytes.chunks(FRAME_LEN * element.size()).enumerate() {
        let part = HostArray::new(element, vec![FRAME_LEN], StorageOrder::C, chunk.to_vec());
        let part = part.map_err(|error| error.to_string())?;
        let values = part.to_i64_vec().unwrap_or_default();
        if let Some(place) = values
            .iter()
            .position(|value| !(0..TOKEN_COUNT).contains(value))
        {
            return Err(format!(
                "frame {frame}, row {}, column {} is {}, expected a token in 0..{TOKEN_COUNT}",
                place / TOKEN_GRID,
                place % TOKEN_GRID,
                values[place]
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(shape: &[usize], values: &[i32]) -> HostArray {
        let bytes = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        HostArray::new(ElementType::I32, shape.to_vec(), StorageOrder::C, bytes).unwrap()
    }

    #[test]
    fn tokens_outside_the_vocabulary_are_named_by_frame_row_and_column() {
        let mut values = vec![8191; 2 * FRAME_LEN];
        assert_eq!(check(&array(&[2, 7, 7], &values)), Ok(()));
        values[FRAME_LEN + 8] = 8192;
        let reason = check(&array(&[2, 7, 7], &values)).unwrap_err();
        assert!(
            reason.starts_with("frame 1, row 1, column 1 is 8192"),
            "{reason}"
        );
    }

    #[test]
    fn other_grids_and_videos_without_frames_are_refused() {
        for shape in [&[0, 7, 7][..], &[1, 7, 8], &[7, 7], &[1, 1, 7, 7]] {
            let values = vec![0; shape.iter().product()];
            let reason = check(&array(shape, &values)).unwrap_err();
            assert!(reason.contains(&shape_text(shape)), "{reason}");
        }
    }
}
