//! Many short texts in one allocation.

/// A list of texts that costs four bytes a text besides the text itself.
///
/// Captions and questions come in hundreds of thousands; a `String` each would take several times
/// the size of their file. All texts together have at most 4 GiB, which holds for the content of
/// one [`TextFile`](crate::text_file::TextFile).
#[derive(Clone, Debug, Default)]
pub(crate) struct TextPool {
    text: String,
    ends: Vec<u32>,
}

impl TextPool {
    pub(crate) fn push(&mut self, text: &str) {
        self.text.push_str(text);
        self.ends
            .push(u32::try_from(self.text.len()).unwrap_or(u32::MAX));
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn get(&self, index: usize) -> Option<&str> {
        let end = *self.ends.get(index)? as usize;
        let start = match index.checked_sub(1) {
            Some(previous) => *self.ends.get(previous)? as usize,
            None => 0,
        };
        self.text.get(start..end)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).filter_map(move |index| self.get(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_back_in_order() {
        let texts = ["a", "", "日本", "a"];
        let mut pool = TextPool::default();
        for text in texts {
            pool.push(text);
        }
        assert_eq!(pool.len(), 4);
        assert_eq!(pool.iter().collect::<Vec<_>>(), texts);
        assert_eq!(pool.get(2), Some("日本"));
        assert_eq!(pool.get(4), None);
    }
}
