//! A vector that is cheap to clone and to change a little: chunks behind `Arc`, copied on the first write.

use std::sync::Arc;

/// Elements of a chunk. Small, so that one change copies little; large, so that a clone copies few pointers.
const CHUNK: usize = 256;

/// A persistent vector: `clone` costs one pointer for every 256 elements.
#[derive(Debug, Clone, Default)]
pub struct Chunked<T> {
    chunks: Vec<Arc<Vec<T>>>,
    len: usize,
}

impl<T: Clone> Chunked<T> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The element at `index`, if there is one.
    pub fn get(&self, index: usize) -> Option<&T> {
        self.chunks.get(index / CHUNK)?.get(index % CHUNK)
    }

    /// The element at `index` for writing; copies its chunk when another clone shares it.
    pub fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        Arc::make_mut(self.chunks.get_mut(index / CHUNK)?).get_mut(index % CHUNK)
    }

    /// Adds an element at the end.
    pub fn push(&mut self, value: T) {
        if self.len.is_multiple_of(CHUNK) {
            self.chunks.push(Arc::new(Vec::with_capacity(CHUNK)));
        }
        let last = self.chunks.last_mut().expect("a chunk was pushed when the last was full");
        Arc::make_mut(last).push(value);
        self.len += 1;
    }

    /// All elements in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flat_map(|chunk| chunk.iter())
    }
}

impl<T: Clone> FromIterator<T> for Chunked<T> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Chunked<T> {
        let mut chunked = Chunked { chunks: Vec::new(), len: 0 };
        values.into_iter().for_each(|value| chunked.push(value));
        chunked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_does_not_see_later_writes() {
        let mut numbers: Chunked<u32> = (0..1000).collect();
        let before = numbers.clone();
        *numbers.get_mut(700).unwrap() = 7;
        numbers.push(1000);
        assert_eq!((before.get(700), before.len()), (Some(&700), 1000));
        assert_eq!((numbers.get(700), numbers.get(1000)), (Some(&7), Some(&1000)));
        assert_eq!(numbers.iter().count(), 1001);
    }
}
