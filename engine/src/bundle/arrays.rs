//! Named dense arrays in safetensors files: reading with every length and type checked, writing in place.

use std::collections::HashMap;
use std::io::{ErrorKind, Read};
use std::path::Path;

use safetensors::tensor::{Dtype, Metadata, TensorInfo, TensorView, serialize};

use super::Error;
use crate::index::{self, Vectors};

/// Bytes that are decoded at once: a multiple of the size of every type.
const PIECE_BYTES: usize = 64 * 1024;

/// A longer header is refused unread: it is read before it is known whether the file is what it should be.
const HEADER_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The arrays of one file, decoded. Asking for one takes it, so that numbers are not copied.
#[derive(Debug)]
pub struct Arrays {
    file: String,
    arrays: HashMap<String, (TensorInfo, Numbers)>,
    metadata: HashMap<String, String>,
}

impl Arrays {
    /// Reads what is at `path`, so many bytes, once and in order. The matrix of the name `vectors_of` becomes
    /// [`Vectors`] as it is read, so that [`Arrays::vectors`] makes no copy of it.
    ///
    /// # Errors
    /// Not a safetensors file, one whose header disagrees with its length, or one that cannot be read.
    pub fn read(path: &Path, bytes: u64, vectors_of: Option<&str>, from: &mut impl Read) -> Result<Arrays, Error> {
        let file = &*path.file_name().unwrap_or_default().to_string_lossy();
        let wrong = |why: String| Error::format(file, why);
        let unread = |error: std::io::Error| match error.kind() {
            ErrorKind::UnexpectedEof => Error::format(file, "it ends before its arrays do"),
            _ => Error::read(path, &error),
        };
        let mut len = [0; size_of::<u64>()];
        from.read_exact(&mut len).map_err(unread)?;
        let header_bytes = u64::from_le_bytes(len);
        let after_len = bytes.saturating_sub(size_of::<u64>() as u64);
        if header_bytes > after_len.min(HEADER_BYTES_MAX) {
            let most = format!("at most {HEADER_BYTES_MAX} are read");
            return Err(wrong(format!("a header of {header_bytes} bytes in {bytes}; {most}")));
        }
        let arrays_bytes = after_len - header_bytes;
        let mut header = vec![0; header_bytes as usize];
        from.read_exact(&mut header).map_err(unread)?;
        // Checks that arrays follow on each other and are as long as their shapes say.
        let header: Metadata = serde_json::from_slice(&header).map_err(|error| wrong(format!("header: {error}")))?;
        if header.data_len() as u64 != arrays_bytes {
            let said = header.data_len();
            return Err(wrong(format!("{arrays_bytes} bytes of arrays, the header says {said}")));
        }
        let mut piece = vec![0; PIECE_BYTES];
        let mut arrays = HashMap::new();
        for name in header.offset_keys() {
            let info = header.info(&name).expect("it is one of them").clone();
            let bytes = info.data_offsets.1 - info.data_offsets.0;
            let numbers = match (info.dtype, &info.shape[..]) {
                // Without rows, nothing bounds their length.
                (Dtype::F32, &[rows, dims]) if vectors_of == Some(name.as_str()) && rows > 0 => {
                    Numbers::Vectors(read_vectors(rows, dims, from).map_err(unread)?)
                }
                _ => Numbers::read(info.dtype, bytes, from, &mut piece).map_err(unread)?,
            };
            arrays.insert(name, (info, numbers));
        }
        Ok(Arrays { file: file.to_owned(), arrays, metadata: header.metadata().clone().unwrap_or_default() })
    }

    /// Reads the file at `path`; `None` when there is none.
    ///
    /// # Errors
    /// As [`Arrays::read`].
    pub fn open(path: &Path) -> Result<Option<Arrays>, Error> {
        let unread = |error| Error::read(path, &error);
        let mut file = match std::fs::File::open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file.map_err(unread)?,
        };
        let bytes = file.metadata().map_err(unread)?.len();
        Arrays::read(path, bytes, None, &mut file).map(Some)
    }

    /// Whether there is an array of that name, not yet taken.
    pub fn has(&self, name: &str) -> bool {
        self.arrays.contains_key(name)
    }

    /// A text of the header.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn text(&self, name: &str) -> Result<&str, Error> {
        let found = self.metadata.get(name).map(String::as_str);
        found.ok_or_else(|| Error::format(&self.file, format!("no {name:?} in the header")))
    }

    /// Takes the numbers of an array, with its shape.
    ///
    /// # Errors
    /// No such array, or one of another type.
    pub fn numbers<T: Number>(&mut self, name: &str) -> Result<(Vec<T>, Vec<usize>), Error> {
        let Some((info, numbers)) = self.arrays.remove(name) else {
            return Err(Error::format(&self.file, format!("no array {name:?}")));
        };
        let (found, wanted) = (info.dtype, T::DTYPE);
        let numbers = T::of(numbers);
        let numbers =
            numbers.ok_or_else(|| Error::format(&self.file, format!("{name:?} holds {found:?}, not {wanted:?}")))?;
        Ok((numbers, info.shape))
    }

    /// Takes a vector of known length.
    ///
    /// # Errors
    /// As [`Arrays::numbers`], or another shape.
    pub fn vector<T: Number>(&mut self, name: &str, len: usize) -> Result<Vec<T>, Error> {
        let (numbers, shape) = self.numbers(name)?;
        if shape == [len] { Ok(numbers) } else { Err(self.shape(name, &shape, &[len])) }
    }

    /// Takes a matrix with a known number of rows; gives its columns too.
    ///
    /// # Errors
    /// As [`Arrays::numbers`], or another shape.
    pub fn matrix<T: Number>(&mut self, name: &str, rows: usize) -> Result<(Vec<T>, usize), Error> {
        let (numbers, shape) = self.numbers(name)?;
        match shape[..] {
            [found, columns] if found == rows => Ok((numbers, columns)),
            _ => Err(self.shape(name, &shape, &[rows])),
        }
    }

    /// Takes a matrix with a known number of rows as vectors.
    ///
    /// # Errors
    /// As [`Arrays::matrix`], or numbers that no vector may hold.
    pub fn vectors(&mut self, name: &str, rows: usize) -> Result<Vectors, Error> {
        let vectors = match self.arrays.remove(name) {
            Some((info, Numbers::Vectors(vectors))) => {
                if info.shape[0] != rows {
                    return Err(self.shape(name, &info.shape, &[rows]));
                }
                vectors
            }
            other => {
                self.arrays.extend(other.map(|array| (name.to_owned(), array)));
                let (numbers, dims) = self.matrix::<f32>(name, rows)?;
                Vectors::from_rows(&numbers, dims)
            }
        };
        vectors.map_err(|error| Error::format(&self.file, error.to_string()))
    }

    fn shape(&self, name: &str, found: &[usize], wanted: &[usize]) -> Error {
        Error::format(&self.file, format!("{name:?} has shape {found:?}, not {wanted:?}"))
    }
}

/// A number that arrays hold.
pub trait Number: Copy {
    /// Its type in the file.
    const DTYPE: Dtype;
    /// The numbers, if they are of this type.
    fn of(numbers: Numbers) -> Option<Vec<Self>>;
    /// Adds its little-endian bytes.
    fn write(self, bytes: &mut Vec<u8>);
}

macro_rules! number {
    ($($type:ty => $dtype:ident),*) => {
        /// Numbers of an array, by their type.
        #[derive(Debug)]
        pub enum Numbers {
            $(
                #[doc = concat!("`", stringify!($type), "`")]
                $dtype(Vec<$type>),
            )*
            /// A matrix of `f32` that is vectors, or why it is not.
            Vectors(std::result::Result<Vectors, index::Error>),
            /// Of a type that no array of a bundle has: passed over.
            Other,
        }

        impl Numbers {
            fn read(dtype: Dtype, bytes: usize, from: &mut impl Read, piece: &mut [u8]) -> std::io::Result<Numbers> {
                Ok(match dtype {
                    $(Dtype::$dtype => {
                        let mut numbers = Vec::with_capacity(bytes / size_of::<$type>());
                        pieces(bytes, from, piece, |piece| {
                            let (whole, _) = piece.as_chunks();
                            numbers.extend(whole.iter().map(|&bytes| <$type>::from_le_bytes(bytes)));
                        })?;
                        Numbers::$dtype(numbers)
                    })*
                    _ => {
                        pieces(bytes, from, piece, |_| ())?;
                        Numbers::Other
                    }
                })
            }
        }

        $(impl Number for $type {
            const DTYPE: Dtype = Dtype::$dtype;
            fn of(numbers: Numbers) -> Option<Vec<$type>> {
                if let Numbers::$dtype(numbers) = numbers { Some(numbers) } else { None }
            }
            fn write(self, bytes: &mut Vec<u8>) {
                bytes.extend_from_slice(&self.to_le_bytes());
            }
        })*
    };
}

number!(f32 => F32, i64 => I64, u64 => U64, i32 => I32, u32 => U32, u16 => U16, u8 => U8);

/// Reads so many rows of `f32`; past one that is none, to their end.
fn read_vectors(rows: usize, dims: usize, from: &mut impl Read) -> std::io::Result<Result<Vectors, index::Error>> {
    let bytes = dims * size_of::<f32>();
    let mut piece = vec![0; (PIECE_BYTES / bytes.max(1)).max(1) * bytes];
    let (mut row, mut vectors) = (Vec::with_capacity(dims), Vectors::with_capacity(rows, dims));
    pieces(rows * bytes, from, &mut piece, |piece| {
        for numbers in piece.chunks_exact(bytes) {
            row.clear();
            row.extend(numbers.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)));
            if let Ok(found) = &mut vectors
                && let Err(error) = found.push(&row)
            {
                vectors = Err(error);
            }
        }
    })?;
    Ok(vectors)
}

/// Reads so many bytes, a piece at a time.
fn pieces(bytes: usize, from: &mut impl Read, piece: &mut [u8], mut each: impl FnMut(&[u8])) -> std::io::Result<()> {
    let mut left = bytes;
    while left > 0 {
        let some = left.min(piece.len());
        from.read_exact(&mut piece[..some])?;
        each(&piece[..some]);
        left -= some;
    }
    Ok(())
}

/// Collects arrays and writes them as one file.
#[derive(Debug, Default)]
pub struct ArraysWriter {
    arrays: Vec<(String, Dtype, Vec<usize>, Vec<u8>)>,
    metadata: HashMap<String, String>,
}

impl ArraysWriter {
    /// Adds an array; the product of `shape` is the number of numbers.
    pub fn add<T: Number>(&mut self, name: &str, shape: &[usize], numbers: &[T]) -> &mut ArraysWriter {
        debug_assert_eq!(shape.iter().product::<usize>(), numbers.len(), "{name}");
        let mut bytes = Vec::with_capacity(size_of_val(numbers));
        numbers.iter().for_each(|&number| number.write(&mut bytes));
        self.arrays.push((name.to_owned(), T::DTYPE, shape.to_vec(), bytes));
        self
    }

    /// Adds a text to the header.
    pub fn text(&mut self, name: &str, value: &str) -> &mut ArraysWriter {
        self.metadata.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Writes the file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let views = self.arrays.iter().map(|(name, dtype, shape, bytes)| {
            let view =
                TensorView::new(*dtype, shape.clone(), bytes).map_err(|error| Error::format(name, error.to_string()));
            view.map(|view| (name.clone(), view))
        });
        let views = views.collect::<Result<Vec<_>, Error>>()?;
        let metadata = (!self.metadata.is_empty()).then(|| self.metadata.clone());
        let bytes = serialize(views, metadata)
            .map_err(|error| Error::format(&path.display().to_string(), error.to_string()))?;
        std::fs::write(path, bytes).map_err(|error| Error::read(path, &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written is read, to the bit, in pieces or at once; what is asked for is taken.
    #[test]
    fn arrays_come_back_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("all.safetensors");
        // More than two pieces, and rows that do not divide one.
        let numbers: Vec<f32> = (0..3 * PIECE_BYTES / 4).map(|at| (at as f32).sin()).collect();
        let (dims, rows) = (384, numbers.len() / 384);
        let ids: Vec<u64> = (0..numbers.len() as u64).map(|at| at * at).collect();
        ArraysWriter::default()
            .add("numbers", &[rows, dims], &numbers)
            .add("ids", &[ids.len()], &ids)
            .add("small", &[3], &[1_u16, 2, 65_535])
            .add("signed", &[2], &[i64::MIN, -1])
            .text("said", "so")
            .write(&path)
            .unwrap();
        let mut plain = Arrays::open(&path).unwrap().unwrap();
        assert_eq!((plain.text("said").unwrap(), plain.has("ids")), ("so", true));
        assert_eq!(plain.vector::<u64>("ids", ids.len()).unwrap(), ids);
        assert_eq!(plain.vector::<u16>("small", 3).unwrap(), [1, 2, 65_535]);
        assert_eq!(plain.vector::<i64>("signed", 2).unwrap(), [i64::MIN, -1]);
        assert_eq!(plain.vector::<i64>("signed", 2).unwrap_err().to_string(), "all.safetensors: no array \"signed\"");
        let bytes = std::fs::read(&path).unwrap();
        let mut asked = Arrays::read(&path, bytes.len() as u64, Some("numbers"), &mut &bytes[..]).unwrap();
        for arrays in [&mut plain, &mut asked] {
            let vectors = arrays.vectors("numbers", rows).unwrap();
            assert!((0..rows).all(|row| vectors.row(row) == &numbers[row * dims..(row + 1) * dims]));
        }
        assert!(Arrays::open(&folder.path().join("none")).unwrap().is_none());
    }
}
