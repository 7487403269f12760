//! A vector that is cheap to clone and to change a little: chunks behind `Arc`, copied on the first write.

use std::sync::Arc;

/// Elements of a chunk. Small, so that one change copies little; large, so that a clone copies few pointers.
const CHUNK: usize = 256;

/// A persistent vector: `clone` costs one pointer for every 256 elements.
#[derive(Debug, Clone)]
pub struct Chunked<T> {
    /// Each of [`CHUNK`] elements; those beyond `len` mean nothing.
    chunks: Vec<Arc<[T]>>,
    len: usize,
}

impl<T> Default for Chunked<T> {
    fn default() -> Chunked<T> {
        Chunked { chunks: Vec::new(), len: 0 }
    }
}

impl<T: Clone + Default> Chunked<T> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The element at `index`, if there is one.
    #[inline]
    pub fn get(&self, index: usize) -> Option<&T> {
        if index < self.len { self.chunks[index / CHUNK].get(index % CHUNK) } else { None }
    }

    /// The element at `index` for writing; copies its chunk when another clone shares it.
    pub fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        if index < self.len { Arc::make_mut(&mut self.chunks[index / CHUNK]).get_mut(index % CHUNK) } else { None }
    }

    /// Adds an element at the end.
    pub fn push(&mut self, value: T) {
        if self.len.is_multiple_of(CHUNK) {
            self.chunks.push(std::iter::repeat_with(T::default).take(CHUNK).collect());
        }
        let last = self.chunks.last_mut().expect("a chunk was pushed when the last was full");
        Arc::make_mut(last)[self.len % CHUNK] = value;
        self.len += 1;
    }

    /// All elements in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flat_map(|chunk| chunk.iter()).take(self.len)
    }
}

impl<T: Clone + Default> FromIterator<T> for Chunked<T> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Chunked<T> {
        let (mut chunks, mut len, mut values) = (Vec::new(), 0, values.into_iter().fuse());
        loop {
            let mut chunk: Vec<T> = values.by_ref().take(CHUNK).collect();
            if chunk.is_empty() {
                return Chunked { chunks, len };
            }
            len += chunk.len();
            chunk.resize_with(CHUNK, T::default);
            chunks.push(chunk.into());
        }
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
        assert_eq!((before.get(700), before.len(), before.get(1000)), (Some(&700), 1000, None));
        assert_eq!((numbers.get(700), numbers.get(1000)), (Some(&7), Some(&1000)));
        assert_eq!(numbers.iter().count(), 1001);
    }
}
